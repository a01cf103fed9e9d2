"""A folder of generated images: what is asked of it, what is there and whole, and the writing of what is missing.

    FOLDER/manifest.json          settings that change an image, classes and amounts, what made it
    FOLDER/0003/00017.png         class index / image index

Settings of a folder never change; classes and amounts may grow. The manifest says `complete` when all is there.
"""

import io
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from helper.errors import UserError
from helper.files import check_free_space, make_folder, read_json, remove_parts, whole_file, write_json

FORMATS = {"png": ".png", "jpeg": ".jpg"}
# JPEG of the quality that is usual for training sets, with the colours at full resolution (4:4:4).
_SAVE = {"png": {"format": "PNG"}, "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0}}
_THREADS = min(8, os.cpu_count() or 1)
# Bytes a pixel of generated RGB photographs at 256×256, rounded up; grey takes a third.
_BYTES_PER_PIXEL = {"png": 1.7, "jpeg": 0.5}


def image_path(folder, item, image_format):
    """Returns the path of item (class, index) in `folder`."""
    return Path(folder) / f"{item[0]:04d}" / f"{item[1]:05d}{FORMATS[image_format]}"


def work_list(amounts, finished=None):
    """Returns the (class, index) pairs of `amounts` {class: images} beyond `finished`, index-major, class-minor."""
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

    amounts: images of each class when all is done; finished: those that earlier, completed requests made;
    items: the (class, index) pairs between the two, in the order in which they are cut into batches;
    missing: the set of those whose file is not there or not whole; complete: nothing is to be done at all.
    """

    amounts: dict
    finished: dict
    items: list
    missing: set
    complete: bool


def plan_images(folder, settings, amounts):
    """Compares what is asked with what `folder` holds; creates the folder and clears what a killed run left behind.

    settings: what changes an image (`format`, `image_size` and `grey` among them); amounts: {class: images} asked for.
    In an unfinished set every file is decoded and a damaged one counts as missing; in a finished one names suffice.
    Returns a Plan. Raises UserError if the folder was made with other settings, holds images of unknown origin, or
    the disk has too little room.
    """
    folder = make_folder(folder)
    old_amounts, finished, was_complete = _read_manifest(folder, settings)
    amounts = {label: max(amounts.get(label, 0), old_amounts.get(label, 0)) for label in amounts | old_amounts}
    present = _present_images(folder, settings["format"])
    if not all(item in present for item in work_list(finished)):
        finished = {}
    items = work_list(amounts, finished)
    if was_complete:
        missing = {item for item in items if item not in present}
    else:
        missing = _not_whole(folder, items, present, settings)
    check_free_space(folder, len(missing) * _image_bytes(settings))
    complete = was_complete and not missing and amounts == old_amounts
    return Plan(amounts, finished, items, missing, complete)


def write_manifest(folder, plan, settings, origin, complete):
    """Writes manifest.json; `origin` (versions, command, …) says what made the set and changes no image."""
    classes = {str(label): plan.amounts[label] for label in sorted(plan.amounts)}
    finished = classes if complete else {str(label): plan.finished[label] for label in sorted(plan.finished)}
    write_json(Path(folder) / "manifest.json", {
        "complete": complete, "settings": settings, "images": sum(classes.values()), **origin,
        "classes": classes, "finished": finished,
    })  # fmt: skip


def is_whole(path, image_size, mode):
    """Returns whether `path` is an image of this size and mode that decodes to the end."""
    try:
        with Image.open(path) as image:
            image.verify()  # PNG checksums
        with Image.open(path) as image:
            image.load()
            return image.size == (image_size, image_size) and image.mode == mode
    except FileNotFoundError:
        return False
    except Exception:  # Pillow raises many kinds for a damaged file
        return False


class ImageWriter:
    """Encodes and writes images in threads, at most `limit` of them waiting; files appear whole or not at all.

    A context manager: leaving it waits for the files, or, after an exception, drops those not begun.
    """

    def __init__(self, image_format, threads=None, limit=256):
        self._format, self._limit = image_format, limit
        self._pool = ThreadPoolExecutor(threads or _THREADS)
        self._waiting = deque()

    def put(self, path, pixels):
        """Queues uint8 pixels, (H, W, 3) or (H, W), for `path`; waits while the queue is full.

        Raises what the writing of any image before it raised (OSError when the disk is full).
        """
        self.check()
        if len(self._waiting) >= self._limit:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._write, path, pixels))

    def check(self):
        """Raises the first error of the files written so far."""
        for job in [job for job in self._waiting if job.done()]:
            job.result()
            self._waiting.remove(job)

    def _write(self, path, pixels):
        path.parent.mkdir(exist_ok=True)
        encoded = io.BytesIO()  # given a file, Pillow's encoders hide the error number of a full disk
        Image.fromarray(pixels).save(encoded, **_SAVE[self._format])
        with whole_file(path) as file:
            file.write(encoded.getbuffer())

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self.check()


def _read_manifest(folder, settings):
    """Returns ({class: amount}, {class: finished amount}, complete) of a folder's manifest, empty for a new folder."""
    path = folder / "manifest.json"
    if not path.exists():
        if any(file.suffix in FORMATS.values() for pattern in ("*", "*/*") for file in folder.glob(pattern)):
            raise UserError(f"{folder} holds images and no manifest.json that says what made them: "
                            "choose another --save_dir, or empty it")
        return {}, {}, False
    manifest = read_json(path, "manifest")
    try:
        old, complete = manifest["settings"], manifest["complete"]
        amounts, finished = (
            {int(label): int(amount) for label, amount in manifest[key].items()} for key in ("classes", "finished")
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a manifest of synthesize_dit.py: choose another --save_dir") from None
    for name, value in settings.items():
        if old.get(name) != value:
            raise UserError(f"{folder} was made with {name} {old.get(name)} and {value} is asked for now: "
                            "give the same, or another --save_dir")
    return amounts, finished, complete


def _present_images(folder, image_format):
    """Returns the set of (class, index) whose files exist, and removes the `.part` files of killed runs."""
    remove_parts(folder)
    present = set()
    for class_folder in folder.glob("[0-9]*/"):
        remove_parts(class_folder)
        for file in class_folder.iterdir():
            if file.suffix == FORMATS[image_format] and file.stem.isdecimal() and class_folder.name.isdecimal():
                present.add((int(class_folder.name), int(file.stem)))
    return present


def _not_whole(folder, items, present, settings):
    """Returns the items whose file is missing or damaged; files are decoded in threads."""
    mode = "L" if settings["grey"] else "RGB"

    def damaged(item):
        path = image_path(folder, item, settings["format"])
        return item not in present or not is_whole(path, settings["image_size"], mode)

    with ThreadPoolExecutor(_THREADS) as pool:
        return {item for item, bad in zip(items, pool.map(damaged, items), strict=True) if bad}


def _image_bytes(settings):
    """Estimates the bytes of one file; small ones fill at least one 4 KiB block of the disk."""
    channels = 1 / 3 if settings["grey"] else 1
    return max(4096, settings["image_size"] ** 2 * _BYTES_PER_PIXEL[settings["format"]] * channels)
