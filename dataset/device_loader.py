"""Batches that are cropped on the GPU, from the same random numbers as in `dataset.loader`.

Small images live on the device as bytes. Large images of one size are decoded, or read from a pack,
by worker processes, and are cropped, resized and flipped on the device.
"""

import numpy as np
import torch
import torch.nn.functional as F

from dataset.loader import Batches, Loader, TransformedSet


class ResidentLoader(Batches):
    """Batches of small images on the device: (uint8 images (N, S, S, 3), int64 labels (N,)).

    The batches are those of a Loader, bit for bit.
    images: ImageSet with an array (M, S, S, 3) in memory; transform: Small or SmallValidation;
    val_batch_size: of `ordered_batches`, all ranks together; order: seed, rank and world_size of
    `Batches`.
    """

    def __init__(self, images, transform, batch_size, device, *, val_batch_size=None, **order):
        super().__init__(len(images), batch_size, **order)
        self.images, self.transform, self.device = images, transform, device
        self.rank_val_batch_size = -(-(val_batch_size or self.batch_size) // self.world_size)
        labels = np.full(len(images), -1) if images.labels is None else images.labels
        self._pixels = torch.from_numpy(images.images).to(device)
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(device)

    def epoch_batches(self, epoch, first_step=0):
        """Yields this rank's training batches of `epoch` (from 0), from `first_step` on."""
        windows = self.transform.windows(self.count, self.seed, epoch)
        top, left, flip = (torch.from_numpy(values).to(self.device) for values in windows)
        for indices in self.indices(epoch, first_step):
            batch = torch.from_numpy(indices).to(self.device, non_blocking=True)
            images = padded_crop(
                self._pixels[batch], top[batch], left[batch], flip[batch], self.transform.padding
            )
            yield images, self._labels[batch]

    def ordered_batches(self):
        """Yields each image of this rank exactly once: images rank, rank + world_size, …"""
        pixels = self._pixels[self.rank :: self.world_size]
        labels = self._labels[self.rank :: self.world_size]
        yield from zip(
            pixels.split(self.rank_val_batch_size),
            labels.split(self.rank_val_batch_size),
            strict=True,
        )


class WholeSet(TransformedSet):
    """Item (epoch, index) is (uint8 image (H, W, 3), its box and flip, label).

    The box is (left, top, right, bottom) in pixels; the flip is 0 or 1.
    """

    def arrays(self, image, rng):
        box = self.transform.crop_box(*image.size, rng)
        flip = rng.random() < 0.5
        return np.asarray(image), np.array([*box, flip], np.int64)


class CropLoader(Loader):
    """Loader of large images of one size, with the transform `Large` on the device."""

    item_set = WholeSet

    def __init__(self, *arguments, device, **options):
        super().__init__(*arguments, **options)
        self.device = device

    def finish(self, batch):
        """Crops, resizes and flips a batch on the device."""
        pixels, boxes, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        images = resized_crop(pixels, boxes[:, :4], self.transform.size)
        flip = boxes[:, 4].bool().view(-1, 1, 1, 1)
        return torch.where(flip, images.flip(2), images), labels


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
