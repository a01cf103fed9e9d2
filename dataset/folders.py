"""Image folders and lists: class folders, released flat folders, lists of `path [label]` lines, and
unlabelled folders.

With a class list, a number that names a class (a folder, a released file name, the label of a list)
is an index of ImageNet-1K, 0…999, even if the set has fewer classes. A class folder may also be
named by its synset.
"""

import difflib
import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset.class_list import IMAGENET_CLASSES, imagenet_synsets, whole_imagenet
from dataset.image_set import ImageSet
from dataset.lists import read_list
from dataset.pack import is_pack, read_pack
from dataset.paths import Paths, is_class_number, released_classes
from dataset.places365 import training_folder
from dataset.scan import EXTENSIONS, LeftOut, is_without_images, scan, walk
from helper.errors import UserError, note
from helper.files import entry, read_json

# Folders of these names hold parts of a data set, each with its own class folders.
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
_SYNSET = re.compile(r"n\d{8}")


def read_training(
    path,
    num_classes,
    amount=None,
    class_list=None,
    ignore_labels=False,
    grey=False,
    class_names=(),
):
    """Reads the training images of a folder or list file as an ImageSet.

    num_classes: of the teacher, None if any label is valid.
    amount: size of a class-balanced prefix, see `class_balanced_prefix`.
    class_list: ClassList; images of other classes are dropped, and labels are its line numbers.
    ignore_labels: labels only balance `amount`; images of all classes are used.
    grey: average the channels of the images.
    class_names: of the validation images, which number class folders of these names. If the names
    differ, the images have no labels, `why_unlabelled` says why, and a note does.
    For Places365 in torchvision's layout, `path` is the root folder, which gives no labels, or a
    training list.

    Raises UserError if there are no images, an image of a list is missing, a class is out of range,
    or there are fewer than `amount` images.
    """
    path, left_out, why = Path(path), LeftOut(), ""
    if ignore_labels:
        num_classes, class_list, class_names = None, None, ()
    manifest = _own_manifest(path / "manifest.json")
    places365 = training_folder(path)
    if path.is_file():
        paths, labels = read_list(path, [places365] if places365 else ())
        if labels is not None and class_list is None:
            _note_indices(path, "labels", class_names)
        paths, labels = _select_classes(paths, labels, class_list, path)
    elif is_pack(path):
        paths, classes, names, manifest = read_pack(path)
        labels = None if (classes < 0).all() else classes
        if names is None:
            if labels is not None and class_list is None:
                _note_indices(path, "labels", class_names)
            paths, labels = _select_classes(paths, labels, class_list, path)
        else:
            label_of, why = _label_folders(
                names, path, num_classes, class_list, class_names, manifest
            )
            paths, labels = _in_pack(paths, classes, names, label_of)
    elif path.exists() and not path.is_dir():
        raise UserError(f"{path} is a pipe or a device: save the list in a file and give that")
    elif not path.is_dir():
        raise UserError(f"training images not found: {path}: give an image folder or a list file")
    elif places365:
        paths, labels = _images_below(places365, left_out), None
    elif manifest is not None and not manifest.get("labelled", True):
        # Generated without labels: the numbered folders are not classes.
        paths, labels = _images_below(path, left_out), None
    else:
        paths, labels, why = _read_folder(
            path, num_classes, class_list, class_names, manifest, left_out
        )

    if not len(paths):
        raise UserError(
            f"no images in {path} (file names end in {', '.join(EXTENSIONS)})"
            + _where_images_are(path, left_out, "train")
        )
    if labels is not None and num_classes is not None and not why:
        _check_range(
            labels,
            num_classes,
            path,
            ", or give --class-list (train_student.py: or --ignore_labels)",
        )
    if labels is None and class_list is not None:
        note(f"{path} has no labels: all its images are used, whatever the class list")
    if manifest is not None and not manifest.get("complete", True):
        note(f"the generation of {path} is not complete")
    _note_left_out(path, left_out)
    prefix = class_balanced_prefix(paths.order(), labels, amount, path)
    images = ImageSet(
        paths[prefix],
        None if labels is None or ignore_labels else labels[prefix],
        grey=grey,
        origin={"source": str(path), "images": len(prefix), "manifest": manifest},
        why_unlabelled="" if ignore_labels else why,
    )
    return without_wrong_labels(images)


