"""Makes the images of the methods beside DM-KD: One-Image, DeepInversion, BigGAN, into a folder for
train_student.py.

    python synthesize_baseline.py --method deepinversion --dataset fashion_mnist --data_amount 2560 \\
        --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth
    python synthesize_baseline.py --method one-image --image photograph.jpg --image-size 256 --data_amount 1.28m

One-Image (arXiv 2112.00725) cuts patches from a photograph, which have no labels: 10,000 a folder.
DeepInversion (arXiv 1912.08795) finds labelled images by the gradient of a teacher, and with
--path-s (adaptive) of a student; BigGAN (arXiv 1809.11096) samples a published generator. Run again
with the same flags, a stopped run goes on; with more images the folder grows. Under torchrun the
processes share the work. --estimate says what it would cost.
"""

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from datafree.batchnorm import BatchNormMatch
from datafree.deepinversion import Settings, invert, published_settings
from dataset import image_request, one_image, real
from dataset.image_batches import fill_folder, lacking_batches, padded, write_batches
from dataset.image_writer import image_bytes, to_pixels
from helper.cost import forward_operations, with_prefix
from helper.distributed import fix_kernels, session
from helper.errors import UserError, run
from helper.files import free_bytes, sha256
from helper.options import (
    Parser,
    add_network_flags,
    add_process_flags,
    add_settings_flags,
    natural,
    positive_int,
    settings_of,
)
from helper.run import environment
from models.biggan import find_biggan, load_biggan
from models.classifiers import architecture_of, image_statistics, load_teacher

ROWS = {
    "one-image": "One-Image",
    "deepinversion": "DeepInv",
    "biggan": "BigGAN",
}  # of the paper's tables
PATCHES = 64  # that a worker cuts at once
STUDENT_FLAGS = ("path_s", "model_s", "mean_s", "std_s")
LABELLED_FLAGS = ("classes", "class_list", "images_per_class", "precision", "no_tf32")
# The flags that not every method has.
FLAGS = {
    "one-image": {"image", "num_workers", "image_size"},
    "deepinversion": {
        "path_t",
        "model_t",
        "mean_t",
        "std_t",
        *STUDENT_FLAGS,
        "dataset",
        "num_classes",
        "image_size",
        *LABELLED_FLAGS,
        *(field.name for field in fields(Settings)),
    },
    "biggan": {"model", "truncation", "batch_size", *LABELLED_FLAGS},
}


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one, or one of another method."""
    parser = Parser(__doc__)
    parser.add_argument("--method", choices=list(FLAGS), required=True)
    group = parser.add_argument_group("one-image")
    group.add_argument(
        "--image",
        type=Path,
        help="the photograph; the published ones have 2,500 pixels a side and "
        "more (default: a small one that matplotlib ships)",
    )
    group.add_argument(
        "--num_workers",
        type=natural,
        help="processes that cut patches, all ranks; no patch depends on it (default: the cores)",
    )
    group = parser.add_argument_group("biggan")
    group.add_argument(
        "--model", help="a published name, or a folder of its files (default: biggan-deep-256)"
    )
    group.add_argument(
        "--truncation",
        type=_truncation,
        help="of the noise, in (0, 1]; published: 0.4–1 (default: 1)",
    )
    group.add_argument(
        "--batch_size", type=positive_int, help="images a step of a process (default: 32)"
    )
    group = parser.add_argument_group("deepinversion")
    add_network_flags(group)
    group.add_argument("--path-s", help="checkpoint of a frozen student: the adaptive form")
    group.add_argument(
        "--dataset",
        choices=sorted(real.REAL_SETS),
        help="of the teacher: gives classes, size and normalisation (default: imagenet)",
    )
    group.add_argument(
        "--num-classes", type=positive_int, help="of the teacher (default: the data set's)"
    )
    add_settings_flags(
        parser,
        "deepinversion's settings, shown for 32×32; above 64 pixels other values are published",
        {"deepinversion": Settings},
    )
    image_request.add_class_flags(parser)
    group = parser.add_argument_group("output and computing")
    group.add_argument(
        "--image-size",
        type=positive_int,
        help="pixels (deepinversion: default the data set's; one-image: published 32 and 256)",
    )
    group.add_argument("--seed", type=natural, default=0, help="(default: 0)")
    group.add_argument(
        "--save_dir", type=Path, help="(default: syn_dataset/<what makes the images>_seed<seed>)"
    )
    group.add_argument(
        "--format",
        choices=["png", "jpeg"],
        help="jpeg: quality 95 (default: png; one-image jpeg, as published)",
    )
    group.add_argument(
        "--precision", choices=["fp32", "bf16"], help="of the networks (default: fp32)"
    )
    group.add_argument(
        "--no_tf32",
        action="store_true",
        default=None,
        help="keep a GPU from rounding products to TF32",
    )
    group.add_argument("--estimate", action="store_true", help="say what it costs, and leave")
    add_process_flags(parser)
    options = parser.parse_args(argv)
    check_flags(options)
    return options


def _truncation(text):
    """argparse type: a number in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def check_flags(options):
    """Raises UserError if a flag is of another method or one that is needed is missing; fills in
    defaults.
    """
    method = options.method
    for name in sorted(set().union(*FLAGS.values()) - FLAGS[method]):
        if getattr(options, name) is not None:
            owners = " and ".join(owner for owner, names in FLAGS.items() if name in names)
            raise UserError(
                f"--{name} is a flag of {owners} and plays no part in {method}: leave it out"
            )
    if not options.data_amount and not options.images_per_class:
        raise UserError(
            "how many images? Give --data_amount"
            + ("" if method == "one-image" else " or --images_per_class")
        )
    if method == "one-image" and options.image_size is None:
        raise UserError("--image-size is needed: 32 and 256 are the published ones")
    if method == "deepinversion":
        check_networks(options)
    options.format = options.format or ("jpeg" if method == "one-image" else "png")
    options.precision = options.precision or "fp32"


