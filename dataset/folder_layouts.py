"""Layouts of generated folders: names of the files, manifest.json, and which images are missing.

Class folders, an ImageFolder for any tool:

    FOLDER/manifest.json               settings, images per class, how they were generated
    FOLDER/0003/00017.png              class / index

Flat files with the names of the released script, ten images per class and seed. Image n of a seed
has the index 10 · seed + n. Several runs may fill different ranges of one folder at the same time.

    FOLDER/manifest.json               settings, requested ranges, how they were generated
    FOLDER/class_3_seed_1_num_7.png

Unlabelled images, 10,000 per subfolder, in the order of their names:

    FOLDER/manifest.json               settings, number of images, `labelled` false
    FOLDER/0001/10017.png              index div 10,000 / index

The settings of a folder never change; classes and numbers of images may grow. An image is an item
(class, index); in the manifest, `finished` counts the images of completed requests.
"""

import contextlib
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from dataset.contact_sheet import COLUMNS, ROWS
from dataset.image_writer import FORMATS, THREADS, is_whole
from dataset.paths import is_class_number
from dataset.requested_images import IMAGES_PER_SEED, SeedRange
from helper.errors import UserError
from helper.files import read_json, remove_parts, write_json

SHARD = 10_000  # unlabelled images per subfolder


def layout_of(path, settings, request, verify=False):
    """The layout of an existing folder `path` for a request.

    Files of an unfinished request are decoded, and damaged ones are missing; of finished requests
    only the names are compared. Removes partial files that killed runs left behind.
    verify: decode all files, and accept images whose manifest is missing or damaged.
    Raises UserError if the folder has another layout or other settings, or images of unknown
    origin.
    """
    kind = {dict: ClassFolders, int: UnlabelledFolders, SeedRange: FlatFiles}[type(request)]
    return kind(path, settings, request, verify)


class Layout:
    """A folder and a request. Subclasses add `name(item)`, the path of an image without suffix.

    items: the images of this run in the order in which they are divided into batches.
    missing: those of them that have no file, or a damaged one.
    images: number of images in the folder after this run.
    complete: whether there is nothing to do.
    """

    def __init__(self, path, settings, verify):
        self.path, self.settings, self.verify = path, settings, verify

    def file(self, item):
        return self.path / (self.name(item) + FORMATS[self.settings["format"]])

    @property
    def summary(self):
        """What the folder holds after this run, in words."""
        return f"{self.images} images of {len(self.indices_of_classes())} classes"

    def sheet_rows(self, class_names):
        """The rows of the contact sheet: (name, paths) of each class."""
        return [
            (
                class_names[label] if class_names else str(label),
                [self.file((label, index)) for index in indices[:COLUMNS]],
            )
            for label, indices in self.indices_of_classes().items()
        ]

    def write_manifest(self, origin, complete):
        """Writes manifest.json; origin: command, versions and the like."""
        write_json(self.path / "manifest.json", self.manifest(origin, complete))

    def find_missing(self, present, trusted):
        """The items without a file, and those with a damaged one, except for `trusted` items."""
        size, mode = self.settings["image_size"], "L" if self.settings["grey"] else "RGB"
        doubtful = [item for item in self.items if item in present and item not in trusted]
        with ThreadPoolExecutor(THREADS) as pool:
            whole = pool.map(lambda item: is_whole(self.file(item), size, mode), doubtful)
            damaged = {item for item, is_good in zip(doubtful, whole) if not is_good}
        return set(self.items) - present | damaged

    def files_in_subfolders(self):
        """The items (subfolder, number) that have a file; removes partial files."""
        remove_parts(self.path)
        items = set()
        for folder in self.path.glob("[0-9]*/"):
            remove_parts(folder)
            for entry in os.scandir(folder):
                stem, suffix = os.path.splitext(entry.name)
                is_image = suffix == FORMATS[self.settings["format"]] and entry.is_file()
                if is_image and is_class_number(stem) and is_class_number(folder.name):
                    items.add((int(folder.name), int(stem)))
        return items


