"""Samples labelled images of chosen classes with a DiT pipeline (DM-KD, arXiv 2305.12954) into a folder by class.

    python synthesize_dit.py --cfg-scale 2 --num-sampling-steps 100 --images_per_class 200
    python synthesize_dit.py --model save/models/fashion_mnist/DiT-6x128-2 --sampler ddim --num-sampling-steps 50 \\
        --cfg-scale 1.5 --classes 5,7,9 --data_amount 3k --save_dir syn_dataset/shoes

The first makes the paper's low-fidelity ImageNet images with the official DiT-XL/2 (downloaded from the hub). An image
depends on the model, the settings, its class and its index alone: run again with the same flags, a stopped run goes on;
with more classes or images, the folder grows. Under torchrun the processes share the work.
"""

import importlib.metadata
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from helper.errors import UserError, run
from helper.options import (
    Parser, add_process_flags, amount, index_ranges, natural, nonnegative_float, positive_int,
)  # fmt: skip


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = Parser(__doc__)
    group = parser.add_argument_group("sampling")
    group.add_argument("--model", default="facebook/DiT-XL-2-256",
                       help="folder of a diffusers DiT pipeline, or its hub name (default: %(default)s)")
    group.add_argument("--sampler", choices=["ddpm", "ddim", "dpmsolver++"], default="ddpm", help="(default: ddpm)")
    group.add_argument("--num-sampling-steps", type=positive_int, default=100, help="T (default: 100)")
    group.add_argument("--cfg-scale", type=nonnegative_float, default=2.0,
                       help="guidance s; 1 is none and costs half (default: 2)")
    group.add_argument("--cfg-channels", type=positive_int,
                       help="latent channels that are guided (default: the model's generator.json, else 3)")
    group.add_argument("--time-embedding", choices=["official", "diffusers"],
                       help="frequencies it was trained with (default: the model's generator.json, else official)")
    group.add_argument("--seed", type=natural, default=0, help="(default: 0)")
    group = parser.add_argument_group("images")
    group.add_argument("--classes", type=index_ranges, help="indices and ranges, such as 0-9,17 (default: all)")
    count = group.add_mutually_exclusive_group(required=True)
    count.add_argument("--images_per_class", type=positive_int)
    count.add_argument("--data_amount", type=amount, help="images in all, such as 200k, shared among the classes")
    group.add_argument("--format", choices=["png", "jpeg"], default="png", help="jpeg: quality 95 (default: png)")
    group.add_argument("--save_dir", type=Path,
                       help="(default: syn_dataset/<generator>_<sampler>_s<s>_T<T>_seed<seed>)")
    group = parser.add_argument_group("computing")
    group.add_argument("--batch_size", type=positive_int, default=32, help="images a step of a process (default: 32)")
    group.add_argument("--precision", choices=["fp32", "bf16"], default="fp32",
                       help="of the network; noise and latents are always fp32 (default: fp32)")
    group.add_argument("--no_tf32", action="store_true", help="keep a GPU from rounding products to TF32")
    group.add_argument("--compile", action="store_true", help="torch.compile the network")
    add_process_flags(parser)
    return parser.parse_args(argv)


def requested_amounts(options, num_classes):
    """Returns {class: images} that the flags ask for. Raises UserError if the model lacks a class."""
    classes = range(num_classes) if options.classes is None else options.classes
    wrong = [label for label in classes if label >= num_classes]
    if wrong:
        raise UserError(f"--classes: {options.model} has classes 0 to {num_classes - 1}, not {wrong[0]}")
    if options.images_per_class:
        return dict.fromkeys(classes, options.images_per_class)
    each, more = divmod(options.data_amount, len(classes))
    amounts = {label: each + (position < more) for position, label in enumerate(classes)}
    return {label: images for label, images in amounts.items() if images}


def image_settings(options, source):
    """Returns everything that changes an image, as the manifest keeps it; flags not given fall back to the model's."""
    cfg_channels = options.cfg_channels or source.info.get("cfg_channels", 3)
    if cfg_channels > source.latent_shape[0]:
        raise UserError(f"--cfg-channels {cfg_channels}: {options.model} has {source.latent_shape[0]} latent channels")
    return {
        "generator": source.name,
        "generator_sha256": source.weights_sha256,
        "sampler": options.sampler,
        "cfg_scale": options.cfg_scale,
        "num_sampling_steps": options.num_sampling_steps,
        "seed": options.seed,
        "image_size": source.image_size,
        "cfg_channels": cfg_channels,
        "time_embedding": options.time_embedding or source.info.get("time_embedding", "official"),
        "precision": options.precision,
        "tf32": not options.no_tf32,
        "format": options.format,
        "grey": bool(source.info.get("grey", False)),
        "schedule": source.schedule,
    }


def main(argv=None):
    """Makes the missing images; returns a dict: folder, images (there now), made (by this run), seconds."""
    options = parse_option(argv)
    from helper.processes import relaunch_under_torchrun, start

    relaunch_under_torchrun(options, argv)
    world = start(options)
    try:
        return synthesize(options, world)
    finally:
        world.close()


