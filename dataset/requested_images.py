"""Which images to generate: the flags, and the request that they make.

A request is {class: number of images}, a SeedRange of flat files, or, for unlabelled images, their
number.
"""

from dataclasses import dataclass
from pathlib import Path

from dataset.class_list import read_class_list
from helper.errors import UserError
from helper.options import amount, index_ranges, natural, positive_int

IMAGES_PER_SEED = 10
RELEASED_SEEDS = 20  # of the released sets: 200 images per class

CLASS_FLAGS = ("classes", "class_list", "images_per_class", "data_amount")
SEED_FLAGS = ("start_id", "end_id", "start_seed", "end_seed")


@dataclass(frozen=True)
class SeedRange:
    """Classes start_id … end_id − 1 with seeds start_seed … end_seed − 1, ten images of each pair.

    Image n of a seed has the index 10 · seed + n.
    """

    start_id: int
    end_id: int
    start_seed: int
    end_seed: int

    @property
    def classes(self):
        return range(self.start_id, self.end_id)

    @property
    def indices(self):
        return range(IMAGES_PER_SEED * self.start_seed, IMAGES_PER_SEED * self.end_seed)

    def items(self):
        """The (class, index) pairs, by index and then by class."""
        return [(label, index) for index in self.indices for label in self.classes]

    def __contains__(self, item):
        return item[0] in self.classes and item[1] in self.indices

    def covers(self, other):
        """Whether every image of `other` is in this range."""
        return (
            self.start_id <= other.start_id
            and other.end_id <= self.end_id
            and self.start_seed <= other.start_seed
            and other.end_seed <= self.end_seed
        )


def add_class_flags(parser):
    """Adds the flags of images in class folders."""
    group = parser.add_argument_group("images in class folders")
    classes = group.add_mutually_exclusive_group()
    classes.add_argument(
        "--classes",
        type=index_ranges,
        help="class indices and ranges, such as 0-9,17 (default: all)",
    )
    classes.add_argument(
        "--class-list", type=Path, help="file of ImageNet synsets, one per line: these classes"
    )
    count = group.add_mutually_exclusive_group()
    count.add_argument("--images_per_class", type=positive_int, help="number of images per class")
    count.add_argument(
        "--data_amount",
        type=amount,
        help="total number of images, such as 200k, divided among the classes",
    )


def add_seed_flags(parser):
    """Adds the flags of images in flat files."""
    group = parser.add_argument_group(
        "images in flat files class_{c}_seed_{s}_num_{n}.png, ten per class and seed"
    )
    group.add_argument("--start_id", type=natural, help="first class (default: 0)")
    group.add_argument(
        "--end_id", type=positive_int, help="last class + 1 (default: number of classes)"
    )
    group.add_argument("--start_seed", type=natural, help="first seed (default: 0)")
    group.add_argument(
        "--end_seed", type=positive_int, help=f"last seed + 1 (default: {RELEASED_SEEDS})"
    )


def check_flags(options):
    """Raises UserError if the flags ask for both layouts, or for no number of images."""
    seed_flags, class_flags = _given(options, SEED_FLAGS), _given(options, CLASS_FLAGS)
    if seed_flags and class_flags:
        raise UserError(
            f"--{seed_flags[0]} (flat files) and --{class_flags[0]} (class folders) cannot be "
            "combined"
        )
    if not seed_flags and not _given(options, ("images_per_class", "data_amount")):
        raise UserError(
            "the number of images is missing: give --images_per_class or --data_amount, or "
            "--start_seed and --end_seed for flat files"
        )


def request_of(options, num_classes, model):
    """The request for a `model` with `num_classes` classes: {class: images} or a SeedRange.

    Raises UserError if the model has no such class.
    """
    if _given(options, SEED_FLAGS):
        return _seed_range(options, num_classes, model)
    return class_amounts(options, num_classes, model)


def class_amounts(options, num_classes, model):
    """The request {class: images} of the flags of `add_class_flags`.

    Raises UserError if the model has no such class.
    """
    classes = requested_classes(options, num_classes, model)
    if options.images_per_class:
        return dict.fromkeys(classes, options.images_per_class)
    each, extra = divmod(options.data_amount, len(classes))
    amounts = {label: each + (position < extra) for position, label in enumerate(classes)}
    return {label: images for label, images in amounts.items() if images}


def requested_classes(options, num_classes, model):
    """The classes of --classes or --class-list, by default all.

    Raises UserError if the model does not have them.
    """
    if options.class_list:
        if num_classes != 1000:
            raise UserError(
                f"--class-list names classes of ImageNet-1K, but {model} has {num_classes} "
                "classes: give --classes"
            )
        return read_class_list(options.class_list).indices
    if options.classes is None:
        return range(num_classes)
    if options.classes[-1] >= num_classes:
        wrong = next(label for label in options.classes if label >= num_classes)
        raise UserError(f"--classes {wrong}: {model} has classes 0 to {num_classes - 1}")
    return options.classes


def number_of_images(request):
    """The number of images in a request."""
    if isinstance(request, SeedRange):
        return len(request.classes) * len(request.indices)
    return sum(request.values()) if isinstance(request, dict) else request


def _given(options, names):
    return [name for name in names if getattr(options, name) is not None]


def _seed_range(options, num_classes, model):
    seeds = SeedRange(
        options.start_id or 0,
        options.end_id or num_classes,
        options.start_seed or 0,
        options.end_seed or RELEASED_SEEDS,
    )
    if seeds.end_id > num_classes:
        raise UserError(f"--end_id {seeds.end_id}: {model} has classes 0 to {num_classes - 1}")
    for name, start, end in (
        ("id", seeds.start_id, seeds.end_id),
        ("seed", seeds.start_seed, seeds.end_seed),
    ):
        if start >= end:
            raise UserError(
                f"--start_{name} {start} must be below --end_{name} {end}, which is not included"
            )
    return seeds
