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


def mixup(images, concentration=0.4):
    """λ·images + (1 − λ)·partners with one λ ~ Beta(c, c) per batch (arXiv 1710.09412).

    Images (N, C, H, W) in [0, 1] can be mixed before they are normalised, because the normalisation
    is affine. Labels are not mixed.
    """
    weight, partners = _sample(images, concentration)
    return torch.lerp(images[partners], images, weight)


def cutmix(images, concentration=0.25):
    """Replaces one box in all images (N, C, H, W) by that of their partners (arXiv 1905.04899).

    The box covers the fraction 1 − λ of the area before it is clipped, λ ~ Beta(c, c).
    """
    weight, partners = _sample(images, concentration)
    height, width = images.shape[-2:]
    centre = torch.rand(2).tolist()
    half = math.sqrt(1 - weight) / 2
    top, bottom = (round(min(max(centre[0] + side * half, 0), 1) * height) for side in (-1, 1))
    left, right = (round(min(max(centre[1] + side * half, 0), 1) * width) for side in (-1, 1))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    return mixed


def _sample(images, concentration):
    """Samples λ (a float) and the partners (N,) on the CPU, so that nothing waits for the GPU."""
    weight = torch.distributions.Beta(concentration, concentration).sample().item()
    return weight, torch.randperm(len(images)).to(images.device, non_blocking=True)


def mixing(name, concentration=None):
    """The function images → images for `name`: 'none', 'mixup' or 'cutmix'.

    concentration: c of Beta(c, c); by default 0.4 (mixup) or 0.25 (cutmix), as released.
    """
    if name == "none":
        return lambda images: images
    mix = {"mixup": mixup, "cutmix": cutmix}[name]
    return mix if concentration is None else functools.partial(mix, concentration=concentration)