def synthesize(options, world):
    """The whole run of one process: what is asked, what is missing, and, batch by batch, sampling and writing it."""
    import torch

    from dataset.image_writer import plan_images, write_manifest
    from helper.diffusion import Sampler, check_steps
    from helper.runs import environment
    from models.dit import load_pipeline, read_pipeline

    began = time.monotonic()
    source = read_pipeline(options.model)
    check_steps(options.sampler, options.num_sampling_steps, source.schedule)
    settings = image_settings(options, source)
    amounts = requested_amounts(options, source.num_classes)
    default_name = (f"{source.name}_{options.sampler}_s{options.cfg_scale:g}_T{options.num_sampling_steps}"
                    f"_seed{options.seed}")  # fmt: skip
    folder = options.save_dir or Path("syn_dataset") / default_name
    plan = world.from_main(lambda: plan_images(folder, settings, amounts))
    images = sum(plan.amounts.values())
    if plan.complete:
        if world.is_main:
            print(f"{folder} is complete: {images} images of {len(plan.amounts)} classes, nothing to do")
        return {"folder": str(folder), "images": images, "made": 0, "seconds": time.monotonic() - began}

    names = source.info.get("class_names")
    origin = {"batch_size": options.batch_size, "class_names": names, **environment()}
    origin["versions"] |= {"diffusers": importlib.metadata.version("diffusers")}
    world.from_main(lambda: write_manifest(folder, plan, settings, origin, complete=False))
    if plan.missing:
        if world.is_main:
            print(f"{folder}: {len(plan.missing)} of {images} images to make on {world.size} × {world.device}")
        # Kernels chosen by timing could differ from one process to the next, and with them the images.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = settings["tf32"]
        torch.set_float32_matmul_precision("high" if settings["tf32"] else "highest")
        pipeline = load_pipeline(source, settings["time_embedding"]).to(world.device)
        if options.compile:
            pipeline = replace(pipeline, transformer=torch.compile(pipeline.transformer, dynamic=False))
        sampler = Sampler(options.sampler, options.num_sampling_steps, source.schedule)
        make_images(plan, pipeline, sampler, settings, folder, options.batch_size, world)
    world.barrier()
    world.from_main(lambda: finish_folder(folder, plan, settings, origin))
    seconds = time.monotonic() - began
    if world.is_main:
        print(f"{folder}: {images} images, {len(plan.missing)} made in {seconds:.0f} s; {folder / 'contact_sheet.png'}")
    return {"folder": str(folder), "images": images, "made": len(plan.missing), "seconds": seconds}


def make_images(plan, pipeline, sampler, settings, folder, batch_size, world):
    """Computes this process's share of the batches that lack an image, and writes the images that are missing.

    The batches are cut from the whole work list, whatever is missing, and a short last one is filled up with its last
    image: so an image is always computed beside the same others, and equal batch size gives equal bytes.
    """
    import torch
    from tqdm import tqdm

    from dataset.image_writer import ImageWriter, image_path
    from helper.diffusion import batch_noise, to_pixels

    batches = [plan.items[first : first + batch_size] for first in range(0, len(plan.items), batch_size)]
    batches = [batch for batch in batches if plan.missing.intersection(batch)]
    mine = batches[world.rank :: world.size]
    on_gpu = world.device.type == "cuda"

    def padded(batch):
        return batch + batch[-1:] * (batch_size - len(batch))

    def draw(batch):
        return batch_noise(settings["seed"], padded(batch), pipeline.latent_shape, sampler.noise_steps, on_gpu)

    def network(x, t, labels):
        with torch.autocast(world.device.type, torch.bfloat16, enabled=settings["precision"] == "bf16"):
            return pipeline.predict(x, t, labels)

    progress = tqdm(
        total=len(plan.missing), disable=not world.is_main,
        bar_format="{percentage:3.0f}%|{bar}| {n:.0f}/{total} images [{elapsed}<{remaining}, {rate_fmt}]", unit="image",
    )  # fmt: skip
    with progress, ImageWriter(settings["format"]) as writer, ThreadPoolExecutor(1) as ahead:
        drawn = [ahead.submit(draw, batch) for batch in mine[:1]]
        for number, batch in enumerate(mine):
            noise = drawn.pop().result().to(world.device, non_blocking=True)  # (1 + noise steps, N, C, H, W)
            drawn = [ahead.submit(draw, next_batch) for next_batch in mine[number + 1 : number + 2]]
            labels = torch.tensor([label for label, _ in padded(batch)]).to(world.device)
            # The bar shows all processes, which keep step with this one.
            together = batches[number * world.size : (number + 1) * world.size]
            share = sum(len(plan.missing.intersection(other)) for other in together) / sampler.steps
            latents = sampler.sample(
                network, noise, labels, pipeline.num_classes, settings["cfg_scale"], settings["cfg_channels"],
                on_step=lambda share=share: progress.update(min(share, progress.total - progress.n)),
            )  # fmt: skip
            pixels = to_pixels(pipeline.decode(latents), settings["grey"]).cpu().numpy()  # (N, S, S, 3) or (N, S, S)
            for item, image in zip(batch, pixels, strict=False):  # the filling has no item
                if item in plan.missing:
                    writer.put(image_path(folder, item, settings["format"]), image)


def finish_folder(folder, plan, settings, origin):
    """Draws the contact sheet from the files and declares the folder complete."""
    from dataset.contact_sheet import COLUMNS, write_contact_sheet
    from dataset.image_writer import image_path, write_manifest

    names = origin["class_names"]
    write_contact_sheet(Path(folder) / "contact_sheet.png", [
        (names[label] if names else str(label),
         [image_path(folder, (label, index), settings["format"]) for index in range(min(COLUMNS, images))])
        for label, images in sorted(plan.amounts.items())
    ])  # fmt: skip
    write_manifest(folder, plan, settings, origin, complete=True)


if __name__ == "__main__":
    sys.exit(run(main))
