"""Generates the images of methods other than DM-KD: One-Image, DeepInversion, BigGAN.

    python synthesize_baseline.py --method deepinversion --dataset fashion_mnist \\
        --path-t save/models/fashion_mnist/resnet20/resnet20_latest.pth --data_amount 2560
    python synthesize_baseline.py --method one-image --image photograph.jpg --image-size 256 \\
        --data_amount 1.28m
    python synthesize_baseline.py --method biggan --truncation 1 --images_per_class 215

One-Image (arXiv 2112.00725) cuts unlabelled patches from one photograph. DeepInversion (arXiv
1912.08795) optimises labelled images with the gradient of a teacher; with --path-s also with that
of a student (adaptive). BigGAN (arXiv 1809.11096) samples a published generator.

The folder is for train_student.py --train_data. Interrupted runs continue when they are started
again; with more images the folder grows. Under torchrun the batches are divided among the
processes. --estimate prints the cost.
"""

import argparse
import importlib.metadata
import os
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from datafree.batchnorm import BatchNormMatch
from datafree.deepinversion import Settings, invert, published_settings
from dataset import one_image, real, requested_images
from dataset.generated_folder import GeneratedFolder
from dataset.image_writer import image_bytes, to_pixels
from helper import options as flags
from helper.checkpoints import check_finite, weights_sha256
from helper.cost import forward_operations, with_prefix
from helper.device import autocast
from helper.distributed import fix_kernels, session
from helper.errors import UserError, run_script
from helper.files import file_stem, free_bytes, sha256
from helper.run import environment
from models.biggan import find_biggan, load_biggan
from models.classifiers import (
    architecture_of,
    check_classifier,
    image_statistics,
    load_teacher,
)

# Rows of the paper's tables; train_student.py passes them on to result.json
ROWS = {"one-image": "One-Image", "deepinversion": "DeepInv", "biggan": "BigGAN"}
PATCHES = 64  # batch size of One-Image

# Flags that only some methods have
STUDENT_FLAGS = ("path_s", "model_s", "mean_s", "std_s")
LABELLED_FLAGS = ("classes", "class_list", "images_per_class", "precision", "no_tf32")
FLAGS = {
    "one-image": {"image", "num_workers", "image_size"},
    "deepinversion": {
        *("path_t", "model_t", "mean_t", "std_t", "dataset", "num_classes", "image_size"),
        *STUDENT_FLAGS,
        *LABELLED_FLAGS,
        *(field.name for field in fields(Settings)),
    },
    "biggan": {"model", "truncation", "batch_size", *LABELLED_FLAGS},
}


def parse_option(argv=None):
    """Parses the flags. Raises UserError, also for flags of another method."""
    parser = flags.Parser(__doc__)
    parser.add_argument("--method", choices=list(FLAGS), required=True, help="see above")
    group = parser.add_argument_group("one-image")
    group.add_argument(
        "--image",
        type=Path,
        help="the photograph; the published ones have at least 2,500 pixels per side (default: a "
        "small one in matplotlib)",
    )
    group.add_argument(
        "--num_workers",
        type=flags.natural,
        help="workers that cut patches, over all processes (default: number of cores)",
    )
    group = parser.add_argument_group("biggan")
    group.add_argument(
        "--model", help="published name, or folder of its files (default: biggan-deep-256)"
    )
    group.add_argument(
        "--truncation",
        type=_truncation,
        help="truncation of the noise, in (0, 1]; published: 0.4–1 (default: 1)",
    )
    group.add_argument(
        "--batch_size", type=flags.positive_int, help="batch size per process (default: 32)"
    )
    group = parser.add_argument_group("deepinversion")
    flags.add_network_flags(
        group,
        model_s="inferred from the checkpoint of --path-s",
        statistics_s="the checkpoint's or library's, else the data set's",
    )
    group.add_argument("--path-s", help="checkpoint of a frozen student, for the adaptive form")
    group.add_argument(
        "--dataset",
        choices=sorted(real.REAL_SETS),
        help="data set of the teacher, for classes, size and normalisation (default: imagenet)",
    )
    group.add_argument(
        "--num-classes",
        type=flags.positive_int,
        help="number of classes of the teacher (default: that of the data set)",
    )
    flags.add_settings_flags(
        parser,
        "settings of deepinversion (defaults for up to 64 pixels; larger images have others)",
        {"deepinversion": Settings},
    )
    requested_images.add_class_flags(parser)
    group = parser.add_argument_group("output and computation")
    group.add_argument(
        "--image-size",
        type=flags.positive_int,
        help="image size in pixels (deepinversion: default that of the data set; one-image: "
        "required, published are 32 and 256)",
    )
    group.add_argument("--seed", type=flags.natural, default=0, help="random seed (default: 0)")
    group.add_argument(
        "--save_dir",
        type=Path,
        help="folder of the images (default: syn_dataset/<name of the generator>_seed<seed>)",
    )
    group.add_argument(
        "--format",
        choices=["png", "jpeg"],
        help="file format; jpeg has quality 95 (default: png; one-image: jpeg, as published)",
    )
    group.add_argument(
        "--precision", choices=["fp32", "bf16"], help="precision of the networks (default: fp32)"
    )
    group.add_argument(
        "--no_tf32", action="store_true", default=None, help="do not use TF32 on a GPU"
    )
    group.add_argument("--estimate", action="store_true", help="print the estimated cost and exit")
    group.add_argument(
        "--verify",
        action="store_true",
        help="check every image of the folder and repair it, its manifest and its contact sheet",
    )
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    check_flags(options)
    return options


