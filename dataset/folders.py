"""Image folders and lists: class folders, the released flat sets, lists of `path [label]` lines, unlabelled folders."""

import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from dataset.image_set import ImageSet
from helper.errors import UserError
from helper.files import read_json

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")
RELEASED_NAME = re.compile(r"class_(\d+)_seed_(\d+)_num_(\d+)\.\w+$")


def read_training(source, num_classes, amount=None):
    """Returns the ImageSet of a folder or list file `source` for `num_classes` classes.

    `amount` takes a class-balanced prefix: N div C images of each of the set's C classes, one more of the first
    N mod C, in the order of their index (released sets: of seed and num), so that a larger amount contains a smaller.
    Raises UserError if there is nothing to read, an image of a list is missing, a class is out of range, or the set
    holds too few images.
    """
    source = Path(source)
    manifest = read_json(source / "manifest.json", "manifest") if (source / "manifest.json").is_file() else None
    if source.is_file():
        paths, labels = _read_list(source)
    elif source.is_dir():
        # A generator of unlabelled images says so: its shards are numbered like classes.
        labelled = manifest is None or manifest.get("labelled", True)
        paths, labels = _scan(source, num_classes) if labelled else (_images_below(source), None)
    else:
        raise UserError(f"training images not found: {source}: give an image folder or a list file")
    if not paths:
        raise UserError(f"no images in {source} (looked for {', '.join(EXTENSIONS)})")
    if labels is not None:
        _check_range(labels, num_classes, source)
    if manifest is not None and not manifest.get("complete", True):
        print(f"note: {source} is an unfinished set", flush=True)
    keep = class_balanced_prefix([_order(path) for path in paths], labels, amount, source)
    return ImageSet([paths[i] for i in keep], None if labels is None else np.asarray(labels, np.int64)[keep],
                    origin={"source": str(source), "images": len(keep), "manifest": manifest})


def read_validation(source, num_classes):
    """Returns the ImageSet of a labelled folder or list; with `num_classes` None, the classes are counted.

    Raises UserError if it is missing, empty, unlabelled, or its classes are not the expected number.
    """
    source = Path(source)
    if source.is_file():
        paths, labels = _read_list(source)
        names = []
    elif source.is_dir():
        names = _class_folders(source)
        found = [_images_in(source / name) for name in names]
        paths = [path for images in found for path in images]
        labels = [label for label, images in enumerate(found) for _ in images]
    else:
        raise UserError(f"validation images not found: {source}: give an ImageFolder or a list of `path label` lines")
    if not paths:
        raise UserError(f"no labelled validation images in {source}: expected one folder a class, or a list of "
                        "`path label` lines")
    if labels is None:
        raise UserError(f"{source} gives no labels: write `path label` lines")
    count = len(names) or max(labels) + 1
    if num_classes is not None and names and count != num_classes:
        raise UserError(f"{source} has {count} class folders and the data set has {num_classes} classes: "
                        "check --val_data and --dataset")
    _check_range(labels, num_classes or count, source)
    return ImageSet(paths, np.asarray(labels, np.int64), names or [str(i) for i in range(num_classes or count)],
                    origin={"source": str(source), "images": len(paths)})


def find_released_list(data_quality, s_step, amount):
    """Returns the path of the released list for a guidance scale, a number of steps and an amount (200,000 → 200k)."""
    size = f"{amount // 1000}k" if amount % 1000 == 0 else str(amount)
    return Path("syn_dataset") / f"s{data_quality:g}_st{s_step}_{size}.txt"


def _read_list(source):
    """Returns (paths, labels or None) of a list file; paths are relative to the working directory, then to the list."""
    paths, labels = [], []
    try:
        lines = source.read_text().splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{source} is not a text file: a list has one `path [label]` line an image") from None
    present = _Present()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path, label = _split_line(line.strip())
        found = next((p for p in (path, os.path.join(source.parent, path)) if present.has(p)), None)
        if found is None:
            raise UserError(f"{source}, line {number}: image not found: {path} (looked here and beside the list)")
        paths.append(found)
        labels.append(label)
    if None in labels and any(label is not None for label in labels):
        raise UserError(f"{source}: some lines have labels and line {labels.index(None) + 1} has none")
    return paths, None if None in labels else labels


