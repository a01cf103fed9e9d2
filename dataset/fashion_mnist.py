"""Fashion-MNIST: 28×28 zero-padded to 32×32, three equal channels; the last 5,000 training images are `holdout`.

`python -m dataset.fashion_mnist` puts the real files under true_dataset/: those of Debian's package
dataset-fashion-mnist where it is installed, else torchvision's download, else that package unpacked on the side.
"""

import gzip
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dataset.image_set import ImageSet
from helper.errors import UserError, run
from helper.files import make_folder, whole_file
from helper.options import Parser, positive_int

CLASS_NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"
HOLDOUT_SHARE = 12  # the last twelfth of the training images: 5,000 of 60,000


def folder(root):
    """Returns where torchvision, and so we, keep the idx files under `root`."""
    return Path(root) / "FashionMNIST" / "raw"


def load(root, split):
    """Returns an ImageSet of 32×32 images: split 'train' (0–54999), 'holdout' (55000–59999) or 'test' (10,000).

    Raises UserError if the files are not under `root`.
    """
    prefix = "t10k" if split == "test" else "train"  # a distillation opens the test files alone
    images = _read_idx(folder(root) / f"{prefix}-images-idx3-ubyte")
    labels = _read_idx(folder(root) / f"{prefix}-labels-idx1-ubyte")
    if images is None or labels is None or len(images) != len(labels):
        raise UserError(f"Fashion-MNIST is not in {folder(root)}: run  python -m dataset.fashion_mnist --root {root}")
    holdout = len(images) // HOLDOUT_SHARE
    part = {"train": slice(0, -holdout), "holdout": slice(-holdout, None), "test": slice(None)}[split]
    padded = np.pad(images[part], ((0, 0), (2, 2), (2, 2)))
    return ImageSet(np.repeat(padded[..., None], 3, axis=3), labels[part].astype(np.int64), CLASS_NAMES, grey=True,
                    origin={"dataset": "fashion_mnist", "split": split})


def is_complete(root):
    """Returns whether all four files are under `root`, each as long as its header says."""
    return all(_read_idx(folder(root) / name) is not None for name in FILES)


def _read_idx(path):
    """Returns the uint8 array of an idx file, None if it is missing or cut short.

    The header: two zero bytes, the type (8: uint8), the number of dimensions, then each as a big-endian int32.
    """
    if not path.is_file():
        return None
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) < 4 or content[2] != 8:
        return None
    start = 4 + 4 * int(content[3])
    shape = content[4:start].view(">i4")
    return content[start:].reshape(shape) if len(content) == start + np.prod(shape) else None


def prepare(root, seconds=120):
    """Puts the real files under `root`, from the nearest source that has them, and returns that source's name.

    `seconds` limits torchvision's download. Raises UserError if no source has the files.
    """
    if is_complete(root):
        return "already there"
    make_folder(folder(root))
    for source, fetch in (("Debian's package", _from_installed_package), ("torchvision's download", _from_torchvision),
                          ("Debian's package, unpacked on the side", _from_downloaded_package)):
        print(f"Fashion-MNIST: trying {source}", flush=True)
        fetch(root, seconds)
        if is_complete(root):
            return source
    raise UserError(f"Fashion-MNIST could not be had: install Debian's package {DEBIAN_PACKAGE}, or put the idx files "
                    f"{', '.join(FILES)} into {folder(root)}")


def _from_installed_package(root, _):
    _unpack(Path("/") / DEBIAN_FOLDER, root)


def _from_torchvision(root, seconds):
    # In a process of its own: the time limit then holds wherever the download hangs.
    code = "import sys, torchvision; torchvision.datasets.FashionMNIST(sys.argv[1], download=True)"
    _quietly([sys.executable, "-c", code, str(root)], seconds, cwd=None)


def _from_downloaded_package(root, seconds):
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return
    with tempfile.TemporaryDirectory(dir=Path(root).absolute()) as scratch:
        if not _quietly(["apt-get", "download", DEBIAN_PACKAGE], seconds, cwd=scratch):
            # A new machine has no package lists, or old ones; lists of our own need no administrator.
            own = [f"-oDir::State::Lists={scratch}/lists", f"-oDir::Cache={scratch}/cache", "-oAPT::Sandbox::User="]
            make_folder(Path(scratch) / "cache/archives/partial")
            make_folder(Path(scratch) / "lists/partial")
            if not (_quietly(["apt-get", *own, "update"], seconds, cwd=scratch)
                    and _quietly(["apt-get", *own, "download", DEBIAN_PACKAGE], seconds, cwd=scratch)):
                return
        for package in Path(scratch).glob("*.deb"):
            _quietly(["dpkg", "-x", str(package), scratch], seconds, cwd=scratch)
        _unpack(Path(scratch) / DEBIAN_FOLDER, root)


def _quietly(command, seconds, cwd):
    """Runs `command` for at most `seconds` and returns whether it succeeded."""
    try:
        done = subprocess.run(command, cwd=cwd, timeout=seconds, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return done.returncode == 0
    except (subprocess.TimeoutExpired, OSError):
        return False


def _unpack(source, root):
    for name in FILES:
        if (source / f"{name}.gz").is_file():
            with gzip.open(source / f"{name}.gz") as packed, whole_file(folder(root) / name) as file:
                shutil.copyfileobj(packed, file)


def main(argv=None):
    """Prepares the real files and prints where they came from."""
    parser = Parser(__doc__)
    parser.add_argument("--root", default="true_dataset")
    parser.add_argument("--seconds", type=positive_int, default=120, help="time limit of a download (default: 120)")
    options = parser.parse_args(argv)
    print(f"Fashion-MNIST: {prepare(options.root, options.seconds)}: {folder(options.root)}")


if __name__ == "__main__":
    sys.exit(run(main))
