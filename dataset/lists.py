"""Lists of images: text files with one `path [label]` line per image.

Spaces, a tab or a comma separate path and label. Blank lines and lines that start with # are
skipped. A list of a million images is parsed with numpy.
"""

import codecs
import errno
import os
import re
import unicodedata
from itertools import islice
from pathlib import Path

import numpy as np

from dataset.paths import Paths, is_number, parse_numbers, released_classes
from dataset.scan import EXTENSIONS
from helper.errors import UserError
from helper.files import make_folder, whole_file

_CHUNK = 1 << 22  # bytes of lines parsed at once
_MAX_LINE = 1 << 13  # bytes; longer than any path
_SEPARATORS = (b" ", b"\t", b",")  # of path and label


def read_list(path, roots=()):
    """Reads a list file in its order: (Paths, int64 labels (N,) or None).

    An image path is looked up relative to the working directory, to the folder of the list, and to
    `roots`, in this order; an absolute path that does not exist is treated in the same way
    (Places365). The label is the number at the end of the line, or else the number after `class_`
    in the file name. Names may be composed of other Unicode characters than on the disk, or be
    Latin-1. Raises UserError if the file is not a text file, an image is missing, or only some
    lines have labels.
    """
    path, folder_ids, chunks, line_number = Path(path), {}, [], 1
    with open(path, "rb") as file:
        while lines := file.readlines(_CHUNK):
            if (chunk := _parse(lines, line_number, path, folder_ids)) is not None:
                chunks.append(chunk)
            line_number += len(lines)
    if not chunks:
        return Paths.of(()), None
    folder_of, names, labels, line_of = (
        np.concatenate(column) for column in zip(*chunks, strict=True)
    )
    list_paths = Paths([os.fsdecode(folder) for folder in folder_ids], folder_of, names)
    paths = _locate(list_paths, line_of, path, roots)
    if os.path.isdir(first := paths[0]):
        raise UserError(
            f"{path}, line {line_of[0]}: {first} is a folder: list its images, or give the folder "
            "that holds the class folders (python -m tools.make_list FOLDER LIST writes a list)"
        )
    unlabelled = np.flatnonzero(labels < 0)
    if len(unlabelled) == 0:
        return paths, labels
    if len(unlabelled) < len(labels):
        raise UserError(
            f"{path}: some lines have labels and line {line_of[unlabelled[0]]} has none"
        )
    return paths, None


def write_list(file, paths, labels=None, root=None):
    """Writes a list file atomically.

    Paths below the folder of the list are written relative to it, others as absolute paths; with
    `root`, all are written relative to that folder.
    Raises UserError if a path contains a line break, or is not below `root`.
    """
    folder = make_folder(os.path.dirname(file))
    base = os.path.join(os.path.abspath(folder if root is None else root), "")
    endings = [""] * len(paths) if labels is None else [f" {label}" for label in labels]
    with whole_file(file, "w") as out:
        for path, ending in zip(paths, endings, strict=True):
            name = os.path.abspath(path).removeprefix(base)
            if root is not None and name[0] == "/":
                raise UserError(f"{name} is not below --root {root}: give a folder above it")
            if "\n" in name:
                raise UserError(f"{name!r} cannot be in a list: rename it, without the line break")
            if name[0] in "#\ufeff" or name[0].isspace():
                name = f"./{name}"  # would be skipped or stripped
            out.write(f"{name}{ending}\n")


