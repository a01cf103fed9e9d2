"""Compact storage and ordering of a million image paths."""

import os
from collections.abc import Sequence

import numpy as np

_CHUNK = 1 << 16  # file names parsed at once
_MAX_DIGITS = 18  # of a number that fits an int64
_NO_NAMES = np.empty(0, "S1")


class Paths(Sequence):
    """N paths, stored as an index into a list of folders and a file name of fixed width.

    1.28M Python strings would take 200 MB. Indexing with an int gives a string, with a slice or an
    int array Paths.

    folders: strings that end with a slash, or are empty; folder_of: int32 (N,), indices into
    `folders`; names: bytes array (N,).
    """

    def __init__(self, folders, folder_of, names):
        self.folders, self.folder_of, self.names = folders, folder_of, names

    @classmethod
    def of(cls, paths):
        """Paths of an iterable of strings."""
        table, folder_of, names = {}, [], []
        for path in paths:
            folder, slash, name = str(path).rpartition("/")
            folder_of.append(table.setdefault(folder + slash, len(table)))
            names.append(os.fsencode(name))
        return cls(list(table), np.array(folder_of, np.int32), np.array(names, "S"))

    @classmethod
    def in_folders(cls, names_of):
        """Paths of {folder: file names as bytes}, folder by folder."""
        folders = [os.path.join(folder, "") for folder in names_of]
        names = [np.array(names, "S") for names in names_of.values()]
        counts = [len(part) for part in names]
        folder_of = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
        return cls(folders, folder_of, np.concatenate([_NO_NAMES, *names]))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice) or np.ndim(index):
            return Paths(self.folders, self.folder_of[index], self.names[index])
        return self.folders[self.folder_of[index]] + os.fsdecode(self.names[index])

    def __add__(self, other):
        """These paths, followed by those of `other`."""
        return Paths(
            self.folders + other.folders,
            np.concatenate([self.folder_of, other.folder_of + np.int32(len(self.folders))]),
            np.concatenate([self.names, other.names]),
        )

    def order(self):
        """Rank (N,) of each path when all are sorted by file name.

        Released names are sorted by (seed, num), numeric names by number, and other names, after
        these, alphabetically.
        """
        keys = np.empty((2, len(self)), np.int64)
        for start in range(0, len(self), _CHUNK):
            part = slice(start, start + _CHUNK)
            keys[:, part] = _sorting_keys(self.names[part])
        rank = np.empty(len(self), np.int64)
        rank[np.lexsort((self.names, keys[1], keys[0]))] = np.arange(len(self))
        return rank


def released_classes(names):
    """Classes, int64 (N,), of released file names such as class_3_seed_0_num_7.png; −1 for others.

    names: bytes array (N,).
    """
    _, prefix, rest = np.strings.rpartition(names, b"class_")
    number, separator, _ = np.strings.partition(rest, b"_")
    is_released = (prefix != b"") & (separator != b"") & is_number(number)
    return np.where(is_released, parse_numbers(number), -1)


def _sorting_keys(names):
    """Sorting keys (2, N), int64, of file names.

    (seed, num) of class_{c}_seed_{seed}_num_{num}.png, (0, number) of {number}.png, else (1, 0).
    """
    stem, _, _ = np.strings.rpartition(names, b".")
    _, prefix, rest = np.strings.rpartition(stem, b"_seed_")
    seed, _, num = np.strings.partition(rest, b"_num_")
    is_released = (
        (released_classes(names) >= 0) & (prefix != b"") & is_number(seed) & is_number(num)
    )
    keys = np.where(is_released, [parse_numbers(seed), parse_numbers(num)], [[1], [0]])
    return np.where(is_number(stem), [np.zeros(len(stem), np.int64), parse_numbers(stem)], keys)


def is_number(texts):
    """Whether each of N byte strings consists of digits and fits an int64."""
    return np.strings.isdigit(texts) & (np.strings.str_len(texts) <= _MAX_DIGITS)


def is_class_number(name):
    """Whether the name of a class folder is a class index, as `is_number` for a string."""
    return name.isascii() and name.isdigit() and len(name) <= _MAX_DIGITS


def parse_numbers(texts):
    """Values, int64 (N,), of N byte strings of digits; arbitrary for other strings."""
    columns = np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), -1)[:, :_MAX_DIGITS]
    values = np.zeros(len(texts), np.int64)
    for column in columns.T:  # 0 is the padding of shorter strings
        values = np.where(column > 0, 10 * values + column - ord("0"), values)
    return values
