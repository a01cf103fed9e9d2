"""Handwritten digits as a folder of images: real ones of other classes, to Fashion-MNIST what
Places365 is to ImageNet.

    python -m tools.digits true_dataset/digits

Writes the 1,797 scans of 8×8 pixels that scikit-learn ships (pip install scikit-learn), enlarged to
32×32, a folder a digit. `train_student.py --train_data FOLDER --ignore_labels` trains on them.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.image_writer import ImageWriter
from helper.errors import UserError, run
from helper.files import make_folder
from helper.options import Parser

SIZE = 32  # pixels
_BRIGHTEST = 16  # of the scans' grey levels


def write(folder):
    """Writes the digits below `folder`, grey PNG files as `3/00012.png`, and returns how many there
    are.

    Raises UserError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    scans, labels = load_digits(return_X_y=True)
    scans = (scans.reshape(-1, 8, 8) * (255 / _BRIGHTEST)).round().astype(np.uint8)
    with ImageWriter("png") as writer:
        for label in range(10):
            own = make_folder(Path(folder) / str(label))
            for index, scan in enumerate(scans[labels == label]):
                image = Image.fromarray(scan).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                writer.put(own / f"{index:05d}.png", np.asarray(image))
    return len(scans)


def main(argv=None):
    """Writes the folder and says so."""
    parser = Parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER")
    options = parser.parse_args(argv)
    print(f"{options.folder}: {write(options.folder)} digits")


if __name__ == "__main__":
    sys.exit(run(main))
