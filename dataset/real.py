"""Real image sets by name, and the loaders that the training scripts read them through."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset import class_list as class_lists
from dataset import fashion_mnist, folders, transforms
from dataset.image_set import ImageSet
from dataset.loader import Loader, keep_in_memory
from dataset.paths import Paths, image_names
from helper.errors import UserError
from helper.options import positive_int

IMAGENET_STATS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_SMALL = 64  # pixels: sets up to this size are kept in memory


@dataclass(frozen=True)
class RealSet:
    """What is known of a data set: mean and std are of pixels in [0, 1], image_size in pixels."""

    num_classes: int | None  # None: counted in the validation folder
    mean: tuple
    std: tuple
    image_size: int
    class_list: str | None = (
        None  # the file under dataset/class_lists/ that chooses its classes among ImageNet's
    )


REAL_SETS = {
    "fashion_mnist": RealSet(10, (0.2190,) * 3, (0.3318,) * 3, 32),
    "cifar10": RealSet(10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 32),
    "cifar100": RealSet(100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32),
    "imagenet": RealSet(1000, **IMAGENET_STATS, image_size=224),
    "imagenet100": RealSet(100, **IMAGENET_STATS, image_size=224, class_list="imagenet100.txt"),
    "imagenette": RealSet(10, **IMAGENET_STATS, image_size=224, class_list="imagenette.txt"),
    "flowers102": RealSet(102, **IMAGENET_STATS, image_size=224),
    "imagefolder": RealSet(None, **IMAGENET_STATS, image_size=224),
}


def add_flags(parser):
    """Flags that name the real data."""
    group = parser.add_argument_group("real data")
    group.add_argument("--dataset", choices=sorted(REAL_SETS), default="imagenet")
    group.add_argument(
        "--class-list",
        default=None,
        metavar="FILE",
        help="a file of ImageNet synsets, such as dataset/class_lists/imagenet100.txt: only their "
        "images are read, and a line's place is the class (default: the data set's own, if any)",
    )
    group.add_argument(
        "--data_root",
        default="true_dataset",
        help="where the data sets are (default: true_dataset)",
    )
    group.add_argument(
        "--val_data",
        default=None,
        help="validation images: an ImageFolder, or a list of `path label` lines (default: the data "
        "set's own; imagenet: true_dataset/imagenet_val.txt or true_dataset/imagenet/val/)",
    )
    group.add_argument(
        "--val_split",
        choices=["test", "holdout"],
        default="test",
        help="holdout: the last 5,000 training images of fashion_mnist, for choosing settings",
    )
    group.add_argument(
        "--val_batch_size",
        type=positive_int,
        default=None,
        help="images an evaluation step, all processes (default: --batch_size; on a GPU at least 512 a "
        "process up to 64 pixels)",
    )
    group.add_argument(
        "--image_size", type=positive_int, default=None, help="pixels (default: the data set's)"
    )


def class_list(options):
    """Returns the ClassList of `--class-list`, else the data set's own, else None.

    Raises UserError if the file is no class list, or the data set's classes are not ImageNet's.
    """
    own = REAL_SETS[options.dataset].class_list
    if options.class_list is None:
        return class_lists.read_class_list(class_lists.FOLDER / own) if own else None
    if own is None and options.dataset not in ("imagenet", "imagefolder"):
        raise UserError(
            f"--class-list chooses among ImageNet's classes and --dataset is {options.dataset}: "
            "leave it out"
        )
    return class_lists.read_class_list(options.class_list)


def load_split(options, split):
    """Returns the ImageSet of `--dataset`: split 'train', 'test' or 'holdout'.

    Raises UserError if the data is not there or does not match the data set's classes.
    """
    name, root = options.dataset, Path(options.data_root)
    if split == "holdout" and name != "fashion_mnist":
        raise UserError(f"--val_split holdout is fashion_mnist's, --dataset is {name}")
    if name == "fashion_mnist":
        return fashion_mnist.load(root, split)
    if name in ("cifar10", "cifar100"):
        return _cifar(name, root, split == "train")
    if name == "flowers102":
        return _flowers102(root, split == "train")
    return _read_folder(options, _find(root, name, split == "train"), split == "train")


def load_training(options):
    """Returns the training ImageSet of `--dataset`, a class-balanced prefix of it where
    `--data_amount` is given.

    Raises UserError as `load_split`, or if a class holds too few.
    """
    images = load_split(options, "train")
    if options.data_amount is None:
        return images
    return images.subset(
        folders.class_balanced_prefix(
            range(len(images)), images.labels, options.data_amount, f"the real {options.dataset}"
        )
    )


def load_validation(options):
    """Returns the validation ImageSet: `--val_data` where it is given, else the data set's own."""
    listed = class_list(options)
    if listed is not None and not listed.is_sorted:
        folders.note(
            "the class list is not sorted: a teacher that was trained on an ImageFolder of these "
            "classes has "
            "them in sorted order"
        )
    if options.val_data is None:
        return load_split(options, options.val_split)
    source = Path(options.val_data)
    parts = folders.class_folders(source) if source.is_dir() else []
    if "val" in parts and {"train", "val", "test"}.issuperset(parts):
        source = source / "val"
    images = _read_folder(options, source, train=False)
    images.grey = options.dataset == "fashion_mnist"
    return images


