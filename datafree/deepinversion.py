"""DeepInversion (arXiv 1912.08795): images of given classes from noise, by a teacher's gradient.

Adam optimises the pixels until the teacher recognises the classes and the batch has the statistics
that the teacher's BatchNorm layers keep of their training images. With a student (adaptive) it also
looks for images on which the two disagree.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from datafree import Stopped, per_process, terms
from datafree.batchnorm import BatchNormMatch, evaluating
from helper.errors import UserError
from helper.finite import first_not_finite
from helper.image_size import is_small
from helper.options import (
    fraction,
    moderate_float,
    natural,
    nonnegative_float,
    one_of,
    positive_float,
    positive_int,
    setting,
)


@dataclass(frozen=True)
class Settings:
    """The defaults are the published values for CIFAR; see `published_settings` for other sizes."""

    batch: int = setting(256, positive_int, "images that are optimised together")
    steps: int = setting(1000, positive_int, "steps per batch at full resolution")
    half_steps: int = setting(0, natural, "steps before these at half resolution")
    lr: float = setting(0.1, positive_float, "learning rate of the pixels")
    beta1: float = setting(0.5, fraction, "beta1 of Adam, below 1")
    beta2: float = setting(0.99, fraction, "beta2 of Adam, below 1")
    warmup: int = setting(0, natural, "steps of linear warm-up in each stage")
    decay: str = setting(
        "none", one_of("none", "cosine"), "learning rate schedule of each stage: none or cosine"
    )
    oh: float = setting(1.0, nonnegative_float, "weight of the cross-entropy")
    bn: float = setting(10.0, nonnegative_float, "weight of the BatchNorm distance")
    first_bn: float = setting(
        1.0, nonnegative_float, "factor of the first layer in the BatchNorm distance"
    )
    adv: float = setting(1.0, nonnegative_float, "weight of the divergence from the student")
    temperature: float = setting(
        3.0, moderate_float, "temperature of the Jensen–Shannon divergence from the student"
    )
    tv: float = setting(0.0, nonnegative_float, "weight of the total variation")
    l2: float = setting(0.0, nonnegative_float, "weight of the images' L2 norm")
    jitter: int = setting(
        4, natural, "largest roll of the images in pixels; half of it at half resolution"
    )
    flip: float = setting(0.5, fraction, "probability that a step mirrors the images")

    def check(self, size):
        """Raises UserError if these settings contradict each other or do not fit images of `size`
        pixels.
        """
        if self.jitter >= size:
            raise UserError(
                f"--jitter {self.jitter} is too large for images of {size} pixels: use less than "
                f"{size}"
            )
        if self.half_steps and size % 2:
            raise UserError(
                f"--half_steps {self.half_steps} needs an even image size, not {size} pixels: use "
                "--half_steps 0 or an even size"
            )
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1:
                raise UserError(f"--{name} 1: Adam would never forget its first step: use less")
        for name in ("steps", "half_steps"):
            steps = getattr(self, name)
            if self.warmup and 0 < steps <= self.warmup:
                raise UserError(
                    f"--warmup {self.warmup} must be less than the {steps} steps of --{name}"
                )

    @property
    def stages(self):
        """(divisor of the resolution, steps) of each stage, in order."""
        return ((2, self.half_steps), (1, self.steps)) if self.half_steps else ((1, self.steps),)


# From the authors' code for 224×224. The batch is that of its example (152 in the paper), adv is
# the paper's.
IMAGENET = {
    "batch": 84,
    "steps": 1000,
    "half_steps": 2000,
    "lr": 0.25,
    "beta1": 0.5,
    "beta2": 0.9,
    "warmup": 100,
    "decay": "cosine",
    "oh": 1.0,
    "bn": 0.01,
    "first_bn": 10.0,
    "adv": 0.2,
    "tv": 1e-4,
    "l2": 1e-5,
    "jitter": 30,
}


def published_settings(size):
    """{field: value} of Settings for images of `size` pixels: those for CIFAR up to 64 pixels, with
    a jitter of 1/8 of the size, and those for ImageNet above.
    """
    return {"jitter": size // 8} if is_small(size) else dict(IMAGENET)


def invert(teacher, labels, size, settings, student=None, grey=False, should_stop=None):
    """Makes images of the classes `labels` (N,): float32 (N, 3, size, size) in [0, 1].

    teacher, student: map images in [0, 1] to logits, in eval mode; the teacher normalises with its
        buffers `mean` and `std`, (1, 3, 1, 1). The images are on its device.
    grey: the three channels of an image are equal.
    should_stop: called before each step.

    The pixels start from N(0, 1) in the teacher's normalised space, drawn by torch's global CPU
    generator, and are clipped to valid ones after each step. Of each stage's steps the pixels with
    the lowest loss are kept, as in the authors' code for ImageNet: every step sees another view of
    the images, and with a constant learning rate the last step may be a bad one. Fast-Datafree and
    the authors' script for CIFAR keep a reference to the pixels, and so return those of the last
    step.
    Raises Stopped if `should_stop()` is true, UserError if the settings do not fit, the teacher
    has no BatchNorm layer, or the loss of a step is not finite.
    """
    settings.check(size)
    mean, std = teacher.mean, teacher.std
    if grey:
        mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)
    lowest_value, highest_value = -mean / std, (1 - mean) / std
    noise = torch.randn(len(labels), mean.shape[1], size, size)
    pixels = noise.to(mean.device, memory_format=torch.channels_last)
    labels = labels.to(mean.device)
    with BatchNormMatch(teacher) as match:
        for divisor, steps in settings.stages:
            pixels = pixels.clone().requires_grad_()
            best, lowest = pixels.detach().clone(), torch.full((), math.inf, device=mean.device)
            optimizer = torch.optim.Adam([pixels], settings.lr, (settings.beta1, settings.beta2))
            for step in range(steps):
                if should_stop is not None and should_stop():
                    raise Stopped
                rate = settings.lr * learning_rate_factor(step, steps, settings)
                optimizer.param_groups[0]["lr"] = rate
                view = random_view(pixels, divisor, settings).expand(-1, 3, -1, -1)
                images = view * std + mean
                logits = teacher(images)
                student_logits = student(images) if student is not None and settings.adv else None
                loss = objective(view, logits, labels, match, settings, student_logits)
                # Only the pixels get a gradient, not the parameters of a student in training.
                (pixels.grad,) = torch.autograd.grad(loss, pixels)
                with torch.no_grad():
                    # Chosen on the device: the host need not wait for it.
                    best = torch.where(loss < lowest, pixels, best)
                    lowest = torch.minimum(loss, lowest)
                    optimizer.step()
                    pixels.clamp_(lowest_value, highest_value)
            # A nan loss stays the lowest one, so one check after the last step is enough.
            if first_not_finite([lowest, pixels, optimizer.state_dict()]) is not None:
                raise UserError(
                    "the loss of the images is not finite: lower --lr or the weights of the loss, "
                    "or check the checkpoint of the teacher (and student)"
                )
            pixels = best
    return (pixels * std + mean).clamp(0, 1).expand(-1, 3, -1, -1)


def objective(view, logits, labels, match, settings, student_logits=None):
    """The loss of a batch (arXiv 1912.08795, eq. 1–7), a 0-d float32 tensor:

    oh·CE(t(x), y) + bn·BN + tv·TV(x) + l2·‖x‖₂ − adv·JS(t(x), s(x))

    view: x, (N, 3, S, S), normalised; logits: t(x), (N, K), of the forward pass that `match`, the
    teacher's BatchNormMatch, has recorded; student_logits: s(x), or None.
    """
    loss = settings.oh * terms.class_loss(logits, labels)
    loss = loss + settings.bn * match.loss(settings.first_bn)
    if settings.tv:
        loss = loss + settings.tv * terms.total_variation(view)
    if settings.l2:
        loss = loss + settings.l2 * terms.image_norm(view)
    if student_logits is not None:
        divergence = terms.jensen_shannon(logits, student_logits, settings.temperature)
        loss = loss - settings.adv * divergence
    return loss


def learning_rate_factor(step, steps, settings):
    """Factor of the learning rate at `step` (from 0) of `steps`, in [0, 1]: warm-up, then decay."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.decay == "none":
        return 1.0
    return (1 + math.cos(math.pi * (step - settings.warmup) / (steps - settings.warmup))) / 2


