"""Compares two folders of generated images pixel by pixel.

    python -m tools.compare FOLDER FOLDER

With the same settings on another device, or with another batch size, most values are equal and a
few differ by one level because of rounding. Larger differences have another cause.
"""

import sys
from pathlib import Path

import numpy as np

from dataset.image_set import decode
from dataset.pack import refuse_pack
from dataset.paths import Paths
from dataset.scan import LeftOut, walk
from helper.errors import UserError, note, run_script
from helper.options import Parser, fraction


def differences(folder, other_folder):
    """(Histogram, int64 (256,), of the absolute differences between the images of two folders,
    number of pairs).

    Images are paired by their path below the folder; a note counts those in one folder only. Raises
    UserError if there are no pairs, or the images of a pair differ in size.
    """
    folder, other_folder = Path(folder), Path(other_folder)
    for path in (folder, other_folder):
        refuse_pack(path)
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: give two folders of images")
    names = images_below(folder), images_below(other_folder)
    paths = sorted(names[0] & names[1])
    if not paths and names[0] and names[1]:
        stems = [{path.with_suffix("") for path in group} for group in names]
        if stems[0] & stems[1]:
            endings = [min(path.suffix for path in group) for group in names]
            raise UserError(
                f"the images of {folder} and {other_folder} have the same names but other formats, "
                f"{endings[0]} and {endings[1]}: generate both in one (synthesize_dit.py --format)"
            )
    if not paths:
        raise UserError(
            f"{folder} and {other_folder} have no images in common: give two folders of the same "
            "classes"
        )
    histogram = np.zeros(256, np.int64)
    for path in paths:
        image = np.asarray(decode(folder / path), np.int16)
        other = np.asarray(decode(other_folder / path), np.int16)
        if image.shape != other.shape:
            raise UserError(
                f"{folder / path} and {other_folder / path} differ in size: {image.shape[1]} and "
                f"{other.shape[1]} pixels wide"
            )
        histogram += np.bincount(np.abs(image - other).ravel(), minlength=256)
    for path, only in ((folder, names[0] - names[1]), (other_folder, names[1] - names[0])):
        if only:
            note(f"not compared: {len(only)} in {path} only, such as {min(only)}")
    return histogram, len(paths)


def images_below(folder):
    """The paths of all images below a folder, relative to it."""
    return {Path(file).relative_to(folder) for file in Paths.in_folders(walk([folder], LeftOut()))}


def main(argv=None):
    """Prints and returns the fraction of values for each difference.

    Raises UserError if more than --tolerance of the values differ by more than one level.
    """
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs=2, metavar="FOLDER")
    parser.add_argument(
        "--tolerance",
        type=fraction,
        default=0.01,
        help="accepted fraction of values that differ by more than one level, exit code 2 above "
        "it (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    histogram, pairs = differences(*options.folders)
    fractions = histogram / histogram.sum()
    print(
        f"{pairs} images: equal {fractions[0]:.2%}, one level apart {fractions[1]:.2%}, more "
        f"{fractions[2:].sum():.3%}, at most {np.flatnonzero(histogram)[-1]} levels"
    )
    if fractions[2:].sum() > options.tolerance:
        raise UserError(
            f"{options.folders[0]} and {options.folders[1]} differ in more than "
            f"{options.tolerance:.0%} of the values: other settings, other weights, or a faulty "
            "device"
        )
    return fractions


if __name__ == "__main__":
    sys.exit(run_script(main))