def read_labelled(
    path,
    num_classes,
    class_list=None,
    kind="validation",
    roots=(),
    grey=False,
    class_names=(),
):
    """Reads a folder with one subfolder per class, or a list with labels, as an ImageSet.

    num_classes: None to count the classes; if it is 1000, folders named by synset are ImageNet's.
    class_list: ClassList; images of other classes are dropped, and each of its classes must exist.
    kind: names the images in messages; roots: further folders for the relative paths of a list;
    grey: average the channels of the images.
    class_names: of the validation images, for training images: they number class folders of these
    names. If the names differ, `why_unlabelled` says why, and the labels only tell classes apart.
    Without class names, the folders are numbered in class order.

    Raises UserError if the images are missing or unlabelled, or the classes are not the expected
    ones.
    """
    path, left_out, names, why = Path(path), LeftOut(), [], ""
    packed = read_pack(path) if is_pack(path) else None
    if path.is_file() or (packed and packed[2] is None):
        paths, labels = packed[:2] if packed else read_list(path, roots)
        paths, labels = _select_classes(paths, labels, class_list, path)
    elif path.is_dir():
        names, loose = (packed[2], []) if packed else _class_folders(path, left_out)
        class_list = class_list or _imagenet_class_list(names, num_classes)
        if class_list:
            label_of = _labels_in_class_list(names, class_list, path)
        elif both_have_names(names, class_names):
            label_of, why = labels_by_name(names, class_names)
        else:
            label_of = {name: label for label, name in enumerate(names)}
        names = sorted(names, key=lambda name: label_of.get(name, -1))
        if packed:
            paths, labels = _in_pack(*packed[:3], label_of)
        else:
            paths, labels = _in_class_folders(path, label_of, loose, left_out)
    else:
        raise UserError(
            f"{kind} images not found: {path}: give an ImageFolder or a list of `path label` lines"
        )

    if not len(paths):
        raise UserError(
            f"no labelled {kind} images in {path}: give one folder per class, or a list of "
            "`path label` lines (for ImageNet's flat folder, python -m tools.imagenet --images "
            "FOLDER --solution LOC_val_solution.csv writes it)"
            + _where_images_are(path, left_out, kind)
        )
    if labels is None:
        raise UserError(f"{path} has no labels: write `path label` lines")
    if kind == "validation" and names in (["images"], ["image"], ["imgs"], ["img"]):
        raise UserError(
            f"{path} has a single class folder, {names[0]}: give one folder per class, or a list "
            "of `path label` lines"
        )
    num_classes = num_classes or len(class_names) or None
    if class_list:
        names, num_classes = list(class_list.synsets), len(class_list)
        _check_all_present(labels, names, path)
    elif names and num_classes not in (None, len(names)) and not why:
        remedy = "check --val_data and --dataset"
        raise UserError(
            f"{path} has {len(names)} class folders and the data set has {num_classes} classes: "
            + (remedy if kind == "validation" else "give a folder with all of them")
        )
    if not num_classes and not names and labels.min() == 1:
        raise UserError(
            f"{path}: the labels are 1 to {labels.max()}, and no image has class 0: subtract 1, "
            "for classes are counted from 0"
        )
    num_classes = num_classes or len(names) or int(labels.max()) + 1
    if not why:
        _check_range(labels, num_classes, path)
    _note_left_out(path, left_out)
    return ImageSet(
        paths,
        labels,
        names or [str(label) for label in range(num_classes)],
        grey=grey,
        origin={"source": str(path), "images": len(paths)},
        why_unlabelled=why,
    )


def without_wrong_labels(images):
    """The ImageSet without labels, and a note, if it has `why_unlabelled`; else as it is."""
    if not images.why_unlabelled:
        return images
    source = images.origin.get("source", "training images")
    note(f"{source}: labels are not used: {images.why_unlabelled}")
    return replace(images, labels=None)


def both_have_names(names, class_names):
    """Whether the names of class folders can be compared with those of the validation images.

    Validation images without names have the numbers 0, 1, 2, … in their place. Numbers are names if
    they are the validation folders' names, such as 1 … 102, or cannot be class indices.
    """
    if not names or list(class_names) == [str(label) for label in range(len(class_names))]:
        return False
    if not are_numbers(names):
        return not are_numbers(class_names)
    if set(names) <= set(class_names):
        return True
    return are_numbers(class_names) and max(map(int, names)) >= len(class_names)


