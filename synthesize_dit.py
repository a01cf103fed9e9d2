"""Samples labelled images of chosen classes with a DiT (DM-KD, arXiv 2305.12954) into a folder by
class.

    python synthesize_dit.py --cfg-scale 2 --num-sampling-steps 100 --images_per_class 200
    python synthesize_dit.py --model save/models/fashion_mnist/DiT-6x160-2 --sampler ddim --num-sampling-steps 50 \\
        --cfg-scale 1.5 --classes 5,7,9 --data_amount 3k --save_dir syn_dataset/shoes
    python synthesize_dit.py --model DiT-XL/2 --ckpt DiT-XL-2-256x256.pt --vae mse --image-size 256 --cfg-scale 2 \\
        --num-sampling-steps 100 --start_id 0 --end_id 500 --start_seed 0 --end_seed 20 --save_dir
            syn_dataset/flat

The first makes the paper's low-fidelity ImageNet images with the official DiT-XL/2, whose weights
are taken from pretrained_models/DiT-XL-2-256x256.pt or else from the hub; the last is a command
line of the released script. An image depends on the model, the settings, its class and its index
alone: run again with the same flags, a stopped run goes on; with more classes or images, the folder
grows. Under torchrun the processes share the work. --estimate says what it would cost.
"""

import importlib.metadata
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from dataset import image_request
from dataset.image_batches import fill_folder, lacking_batches, padded, write_batches
from dataset.image_writer import image_bytes, to_pixels
from diffusion.official import names
from diffusion.pipeline import load_pipeline, named_pipeline, operations, read_pipeline
from diffusion.sampler import Sampler, batch_noise, check_steps
from helper.cost import with_prefix
from helper.distributed import fix_kernels, session
from helper.errors import UserError, run
from helper.files import free_bytes
from helper.options import Parser, add_process_flags, natural, nonnegative_float, positive_int
from helper.run import environment


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = Parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="DiT-XL/2",
        help="an official DiT-{S,B,L,XL}/{2,4,8}, a folder of a diffusers pipeline, or its hub name "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--ckpt", type=Path, help="checkpoint of an official DiT (default: the published DiT-XL/2)"
    )
    group.add_argument(
        "--vae",
        help="ema, mse, folder of an AutoencoderKL, or its hub name "
        "(default: a pipeline's own; mse for an official DiT)",
    )
    group.add_argument(
        "--image-size",
        type=positive_int,
        help="as the model has it; chooses the published DiT-XL/2, 256 or 512 (default: the model's)",
    )
    group.add_argument(
        "--num-classes", type=positive_int, help="as the model has it (default: the model's)"
    )
    group.add_argument(
        "--time-embedding",
        choices=["official", "diffusers"],
        help="frequencies it was trained with (default: the model's generator.json, else official)",
    )
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--sampler", choices=["ddpm", "ddim", "dpmsolver++"], default="ddpm", help="(default: ddpm)"
    )
    group.add_argument(
        "--num-sampling-steps", type=positive_int, default=100, help="T (default: 100)"
    )
    group.add_argument(
        "--cfg-scale",
        type=nonnegative_float,
        default=2.0,
        help="guidance s; 1 is none and costs half (default: 2)",
    )
    group.add_argument(
        "--cfg-channels",
        type=positive_int,
        help="latent channels that are guided (default: the model's generator.json, else 3)",
    )
    group.add_argument("--seed", type=natural, default=0, help="(default: 0)")
    image_request.add_flags(parser)
    group = parser.add_argument_group("output and computing")
    group.add_argument(
        "--save_dir",
        type=Path,
        help="(default: syn_dataset/<generator>_<sampler>_s<s>_T<T>_seed<seed>, flat ones with _flat)",
    )
    group.add_argument(
        "--format", choices=["png", "jpeg"], default="png", help="jpeg: quality 95 (default: png)"
    )
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=32,
        help="images a step of a process (default: 32)",
    )
    group.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="of the network; noise and latents are always fp32 (default: fp32)",
    )
    group.add_argument(
        "--no_tf32", action="store_true", help="keep a GPU from rounding products to TF32"
    )
    group.add_argument("--compile", action="store_true", help="torch.compile the network")
    group.add_argument("--estimate", action="store_true", help="say what it costs, and leave")
    add_process_flags(parser)
    options = parser.parse_args(argv)
    image_request.check_flags(options)
    return options


def image_settings(options, source):
    """Returns everything that changes an image, as the manifest keeps it; flags not given fall back
    to the model's.
    """
    cfg_channels = options.cfg_channels or source.info.get("cfg_channels", 3)
    if cfg_channels > source.latent_shape[0]:
        raise UserError(
            f"--cfg-channels {cfg_channels}: {options.model} has {source.latent_shape[0]} latent "
            "channels"
        )
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
    """Makes the missing images; returns a dict: folder, images (there now), made (by this run),
    seconds.

    With --estimate it returns `sampling_cost` of all that is asked for.
    """
    options = parse_option(argv)

    with session(options, argv) as world:
        return synthesize(options, world)


