"""Rate of whole commands: training with its loader, and sampling from start-up to the last file.

    python -m benchmarks.end_to_end                       # small sizes, for a CPU
    python -m benchmarks.end_to_end --device cuda --amp bf16 --images 50000

Training: `images_s` of the last epoch of train_student.py, on random images: in memory (32×32), as
JPEG files and as a pack (256×256, for 224×224). On a GPU the 32×32 pairs also run captured, and
captured and compiled. Sampling: the images of a synthesize_dit.py command divided by its time, for
a DiT and a VAE with random weights.

The reference of each row is a large matrix product in the same precision: the share is the
operations of the networks per second over those of the product.
"""

import contextlib
import csv
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import synthesize_dit
import train_student
from benchmarks import distill_step, timing
from benchmarks.distill_step import make_matmul, step_operations
from benchmarks.sampler import write_pipeline
from diffusion import official
from helper import checkpoints
from helper.errors import UserError, run_script
from helper.files import write_json
from helper.options import Parser, positive_int
from models.architectures import create_model
from tools import pack

PAIRS = {
    "wrn_16_2": distill_step.PAIRS["wrn_16_2"],
    "resnet18": distill_step.Pair("resnet34", "resnet18", 100, 32, 64, 128),
    "ResNet18": distill_step.PAIRS["ResNet18"]._replace(classes=10),
}
CLASSES = 10  # folders of the random images; the networks may have more outputs
FILE_SIZE = 256  # pixels of large images
VAL_IMAGES = 20