def labels_by_name(names, class_names):
    """({class folder: label}, "") by the validation images' class names.

    If the names differ, the folders are numbered in order, and the text says how they differ.
    """
    if set(names) == set(class_names):
        return {name: class_names.index(name) for name in names}, ""
    label_of = {_comparable(name): label for label, name in enumerate(class_names)}
    name_of = {_comparable(name): name for name in names}
    if name_of.keys() == label_of.keys() and len(name_of) == len(names):
        return {name: label_of[_comparable(name)] for name in names}, ""
    why = names_differ(names, class_names) or "two of its class folders have the same number"
    return {name: label for label, name in enumerate(names)}, why


def names_differ(names, class_names):
    """How the class names of training and validation images differ, "" if they do not."""
    # A blank at the end would not be seen
    quoted = any(name != name.strip() for name in [*names, *class_names])
    ours, theirs = (
        {_comparable(name): repr(name) if quoted else name for name in part}
        for part in (names, class_names)
    )
    unknown = [name for key, name in ours.items() if key not in theirs]
    missing = [name for key, name in theirs.items() if key not in ours]
    numbers = f"{len(names)} class folders, and the validation images have {len(class_names)}"
    if unknown and missing:
        (nearest,) = difflib.get_close_matches(unknown[0], missing, 1, 0)
        return (
            f"its class {unknown[0]} is not one of the validation images, which have {nearest} "
            f"({len(unknown)} of {len(names)} names differ)"
        )
    if unknown:
        return f"its class {unknown[0]} is not one of the validation images ({numbers})"
    if missing:
        return f"class {missing[0]} of the validation images is missing ({numbers})"
    return ""


def are_decimals(names):
    """Whether all names are numbers, not all of them whole and without a sign, in another order as
    text.
    """
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return False
    return not are_numbers(names) and numbers != sorted(numbers)


def are_numbers(names):
    """Whether all names are numbers of ASCII digits that fit an int64."""
    return all(map(is_class_number, names))


def read_for_pack(path):
    """Reads all images of a folder or list for a pack: (ImageSet, names of its class folders, None
    if it has none).

    Its labels are indices of the names, or else the labels of the list or of the released names.
    Raises UserError as `read_training`.
    """
    path, left_out = Path(path), LeftOut()
    if not path.is_dir():
        return read_training(path, None), None
    manifest = _own_manifest(path / "manifest.json")
    names, loose = _class_folders(path, left_out)
    if not names or training_folder(path) or not (manifest or {}).get("labelled", True):
        return read_training(path, None), None
    paths, classes = _in_class_folders(
        path, {name: number for number, name in enumerate(names)}, loose, left_out
    )
    if not len(paths):
        return read_training(path, None), None
    _note_left_out(path, left_out)
    origin = {"source": str(path), "images": len(paths), "manifest": manifest}
    return ImageSet(paths, classes, origin=origin), names


def released_list_path(data_quality, s_step, amount):
    """Path of the released list for a guidance scale, number of sampling steps and image count.

    Thousands are abbreviated: syn_dataset/s2_st100_200k.txt.
    """
    size = f"{amount // 1000}k" if amount % 1000 == 0 else str(amount)
    return Path("syn_dataset") / f"s{data_quality:g}_st{s_step}_{size}.txt"


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


def _own_manifest(file):
    """The manifest of images that were generated here; None without one, or for another program's,
    which is ignored with a note. Raises UserError for a damaged one.
    """
    if not file.is_file():
        return None
    manifest = read_json(file, "manifest", object)
    try:
        if not isinstance(manifest, dict):
            raise UserError(f"{file} is not a manifest of generated images")
        entry(manifest, "complete", bool, file)
        entry(manifest, "labelled", bool, file, True)
        entry(manifest, "method", str | None, file, None)
    except UserError as error:
        note(f"ignored: {error}")
        return None
    return manifest


