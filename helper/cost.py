"""Estimated cost of a run: floating-point operations, disk space, and the remaining time."""

import copy
import time
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

_PREFIXES = ("", "K", "M", "G", "T", "P", "E", "Z")


def dry_pass(network, *inputs):
    """The output of `network(*inputs)` without values, and its floating-point operations.

    Two operations are counted for each multiply-add of convolutions and matrix products, none for
    norms and activations. Nothing is computed: the pass runs on the meta device, with the shapes of
    the weights and inputs. A network that cannot run there, because it reads values, is copied and
    run on the CPU with zeros. Neither changes the network or the state of random generators.
    Raises whatever the network raises.
    """

    def to_meta(value):
        return torch.empty_like(value, device="meta") if isinstance(value, torch.Tensor) else value

    def to_zeros(value):
        return torch.zeros_like(value, device="cpu") if isinstance(value, torch.Tensor) else value

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            tensors = [*network.named_parameters(), *network.named_buffers()]
            state = {name: to_meta(value) for name, value in tensors}
            with FlopCounterMode(display=False) as counter:
                output = torch.func.functional_call(network, state, tuple(map(to_meta, inputs)))
        except Exception:
            with FlopCounterMode(display=False) as counter:
                output = copy.deepcopy(network).cpu()(*map(to_zeros, inputs))
    return output, counter.get_total_flops()


def forward_operations(network, *inputs):
    """Floating-point operations of `network(*inputs)`, as counted by `dry_pass`."""
    return dry_pass(network, *inputs)[1]


def with_prefix(value, unit):
    """`value` with three digits and a decimal prefix: (9.49e18, 'FLOP') → '9.49 EFLOP'."""
    power = 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_PREFIXES[power]}{unit}"


def duration(seconds):
    """A time in a readable unit: '40 s', '12 min', '3.4 h', '70 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{hours:.0f} h"


class TrainingCost(NamedTuple):
    """Cost of training a classifier."""

    image_steps: int  # training images, counted at every step
    evaluation_images: int  # validation images of all epochs
    val_images: int
    student: int  # operations of a forward pass of one image
    teacher: int  # the same of the teacher; 0 without one
    disk: int  # bytes

    @property
    def operations(self):
        """Total operations; a training step costs three forward passes, and the teacher is
        evaluated once.
        """
        training = self.image_steps * (3 * self.student + self.teacher)
        evaluation = self.evaluation_images * self.student + self.val_images * self.teacher
        return training + evaluation

    def __str__(self):
        per_image = f"3 x {with_prefix(self.student, 'FLOP')} of the student"
        if self.teacher:
            per_image += f" + {with_prefix(self.teacher, 'FLOP')} of the teacher"
        return (
            f"cost: {with_prefix(self.operations, 'FLOP')} for {self.image_steps} image-steps of "
            f"{per_image}, and {self.evaluation_images} evaluation images; run folder up to "
            f"{with_prefix(self.disk, 'B')}"
        )


def training_cost(student, size, loader, val_images, epochs, teacher=None):
    """The TrainingCost of `epochs` epochs, each followed by an evaluation.

    size: of the images, in pixels; loader: has `len()` (steps per epoch) and `batch_size`;
    val_images: number of validation images.
    """
    images = torch.empty(2, 3, size, size)  # BatchNorm in training mode needs two

    def operations(network):
        return forward_operations(network, images) // len(images)

    # The folder holds up to five times the weights: those in the best checkpoint, and weights and
    # momentum in the latest one and in the one that is about to replace it.
    weights = sum(value.numel() * value.element_size() for value in student.state_dict().values())
    return TrainingCost(
        image_steps=epochs * len(loader) * loader.batch_size,
        evaluation_images=epochs * val_images,
        val_images=val_images,
        student=operations(student),
        teacher=0 if teacher is None else operations(teacher),
        disk=5 * weights,
    )


class SynthesisCost(NamedTuple):
    """Cost of synthesising images with the gradient of a teacher.

    generator, teacher, student: operations of a forward pass of one image.
    """

    image_steps: int  # images times optimisation steps of them or of their generator, at full size
    generated: int  # further images, generated without such a step
    generator: int  # 0 if the pixels are optimised
    teacher: int
    student: int  # 0 if the method does not use it

    @property
    def operations(self):
        """Total operations.

        The gradient with respect to an image costs as much as a forward pass, the gradient with
        respect to the weights as much again.
        """
        step = 3 * self.generator + 2 * (self.teacher + self.student)
        return self.image_steps * step + self.generated * self.generator

    def __str__(self):
        networks = [
            (3, self.generator, "generator"),
            (2, self.teacher, "teacher"),
            (2, self.student, "student"),
        ]
        per_image = " + ".join(
            f"{passes} x {with_prefix(operations, 'FLOP')} of the {name}"
            for passes, operations, name in networks
            if operations
        )
        text = f"cost of the images: {with_prefix(self.operations, 'FLOP')}: "
        text += f"{self.image_steps} image-steps of {per_image}"
        return f"{text}, and {self.generated} generated images" if self.generated else text


class Pace:
    """Predicts once, from the speed of the first batches, how long the rest of a run will take.

    total: number of `unit`s (such as 'image') of the run. The first batch, which compiles kernels
    and fills caches, is not timed. The next ones are, until there are `batches` of them and
    `seconds` have passed.
    """

    def __init__(self, total, unit, batches=5, seconds=10.0):
        self.total, self.unit, self.batches, self.seconds = total, unit, batches, seconds
        self._count, self._start, self._finished = 0, None, False

    def batch(self, done, synchronize=lambda: None):
        """Registers a batch after which `done` units are finished; returns the prediction, once,
        and None otherwise.

        `synchronize()` waits for the GPU before the clock is read.
        """
        if self._finished:
            return None
        self._count += 1
        if self._count == 1:
            synchronize()
            self._start = time.monotonic(), done
            return None
        start_time, start_done = self._start
        # Wait for the GPU only when needed: a wait at every step would slow what is being timed.
        if self._count <= self.batches or time.monotonic() - start_time < self.seconds:
            return None
        synchronize()
        self._finished = True
        rate = (done - start_done) / (time.monotonic() - start_time)
        remaining = max(self.total - done, 0)
        return (
            f"{rate:.3g} {self.unit}s/s in the first batches: the remaining {remaining} take about "
            f"{duration(remaining / rate)}"
        )
