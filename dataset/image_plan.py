"""A folder of generated images: what is asked of it, what is there and whole, what is missing; its
manifest.

One folder a class, any tool's ImageFolder:

    FOLDER/manifest.json               settings that change an image, classes and amounts, what made it
    FOLDER/0003/00017.png              class index / image index

Flat, with the released script's names, ten images a class and seed: image index = 10 · seed + num.
Several runs may fill different ranges of one flat folder at the same time.

    FOLDER/manifest.json               settings, the ranges that were asked for, what made it
    FOLDER/class_3_seed_1_num_7.png

Unlabelled, 10,000 images a folder, each named by its index among all of them, so that their order
is theirs by name:

    FOLDER/manifest.json               settings, amount, `labelled` false, what made it
    FOLDER/0001/10017.png              index div 10,000 / index

Settings of a folder never change; classes and amounts may grow. The manifest says `complete` when
all is there.
"""

import contextlib
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from dataset.contact_sheet import COLUMNS, ROWS
from dataset.image_request import IMAGES_PER_SEED, SeedRange
from dataset.image_writer import FORMATS, THREADS, image_bytes, is_whole
from helper.errors import UserError
from helper.files import check_free_space, make_folder, read_json, remove_parts, write_json

SHARD = 10_000  # unlabelled images a folder


def work_list(amounts, finished=None):
    """Returns the (class, index) pairs of `amounts` {class: images} beyond `finished`, index-major,
    class-minor.
    """
    finished = finished or {}
    most = max(amounts.values(), default=0)
    return [
        (label, index)
        for index in range(most)
        for label in sorted(amounts)
        if finished.get(label, 0) <= index < amounts[label]
    ]


@dataclass(frozen=True)
class Plan:
    """What is to be done in a folder.

    items: the (class, index) pairs of the work, in the order in which they are cut into batches;
    missing: the set of those whose file is not there or not whole; images: how many the folder
    holds when all is done; complete: nothing is to be done at all.
    """

    folder: Path
    settings: dict
    items: list
    missing: set
    images: int
    complete: bool

    def path(self, item):
        """Returns the path of item (class, index)."""
        return self.folder / (self.name(item) + FORMATS[self.settings["format"]])

    @property
    def summary(self):
        """What the folder holds when all is done, in words."""
        return f"{self.images} images of {len(self.held())} classes"

    def sheet_rows(self, names=None):
        """Returns the rows of the contact sheet, (name, paths) a class; `names` of the classes
        (default: numbers).
        """
        return [
            (
                names[label] if names else str(label),
                [self.path((label, index)) for index in indices[:COLUMNS]],
            )
            for label, indices in self.held().items()
        ]


@dataclass(frozen=True)
class ClassPlan(Plan):
    """A plan of class folders.

    amounts: images of each class when all is done; finished: those that earlier, completed requests
    made. The work is what lies between the two.
    """

    amounts: dict
    finished: dict

    @staticmethod
    def name(item):
        return f"{item[0]:04d}/{item[1]:05d}"

    def held(self):
        """Returns {class: indices of its images} when all is done."""
        return {label: range(amount) for label, amount in sorted(self.amounts.items())}

    def write_manifest(self, origin, complete):
        """Writes manifest.json; `origin` (versions, command, …) says what made the set and changes
        no image.
        """
        classes = {str(label): self.amounts[label] for label in sorted(self.amounts)}
        finished = (
            classes
            if complete
            else {str(label): self.finished[label] for label in sorted(self.finished)}
        )
        write_json(
            self.folder / "manifest.json",
            {
                "complete": complete,
                "settings": self.settings,
                "images": self.images,
                **origin,
                "classes": classes,
                "finished": finished,
            },
        )


@dataclass(frozen=True)
class ShardPlan(Plan):
    """A plan of unlabelled images 0 … images − 1; an item is (shard, index).

    finished: how many earlier, completed requests made. The work is what lies beyond.
    """

    finished: int
    name = staticmethod(ClassPlan.name)

    @property
    def summary(self):
        """As in Plan."""
        return f"{self.images} images"

    def sheet_rows(self, names=None):
        """Returns the rows of the contact sheet: the first hundred images, each row named by its
        first index.
        """
        items = _shard_items(0, min(self.images, ROWS * COLUMNS))
        return [
            (str(first), [self.path(item) for item in items[first : first + COLUMNS]])
            for first in range(0, len(items), COLUMNS)
        ]

    def write_manifest(self, origin, complete):
        """Writes manifest.json; `origin` as in ClassPlan."""
        write_json(
            self.folder / "manifest.json",
            {
                "complete": complete,
                "labelled": False,
                "settings": self.settings,
                "images": self.images,
                **origin,
                "finished": self.images if complete else self.finished,
            },
        )


