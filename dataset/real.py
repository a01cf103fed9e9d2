"""Real data sets by name: their properties, and their training and validation images."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from dataset import fashion_mnist, folders
from dataset.class_list import FOLDER, read_class_list
from dataset.image_set import ImageSet
from dataset.paths import Paths
from dataset.scan import LeftOut, scan
from helper.errors import UserError
from helper.image_size import SMALL, is_small
from helper.options import positive_int

IMAGENET_STATS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class SetInfo:
    """Properties of a data set."""

    num_classes: int | None  # None: as many as the validation folder has
    mean: tuple  # of pixels in [0, 1], one value per channel
    std: tuple
    image_size: int  # pixels
    class_list: str | None = None  # file in dataset/class_lists/, for subsets of ImageNet
    grey: bool = False  # the three channels are equal
    holdout: bool = False  # a part of the training images is the split `holdout`
    test_images: int | None = None  # in the split `test`; None: it varies


REAL_SETS = {
    "fashion_mnist": SetInfo(
        10, (0.2190,) * 3, (0.3318,) * 3, 32, grey=True, holdout=True, test_images=10_000
    ),
    "cifar10": SetInfo(
        10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 32, test_images=10_000
    ),
    "cifar100": SetInfo(
        100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, test_images=10_000
    ),
    "imagenet": SetInfo(1000, **IMAGENET_STATS, image_size=224, test_images=50_000),
    "imagenet100": SetInfo(
        100, **IMAGENET_STATS, image_size=224, class_list="imagenet100.txt", test_images=5_000
    ),
    "imagenette": SetInfo(10, **IMAGENET_STATS, image_size=224, class_list="imagenette.txt"),
    "flowers102": SetInfo(102, **IMAGENET_STATS, image_size=224, test_images=6_149),
    "imagefolder": SetInfo(None, **IMAGENET_STATS, image_size=224),
}

# A resumed run must share these flags of `add_flags`; the data root may have moved.
SETTINGS = ("dataset", "class_list", "class_order", "val_data", "val_split", "image_size")


def add_flags(parser):
    """Adds the flags that `data_from` reads."""
    group = parser.add_argument_group("real data")
    group.add_argument(
        "--dataset",
        choices=sorted(REAL_SETS),
        default="imagenet",
        help="data set of the teacher and of the validation images (default: imagenet)",
    )
    group.add_argument(
        "--class-list",
        default=None,
        metavar="FILE",
        help="file of ImageNet synsets, such as dataset/class_lists/imagenet100.txt: use only "
        "images of these classes, labelled by line number (default: list of the data set, if any)",
    )
    group.add_argument(
        "--class_order",
        choices=["numeric", "string"],
        default=None,
        help="order of validation class folders that are numbers: 1, 2, 10 or, as in torchvision's "
        "ImageFolder, 1, 10, 2 (default: numeric)",
    )
    group.add_argument(
        "--data_root", default="true_dataset", help="folder of the data sets (default: %(default)s)"
    )
    group.add_argument(
        "--val_data",
        default=None,
        help="validation images: an ImageFolder or a list of `path label` lines (default: those of "
        "the data set; for imagenet, <data_root>/imagenet_val.txt or <data_root>/imagenet/val/)",
    )
    group.add_argument(
        "--val_split",
        choices=["test", "holdout"],
        default="test",
        help="holdout: the last 5,000 training images of fashion_mnist, for choosing "
        "hyperparameters (default: test)",
    )
    group.add_argument(
        "--val_batch_size",
        type=positive_int,
        default=None,
        help="batch size of the evaluation over all processes (default: --batch_size; on a GPU at "
        f"least 512 per process for images up to {SMALL} pixels)",
    )
    group.add_argument(
        "--image_size",
        type=positive_int,
        default=None,
        help="image size in pixels (default: that of the data set)",
    )


def data_from(options):
    """Converts the flags of `add_flags` to RealData.

    Raises UserError if `--val_data` is combined with `--val_split holdout`.
    """
    if options.val_data is not None and options.val_split == "holdout":
        raise UserError("--val_split holdout and --val_data cannot be combined")
    return RealData(
        options.dataset,
        options.data_root,
        options.class_list,
        options.val_data,
        options.val_split,
        options.image_size,
        options.class_order,
    )


@dataclass(frozen=True)
class RealData:
    """A data set as the flags describe it.

    name: key of REAL_SETS; root: folder of the data sets; class_file: `--class-list`; val_data:
    folder or list of validation images, None for those of the data set; val_split: test or holdout;
    size: `--image_size`; class_order: of class folders that are numbers: numeric, string, or None
    for numeric.
    """

    name: str
    root: str = "true_dataset"
    class_file: str | None = None
    val_data: str | None = None
    val_split: str = "test"
    size: int | None = None
    class_order: str | None = None

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
        """(mean, std, whether statistics published with ImageNet weights take precedence)."""
        mean, std = self.info.mean, self.info.std
        like_imagenet = not is_small(self.image_size) or mean == IMAGENET_STATS["mean"]
        return mean, std, like_imagenet

    @cached_property
    def class_list(self):
        """ClassList of `--class-list`, else of the data set, else None.

        Raises UserError if the file is not a class list, or the data set is not a part of ImageNet.
        """
        default = self.info.class_list
        if self.class_file is None:
            return read_class_list(FOLDER / default) if default else None
        if default is None and self.name not in ("imagenet", "imagefolder"):
            raise UserError(
                f"--class-list selects classes of ImageNet and cannot be used with --dataset "
                f"{self.name}"
            )
        return read_class_list(self.class_file)

    @property
    def num_classes(self):
        """Number of classes, None if it has to be counted in the validation folder."""
        return self.info.num_classes if self.class_list is None else len(self.class_list)

    def split(self, split, class_names=()):
        """ImageSet of the data set's 'train', 'test' or 'holdout' images.

        class_names: of the validation images, for training images in class folders.
        Raises UserError if the data is missing or does not have the classes of the data set.
        """
        root, train = Path(self.root), split == "train"
        if split == "holdout" and not self.info.holdout:
            raise UserError(
                f"--val_split holdout exists for fashion_mnist only, not for {self.name}"
            )
        if self.name == "fashion_mnist":
            return fashion_mnist.load(root, split)
        if self.name in ("cifar10", "cifar100"):
            return _read_cifar(self.name, root, train)
        if self.name == "flowers102":
            return _read_flowers102(root, train)
        return self._read_labelled(_find_images(root, self.name, train), train, class_names)

    def training(self, amount=None, class_names=()):
        """ImageSet of the training images, or of a class-balanced prefix of `amount` images.

        class_names: of the validation images; if they are others, there are no labels, and
        `why_unlabelled` says why. Raises UserError as `split`, or if a class has too few images.
        """
        images = self.split("train", class_names)
        if images.in_memory and folders.both_have_names(images.class_names, class_names):
            label_of, why = folders.labels_by_name(images.class_names, class_names)
            labels = np.array(list(label_of.values()))[images.labels]
            images = replace(images, labels=labels, why_unlabelled=why)
        if amount is not None:
            prefix = folders.class_balanced_prefix(
                range(len(images)), images.labels, amount, f"the real {self.name}"
            )
            images = images.subset(prefix)
        return folders.without_wrong_labels(images)

    def validation(self):
        """ImageSet of the validation images: `val_data`, else `val_split` of the data set."""
        if self.class_list is not None and not self.class_list.is_sorted:
            folders.note(
                "the class list is not sorted, but the outputs of a teacher that was trained on an "
                "ImageFolder are in sorted order"
            )
        if self.val_data is None:
            return self.split(self.val_split)
        path = Path(self.val_data)
        subfolders = scan(path, LeftOut())[1] if path.is_dir() else []
        if "val" in subfolders and {"train", "val", "test"}.issuperset(subfolders):
            path = path / "val"
        return self._read_labelled(path, train=False)

    def names_of_validation(self):
        """The class names of the validation images, in order; [] if those of the data set are not
        here. Raises UserError as `validation` for those of `val_data`.
        """
        try:
            return self.validation().class_names
        except UserError:
            if self.val_data is not None:
                raise
            return []

    def _read_labelled(self, path, train, class_names=()):
        """Reads class folders or a list, whose paths may be relative to the data set's folder."""
        data_set = "imagenet" if self.info.class_list else self.name
        images = folders.read_labelled(
            path,
            self.info.num_classes,
            self.class_list,
            kind="training" if train else "validation",
            roots=[Path(self.root) / data_set / ("train" if train else "val")],
            grey=self.grey,
            class_names=class_names,
        )
        names = sorted(images.class_names)
        if path.is_dir() and not train and folders.are_decimals(names):
            folders.note(
                f"{path}: the class folders are numbers with signs or decimals, in the order of "
                f"text: {', '.join(names[:4])}, …"
            )
        is_ambiguous = folders.are_numbers(names) and names != images.class_names
        if not is_ambiguous or class_names or path.is_file():
            return images
        if self.class_order == "string":
            ranks = np.array([names.index(name) for name in images.class_names])
            images = replace(images, labels=ranks[images.labels], class_names=names)
        remedy = "" if self.class_order else "; torchvision's ImageFolder has --class_order string"
        folders.note(
            f"{path}: the class folders are numbers, in {self.class_order or 'numeric'} order: "
            f"{', '.join(images.class_names[:4])}, …{remedy}"
        )
        return images


