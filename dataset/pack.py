"""Packs: decoded images of one size in a memory-mapped file, so that no image is decoded twice.

    PACK/images.npy     uint8 (N, H, W, 3)
    PACK/classes.npy    int64 (N,): the class folder or label of each image, −1 without labels
    PACK/ranks.npy      int64 (N,): rank of each image when all are sorted by file name
    PACK/pack.json      number and size of the images, class folders, source and its manifest

pack.json is written last: a folder without it is not complete. What is read from a pack has the
order and the labels of what is read from its source.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.identity import images_sha256
from helper.errors import UserError
from helper.files import check_free_space, entry, make_folder, read_json, whole_file, write_json

BLOCK = 1024  # images that are decoded before the progress is saved


class PackedImages:
    """N images of a pack: those at `index` (N,) of the memory-mapped `pixels` (M, H, W, 3).

    ranks: int64 (M,). Indexing with an int gives an array (H, W, 3), with an int array or a slice
    PackedImages.
    """

    def __init__(self, pixels, ranks, index):
        self.pixels, self.ranks, self.index = pixels, ranks, index

    def __len__(self):
        return len(self.index)

    def __getitem__(self, index):
        if isinstance(index, slice) or np.ndim(index):
            return PackedImages(self.pixels, self.ranks, self.index[index])
        return np.asarray(self.pixels[self.index[index]])

    def order(self):
        """Rank (N,) of each image when all are sorted by the names of their files."""
        return self.ranks[self.index]


def is_pack(path):
    """Whether a path is a pack, complete or not."""
    return any((Path(path) / file).is_file() for file in ("pack.json", "pack.part.json"))


def refuse_pack(path):
    """Raises UserError for a pack, where files of images are needed."""
    if is_pack(path):
        raise UserError(f"{path} is a pack: give the folder of its images")


def read_pack(path):
    """Reads a pack: (PackedImages, class folder or label of each image (N,), names of the class
    folders or None, manifest of the source or None).

    Raises UserError if it is not complete, truncated, or its files do not belong together.
    """
    path = Path(path)
    file = path / "pack.json"
    if not file.is_file():
        raise UserError(f"{path} is not complete: run python -m tools.pack again")
    description = read_json(file, "description of the pack")
    count = entry(description, "images", int, file, minimum=1)
    size = [entry(description, side, int, file, minimum=1) for side in ("height", "width")]
    folders = entry(description, "class_folders", list | None, file)
    manifest = entry(description, "manifest", dict | None, file)
    try:
        pixels = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        classes, ranks = (
            np.load(path / name, allow_pickle=False) for name in ("classes.npy", "ranks.npy")
        )
    except (ValueError, EOFError, FileNotFoundError) as error:
        reason = "not a numpy array" if "pickle" in str(error) else error
        raise UserError(
            f"{path} is damaged ({reason}): delete it and run python -m tools.pack again"
        ) from None
    is_whole = pixels.shape == (count, *size, 3) and pixels.dtype == np.uint8
    if not is_whole or {(count,)} != {classes.shape, ranks.shape}:
        raise UserError(
            f"{path}: its files do not fit pack.json: delete it and run python -m tools.pack again"
        )
    if folders is not None and not 0 <= classes.min() <= classes.max() < len(folders):
        raise UserError(f"{path}: classes.npy does not fit the class folders in pack.json")
    return PackedImages(pixels, ranks, np.arange(count)), classes, folders, manifest


def write_pack(images, folders, path):
    """Writes the pack `path` of an ImageSet, or continues it; returns the number of new images.

    images: of files; its labels are the classes of the pack; folders: the names of the class
    folders, None if there are none.
    Raises UserError if the images differ in size, the disk has too little space, or the folder
    holds something else.
    """
    path = make_folder(path)
    source, part = path / "pack.json", path / "pack.part.json"
    identity = images_sha256(images)
    earlier = next((read_json(file, "pack") for file in (source, part) if file.is_file()), None)
    if earlier is None and any(path.iterdir()):
        raise UserError(f"{path} is not empty and not a pack: choose another --out")
    if earlier and earlier.get("images_sha256") != identity:
        raise UserError(f"{path} is a pack of other images: choose another --out, or delete it")
    if source.is_file():
        return 0

    # Size of all images, and space for them
    first = images.load(0)
    shape = (len(images), first.height, first.width, 3)
    pixel_file, done = path / "images.npy.part", 0
    # Opening a truncated file would fill it with zeros
    if earlier and pixel_file.is_file() and pixel_file.stat().st_size > np.prod(shape):
        pixels = np.lib.format.open_memmap(pixel_file, "r+")
        done = entry(earlier, "done", int, part) if pixels.shape == shape else 0
    if not done:
        check_free_space(path, int(np.prod(shape)))
        write_json(part, {"images_sha256": identity, "done": 0})
        pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, shape)
        with open(pixel_file, "r+b") as file:  # writing to a full disk through memory would crash
            os.posix_fallocate(file.fileno(), 0, pixel_file.stat().st_size)

    # Decode block by block
    def decode(index):
        image = images.load(index)
        if image.size != first.size:
            raise UserError(
                f"{images.images[index]} is {image.width}×{image.height} and {images.images[0]} "
                f"{first.width}×{first.height}: the images of a pack have one size; resize them"
            )
        pixels[index] = np.asarray(image)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(images), initial=done, unit="image", mininterval=1) as bar,
    ):
        for start in range(done, len(images), BLOCK):
            block = range(start, min(start + BLOCK, len(images)))
            for _ in pool.map(decode, block):
                bar.update()
            pixels.flush()
            write_json(part, {"images_sha256": identity, "done": block.stop})

    # The files appear, the description last
    labels = np.full(len(images), -1) if images.labels is None else images.labels
    for name, values in (("classes.npy", labels), ("ranks.npy", images.images.order())):
        with whole_file(path / name) as file:
            np.save(file, values.astype(np.int64))
    os.replace(pixel_file, path / "images.npy")
    description = {
        "images": len(images),
        "height": first.height,
        "width": first.width,
        "class_folders": folders,
        "source": images.origin["source"],
        "manifest": images.origin.get("manifest"),
        "images_sha256": identity,
    }
    write_json(source, description)
    part.unlink()
    return len(images) - done
