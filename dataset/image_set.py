"""Images with labels: files that are decoded on demand, or an array in memory."""

import contextlib
import errno
import io
import json
import os
import stat
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from dataset.pack import PackedImages
from dataset.paths import Paths
from dataset.scan import EXTENSIONS
from helper.errors import REMEDIES, UserError

# Pillow's limits protect web servers. Users' own pictures may be larger, and so may texts in them.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = sys.maxsize
MAX_PIXELS = 1 << 30  # of an image; it takes 4 GiB of memory
GIT_LFS = b"version https://git-lfs"  # begins a pointer file
OTHER_PROGRAMS = ("EPS", "WMF")  # formats that Pillow gives to another program, whatever their name
# Modes of Pillow whose range is not known, or that it cannot convert
NOT_READ = {
    "I": "32-bit or signed integers",
    "F": "floating-point numbers",
    "LAB": "Lab colours",
}


class UnusableImage(UserError):
    """An image file is missing or damaged, or of a kind that is not read."""


def decode(path):
    """Reads an image file as a PIL image in RGB; of several frames, the first.

    An alpha channel is dropped. 16-bit grey values are scaled to 8 bits. Raises UserError as
    `opened`, and UnusableImage for 32-bit and floating-point images.
    """
    with opened(path) as image:
        _check_tiff(image, path)
        image.load()
        image.info.pop("transparency", None)  # Pillow warns about it; RGB has none
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            return _from_16_bits(image, path)
        if image.mode in NOT_READ:
            raise UnusableImage(
                f"image {path} holds {NOT_READ[image.mode]}, which are not read: convert it to "
                "8-bit RGB or grey"
            )
        return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def opened(path):
    """Context manager: the PIL image of a file, not decoded yet.

    Errors in the context, too, are raised as UserError: UnusableImage if the file is missing or
    damaged, other UserErrors if it is too large or not a file, or if the machine is at fault.
    """
    try:
        # Errors of the disk are errors of reading; those of decoding are in the bytes.
        with Image.open(io.BytesIO(_read(path))) as image:
            if image.format in OTHER_PROGRAMS:
                raise UnusableImage(_other_kind(path))
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"image {path} has {image.width} × {image.height} pixels, more than "
                    f"{MAX_PIXELS:,}: reduce it"
                )
            yield image
    except UserError:
        raise
    except FileNotFoundError:
        if os.path.islink(path):
            raise UnusableImage(
                f"image {path} is a broken link to {os.readlink(path)}: restore the target, or "
                "remove the link"
            ) from None
        raise UnusableImage(f"image not found: {path}") from None
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and others
        no_memory = isinstance(error, MemoryError) or "out of memory" in str(error)
        if isinstance(error, IsADirectoryError):
            raise UserError(
                f"cannot read image {path}: it is a folder: give an image file, or rename the "
                "folder"
            ) from None
        if number := errno.ENOMEM if no_memory else getattr(error, "errno", None):
            remedy = REMEDIES.get(number) or f"{error.strerror}: check the file and its disk"
            raise UserError(f"cannot read image {path}: {remedy}") from None
        if isinstance(error, UnidentifiedImageError) and _is_of_another_kind(path):
            raise UnusableImage(_other_kind(path)) from None
        if isinstance(error, UnidentifiedImageError) and _head(path).startswith(GIT_LFS):
            raise UnusableImage(
                f"image {path} is only the pointer to a file in Git LFS: run `git lfs pull`"
            ) from None
        if isinstance(error, UnidentifiedImageError):
            if not str(path).lower().endswith(EXTENSIONS):
                raise UnusableImage(
                    f"{path} is not an image, by its name and content: remove its list entry"
                ) from None
            error = "its content is not an image"
        raise UnusableImage(f"damaged image {path} ({error}): {_repair(path)}") from None