def parse_option(argv=None):
    """Parses and checks the flags. Raises UserError."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--pairs",
        default=",".join(PAIRS),
        help="students, separated by commas, empty for none (default: %(default)s)",
    )
    parser.add_argument("--images", type=positive_int, help="training images (default: 512)")
    parser.add_argument("--epochs", type=positive_int, default=2, help="(default: 2)")
    parser.add_argument("--amp", choices=["off", "bf16"], default="off", help="(default: off)")
    parser.add_argument(
        "--model",
        choices=[*official.names(), "none"],
        default="DiT-S/8",
        help="network of the sampling command (default: DiT-S/8)",
    )
    parser.add_argument(
        "--sampled_images", type=positive_int, help="images of the sampling command (default: 32)"
    )
    parser.add_argument("--num-sampling-steps", type=positive_int, default=5, help="(default: 5)")
    timing.add_flags(parser, repeats=3)
    options = parser.parse_args(argv)
    options.pairs = [name for name in options.pairs.split(",") if name]
    if unknown := [name for name in options.pairs if name not in PAIRS]:
        raise UserError(f"--pairs {unknown[0]} is none of {', '.join(PAIRS)}")
    options.images = options.images or (20 if options.quick else 512)
    options.sampled_images = options.sampled_images or (2 if options.quick else 32)
    return options


def write_images(folder, count, size, suffix):
    """Writes `count` random images, smooth as photographs are, in class folders 0000, 0001, …

    As of generated images, a manifest says their size: a GPU then crops them.
    """
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8)
        path = folder / f"{number % CLASSES:04d}" / f"{number:06d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((size, size), Image.BICUBIC).save(path, quality=95)
    write_json(folder / "manifest.json", {"complete": True, "settings": {"image_size": size}})
    return folder


def training_commands(pair, options, device):
    """{name: flags of train_student.py} of the variants of a pair; writes images and teacher."""
    large = pair.size > 64
    size = FILE_SIZE if large and not options.quick else pair.size
    images = write_images(Path(f"{pair.student}_images"), options.images, size, ".jpg")
    val = write_images(Path(f"{pair.student}_val"), VAL_IMAGES, size, ".png")
    teacher = Path(f"{pair.student}_teacher.pth")
    network = create_model(pair.teacher, CLASSES)
    checkpoints.save(teacher, {"model": network.state_dict(), "model_name": pair.teacher})
    batch = pair.gpu_batch if device.type == "cuda" else pair.cpu_batch
    flags = ["--dataset", "imagefolder", "--val_data", val, "--image_size", pair.size]
    flags += ["--path-t", teacher, "--model_s", pair.student, "--epochs", options.epochs]
    flags += ["--batch_size", min(batch, options.images), "--learning_rate", "0.01"]
    flags += ["--amp", options.amp, "--device", options.device]
    if large:
        packed = pack.main([str(images), "--out", f"{pair.student}_pack"])
        return {"JPEG": [*flags, "--train_data", images], "pack": [*flags, "--train_data", packed]}
    flags += ["--train_data", images]
    commands = {"in memory": flags}
    if device.type == "cuda":
        commands["captured"] = [*flags, "--capture", "on"]
        commands["captured, compiled"] = [*flags, "--capture", "on", "--compile"]
    return commands


def train(flags, number):
    """Runs train_student.py; returns the images per second of its last epoch."""
    name = f"run{number}"
    words = [*map(str, flags), "--experiments_dir", "benchmark", "--experiments_name", name]
    train_student.main(words)
    text = Path("save/student_model/benchmark", name, "metrics.csv").read_text()
    return float(list(csv.DictReader(text.splitlines()))[-1]["images_s"])


def sampling_commands(options, device):
    """{name: flags of synthesize_dit.py}, for fp32 and bf16; writes the pipeline."""
    size = 64 if options.quick else 256
    vae = "official" if device.type == "cuda" else "small"
    write_pipeline(Path("pipeline"), options.model, size, vae, "ddpm", 2 if options.quick else None)
    flags = ["--model", "pipeline", "--num-sampling-steps", options.num_sampling_steps]
    flags += ["--cfg-scale", "2", "--data_amount", options.sampled_images]
    flags += ["--device", options.device]
    commands = {"fp32": flags, "bf16": [*flags, "--precision", "bf16"]}
    if device.type == "cuda":
        commands["bf16, compiled"] = [*flags, "--precision", "bf16", "--compile"]
    return commands


def sample(flags, number):
    """Runs synthesize_dit.py; returns images per second and operations per image."""
    words = [*map(str, flags), "--save_dir", f"set{number}"]
    operations = synthesize_dit.main([*words, "--estimate"])["operations"]
    start = time.perf_counter()
    images = synthesize_dit.main(words)["images"]
    return images / (time.perf_counter() - start), operations / images


def matmul_rate(device, amp, repeats, quick):
    """Operations per second of a large matrix product, the median of `repeats`, with TF32.

    The commands are left with the precision that they have from a shell.
    """
    multiply, operations = make_matmul(device, amp, 256 if quick else None)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    (times,) = timing.alternate({"matmul": multiply}, repeats).values()
    torch.set_float32_matmul_precision(precision)
    return operations / timing.spread(times).median


def main(argv=None):
    """Measures the commands of `argv` and prints the table."""
    options = parse_option(argv)
    device = timing.start(options)
    rows, number = [], 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for pair in (PAIRS[name] for name in options.pairs):
            batch = pair.gpu_batch if device.type == "cuda" else pair.cpu_batch
            operations = step_operations(pair, batch, pair.size) / batch
            commands = training_commands(pair, options, device)
            rates = {name: [] for name in commands}
            matmuls = []
            for _ in range(options.repeats):  # in turn
                matmuls.append(matmul_rate(device, options.amp, 3, options.quick))
                for name, flags in commands.items():
                    rates[name].append(quietly(train, flags, number))
                    number += 1
            title = f"train_student.py, {pair.teacher} → {pair.student}, {pair.size}×{pair.size}"
            for name, values in rates.items():
                rows.append(row_of(title, f"{name}, {options.amp}", values, operations, matmuls))
        if options.model != "none":
            for name, flags in sampling_commands(options, device).items():
                amp, values, matmuls = "off" if name == "fp32" else "bf16", [], []
                for _ in range(options.repeats):
                    matmuls.append(matmul_rate(device, amp, 3, options.quick))
                    rate, operations = quietly(sample, flags, number)
                    values.append(rate)
                    number += 1
                title = f"synthesize_dit.py, {options.model}, T = {options.num_sampling_steps}"
                rows.append(row_of(title, name, values, operations, matmuls))
    header = "command|variant|images/s|share of the matmul rate"
    print(timing.markdown(header.split("|"), rows))
    print(f"\nMedian (lowest–highest) of {options.repeats} rounds.")


def quietly(function, *arguments):
    """Calls a function without what it prints."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return function(*arguments)


def row_of(title, variant, rates, operations, matmuls):
    """A row of the table; operations: per image; matmuls: operations per second, one per round."""
    shares = [100 * rate * operations / matmul for rate, matmul in zip(rates, matmuls, strict=True)]
    share = f"{timing.spread(shares):.1f} %"
    return [title, variant, f"{timing.spread(rates):.1f}", share]


if __name__ == "__main__":
    sys.exit(run_script(main))