def _parse(lines, first_number, path, folder_ids):
    """Parses the lines (bytes) of a list.

    first_number: line number of the first line; folder_ids {folder as bytes: index} is extended.
    Returns arrays over the lines that are neither blank nor comments: folder index (int32), file
    name (bytes), label (int64, −1 if there is none), and line number (int32); None without such a
    line.
    """
    longest = max(map(len, lines))
    if longest > _MAX_LINE:
        raise UserError(
            f"{path} has a line of {longest} bytes near line {first_number}: a list has one "
            "`path [label]` line per image"
        )
    content = b"".join(lines)
    if b"\0" in content:
        raise UserError(
            f"{path} is not a text file in UTF-8: a list has one `path [label]` line per image"
        )
    if codecs.BOM_UTF8 in content:  # in several places if files were joined
        lines = [line.removeprefix(codecs.BOM_UTF8) for line in lines]
    lines = np.strings.strip(np.array(lines))
    is_entry = lines != b""
    if b"#" in content:
        is_entry &= ~np.strings.startswith(lines, b"#")
    entries = np.flatnonzero(is_entry)
    if not len(entries):
        return None
    lines = lines[entries]

    # Split each line into folder, file name and label
    paths, labels = lines, np.full(len(lines), -1)
    for separator in _SEPARATORS:
        if separator in content and (labels < 0).any():
            head, _, tail = np.strings.rpartition(lines, separator)
            has_label = (labels < 0) & (head != b"") & is_number(tail)
            paths = np.where(has_label, np.strings.rstrip(head, b" \t,"), paths)
            labels = np.where(has_label, parse_numbers(tail), labels)
    folders, slash, names = np.strings.rpartition(paths, b"/")
    folders = np.strings.add(folders, slash)
    if (labels < 0).any():
        labels = np.where(labels < 0, released_classes(names), labels)

    # Neighbouring lines mostly share a folder, so that one lookup serves many lines.
    starts = np.flatnonzero(np.r_[True, folders[1:] != folders[:-1]])
    ids = [folder_ids.setdefault(folder, len(folder_ids)) for folder in folders[starts].tolist()]
    folder_of = np.repeat(np.array(ids, np.int32), np.diff(np.append(starts, len(folders))))
    return folder_of, names, labels, (first_number + entries).astype(np.int32)


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
            folder = _below(base, list_folder)
            files = _file_names(folder)
            exists = np.fromiter(map(files.__contains__, names[indices]), bool, len(indices))
            folder_of[indices[exists]] = len(folders)
            folders.append(folder)
            indices = indices[~exists]
            if not len(indices):
                break
        else:
            missing.append(indices)
    if not missing:
        return Paths(folders, folder_of, names)

    # The last resort: names that are spelled with other bytes on the disk
    missing, listings, found = np.sort(np.concatenate(missing)), {}, []
    for index in missing:
        paths = (_respelled(_below(base, list_paths[index]), listings) for base in bases)
        found.append(next(filter(None, paths), None))
        if found[-1] is None:
            number = line_of[index]
            candidates = (
                _below(base, list_paths[index]) + ending for ending in EXTENSIONS for base in bases
            )
            if file := next(filter(os.path.isfile, candidates), None):
                fault = f"({file} exists: add the ending to the paths of the list)"
            else:
                fault = _fault(_read_line(path, number), number == line_of[0])
            raise UserError(
                f"{path}, line {number}: image not found: {_shortened(list_paths[index])} "
                + (fault or f"(searched in the working directory and below {', '.join(bases[1:])})")
            )
    places = np.arange(len(names))
    places[missing] = len(names) + np.arange(len(missing))
    return (Paths(folders, folder_of, names) + Paths.of(found))[places]


def _below(base, path):
    """`path` below the folder `base`, even if it is absolute; unchanged if `base` is empty."""
    return os.path.join(base, path.lstrip("/") if base else path)


def _file_names(folder):
    """The names (bytes) in a folder, empty if it does not exist or cannot."""
    try:
        return set(os.listdir(os.fsencode(folder) or b"."))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return set()


def _respelled(path, listings):
    """The existing path whose names equal those of `path` as text, None if there is none.

    listings: {folder: {name as text: name}}, to which the folders that are listed are added.
    """
    if path.isascii():
        return None
    found = "/" if path.startswith("/") else ""
    for name in filter(None, path.split("/")):
        if not os.path.lexists(os.path.join(found, name)):
            if found not in listings:
                names = map(os.fsdecode, _file_names(found))
                listings[found] = {_as_text(name): name for name in names}
            name = listings[found].get(_as_text(name))
            if name is None:
                return None
        found = os.path.join(found, name)
    return found


def _as_text(name):
    """A file name as composed Unicode characters (NFC); Latin-1 if it is not UTF-8.

    macOS and some archives decompose accented letters into two characters (NFD).
    """
    name = os.fsencode(name)
    try:
        return unicodedata.normalize("NFC", name.decode())
    except UnicodeDecodeError:
        return unicodedata.normalize("NFC", name.decode("latin-1"))


def _read_line(path, number):
    """Line `number`, from 1, of a text file, without blanks at the ends."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        return next(islice(file, number - 1, None)).strip()


def _shortened(path):
    """A path of a list as a message shows it: on one line, and not longer than paths are."""
    text = path.replace("\r", "␍")
    return text if len(text) <= 200 else f"{text[:100]}…{text[-50:]}"


def _fault(line, is_first):
    """What is wrong with the form of a line whose image does not exist, "" if that is unknown."""
    if "\r" in line:
        return "(the lines end with carriage returns alone: save the list with line feeds)"
    if not line.replace("\t", " ").isprintable():
        code = next(ord(char) for char in line.replace("\t", " ") if not char.isprintable())
        if 0xDC80 <= code <= 0xDCFF:  # surrogateescape
            return f"(the line has the byte {code - 0xDC00:#x}: save the list as UTF-8)"
        return f"(the line has the invisible character U+{code:04X}: remove or replace it)"
    if line[0] == "{":
        return "(the line is JSON: write `path label`)"
    if line[0] in "\"'" or line[-1] in "\"'":
        return "(the line has quotes: write the path without them)"
    if "\\" in line:
        return "(the path has backslashes: separate folders by /)"
    if re.match(r"-?[0-9.]+([\t,;|]| .*\.\w{3,4}$)", line):
        return "(the line begins with a number: write the path first, then the label)"
    if re.search(r"[0-9][,;]$", line):
        return "(the line ends with a comma or semicolon: remove it)"
    after_path = re.fullmatch(r".*\.[A-Za-z]{3,4}[\s,]*([\s,;:|][^/]*)", line)
    if after_path and not re.fullmatch(r"[\s,][0-9]{1,18}", after_path[1]):
        return f"(after the path, a class index is expected, not `{after_path[1].strip(' ,')}`)"
    if is_first and not re.search(r"[./]", line):
        return "(is this a header? Remove it, or begin it with #)"
    return ""
