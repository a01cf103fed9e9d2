"""Lists of images: text files with one `path [label]` line per image.

A list of a million images is parsed with numpy.
"""

import os
from pathlib import Path

import numpy as np

from dataset.paths import Paths, is_number, parse_numbers, released_classes
from helper.errors import UserError
from helper.files import make_folder, whole_file

_CHUNK = 1 << 22  # bytes of lines parsed at once
_MAX_LINE = 1 << 13  # bytes; longer than any path


def read_list(path, roots=()):
    """Reads a list file in its order: (Paths, int64 labels (N,) or None).

    An image path is looked up relative to the working directory, to the folder of the list, and to
    `roots`, in this order; an absolute path that does not exist is treated in the same way
    (Places365). The label is the number at the end of the line, or else the number after `class_`
    in the file name. Raises UserError if the file is not a text file, an image is missing, or only
    some lines have labels.
    """
    path, folder_ids, chunks, line_number = Path(path), {}, [], 1
    with open(path, "rb") as file:
        while lines := file.readlines(_CHUNK):
            if b"".join(lines).strip():
                chunks.append(_parse(lines, line_number, path, folder_ids))
            line_number += len(lines)
    if not chunks:
        return Paths.of(()), None
    folder_of, names, labels, line_of = (
        np.concatenate(column) for column in zip(*chunks, strict=True)
    )
    list_paths = Paths([os.fsdecode(folder) for folder in folder_ids], folder_of, names)
    paths = _locate(list_paths, line_of, path, roots)
    unlabelled = np.flatnonzero(labels < 0)
    if len(unlabelled) == 0:
        return paths, labels
    if len(unlabelled) < len(labels):
        raise UserError(
            f"{path}: some lines have labels and line {line_of[unlabelled[0]]} has none"
        )
    return paths, None


def write_list(file, paths, labels=None):
    """Writes a list file atomically.

    Paths below the folder of the list are written relative to it, others as absolute paths.
    """
    base = os.path.join(os.path.abspath(make_folder(os.path.dirname(file))), "")
    endings = [""] * len(paths) if labels is None else [f" {label}" for label in labels]
    with whole_file(file, "w") as out:
        for path, ending in zip(paths, endings, strict=True):
            out.write(f"{os.path.abspath(path).removeprefix(base)}{ending}\n")


def _parse(lines, first_number, path, folder_ids):
    """Parses the lines (bytes) of a list, of which at least one is not blank.

    first_number: line number of the first line; folder_ids {folder as bytes: index} is extended.
    Returns arrays over the lines that are not blank: folder index (int32), file name (bytes), label
    (int64, −1 if there is none), and line number (int32).
    """
    longest = max(map(len, lines))
    if longest > _MAX_LINE:
        raise UserError(
            f"{path} has a line of {longest} bytes near line {first_number}: a list has one "
            "`path [label]` line per image"
        )
    try:
        b"".join(lines).decode()
    except UnicodeDecodeError:
        raise UserError(
            f"{path} is not a text file: a list has one `path [label]` line per image"
        ) from None
    lines = np.strings.strip(np.array(lines))
    filled = np.flatnonzero(lines != b"")
    lines = lines[filled]

    # Split each line into folder, file name and label
    head, _, tail = np.strings.rpartition(lines, b" ")
    has_label = (head != b"") & is_number(tail)
    paths = np.where(has_label, np.strings.strip(head), lines)
    folders, slash, names = np.strings.rpartition(paths, b"/")
    folders = np.strings.add(folders, slash)
    labels = np.where(has_label, parse_numbers(tail), -1)
    if not has_label.all():
        labels = np.where(has_label, labels, released_classes(names))

    # Neighbouring lines mostly share a folder, so that one lookup serves many lines.
    starts = np.flatnonzero(np.r_[True, folders[1:] != folders[:-1]])
    ids = [folder_ids.setdefault(folder, len(folder_ids)) for folder in folders[starts].tolist()]
    folder_of = np.repeat(np.array(ids, np.int32), np.diff(np.append(starts, len(folders))))
    return folder_of, names, labels, (first_number + filled).astype(np.int32)


def _locate(list_paths, line_of, path, roots):
    """Finds the images of a list: the Paths under which they exist.

    Each folder is listed once instead of looking up a million files. list_paths: as the list has
    them; line_of: their line numbers, for the error message.
    """
    bases = ["", os.path.join(path.parent, ""), *(os.path.join(root, "") for root in roots)]
    names, missing = list_paths.names, []
    folders, folder_of = [], np.empty(len(names), np.int32)
    by_folder = np.argsort(list_paths.folder_of, kind="stable")
    ends = np.cumsum(np.bincount(list_paths.folder_of))
    groups = np.split(by_folder, ends[:-1])
    for list_folder, indices in zip(list_paths.folders, groups, strict=True):
        for base in bases:
            folder = os.path.join(base, list_folder.lstrip("/") if base else list_folder)
            files = _file_names(folder)
            exists = np.fromiter(map(files.__contains__, names[indices]), bool, len(indices))
            folder_of[indices[exists]] = len(folders)
            folders.append(folder)
            indices = indices[~exists]
            if not len(indices):
                break
        else:
            missing.append(indices.min())
    if missing:
        index = min(missing)
        raise UserError(
            f"{path}, line {line_of[index]}: image not found: {list_paths[index]} (searched in the "
            f"working directory and below {', '.join(bases[1:])})"
        )
    return Paths(folders, folder_of, names)


def _file_names(folder):
    """The names (bytes) in a folder, empty if it does not exist."""
    try:
        return set(os.listdir(os.fsencode(folder) or b"."))
    except (FileNotFoundError, NotADirectoryError):
        return set()