def _read_folder(folder, num_classes, class_list, class_names, manifest, left_out):
    """(Paths, labels or None, why the labels are wrong or missing) of class folders, a released
    flat folder, or unlabelled images.

    manifest: as in `_label_folders`.
    """
    names, loose = _class_folders(folder, left_out)
    if manifest is None and are_numbers(names) and (folder / "dataset.json").is_file():
        raise UserError(
            f"{folder}: its numbered folders are no classes, for dataset.json has the labels (as "
            "for StyleGAN and EDM): write them as `path label` lines and give that list"
        )
    label_of, why = _label_folders(names, folder, num_classes, class_list, class_names, manifest)
    if label_of:
        return *_in_class_folders(folder, label_of, loose, left_out), why
    flat = Paths.in_folders({folder: loose})
    if len(flat):
        classes = released_classes(flat.names)
        if (classes >= 0).all():
            _count_images([os.path.join(folder, name) for name in names], [folder], left_out)
            return *_select_classes(flat, classes, class_list, folder), ""
    left_out.clear()
    if len(splits := _splits(names)) == len(names) > 1:
        note(
            f"{folder}: the images of {', '.join(splits)} are all used: give one of these folders "
            "to use only its images"
        )
    return _images_below(folder, left_out), None, why


def _label_folders(names, folder, num_classes, class_list, class_names, manifest):
    """`_labels_of_class_folders`, where numbers in a generated folder, which has a manifest, are
    indices and no names: of the generator's classes, if the manifest names them.
    """
    if not names:
        return {}, ""
    if manifest is not None and are_numbers(names):
        if not class_list and (
            labels := _labels_by_generator(names, folder, manifest, class_names)
        ):
            return labels, ""
        class_names = ()
    return _labels_of_class_folders(names, folder, num_classes, class_list, class_names)


def _labels_by_generator(names, folder, manifest, class_names):
    """{numbered class folder: label} by the names of the generator's classes, which are those of
    the validation images.

    Empty if one of both has no names, or if they differ, of which a note tells.
    """
    every = manifest.get("class_names")
    if not every or not (isinstance(every, list) and all(isinstance(name, str) for name in every)):
        _note_indices(folder, "numbered folders", class_names)
        return {}
    if not both_have_names(every, class_names) or max(map(int, names)) >= len(every):
        return {}
    label_of = {_comparable(name): label for label, name in enumerate(class_names)}
    known = {name: label_of.get(_comparable(every[int(name)])) for name in names}
    if None not in known.values():
        return known
    why = names_differ([every[int(name)] for name in names], class_names)
    note(f"{folder}: its classes and the validation images' are matched by number: {why}")
    return {}


def _note_indices(source, numbers, class_names):
    """Notes which classes the numbers of a folder or list are, if the validation images have names.

    numbers: what they are, such as labels.
    """
    if class_names and not are_numbers(class_names):
        note(
            f"{source}: its {numbers} are class indices: 0 is {class_names[0]} of the "
            f"validation images, {len(class_names) - 1} is {class_names[-1]}"
        )


def _in_pack(images, classes, names, label_of):
    """(PackedImages, int64 labels) of the images in the class folders of `label_of` {name: label};
    all images without labels if it is empty.

    classes: of all images, indices of `names`.
    """
    if not label_of:
        return images, None
    labels = np.array([label_of.get(name, -1) for name in names])[classes]
    selected = np.flatnonzero(labels >= 0)
    return images[selected], labels[selected]


def _class_folders(folder, left_out):
    """Names of the subfolders in class order, and of the images beside them (bytes).

    Class order is numerical if all names are numbers, else alphabetical. Folders of other files are
    left out.
    """
    loose, names = scan(folder, left_out)
    for name in [name for name in names if not is_class_number(name)]:
        if is_without_images(path := os.path.join(folder, name)):
            left_out.add("folders of files that are no images", path)
            names.remove(name)
    return sorted(names, key=int) if are_numbers(names) else names, loose


def _in_class_folders(folder, label_of, loose, left_out):
    """(Paths, int64 labels) of the images in the subfolders of `label_of` {name: label}.

    loose: names of images beside the subfolders, which are counted in left_out.
    """
    names_of, deeper = {}, []
    for name in label_of:
        path = os.path.join(folder, name)
        names_of[path], subfolders = scan(path, left_out)
        deeper += [os.path.join(path, subfolder) for subfolder in subfolders]
    if loose:
        first = os.path.join(folder, os.fsdecode(loose[0]))
        left_out.add("images outside of class folders", first, len(loose))
    _count_images(deeper, [folder, *names_of] if deeper else [], left_out)
    counts = [len(names) for names in names_of.values()]
    return Paths.in_folders(names_of), np.repeat(np.array([*label_of.values()], np.int64), counts)