def _read(path):
    """The bytes of a file. Raises UserError for pipes and the like, which would block."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder raises an OSError
        raise UserError(f"cannot read image {path}: it is a pipe, socket or device: leave it out")
    with open(path, "rb") as file:
        return file.read()


def _other_kind(path):
    """The message about an image that is not damaged but cannot be read."""
    return (
        f"image {path} is of a kind that is not read: convert it to 8-bit RGB or grey, as PNG or "
        "JPEG"
    )


def _head(path):
    with open(path, "rb") as file:
        return file.read(40)


def _is_of_another_kind(path):
    """Whether a file that Pillow does not know begins like a TIFF, or a HEIC or AVIF file."""
    head = _head(path)
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or head[4:8] == b"ftyp"


def _check_tiff(image, path):
    """Raises UnusableImage for TIFF files that Pillow reads wrongly.

    Tags: 258 bits per sample, 259 compression (1: none), 284 planes (2: one per channel), 339
    sample format (2: signed).
    """
    tags = getattr(image, "tag_v2", {})
    kind = ""
    if tags.get(284) == 2 and max(tags.get(258, (8,))) > 8:
        kind = "16-bit values in separate planes"
    elif 2 in tags.get(339, ()):
        kind = "signed integers"
    if kind:
        raise UnusableImage(
            f"image {path} holds {kind}, which are not read: convert it to 8-bit RGB or grey"
        )


def _repair(path):
    """What to do about a damaged image."""
    for folder in Path(path).parents[:2]:
        with contextlib.suppress(OSError, ValueError, TypeError):  # no or another manifest
            manifest = json.loads((folder / "manifest.json").read_text())
            if "run" in manifest:  # a pool
                return f"restore it, or start the run {manifest['run']} again"
            if "command" in manifest:
                return (
                    f"run the command in {folder}/manifest.json again with --verify, which "
                    "generates damaged images again"
                )
    return "replace it by an intact copy, or delete it and its list entry"


def _from_16_bits(image, path):
    """Scales 16-bit grey values from 65,535 to 255, rounded; the image is returned in RGB."""
    # Tags of TIFF: 258 is the number of bits, 262 is 0 if white is zero
    tags = getattr(image, "tag_v2", {})
    if tags.get(258, (16,)) != (16,) or tags.get(262) == 0:
        raise UnusableImage(
            f"image {path} has 12-bit or inverted grey values: convert it to 8-bit RGB or grey"
        )
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


@dataclass
class ImageSet:
    """N images with labels.

    images: uint8 array (N, H, W, 3), or N file paths, which are stored as Paths, or those
    of a pack.
    labels: int64 array (N,) with values in 0…num_classes−1, or None for unlabelled images.
    grey: whether the channels of image files are averaged after decoding.
    shrunk: whether the deterministic part of the transform has been applied.
    origin: where the images come from, for config.json.
    why_unlabelled: why class folders do not give labels, "" if they do or there are none.
    """

    images: np.ndarray | Paths | PackedImages
    labels: np.ndarray | None
    class_names: list = field(default_factory=list)
    grey: bool = False
    shrunk: bool = False
    origin: dict = field(default_factory=dict)
    why_unlabelled: str = ""

    def __post_init__(self):
        if not isinstance(self.images, np.ndarray | Paths | PackedImages):
            self.images = Paths.of(self.images)

    def __len__(self):
        return len(self.images)

    @property
    def in_memory(self):
        return isinstance(self.images, np.ndarray)

    @property
    def pixel_size(self):
        """(H, W) if all images are known to have this size, else None."""
        if isinstance(self.images, PackedImages):
            return self.images.pixels.shape[1:3]
        if self.in_memory:
            return self.images.shape[1:3]
        settings = (self.origin.get("manifest") or {}).get("settings") or {}
        return settings.get("image_size") and (settings["image_size"],) * 2

    def load(self, index):
        """Image `index` as a PIL image in RGB."""
        if self.in_memory:
            return Image.fromarray(self.images[index])
        if isinstance(self.images, PackedImages):
            image = Image.fromarray(self.images[index])
        else:
            image = decode(self.images[index])
        return average_channels(image) if self.grey else image

    def label(self, index):
        """Label of image `index`, −1 for unlabelled images."""
        return -1 if self.labels is None else int(self.labels[index])

    def subset(self, indices):
        """ImageSet of the images at `indices`, in that order."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)


def average_channels(image):
    """Replaces the channels of an RGB PIL image by their mean, rounded half up."""
    channel_sum = np.asarray(image, dtype=np.uint16).sum(axis=2)
    mean = ((channel_sum + 1) // 3).astype(np.uint8)
    return Image.fromarray(np.repeat(mean[..., None], 3, axis=2))