def _truncation(text):
    """argparse type: a number in (0, 1]."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def check_flags(options):
    """Sets the defaults that depend on the method.

    Raises UserError if flags belong to another method or are missing.
    """
    method = options.method
    for name in sorted(set().union(*FLAGS.values()) - FLAGS[method]):
        if getattr(options, name) is not None:
            methods = " and ".join(other for other, names in FLAGS.items() if name in names)
            raise UserError(f"--{name} applies to {methods}, not to {method}")
    if not options.data_amount and not options.images_per_class:
        alternative = "" if method == "one-image" else " or --images_per_class"
        raise UserError(f"the number of images is missing: give --data_amount{alternative}")
    if method == "one-image" and options.image_size is None:
        raise UserError("--image-size is required; published are 32 and 256")
    if method == "deepinversion":
        check_networks(options)
    options.format = options.format or ("jpeg" if method == "one-image" else "png")
    options.precision = options.precision or "fp32"


def check_networks(options):
    """Sets the data set and the number of classes of deepinversion.

    Raises UserError if flags of the networks are missing or contradict each other.
    """
    options.dataset = options.dataset or "imagenet"
    options.num_classes = options.num_classes or real.REAL_SETS[options.dataset].num_classes
    if options.path_t is None:
        raise UserError("--path-t is required: the checkpoint of the teacher")
    if options.num_classes is None:
        raise UserError(f"--dataset {options.dataset} requires --num-classes")
    if options.path_s is None:
        for name in ("adv", *STUDENT_FLAGS):
            if getattr(options, name):
                raise UserError(f"--{name} requires a student: give --path-s")
    elif options.adv == 0:
        raise UserError("--adv 0 does not use the student of --path-s: omit --path-s")


def main(argv=None):
    """Generates the missing images and returns the result of the GeneratedFolder; with --estimate
    the cost of all requested images.
    """
    options = parse_option(argv)
    with session(flags.process_settings(options), argv) as world:
        device = world.device

        def say(line):
            if world.is_main:
                print(line, flush=True)

        # Each method: its generator, everything that its images depend on, the requested images
        packages = ["pillow"]
        if options.method == "one-image":
            file = options.image or one_image.default_photograph()
            photograph = one_image.load_photograph(file, options.image_size)
            workers = os.cpu_count() if options.num_workers is None else options.num_workers
            workers = -(-workers // world.size)  # of this process
            packages.append("torchvision")
            name = f"one-image_{file.stem}_{options.image_size}"
            request, operations = options.data_amount, 0
            settings = {
                "method": "one-image",
                "photograph_sha256": sha256(file),
                "seed": options.seed,
                "image_size": options.image_size,
                "format": options.format,
                "grey": False,
            }
        elif options.method == "deepinversion":
            data = real.RealData(options.dataset, size=options.image_size)
            size, num_classes = data.image_size, options.num_classes
            inversion = flags.settings_of(
                options, "deepinversion", {"deepinversion": Settings}, published_settings(size)
            )
            if options.path_s is None:
                inversion = replace(inversion, adv=0.0)
            inversion.check(size)
            networks, facts = {"teacher": None, "student": None}, {}
            for role in ("teacher", "student") if options.path_s else ("teacher",):
                suffix = role[0]
                file, model, mean, std = (
                    getattr(options, f"{flag}_{suffix}")
                    for flag in ("path", "model", "mean", "std")
                )
                model = model or architecture_of(file, f"--model_{suffix}")
                statistics = image_statistics(
                    mean, std, suffix, data.default_statistics, file, model
                )
                network = load_teacher(file, num_classes, *statistics[:2], model)
                networks[role] = network.to(device)
                say(f"{role} {model}, images normalised with {statistics}")
                facts |= {
                    role: model,
                    f"{role}_sha256": weights_sha256(file),
                    f"{role}_mean": list(statistics.mean),
                    f"{role}_std": list(statistics.std),
                }
            BatchNormMatch(networks["teacher"])  # raises UserError before a folder is created
            for role, network in networks.items():
                for divisor, _ in inversion.stages if network else ():
                    flag = f"--model_{role[0]}" + " or --half_steps 0" * (divisor > 1)
                    check_classifier(network, facts[role], flag, size // divisor, num_classes)
            classes = sorted(
                requested_images.requested_classes(options, num_classes, options.path_t)
            )
            adaptive = "_adaptive" if options.path_s else ""
            model = file_stem(facts["teacher"])
            name = f"deepinversion_{options.dataset}_{model}{adaptive}"
            request = requested_images.class_amounts(options, num_classes, options.path_t)
            operations = inversion_operations(networks.values(), size, inversion.stages)
            settings = {
                "method": "deepinversion",
                **facts,
                "num_classes": num_classes,
                "classes": as_ranges(classes),
                "seed": options.seed,
                "image_size": size,
                **asdict(inversion),
                "precision": options.precision,
                "tf32": not options.no_tf32,
                "format": options.format,
                "grey": data.grey,
            }
        else:
            batch_size, truncation = options.batch_size or 32, options.truncation or 1.0
            model = options.model or "biggan-deep-256"
            generator = load_biggan(world.from_main(lambda: find_biggan(model, say))).to(device)
            check_finite(generator.state_dict(), model)
            name = f"{generator.name}_t{truncation:g}"
            request = requested_images.class_amounts(options, generator.num_classes, generator.name)
            condition = torch.empty(1, generator.config.condition)
            operations = forward_operations(generator.generator, condition, truncation)
            settings = {
                "method": "biggan",
                "generator": generator.name,
                "generator_sha256": generator.weights_sha256,
                "truncation": truncation,
                "seed": options.seed,
                "image_size": generator.image_size,
                "precision": options.precision,
                "tf32": not options.no_tf32,
                "format": options.format,
                "grey": False,
            }
        path = options.save_dir or Path("syn_dataset") / f"{name}_seed{options.seed}"
        if options.estimate:
            images = requested_images.number_of_images(request)
            cost = generation_cost(images, operations, settings, path)
            say(description(cost, path))
            return cost
        origin = {"method": ROWS[options.method], **environment()}
        origin["versions"] |= {package: importlib.metadata.version(package) for package in packages}

        with GeneratedFolder(path, settings, request, world, origin, options.verify) as folder:
            if folder.missing:
                cost = generation_cost(len(folder.missing), operations, settings, path)
                say(description(cost, path))
                fix_kernels(not options.no_tf32)
                if options.method == "one-image":
                    cut_patches(folder, photograph, workers)
                elif options.method == "deepinversion":
                    invert_teacher(
                        folder, networks["teacher"], networks["student"], classes, inversion
                    )
                else:
                    sample_biggan(folder, generator, batch_size)
        return folder.result


class Patches:
    """One-Image's batches for a DataLoader: item [(subfolder, index), …] is uint8 (n, S, S, 3)."""

    def __init__(self, photograph, size, seed):
        self.photograph, self.size, self.seed = photograph, size, seed

    def __getitem__(self, batch):
        return np.stack(
            [one_image.patch(self.photograph, self.size, self.seed, index) for _, index in batch]
        )


