"""Writes handwritten digits as an image folder, one folder per digit.

    python -m tools.digits true_dataset/digits

The 1,797 scans of scikit-learn, 8×8 pixels, are enlarged to 32×32. As real images of other classes
they are to Fashion-MNIST what Places365 is to ImageNet: train on them with
`train_student.py --train_data FOLDER --ignore_labels`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.image_writer import ImageWriter
from helper.errors import UserError, run_script
from helper.files import make_folder
from helper.options import Parser

SIZE = 32  # pixels
MAX_LEVEL = 16  # white in the scans


def write_digits(folder):
    """Writes the digits as grey PNG files, such as 3/00012.png, and returns their number.

    Raises UserError if scikit-learn is not installed, or the folder holds other files.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits are a part of scikit-learn: pip install scikit-learn") from None
    scans, labels = load_digits(return_X_y=True)
    scans = (scans.reshape(-1, 8, 8) * (255 / MAX_LEVEL)).round().astype(np.uint8)
    names = {f"{label}/{index:05d}.png" for label in range(10) for index in range(len(scans))}
    for file in Path(folder).rglob("*"):
        if file.is_file() and str(file.relative_to(folder)) not in names:
            raise UserError(f"{folder} holds other files, such as {file}: choose another folder")
    with ImageWriter("png") as writer:
        for label in range(10):
            class_folder = make_folder(Path(folder) / str(label))
            for index, scan in enumerate(scans[labels == label]):
                image = Image.fromarray(scan).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
                writer.put(class_folder / f"{index:05d}.png", np.asarray(image))
    return len(scans)


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="folder to write")
    options = parser.parse_args(argv)
    print(f"{options.folder}: {write_digits(options.folder)} digits")


if __name__ == "__main__":
    sys.exit(run_script(main))
