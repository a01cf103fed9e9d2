"""The paths of a million images in some tens of megabytes, and the order in which a class's images
are taken.
"""

import os
from collections.abc import Sequence

import numpy as np

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
_CHUNK = 1 << 16  # names that are taken apart at once
_MOST_DIGITS = 18  # of a number in an int64


class Paths(Sequence):
    """N paths: each folder once, and the file names as bytes of one width (1.28M Python strings
    would take 200 MB).

    folders: strings that end with a slash, or are empty; folder_of: int32 (N,), indices of
    `folders`; names: an array (N,) of bytes. An int gives a path, a slice or int array Paths.
    """

    def __init__(self, folders, folder_of, names):
        self.folders, self.folder_of, self.names = folders, folder_of, names

    @classmethod
    def of(cls, paths):
        """Returns the Paths of an iterable of strings."""
        table, folder_of, names = {}, [], []
        for path in paths:
            folder, slash, name = str(path).rpartition("/")
            folder_of.append(table.setdefault(folder + slash, len(table)))
            names.append(os.fsencode(name))
        return cls(list(table), np.array(folder_of, np.int32), np.array(names, "S"))

    @classmethod
    def in_folders(cls, names_of):
        """Returns the Paths of {folder: names, an iterable of bytes}, folder by folder."""
        names = [np.array(names, "S") for names in names_of.values()]
        folder_of = np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in names])
        return cls(
            [os.path.join(folder, "") for folder in names_of],
            folder_of,
            np.concatenate([_NO_NAMES, *names]),
        )

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice) or np.ndim(index):
            return Paths(self.folders, self.folder_of[index], self.names[index])
        return self.folders[self.folder_of[index]] + os.fsdecode(self.names[index])

    def __add__(self, other):
        """These paths, then those of `other`."""
        return Paths(
            self.folders + other.folders,
            np.concatenate([self.folder_of, other.folder_of + np.int32(len(self.folders))]),
            np.concatenate([self.names, other.names]),
        )

    def order(self):
        """Returns each image's place (N,) among all of them: by (seed, num) of released names, else
        by the number that is the name, else by the name; numbered files before others.
        """
        keys = np.empty((2, len(self)), np.int64)
        for start in range(0, len(self), _CHUNK):
            part = slice(start, start + _CHUNK)
            keys[:, part] = _keys(self.names[part])
        place = np.empty(len(self), np.int64)
        place[np.lexsort((self.names, *keys[::-1]))] = np.arange(len(self))
        return place


_NO_NAMES = np.empty(0, "S1")


def image_names(folder):
    """Returns the sorted names, bytes, of the images in `folder`, without the contact sheet of
    generated ones.
    """
    endings = tuple(os.fsencode(ending) for ending in EXTENSIONS)
    return sorted(
        name
        for name in os.listdir(os.fsencode(folder))
        if name.lower().endswith(endings) and name != b"contact_sheet.png"
    )


def released_classes(names):
    """Returns the numbers after `class_` in file names as the released sets have them, int64 (N,),
    −1 in others.
    """
    _, found, rest = np.strings.rpartition(names, b"class_")
    label, end, _ = np.strings.partition(rest, b"_")
    return np.where((found != b"") & (end != b"") & is_number(label), digits(label), -1)


def _keys(names):
    """Returns the (2, N) int64 keys by which names are ordered before the names themselves.

    (seed, num) of `class_{c}_seed_{s}_num_{n}.png`; (0, number) of `{number}.png`; else (1, 0).
    """
    stem, _, _ = np.strings.rpartition(names, b".")
    _, found, rest = np.strings.rpartition(stem, b"_seed_")
    seed, _, num = np.strings.partition(rest, b"_num_")
    released = (released_classes(names) >= 0) & (found != b"") & is_number(seed) & is_number(num)
    keys = np.where(released, [digits(seed), digits(num)], [[1], [0]])
    return np.where(is_number(stem), [np.zeros(len(stem), np.int64), digits(stem)], keys)


def is_number(texts):
    """Returns whether each of an array of bytes is a number that an int64 holds."""
    return np.strings.isdigit(texts) & (np.strings.str_len(texts) <= _MOST_DIGITS)


def digits(texts):
    """Returns the int64 values (N,) of an array of bytes that are digits; anything for those that
    are not.
    """
    columns = np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), -1)[:, :_MOST_DIGITS]
    values = np.zeros(len(texts), np.int64)
    for column in columns.T:
        values = np.where(column > 0, 10 * values + column - 48, values)
    return values
