"""Random views of images through which a gradient passes: a padded crop with a flip, a
random-resized crop.

Both resample rows and columns on their own, so a view is two small matrix products an image, with a
deterministic gradient on every device. Draws come from torch's global generator of the images'
device.
"""

import math

import torch

_ASPECT = (3 / 4, 4 / 3)


def crop_and_flip(images, padding):
    """Returns images (N, C, S, S) zero-padded by `padding`, cropped to S at a random place each
    and, half of them, mirrored.
    """
    count, size = len(images), images.shape[-1]
    steps = torch.arange(size, device=images.device, dtype=torch.float32)
    offsets = torch.randint(-padding, padding + 1, (2, count, 1), device=images.device)
    flip = torch.rand(count, 1, device=images.device) < 0.5
    return resample(
        images, steps + offsets[0], torch.where(flip, steps.flip(0), steps) + offsets[1]
    )


def resized_crop(images, area):
    """Returns of each image (N, C, S, S) a random box, bilinearly enlarged to S: `area` (least,
    most) is its share, its aspect 3/4 to 4/3, log-uniform; a side that would be longer than the
    image's is cut.
    """
    count, size = len(images), images.shape[-1]
    share, aspect, top, left = torch.rand(4, count, 1, device=images.device)
    side = (area[0] + (area[1] - area[0]) * share).sqrt()
    low, high = map(math.log, _ASPECT)
    stretch = (low + (high - low) * aspect).div(2).exp()
    centres = (torch.arange(size, device=images.device) + 0.5) / size

    def coordinates(length, place):
        length = length.clamp(max=1)
        return (size * ((1 - length) * place + length * centres) - 0.5).clamp(
            0, size - 1
        )  # the border is repeated

    return resample(images, coordinates(side / stretch, top), coordinates(side * stretch, left))


def resample(images, rows, columns):
    """Returns images (N, C, H', W') float32 read from images (N, C, H, W), bilinearly, zero outside
    of them.

    rows (N, H') and columns (N, W') are pixel coordinates, the first pixel's being 0.
    """
    with torch.autocast(images.device.type, enabled=False):
        down, across = (
            _weights(places, length) for places, length in zip((rows, columns), images.shape[-2:])
        )
        return torch.einsum("nij,ncjk,nlk->ncil", down, images.float(), across)


def _weights(places, length):
    """The (N, n, length) weights with which coordinates (N, n) read a line of `length` pixels."""
    distance = places[..., None] - torch.arange(length, device=places.device)
    return (1 - distance.abs()).clamp(min=0)
