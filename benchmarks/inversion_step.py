"""Time of a step of DeepInversion's pixels beside the published way to match BatchNorm.

    python -m benchmarks.inversion_step        # three teachers, on the GPU or CPU of this machine
    python -m benchmarks.inversion_step --teachers resnet20 --amp bf16 --threads 1

A forward pass of the teacher, whose hooks record the statistics of every BatchNorm's input, the
loss, and its gradient with respect to the pixels, as in datafree/deepinversion.py, without the
random view and Adam. DFQ and FastDFKD match BatchNorm in the same way. The reference is written
here after what is known of DeepInversion's and Fast-Datafree's code: their hook copies the
activations to one row per channel and takes torch.var of the rows, in the precision of the
activations; images and teacher are contiguous (NCHW).
"""

import copy
import sys
from typing import NamedTuple

import torch

from benchmarks import timing
from benchmarks.distill_step import MEAN, STD, repeated, with_statistics
from datafree.batchnorm import BatchNormMatch
from datafree.deepinversion import Settings, objective
from helper.device import autocast
from helper.errors import UserError, run_script
from helper.options import Parser, positive_int
from models.classifiers import make_student

OURS, PUBLISHED = "ours", "published hook"


class Case(NamedTuple):
    """Classes, image size and batch sizes of a teacher."""

    classes: int
    size: int  # pixels
    cpu_batch: int
    gpu_batch: int


TEACHERS = {
    "resnet20": Case(10, 32, 64, 256),
    "resnet34": Case(100, 32, 16, 256),
    "ResNet50": Case(1000, 224, 4, 64),
}


def parse_option(argv=None):
    """Parses and checks the flags. Raises UserError."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--teachers",
        default=",".join(TEACHERS),
        help="teachers, separated by commas (default: %(default)s)",
    )
    parser.add_argument("--batch_size", type=positive_int, help="default: depends on the teacher")
    parser.add_argument(
        "--steps", type=positive_int, help="steps per timed run (default: 1; 20 on a GPU)"
    )
    parser.add_argument(
        "--amp", choices=["off", "bf16"], default="off", help="bf16 autocast of the teacher"
    )
    timing.add_flags(parser, repeats=15)
    options = parser.parse_args(argv)
    options.teachers = options.teachers.split(",")
    if unknown := [name for name in options.teachers if name not in TEACHERS]:
        raise UserError(f"--teachers {unknown[0]} is none of {', '.join(TEACHERS)}")
    return options


class PublishedMatch(BatchNormMatch):
    """BatchNormMatch with the statistics of the published hook."""

    def _record(self, number, layer, inputs):
        x = inputs[0]
        rows = x.transpose(0, 1).flatten(1)  # (C, N·H·W), a copy
        self._batch[number] = x.mean((0, 2, 3)), rows.var(1, unbiased=False)


def make_steps(teacher_name, classes, size, batch_size, device, amp="off"):
    """Returns {name: step()} of our step and the reference, with the same weights and pixels.

    Every call returns the loss, 0-d, and its gradient with respect to the pixels.
    """
    torch.manual_seed(0)
    teacher = make_student(teacher_name, classes, MEAN, STD)
    with_statistics(teacher.net)
    teacher = teacher.eval().requires_grad_(False).to(device)
    their_teacher = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
    pixels = torch.randn(batch_size, 3, size, size).to(device)
    labels = torch.arange(batch_size, device=device) % classes
    settings = Settings()

    def step_of(network, match, pixels):
        def step():
            with match:
                with autocast(amp, device):
                    logits = network(pixels * network.std + network.mean)
                loss = objective(pixels, logits, labels, match, settings)
                return loss.detach(), torch.autograd.grad(loss, pixels)[0]

        return step

    ours = pixels.clone(memory_format=torch.channels_last).requires_grad_()
    return {
        OURS: step_of(teacher, BatchNormMatch(teacher), ours),
        PUBLISHED: step_of(their_teacher, PublishedMatch(their_teacher), pixels.requires_grad_()),
    }


def main(argv=None):
    """Measures the teachers of `argv` and prints the table."""
    options = parse_option(argv)
    device = timing.start(options)
    on_gpu = device.type == "cuda"
    rows = []
    for name in options.teachers:
        classes, size, cpu_batch, gpu_batch = TEACHERS[name]
        batch_size, steps_per_run = gpu_batch if on_gpu else cpu_batch, 20 if on_gpu else 1
        if options.quick:
            size, batch_size, steps_per_run = min(size, 64), 2, 1
        batch_size, steps_per_run = options.batch_size or batch_size, options.steps or steps_per_run

        # Time both steps in turn
        steps = make_steps(name, classes, size, batch_size, device, options.amp)
        runs = {way: repeated(step, steps_per_run) for way, step in steps.items()}
        times = timing.alternate(runs, options.repeats, warmup=2)

        # One row per step
        for way, ratio in timing.ratios(times, OURS).items():
            seconds = timing.spread([value / steps_per_run for value in times[way]])
            rows.append(
                [
                    f"{name}, {size}×{size}, batch {batch_size}",
                    way,
                    f"{seconds:.4f}",
                    "–" if way == OURS else f"{ratio:.2f}",
                ]
            )
    print(timing.markdown("teacher|step|seconds per step|its time over ours".split("|"), rows))
    print(
        f"\nMedian (lowest–highest) of {options.repeats} rounds; "
        f"{'bf16' if options.amp == 'bf16' else 'float32'}."
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
