"""Image folders and lists: class folders, the released flat sets, lists of `path [label]` lines,
unlabelled folders.

With a class list, a number that names a class (a folder's, a released file's, the one that ends a
line) is ImageNet's index, 0…999, however few classes the set holds; a folder may also be named by
its synset.
"""

import os
import re
from pathlib import Path

import numpy as np

from dataset.class_list import IMAGENET_CLASSES, imagenet_synsets, whole_imagenet
from dataset.image_set import ImageSet
from dataset.lists import read_list
from dataset.paths import EXTENSIONS, Paths, image_names, released_classes
from dataset.places365 import training_folder
from helper.errors import UserError
from helper.files import read_json

_SYNSET = re.compile(r"n\d{8}")


def read_training(source, num_classes, amount=None, class_list=None, ignore_labels=False):
    """Returns the ImageSet of a folder or list file `source` for `num_classes` classes.

    `amount` takes a class-balanced prefix: N div C images of each of the set's C classes, one more
    of the first N mod C, in the order of their index (released sets: of seed and num), so that a
    larger amount contains a smaller. With a ClassList only images of its classes are kept, and a
    label is its class's place in the list. `ignore_labels`: labels only balance the amount; every
    image counts, whatever the class list. Of torchvision's Places365, its root or a list of it, the
    training images are read; the root gives no labels. Raises UserError if there is nothing to
    read, an image of a list is missing, a class is out of range, or the set holds too few images.
    """
    source = Path(source)
    if ignore_labels:
        num_classes = class_list = None
    manifest = (
        read_json(source / "manifest.json", "manifest")
        if (source / "manifest.json").is_file()
        else None
    )
    places365 = training_folder(source)
    if source.is_file():
        paths, labels = _chosen(
            *read_list(source, [places365] if places365 else ()), class_list, source
        )
    elif source.is_dir():
        # A generator of unlabelled images says so: its shards are numbered like classes.
        labelled = places365 is None and (manifest is None or manifest.get("labelled", True))
        paths, labels = (
            _scan(source, num_classes, class_list)
            if labelled
            else (_images_below(places365 or source), None)
        )
    else:
        raise UserError(f"training images not found: {source}: give an image folder or a list file")
    if not len(paths):
        raise UserError(f"no images in {source} (looked for {', '.join(EXTENSIONS)})")
    if labels is not None and num_classes is not None:
        _check_range(labels, num_classes, source, ", or --class-list or --ignore_labels is needed")
    if labels is None and class_list is not None:
        note(f"{source} has no labels: the class list chooses none of its images")
    if manifest is not None and not manifest.get("complete", True):
        note(f"{source} is an unfinished set")
    keep = class_balanced_prefix(paths.order(), labels, amount, source)
    return ImageSet(
        paths[keep],
        None if labels is None or ignore_labels else labels[keep],
        origin={"source": str(source), "images": len(keep), "manifest": manifest},
    )


def read_validation(source, num_classes, class_list=None, what="validation", roots=()):
    """Returns the ImageSet of a labelled folder or list; with `num_classes` None, the classes are
    counted.

    Of a thousand classes, folders named by synset are ImageNet's. With a ClassList only its classes
    are read, and all of them must be there. `what` names the images in messages; a list's paths may
    be relative to `roots` too. Raises UserError if it is missing, empty, unlabelled, or its classes
    are not the expected ones.
    """
    source, names = Path(source), []
    if source.is_file():
        paths, labels = _chosen(*read_list(source, roots), class_list, source)
    elif source.is_dir():
        names = class_folders(source)
        class_list = class_list or _imagenet_if(names, num_classes)
        label_of = (
            _places(names, class_list, source)
            if class_list
            else {name: i for i, name in enumerate(names)}
        )
        paths, labels = _in_class_folders(source, label_of)
    else:
        raise UserError(
            f"{what} images not found: {source}: give an ImageFolder or a list of `path label` "
            "lines"
        )
    if not len(paths):
        raise UserError(
            f"no labelled {what} images in {source}: expected one folder a class, or a list of "
            "`path "
            "label` lines (python -m tools.imagenet writes that of ImageNet's flat folder)"
        )
    if labels is None:
        raise UserError(f"{source} gives no labels: write `path label` lines")
    if class_list:
        names, num_classes = list(class_list.synsets), len(class_list)
        _check_all_there(labels, names, source)
    elif names and num_classes not in (None, len(names)):
        raise UserError(
            f"{source} has {len(names)} class folders and the data set has {num_classes} classes: "
            "check --val_data and --dataset"
        )
    count = num_classes or len(names) or int(labels.max()) + 1
    _check_range(labels, count, source)
    return ImageSet(
        paths,
        labels,
        names or [str(i) for i in range(count)],
        origin={"source": str(source), "images": len(paths)},
    )


def find_released_list(data_quality, s_step, amount):
    """Returns the path of the released list for a guidance scale, a number of steps and an amount
    (200,000 → 200k).
    """
    size = f"{amount // 1000}k" if amount % 1000 == 0 else str(amount)
    return Path("syn_dataset") / f"s{data_quality:g}_st{s_step}_{size}.txt"


def _scan(folder, num_classes, class_list):
    """Returns (Paths, labels or None) of a folder: class folders, a released flat set, or
    unlabelled images below.
    """
    label_of = _labels_of(class_folders(folder), num_classes, class_list, folder)
    if label_of:
        return _in_class_folders(folder, label_of)
    flat = Paths.in_folders({folder: image_names(folder)})
    if len(flat):
        classes = released_classes(flat.names)
        if (classes >= 0).all():
            return _chosen(flat, classes, class_list, folder)
    return _images_below(folder), None


