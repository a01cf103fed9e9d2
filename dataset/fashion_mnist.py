"""Fashion-MNIST: 28×28 images, zero-padded to 32×32, with three equal channels.

The last 5,000 training images are the split `holdout`, for choosing settings.
`python -m tools.fashion_mnist` downloads the files to true_dataset/.
"""

import os
import shlex
from pathlib import Path

import numpy as np

from dataset.image_set import ImageSet
from helper.errors import UserError

CLASS_NAMES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
HOLDOUT_DIVISOR = 12  # the holdout is a twelfth of the training images: 5,000 of 60,000


def folder(root):
    """Folder of the idx files below the data root, as in torchvision."""
    return Path(root) / "FashionMNIST" / "raw"


def load(root, split):
    """Reads 'train' (55,000 images), 'holdout' (5,000) or 'test' (10,000) as an ImageSet.

    Raises UserError if its files are missing or truncated.
    """
    prefix = "t10k" if split == "test" else "train"
    images = _read_idx(folder(root) / f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(folder(root) / f"{prefix}-labels-idx1-ubyte")
    if images is None or labels is None or len(images) != len(labels):
        raise missing_error(root)
    first_holdout = len(images) - len(images) // HOLDOUT_DIVISOR
    if split == "train":
        images, labels = images[:first_holdout], labels[:first_holdout]
    elif split == "holdout":
        images, labels = images[first_holdout:], labels[first_holdout:]
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return ImageSet(
        np.repeat(padded[..., None], 3, axis=3),
        labels.astype(np.int64),
        CLASS_NAMES,
        grey=True,
        origin={"dataset": "fashion_mnist", "split": split},
    )


def missing_error(root):
    """The UserError for missing or truncated files below `root`."""
    command = f"python -m tools.fashion_mnist --root {shlex.quote(str(root))}"
    repository = Path(__file__).resolve().parent.parent
    if Path.cwd() != repository:  # where -m finds the command
        path = shlex.quote(os.path.abspath(root))
        command = f"cd {repository} && python -m tools.fashion_mnist --root {path}"
    archives = ""
    if any(folder(root).glob("*-ubyte.gz")):
        archives = " (only archives: unpack them with gunzip)"
    return UserError(
        f"Fashion-MNIST is not in {folder(root)}{archives}: give --data_root FOLDER, or run  "
        f"{command}"
    )


def is_complete(root):
    """Whether all four files are below `root`, each as long as its header says."""
    return all(_read_idx(folder(root) / name) is not None for name in FILES)


def _read_idx(path):
    """Reads the uint8 array of an idx file; None if the file is missing or truncated.

    Header: two zero bytes, the type (8: uint8), the number of dimensions, and each dimension as a
    big-endian int32.
    """
    if not path.is_file():
        return None
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) < 4 or content[2] != 8 or len(content) < (start := 4 + 4 * int(content[3])):
        return None
    shape = content[4:start].view(">i4")
    if len(content) != start + np.prod(shape):
        return None
    return content[start:].reshape(shape)