@dataclass(frozen=True)
class FlatPlan(Plan):
    """A plan of flat, released names.

    asked: this run's SeedRange, whose images are the work; finished: the SeedRanges completed so
    far, by any run, whose files are all there.
    """

    asked: SeedRange
    finished: list

    @staticmethod
    def name(item):
        seed, number = divmod(item[1], IMAGES_PER_SEED)
        return f"class_{item[0]}_seed_{seed}_num_{number}"

    def held(self):
        """Returns {class: indices of its images} when all is done."""
        return _held([self.asked, *self.finished])

    def write_manifest(self, origin, complete):
        """Writes manifest.json, in which only this run's range is changed; `origin` as in
        ClassPlan.
        """
        with _alone(self.folder):
            others = [
                (one, done)
                for one, done in _read_ranges(self.folder, self.settings)
                if one != self.asked and not (complete and self.asked.covers(one))
            ]
            ranges = [*others, (self.asked, complete)]
            write_json(
                self.folder / "manifest.json",
                {
                    "complete": all(done for _, done in ranges),
                    "settings": self.settings,
                    "images": _count([one for one, _ in ranges]),
                    **origin,
                    "ranges": [{**asdict(one), "complete": done} for one, done in ranges],
                },
            )


def plan_images(folder, settings, asked):
    """Compares what is asked with what `folder` holds; creates the folder and clears what a killed
    run left behind.

    settings: what changes an image (`format`, `image_size` and `grey` among them); asked: {class:
    images}, a SeedRange, or for unlabelled images their amount. Files of an unfinished request are
    decoded and a damaged one counts as missing; of a finished one names suffice. Returns a Plan.
    Raises UserError if the folder was made with other settings or in another layout, holds images
    of unknown origin, or the disk has too little room.
    """
    folder = make_folder(folder)
    kind = {SeedRange: _plan_range, dict: _plan_classes, int: _plan_shards}[type(asked)]
    plan = kind(folder, settings, asked)
    check_free_space(folder, len(plan.missing) * image_bytes(settings))
    return plan


def _plan_classes(folder, settings, amounts):
    old_amounts, finished, was_complete = _read_amounts(folder, settings)
    amounts = {
        label: max(amounts.get(label, 0), old_amounts.get(label, 0))
        for label in amounts | old_amounts
    }
    present = _present_images(folder, settings["format"])
    if not all(item in present for item in work_list(finished)):
        finished = {}
    items = work_list(amounts, finished)
    missing = _missing(folder, ClassPlan.name, items, present, settings, was_complete)
    complete = was_complete and not missing and amounts == old_amounts
    return ClassPlan(
        folder, settings, items, missing, sum(amounts.values()), complete, amounts, finished
    )


def _plan_shards(folder, settings, amount):
    old_amount, finished, was_complete = _read_shards(folder, settings)
    amount = max(amount, old_amount)
    present = _present_images(folder, settings["format"])
    if not present.issuperset(_shard_items(0, finished)):
        finished = 0
    items = _shard_items(finished, amount)
    missing = _missing(folder, ShardPlan.name, items, present, settings, was_complete)
    complete = was_complete and not missing and amount == old_amount
    return ShardPlan(folder, settings, items, missing, amount, complete, finished)


