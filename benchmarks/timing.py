"""Timing of functions that take turns, ratios within a round, and Markdown tables.

Other load on the machine comes and goes. Functions that take turns are affected alike, so the ratio
of two runs of one round varies less than either time.
"""

import os
import platform
import statistics
import time
from typing import NamedTuple

import torch

from helper.distributed import choose_device
from helper.options import positive_int
from helper.run import git_commit


class Spread(NamedTuple):
    """Median, lowest and highest of several measurements."""

    median: float
    low: float
    high: float

    def __format__(self, spec):
        """Formats as `1.25 (1.20–1.41)`, each number with `spec`."""
        return f"{self.median:{spec}} ({self.low:{spec}}–{self.high:{spec}})"


def alternate(functions, repeats, warmup=1):
    """Calls the functions in turn, A, B, C, A, B, C, …, and times all calls after `warmup` rounds.

    functions: {name: callable without arguments}. The clock is read when the GPU has finished.
    Returns {name: [seconds of the call in each round]}, `repeats` numbers each.
    """
    times = {name: [] for name in functions}
    for number in range(warmup + repeats):
        for name, function in functions.items():
            _wait_for_gpu()
            start_time = time.perf_counter()
            function()
            _wait_for_gpu()
            if number >= warmup:
                times[name].append(time.perf_counter() - start_time)
    return times


def _wait_for_gpu():
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def spread(values):
    """Returns the Spread of a list of numbers."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(times, base):
    """Returns {name: Spread of its time divided by that of `base` in the same round}.

    times: the result of `alternate`. Above 1: slower than `base`.
    """
    return {
        name: spread([one / other for one, other in zip(values, times[base], strict=True)])
        for name, values in times.items()
    }


def markdown(header, rows):
    """Returns a Markdown table; `header` and each of `rows` are lists of cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def add_flags(parser, repeats):
    """Adds the flags that the benchmarks share. repeats: default number of timed rounds."""
    group = parser.add_argument_group("measurement")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    group.add_argument(
        "--threads", type=positive_int, help="CPU threads of torch (default: chosen by torch)"
    )
    group.add_argument(
        "--repeats", type=positive_int, help=f"timed rounds (default: {repeats}, --quick: 1)"
    )
    group.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to check that it runs; the times mean nothing",
    )
    parser.set_defaults(default_repeats=repeats)


def start(options):
    """Applies the flags of `add_flags`, prints the machine and returns the torch.device.

    Sets `options.repeats`. Raises UserError if the device is unknown or cannot be used.
    """
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # as the training scripts do
    options.repeats = options.repeats or (1 if options.quick else options.default_repeats)
    print(f"{machine(device)}\n", flush=True)
    return device


def machine(device):
    """Returns one line: GPU, processor, cores, threads, versions and commit."""
    name = torch.cuda.get_device_name(device) + ", " if device.type == "cuda" else ""
    return (
        f"{name}{processor()}, {os.cpu_count()} cores, torch threads {torch.get_num_threads()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, commit "
        f"{git_commit() or 'unknown'}"
    )


def processor():
    """Returns the name of the processor in /proc/cpuinfo, or its architecture without that file."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
