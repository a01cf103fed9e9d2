"""Lists of images: text files of `path [label]` lines, read with numpy because they hold a million
of them.
"""

import os
from pathlib import Path

import numpy as np

from dataset.paths import Paths, digits, is_number, released_classes
from helper.errors import UserError
from helper.files import make_folder, whole_file

_CHUNK = 1 << 22  # bytes of lines that are taken apart at once
_LONGEST = 1 << 13  # bytes of a line: more than any path has


def read_list(source, roots=()):
    """Returns (Paths, int64 labels (N,) or None) of a list file, in its order.

    A path is relative to the working directory, then to the list's folder, then to `roots`; so are
    those that begin with a slash and are not there (Places365's). The label is the number at the
    end of the line, else the one after `class_` in the file's name. Raises UserError if it is no
    text, an image is not there, or some lines have labels and others none.
    """
    source, table, parts, first = Path(source), {}, [], 1
    with open(source, "rb") as file:
        while lines := file.readlines(_CHUNK):
            if b"".join(lines).strip():
                parts.append(_parse(lines, first, source, table))
            first += len(lines)
    if not parts:
        return Paths.of(()), None
    folder_of, names, labels, numbers = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    paths = _locate(
        source, [os.fsdecode(folder) for folder in table], folder_of, names, numbers, roots
    )
    unlabelled = np.flatnonzero(labels < 0)
    if 0 < len(unlabelled) < len(labels):
        raise UserError(
            f"{source}: some lines have labels and line {numbers[unlabelled[0]]} has none"
        )
    return paths, None if len(unlabelled) else labels


def write_list(file, paths, labels=None):
    """Writes a list, whole or not at all; images below the list's folder are named relative to it,
    others in full.
    """
    base = os.path.join(os.path.abspath(make_folder(os.path.dirname(file))), "")
    endings = [""] * len(paths) if labels is None else [f" {label}" for label in labels]
    with whole_file(file, "w") as out:
        for path, ending in zip(paths, endings, strict=True):
            out.write(f"{os.path.abspath(path).removeprefix(base)}{ending}\n")


def _parse(lines, first, source, table):
    """Returns (folder int32, name bytes, label int64 or −1, line number int32) arrays of the lines
    that are not blank.

    `first` is the number of the first line, one of which is not blank; `table` {folder as bytes:
    its number} grows.
    """
    longest = max(map(len, lines))
    if longest > _LONGEST:
        raise UserError(
            f"{source} has a line of {longest} bytes near line {first}: a list has one `path "
            "[label]` "
            "line an image"
        )
    try:
        b"".join(lines).decode()
    except UnicodeDecodeError:
        raise UserError(
            f"{source} is not a text file: a list has one `path [label]` line an image"
        ) from None
    lines = np.strings.strip(np.array(lines))
    filled = np.flatnonzero(lines != b"")
    head, _, tail = np.strings.rpartition(lines[filled], b" ")
    labelled = (head != b"") & is_number(tail)
    paths = np.where(labelled, np.strings.strip(head), lines[filled])
    folders, slash, names = np.strings.rpartition(paths, b"/")
    folders = np.strings.add(folders, slash)
    # Neighbours mostly share a folder: one look-up a run of them.
    starts = np.flatnonzero(np.r_[True, folders[1:] != folders[:-1]])
    ids = [table.setdefault(folder, len(table)) for folder in folders[starts].tolist()]
    folder_of = np.repeat(np.array(ids, np.int32), np.diff(np.append(starts, len(folders))))
    labels = np.where(labelled, digits(tail), -1)
    if not labelled.all():
        labels = np.where(labelled, labels, released_classes(names))
    return folder_of, names, labels, (first + filled).astype(np.int32)


def _locate(source, folders, folder_of, names, numbers, roots):
    """Returns the Paths of images that were found; each folder is listed once instead of a million
    files looked up.
    """
    bases = ["", os.path.join(source.parent, ""), *(os.path.join(root, "") for root in roots)]
    places, place_of, lost = [], np.empty(len(names), np.int32), []
    by_folder = np.argsort(folder_of, kind="stable")
    for folder, mine in zip(
        folders, np.split(by_folder, np.cumsum(np.bincount(folder_of))[:-1]), strict=True
    ):
        for base in bases:
            place = os.path.join(base, folder.lstrip("/") if base else folder)
            present = _listing(place)
            found = np.fromiter(map(present.__contains__, names[mine]), bool, len(mine))
            place_of[mine[found]] = len(places)
            places.append(place)
            mine = mine[~found]
            if not len(mine):
                break
        else:
            lost.append(mine.min())
    if lost:
        index = min(lost)
        raise UserError(
            f"{source}, line {numbers[index]}: image not found: {folders[folder_of[index]]}"
            f"{os.fsdecode(names[index])} (looked here and below {', '.join(bases[1:])})"
        )
    return Paths(places, place_of, names)


def _listing(folder):
    """Returns the set of names, bytes, in a folder; nothing where there is none."""
    try:
        return set(os.listdir(os.fsencode(folder) or b"."))
    except (FileNotFoundError, NotADirectoryError):
        return set()