def _split_line(line):
    """Returns (path, label or None): the number at the end of the line, else the one in a released file name."""
    head, _, tail = line.rpartition(" ")
    if head and tail.isdigit():
        return head.strip(), int(tail)
    match = RELEASED_NAME.search(line)
    return line, int(match[1]) if match else None


class _Present:
    """Whether files exist, by listing each folder once: a list of a million images costs no million look-ups."""

    def __init__(self):
        self._folders = {}

    def has(self, path):
        folder, name = os.path.split(path)
        if folder not in self._folders:
            place = folder or "."
            self._folders[folder] = frozenset(os.listdir(place) if os.path.isdir(place) else ())
        return name in self._folders[folder]


def _scan(folder, num_classes):
    """Returns (paths, labels or None) of a folder: class folders, a released flat set, or unlabelled images below."""
    names = _class_folders(folder)
    label_of = _labels_of(names, num_classes)
    if label_of:
        found = [(path, label_of[name]) for name in names for path in _images_in(folder / name)]
        return [path for path, _ in found], [label for _, label in found]
    flat = _images_in(folder)
    matches = [RELEASED_NAME.search(path) for path in flat]
    if flat and all(matches):
        return flat, [int(match[1]) for match in matches]
    return _images_below(folder), None


def _images_below(folder):
    """Returns the images of a folder at any depth, without the contact sheet."""
    return sorted(os.path.join(place, name) for place, _, files in os.walk(folder) for name in files
                  if name.lower().endswith(EXTENSIONS) and name != "contact_sheet.png")


def _labels_of(names, num_classes):
    """Returns {folder name: class}: numbers name the class, other names count in sorted order; else nothing.

    Folders whose names are not numbers and whose count is not the classes' are no classes: unlabelled shards, say.
    """
    if names and all(name.isdigit() for name in names) and len({int(name) for name in names}) == len(names):
        return {name: int(name) for name in names}
    if len(names) == num_classes:
        return {name: label for label, name in enumerate(names)}
    return {}


def _class_folders(folder):
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    # Numbers count as numbers, 2 before 10, as where they name the class.
    return sorted(names, key=int) if all(name.isdigit() for name in names) else names


def _images_in(folder):
    return sorted(entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(EXTENSIONS))


def _check_range(labels, num_classes, source):
    if max(labels) >= num_classes:
        raise UserError(f"{source} holds class {max(labels)} and there are {num_classes} classes (0 to "
                        f"{num_classes - 1}): the wrong set, or the wrong --dataset")


def class_balanced_prefix(order, labels, amount, source):
    """Returns the indices of the class-balanced prefix of `amount` images, class by class; all of them for None.

    `order` holds each image's sorting key within its class; `labels` may be None: one class of all.
    Raises UserError if a class of `source` holds too few.
    """
    groups = defaultdict(list)
    for index, key in enumerate(order):
        groups[0 if labels is None else int(labels[index])].append((key, index))
    if amount is None:
        amount_of = {label: len(group) for label, group in groups.items()}
    else:
        share, extra = divmod(amount, len(groups))
        amount_of = {label: share + (position < extra) for position, label in enumerate(sorted(groups))}
    kept = []
    for label in sorted(groups):
        group = sorted(groups[label])
        if amount_of[label] > len(group):
            place = "" if labels is None else f" in class {label}"
            raise UserError(f"--data_amount {amount} needs {amount_of[label]} images{place} and {source} holds "
                            f"{len(group)}: ask for fewer, or make more")
        kept += [index for _, index in group[:amount_of[label]]]
    return kept


def _order(path):
    """The key by which a class's images are taken: (seed, num) of released names, else the number, else the name."""
    name = os.path.basename(path)
    match = RELEASED_NAME.search(name)
    if match:
        return int(match[2]), int(match[3]), name
    stem = name.rpartition(".")[0]
    return (0, int(stem), name) if stem.isdigit() else (1, 0, name)
