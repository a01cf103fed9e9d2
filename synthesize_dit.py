"""Samples labelled images of chosen classes with a DiT (DM-KD, arXiv 2305.12954) into a folder by class.

    python synthesize_dit.py --cfg-scale 2 --num-sampling-steps 100 --images_per_class 200
    python synthesize_dit.py --model save/models/fashion_mnist/DiT-6x160-2 --sampler ddim --num-sampling-steps 50 \\
        --cfg-scale 1.5 --classes 5,7,9 --data_amount 3k --save_dir syn_dataset/shoes
    python synthesize_dit.py --model DiT-XL/2 --ckpt DiT-XL-2-256x256.pt --vae mse --image-size 256 --cfg-scale 2 \\
        --num-sampling-steps 100 --start_id 0 --end_id 500 --start_seed 0 --end_seed 20 --save_dir syn_dataset/flat

The first makes the paper's low-fidelity ImageNet images with the official DiT-XL/2, whose weights are taken from
pretrained_models/DiT-XL-2-256x256.pt or else from the hub; the last is a command line of the released script. An image
depends on the model, the settings, its class and its index alone: run again with the same flags, a stopped run goes on;
with more classes or images, the folder grows. Under torchrun the processes share the work. --estimate says what it
would cost.
"""

import importlib.metadata
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from dataset import image_request
from helper.errors import UserError, run
from helper.options import Parser, add_process_flags, natural, nonnegative_float, positive_int


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = Parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="DiT-XL/2",
                       help="an official DiT-{S,B,L,XL}/{2,4,8}, a folder of a diffusers pipeline, or its hub name "
                            "(default: %(default)s)")
    group.add_argument("--ckpt", type=Path, help="checkpoint of an official DiT (default: the published DiT-XL/2)")
    group.add_argument("--vae", help="ema, mse, folder of an AutoencoderKL, or its hub name "
                                     "(default: a pipeline's own; mse for an official DiT)")  # fmt: skip
    group.add_argument("--image-size", type=positive_int,
                       help="as the model has it; chooses the published DiT-XL/2, 256 or 512 (default: the model's)")
    group.add_argument("--num-classes", type=positive_int, help="as the model has it (default: the model's)")
    group.add_argument("--time-embedding", choices=["official", "diffusers"],
                       help="frequencies it was trained with (default: the model's generator.json, else official)")
    group = parser.add_argument_group("sampling")
    group.add_argument("--sampler", choices=["ddpm", "ddim", "dpmsolver++"], default="ddpm", help="(default: ddpm)")
    group.add_argument("--num-sampling-steps", type=positive_int, default=100, help="T (default: 100)")
    group.add_argument("--cfg-scale", type=nonnegative_float, default=2.0,
                       help="guidance s; 1 is none and costs half (default: 2)")
    group.add_argument("--cfg-channels", type=positive_int,
                       help="latent channels that are guided (default: the model's generator.json, else 3)")
    group.add_argument("--seed", type=natural, default=0, help="(default: 0)")
    image_request.add_flags(parser)
    group = parser.add_argument_group("output and computing")
    group.add_argument("--save_dir", type=Path,
                       help="(default: syn_dataset/<generator>_<sampler>_s<s>_T<T>_seed<seed>, flat ones with _flat)")
    group.add_argument("--format", choices=["png", "jpeg"], default="png", help="jpeg: quality 95 (default: png)")
    group.add_argument("--batch_size", type=positive_int, default=32, help="images a step of a process (default: 32)")
    group.add_argument("--precision", choices=["fp32", "bf16"], default="fp32",
                       help="of the network; noise and latents are always fp32 (default: fp32)")
    group.add_argument("--no_tf32", action="store_true", help="keep a GPU from rounding products to TF32")
    group.add_argument("--compile", action="store_true", help="torch.compile the network")
    group.add_argument("--estimate", action="store_true", help="say what it costs, and leave")
    add_process_flags(parser)
    options = parser.parse_args(argv)
    image_request.check_flags(options)
    return options


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
    """Makes the missing images; returns a dict: folder, images (there now), made (by this run), seconds.

    With --estimate it returns `sampling_cost` of all that is asked for.
    """
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

    from dataset.image_plan import plan_images
    from helper.diffusion import Sampler, check_steps
    from helper.runs import environment
    from models.dit import load_pipeline

    began = time.monotonic()

    def say(line):
        if world.is_main:
            print(line, flush=True)

    source = find_source(options, say)
    check_steps(options.sampler, options.num_sampling_steps, source.schedule)
    settings = image_settings(options, source)
    asked = image_request.requested_images(options, source.num_classes)
    default_name = (f"{source.name}_{options.sampler}_s{options.cfg_scale:g}_T{options.num_sampling_steps}"
                    f"_seed{options.seed}{'_flat' if options.flat else ''}")  # fmt: skip
    folder = options.save_dir or Path("syn_dataset") / default_name
    if options.estimate:
        return sampling_cost(image_request.count_images(asked), source, settings, folder, say)

    plan = world.from_main(lambda: plan_images(folder, settings, asked))
    if plan.complete:
        say(f"{folder} is complete: {plan.images} images of {len(plan.held())} classes, nothing to do")
        return {"folder": str(folder), "images": plan.images, "made": 0, "seconds": time.monotonic() - began}
    origin = {"batch_size": options.batch_size, "class_names": source.info.get("class_names"), **environment()}
    origin["versions"] |= {"diffusers": importlib.metadata.version("diffusers")}
    world.from_main(lambda: plan.write_manifest(origin, complete=False))
    if plan.missing:
        say(f"{folder}: {len(plan.missing)} of {plan.images} images to make on {world.size} × {world.device}")
        if world.is_main:
            sampling_cost(len(plan.missing), source, settings, folder, say)
        # Kernels chosen by timing could differ from one process to the next, and with them the images.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = settings["tf32"]
        torch.set_float32_matmul_precision("high" if settings["tf32"] else "highest")
        pipeline = load_pipeline(source, settings["time_embedding"]).to(world.device)
        if options.compile:
            pipeline = replace(pipeline, denoiser=torch.compile(pipeline.denoiser, dynamic=False))
        sampler = Sampler(options.sampler, options.num_sampling_steps, source.schedule)
        make_images(plan, pipeline, sampler, options.batch_size, world)
    world.barrier()
    world.from_main(lambda: finish_folder(plan, origin))
    seconds = time.monotonic() - began
    say(f"{folder}: {plan.images} images, {len(plan.missing)} made in {seconds:.0f} s; {folder / 'contact_sheet.png'}")
    return {"folder": str(folder), "images": plan.images, "made": len(plan.missing), "seconds": seconds}


