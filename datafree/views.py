"""Differentiable random views of images: padded crop with flip, random-resized crop.

Both resample rows and columns separately, so a view is two small matrix products per image, whose
gradient is deterministic on every device. Random numbers come from torch's global generator of the
images' device.
"""

import math

import torch

ASPECT_RATIOS = (3 / 4, 4 / 3)  # of resized_crop


def crop_and_flip(images, padding):
    """Pads images (N, C, S, S) with zeros, crops each at a random place and mirrors half of them.

    padding: pixels on each side.
    """
    count, size = len(images), images.shape[-1]
    places = torch.arange(size, device=images.device, dtype=torch.float32)
    offsets = torch.randint(-padding, padding + 1, (2, count, 1), device=images.device)
    flip = torch.rand(count, 1, device=images.device) < 0.5
    rows = places + offsets[0]
    columns = torch.where(flip, places.flip(0), places) + offsets[1]
    return resample(images, rows, columns)


def resized_crop(images, area):
    """Crops a random box out of each image (N, C, S, S) and enlarges it to S×S, bilinearly.

    area: (smallest, largest) fraction of the image. The aspect ratio is log-uniform in 3/4 to 4/3;
    a side longer than the image is cut.
    """
    count, size = len(images), images.shape[-1]
    fraction, aspect, top, left = torch.rand(4, count, 1, device=images.device)
    side = (area[0] + (area[1] - area[0]) * fraction).sqrt()
    low, high = map(math.log, ASPECT_RATIOS)
    stretch = (low + (high - low) * aspect).div(2).exp()
    centres = (torch.arange(size, device=images.device) + 0.5) / size

    def coordinates(length, offset):
        length = length.clamp(max=1)
        places = size * ((1 - length) * offset + length * centres) - 0.5
        return places.clamp(0, size - 1)  # the border pixels are repeated

    return resample(images, coordinates(side / stretch, top), coordinates(side * stretch, left))


def resample(images, rows, columns):
    """Reads images (N, C, H, W) bilinearly at rows (N, H') and columns (N, W'), in pixels from 0.

    The result is float32 (N, C, H', W'); outside of an image it is zero.
    """
    with torch.autocast(images.device.type, enabled=False):
        height, width = images.shape[-2:]
        vertical, horizontal = _weights(rows, height), _weights(columns, width)
        return torch.einsum("nij,ncjk,nlk->ncil", vertical, images.float(), horizontal)


def _weights(places, length):
    """The (N, n, length) weights that read a line of `length` pixels at coordinates (N, n)."""
    distance = places[..., None] - torch.arange(length, device=places.device)
    return (1 - distance.abs()).clamp(min=0)
