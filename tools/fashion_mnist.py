"""Puts the real Fashion-MNIST files under true_dataset/: `python -m tools.fashion_mnist`.

Sources, in this order: Debian's package dataset-fashion-mnist where it is installed, torchvision's
download, that package unpacked in a temporary folder.
"""

import gzip
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dataset.fashion_mnist import FILES, folder, is_complete
from helper.errors import UserError, run
from helper.files import make_folder, whole_file
from helper.options import Parser, positive_int

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"


def prepare(root, seconds=120):
    """Puts the real files under `root`, from the nearest source that has them, and returns that
    source's name.

    `seconds` limits torchvision's download. Raises UserError if no source has the files.
    """
    if is_complete(root):
        return "already there"
    make_folder(folder(root))
    for source, fetch in (
        ("Debian's package", _from_installed_package),
        ("torchvision's download", _from_torchvision),
        ("Debian's package, unpacked on the side", _from_downloaded_package),
    ):
        print(f"Fashion-MNIST: trying {source}", flush=True)
        fetch(root, seconds)
        if is_complete(root):
            return source
    raise UserError(
        f"Fashion-MNIST could not be had: install Debian's package {DEBIAN_PACKAGE}, or put the "
        "idx files "
        f"{', '.join(FILES)} into {folder(root)}"
    )


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
            # A new machine has no package lists, or old ones; lists of our own need no
            # administrator.
            own = [
                f"-oDir::State::Lists={scratch}/lists",
                f"-oDir::Cache={scratch}/cache",
                "-oAPT::Sandbox::User=",
            ]
            make_folder(Path(scratch) / "cache/archives/partial")
            make_folder(Path(scratch) / "lists/partial")
            if not (
                _quietly(["apt-get", *own, "update"], seconds, cwd=scratch)
                and _quietly(["apt-get", *own, "download", DEBIAN_PACKAGE], seconds, cwd=scratch)
            ):
                return
        for package in Path(scratch).glob("*.deb"):
            _quietly(["dpkg", "-x", str(package), scratch], seconds, cwd=scratch)
        _unpack(Path(scratch) / DEBIAN_FOLDER, root)


def _quietly(command, seconds, cwd):
    """Runs `command` for at most `seconds` and returns whether it succeeded."""
    try:
        done = subprocess.run(
            command, cwd=cwd, timeout=seconds, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return done.returncode == 0
    except (subprocess.TimeoutExpired, OSError):
        return False


def _unpack(source, root):
    for name in FILES:
        if (source / f"{name}.gz").is_file():
            with (
                gzip.open(source / f"{name}.gz") as packed,
                whole_file(folder(root) / name) as file,
            ):
                shutil.copyfileobj(packed, file)


def main(argv=None):
    """Prepares the real files and prints where they came from."""
    parser = Parser(__doc__)
    parser.add_argument("--root", default="true_dataset")
    parser.add_argument(
        "--seconds", type=positive_int, default=120, help="time limit of a download (default: 120)"
    )
    options = parser.parse_args(argv)
    print(f"Fashion-MNIST: {prepare(options.root, options.seconds)}: {folder(options.root)}")


if __name__ == "__main__":
    sys.exit(run(main))
