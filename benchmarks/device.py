"""Rate of large matrix products on this machine: in fp32 and, on a GPU, in TF32 and bf16.

python -m benchmarks.device
"""

import sys

import torch

from benchmarks import timing
from benchmarks.distill_step import make_matmul
from helper.cost import with_prefix
from helper.errors import run_script
from helper.options import Parser


def main(argv=None):
    """Prints the machine and returns the rates {precision: FLOP/s}, which it also prints."""
    parser = Parser(__doc__)
    timing.add_flags(parser, repeats=10)
    options = parser.parse_args(argv)
    device = timing.start(options)
    settings = {"fp32": ("off", "highest")}  # --amp, matmul precision
    if device.type == "cuda":  # a CPU has no TF32, and bf16 without hardware support takes minutes
        settings |= {"TF32": ("off", "high"), "bf16": ("bf16", "highest")}
    rates = {}
    for name, (amp, precision) in settings.items():
        torch.set_float32_matmul_precision(precision)
        multiply, operations = make_matmul(device, amp, 512 if options.quick else None)
        seconds = timing.spread(timing.alternate({name: multiply}, options.repeats)[name])
        rates[name] = operations / seconds.median
    print(", ".join(f"{name} {with_prefix(rate, 'FLOP/s')}" for name, rate in rates.items()))
    return rates


if __name__ == "__main__":
    sys.exit(run_script(main))
