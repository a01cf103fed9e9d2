"""Labelled images: decoded files, or an array in memory."""

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from dataset.paths import Paths
from helper.errors import UserError


def decode(path):
    """Returns the image file as a PIL image in RGB. Raises UserError naming a missing or damaged
    file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"image not found: {path}") from None
    except PermissionError:
        raise UserError(
            f"cannot read image {path}: no permission: change its permissions"
        ) from None
    except (
        Exception
    ) as error:  # Pillow raises OSError, SyntaxError, ValueError, … for damaged files
        raise UserError(
            f"damaged image {path} ({error}): make it again, or delete it and its line"
        ) from None


@dataclass
class ImageSet:
    """N images with labels.

    images: uint8 array (N, H, W, 3), or the Paths of N files (given any list of paths, it becomes
    that). labels: int64 array (N,) with values in 0…num_classes−1, or None for unlabelled images.
    grey: the three channels are averaged on reading (Fashion-MNIST). shrunk: the part of the
    transform without randomness has been done. origin: what the set was read from, for config.json.
    """

    images: np.ndarray | Paths
    labels: np.ndarray | None
    class_names: list = field(default_factory=list)
    grey: bool = False
    shrunk: bool = False
    origin: dict = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.images, (np.ndarray, Paths)):
            self.images = Paths.of(self.images)

    def __len__(self):
        return len(self.images)

    @property
    def in_memory(self):
        return isinstance(self.images, np.ndarray)

    def load(self, index):
        """Returns image `index` as a PIL image in RGB."""
        image = (
            Image.fromarray(self.images[index]) if self.in_memory else decode(self.images[index])
        )
        return average_channels(image) if self.grey and not self.in_memory else image

    def label(self, index):
        """Returns the label of image `index`, −1 if the set has none."""
        return -1 if self.labels is None else int(self.labels[index])

    def subset(self, indices):
        """Returns the images at `indices`, in that order."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)


def average_channels(image):
    """Returns an RGB PIL image with every channel replaced by the rounded mean of the three."""
    mean = np.asarray(image, dtype=np.uint16).sum(axis=2)
    return Image.fromarray(np.repeat(((mean + 1) // 3).astype(np.uint8)[..., None], 3, axis=2))