def cut_patches(folder, photograph, workers):
    """One-Image: a patch is a function of (photograph, size, seed, index)."""
    patches = Patches(photograph, folder.settings["image_size"], folder.settings["seed"])
    batches = folder.missing_batches(PATCHES)
    loader = DataLoader(patches, batch_size=None, sampler=batches, num_workers=workers)
    for batch, pixels in zip(batches, loader):
        folder.write(batch, pixels)


def invert_teacher(folder, teacher, student, classes, inversion):
    """DeepInversion: a batch is a function of (settings, seed, its number).

    The batches are cut from all images in the order in which the classes take turns: index 0 of
    each class, index 1 of each class, and so on. The last one has images that were not requested.
    """
    settings, device, batch_size = folder.settings, teacher.mean.device, inversion.batch
    torch.backends.cudnn.deterministic = True  # the kernels of the gradient are not by default
    last_index = max(index for _, index in folder.missing)
    indices = range(last_index + 1 + -(-batch_size // len(classes)))
    order = [(label, index) for index in indices for label in classes]
    for batch in folder.missing_batches(batch_size, order):
        label, index = batch[0]
        number = (index * len(classes) + classes.index(label)) // batch_size
        torch.manual_seed(batch_seed(settings["seed"], number))
        labels = torch.tensor([label for label, _ in batch])
        with autocast(settings["precision"], device):
            images = invert(
                teacher, labels, settings["image_size"], inversion, student, settings["grey"]
            )  # (N, 3, S, S) in [0, 1]
        remedy = "lower --lr and the weights of the loss, "
        remedy += "give --precision fp32, " if settings["precision"] != "fp32" else ""
        remedy += "or check the weights of the teacher"
        folder.write(batch, to_pixels(2 * images - 1, settings["grey"], remedy))


def sample_biggan(folder, generator, batch_size):
    """BigGAN: an image is a function of (weights, truncation, seed, class, index)."""
    settings, device = folder.settings, generator.embeddings.weight.device
    truncation = settings["truncation"]
    for batch in folder.missing_batches(batch_size):
        noise = generator.noise(settings["seed"], batch, truncation)  # (N, z_dim)
        labels = torch.tensor([label for label, _ in batch])
        with autocast(settings["precision"], device):
            images = generator.generate(noise, labels, truncation)  # (N, 3, S, S) in [−1, 1]
        folder.write(batch, to_pixels(images))


def batch_seed(seed, number):
    """The seed of torch's generator for batch `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]) >> 1


def as_ranges(indices):
    """Sorted indices as text for `helper.options.index_ranges`: [0, 1, 2, 17] → '0-2,17'."""
    ranges = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def inversion_operations(networks, size, stages):
    """The floating-point operations of one inverted image.

    Each step is a forward pass through each network and a backward pass to the pixels, which costs
    the same. stages: (divisor of the resolution, steps).
    """
    return sum(
        2 * steps * forward_operations(network, torch.empty(1, 3, size // divisor, size // divisor))
        for network in networks
        if network is not None
        for divisor, steps in stages
    )


def generation_cost(images, operations, settings, path):
    """Estimates the cost of `images` images with `operations` floating-point operations each: a
    dict of images, operations, bytes of the files, and free_bytes on the disk of `path`.
    """
    return {
        "images": images,
        "operations": images * operations,
        "bytes": round(images * image_bytes(settings)),
        "free_bytes": free_bytes(path),
    }


def description(cost, path):
    """A line that describes the result of `generation_cost`."""
    total, per_image = (
        with_prefix(operations, "FLOP")
        for operations in (cost["operations"], cost["operations"] / cost["images"])
    )
    computation = f"{total} ({per_image} per image) and " if cost["operations"] else ""
    return (
        f"{cost['images']} images take {computation}about {with_prefix(cost['bytes'], 'B')} on the "
        f"disk of {path} ({with_prefix(cost['free_bytes'], 'B')} free)"
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