def synthesize(options, world):
    """The whole run of one process: what is asked, what is missing, and, batch by batch, sampling
    and writing it.
    """

    def say(line):
        if world.is_main:
            print(line, flush=True)

    source = find_source(options, say)
    check_steps(options.sampler, options.num_sampling_steps, source.schedule)
    settings = image_settings(options, source)
    asked = image_request.requested_images(options, source.num_classes)
    default_name = (
        f"{source.name}_{options.sampler}_s{options.cfg_scale:g}_T{options.num_sampling_steps}"
        f"_seed{options.seed}{'_flat' if options.flat else ''}"
    )
    folder = options.save_dir or Path("syn_dataset") / default_name
    if options.estimate:
        return sampling_cost(image_request.count_images(asked), source, settings, folder, say)

    def work(plan):
        if world.is_main:
            sampling_cost(len(plan.missing), source, settings, folder, say)
        fix_kernels(settings["tf32"])
        pipeline = load_pipeline(source, settings["time_embedding"]).to(world.device)
        if options.compile:
            pipeline = replace(pipeline, denoiser=torch.compile(pipeline.denoiser, dynamic=False))
        sampler = Sampler(options.sampler, options.num_sampling_steps, source.schedule)
        make_images(plan, pipeline, sampler, options.batch_size, world)

    origin = {
        "batch_size": options.batch_size,
        "class_names": source.info.get("class_names"),
        **environment(),
    }
    origin["versions"] |= {"diffusers": importlib.metadata.version("diffusers")}
    return fill_folder(folder, settings, asked, origin, world, say, work)


def find_source(options, say):
    """Returns the PipelineSource that the flags name; an estimate for an official name needs none
    of its files.
    """
    if options.estimate and options.model in names() and not options.ckpt:
        return named_pipeline(options.model, options.image_size, options.num_classes)
    return read_pipeline(
        options.model, options.ckpt, options.vae, options.image_size, options.num_classes, say
    )


def sampling_cost(images, source, settings, folder, say):
    """Says and returns what `images` images take: a dict of images, evaluations, operations, bytes
    and free_bytes.

    evaluations: passes of the DiT for one image, of which guidance takes two a step; operations:
    floating-point operations of these and of the decoder; bytes: of the files; free_bytes: on the
    disk of `folder` now.
    """
    evaluations = images * settings["num_sampling_steps"] * (1 if settings["cfg_scale"] == 1 else 2)
    evaluation, decoding = operations(source)
    cost = {
        "images": images,
        "evaluations": evaluations,
        "operations": evaluations * evaluation + images * decoding,
        "bytes": round(images * image_bytes(settings)),
        "free_bytes": free_bytes(folder),
    }
    operations_each = with_prefix(cost["operations"] / images, "FLOP")
    say(
        f"{images} images take {evaluations} network evaluations; with decoding, "
        f"{with_prefix(cost['operations'], 'FLOP')} ({operations_each} an image)"
    )
    say(
        f"and about {with_prefix(cost['bytes'], 'B')} on the disk of {folder}, which has "
        f"{with_prefix(cost['free_bytes'], 'B')} free"
    )
    return cost


def make_images(plan, pipeline, sampler, batch_size, world):
    """Samples and writes the missing images, this process its share of the batches."""
    settings = plan.settings
    on_gpu = world.device.type == "cuda"

    def draw(batch):
        items = padded(batch, batch_size)
        return batch_noise(
            settings["seed"], items, pipeline.latent_shape, sampler.noise_steps, on_gpu
        )

    def network(x, t, labels):
        with torch.autocast(
            world.device.type, torch.bfloat16, enabled=settings["precision"] == "bf16"
        ):
            return pipeline.predict(x, t, labels)

    def make(mine, advance):
        with ThreadPoolExecutor(1) as ahead:
            drawn = [ahead.submit(draw, batch) for batch in mine[:1]]
            for number, batch in enumerate(mine):
                noise = (
                    drawn.pop().result().to(world.device, non_blocking=True)
                )  # (1 + noise steps, N, C, H, W)
                drawn = [
                    ahead.submit(draw, next_batch) for next_batch in mine[number + 1 : number + 2]
                ]
                labels = torch.tensor([label for label, _ in padded(batch, batch_size)]).to(
                    world.device
                )
                latents = sampler.sample(
                    network,
                    noise,
                    labels,
                    pipeline.num_classes,
                    settings["cfg_scale"],
                    settings["cfg_channels"],
                    on_step=lambda: advance(1 / sampler.steps),
                )
                yield (
                    to_pixels(pipeline.decode(latents), settings["grey"]).cpu().numpy()
                )  # (N, S, S, 3) or (N, S, S)

    write_batches(plan, lacking_batches(plan, batch_size), world, make)


if __name__ == "__main__":
    sys.exit(run(main))
