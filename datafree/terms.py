"""Loss terms that several inversion methods share: 0-d float32 tensors. Logits are (N, K), images
(N, C, H, W).

Teacher and student are frozen here: the gradient goes through their logits to the images.
"""

import math

import torch
import torch.nn.functional as F


def class_loss(logits, labels):
    """Cross-entropy of the teacher's logits with the classes (N,) that the images are to show."""
    return F.cross_entropy(logits.float(), labels)


def certainty_loss(logits):
    """Cross-entropy with the class that the teacher itself sees, L_oh of DAFL (arXiv 1904.01186,
    eq. 3).
    """
    return class_loss(logits, logits.argmax(1))


def activation_loss(features):
    """−mean |features|: real images excite a teacher's filters (arXiv 1904.01186, eq. 4)."""
    return -features.float().abs().mean()


def balance_loss(logits):
    """Σ p̄ log p̄, the negative entropy of the batch's mean softmax p̄ (arXiv 1904.01186, eq.
    5).
    """
    # In logarithms: the gradient stays finite where a class has probability 0 in float32.
    log_mean = F.log_softmax(logits.float(), dim=1).logsumexp(0) - math.log(len(logits))
    return (log_mean.exp() * log_mean).sum()


def divergences(teacher_logits, student_logits):
    """KL(softmax(t) ‖ softmax(s)) of every image, (N,): what an adversarial generator makes
    large.
    """
    log_t, log_s = (
        F.log_softmax(logits.float(), dim=1) for logits in (teacher_logits, student_logits)
    )
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)


def jensen_shannon(teacher_logits, student_logits, temperature=3.0):
    """Jensen–Shannon divergence of the softened softmaxes, in [0, ln 2], mean over the batch
    (1912.08795, eq. 6–7).
    """
    log_t, log_s = (
        F.log_softmax(logits.float() / temperature, dim=1)
        for logits in (teacher_logits, student_logits)
    )
    log_m = torch.logaddexp(log_t, log_s) - torch.log(torch.tensor(2.0))
    return (
        sum(
            F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
            for log_p in (log_t, log_s)
        )
        / 2
    )


def total_variation(images):
    """Sum of the L2 norms, over the batch, of the differences to the right, lower, lower right,
    lower left pixels.
    """
    right = images[..., :, 1:] - images[..., :, :-1]
    lower = images[..., 1:, :] - images[..., :-1, :]
    lower_right = images[..., 1:, 1:] - images[..., :-1, :-1]
    lower_left = images[..., 1:, :-1] - images[..., :-1, 1:]
    return sum(difference.float().norm() for difference in (right, lower, lower_right, lower_left))


def image_norm(images):
    """The L2 norm of an image, mean over the batch."""
    return images.float().flatten(1).norm(dim=1).mean()
