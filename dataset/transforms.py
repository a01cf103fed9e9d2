"""Training and validation transforms of PIL images, with explicit random number generators.

Small images (CIFAR, Fashion-MNIST): resize to S×S, crop after zero-padding by S/8, flip; validation
images are only resized. Large images (ImageNet): random-resized crop to S×S, flip; validation:
shorter side to S·8/7, centre crop S×S. One-Image (arXiv 2112.00725) adds colour changes to the
transform of large images.

A transform has two parts: `shrink(image)` is deterministic, and `transform(image, rng)` draws from
`transform.generator(seed, epoch, index)`, so that an augmentation depends on nothing else.
"""

import math

import numpy as np
from PIL import Image

from dataset.colour import change, draw_jitter
from helper.errors import UserError
from helper.image_size import SMALL, is_small

LONGEST = 64  # aspect ratio of the images that are resized as a whole
_DRAWS = 3  # random numbers per small image: top, left, flip


def _epoch_bits(seed, epoch):
    """Bit generator of the crops of an epoch; the spawn key separates it from the image order."""
    return np.random.PCG64(np.random.SeedSequence((seed, epoch), spawn_key=(0,)))


class Small:
    """Training transform of small images: resize, padded crop, flip."""

    def __init__(self, size):
        self.size, self.padding = size, size // 8

    def shrink(self, image):
        """Resizes a PIL image to size × size pixels."""
        if image.size == (self.size, self.size):
            return image
        return image.resize((self.size, self.size), Image.BILINEAR)

    def generator(self, seed, epoch, index):
        """numpy Generator of an image: that of the epoch, advanced to the image's numbers."""
        return np.random.Generator(_epoch_bits(seed, epoch).advance(_DRAWS * index))

    def __call__(self, image, rng):
        return self._crop(np.asarray(image)[None], rng.random((1, _DRAWS)))[0]

    def batches(self, images, seed, epoch, batches):
        """Yields the transformed images, uint8 (n, S, S, 3), of each index array in `batches`.

        images: uint8 (N, S, S, 3). The result is that of `__call__` with `generator`, image by
        image, but all random numbers of the epoch are drawn at once, which is faster.
        """
        uniform = self._uniform(len(images), seed, epoch)
        for indices in batches:
            yield self._crop(images[indices], uniform[indices])

    def windows(self, count, seed, epoch):
        """The crops of `count` images in an epoch: top and left in the padded image, int64 (N,),
        and whether the image is flipped, bool (N,).
        """
        return self._windows(self._uniform(count, seed, epoch))

    def _uniform(self, count, seed, epoch):
        return np.random.Generator(_epoch_bits(seed, epoch)).random((count, _DRAWS))

    def _windows(self, uniform):
        top, left = (uniform[:, :2] * (2 * self.padding + 1)).astype(int).T
        return top, left, uniform[:, 2] < 0.5

    def _crop(self, images, uniform):
        """Pads, crops and flips uint8 images (n, S, S, 3), given uniform numbers (n, 3)."""
        size, padding = self.size, self.padding
        inside = slice(padding, padding + size)
        padded = np.zeros((len(images), size + 2 * padding, size + 2 * padding, 3), np.uint8)
        padded[:, inside, inside] = images
        windows = (values.tolist() for values in self._windows(uniform))
        crops = np.empty_like(images)
        for crop, image, top, left, flip in zip(crops, padded, *windows):
            window = image[top : top + size, left : left + size]
            crop[...] = window[:, ::-1] if flip else window
        return crops


class SmallValidation(Small):
    """Validation transform of small images: resize only."""

    def __call__(self, image, rng):
        return image

    def batches(self, images, seed, epoch, batches):
        """Yields the images of each index array unchanged."""
        for indices in batches:
            yield images[indices]


