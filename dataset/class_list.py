"""Class lists: files of ImageNet synsets in the order of a classifier's outputs.

A line holds a synset and, optionally, a space, tab or comma and a name. Blank lines and lines that
start with # are skipped. dataset/class_lists/ contains the lists of ImageNet-100 and Imagenette.
"""

import difflib
import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from helper.errors import UserError
from helper.files import read_text

FOLDER = Path(__file__).parent / "class_lists"
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ClassList:
    """Classes of ImageNet-1K in the order of a classifier's outputs.

    synsets: such as n01440764; indices: their classes in ImageNet-1K, 0…999.
    """

    synsets: tuple
    indices: tuple

    def __len__(self):
        return len(self.synsets)

    @property
    def is_sorted(self):
        """Whether the classes are in the order of an ImageFolder of their synsets."""
        return list(self.synsets) == sorted(self.synsets)


@functools.cache
def imagenet_synsets():
    """The 1000 synsets of ImageNet-1K in class order, read from the files of timm.

    timm itself is not imported, which would take seconds. Raises UserError if it is not installed.
    """
    package = importlib.util.find_spec("timm")
    file = None
    if package:
        folder = Path(package.submodule_search_locations[0])
        file = folder / "data/_info/imagenet_synsets.txt"
    if file is None or not file.is_file():
        raise UserError("the class order of ImageNet is read from timm: pip install 'timm>=1'")
    return tuple(read_text(file).split())


def whole_imagenet():
    """ClassList of all 1000 classes."""
    return ClassList(imagenet_synsets(), tuple(range(IMAGENET_CLASSES)))


def read_class_list(path):
    """Reads a class list file.

    Raises UserError if it is missing, empty or not a text file, or if a synset is not in
    ImageNet-1K or appears twice.
    """
    path = Path(path)
    if not path.is_file():  # missing, a folder, or a pipe, which would wait
        raise UserError(
            f"class list not found: {path}: give a file with one ImageNet synset per line, such "
            "as dataset/class_lists/imagenet100.txt"
        )
    text = read_text(path)
    if "\0" in text:
        raise UserError(
            f"class list {path} is not a text file in UTF-8: write one ImageNet synset per line"
        )
    index_of = {synset: index for index, synset in enumerate(imagenet_synsets())}
    line_of = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        synset = re.split(r"[\s,]", line.strip())[0]
        if synset not in index_of:
            nearest = difflib.get_close_matches(synset, index_of, n=1, cutoff=0)[0]
            raise UserError(
                f"{path}, line {number}: {synset} is not a synset of ImageNet-1K (nearest: "
                f"{nearest})"
            )
        if synset in line_of:
            raise UserError(
                f"{path}, line {number}: {synset} is already in line {line_of[synset]}: remove one"
            )
        line_of[synset] = number
    if not line_of:
        raise UserError(f"class list {path} is empty: write one ImageNet synset per line")
    return ClassList(tuple(line_of), tuple(index_of[synset] for synset in line_of))
