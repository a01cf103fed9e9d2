"""How far two folders of generated images are apart, pixel by pixel: `python -m tools.compare
FOLDER FOLDER`.

The same settings on another device, or with another batch size, round differently: most pixels are
equal and a few differ by one grey level. Larger differences say that something else differs.
"""

import sys
from pathlib import Path

import numpy as np

from dataset.image_set import decode
from helper.errors import UserError, run
from helper.options import Parser


def differences(first, second):
    """Returns how often each absolute difference of pixels occurs, int64 (256,), over the images
    that both have.

    Images are paired by their path below the folder. Raises UserError if no image has a partner or
    sizes differ.
    """
    first, second = Path(first), Path(second)
    pairs = [(path, second / path.relative_to(first)) for path in sorted(first.glob("*/*.*"))]
    pairs = [pair for pair in pairs if pair[1].is_file()]
    if not pairs:
        raise UserError(
            f"{first} and {second} have no image in common: give two sets of the same classes"
        )
    counts = np.zeros(256, np.int64)
    for a, b in pairs:
        one, other = (np.asarray(decode(path), np.int16) for path in (a, b))
        if one.shape != other.shape:
            raise UserError(
                f"{a} and {b} differ in size: {one.shape[1]} and {other.shape[1]} pixels wide"
            )
        counts += np.bincount(np.abs(one - other).ravel(), minlength=256)
    return counts


def main(argv=None):
    """Prints the shares; the exit code is 2 if more than --tolerance of the values differ by more
    than one level.
    """
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs=2, metavar="FOLDER")
    parser.add_argument("--tolerance", type=float, default=0.01, help="share (default: 0.01)")
    options = parser.parse_args(argv)
    counts = differences(*options.folders)
    shares = counts / counts.sum()
    print(
        f"equal {shares[0]:.2%}, one level apart {shares[1]:.2%}, more {shares[2:].sum():.3%}, "
        f"at most {np.flatnonzero(counts)[-1]} levels"
    )
    if shares[2:].sum() > options.tolerance:
        raise UserError(
            f"{options.folders[0]} and {options.folders[1]} differ in more than "
            f"{options.tolerance:.0%} of "
            "the pixels' values: other settings, other weights, or a faulty device"
        )
    return shares


if __name__ == "__main__":
    sys.exit(run(main))
