"""Fashion-MNIST: 28×28 zero-padded to 32×32, three equal channels; the last 5,000 training images
are `holdout`.

`python -m tools.fashion_mnist` puts the real files under true_dataset/.
"""

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
HOLDOUT_SHARE = 12  # the last twelfth of the training images: 5,000 of 60,000


def folder(root):
    """Returns where torchvision, and so we, keep the idx files under `root`."""
    return Path(root) / "FashionMNIST" / "raw"


def load(root, split):
    """Returns an ImageSet of 32×32 images: split 'train' (0–54999), 'holdout' (55000–59999) or
    'test' (10,000).

    Raises UserError if the files are not under `root`.
    """
    prefix = "t10k" if split == "test" else "train"  # a distillation opens the test files alone
    images = _read_idx(folder(root) / f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(folder(root) / f"{prefix}-labels-idx1-ubyte")
    if images is None or labels is None or len(images) != len(labels):
        raise UserError(
            f"Fashion-MNIST is not in {folder(root)}: run  python -m tools.fashion_mnist --root "
            f"{root}"
        )
    holdout = len(images) // HOLDOUT_SHARE
    part = {"train": slice(0, -holdout), "holdout": slice(-holdout, None), "test": slice(None)}[
        split
    ]
    padded = np.pad(images[part], ((0, 0), (2, 2), (2, 2)))
    return ImageSet(
        np.repeat(padded[..., None], 3, axis=3),
        labels[part].astype(np.int64),
        CLASS_NAMES,
        grey=True,
        origin={"dataset": "fashion_mnist", "split": split},
    )


def is_complete(root):
    """Returns whether all four files are under `root`, each as long as its header says."""
    return all(_read_idx(folder(root) / name) is not None for name in FILES)


def _read_idx(path):
    """Returns the uint8 array of an idx file, None if it is missing or cut short.

    The header: two zero bytes, the type (8: uint8), the number of dimensions, then each as a
    big-endian int32.
    """
    if not path.is_file():
        return None
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) < 4 or content[2] != 8:
        return None
    start = 4 + 4 * int(content[3])
    shape = content[4:start].view(">i4")
    return content[start:].reshape(shape) if len(content) == start + np.prod(shape) else None
