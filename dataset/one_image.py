"""One-Image (arXiv 2112.00725): patches of a single large photograph, cut, turned, sheared and
coloured at random.

A patch is a function of (photograph, seed, index). The chain, with S the patch's size: a square of
half the photograph's shorter side; of it a box of 1/500–1 of the area and aspect 3/4–4/3, resized
(bicubic) to √2·S; rotation and x-shear (bilinear; what they bring in from outside of the box is
black); the centre S × S; half of the patches with a colour jitter. As in the authors' public code
√2·S is truncated (32 → 45, 256 → 362) and nothing is flipped.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.colour import change, draw_jitter
from dataset.image_set import decode
from dataset.transforms import Large
from helper.errors import UserError

AREA = (1 / 500, 1.0)  # of the square
DEGREES = 30.0  # rotation and shear are uniform in ±30°
JITTER, JITTER_SHARE = (0.4, 0.4, 0.4, 0.1), 0.5


@dataclass(frozen=True)
class Drawn:
    """What chance decides of a patch.

    box: (left, top, right, bottom) in the photograph's pixels; angle, clockwise, and shear in
    degrees; changes: those of the colour, as `dataset.colour` has them.
    """

    box: tuple
    angle: float
    shear: float
    changes: list


def default_photograph():
    """Returns the Path of the photograph that matplotlib ships, 512 × 600 pixels.

    matplotlib is not imported. Raises UserError if it is not installed or came without its sample
    data.
    """
    package = importlib.util.find_spec("matplotlib")
    file = (
        package
        and Path(package.submodule_search_locations[0]) / "mpl-data/sample_data/grace_hopper.jpg"
    )
    if not file or not file.is_file():
        raise UserError(
            "the default photograph is one of matplotlib's sample images and it is not there: give "
            "--image"
        )
    return file


def load_photograph(path, size):
    """Returns the photograph as a PIL image in RGB, for patches of `size` × `size` pixels.

    Raises UserError if it is missing or damaged, or if the squares that patches are cut from, of
    half its shorter side, are smaller than a patch: even the largest box would then hold fewer
    pixels than the patch that is made of it.
    """
    photograph = decode(path)
    half = min(photograph.size) // 2
    if half < size:
        raise UserError(
            f"{path} is {photograph.width}×{photograph.height}; patches are cut from squares of "
            "half the "
            f"shorter side, {half} pixels, too few for patches of {size}: give a photograph of at "
            "least "
            f"{2 * size} pixels a side, or a smaller --image-size"
        )
    return photograph


def draw(width, height, seed, index):
    """Returns the Drawn of patch `index` of a photograph of `width` × `height` pixels; seed and
    index are ≥ 0.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    half = min(width, height) // 2
    x, y = int(rng.integers(0, width - half + 1)), int(rng.integers(0, height - half + 1))
    # Boxes that do not fit are drawn again, ten times at most: the whole square follows once in
    # 7·10⁸ patches.
    left, top, right, bottom = Large(half, AREA).crop_box(half, half, rng)
    angle, shear = rng.uniform(-DEGREES, DEGREES, 2).tolist()
    changes = draw_jitter(JITTER, rng) if rng.random() < JITTER_SHARE else []
    return Drawn((x + left, y + top, x + right, y + bottom), angle, shear, changes)


def patch(photograph, size, seed, index):
    """Returns patch `index` of a PIL image in RGB, uint8 (size, size, 3)."""
    from torchvision.transforms import (
        InterpolationMode,
        functional,
    )  # imports torch: not before the flags are checked

    drawn = draw(*photograph.size, seed, index)
    left, top, right, bottom = drawn.box
    wide = [math.isqrt(2 * size**2)] * 2
    image = functional.resized_crop(
        photograph, top, left, bottom - top, right - left, wide, InterpolationMode.BICUBIC
    )
    image = functional.affine(
        image, drawn.angle, [0, 0], 1.0, [drawn.shear, 0.0], InterpolationMode.BILINEAR
    )
    return np.array(change(functional.center_crop(image, [size, size]), drawn.changes))