def check_networks(options):
    """Raises UserError if the flags of deepinversion's networks do not make sense; fills in the
    data set.
    """
    options.dataset = options.dataset or "imagenet"
    options.num_classes = options.num_classes or real.REAL_SETS[options.dataset].num_classes
    if options.path_t is None:
        raise UserError("--path-t is needed: the teacher's checkpoint")
    if options.num_classes is None:
        raise UserError(
            f"--dataset {options.dataset} does not say how many classes the teacher has: give "
            "--num-classes"
        )
    if options.path_s is None:
        for name in ("adv", *STUDENT_FLAGS):
            if getattr(options, name):
                raise UserError(
                    f"--{name} is of the student and there is none: give --path-s, or leave it out"
                )
    elif options.adv == 0:
        raise UserError("--adv 0 leaves the student of --path-s out: leave --path-s out too")


@dataclass(frozen=True)
class Source:
    """What a method brings to the common work.

    name: of the default folder; settings: all that changes an image, for the manifest; asked: as
    `plan_images` takes it; batches(plan): the batches to make; make: as `write_batches` takes it;
    operations: floating-point operations of an image; packages: whose versions the manifest keeps.
    """

    name: str
    settings: dict
    asked: dict | int
    batches: Callable
    make: Callable
    operations: float
    packages: tuple = ("pillow",)


def main(argv=None):
    """Makes the missing images; returns a dict: folder, images (there now), made (by this run),
    seconds.

    With --estimate it returns `cost_of` all that is asked for.
    """
    options = parse_option(argv)

    with session(options, argv) as world:
        return synthesize(options, world)


def synthesize(options, world):
    """The whole run of one process: what is asked, what is missing, and, batch by batch, making and
    writing it.
    """

    def say(line):
        if world.is_main:
            print(line, flush=True)

    method = {"one-image": patches, "deepinversion": inversion, "biggan": biggan_samples}[
        options.method
    ]
    source = method(options, world, say)
    folder = options.save_dir or Path("syn_dataset") / f"{source.name}_seed{options.seed}"
    if options.estimate:
        amount = (
            source.asked
            if isinstance(source.asked, int)
            else image_request.count_images(source.asked)
        )
        return cost_of(amount, source, folder, say)

    def work(plan):
        if world.is_main:
            cost_of(len(plan.missing), source, folder, say)
        fix_kernels(not options.no_tf32)
        write_batches(plan, source.batches(plan), world, source.make)

    origin = {
        "method": ROWS[options.method],
        **environment(),
    }  # train_student.py passes it on to result.json
    origin["versions"] |= {
        package: importlib.metadata.version(package) for package in source.packages
    }
    return fill_folder(folder, source.settings, source.asked, origin, world, say, work)