def _find_images(root, name, train):
    """Path of the list or folder of a data set; subsets of ImageNet may be taken from ImageNet."""
    part = "train" if train else "val"
    if REAL_SETS[name].class_list:
        candidates = [root / name / part, root / f"imagenet_{part}.txt", root / "imagenet" / part]
    else:
        candidates = [root / f"{name}_{part}.txt", root / name / part]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise UserError(
        f"no {part} images of {name}: none of {', '.join(map(str, candidates))} exists (a list of "
        "`path label` lines, or an ImageFolder): give --data_root FOLDER"
        + ("" if train else " or --val_data")
        + f", or see {FOLDER.parents[1] / 'true_dataset/README.md'}"
    )


def _read_cifar(name, root, train):
    """CIFAR-10 or CIFAR-100 in torchvision's layout."""
    from torchvision.datasets import CIFAR10, CIFAR100

    try:
        cifar = (CIFAR10 if name == "cifar10" else CIFAR100)(root, train=train)
    except RuntimeError:
        raise UserError(
            f'{name} is not in {root}: give --data_root FOLDER, or run  python -c "import '
            "torchvision; "
            f"torchvision.datasets.{name.upper()}('{root}', download=True)\""
        ) from None
    return ImageSet(
        cifar.data,
        np.asarray(cifar.targets, np.int64),
        list(cifar.classes),
        origin={"dataset": name, "split": "train" if train else "test"},
    )


