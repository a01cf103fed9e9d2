"""Image folders and lists: class folders, released flat folders, lists of `path [label]` lines, and
unlabelled folders.

With a class list, a number that names a class (a folder, a released file name, the label of a list)
is an index of ImageNet-1K, 0…999, even if the set has fewer classes. A class folder may also be
named by its synset.
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
from helper.errors import UserError, note
from helper.files import read_json

_SYNSET = re.compile(r"n\d{8}")


def read_training(path, num_classes, amount=None, class_list=None, ignore_labels=False, grey=False):
    """Reads the training images of a folder or list file as an ImageSet.

    num_classes: of the teacher, None if any label is valid.
    amount: size of a class-balanced prefix, see `class_balanced_prefix`.
    class_list: ClassList; images of other classes are dropped, and labels are its line numbers.
    ignore_labels: labels only balance `amount`; images of all classes are used.
    grey: average the channels of the images.
    For Places365 in torchvision's layout, `path` is the root folder, which gives no labels, or a
    training list.

    Raises UserError if there are no images, an image of a list is missing, a class is out of range,
    or there are fewer than `amount` images.
    """
    path = Path(path)
    if ignore_labels:
        num_classes = class_list = None
    manifest_file = path / "manifest.json"
    manifest = read_json(manifest_file, "manifest") if manifest_file.is_file() else None
    places365 = training_folder(path)
    if path.is_file():
        paths, labels = read_list(path, [places365] if places365 else ())
        paths, labels = _select_classes(paths, labels, class_list, path)
    elif not path.is_dir():
        raise UserError(f"training images not found: {path}: give an image folder or a list file")
    elif places365:
        paths, labels = _images_below(places365), None
    elif manifest is not None and not manifest.get("labelled", True):
        # Generated without labels: the numbered folders are not classes.
        paths, labels = _images_below(path), None
    else:
        paths, labels = _read_folder(path, num_classes, class_list)

    if not len(paths):
        raise UserError(f"no images in {path} (file names end in {', '.join(EXTENSIONS)})")
    if labels is not None and num_classes is not None:
        _check_range(labels, num_classes, path, ", or give --class-list or --ignore_labels")
    if labels is None and class_list is not None:
        note(f"{path} has no labels: all its images are used, whatever the class list")
    if manifest is not None and not manifest.get("complete", True):
        note(f"the generation of {path} is not complete")
    prefix = class_balanced_prefix(paths.order(), labels, amount, path)
    return ImageSet(
        paths[prefix],
        None if labels is None or ignore_labels else labels[prefix],
        grey=grey,
        origin={"source": str(path), "images": len(prefix), "manifest": manifest},
    )


def read_labelled(path, num_classes, class_list=None, kind="validation", roots=(), grey=False):
    """Reads a folder with one subfolder per class, or a list with labels, as an ImageSet.

    num_classes: None to count the classes; if it is 1000, folders named by synset are ImageNet's.
    class_list: ClassList; images of other classes are dropped, and each of its classes must exist.
    kind: names the images in messages; roots: further folders for the relative paths of a list;
    grey: average the channels of the images.

    Raises UserError if the images are missing or unlabelled, or the classes are not the expected
    ones.
    """
    path, names = Path(path), []
    if path.is_file():
        paths, labels = read_list(path, roots)
        paths, labels = _select_classes(paths, labels, class_list, path)
    elif path.is_dir():
        names = class_folders(path)
        class_list = class_list or _imagenet_class_list(names, num_classes)
        if class_list:
            label_of = _labels_in_class_list(names, class_list, path)
        else:
            label_of = {name: label for label, name in enumerate(names)}
        paths, labels = _in_class_folders(path, label_of)
    else:
        raise UserError(
            f"{kind} images not found: {path}: give an ImageFolder or a list of `path label` lines"
        )

    if not len(paths):
        raise UserError(
            f"no labelled {kind} images in {path}: give one folder per class, or a list of "
            "`path label` lines (python -m tools.imagenet writes the list of ImageNet's flat "
            "validation folder)"
        )
    if labels is None:
        raise UserError(f"{path} has no labels: write `path label` lines")
    if class_list:
        names, num_classes = list(class_list.synsets), len(class_list)
        _check_all_present(labels, names, path)
    elif names and num_classes not in (None, len(names)):
        raise UserError(
            f"{path} has {len(names)} class folders and the data set has {num_classes} classes: "
            "check --val_data and --dataset"
        )
    num_classes = num_classes or len(names) or int(labels.max()) + 1
    _check_range(labels, num_classes, path)
    return ImageSet(
        paths,
        labels,
        names or [str(label) for label in range(num_classes)],
        grey=grey,
        origin={"source": str(path), "images": len(paths)},
    )


def released_list_path(data_quality, s_step, amount):
    """Path of the released list for a guidance scale, number of sampling steps and image count.

    Thousands are abbreviated: syn_dataset/s2_st100_200k.txt.
    """
    size = f"{amount // 1000}k" if amount % 1000 == 0 else str(amount)
    return Path("syn_dataset") / f"s{data_quality:g}_st{s_step}_{size}.txt"


def class_folders(folder):
    """Names of the subfolders in class order: numerical if all are numbers, else alphabetical."""
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    return sorted(names, key=int) if _are_numbers(names) else names


def class_balanced_prefix(order, labels, amount, source):
    """Indices of the first `amount` images when an equal number is taken from each class.

    Of C classes, each contributes amount div C images, and the first amount mod C classes one more,
    so that a larger prefix contains a smaller one. The indices are grouped by class.

    order: sorting key of each image within its class, (N,); labels: (N,), or None for a single
    class; amount: None for all images; source: names the images in the message.
    Raises UserError if a class has too few images.
    """
    labels_or_zero = np.zeros(len(order), np.int64) if labels is None else labels
    by_class = np.lexsort((order, labels_or_zero))
    if amount is None:
        return by_class
    classes, starts, counts = np.unique(
        labels_or_zero[by_class], return_index=True, return_counts=True
    )
    per_class, remainder = divmod(amount, len(classes))
    wanted = per_class + (np.arange(len(classes)) < remainder)
    if (wanted > counts).any():
        short = np.argmax(wanted > counts)
        in_class = "" if labels is None else f" in class {classes[short]}"
        raise UserError(
            f"--data_amount {amount} needs {wanted[short]} images{in_class}, but {source} has "
            f"{counts[short]}: use a smaller amount, or generate more images"
        )
    rank_in_class = np.arange(len(by_class)) - np.repeat(starts, counts)
    return by_class[rank_in_class < np.repeat(wanted, counts)]


# Folders


def _read_folder(folder, num_classes, class_list):
    """(Paths, labels or None) of class folders, a released flat folder, or unlabelled images."""
    label_of = _labels_of_class_folders(folder, num_classes, class_list)
    if label_of:
        return _in_class_folders(folder, label_of)
    flat = Paths.in_folders({folder: image_names(folder)})
    if len(flat):
        classes = released_classes(flat.names)
        if (classes >= 0).all():
            return _select_classes(flat, classes, class_list, folder)
    return _images_below(folder), None


def _in_class_folders(folder, label_of):
    """(Paths, int64 labels) of the images in the subfolders of `label_of` {name: label}."""
    names_of = {
        os.path.join(folder, name): image_names(os.path.join(folder, name)) for name in label_of
    }
    counts = [len(names) for names in names_of.values()]
    return Paths.in_folders(names_of), np.repeat(np.array([*label_of.values()], np.int64), counts)


def _images_below(folder):
    """Paths of the images in a folder, at any depth."""
    subfolders = sorted(os.path.join(subfolder, "") for subfolder, _, _ in os.walk(folder))
    return Paths.in_folders({subfolder: image_names(subfolder) for subfolder in subfolders})


def _labels_of_class_folders(folder, num_classes, class_list):
    """{subfolder name: label} of a folder of training images, empty if these are not classes.

    Numbers and ImageNet's synsets are labels themselves. Other names are numbered in sorted order
    if there are `num_classes` of them; otherwise they are not classes but, for example, shards.
    """
    names = class_folders(folder)
    are_unique_numbers = (
        bool(names) and _are_numbers(names) and len({int(name) for name in names}) == len(names)
    )
    class_list = class_list or _imagenet_class_list(names, num_classes)
    if class_list:
        if are_unique_numbers or _are_synsets(names):
            return _labels_in_class_list(names, class_list, folder)
        return {}
    if are_unique_numbers:
        return {name: int(name) for name in names}
    if len(names) == num_classes or (num_classes is None and _are_synsets(names)):
        return {name: label for label, name in enumerate(names)}
    if _are_synsets(names):
        raise UserError(
            f"{folder} has {len(names)} class folders named by synset and there are {num_classes} "
            "classes: select classes with --class-list, or give --ignore_labels"
        )
    return {}


def _are_numbers(names):
    return all(name.isdigit() for name in names)


def _are_synsets(names):
    return bool(names) and all(_SYNSET.fullmatch(name) for name in names)


# Classes


def _imagenet_class_list(names, num_classes):
    """ImageNet's ClassList if class folders of these names are its 1000 classes, else None."""
    if num_classes == IMAGENET_CLASSES and _are_synsets(names):
        return whole_imagenet()
    return None


