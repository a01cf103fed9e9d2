"""Which generated images are asked for, and the flags that say it: some of each class, or classes
and seeds.
"""

from dataclasses import dataclass
from pathlib import Path

from dataset.class_list import read_class_list
from helper.errors import UserError
from helper.options import amount, index_ranges, natural, positive_int

IMAGES_PER_SEED, RELEASED_SEEDS = 10, 20  # the released sets: 200 images a class


@dataclass(frozen=True)
class SeedRange:
    """The images of classes start_id … end_id − 1 with seeds start_seed … end_seed − 1, ten of each
    pair.

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
        """Returns the (class, index) pairs, index-major, class-minor."""
        return [(label, index) for index in self.indices for label in self.classes]

    def __contains__(self, item):
        return item[0] in self.classes and item[1] in self.indices

    def covers(self, other):
        """Whether every image of `other` is among these."""
        return (
            self.start_id <= other.start_id
            and other.end_id <= self.end_id
            and self.start_seed <= other.start_seed
            and other.end_seed <= self.end_seed
        )


def add_class_flags(parser):
    """The flags that ask for some images of each class."""
    group = parser.add_argument_group("images, in a folder for each class")
    classes = group.add_mutually_exclusive_group()
    classes.add_argument(
        "--classes", type=index_ranges, help="indices and ranges, such as 0-9,17 (default: all)"
    )
    classes.add_argument(
        "--class-list",
        type=Path,
        help="file of ImageNet synsets, one a line: the classes to sample",
    )
    count = group.add_mutually_exclusive_group()
    count.add_argument("--images_per_class", type=positive_int)
    count.add_argument(
        "--data_amount", type=amount, help="images in all, such as 200k, shared among the classes"
    )


def add_flags(parser):
    """The flags of both kinds of request."""
    add_class_flags(parser)
    group = parser.add_argument_group(
        "images in one folder, class_{c}_seed_{s}_num_{n}.png, ten a class and seed"
    )
    group.add_argument("--start_id", type=natural, help="first class (default: 0)")
    group.add_argument(
        "--end_id", type=positive_int, help="the class after the last (default: all)"
    )
    group.add_argument("--start_seed", type=natural, help="first seed of the names (default: 0)")
    group.add_argument(
        "--end_seed", type=positive_int, help=f"the seed after the last (default: {RELEASED_SEEDS})"
    )


def check_flags(options):
    """Sets options.flat: whether flat names are asked for. Raises UserError if both kinds are, or
    no amount.
    """

    def given(*names):
        return [name for name in names if vars(options)[name] is not None]

    flat = given("start_id", "end_id", "start_seed", "end_seed")
    by_class = given("classes", "class_list", "images_per_class", "data_amount")
    if flat and by_class:
        raise UserError(
            f"--{flat[0]} asks for flat files by class and seed, --{by_class[0]} for a folder for "
            "each "
            "class: give one kind of them"
        )
    if not flat and not given("images_per_class", "data_amount"):
        raise UserError(
            "how many images? Give --images_per_class or --data_amount, or --start_seed and "
            "--end_seed for "
            "flat files by class and seed"
        )
    options.flat = bool(flat)


def requested_images(options, num_classes):
    """Returns what the flags ask of a model: {class: images}, or a SeedRange. Raises UserError if
    it lacks a class.
    """
    if options.flat:
        return _requested_range(options, num_classes)
    return requested_amounts(options, num_classes, options.model)


def requested_amounts(options, num_classes, who):
    """Returns {class: images} that the flags of `add_class_flags` ask for of the `num_classes`
    classes of `who`.

    Raises UserError if there is no such class.
    """
    classes = requested_classes(options, num_classes, who)
    if options.images_per_class:
        return dict.fromkeys(classes, options.images_per_class)
    each, more = divmod(options.data_amount, len(classes))
    amounts = {label: each + (position < more) for position, label in enumerate(classes)}
    return {label: images for label, images in amounts.items() if images}


def count_images(asked):
    """Returns how many images `requested_images` has asked for."""
    return (
        len(asked.classes) * len(asked.indices)
        if isinstance(asked, SeedRange)
        else sum(asked.values())
    )


def _requested_range(options, num_classes):
    asked = SeedRange(
        options.start_id or 0,
        options.end_id or num_classes,
        options.start_seed or 0,
        options.end_seed or RELEASED_SEEDS,
    )
    if asked.end_id > num_classes:
        raise UserError(
            f"--end_id {asked.end_id}: {options.model} has classes 0 to {num_classes - 1}"
        )
    for first, end, what in (
        (asked.start_id, asked.end_id, "id"),
        (asked.start_seed, asked.end_seed, "seed"),
    ):
        if first >= end:
            raise UserError(
                f"--start_{what} {first} to --end_{what} {end} holds none: the end is not included"
            )
    return asked


def requested_classes(options, num_classes, who):
    """Returns the classes that the flags name, of the `num_classes` of `who`. Raises UserError if
    it has not all.
    """
    if options.class_list:
        if num_classes != 1000:
            raise UserError(
                f"--class-list names classes of ImageNet-1K and {who} has {num_classes} classes: "
                "give --classes"
            )
        return read_class_list(options.class_list).indices
    classes = range(num_classes) if options.classes is None else options.classes
    wrong = [label for label in classes if label >= num_classes]
    if wrong:
        raise UserError(f"--classes: {who} has classes 0 to {num_classes - 1}, not {wrong[0]}")
    return classes
