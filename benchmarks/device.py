"""The rate of large matrix products on this machine: in fp32 and, on a GPU, in TF32 and bf16.

python -m benchmarks.device
"""

import sys

import torch

from benchmarks import timing
from benchmarks.distill_step import make_matmul
from helper.cost import with_prefix
from helper.errors import run
from helper.options import Parser


def main(argv=None):
    """Prints the machine's line and {precision: FLOP/s}, which it returns."""
    parser = Parser(__doc__)
    timing.add_flags(parser, repeats=10)
    options = parser.parse_args(argv)
    device = timing.start(options)
    settings = {"fp32": ("off", "highest"), "TF32": ("off", "high"), "bf16": ("bf16", "highest")}
    if device.type == "cpu":  # TF32 is a GPU's, and bf16 without hardware for it takes minutes
        settings = {"fp32": settings["fp32"]}
    rates = {}
    for name, (amp, precision) in settings.items():
        torch.set_float32_matmul_precision(precision)
        multiply, operations = make_matmul(device, amp, 512 if options.quick else None)
        seconds = timing.spread(timing.alternate({name: multiply}, options.repeats)[name])
        rates[name] = operations / seconds.median
    print(", ".join(f"{name} {with_prefix(rate, 'FLOP/s')}" for name, rate in rates.items()))
    return rates


if __name__ == "__main__":
    sys.exit(run(main))