class Large:
    """Training transform of large images: random-resized crop and flip.

    The crop has 8–100 % of the area and an aspect ratio of 3/4–4/3.
    """

    resample = Image.BILINEAR

    def __init__(self, size, area=(0.08, 1.0)):
        self.size, self.area = size, area

    def shrink(self, image):
        """Returns the image unchanged: the random crop needs all of it."""
        return image

    def generator(self, seed, epoch, index):
        """numpy Generator of an image. How many numbers are drawn from it varies."""
        return np.random.default_rng((seed, epoch, index))

    def __call__(self, image, rng):
        *box, flip = self.window(*image.size, rng)
        crop = image.resize((self.size, self.size), self.resample, box=box)
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop

    def window(self, width, height, rng):
        """Draws the crop of an image: (left, top, right, bottom, whether it is flipped)."""
        return *self.crop_box(width, height, rng), rng.random() < 0.5

    def crop_box(self, width, height, rng):
        """Draws a box (left, top, right, bottom) in pixels; after ten failures, a central box."""
        for _ in range(10):
            area = width * height * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left = int(rng.integers(0, width - w + 1))
                top = int(rng.integers(0, height - h + 1))
                return left, top, left + w, top + h
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class LargeColour(Large):
    """One-Image's training transform: `Large` with bicubic resizing, then random colour changes.

    Colour jitter of strength 0.4 with probability 0.8, greyscale with 0.2, solarisation (inverts
    values from 128) with 0.2. The authors flip last, which gives the same images because colour
    changes do not depend on the position.
    """

    resample = Image.BICUBIC

    def __call__(self, image, rng):
        return change(super().__call__(image, rng), self.changes(rng))

    @staticmethod
    def changes(rng):
        """Draws the colour changes of an image, as `dataset.colour.change` takes them."""
        changes = []
        if rng.random() < 0.8:
            changes += draw_jitter((0.4, 0.4, 0.4, 0.4), rng)
        if rng.random() < 0.2:
            changes.append(("rgb_to_grayscale", 3))
        if rng.random() < 0.2:
            changes.append(("solarize", 128))
        return changes


def _without_ends(image):
    """Cuts both ends off an extremely long PIL image: resized as a whole it would take gigabytes.

    The middle, of LONGEST times the shorter side, is far more than a validation crop needs.
    """
    limit = LONGEST * min(image.size)
    if max(image.size) <= limit:
        return image
    left, top = (max(0, side - limit) // 2 for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


class LargeValidation:
    """Validation transform of large images: shorter side to size · 8/7, centre crop."""

    def __init__(self, size, shorter_side=None):
        self.size, self.shorter_side = size, shorter_side or round(size * 8 / 7)

    def generator(self, seed, epoch, index):
        """None: nothing is random."""

    def shrink(self, image):
        """Resizes and crops a PIL image to size × size pixels."""
        image = _without_ends(image)
        scale = self.shorter_side / min(image.size)
        resized = image.resize(
            [max(self.shorter_side, int(side * scale)) for side in image.size], Image.BILINEAR
        )
        left, top = (round((side - self.size) / 2) for side in resized.size)
        return resized.crop((left, top, left + self.size, top + self.size))

    def __call__(self, image, rng):
        return image


def training(size, colour=False):
    """Training transform for images of `size` pixels.

    colour: add One-Image's colour changes. Raises UserError for small images, which One-Image only
    crops and flips.
    """
    if is_small(size):
        if colour:
            raise UserError(
                f"--augment colour is for images of more than {SMALL} pixels and --image_size is "
                f"{size}: use --augment usual"
            )
        return Small(size)
    return LargeColour(size) if colour else Large(size)


def validation(size):
    """Validation transform for images of `size` pixels."""
    return SmallValidation(size) if is_small(size) else LargeValidation(size)


def whole(size):
    """Transform for images of `size` pixels that a generator learns: no more than the ends of the
    longer side is cut off.
    """
    return SmallValidation(size) if is_small(size) else LargeValidation(size, shorter_side=size)
