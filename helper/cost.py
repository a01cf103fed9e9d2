"""What a run will cost, said before it is spent: operations, disk, and the time at the rate of the
first batches.
"""

import time
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

_PREFIXES = ("", "K", "M", "G", "T", "P", "E", "Z")


def forward_operations(network, *inputs):
    """Returns the floating-point operations of `network(*inputs)`, two for a multiply-add, by
    shapes alone.

    Convolutions and matrix products count, norms and activations do not. Nothing is computed:
    weights and inputs that are tensors (on any device) are replaced by tensors without memory.
    """

    def on_meta(value):
        return torch.empty_like(value, device="meta") if isinstance(value, torch.Tensor) else value

    state = {
        name: on_meta(value)
        for name, value in [*network.named_parameters(), *network.named_buffers()]
    }
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        torch.func.functional_call(network, state, tuple(on_meta(value) for value in inputs))
    return counter.get_total_flops()


def with_prefix(value, unit):
    """Returns `value` with three digits and a decimal prefix: (9.49e18, 'FLOP') → '9.49 EFLOP'."""
    power = 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_PREFIXES[power]}{unit}"


def duration(seconds):
    """Returns seconds in the unit a person would use: '40 s', '12 min', '3.4 h', '70 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"


class TrainingCost(NamedTuple):
    """What a classifier's training takes; operations are floating-point ones of an image's way
    forward.
    """

    image_steps: int
    evaluated: int  # validation images, all epochs
    val_images: int
    student: int
    teacher: int  # 0 without one
    disk: int  # bytes

    @property
    def operations(self):
        """All of the run's: a student's step is three times its way forward; the teacher is
        evaluated once.
        """
        return (
            self.image_steps * (3 * self.student + self.teacher)
            + self.evaluated * self.student
            + self.val_images * self.teacher
        )

    def __str__(self):
        teacher = f" + {with_prefix(self.teacher, 'FLOP')} of the teacher" if self.teacher else ""
        return (
            f"cost: {with_prefix(self.operations, 'FLOP')}: {self.image_steps} image-steps of 3 x "
            f"{with_prefix(self.student, 'FLOP')}{teacher}, {self.evaluated} evaluated images; "
            f"run folder up to {with_prefix(self.disk, 'B')}"
        )


def training_cost(student, size, loader, val_images, epochs, teacher=None):
    """Returns the TrainingCost of `epochs` epochs through `loader`, on images of `size` pixels,
    each evaluated.
    """
    image = torch.empty(2, 3, size, size)  # BatchNorm in training mode needs two

    def operations(network):
        return forward_operations(network, image) // len(image)

    # The latest checkpoint holds weights and momentum, and is written beside the one before; the
    # best holds weights.
    disk = 5 * sum(value.numel() * value.element_size() for value in student.state_dict().values())
    return TrainingCost(
        epochs * len(loader) * loader.batch_size,
        epochs * val_images,
        val_images,
        operations(student),
        operations(teacher) if teacher is not None else 0,
        disk,
    )


class SynthesisCost(NamedTuple):
    """What the making of images takes where a teacher's gradient makes them; operations are of an
    image's way forward.
    """

    image_steps: int  # images times the steps that move them or their generator, at full resolution
    generated: int  # images that a generator makes without such a step
    generator: int  # 0 where the pixels themselves move
    teacher: int
    student: int  # 0 where the method does not look at it

    @property
    def operations(self):
        """All of the run's: the way back to an image is as long as that forward; weights take as
        much again.
        """
        step = 3 * self.generator + 2 * (self.teacher + self.student)
        return self.image_steps * step + self.generated * self.generator

    def __str__(self):
        parts = (
            [f"3 x {with_prefix(self.generator, 'FLOP')} of the generator"]
            if self.generator
            else []
        )
        parts += [
            f"2 x {with_prefix(value, 'FLOP')} of the {name}"
            for name, value in (("teacher", self.teacher), ("student", self.student))
            if value
        ]
        made = f", {self.generated} images of the generator" if self.generated else ""
        return (
            f"the images: {with_prefix(self.operations, 'FLOP')}: {self.image_steps} image-steps "
            "of "
            f"{' + '.join(parts)}{made}"
        )


class Pace:
    """Says once, from the first batches, how long a run of `total` units will still take.

    The first batch, which compiles kernels and fills caches, is left out; then `batches` of them
    are timed, and as many more as it takes to fill `seconds`.
    """

    def __init__(self, total, unit, batches=5, seconds=10.0):
        self.total, self.unit, self.batches, self.seconds = total, unit, batches, seconds
        self._count, self._first, self._said = 0, None, False

    def batch(self, done, wait=lambda: None):
        """Takes note that `done` units of the total are finished; returns the line to print, once,
        else None.

        `wait()` is called before the clock is read, to wait for a GPU that computes behind the
        host.
        """
        if self._said:
            return None
        self._count += 1
        if self._count == 1:
            wait()
            self._first = time.monotonic(), done
            return None
        # Ask the clock before the device: a wait at every step would slow what is being timed.
        if self._count <= self.batches or time.monotonic() - self._first[0] < self.seconds:
            return None
        wait()
        self._said = True
        rate = (done - self._first[1]) / (time.monotonic() - self._first[0])
        left = max(self.total - done, 0)
        return (
            f"at the first batches' {rate:.3g} {self.unit}s/s the remaining {left} take about "
            f"{duration(left / rate)}"
        )
