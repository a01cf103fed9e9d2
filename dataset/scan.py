"""Scanning of image folders: which files belong to a set, and what is left out.

Every reader of folders uses `scan` and `walk`, so that all of them see the same images.
"""

import contextlib
import os
import re
from bisect import bisect_left

from helper.errors import REMEDIES, UserError

# torchvision's image files
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
# Image files that are not read, but counted
OTHER_EXTENSIONS = tuple(
    ".avif .exr .gif .hdr .heic .heif .ico .j2k .jfif .jp2 .jpe .jxl .pbm .pcx .pnm .svg .tga"
    " .xbm".split()
)
CONTACT_SHEET = "contact_sheet.png"  # files with this ending are not part of a set
# Folders that other programs leave in any folder; hidden ones are skipped anyway.
FOREIGN_FOLDERS = {
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "@Recycle",
    "@Recently-Snapshot",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
}
# Both spellings spare `lower` for almost all of a million files.
_ENDINGS = tuple(os.fsencode(text) for e in EXTENSIONS for text in (e, e.upper()))
_OTHER_ENDINGS = tuple(map(os.fsencode, OTHER_EXTENSIONS))
# An image with a further ending: x.png.crdownload, x.jpg~, x.jpg?w=640, x.jpg_large
_UNFINISHED = re.compile(
    b"(" + b"|".join(map(re.escape, map(os.fsencode, EXTENSIONS))) + rb")([.~][^.]*|[^.~0-9a-z].*)$"
)
_SHEET = os.fsencode(CONTACT_SHEET)


class LeftOut(dict):
    """What a scan leaves out: {reason: (number of files or folders, the first of them)}."""

    def add(self, reason, path, count=1):
        """Counts `count` more, of which `path` is the first; reason: such as 'hidden files'."""
        earlier, first = self.get(reason, (0, os.fsdecode(path)))
        self[reason] = earlier + count, first

    def __str__(self):
        return "; ".join(
            f"{reason}: {count}, such as {first}" for reason, (count, first) in self.items()
        )


def scan(folder, left_out):
    """The sorted names of the images (bytes) and of the subfolders (strings) in a folder.

    Links are followed. No file is opened or looked up, for a folder may hold a million images.
    left_out: LeftOut, to which all else is added that could be meant as images of the set.
    Raises UserError if the folder cannot be read.
    """
    files, subfolders = [], []
    with _reading(folder), os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            # A link with an image's name is taken for an image: looking up a million links takes
            # minutes on a network file system.
            if entry.is_file(follow_symlinks=False) or (
                entry.is_symlink() and entry.name.endswith(_ENDINGS)
            ):
                files.append(entry.name)
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                if entry.is_symlink() and _leads_up(entry.path):
                    left_out.add("links to a folder above", entry.path)
                else:
                    subfolders.append(os.fsdecode(entry.name))
            elif entry.is_symlink() and not os.path.exists(entry.path):
                left_out.add("broken links", entry.path)
            elif entry.name.lower().endswith(_ENDINGS):
                left_out.add("pipes or other special files", entry.path)

    images = [name for name in files if name.endswith(_ENDINGS) and not name.endswith(_SHEET)]
    if len(images) < len(files):
        for name in files:
            if name.endswith(_ENDINGS):
                continue
            if name.lower().endswith(_ENDINGS):  # such as .Jpg
                images.append(name)
            elif name.lower().endswith(_OTHER_ENDINGS):
                path = os.path.join(os.fsencode(folder), name)
                left_out.add("images of formats that are not read", path)
            elif b"." not in name[1:] or _UNFINISHED.search(name.lower()):
                path = os.path.join(os.fsencode(folder), name)
                left_out.add("files without the ending of an image", path)
    images.sort()
    hidden = images[bisect_left(images, b".") : bisect_left(images, b"/")]  # "/" comes after "."
    if hidden:
        path = os.path.join(os.fsencode(folder), hidden[0])
        left_out.add("hidden files", path, len(hidden))
        images = [name for name in images if not name.startswith(b".")]
    for name in subfolders:
        if _is_skipped(name):
            left_out.add("hidden or foreign folders", os.path.join(folder, name))
    return images, sorted(name for name in subfolders if not _is_skipped(name))


def is_without_images(folder):
    """Whether a folder holds files, none of them an image, and no folder: annotations, for example.

    An empty folder may be a class. Raises UserError if the folder cannot be read.
    """
    others = False
    with _reading(folder), os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:  # the first one mostly is an image
            name = entry.name.lower()
            unclear = b"." not in name[1:] or _UNFINISHED.search(name)
            if name.endswith(_ENDINGS + _OTHER_ENDINGS) or unclear or entry.is_dir():
                return False
            others = others or not name.startswith(b".")
    return others


def _is_skipped(name):
    """Whether a subfolder of this name never belongs to a set."""
    return name.startswith(".") or name in FOREIGN_FOLDERS


def _leads_up(link):
    """Whether a link leads to a folder that it is in."""
    target = os.path.realpath(link)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(link))]) == target


def walk(folders, left_out, known=()):
    """{folder with trailing slash: its image names (bytes)} of `folders` and all folders below.

    Each folder is read once, even if links lead to it again; folders that are not reached through
    links come first. known: further folders that are not read.
    Raises UserError if a folder cannot be read.
    """
    visited = set(map(_identity, known))
    found, pending, links = {}, list(folders), []
    while pending or links:
        folder = (pending or links).pop()
        identity = _identity(folder)
        if identity in visited:
            left_out.add("links to folders that are read already", folder)
            continue
        visited.add(identity)
        found[os.path.join(folder, "")], subfolders = scan(folder, left_out)
        for name in subfolders:
            path = os.path.join(folder, name)
            (links if os.path.islink(path) else pending).append(path)
    return dict(sorted(found.items()))


def _identity(folder):
    """What two paths of one folder have in common."""
    with _reading(folder):
        status = os.stat(folder)
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def _reading(folder):
    """Turns the system's errors into UserError."""
    try:
        yield
    except OSError as error:
        reason = REMEDIES.get(error.errno, error.strerror)
        raise UserError(f"cannot read the folder {os.fsdecode(folder)}: {reason}") from None
