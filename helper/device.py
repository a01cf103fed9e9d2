"""Batches on the device, and the precision of a forward pass."""

import os
import shutil

import torch


def has_compiler():
    """Whether there is a C compiler, without which torch.compile cannot launch its GPU kernels."""
    return any(map(shutil.which, [os.environ.get("CC") or "cc", "gcc", "clang"]))


def autocast(amp, device, cache=True):
    """Returns the autocast context of `--amp`: bf16, or none.

    cache: weights are cast once within the context, which must then hold a single forward pass and
    no optimizer step.
    """
    enabled = amp == "bf16" or (amp == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache)


def to_device(batch, device):
    """Moves uint8 images (N, H, W, 3) and labels (N,) to `device`.

    Returns images (N, 3, H, W) in [0, 1], channels_last in memory, and the labels.
    """
    images, labels = batch
    images = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images.float() / 255, labels.to(device, non_blocking=True)
