"""Crops of uint8 images on any device: those of numpy and Pillow in `dataset.transforms`."""

import torch
import torch.nn.functional as F


def padded_crop(images, top, left, flip, padding):
    """Pads uint8 images (N, S, S, 3) with zeros, crops them to their size, and flips some.

    top, left: int64 (N,), corners in the padded images; flip: bool (N,).
    """
    count, size = len(images), images.shape[1]
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    steps = torch.arange(size, device=images.device)
    rows = top[:, None] + steps  # (N, S)
    columns = left[:, None] + torch.where(flip[:, None], size - 1 - steps, steps)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]]


def resized_crop(images, boxes, size):
    """Resizes boxes of uint8 images (N, H, W, 3) to uint8 (N, size, size, 3), as Pillow does.

    boxes: (N, 4), left, top, right, bottom in pixels. Pillow's antialiased bilinear resizing
    `image.resize((size, size), BILINEAR, box=…)` is separable: two products with small matrices.
    """
    height, width = images.shape[1:3]
    left, top, right, bottom = boxes.float().unbind(1)
    across = resampling_weights(left, right, width, size)  # (N, S, W)
    down = resampling_weights(top, bottom, height, size)  # (N, S, H)
    pixels = images.permute(0, 3, 1, 2).float()  # (N, 3, H, W)
    rows = (pixels @ across.transpose(1, 2)[:, None]).round()  # (N, 3, H, S); Pillow rounds, too
    resized = (down[:, None] @ rows).round().clamp(0, 255)
    return resized.to(torch.uint8).permute(0, 2, 3, 1)


def resampling_weights(start, end, length, size):
    """Weights (N, size, length) of Pillow's triangle filter from the pixels of an axis to the
    `size` pixels of a box from `start` to `end`, (N,).

    Pixels next to the box count, those outside of the image do not.
    """
    scale = (end - start)[:, None, None] / size  # pixels of the image per pixel of the result
    steps = torch.arange(size, device=start.device)[:, None] + 0.5
    centres = start[:, None, None] + steps * scale  # (N, size, 1)
    pixels = torch.arange(length, device=start.device) + 0.5
    weights = (1 - (pixels - centres).abs() / scale.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)
