"""One-Image (arXiv 2112.00725): random patches of one large photograph.

A patch is a function of (photograph, size, seed, index). With S the size of a patch:

1. a square of half the shorter side of the photograph;
2. in it a box of 1/500–1 of the area and aspect ratio 3/4–4/3, resized (bicubic) to √2·S;
3. rotation and shear along x (bilinear), with black where the box ends;
4. the centre S × S;
5. for half of the patches a colour jitter.

As in the authors' public code √2·S is truncated (32 → 45, 256 → 362) and nothing is flipped.
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

AREA = (1 / 500, 1.0)  # of the box, as a fraction of the square
DEGREES = 30.0  # rotation and shear are uniform in ±30°
JITTER = (0.4, 0.4, 0.4, 0.1)
JITTER_PROBABILITY = 0.5


@dataclass(frozen=True)
class PatchParameters:
    """The random parameters of a patch.

    box: (left, top, right, bottom) in pixels of the photograph; angle (clockwise) and shear in
    degrees; changes: of the colours, as in `dataset.colour`.
    """

    box: tuple
    angle: float
    shear: float
    changes: list


def default_photograph():
    """The path of a photograph in matplotlib's sample data, 512 × 600 pixels.

    Raises UserError if it is not installed.
    """
    package = importlib.util.find_spec("matplotlib")
    file = (
        package
        and Path(package.submodule_search_locations[0]) / "mpl-data/sample_data/grace_hopper.jpg"
    )
    if not file or not file.is_file():
        raise UserError(
            "the default photograph is in matplotlib's sample data, which is not installed: give "
            "--image"
        )
    return file


def load_photograph(path, size):
    """Loads a photograph as a PIL image in RGB, for patches of `size` × `size` pixels.

    Raises UserError if it is missing or damaged, or if its squares are smaller than a patch: even
    the largest box would have fewer pixels than the patch.
    """
    photograph = decode(path)
    half = min(photograph.size) // 2
    if half < size:
        raise UserError(
            f"{path} is {photograph.width}×{photograph.height}: patches come from squares of half "
            f"the shorter side, {half} pixels, too few for patches of {size}. Give a photograph "
            f"with sides of at least {2 * size} pixels, or a smaller --image-size"
        )
    return photograph


def draw_parameters(width, height, seed, index):
    """Draws the PatchParameters of patch `index` from a photograph of `width` × `height` pixels."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    half = min(width, height) // 2
    x, y = int(rng.integers(0, width - half + 1)), int(rng.integers(0, height - half + 1))
    # A box that does not fit is drawn again, up to ten times; the whole square is taken after that,
    # once in 7·10⁸ patches
    left, top, right, bottom = Large(half, AREA).crop_box(half, half, rng)
    angle, shear = rng.uniform(-DEGREES, DEGREES, 2).tolist()
    changes = draw_jitter(JITTER, rng) if rng.random() < JITTER_PROBABILITY else []
    return PatchParameters((x + left, y + top, x + right, y + bottom), angle, shear, changes)


def patch(photograph, size, seed, index):
    """Patch `index` of a PIL image in RGB, uint8 (size, size, 3)."""
    from torchvision.transforms import InterpolationMode, functional

    parameters = draw_parameters(*photograph.size, seed, index)
    left, top, right, bottom = parameters.box
    large = [math.isqrt(2 * size**2)] * 2
    image = functional.resized_crop(
        photograph, top, left, bottom - top, right - left, large, InterpolationMode.BICUBIC
    )
    image = functional.affine(
        image,
        parameters.angle,
        translate=[0, 0],
        scale=1.0,
        shear=[parameters.shear, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )
    image = functional.center_crop(image, [size, size])
    return np.array(change(image, parameters.changes))
