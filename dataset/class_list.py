"""Class lists: files of ImageNet synsets whose line numbers are a student's classes; and ImageNet's
own order.

A line is a synset and, after a space, a name that nobody reads; blank lines and those that begin
with # are skipped. `dataset/class_lists/` has ImageNet-100's and Imagenette's.
"""

import difflib
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from helper.errors import UserError

FOLDER = Path(__file__).parent / "class_lists"
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ClassList:
    """Classes of ImageNet-1K in the order of a student's or teacher's outputs.

    synsets: one a class, such as n01440764; indices: each one's class in ImageNet-1K, 0…999.
    """

    synsets: tuple
    indices: tuple

    def __len__(self):
        return len(self.synsets)

    @property
    def is_sorted(self):
        """Whether the classes stand as an ImageFolder of their synsets sorts them."""
        return list(self.synsets) == sorted(self.synsets)


@functools.cache
def imagenet_synsets():
    """Returns the 1000 synsets of ImageNet-1K in the order of its classes, as timm's package lists
    them.

    timm is not imported: that would take torch. Raises UserError if it is not installed or has no
    such list.
    """
    package = importlib.util.find_spec("timm")
    file = (
        package and Path(package.submodule_search_locations[0]) / "data/_info/imagenet_synsets.txt"
    )
    if not file or not file.is_file():
        raise UserError(
            "ImageNet's class order is read from timm's package and it is not there: pip install "
            "'timm>=1'"
        )
    return tuple(file.read_text().split())


def whole_imagenet():
    """Returns the ClassList of all thousand classes."""
    return ClassList(imagenet_synsets(), tuple(range(IMAGENET_CLASSES)))


def read_class_list(path):
    """Returns the ClassList of a file.

    Raises UserError if it is missing, no text, or empty, or if a synset is not ImageNet-1K's or
    comes twice.
    """
    path = Path(path)
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"class list not found: {path}: give a file with one ImageNet synset a line, such as "
            "dataset/class_lists/imagenet100.txt"
        ) from None
    except UnicodeDecodeError:
        raise UserError(
            f"class list {path} is not a text file: write one ImageNet synset a line"
        ) from None
    index_of = {synset: index for index, synset in enumerate(imagenet_synsets())}
    line_of = {}
    for number, line in enumerate(lines, 1):
        synset = line.split(maxsplit=1)[0] if line.strip() else "#"
        if synset.startswith("#"):
            continue
        if synset not in index_of:
            nearest = difflib.get_close_matches(synset, index_of, n=1, cutoff=0)[0]
            raise UserError(
                f"{path}, line {number}: {synset} is no synset of ImageNet-1K (nearest: "
                f"{nearest}): "
                "correct the line"
            )
        if synset in line_of:
            raise UserError(
                f"{path}, line {number}: {synset} stands in line {line_of[synset]} too: remove one"
            )
        line_of[synset] = number
    if not line_of:
        raise UserError(f"class list {path} is empty: write one ImageNet synset a line")
    return ClassList(tuple(line_of), tuple(index_of[synset] for synset in line_of))