def _read_flowers102(root, train):
    """Flowers-102 in torchvision's layout; its training and validation images form the train split.

    Raises UserError if scipy is not installed, or a file is missing or damaged.
    """
    folder = root / "flowers-102"
    try:
        from scipy.io import loadmat
    except ImportError:
        raise UserError(
            "the labels of flowers102 are .mat files, which need scipy: pip install scipy"
        ) from None
    try:
        splits = loadmat(folder / "setid.mat", squeeze_me=True)
        labels = loadmat(folder / "imagelabels.mat", squeeze_me=True)["labels"]
        # Images and classes are numbered from 1.
        numbers = np.r_[splits["trnid"], splits["valid"]] if train else splits["tstid"]
    except Exception:  # scipy raises many types for damaged files
        raise UserError(
            f"flowers102 is not in {folder}, or damaged: give --data_root FOLDER, or run  "
            'python -c "import torchvision; '
            f"torchvision.datasets.Flowers102('{root}', download=True)\""
        ) from None
    names = [b"image_%05d.jpg" % number for number in numbers]
    image_folder = folder / "jpg"
    files = scan(image_folder, LeftOut())[0] if image_folder.is_dir() else []
    missing = set(names).difference(files)
    if missing:
        raise UserError(
            f"{image_folder} lacks {len(missing)} images of flowers102, such as "
            f"{min(missing).decode()}: download it again"
        )
    return ImageSet(
        Paths.in_folders({image_folder: names}),
        labels[numbers - 1].astype(np.int64) - 1,
        [str(label) for label in range(REAL_SETS["flowers102"].num_classes)],
        origin={"dataset": "flowers102", "split": "train + val" if train else "test"},
    )