class ClassFolders(Layout):
    """Layout of a request {class: images}."""

    def __init__(self, path, settings, request, verify=False):
        super().__init__(path, settings, verify)
        new = {"complete": False, "classes": {}, "finished": {}}
        manifest = read_manifest(path, settings, new, verify)
        if "ranges" in manifest:
            raise UserError(
                f"{path} holds flat files: give --start_seed and --end_seed, or another --save_dir"
            )
        with _checked(path):
            earlier, finished = (
                {int(label): int(amount) for label, amount in manifest[key].items()}
                for key in ("classes", "finished")
            )
            was_complete = manifest["complete"]
        self.amounts = {
            label: max(request.get(label, 0), earlier.get(label, 0)) for label in request | earlier
        }
        present = self.files_in_subfolders()
        trusted = present.issuperset(class_items(finished)) and not verify
        self.finished = finished if trusted else {}
        self.items = class_items(self.amounts, self.finished)
        self.missing = self.find_missing(present, present if was_complete and not verify else ())
        self.images = sum(self.amounts.values())
        self.complete = was_complete and not verify and not self.missing and self.amounts == earlier

    @staticmethod
    def name(item):
        return f"{item[0]:04d}/{item[1]:05d}"

    def indices_of_classes(self):
        return {label: range(amount) for label, amount in sorted(self.amounts.items())}

    def manifest(self, origin, complete):
        amounts, finished = (
            {str(label): number for label, number in sorted(numbers.items())}
            for numbers in (self.amounts, self.finished)
        )
        return {
            "complete": complete,
            "settings": self.settings,
            "images": self.images,
            **origin,
            "classes": amounts,
            "finished": amounts if complete else finished,
        }


class UnlabelledFolders(Layout):
    """Layout of a number of unlabelled images; an item is (subfolder, index)."""

    def __init__(self, path, settings, request, verify=False):
        super().__init__(path, settings, verify)
        new = {"complete": False, "images": 0, "finished": 0}
        manifest = read_manifest(path, settings, new, verify)
        with _checked(path):
            earlier, finished = int(manifest["images"]), int(manifest["finished"])
            was_complete = manifest["complete"]
        self.images = max(request, earlier)
        present = self.files_in_subfolders()
        trusted = present.issuperset(unlabelled_items(0, finished)) and not verify
        self.finished = finished if trusted else 0
        self.items = unlabelled_items(self.finished, self.images)
        self.missing = self.find_missing(present, present if was_complete and not verify else ())
        self.complete = was_complete and not verify and not self.missing and self.images == earlier

    name = staticmethod(ClassFolders.name)

    @property
    def summary(self):
        return f"{self.images} images"

    def sheet_rows(self, class_names):
        """The first hundred images, ten per row; a row is named by its first index."""
        items = unlabelled_items(0, min(self.images, ROWS * COLUMNS))
        return [
            (str(first), [self.file(item) for item in items[first : first + COLUMNS]])
            for first in range(0, len(items), COLUMNS)
        ]

    def manifest(self, origin, complete):
        return {
            "complete": complete,
            "labelled": False,
            "settings": self.settings,
            "images": self.images,
            **origin,
            "finished": self.images if complete else self.finished,
        }