def _labels_in_class_list(names, class_list, folder):
    """{name: label} of the class folders, named by number or synset, that are in the class list.

    Raises UserError for other names, or if no folder is in the class list.
    """
    index_of = {synset: index for index, synset in enumerate(imagenet_synsets())}
    label_of_index = {index: label for label, index in enumerate(class_list.indices)}
    label_of = {}
    for name in names:
        if not name.isdigit() and name not in index_of:
            raise UserError(
                f"{folder}: class folder {name} is neither a number nor a synset of ImageNet-1K: "
                "rename or remove it, or omit --class-list"
            )
        index = int(name) if name.isdigit() else index_of[name]
        if index in label_of_index:
            label_of[name] = label_of_index[index]
    _report_selection(len(label_of), len(names), "class folders", folder)
    return label_of


def _select_classes(paths, labels, class_list, source):
    """The images of the classes in `class_list`, with ImageNet labels replaced by line numbers.

    Without a class list or without labels, the images are returned unchanged.
    """
    if class_list is None or labels is None:
        return paths, labels
    _check_range(labels, IMAGENET_CLASSES, source)
    label_of_index = np.full(IMAGENET_CLASSES, -1)
    label_of_index[list(class_list.indices)] = np.arange(len(class_list))
    labels = label_of_index[labels]
    selected = np.flatnonzero(labels >= 0)
    _report_selection(len(selected), len(paths), "images", source)
    return paths[selected], labels[selected]


def _report_selection(selected, count, items, source):
    """Prints how many items a class list excludes. Raises UserError if it excludes all."""
    if count and not selected:
        raise UserError(
            f"{source}: none of its {count} {items} are in the class list (numbers are ImageNet's "
            "classes, 0 to 999): check --class-list, or give --ignore_labels"
        )
    if selected < count:
        note(f"{source}: {count - selected} of {count} {items} are not in the class list: ignored")


def _check_range(labels, num_classes, source, remedy=""):
    if labels.max() >= num_classes:
        raise UserError(
            f"{source} has class {labels.max()} and there are {num_classes} classes (0 to "
            f"{num_classes - 1}): check the images and --dataset{remedy}"
        )


def _check_all_present(labels, names, source):
    missing = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
    if len(missing):
        raise UserError(
            f"{source} has no images of {len(missing)} of the {len(names)} classes (first: "
            f"{names[missing[0]]}): complete it, or check --val_data, --dataset and --class-list"
        )
