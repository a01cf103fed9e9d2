"""Losses and mixing of distillation (DM-KD, arXiv 2305.12954, eq. 4; arXiv 1503.02531)."""

import functools
import math

import torch
import torch.nn.functional as F


def kd_loss(student_logits, teacher_logits, temperature, scaled=True):
    """Returns KL(softmax(t/τ) ‖ softmax(s/τ)) · τ², summed over classes and averaged over the batch
    (a 0-d tensor).

    Logits are (N, K), of any float type; the loss is computed in float32. `temperature` τ > 0.
    `scaled` False leaves the factor τ² out, as One-Image does (arXiv 2112.00725).
    """
    log_s = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    return divergence * temperature**2 if scaled else divergence


def mixup(images, concentration=0.4):
    """Returns λ·images + (1 − λ)·partners for one λ ~ Beta(c, c) a batch (arXiv 1710.09412); images
    (N, C, H, W).

    Mixing pixels in [0, 1] is mixing normalised ones: the normalisation is affine. Labels are not
    touched.
    """
    weight, partners = _draw(images, concentration)
    return torch.lerp(images[partners], images, weight)


def cutmix(images, concentration=0.25):
    """Returns the images with one box, of area share 1 − λ before clipping, taken from partners
    (arXiv 1905.04899).
    """
    weight, partners = _draw(images, concentration)
    height, width = images.shape[-2:]
    centre = torch.rand(2).tolist()
    half = math.sqrt(1 - weight) / 2
    top, bottom = (round(min(max(centre[0] + side * half, 0), 1) * height) for side in (-1, 1))
    left, right = (round(min(max(centre[1] + side * half, 0), 1) * width) for side in (-1, 1))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    return mixed


def _draw(images, concentration):
    """Draws λ (a float) and the partners (N,) on the CPU, so that nothing waits for the device."""
    weight = torch.distributions.Beta(concentration, concentration).sample().item()
    return weight, torch.randperm(len(images)).to(images.device, non_blocking=True)


def mixing(name, concentration=None):
    """Returns the function images → images of `name` ('none', 'mixup', 'cutmix'), with λ ~ Beta(c,
    c).

    `concentration` c is the released one where it is None: 0.4 of mixup, 0.25 of cutmix.
    """
    if name == "none":
        return lambda images: images
    mix = {"mixup": mixup, "cutmix": cutmix}[name]
    return mix if concentration is None else functools.partial(mix, concentration=concentration)
