"""The two published recipes, on PIL images, with the randomness handed in: `generator` gives each
image its own.

'small' (CIFAR, Fashion-MNIST): resize to S×S, crop after zero-padding by S/8, flip; validation as
it is. 'large' (ImageNet): random-resized crop to S, flip; validation: the shorter side to S·8/7,
centre crop S. One-Image (arXiv 2112.00725) trains on large images whose colours are changed too.
"""

import math

import numpy as np
from PIL import Image

from dataset.colour import change, draw_jitter
from helper.errors import UserError
from helper.image_size import is_small

_DRAWS = 3  # random numbers that a small image takes


def _epoch_bits(seed, epoch):
    """The bit generator of an epoch's crops; the key keeps it apart from the one of the epoch's
    order.
    """
    return np.random.PCG64(np.random.SeedSequence((seed, epoch), spawn_key=(0,)))


class Small:
    """Training transform of small images: to `size` × `size` pixels, then a padded crop and a
    flip.
    """

    def __init__(self, size):
        self.size, self.padding = size, size // 8

    def shrink(self, image):
        """The part without randomness: PIL image → PIL image of `size` × `size`."""
        return (
            image
            if image.size == (self.size, self.size)
            else image.resize((self.size,) * 2, Image.BILINEAR)
        )

    def generator(self, seed, epoch, index):
        """Returns the numpy Generator of an image: the epoch's, advanced to the image's own
        numbers.
        """
        return np.random.Generator(_epoch_bits(seed, epoch).advance(_DRAWS * index))

    def __call__(self, image, rng):
        return self._crop(np.asarray(image)[None], rng.random((1, _DRAWS)))[0]

    def batches(self, images, seed, epoch, batches):
        """Yields the transformed images, uint8 (n, S, S, 3), of each index array of the list
        `batches`.

        images: uint8 (N, S, S, 3). Image i is what `__call__` makes of it with `generator(seed,
        epoch, i)`; the numbers of all are drawn at once, which takes less time than making a
        generator an image.
        """
        uniform = np.random.Generator(_epoch_bits(seed, epoch)).random((len(images), _DRAWS))
        for indices in batches:
            yield self._crop(images[indices], uniform[indices])

    def _crop(self, images, uniform):
        """Pads uint8 images (n, S, S, 3) with zeros, crops and flips them: top, left and flip from
        uniform (n, 3).
        """
        p, size = self.padding, self.size
        padded = np.zeros((len(images), size + 2 * p, size + 2 * p, 3), np.uint8)
        padded[:, p : p + size, p : p + size] = images
        corners, flips = (
            (uniform[:, :2] * (2 * p + 1)).astype(int).tolist(),
            (uniform[:, 2] < 0.5).tolist(),
        )
        crops = np.empty_like(images)
        for crop, image, (top, left), flip in zip(crops, padded, corners, flips):
            part = image[top : top + size, left : left + size]
            crop[...] = part[:, ::-1] if flip else part
        return crops


class SmallValidation(Small):
    """Validation transform of small images."""

    def __call__(self, image, rng):
        return image

    def batches(self, images, seed, epoch, batches):
        """Yields the images of each index array as they are."""
        for indices in batches:
            yield images[indices]


class Large:
    """Training transform of large images: a crop of 8–100 % of the area and aspect 3/4–4/3,
    resized, flipped.
    """

    resample = Image.BILINEAR

    def __init__(self, size, area=(0.08, 1.0)):
        self.size, self.area = size, area

    def shrink(self, image):
        """Nothing can be done once: the crop needs the whole image."""
        return image

    def generator(self, seed, epoch, index):
        """Returns the numpy Generator of an image; how many numbers it takes is not known
        beforehand.
        """
        return np.random.default_rng((seed, epoch, index))

    def __call__(self, image, rng):
        crop = image.resize(
            (self.size, self.size), self.resample, box=self.crop_box(*image.size, rng)
        )
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop

    def crop_box(self, width, height, rng):
        """Returns (left, top, right, bottom) in pixels: ten tries at a random box, then a central
        one.
        """
        for _ in range(10):
            area = width * height * rng.uniform(*self.area)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = (
                    int(rng.integers(0, width - w + 1)),
                    int(rng.integers(0, height - h + 1)),
                )
                return left, top, left + w, top + h
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class LargeColour(Large):
    """One-Image's training transform: `Large`, resized bicubically, and then its colours changed at
    random.

    A jitter of 0.4 each in four fifths of the images, grey in a fifth, solarised in a fifth (values
    from 128 on are inverted). The authors flip last; no change of colour depends on where a pixel
    is, so the result is the same.
    """

    resample = Image.BICUBIC

    def __call__(self, image, rng):
        return change(super().__call__(image, rng), self.changes(rng))

    @staticmethod
    def changes(rng):
        """Returns the changes of an image's colours, as `dataset.colour` has them."""
        changes = draw_jitter((0.4,) * 4, rng) if rng.random() < 0.8 else []
        changes += [("rgb_to_grayscale", 3)] if rng.random() < 0.2 else []
        return changes + ([("solarize", 128)] if rng.random() < 0.2 else [])


class LargeValidation:
    """Validation transform of large images: the shorter side to `size` · 8/7, the centre `size` ×
    `size`.
    """

    def __init__(self, size):
        self.size, self.shorter = size, round(size * 8 / 7)

    def generator(self, seed, epoch, index):
        """Nothing is random."""

    def shrink(self, image):
        """All of it: PIL image → PIL image of `size` × `size`."""
        scale = self.shorter / min(image.size)
        resized = image.resize(
            [max(self.shorter, int(side * scale)) for side in image.size], Image.BILINEAR
        )
        left, top = (round((side - self.size) / 2) for side in resized.size)
        return resized.crop((left, top, left + self.size, top + self.size))

    def __call__(self, image, rng):
        return image


def training(size, colour=False):
    """Returns the training transform for images of `size` pixels: 'small' up to 64, 'large' above.

    `colour`: One-Image's changes of colour besides. Raises UserError for small images: its recipe
    has none for them.
    """
    if not is_small(size):
        return LargeColour(size) if colour else Large(size)
    if colour:
        raise UserError(
            f"--augment colour is for images of more than 64 pixels and these have {size}; "
            "One-Image crops "
            "and flips small ones, which is --augment usual"
        )
    return Small(size)


def validation(size):
    """Returns the validation transform for images of `size` pixels."""
    return SmallValidation(size) if is_small(size) else LargeValidation(size)
