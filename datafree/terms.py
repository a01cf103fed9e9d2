"""Loss terms of the data-free methods, 0-d float32 tensors.

Logits are (N, K), images (N, C, H, W). The networks are frozen: the gradient flows to the images.
"""

import math

import torch
import torch.nn.functional as F


def class_loss(logits, labels):
    """Cross-entropy of the teacher's logits with the intended classes (N,)."""
    return F.cross_entropy(logits.float(), labels)


def certainty_loss(logits):
    """Cross-entropy with the teacher's own prediction: L_oh of DAFL (arXiv 1904.01186, eq. 3)."""
    return class_loss(logits, logits.argmax(1))


def activation_loss(features):
    """−mean |features|: real images activate a teacher's filters (arXiv 1904.01186, eq. 4)."""
    return -features.float().abs().mean()


def balance_loss(logits):
    """Σ p̄ log p̄, the negative entropy of the batch's mean softmax p̄ (arXiv 1904.01186, eq. 5)."""
    # In log space the gradient is finite even where a probability underflows to 0 in float32.
    log_mean = F.log_softmax(logits.float(), dim=1).logsumexp(0) - math.log(len(logits))
    return (log_mean.exp() * log_mean).sum()


def divergences(teacher_logits, student_logits):
    """KL(softmax(t) ‖ softmax(s)) of each image, (N,), which an adversarial generator maximises."""
    log_t = F.log_softmax(teacher_logits.float(), dim=1)
    log_s = F.log_softmax(student_logits.float(), dim=1)
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)


def jensen_shannon(teacher_logits, student_logits, temperature):
    """Jensen–Shannon divergence of the softened softmaxes, in [0, ln 2], averaged over the batch
    (arXiv 1912.08795, eq. 6–7).

    The public codes clip the probabilities to [0.01, 0.99] and swap the arguments of both KL terms.
    """
    log_t = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    log_s = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_m = torch.logaddexp(log_t, log_s) - torch.log(torch.tensor(2.0))
    teacher_part = F.kl_div(log_m, log_t, reduction="batchmean", log_target=True)
    student_part = F.kl_div(log_m, log_s, reduction="batchmean", log_target=True)
    return (teacher_part + student_part) / 2


def total_variation(images):
    """Sum of the L2 norms, over the whole batch, of the differences between each pixel and its
    right, lower, lower right and lower left neighbours.
    """
    right = images[..., :, 1:] - images[..., :, :-1]
    lower = images[..., 1:, :] - images[..., :-1, :]
    lower_right = images[..., 1:, 1:] - images[..., :-1, :-1]
    lower_left = images[..., 1:, :-1] - images[..., :-1, 1:]
    return sum(difference.float().norm() for difference in (right, lower, lower_right, lower_left))


def image_norm(images):
    """L2 norm of an image, averaged over the batch."""
    return images.float().flatten(1).norm(dim=1).mean()