def _shard_items(first, end):
    """Returns the (shard, index) of unlabelled images first … end − 1."""
    return [(index // SHARD, index) for index in range(first, end)]


def _plan_range(folder, settings, asked):
    def file_name(item):
        return FlatPlan.name(item) + FORMATS[settings["format"]]

    ranges, names = _read_ranges(folder, settings), set(os.listdir(folder))
    finished = [
        one
        for one, done in ranges
        if done and all(file_name(item) in names for item in one.items())
    ]
    items = asked.items()
    files = {file_name(item) for item in items}
    for name in names:
        # Only this range's: other runs may be writing theirs.
        if name.endswith(".part") and name.rsplit(".", 2)[0] in files:
            (folder / name).unlink(missing_ok=True)
    present = {item for item in items if file_name(item) in names}
    unsure = [
        item for item in items if item in present and not any(item in one for one in finished)
    ]
    missing = set(items) - present | _not_whole(folder, FlatPlan.name, unsure, present, settings)
    complete = not missing and any(one.covers(asked) for one in finished)
    return FlatPlan(
        folder, settings, items, missing, _count([asked, *finished]), complete, asked, finished
    )


def _held(ranges):
    """Returns {class: sorted indices} of several SeedRanges together."""
    held = {}
    for one in ranges:
        for label in one.classes:
            held.setdefault(label, set()).update(one.indices)
    return {label: sorted(held[label]) for label in sorted(held)}


def _count(ranges):
    return sum(len(indices) for indices in _held(ranges).values())


def _read_manifest(folder, settings):
    """Returns the manifest of a folder, None for a new one. Raises UserError if other settings made
    it.
    """
    path = folder / "manifest.json"
    if not path.exists():
        if any(
            file.suffix in FORMATS.values()
            for pattern in ("*", "*/*")
            for file in folder.glob(pattern)
        ):
            raise UserError(
                f"{folder} holds images and no manifest.json that says what made them: "
                "choose another --save_dir, or empty it"
            )
        return None
    manifest = read_json(path, "manifest")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("settings"), dict):
        raise _no_manifest(folder)
    for name, value in settings.items():
        old = manifest["settings"].get(name)
        if old != value:
            raise UserError(
                f"{folder} was made with {name} {old} and {value} is asked for now: "
                "give the same, or another --save_dir"
            )
    return manifest


def _no_manifest(folder):
    return UserError(
        f"{folder / 'manifest.json'} is not a manifest of generated images: choose another "
        "--save_dir"
    )


def _read_amounts(folder, settings):
    """Returns ({class: amount}, {class: finished amount}, complete) of class folders, empty for a
    new folder.
    """
    manifest = _read_manifest(folder, settings)
    if manifest is None:
        return {}, {}, False
    if "ranges" in manifest:
        raise UserError(
            f"{folder} holds flat files by class and seed: give --start_seed and --end_seed, or "
            "another "
            "--save_dir"
        )
    try:
        amounts, finished = (
            {int(label): int(amount) for label, amount in manifest[key].items()}
            for key in ("classes", "finished")
        )
        return amounts, finished, manifest["complete"]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _no_manifest(folder) from None


def _read_shards(folder, settings):
    """Returns (amount, finished amount, complete) of a folder of unlabelled images, (0, 0, False)
    for a new one.
    """
    manifest = _read_manifest(folder, settings)
    if manifest is None:
        return 0, 0, False
    try:
        return int(manifest["images"]), int(manifest["finished"]), manifest["complete"]
    except (KeyError, TypeError, ValueError):
        raise _no_manifest(folder) from None


def _read_ranges(folder, settings):
    """Returns [(SeedRange, complete), …] of a flat folder, empty for a new one."""
    manifest = _read_manifest(folder, settings)
    if manifest is None:
        return []
    if "classes" in manifest:
        raise UserError(
            f"{folder} holds a folder for each class: leave out --start_seed and the like, or give "
            "another "
            "--save_dir"
        )
    try:
        ranges = [dict(one) for one in manifest["ranges"]]
        return [
            (SeedRange(**one), done) for done, one in [(one.pop("complete"), one) for one in ranges]
        ]
    except (KeyError, TypeError, ValueError):
        raise _no_manifest(folder) from None


@contextlib.contextmanager
def _alone(folder):
    """Lets one process at a time change a flat folder's manifest; a file system without locks
    leaves it to chance.
    """
    with open(folder / "manifest.lock", "a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _present_images(folder, image_format):
    """Returns the set of (class, index) whose files exist, and removes the `.part` files of killed
    runs.
    """
    remove_parts(folder)
    present = set()
    for class_folder in folder.glob("[0-9]*/"):
        remove_parts(class_folder)
        for file in class_folder.iterdir():
            if (
                file.suffix == FORMATS[image_format]
                and file.stem.isdecimal()
                and class_folder.name.isdecimal()
            ):
                present.add((int(class_folder.name), int(file.stem)))
    return present


def _missing(folder, name, items, present, settings, was_complete):
    """Returns the items that are not there, or, unless the folder was complete, not whole."""
    if was_complete:
        return {item for item in items if item not in present}
    return _not_whole(folder, name, items, present, settings)


def _not_whole(folder, name, items, present, settings):
    """Returns the items whose file is missing or damaged; files are decoded in threads."""
    mode, suffix = "L" if settings["grey"] else "RGB", FORMATS[settings["format"]]

    def damaged(item):
        return item not in present or not is_whole(
            folder / (name(item) + suffix), settings["image_size"], mode
        )

    with ThreadPoolExecutor(THREADS) as pool:
        return {item for item, bad in zip(items, pool.map(damaged, items), strict=True) if bad}