def random_view(pixels, divisor, settings):
    """The batch (N, C, S / divisor, S / divisor): reduced, rolled, and perhaps mirrored.

    Random numbers are drawn on the CPU, so that nothing waits for the device.
    """
    view = F.avg_pool2d(pixels, divisor) if divisor > 1 else pixels
    jitter = settings.jitter // divisor
    view = view.roll(torch.randint(-jitter, jitter + 1, (2,)).tolist(), dims=(2, 3))
    return view.flip(3) if torch.rand(()).item() < settings.flip else view


class DeepInversion:
    """Rounds of inverted images for a student in training; `rounds` counts the finished ones."""

    def __init__(self, teacher, num_classes, image_size, grey, settings, world):
        """Raises UserError if the settings do not fit, the teacher has no BatchNorm layer, or the
        processes cannot divide the batch.
        """
        settings.check(image_size)
        BatchNormMatch(teacher)  # raises without BatchNorm
        self.teacher, self.num_classes, self.image_size = teacher, num_classes, image_size
        self.grey, self.settings, self.rounds = grey, settings, 0
        self.count = per_process(settings.batch, world)

    def synthesize(self, student, should_stop=None):
        """Makes a round: this process's images, float32 (N, 3, S, S) in [0, 1], and labels (N,).

        The labels are balanced and drawn, like the noise, by torch's global generator, which the
        caller seeds. `student` is in eval mode meanwhile. Raises Stopped if `should_stop()`, called
        before each step, is true.
        """
        labels = balanced_labels(self.count, self.num_classes).to(self.teacher.mean.device)
        with evaluating(student):
            images = invert(
                self.teacher,
                labels,
                self.image_size,
                self.settings,
                student,
                self.grey,
                should_stop,
            )
        self.rounds += 1
        return images, labels

    def state_dict(self):
        """Only the number of rounds: nothing else passes from one round to the next."""
        return {"rounds": self.rounds}

    def load_state_dict(self, state):
        self.rounds = state["rounds"]


def balanced_labels(count, num_classes):
    """`count` classes, int64 (count,) on the CPU: random permutations of all classes in a row."""
    permutations = [torch.randperm(num_classes) for _ in range(-(-count // num_classes))]
    return torch.cat(permutations)[:count]
