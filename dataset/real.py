"""Real image sets by name, and the loaders that the training scripts read them through."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset import fashion_mnist, folders, transforms
from dataset.image_set import ImageSet
from helper.errors import UserError
from helper.options import positive_int

IMAGENET_STATS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class RealSet:
    """What is known of a data set: mean and std are of pixels in [0, 1], image_size in pixels."""

    num_classes: int | None  # None: counted in the validation folder
    mean: tuple
    std: tuple
    image_size: int


REAL_SETS = {
    "fashion_mnist": RealSet(10, (0.2190,) * 3, (0.3318,) * 3, 32),
    "cifar10": RealSet(10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 32),
    "cifar100": RealSet(100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32),
    "imagenet": RealSet(1000, **IMAGENET_STATS, image_size=224),
    "imagefolder": RealSet(None, **IMAGENET_STATS, image_size=224),
}


def add_flags(parser):
    """Flags that name the real data."""
    group = parser.add_argument_group("real data")
    group.add_argument("--dataset", choices=sorted(REAL_SETS), default="imagenet")
    group.add_argument("--data_root", default="true_dataset", help="where the data sets are (default: true_dataset)")
    group.add_argument("--val_data", default=None,
                       help="validation images: an ImageFolder, or a list of `path label` lines (default: the data "
                            "set's own; imagenet: true_dataset/imagenet_val.txt or true_dataset/imagenet/val/)")
    group.add_argument("--val_split", choices=["test", "holdout"], default="test",
                       help="holdout: the last 5,000 training images of fashion_mnist, for choosing settings")
    group.add_argument("--image_size", type=positive_int, default=None, help="pixels (default: the data set's)")


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
    expected = REAL_SETS[name].num_classes
    return folders.read_validation(_find_folder(root, name, split), expected)


def load_validation(options):
    """Returns the validation ImageSet: `--val_data` where it is given, else the data set's own."""
    info = REAL_SETS[options.dataset]
    if options.val_data is None:
        return load_split(options, options.val_split)
    images = folders.read_validation(options.val_data, info.num_classes)
    images.grey = options.dataset == "fashion_mnist"
    return images


def _find_folder(root, name, split):
    part = "train" if split == "train" else "val"
    candidates = [root / f"{name}_{part}.txt", root / name / part]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise UserError(f"no {part} images of {name}: neither {candidates[0]} (a list of `path label` lines) nor "
                    f"{candidates[1]}/ (an ImageFolder) exists; put them there or give --val_data")


def _cifar(name, root, train):
    from torchvision.datasets import CIFAR10, CIFAR100

    try:
        real = (CIFAR10 if name == "cifar10" else CIFAR100)(root, train=train)
    except RuntimeError:
        raise UserError(f"{name} is not in {root}: run  python -c \"import torchvision; "
                        f"torchvision.datasets.{name.upper()}('{root}', download=True)\"") from None
    return ImageSet(real.data, np.asarray(real.targets, np.int64), list(real.classes),
                    origin={"dataset": name, "split": "train" if train else "test"})


def check_classes(train_images, val_images, options):
    """Raises UserError if training and validation images are not of the same classes.

    A list gives numbers for names, so names are compared only where both have them.
    """
    ours, theirs = train_images.class_names, val_images.class_names
    named = not any(name.isdigit() for name in ours + theirs)
    if named and len(ours) == len(theirs) and ours != theirs:
        first = next(pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1])
        raise UserError(f"--dataset {options.dataset}: training class {first[0]} stands where validation has "
                        f"{first[1]}: check --val_data")
    if len(ours) != len(theirs):
        raise UserError(f"--dataset {options.dataset}: {len(ours)} training classes and {len(theirs)} validation "
                        "classes: check --val_data")


def image_size(options):
    """Returns `--image_size`, or the data set's."""
    return options.image_size or REAL_SETS[options.dataset].image_size


def make_loader(images, options, world, *, train):
    """Returns the Loader of an ImageSet with the transform of its use; small sets are kept in memory."""
    from dataset.loader import Loader, keep_in_memory  # imports torch: not before the flags are checked

    size = image_size(options)
    transform = transforms.training(size) if train else transforms.validation(size)
    return Loader(keep_in_memory(images, transform.shrink) if size <= 64 else images, transform,
                  options.batch_size, seed=options.seed, rank=world.rank, world_size=world.size,
                  workers=options.num_workers, pin=world.device.type == "cuda")