def cost_of(images, source, folder, say):
    """Says and returns what `images` images take: a dict of images, operations, bytes of the files
    and free_bytes.
    """
    cost = {
        "images": images,
        "operations": images * source.operations,
        "bytes": round(images * image_bytes(source.settings)),
        "free_bytes": free_bytes(folder),
    }
    if source.operations:
        say(
            f"{images} images take {with_prefix(cost['operations'], 'FLOP')} "
            f"({with_prefix(source.operations, 'FLOP')} an image)"
        )
    say(
        f"{images} images take about {with_prefix(cost['bytes'], 'B')} on the disk of {folder}, "
        "which has "
        f"{with_prefix(cost['free_bytes'], 'B')} free"
    )
    return cost


class Patches:
    """One-Image's batches for a DataLoader: item [(shard, index), …] is the patches, uint8 (n, S,
    S, 3).
    """

    def __init__(self, photograph, size, seed):
        self.photograph, self.size, self.seed = photograph, size, seed

    def __getitem__(self, items):
        return np.stack(
            [one_image.patch(self.photograph, self.size, self.seed, index) for _, index in items]
        )


def patches(options, world, say):
    """Returns the Source of One-Image; a patch is a function of (photograph, size, seed, index)."""
    path = options.image or one_image.default_photograph()
    photograph = one_image.load_photograph(path, options.image_size)
    workers = -(
        -(os.cpu_count() if options.num_workers is None else options.num_workers) // world.size
    )

    def make(mine, advance):
        cut = Patches(photograph, options.image_size, options.seed)
        for pixels in DataLoader(cut, batch_size=None, sampler=mine, num_workers=workers):
            advance(1)
            yield pixels.numpy()

    settings = {
        "method": "one-image",
        "photograph_sha256": sha256(path),
        "seed": options.seed,
        "image_size": options.image_size,
        "format": options.format,
        "grey": False,
    }
    return Source(
        f"one-image_{path.stem}_{options.image_size}",
        settings,
        options.data_amount,
        lambda plan: lacking_batches(plan, PATCHES),
        make,
        0,
        ("pillow", "torchvision"),
    )


