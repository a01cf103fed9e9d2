"""DeepInversion (arXiv 1912.08795): images of given classes, from noise, by the gradient of a
frozen teacher.

Adam moves the pixels until the teacher sees the classes, and the batch has the statistics that the
teacher's BatchNorm layers keep of their training images. With a student (adaptive) it also looks
for images on which the two differ. Shapes: N images of S×S pixels, C channels. torch is imported
where it computes: the flags need `Settings` alone.
"""

import math
from dataclasses import dataclass

import torch

from datafree import Stopped, terms
from datafree.batchnorm import BatchNormMatch, evaluating
from helper.errors import UserError
from helper.options import (
    natural,
    nonnegative_float,
    one_of,
    positive_float,
    positive_int,
    setting,
    share,
)

_SMALL = 64  # pixels: up to this size the CIFAR values are the default


@dataclass(frozen=True)
class Settings:
    """The published values for CIFAR at 32×32; `published_settings` has those of other sizes."""

    batch: int = setting(256, positive_int, "images that are optimised together")
    steps: int = setting(1000, positive_int, "steps of Adam on a batch, at full resolution")
    half_steps: int = setting(0, natural, "steps before these at half the resolution")
    lr: float = setting(0.1, positive_float, "learning rate of the pixels")
    beta1: float = setting(0.5, share, "Adam's β1, below 1")
    beta2: float = setting(0.99, share, "Adam's β2, below 1")
    warmup: int = setting(0, natural, "steps of linear warm-up in each stage")
    decay: str = setting(
        "none", one_of("none", "cosine"), "none or cosine: how the rate falls within a stage"
    )
    oh: float = setting(
        1.0, nonnegative_float, "weight of the cross-entropy with the intended classes"
    )
    bn: float = setting(
        10.0, nonnegative_float, "weight of the distance to the BatchNorm statistics"
    )
    first_bn: float = setting(
        1.0, nonnegative_float, "weight of the first BatchNorm layer among them"
    )
    adv: float = setting(1.0, nonnegative_float, "weight of the disagreement with the student")
    temperature: float = setting(3.0, positive_float, "temperature of the disagreement")
    tv: float = setting(0.0, nonnegative_float, "weight of the total variation")
    l2: float = setting(0.0, nonnegative_float, "weight of the images' L2 norm")
    jitter: int = setting(
        4, natural, "pixels a step rolls the images by, at most; half at half resolution"
    )
    flip: float = setting(0.5, share, "probability that a step sees the images mirrored")

    def check(self, size):
        """Raises UserError if these settings do not fit each other, or images of `size` pixels."""
        if self.jitter >= size:
            raise UserError(
                f"--jitter {self.jitter} rolls images of {size} pixels all around: give less than "
                f"{size}"
            )
        if self.half_steps and size % 2:
            raise UserError(
                f"--half_steps {self.half_steps}: {size} pixels have no half resolution: give 0, "
                "or an "
                "even size"
            )
        for name in ("beta1", "beta2"):
            if getattr(self, name) == 1:
                raise UserError(f"--{name} 1 would never forget the first step: give less than 1")
        for name in ("steps", "half_steps"):
            steps = getattr(self, name)
            if self.warmup and 0 < steps <= self.warmup:
                raise UserError(
                    f"--warmup {self.warmup} leaves none of the {steps} steps of --{name}: give "
                    "less"
                )

    @property
    def stages(self):
        """(divisor of the resolution, steps) of each stage, in order."""
        return ((2, self.half_steps), (1, self.steps)) if self.half_steps else ((1, self.steps),)


