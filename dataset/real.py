"""Real image sets by name: what is known of each, and its training and validation images."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dataset import class_list as class_lists
from dataset import fashion_mnist, folders
from dataset.image_set import ImageSet
from dataset.paths import Paths, image_names
from helper.errors import UserError
from helper.image_size import is_small
from helper.options import positive_int

IMAGENET_STATS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class SetInfo:
    """Facts of a data set."""

    num_classes: int | None  # None: counted in the validation folder
    mean: tuple  # of pixels in [0, 1], one value per channel
    std: tuple
    image_size: int  # pixels
    class_list: str | None = None  # file in dataset/class_lists/: its classes among ImageNet's
    grey: bool = False  # the three channels are equal


REAL_SETS = {
    "fashion_mnist": SetInfo(10, (0.2190,) * 3, (0.3318,) * 3, 32, grey=True),
    "cifar10": SetInfo(10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 32),
    "cifar100": SetInfo(100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32),
    "imagenet": SetInfo(1000, **IMAGENET_STATS, image_size=224),
    "imagenet100": SetInfo(100, **IMAGENET_STATS, image_size=224, class_list="imagenet100.txt"),
    "imagenette": SetInfo(10, **IMAGENET_STATS, image_size=224, class_list="imagenette.txt"),
    "flowers102": SetInfo(102, **IMAGENET_STATS, image_size=224),
    "imagefolder": SetInfo(None, **IMAGENET_STATS, image_size=224),
}

# The flags of `add_flags` that a resumed run must share; the data may have moved.
SETTINGS = ("dataset", "class_list", "val_data", "val_split", "image_size")


def add_flags(parser):
    """Adds the flags of the real data, which `data_from` reads."""
    group = parser.add_argument_group("real data")
    group.add_argument("--dataset", choices=sorted(REAL_SETS), default="imagenet")
    group.add_argument(
        "--class-list",
        default=None,
        metavar="FILE",
        help="file of ImageNet synsets, such as dataset/class_lists/imagenet100.txt: only images "
        "of these classes are used, labelled by line number (default: that of the data set)",
    )
    group.add_argument(
        "--data_root", default="true_dataset", help="folder of the data sets (default: %(default)s)"
    )
    group.add_argument(
        "--val_data",
        default=None,
        help="validation images: an ImageFolder or a list of `path label` lines (default: those of "
        "the data set; imagenet: true_dataset/imagenet_val.txt or true_dataset/imagenet/val/)",
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
        help="batch size of the evaluation, all processes (default: --batch_size; on a GPU at "
        "least 512 per process for images up to 64 pixels)",
    )
    group.add_argument(
        "--image_size", type=positive_int, default=None, help="pixels (default: of the data set)"
    )


def data_from(options):
    """Returns the RealData that the flags of `add_flags` describe."""
    return RealData(
        options.dataset,
        options.data_root,
        options.class_list,
        options.val_data,
        options.val_split,
        options.image_size,
    )


@dataclass(frozen=True)
class RealData:
    """The real images of a run.

    name: a key of REAL_SETS; root: folder of the data sets; class_file: `--class-list`;
    val_data: folder or list of validation images, None for those of the data set;
    val_split: test or holdout; size: `--image_size`.
    """

    name: str
    root: str = "true_dataset"
    class_file: str | None = None
    val_data: str | None = None
    val_split: str = "test"
    size: int | None = None

    @property
    def info(self):
        return REAL_SETS[self.name]

    @property
    def grey(self):
        return self.info.grey

    @property
    def image_size(self):
        return self.size or self.info.image_size

    @property
    def default_statistics(self):
        """(mean, std, whether the statistics that libraries publish for ImageNet weights apply)."""
        info = self.info
        like_imagenet = not is_small(self.image_size) or info.mean == IMAGENET_STATS["mean"]
        return info.mean, info.std, like_imagenet

    @cached_property
    def class_list(self):
        """The ClassList of `--class-list`, else that of the data set, else None.

        Raises UserError if the file is not a class list, or the classes are not ImageNet's.
        """
        own = self.info.class_list
        if self.class_file is None:
            return class_lists.read_class_list(class_lists.FOLDER / own) if own else None
        if own is None and self.name not in ("imagenet", "imagefolder"):
            raise UserError(
                f"--class-list selects classes of ImageNet and cannot be used with --dataset "
                f"{self.name}"
            )
        return class_lists.read_class_list(self.class_file)

    @property
    def num_classes(self):
        """The number of classes, None if only the validation folder tells."""
        return self.info.num_classes if self.class_list is None else len(self.class_list)

    def split(self, split):
        """Returns the ImageSet of the data set's 'train', 'test' or 'holdout' images.

        Raises UserError if the data is missing or does not match the classes of the data set.
        """
        root, train = Path(self.root), split == "train"
        if split == "holdout" and self.name != "fashion_mnist":
            raise UserError(
                f"--val_split holdout exists for fashion_mnist only, not for {self.name}"
            )
        if self.name == "fashion_mnist":
            return fashion_mnist.load(root, split)
        if self.name in ("cifar10", "cifar100"):
            return _cifar(self.name, root, train)
        if self.name == "flowers102":
            return _flowers102(root, train)
        return self._read_folder(_find(root, self.name, train), train)

    def training(self, amount=None):
        """Returns the training ImageSet, or its class-balanced prefix of `amount` images.

        Raises UserError as `split`, or if a class has too few images.
        """
        images = self.split("train")
        if amount is None:
            return images
        prefix = folders.class_balanced_prefix(
            range(len(images)), images.labels, amount, f"the real {self.name}"
        )
        return images.subset(prefix)

    def validation(self):
        """Returns the validation ImageSet: `val_data`, else `val_split` of the data set."""
        if self.class_list is not None and not self.class_list.is_sorted:
            folders.note(
                "the class list is not sorted: a teacher trained on an ImageFolder of these "
                "classes has them in sorted order"
            )
        if self.val_data is None:
            return self.split(self.val_split)
        source = Path(self.val_data)
        parts = folders.class_folders(source) if source.is_dir() else []
        if "val" in parts and {"train", "val", "test"}.issuperset(parts):
            source = source / "val"
        images = self._read_folder(source, train=False)
        images.grey = self.grey
        return images

    def _read_folder(self, source, train):
        """Returns the labelled ImageSet of a folder or list; paths of a list may also be relative
        to the folder of the data set.
        """
        part = "train" if train else "val"
        home = Path(self.root) / ("imagenet" if self.info.class_list else self.name) / part
        what = "training" if train else "validation"
        return folders.read_validation(source, self.info.num_classes, self.class_list, what, [home])


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


def check_classes(train_images, val_images, name):
    """Raises UserError if training and validation images are not of the same classes.

    A list gives numbers for names, so names are compared only where both have them.
    """
    ours, theirs = train_images.class_names, val_images.class_names
    named = not any(name.isdigit() for name in ours + theirs)
    if named and len(ours) == len(theirs) and ours != theirs:
        first = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        raise UserError(
            f"--dataset {name}: training class {first[0]} stands where validation has "
            f"{first[1]}: check --val_data"
        )
    if len(ours) != len(theirs):
        raise UserError(
            f"--dataset {name}: {len(ours)} training classes and {len(theirs)} "
            "validation "
            "classes: check --val_data"
        )


# TEMPORARY: the old functions of the argparse namespace, for scripts that are not converted yet.


def class_list(options):
    return data_from(options).class_list


def load_split(options, split):
    return data_from(options).split(split)


def load_training(options):
    return data_from(options).training(options.data_amount)


def load_validation(options):
    return data_from(options).validation()


def image_size(options):
    return RealData(options.dataset, size=options.image_size).image_size


def default_statistics(options):
    return RealData(options.dataset, size=options.image_size).default_statistics


def make_loader(images, options, world, *, train):
    from dataset import loader, transforms

    size = image_size(options)
    colour = getattr(options, "augment", "usual") == "colour"
    transform = transforms.training(size, colour) if train else transforms.validation(size)
    return loader.make_loader(
        images,
        transform,
        options.batch_size,
        world,
        options.seed,
        options.val_batch_size,
        options.num_workers,
    )