def _read_folder(options, source, train):
    """Returns the labelled ImageSet of a folder or list, whose paths may be relative to the data
    set's folder too.
    """
    info, part = REAL_SETS[options.dataset], "train" if train else "val"
    home = Path(options.data_root) / ("imagenet" if info.class_list else options.dataset) / part
    return folders.read_validation(
        source, info.num_classes, class_list(options), "training" if train else "validation", [home]
    )


def _find(root, name, train):
    """Returns the list or folder of a data set's images; sets with a class list may be parts of
    ImageNet.
    """
    part = "train" if train else "val"
    candidates = [root / f"{name}_{part}.txt", root / name / part]
    if REAL_SETS[name].class_list:
        candidates = [root / name / part, root / f"imagenet_{part}.txt", root / "imagenet" / part]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise UserError(
        f"no {part} images of {name}: none of {', '.join(map(str, candidates))} exists (a list of "
        "`path "
        "label` lines, or an ImageFolder); true_dataset/README.md says how they get there"
        + ("" if train else ", or give --val_data")
    )


def _cifar(name, root, train):
    from torchvision.datasets import CIFAR10, CIFAR100

    try:
        real = (CIFAR10 if name == "cifar10" else CIFAR100)(root, train=train)
    except RuntimeError:
        raise UserError(
            f'{name} is not in {root}: run  python -c "import torchvision; '
            f"torchvision.datasets.{name.upper()}('{root}', download=True)\""
        ) from None
    return ImageSet(
        real.data,
        np.asarray(real.targets, np.int64),
        list(real.classes),
        origin={"dataset": name, "split": "train" if train else "test"},
    )


def _flowers102(root, train):
    """Flowers-102 in torchvision's layout: its training and validation images train, its test
    images validate.
    """
    folder = root / "flowers-102"
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(
            "flowers102 has its labels in .mat files and scipy, which reads them, is not "
            "installed: "
            "pip install scipy"
        ) from None
    try:
        split, labels = (
            loadmat(folder / f"{name}.mat", squeeze_me=True) for name in ("setid", "imagelabels")
        )
    except Exception:  # scipy raises many kinds for damaged files
        raise UserError(
            f'flowers102 is not in {folder}, or damaged: run  python -c "import torchvision; '
            f"torchvision.datasets.Flowers102('{root}', download=True)\""
        ) from None
    # Images and classes are numbered from 1.
    numbers = np.concatenate([split["trnid"], split["valid"]]) if train else split["tstid"]
    names = [b"image_%05d.jpg" % number for number in numbers]
    lacking = set(names).difference(
        image_names(folder / "jpg") if (folder / "jpg").is_dir() else ()
    )
    if lacking:
        raise UserError(
            f"{folder / 'jpg'} lacks {len(lacking)} images of flowers102, {min(lacking).decode()} "
            "among "
            "them: download it again"
        )
    return ImageSet(
        Paths.in_folders({folder / "jpg": names}),
        labels["labels"][numbers - 1].astype(np.int64) - 1,
        [str(i) for i in range(REAL_SETS["flowers102"].num_classes)],
        origin={"dataset": "flowers102", "split": "train + val" if train else "test"},
    )


def check_classes(train_images, val_images, options):
    """Raises UserError if training and validation images are not of the same classes.

    A list gives numbers for names, so names are compared only where both have them.
    """
    ours, theirs = train_images.class_names, val_images.class_names
    named = not any(name.isdigit() for name in ours + theirs)
    if named and len(ours) == len(theirs) and ours != theirs:
        first = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        raise UserError(
            f"--dataset {options.dataset}: training class {first[0]} stands where validation has "
            f"{first[1]}: check --val_data"
        )
    if len(ours) != len(theirs):
        raise UserError(
            f"--dataset {options.dataset}: {len(ours)} training classes and {len(theirs)} "
            "validation "
            "classes: check --val_data"
        )


def image_size(options):
    """Returns `--image_size`, or the data set's."""
    return options.image_size or REAL_SETS[options.dataset].image_size


def default_statistics(options):
    """Returns (mean, std, whether the images are like ImageNet's, so that a library's statistics
    fit them).
    """
    info = REAL_SETS[options.dataset]
    return info.mean, info.std, image_size(options) > _SMALL or info.mean == IMAGENET_STATS["mean"]


def make_loader(images, options, world, *, train):
    """Returns the Loader of an ImageSet with the transform of its use; small sets are kept in
    memory.

    `options.augment`, where a script has it, chooses the training transform: 'usual', or 'colour'
    (One-Image's).
    """
    size = image_size(options)
    colour = getattr(options, "augment", "usual") == "colour"
    transform = transforms.training(size, colour) if train else transforms.validation(size)
    on_gpu = world.device.type == "cuda"
    ordered = (
        max(options.batch_size, 512 * world.size)
        if on_gpu and size <= _SMALL
        else options.batch_size
    )
    return Loader(
        keep_in_memory(images, transform.shrink) if size <= _SMALL else images,
        transform,
        options.batch_size,
        seed=options.seed,
        rank=world.rank,
        world_size=world.size,
        ordered_batch=options.val_batch_size or ordered,
        workers=options.num_workers,
        pin=on_gpu,
    )