def find_source(options, say):
    """Returns the PipelineSource that the flags name; an estimate for an official name needs none of its files."""
    from models.dit_source import named_pipeline, read_pipeline
    from models.official_dit import names

    if options.estimate and options.model in names() and not options.ckpt:
        return named_pipeline(options.model, options.image_size, options.num_classes)
    return read_pipeline(options.model, options.ckpt, options.vae, options.image_size, options.num_classes, say)


def sampling_cost(images, source, settings, folder, say):
    """Says and returns what `images` images take: a dict of images, evaluations, operations, bytes and free_bytes.

    evaluations: passes of the DiT for one image, of which guidance takes two a step; operations: floating-point
    operations of these and of the decoder; bytes: of the files; free_bytes: on the disk of `folder` now.
    """
    from dataset.image_writer import image_bytes
    from helper.cost import with_prefix
    from helper.files import free_bytes
    from models.dit import operations

    evaluations = images * settings["num_sampling_steps"] * (1 if settings["cfg_scale"] == 1 else 2)
    evaluation, decoding = operations(source)
    cost = {"images": images, "evaluations": evaluations, "operations": evaluations * evaluation + images * decoding,
            "bytes": round(images * image_bytes(settings)), "free_bytes": free_bytes(folder)}  # fmt: skip
    operations_each = with_prefix(cost["operations"] / images, "FLOP")
    say(f"{images} images take {evaluations} network evaluations; with decoding, "
        f"{with_prefix(cost['operations'], 'FLOP')} ({operations_each} an image)")
    say(f"and about {with_prefix(cost['bytes'], 'B')} on the disk of {folder}, which has "
        f"{with_prefix(cost['free_bytes'], 'B')} free")
    return cost


def make_images(plan, pipeline, sampler, batch_size, world):
    """Computes this process's share of the batches that lack an image, and writes the images that are missing.

    The batches are cut from the whole work list, whatever is missing, and a short last one is filled up with its last
    image: so an image is always computed beside the same others, and equal batch size gives equal bytes.
    """
    import torch
    from tqdm import tqdm

    from dataset.image_writer import ImageWriter
    from helper.cost import Pace
    from helper.diffusion import batch_noise, to_pixels

    settings = plan.settings
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
    pace, done = Pace(len(plan.missing), "image"), 0  # of all processes, which keep step with this one
    with progress, ImageWriter(settings["format"]) as writer, ThreadPoolExecutor(1) as ahead:
        drawn = [ahead.submit(draw, batch) for batch in mine[:1]]
        for number, batch in enumerate(mine):
            noise = drawn.pop().result().to(world.device, non_blocking=True)  # (1 + noise steps, N, C, H, W)
            drawn = [ahead.submit(draw, next_batch) for next_batch in mine[number + 1 : number + 2]]
            labels = torch.tensor([label for label, _ in padded(batch)]).to(world.device)
            together = batches[number * world.size : (number + 1) * world.size]
            images = sum(len(plan.missing.intersection(other)) for other in together)
            latents = sampler.sample(
                network, noise, labels, pipeline.num_classes, settings["cfg_scale"], settings["cfg_channels"],
                on_step=lambda share=images / sampler.steps: progress.update(min(share, progress.total - progress.n)),
            )  # fmt: skip
            pixels = to_pixels(pipeline.decode(latents), settings["grey"]).cpu().numpy()  # (N, S, S, 3) or (N, S, S)
            for item, image in zip(batch, pixels, strict=False):  # the filling has no item
                if item in plan.missing:
                    writer.put(plan.path(item), image)
            done += images
            hours = pace.batch(done)  # the pixels are here, so the device has finished
            if hours and world.is_main:
                progress.write(hours)


def finish_folder(plan, origin):
    """Draws the contact sheet from the files and declares the work complete."""
    from dataset.contact_sheet import COLUMNS, write_contact_sheet

    names = origin["class_names"]
    write_contact_sheet(plan.folder / "contact_sheet.png", [
        (names[label] if names else str(label), [plan.path((label, index)) for index in indices[:COLUMNS]])
        for label, indices in plan.held().items()
    ])  # fmt: skip
    plan.write_manifest(origin, complete=True)


if __name__ == "__main__":
    sys.exit(run(main))