def _in_class_folders(folder, label_of):
    """Returns (Paths, int64 labels) of the images in the folders of `label_of` {folder name:
    label}.
    """
    names_of = {
        os.path.join(folder, name): image_names(os.path.join(folder, name)) for name in label_of
    }
    labels = np.repeat(
        np.array(list(label_of.values()), np.int64), [len(names) for names in names_of.values()]
    )
    return Paths.in_folders(names_of), labels


def _images_below(folder):
    """Returns the Paths of a folder's images at any depth."""
    places = sorted(os.path.join(place, "") for place, _, _ in os.walk(folder))
    return Paths.in_folders({place: image_names(place) for place in places})


def _labels_of(names, num_classes, class_list, folder):
    """Returns {folder name: class}: numbers and, for ImageNet's classes, synsets name it; other
    names count in sorted order; else nothing.

    Folders whose names are not numbers and whose count is not the classes' are no classes:
    unlabelled shards, say.
    """
    numbers = (
        bool(names) and _are_numbers(names) and len({int(name) for name in names}) == len(names)
    )
    class_list = class_list or _imagenet_if(names, num_classes)
    if class_list:
        return _places(names, class_list, folder) if numbers or _are_synsets(names) else {}
    if numbers:
        return {name: int(name) for name in names}
    if len(names) == num_classes or (num_classes is None and _are_synsets(names)):
        return {name: label for label, name in enumerate(names)}
    if _are_synsets(names):
        raise UserError(
            f"{folder} has {len(names)} class folders named by synset and there are {num_classes} "
            "classes: "
            "choose among them with --class-list, or give --ignore_labels"
        )
    return {}


def _imagenet_if(names, num_classes):
    """Returns ImageNet's ClassList if folders of these names are to be its thousand classes, else
    None.
    """
    return whole_imagenet() if num_classes == IMAGENET_CLASSES and _are_synsets(names) else None


def _places(names, class_list, folder):
    """Returns {folder name: place in the class list} of the folders, named by ImageNet's number or
    synset, that it has.

    Raises UserError for other names, or if no folder is of its classes.
    """
    index_of = {synset: index for index, synset in enumerate(imagenet_synsets())}
    place_of = {index: place for place, index in enumerate(class_list.indices)}
    found = {
        name: place_of.get(int(name) if name.isdigit() else index_of.get(name)) for name in names
    }
    for name in names:
        if not name.isdigit() and name not in index_of:
            raise UserError(
                f"{folder}: class folder {name} is neither a number nor a synset of ImageNet-1K: "
                "rename "
                "it, or leave --class-list out"
            )
    chosen = {name: place for name, place in found.items() if place is not None}
    _tell_choice(len(chosen), len(names), "class folders", folder)
    return chosen


def _chosen(paths, labels, class_list, source):
    """Returns the images of the class list's classes and their places in it, from labels that are
    ImageNet's.

    Without a class list, or without labels, all as they are.
    """
    if class_list is None or labels is None:
        return paths, labels
    _check_range(labels, IMAGENET_CLASSES, source)
    place_of = np.full(IMAGENET_CLASSES, -1)
    place_of[list(class_list.indices)] = np.arange(len(class_list))
    keep = np.flatnonzero(place_of[labels] >= 0)
    _tell_choice(len(keep), len(paths), "images", source)
    return paths[keep], place_of[labels[keep]]


def _tell_choice(kept, count, things, source):
    if count and not kept:
        raise UserError(
            f"{source}: none of its {count} {things} is of the class list's classes (numbers are "
            "ImageNet's, 0 to 999): check --class-list, or give --ignore_labels"
        )
    if kept < count:
        note(
            f"{source}: {count - kept} of {count} {things} are not of the class list's classes and "
            "are left out"
        )


def note(text):
    """Prints what the user should know, once among several processes."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"note: {text}", flush=True)


def _are_numbers(names):
    return all(name.isdigit() for name in names)


def _are_synsets(names):
    return bool(names) and all(_SYNSET.fullmatch(name) for name in names)


def class_folders(folder):
    """Returns the names of a folder's subfolders, in the order of their classes."""
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    # Numbers count as numbers, 2 before 10, as where they name the class.
    return sorted(names, key=int) if _are_numbers(names) else names


def _check_range(labels, num_classes, source, remedy=""):
    if labels.max() >= num_classes:
        raise UserError(
            f"{source} holds class {labels.max()} and there are {num_classes} classes (0 to "
            f"{num_classes - 1}): the wrong set, or the wrong --dataset{remedy}"
        )


def _check_all_there(labels, names, source):
    lacking = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(lacking):
        raise UserError(
            f"{source} has no images of {len(lacking)} of the {len(names)} classes (the first: "
            f"{names[lacking[0]]}): complete it, or check --val_data, --dataset and --class-list"
        )


def class_balanced_prefix(order, labels, amount, source):
    """Returns the indices of the class-balanced prefix of `amount` images, class by class; all of
    them for None.

    `order` holds each image's sorting key within its class; `labels` may be None: one class of all.
    Raises UserError if a class of `source` holds too few.
    """
    groups = np.zeros(len(order), np.int64) if labels is None else labels
    by_class = np.lexsort((order, groups))
    if amount is None:
        return by_class
    classes, starts, counts = np.unique(groups[by_class], return_index=True, return_counts=True)
    share, extra = divmod(amount, len(classes))
    wanted = share + (np.arange(len(classes)) < extra)
    if (wanted > counts).any():
        short = np.argmax(wanted > counts)
        place = "" if labels is None else f" in class {classes[short]}"
        raise UserError(
            f"--data_amount {amount} needs {wanted[short]} images{place} and {source} holds "
            f"{counts[short]}: ask for fewer, or make more"
        )
    return by_class[
        np.arange(len(by_class)) - np.repeat(starts, counts) < np.repeat(wanted, counts)
    ]