class FlatFiles(Layout):
    """Layout of a SeedRange. Other runs may write other ranges into the folder meanwhile."""

    def __init__(self, path, settings, request, verify=False):
        super().__init__(path, settings, verify)
        self.request, self.items = request, request.items()
        names = set(os.listdir(path))
        self.finished = [
            seeds
            for seeds, is_complete in self._read_ranges()
            if is_complete and all(self.file(item).name in names for item in seeds.items())
        ]
        files = {self.file(item).name: item for item in self.items}
        for name in names:
            # Only partial files of this range: other runs may be writing theirs
            if name.endswith(".part") and name.rsplit(".", 2)[0] in files:
                (path / name).unlink(missing_ok=True)
        present = {item for name, item in files.items() if name in names}
        trusted = [] if verify else self.finished
        trusted = {item for item in present if any(item in seeds for seeds in trusted)}
        self.missing = self.find_missing(present, trusted)
        self.images = sum(map(len, self.indices_of_classes().values()))
        covered = any(seeds.covers(request) for seeds in self.finished)
        self.complete = covered and not verify and not self.missing

    @staticmethod
    def name(item):
        seed, number = divmod(item[1], IMAGES_PER_SEED)
        return f"class_{item[0]}_seed_{seed}_num_{number}"

    def indices_of_classes(self):
        return _indices_of_classes([self.request, *self.finished])

    def write_manifest(self, origin, complete):
        """Writes manifest.json, in which only the range of this run changes."""
        with _locked(self.path):
            others = [
                (seeds, is_complete)
                for seeds, is_complete in self._read_ranges()
                if seeds != self.request and not (complete and self.request.covers(seeds))
            ]
            ranges = [*others, (self.request, complete)]
            indices = _indices_of_classes([seeds for seeds, _ in ranges])
            manifest = {
                "complete": all(is_complete for _, is_complete in ranges),
                "settings": self.settings,
                "images": sum(map(len, indices.values())),
                **origin,
                "ranges": [
                    {**asdict(seeds), "complete": is_complete} for seeds, is_complete in ranges
                ],
            }
            write_json(self.path / "manifest.json", manifest)

    def _read_ranges(self):
        """[(SeedRange, whether it is complete), …] of the manifest."""
        manifest = read_manifest(self.path, self.settings, {"ranges": []}, self.verify)
        if "classes" in manifest:
            raise UserError(
                f"{self.path} holds class folders: omit --start_seed and the like, or give another "
                "--save_dir"
            )
        with _checked(self.path):
            ranges = [dict(entry) for entry in manifest["ranges"]]
            complete = [entry.pop("complete") for entry in ranges]
            return [(SeedRange(**entry), done) for entry, done in zip(ranges, complete)]


def class_items(amounts, finished=None):
    """The items of `amounts` {class: images} beyond `finished`, by index and then by class."""
    finished = finished or {}
    return [
        (label, index)
        for index in range(max(amounts.values(), default=0))
        for label in sorted(amounts)
        if finished.get(label, 0) <= index < amounts[label]
    ]


def unlabelled_items(start, end):
    """The items (subfolder, index) of the unlabelled images start … end − 1."""
    return [(index // SHARD, index) for index in range(start, end)]


def read_manifest(path, settings, new, verify=False):
    """The manifest of a folder, or `new` if the folder is empty.

    verify: return `new` for a missing or damaged manifest, too.
    Raises UserError if it has other settings or is damaged, or there are images without a manifest.
    """
    file = path / "manifest.json"
    remedy = (
        "--verify checks the images and writes it again, if they were generated with these "
        "settings; or choose another --save_dir"
    )
    files = (image for pattern in ("*", "*/*") for image in path.glob(pattern))
    if not file.exists():
        if not verify and any(image.suffix in FORMATS.values() for image in files):
            raise UserError(f"{path} holds images but no manifest.json: {remedy}")
        return new
    try:
        manifest = read_json(file, "manifest")
    except UserError:
        if verify:
            return new
        raise UserError(f"{file} is damaged, or another program's: {remedy}") from None
    if verify and not (isinstance(manifest, dict) and isinstance(manifest.get("settings"), dict)):
        return new
    with _checked(path):
        earlier = dict(manifest["settings"])
    for name in settings | earlier:
        if earlier.get(name) != settings.get(name):
            if not any(image.suffix in FORMATS.values() for image in files):
                return new  # of a command that failed before its first image
            if name.endswith("sha256"):
                before, now = (str(values.get(name))[:12] for values in (earlier, settings))
                raise UserError(
                    f"{path} was generated with other weights ({name} {before}…, now {now}…): "
                    "restore them, choose another folder, or delete this one"
                )
            raise UserError(
                f"{path} was generated with {name} {earlier.get(name)}, not {settings.get(name)}: "
                "use the same settings or choose another --save_dir"
            )
    return manifest


@contextlib.contextmanager
def _checked(path):
    """Turns errors in the content of a manifest into a UserError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path / 'manifest.json'} is not the manifest of generated images: choose another "
            "--save_dir"
        ) from None


@contextlib.contextmanager
def _locked(path):
    """Holds the lock of a folder's manifest, as far as the file system supports locks."""
    with open(path / "manifest.lock", "a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _indices_of_classes(ranges):
    """{class: sorted indices} of several SeedRanges together."""
    indices = {}
    for seeds in ranges:
        for label in seeds.classes:
            indices.setdefault(label, set()).update(seeds.indices)
    return {label: sorted(indices[label]) for label in sorted(indices)}