# Of the authors' code for 224×224; the batch is its example's (the paper has 152; more is better),
# adv the paper's.
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
    """Returns {field: value} of Settings for images of `size` pixels: CIFAR's to 64 pixels, else
    ImageNet's.

    Of CIFAR's, the jitter is 1/8 of the size.
    """
    return {"jitter": size // 8} if size <= _SMALL else dict(IMAGENET)


def invert(
    teacher,
    labels,
    size,
    settings,
    student=None,
    grey=False,
    should_stop=lambda: False,
    on_step=lambda: None,
):
    """Returns images of the classes `labels` (N,), float32 (N, 3, size, size) in [0, 1], on the
    teacher's device.

    `teacher` and `student` map images in [0, 1] to logits and are in eval mode; the teacher's
    `mean` and `std` buffers (1, 3, 1, 1) are what it normalises with. The pixels start from N(0, 1)
    in that normalised space, drawn by torch's global CPU generator, and are clipped to the range of
    real ones after each step. `grey`: one channel for all three. Of the steps at a resolution the
    batch with the lowest loss is kept, as the published codes do: the view of the images changes
    from step to step, and with a constant rate the last step may be a bad one. `should_stop()` is
    asked before each step, `on_step()` called after it. Raises Stopped if it says yes, UserError if
    the settings do not fit or the teacher has no BatchNorm layer.
    """
    settings.check(size)
    mean, std = teacher.mean, teacher.std
    if grey:
        mean, std = mean.mean(1, keepdim=True), std.mean(1, keepdim=True)
    space = (mean, std)  # each (1, C, 1, 1), C = 1 for grey
    noise = torch.randn(len(labels), mean.shape[1], size, size)
    pixels = noise.to(mean.device, memory_format=torch.channels_last)
    labels = labels.to(mean.device)
    with BatchNormMatch(teacher) as match:

        def loss_of(view):
            return objective(view, labels, teacher, match, settings, space, student)

        for divisor, steps in settings.stages:
            pixels = _descend(
                loss_of, pixels, divisor, steps, settings, space, should_stop, on_step
            )
    return (pixels * std + mean).clamp(0, 1).expand(-1, 3, -1, -1)


def objective(view, labels, teacher, match, settings, space, student=None):
    """The loss of a batch (arXiv 1912.08795, eq. 1–7), a 0-d float32 tensor with a graph:

    oh·CE(t(x), y) + bn·BN + tv·TV(x) + l2·‖x‖₂ − adv·JS(t(x), s(x)), the last with a student.
    `view` is x (N, C, S, S), normalised by `space` (mean, std); `match` the BatchNormMatch whose
    hooks are on.
    """
    mean, std = space
    view = view.expand(-1, 3, -1, -1)
    images = view * std + mean
    logits = teacher(images)
    loss = settings.oh * terms.class_loss(logits, labels) + settings.bn * match.loss(
        settings.first_bn
    )
    if settings.tv:
        loss = loss + settings.tv * terms.total_variation(view)
    if settings.l2:
        loss = loss + settings.l2 * terms.image_norm(view)
    if student is not None and settings.adv:
        loss = loss - settings.adv * terms.jensen_shannon(
            logits, student(images), settings.temperature
        )
    return loss


def _descend(loss_of, pixels, divisor, steps, settings, space, should_stop, on_step):
    """Returns the pixels (N, C, S, S) with the lowest loss among `steps` steps that see them at S /
    `divisor`.
    """
    mean, std = space
    low, high = -mean / std, (1 - mean) / std
    pixels = pixels.clone().requires_grad_()
    best, lowest = pixels.detach().clone(), torch.full((), math.inf, device=pixels.device)
    optimizer = torch.optim.Adam([pixels], settings.lr, (settings.beta1, settings.beta2))
    for step in range(steps):
        if should_stop():
            raise Stopped
        optimizer.param_groups[0]["lr"] = settings.lr * _rate(step, steps, settings)
        loss = loss_of(_jittered(pixels, divisor, settings))
        # Of the pixels alone: a student in training must not find gradients in its parameters.
        (pixels.grad,) = torch.autograd.grad(loss, pixels)
        with torch.no_grad():
            # Chosen on the device, which the host need not wait for.
            best = torch.where(loss < lowest, pixels, best)
            lowest = torch.minimum(loss.detach(), lowest)
            optimizer.step()
            pixels.clamp_(low, high)
        on_step()
    return best


def _rate(step, steps, settings):
    """The factor of the learning rate at `step` (from 0) of `steps`, in [0, 1]: warm-up, then the
    decay.
    """
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.decay == "none":
        return 1.0
    return (1 + math.cos(math.pi * (step - settings.warmup) / (steps - settings.warmup))) / 2


def _jittered(pixels, divisor, settings):
    """Returns the batch (N, C, S / divisor, S / divisor) as a step sees it: reduced, rolled,
    perhaps mirrored.

    The draws are made on the CPU, so that nothing waits for the device.
    """
    view = torch.nn.functional.avg_pool2d(pixels, divisor) if divisor > 1 else pixels
    most = settings.jitter // divisor
    view = view.roll(torch.randint(-most, most + 1, (2,)).tolist(), dims=(2, 3))
    return view.flip(3) if torch.rand(()).item() < settings.flip else view


class DeepInversion:
    """Batches of inverted images for a student in training, in the protocol of the methods with a
    pool.

    `settings.batch` images a round, of which each of the processes makes its share.
    """

    def __init__(self, teacher, num_classes, image_size, settings, world, grey=False):
        """`grey`: make grey images. Raises UserError if the settings do not fit, or the teacher has
        no BatchNorm.
        """
        settings.check(image_size)
        BatchNormMatch(teacher)  # refuses one without
        if settings.batch % world.size:
            raise UserError(
                f"--batch {settings.batch} cannot be shared among {world.size} processes: give a "
                "multiple "
                f"of {world.size}"
            )
        self.teacher, self.num_classes, self.image_size = teacher, num_classes, image_size
        self.settings, self.grey, self.rounds = settings, grey, 0
        self.share = settings.batch // world.size

    def synthesize(self, student, should_stop=lambda: False):
        """Returns this process's images of a round, float32 (N, 3, S, S) in [0, 1] on the device,
        and labels (N,).

        The labels are balanced, drawn like the noise by torch's global generator, which the caller
        seeds. `student` is in eval mode meanwhile. Raises Stopped if `should_stop()`, asked at each
        step, says yes.
        """
        labels = balanced_labels(self.share, self.num_classes).to(self.teacher.mean.device)
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
        """What a checkpoint keeps: nothing passes from a round to the next but their count."""
        return {"rounds": self.rounds}

    def load_state_dict(self, state):
        self.rounds = state["rounds"]


def balanced_labels(count, num_classes):
    """Returns `count` classes, int64 (count,) on the CPU: random permutations of all of them, one
    after the other.
    """
    permutations = [torch.randperm(num_classes) for _ in range(-(-count // num_classes))]
    return torch.cat(permutations)[:count]
