"""Downloads Fashion-MNIST to true_dataset/.

    python -m tools.fashion_mnist

Tries the installed Debian package dataset-fashion-mnist, then torchvision's download, then
apt-get, which downloads that package and unpacks it without installing it.
"""

import contextlib
import gzip
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from dataset.fashion_mnist import FILES, folder, is_complete
from helper.errors import UserError, run_script
from helper.files import make_folder, whole_file
from helper.options import Parser, positive_int

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"


def prepare(root, seconds=120):
    """Puts the files below `root` and returns a description of their origin.

    seconds: time limit of each download. Raises UserError if all fail.
    """
    if is_complete(root):
        return "already there"
    make_folder(folder(root))
    for origin, fetch in (
        ("the installed Debian package", _unpack_installed_package),
        ("torchvision's download", _download_with_torchvision),
        ("the Debian package, downloaded", _download_package),
    ):
        print(f"Fashion-MNIST: trying {origin}", flush=True)
        fetch(root, seconds)
        if is_complete(root):
            return origin
    raise UserError(
        f"Fashion-MNIST could not be downloaded: install the Debian package {DEBIAN_PACKAGE}, or "
        f"put the files {', '.join(FILES)} into {folder(root)}"
    )


def _unpack_installed_package(root, _):
    _unpack(Path("/") / DEBIAN_FOLDER, root)


def _download_with_torchvision(root, seconds):
    # In a subprocess, so that the time limit holds wherever the download hangs.
    code = "import sys, torchvision; torchvision.datasets.FashionMNIST(sys.argv[1], download=True)"
    _succeeds([sys.executable, "-c", code, str(root)], seconds)


def _download_package(root, seconds):
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return
    with tempfile.TemporaryDirectory(dir=Path(root).absolute()) as scratch:
        if not _succeeds(["apt-get", "download", DEBIAN_PACKAGE], seconds, scratch):
            # A new machine may lack package lists. Lists in a folder of ours need no root rights.
            make_folder(Path(scratch) / "cache/archives/partial")
            make_folder(Path(scratch) / "lists/partial")
            apt_get = [
                "apt-get",
                f"-oDir::State::Lists={scratch}/lists",
                f"-oDir::Cache={scratch}/cache",
                "-oAPT::Sandbox::User=",
            ]
            if not _succeeds([*apt_get, "update"], seconds, scratch):
                return
            if not _succeeds([*apt_get, "download", DEBIAN_PACKAGE], seconds, scratch):
                return
        for package in Path(scratch).glob("*.deb"):
            _succeeds(["dpkg", "-x", str(package), scratch], seconds, scratch)
        _unpack(Path(scratch) / DEBIAN_FOLDER, root)


def _succeeds(command, seconds, cwd=None):
    """Runs a command for at most `seconds`, without output, and returns whether it succeeded."""
    try:
        process = subprocess.run(
            command, cwd=cwd, timeout=seconds, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return process.returncode == 0
    except (subprocess.TimeoutExpired, OSError):
        return False


def _unpack(package_folder, root):
    for name in FILES:
        packed_file = package_folder / f"{name}.gz"
        if packed_file.is_file():
            with (
                contextlib.suppress(gzip.BadGzipFile, EOFError, zlib.error),  # damaged
                gzip.open(packed_file) as packed,
                whole_file(folder(root) / name) as file,
            ):
                shutil.copyfileobj(packed, file)


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument(
        "--root", default="true_dataset", help="folder of the data sets (default: %(default)s)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_int,
        default=120,
        help="time limit of each download (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    print(f"Fashion-MNIST: {prepare(options.root, options.seconds)}: {folder(options.root)}")


if __name__ == "__main__":
    sys.exit(run_script(main))