def inversion(options, world, say):
    """Returns the Source of DeepInversion; a batch is a function of (settings, seed, its
    number).
    """
    size, grey = real.image_size(options), options.dataset == "fashion_mnist"
    chosen = settings_of(
        options, "deepinversion", {"deepinversion": Settings}, published_settings(size)
    )
    if options.path_s is None:
        chosen = replace(chosen, adv=0.0)
    chosen.check(size)
    teacher, facts = frozen_network(options, "t", world, say)
    BatchNormMatch(teacher)  # refuses one without BatchNorm before a folder is made
    student, student_facts = (
        frozen_network(options, "s", world, say) if options.path_s else (None, {})
    )
    classes = sorted(image_request.requested_classes(options, options.num_classes, options.path_t))
    asked = image_request.requested_amounts(options, options.num_classes, options.path_t)
    place = {label: position for position, label in enumerate(classes)}

    def number(item):
        """The place of image (class, index) in the order in which the classes take turns."""
        return item[1] * len(classes) + place[item[0]]

    def batches(plan):
        """Whole batches of that order, with images that were not asked for where the last one
        ends.
        """
        first = [
            chosen.batch * start
            for start in sorted({number(item) // chosen.batch for item in plan.missing})
        ]
        return [
            [
                (classes[n % len(classes)], n // len(classes))
                for n in range(start, start + chosen.batch)
            ]
            for start in first
        ]

    def make(mine, advance):
        torch.backends.cudnn.deterministic = True  # the gradient's kernels are not, by themselves
        for batch in mine:
            torch.manual_seed(batch_seed(options.seed, number(batch[0]) // chosen.batch))
            labels = torch.tensor([label for label, _ in batch])
            with torch.autocast(
                world.device.type, torch.bfloat16, enabled=options.precision == "bf16"
            ):
                images = invert(teacher, labels, size, chosen, student, grey)
            advance(1)
            yield to_pixels(2 * images - 1, grey).cpu().numpy()  # (N, S, S, 3) or (N, S, S)

    # A step takes the networks' way forward and the gradient's way back to the pixels, which costs
    # the same.
    operations = sum(
        2 * steps * forward_operations(network, torch.empty(1, 3, size // divisor, size // divisor))
        for network in (teacher, student)
        if network is not None
        for divisor, steps in chosen.stages
    )
    settings = {
        "method": "deepinversion",
        **facts,
        **student_facts,
        "num_classes": options.num_classes,
        "classes": as_ranges(classes),
        "seed": options.seed,
        "image_size": size,
        **asdict(chosen),
        "precision": options.precision,
        "tf32": not options.no_tf32,
        "format": options.format,
        "grey": grey,
    }
    name = f"deepinversion_{options.dataset}_{facts['teacher']}".replace("/", "_") + "_adaptive" * (
        student is not None
    )
    return Source(name, settings, asked, batches, make, operations)


def frozen_network(options, who, world, say):
    """Returns the teacher ('t') or student ('s') of the flags on the device, and its facts for the
    manifest.
    """
    what = {"t": "teacher", "s": "student"}[who]
    path = getattr(options, f"path_{who}")
    name = getattr(options, f"model_{who}") or architecture_of(path)
    mean, std = getattr(options, f"mean_{who}"), getattr(options, f"std_{who}")
    default = real.default_statistics(options)
    statistics = image_statistics(mean, std, who, default, path, name)
    network = load_teacher(path, options.num_classes, statistics.mean, statistics.std, name).to(
        world.device
    )
    say(f"{what} {name}, its images normalised with {statistics}")
    return network, {
        what: name,
        f"{what}_sha256": sha256(path),
        f"{what}_mean": list(statistics.mean),
        f"{what}_std": list(statistics.std),
    }


def batch_seed(seed, number):
    """Returns the seed of torch's generator for batch `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]) >> 1


def as_ranges(indices):
    """Returns sorted indices as `helper.options.index_ranges` reads them: [0, 1, 2, 17] →
    '0-2,17'.
    """
    ranges = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def biggan_samples(options, world, say):
    """Returns the Source of BigGAN; an image is a function of (weights, truncation, seed, class,
    index).
    """
    batch_size, truncation = options.batch_size or 32, options.truncation or 1.0
    folder = world.from_main(lambda: find_biggan(options.model or "biggan-deep-256", say))
    network = load_biggan(folder).to(world.device)

    def make(mine, advance):
        for batch in mine:
            items = padded(batch, batch_size)
            noise = network.noise(options.seed, items, truncation)  # (N, z_dim)
            labels = torch.tensor([label for label, _ in items])
            with torch.autocast(
                world.device.type, torch.bfloat16, enabled=options.precision == "bf16"
            ):
                images = network.generate(noise, labels, truncation)  # (N, 3, S, S) in [−1, 1]
            pixels = to_pixels(images).cpu().numpy()
            advance(1)
            yield pixels

    operations = forward_operations(
        network.generator, torch.empty(1, network.config.condition), truncation
    )
    settings = {
        "method": "biggan",
        "generator": network.name,
        "generator_sha256": network.weights_sha256,
        "truncation": truncation,
        "seed": options.seed,
        "image_size": network.image_size,
        "precision": options.precision,
        "tf32": not options.no_tf32,
        "format": options.format,
        "grey": False,
    }
    return Source(
        f"{network.name}_t{truncation:g}",
        settings,
        image_request.requested_amounts(options, network.num_classes, network.name),
        lambda plan: lacking_batches(plan, batch_size),
        make,
        operations,
    )


if __name__ == "__main__":
    sys.exit(run(main))
