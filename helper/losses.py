"""Distillation losses and mixing of images.

DM-KD distils with `kd_loss` (arXiv 2305.12954, eq. 4; arXiv 1503.02531). `dkd_loss` and `dist_loss`
are alternatives, and `standardize` prepares the logits for any of them.
"""

import functools
import math

import torch
import torch.nn.functional as F

DISTILLATIONS = ("kd", "dkd", "dist")


def kd_loss(student_logits, teacher_logits, temperature, scaled=True):
    """τ² · KL(softmax(t/τ) ‖ softmax(s/τ)), summed over classes, averaged over the batch (0-d).

    Logits are (N, K) of any float type; the loss is computed in float32. `temperature` is τ > 0.
    scaled=False omits the factor τ², as One-Image does (arXiv 2112.00725).
    """
    log_s = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_t = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    divergence = F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    return divergence * temperature**2 if scaled else divergence


def dkd_loss(student_logits, teacher_logits, targets, temperature, alpha=1.0, beta=8.0):
    """Decoupled knowledge distillation (arXiv 2203.08679, eq. 7): τ² · (α·TCKD + β·NCKD), 0-d.

    TCKD is the KL divergence of (target class, all others), NCKD that among the other classes.
    Logits: (N, K) of any float type; targets: classes (N,).
    """
    log_s, log_t = (
        _decoupled(logits.float() / temperature, targets)
        for logits in (student_logits, teacher_logits)
    )
    target_term, other_term = (
        F.kl_div(s, t, reduction="batchmean", log_target=True) for s, t in zip(log_s, log_t)
    )
    return (alpha * target_term + beta * other_term) * temperature**2


def _decoupled(logits, targets):
    """Log probabilities of (target, others), (N, 2), and among the K − 1 others, (N, K − 1)."""
    steps = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, steps + (steps >= targets[:, None]).long())
    target = logits.gather(1, targets[:, None])
    pair = torch.cat([target, others.logsumexp(1, keepdim=True)], dim=1)
    return F.log_softmax(pair, dim=1), F.log_softmax(others, dim=1)


def dist_loss(student_logits, teacher_logits, temperature, beta=2.0, gamma=2.0):
    """DIST (arXiv 2205.10536, eq. 9–11): τ² · (β·inter + γ·intra), 0-d.

    Both terms are 1 minus the mean Pearson correlation of the softened probabilities of student and
    teacher: over the classes of each sample (inter), and over the samples for each class (intra).
    Logits: (N, K) of any float type.
    """
    student, teacher = (
        F.softmax(logits.float() / temperature, dim=1)
        for logits in (student_logits, teacher_logits)
    )
    inter = 1 - _pearson(student, teacher).mean()
    intra = 1 - _pearson(student.T, teacher.T).mean()
    return (beta * inter + gamma * intra) * temperature**2


def _pearson(x, y):
    """Correlation of each row of x with that of y."""
    x, y = (values - values.mean(1, keepdim=True) for values in (x, y))
    return F.cosine_similarity(x, y, dim=1)


def standardize(logits):
    """Logits (N, K) with mean 0 and deviation 1 over the classes (arXiv 2403.01427), float32."""
    logits = logits.float()
    deviation = logits.std(dim=1, keepdim=True) + 1e-7
    return (logits - logits.mean(dim=1, keepdim=True)) / deviation


def distillation(name, temperature, standardized=False, scaled=True, **weights):
    """The loss `name`, one of DISTILLATIONS, as a function of (student logits, teacher logits,
    targets).

    standardized: of standardised logits; scaled: whether kd has the factor τ²; weights: `alpha` and
    `beta` of dkd, `beta` and `gamma` of dist. targets: classes (N,), None for those that the
    teacher predicts; only dkd uses them.
    """

    def loss(student_logits, teacher_logits, targets=None):
        if name == "dkd" and targets is None:
            targets = teacher_logits.argmax(1)
        if standardized:
            student_logits, teacher_logits = map(standardize, (student_logits, teacher_logits))
        if name == "dkd":
            return dkd_loss(student_logits, teacher_logits, targets, temperature, **weights)
        if name == "dist":
            return dist_loss(student_logits, teacher_logits, temperature, **weights)
        return kd_loss(student_logits, teacher_logits, temperature, scaled)

    return loss


def loss_weight(epoch, warmup_epochs):
    """Weight in (0, 1] of the distillation loss in `epoch`, from 0: 1 / N, 2 / N, …, 1, 1, …"""
    return min(1.0, (epoch + 1) / max(1, warmup_epochs))


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