def _count_images(subfolders, known, left_out):
    """Counts the images below `subfolders` as left out, except for those in `known` folders."""
    for folder, names in walk(subfolders, left_out, known).items():
        if names:
            left_out.add("images in deeper folders", folder + os.fsdecode(names[0]), len(names))


def _images_below(folder, left_out):
    """Paths of the images in a folder, at any depth."""
    return Paths.in_folders(walk([folder], left_out))


def _note_left_out(path, left_out):
    if left_out:
        note(f"{path}: left out: {left_out}")


def _where_images_are(path, left_out, part):
    """The end of the message for a folder without images: what else is in it.

    part: the kind of images, 'training' or 'validation'.
    """
    if not path.is_dir():
        return ""
    splits = _splits(scan(path, LeftOut())[1])
    if splits:
        fitting = [split for split in splits if split.lower()[:2] == part[:2]] or splits
        return f"; it contains {' and '.join(splits)}: give {path / fitting[0]}"
    return f"; left out: {left_out}" if left_out else ""


def _splits(names):
    """The names of folders that are splits of a data set."""
    return [name for name in names if name.lower() in SPLITS]


# Class folders


def _labels_of_class_folders(names, folder, num_classes, class_list, class_names):
    """({name: label}, why the labels are wrong) of class folders of training images.

    Without labels, these are no class folders but, for example, shards. class_names: of the
    validation images, if they are known.
    """
    are_indices = are_numbers(names) and len({int(name) for name in names}) == len(names)
    classes = class_list or _imagenet_class_list(names, num_classes)
    if classes and (are_indices or _are_synsets(names)):
        return _labels_in_class_list(names, classes, folder), ""
    if classes:
        return {}, f"its subfolders, such as {names[0]}, are neither numbers nor synsets"
    in_order, why = {name: label for label, name in enumerate(names)}, ""
    if both_have_names(names, class_names):
        label_of, why = labels_by_name(names, class_names)
        if not why or are_indices or len(names) == num_classes:
            return label_of, why
    elif are_indices:
        _note_indices(folder, "numbered folders", class_names)
        return {name: int(name) for name in names}, ""
    elif len(names) == num_classes:
        if class_names:
            number = _first_out_of_order(names)
            note(
                f"{folder}: the class folders are numbered in alphabetical order, for the "
                f"validation images have no such names: {names[number]} is class {number}"
            )
        return in_order, ""
    elif num_classes is None and _are_synsets(names):
        return in_order, ""
    odd = [name for name in names if are_numbers(names[:1]) and not is_class_number(name)]
    such = f" ({odd[0]} is no number)" if odd else ""
    why = why or f"it has {len(names)} subfolders{such} and there are {num_classes} classes"
    if _are_synsets(names):
        raise UserError(
            f"{folder} has {len(names)} class folders named by synset and there are {num_classes} "
            f"classes ({why}): select classes with --class-list, or give --ignore_labels"
        )
    return {}, why


def _first_out_of_order(names):
    """Index of the first of the sorted names that the numbers in them would put elsewhere, or 0."""

    def natural(name):
        parts = re.split("([0-9]+)", name)
        parts[1::2] = map(int, parts[1::2])
        return parts

    pairs = enumerate(zip(names, sorted(names, key=natural), strict=True))
    return next((index for index, (name, other) in pairs if name != other), 0)


def _comparable(name):
    """A number as int, so that 007 is 7, and text in one Unicode form and without a slash."""
    if are_numbers([name]):
        return int(name)
    text = os.fsencode(name).decode("utf-8", "surrogateescape")  # whatever the locale
    text = text.replace("/", "_")  # T-shirt/top cannot be a folder
    return unicodedata.normalize("NFC", text)


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
        if not are_numbers([name]) and name not in index_of:
            raise UserError(
                f"{folder}: class folder {name} is neither a number nor a synset of ImageNet-1K: "
                "rename or remove it, or omit --class-list"
            )
        index = index_of[name] if name in index_of else int(name)
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
    if labels.max() == num_classes and labels.min() == 1:
        raise UserError(
            f"{source} has the classes 1 to {num_classes}, and classes are counted from 0 to "
            f"{num_classes - 1}: subtract 1 from the labels or the names of the folders"
        )
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
