"""Distillation loss (DM-KD, arXiv 2305.12954, eq. 4; arXiv 1503.02531) and mixing of images."""

import functools
import math

import torch
import torch.nn.functional as F


def kd_loss(student_logits, teacher_logits, temperature, scaled=True):
    """τ² · KL(softmax(t/τ) ‖ softmax(s/τ)), summed over classes, averaged over the batch (0-d).

    Logits are (N, K) of any float type; the loss is computed in float32. `temperature` is τ > 0.
    scaled=False omits the factor τ², as One-Image does (arXiv 2112.00725).
    """
    log_s = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    return divergence * temperature**2 if scaled else divergence


def mixup(images, partners, weight):
    """λ·images + (1 − λ)·partners with one λ per batch (arXiv 1710.09412).

    images: (N, C, H, W) in [0, 1]. They can be mixed before they are normalised, because the
    normalisation is affine. Labels are not mixed. partners: (N,) int64; weight: λ, 0-d.
    """
    return torch.lerp(images[partners], images, weight)


def draw_mixup(images, concentration=0.4):
    """Draws (partners, λ) for `mixup` of a batch: a permutation, and λ ~ Beta(c, c)."""
    weight = torch.distributions.Beta(concentration, concentration).sample()
    return _to_device(images.device, torch.randperm(len(images)), weight)


def cutmix(images, partners, box):
    """Replaces one box in all images (N, C, H, W) by that of their partners (arXiv 1905.04899).

    partners: (N,) int64; box: bool (H, W).
    """
    return torch.where(box, images[partners], images)


def draw_cutmix(images, concentration=0.25):
    """Draws (partners, box) for `cutmix` of a batch.

    The box covers the fraction 1 − λ of the area before it is clipped, λ ~ Beta(c, c).
    """
    weight = torch.distributions.Beta(concentration, concentration).sample().item()
    partners = torch.randperm(len(images))
    height, width = images.shape[-2:]
    centre = torch.rand(2).tolist()
    half = math.sqrt(1 - weight) / 2
    top, bottom = (round(min(max(centre[0] + side * half, 0), 1) * height) for side in (-1, 1))
    left, right = (round(min(max(centre[1] + side * half, 0), 1) * width) for side in (-1, 1))
    box = torch.zeros(height, width, dtype=torch.bool)
    box[top:bottom, left:right] = True
    return _to_device(images.device, partners, box)


def mixing(name, concentration=None):
    """The pair of functions for `name`, 'none', 'mixup' or 'cutmix':

    draw(images) → the random tensors of a batch; mix(images, *tensors) → images.
    concentration: c of Beta(c, c); by default 0.4 (mixup) or 0.25 (cutmix), as released.
    """
    if name == "none":
        return lambda images: (), lambda images: images
    draw, mix = {"mixup": (draw_mixup, mixup), "cutmix": (draw_cutmix, cutmix)}[name]
    if concentration is not None:
        draw = functools.partial(draw, concentration=concentration)
    return draw, mix


def _to_device(device, *tensors):
    """Random numbers are drawn on the CPU, so that nothing waits for the GPU."""
    return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)
