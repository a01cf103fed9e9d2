"""Images with labels: files that are decoded on demand, or an array in memory."""

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from dataset.paths import Paths
from helper.errors import UserError


def decode(path):
    """Reads an image file as a PIL image in RGB. Raises UserError if it is missing or damaged."""
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
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and others
        raise UserError(
            f"damaged image {path} ({error}): generate it again, or delete it and its list entry"
        ) from None


@dataclass
class ImageSet:
    """N images with labels.

    images: uint8 array (N, H, W, 3), or N file paths, which are stored as Paths.
    labels: int64 array (N,) with values in 0…num_classes−1, or None for unlabelled images.
    grey: whether the channels of image files are averaged after decoding.
    shrunk: whether the deterministic part of the transform has been applied.
    origin: where the images come from, for config.json.
    why_unlabelled: why class folders do not give labels, "" if they do or there are none.
    """

    images: np.ndarray | Paths
    labels: np.ndarray | None
    class_names: list = field(default_factory=list)
    grey: bool = False
    shrunk: bool = False
    origin: dict = field(default_factory=dict)
    why_unlabelled: str = ""

    def __post_init__(self):
        if not isinstance(self.images, (np.ndarray, Paths)):
            self.images = Paths.of(self.images)

    def __len__(self):
        return len(self.images)

    @property
    def in_memory(self):
        return isinstance(self.images, np.ndarray)

    def load(self, index):
        """Image `index` as a PIL image in RGB."""
        if self.in_memory:
            return Image.fromarray(self.images[index])
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
