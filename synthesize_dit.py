"""Generates labelled images with a DiT (DM-KD, arXiv 2305.12954).

    python synthesize_dit.py --cfg-scale 2 --num-sampling-steps 100 --images_per_class 200
    python synthesize_dit.py --model save/models/fashion_mnist/DiT-6x160-2 --sampler ddim \\
        --num-sampling-steps 50 --cfg-scale 1.5 --classes 5,7,9 --data_amount 3k \\
        --save_dir syn_dataset/shoes
    python synthesize_dit.py --model DiT-XL/2 --ckpt DiT-XL-2-256x256.pt --vae mse \\
        --image-size 256 --cfg-scale 2 --num-sampling-steps 100 --start_id 0 --end_id 500 \\
        --start_seed 0 --end_seed 20 --save_dir syn_dataset/flat

The first command generates the low-fidelity ImageNet images of the paper with the official
DiT-XL/2; its weights are pretrained_models/DiT-XL-2-256x256.pt, or else those on the Hugging Face
hub. The last is a command of the released script.

Interrupted runs continue when they are started again; with more classes or images the folder grows.
Under torchrun the batches are divided among the processes. --estimate prints the cost.
"""

import argparse
import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dataset import requested_images
from dataset.generated_folder import GeneratedFolder
from dataset.image_writer import image_bytes, to_pixels
from diffusion import official
from diffusion.pipeline import (
    Autocast,
    load_pipeline,
    named_pipeline,
    operations,
    read_pipeline,
    use_bf16_blocks,
)
from diffusion.sampler import (
    SAMPLERS,
    SPACINGS,
    Sampler,
    batch_noise,
    check_steps,
    prefetch,
    uneven_steps,
)
from helper import options as flags
from helper.batches import default_batch_size
from helper.cost import with_prefix
from helper.device import has_compiler
from helper.distributed import fix_kernels, session
from helper.errors import UserError, run_script
from helper.files import entry, free_bytes, read_json
from helper.run import environment

# Precision of a folder: attention and MLP in bf16. `bf16`, autocast, is that of older folders.
BF16_BLOCKS = "bf16_blocks"
# Floating-point operations from which compiling, a minute or two, saves more time than it takes:
# ten minutes of an H100
COMPILED_FROM = 2e17


def parse_option(argv=None):
    """Parses the flags. Raises UserError."""
    parser = flags.Parser(__doc__)
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="DiT-XL/2",
        help="official name DiT-{S,B,L,XL}/{2,4,8}, folder of a diffusers pipeline, or name of one "
        "on the Hugging Face hub (default: %(default)s)",
    )
    group.add_argument(
        "--ckpt", type=Path, help="checkpoint of an official DiT (default: the published DiT-XL/2)"
    )
    group.add_argument(
        "--vae",
        help="ema, mse, folder of an AutoencoderKL, or name on the hub "
        "(default: that of the pipeline; mse for an official DiT)",
    )
    group.add_argument(
        "--image-size",
        type=flags.positive_int,
        help="image size in pixels; selects the published DiT-XL/2, 256 or 512 (default: that "
        "of the model)",
    )
    group.add_argument(
        "--num-classes", type=flags.positive_int, help="expected number of classes of the model"
    )
    group.add_argument(
        "--time-embedding",
        choices=["official", "diffusers"],
        help="frequencies of the time embedding (default: those in generator.json of the model, "
        "else official)",
    )
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--sampler", choices=SAMPLERS, default="ddpm", help="sampler (default: ddpm)"
    )
    group.add_argument(
        "--num-sampling-steps",
        type=flags.positive_int,
        default=100,
        help="number of steps T (default: 100)",
    )
    group.add_argument(
        "--cfg-scale",
        type=flags.nonnegative_float,
        default=2.0,
        help="guidance scale s; 1 disables guidance and halves the cost (default: 2)",
    )
    group.add_argument(
        "--cfg_interval",
        type=flags.interval,
        metavar="LOW,HIGH",
        help="noise levels with guidance, as fractions of the timesteps: 0 is clean, 1 is noise. "
        "Outside of it a step costs half (default: 0,1)",
    )
    group.add_argument(
        "--timestep_spacing",
        choices=SPACINGS,
        help="spacing of the timesteps; trailing begins at pure noise whatever the number of steps "
        "(default: leading for ddim, else evenly spaced with both ends)",
    )
    group.add_argument(
        "--cfg-channels",
        type=flags.positive_int,
        help="number of guided latent channels (default: that in generator.json of the model, "
        "else 3)",
    )
    group.add_argument(
        "--seed", type=flags.natural, default=0, help="seed of the noise (default: 0)"
    )
    requested_images.add_class_flags(parser)
    requested_images.add_seed_flags(parser)
    group = parser.add_argument_group("output and computation")
    group.add_argument(
        "--save_dir",
        type=Path,
        help="folder of the images (default: "
        "syn_dataset/<generator>_<sampler>_s<s>_T<T>_seed<seed>, with _i<LOW>-<HIGH> for an "
        "interval, the spacing if it is given, and _flat for flat files)",
    )
    group.add_argument(
        "--format",
        choices=["png", "jpeg"],
        default="png",
        help="file format; jpeg has quality 95 (default: png)",
    )
    group.add_argument(
        "--batch_size",
        type=flags.positive_int,
        help="batch size per process (default: that of the folder, if it exists; else 32, on a GPU "
        "64, and 256 for images of up to 64 pixels)",
    )
    group.add_argument(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="bf16: weights of attention and MLP in bf16; noise, latents and the residual stream "
        "are always fp32 (default: fp32, on a GPU with TF32 as in the paper)",
    )
    group.add_argument("--no_tf32", action="store_true", help="do not use TF32 on a GPU")
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="use torch.compile (default: as in the folder, if it exists; else with --precision "
        "bf16 on a GPU, if the images take long enough and there is a C compiler)",
    )
    group.add_argument("--estimate", action="store_true", help="print the estimated cost and exit")
    group.add_argument(
        "--verify",
        action="store_true",
        help="check every image of the folder and repair it, its manifest and its contact sheet",
    )
    flags.add_process_flags(parser)
    options = parser.parse_args(argv)
    requested_images.check_flags(options)
    if options.cfg_scale == 0:
        raise UserError(
            "--cfg-scale 0 leaves only the null branch, which ignores the class: give 1 for no "
            "guidance"
        )
    return options


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

        # Model, as its files describe it
        model, size, classes = options.model, options.image_size, options.num_classes
        if options.estimate and model in official.names() and not options.ckpt:
            source = named_pipeline(model, size, classes)  # needs no files
        else:
            source = read_pipeline(model, options.ckpt, options.vae, size, classes, say)
        chain = (
            options.sampler,
            options.num_sampling_steps,
            source.schedule,
            options.timestep_spacing,
        )
        check_steps(*chain)
        if uneven := uneven_steps(*chain):
            say(f"note: {uneven}")
        cfg_channels = source.guided_channels(options.cfg_scale, options.cfg_channels)
        if options.cfg_scale != 1 and source.info.get("label_dropout") == 0:
            say(
                f"note: {model} was trained with --label_dropout 0: its null class is untrained, "
                "and guidance is not meaningful: consider --cfg-scale 1"
            )

        # Images: everything that they depend on, classes and numbers, and their folder
        settings = {
            "generator": source.name,
            "generator_sha256": source.weights_sha256,
            "sampler": options.sampler,
            "cfg_scale": options.cfg_scale,
            "num_sampling_steps": options.num_sampling_steps,
            "seed": options.seed,
            "image_size": source.image_size,
            "cfg_channels": cfg_channels,
            "time_embedding": options.time_embedding
            or source.info.get("time_embedding", "official"),
            "precision": options.precision,
            "tf32": not options.no_tf32,
            "format": options.format,
            "grey": source.grey,
            "schedule": source.schedule,
            **sampler_settings(options.timestep_spacing, options.cfg_interval, options.cfg_scale),
        }
        if options.cfg_interval:
            guided = make_sampler(settings).evaluations(options.cfg_scale)
            if guided == options.num_sampling_steps:
                raise UserError(
                    "--cfg_interval {:g},{:g} holds none of the {} timesteps: widen it, or omit "
                    "it and give --cfg-scale 1".format(*options.cfg_interval, guided)
                )
        request = requested_images.request_of(options, source.num_classes, model)
        flat = isinstance(request, requested_images.SeedRange)
        path = options.save_dir or default_path(settings, flat)
        images = requested_images.number_of_images(request)
        cost = sampling_cost(images, source, settings, path)
        if options.estimate:
            say(description(cost, path))
            return cost

        # A folder that is continued keeps the way in which its images are computed
        precision, batch_size, compiled = world.from_main(earlier_computation, path)
        if options.precision == "bf16" and precision != "bf16":
            settings["precision"] = BF16_BLOCKS
        batch_size = options.batch_size or batch_size
        batch_size = batch_size or default_batch_size(source.image_size, device)
        if options.compile is not None:
            compiled = options.compile
        elif compiled is None:
            is_long = device.type == "cuda" and cost["operations"] >= COMPILED_FROM
            compiled = is_long and settings["precision"] == BF16_BLOCKS and has_compiler()
        origin = {
            "batch_size": batch_size,
            **({"compiled": True} if compiled else {}),
            "class_names": source.info.get("class_names"),
            **environment(),
        }
        origin["versions"] |= {"diffusers": importlib.metadata.version("diffusers")}

        with GeneratedFolder(path, settings, request, world, origin, options.verify) as folder:
            if folder.missing:
                if world.is_main:
                    cost = sampling_cost(len(folder.missing), source, settings, path)
                    say(description(cost, path))
                fix_kernels(settings["tf32"])
                pipeline = load_pipeline(source, settings["time_embedding"])
                if settings["precision"] == BF16_BLOCKS:
                    use_bf16_blocks(pipeline.denoiser)
                pipeline.to(device)
                say(
                    f"batches of {batch_size} per process, {settings['precision']}"
                    + (", compiled" if compiled else "")
                )
                if compiled:
                    denoiser = torch.compile(pipeline.denoiser, dynamic=False)
                    pipeline = replace(pipeline, denoiser=denoiser)
                if settings["precision"] == "bf16":
                    pipeline = replace(pipeline, denoiser=Autocast(pipeline.denoiser))
                generate(folder, pipeline, batch_size)
        return folder.result


def default_path(settings, flat):
    """The folder of the images if --save_dir is not given; flat: files as in the released sets."""
    interval, spacing = settings.get("cfg_interval"), settings.get("timestep_spacing")
    return Path("syn_dataset") / (
        f"{settings['generator']}_{settings['sampler']}_s{settings['cfg_scale']:g}"
        + (f"_i{interval[0]:g}-{interval[1]:g}" if interval else "")
        + f"_T{settings['num_sampling_steps']}{f'_{spacing}' if spacing else ''}"
        f"_seed{settings['seed']}{'_flat' if flat else ''}"
    )


def earlier_computation(path):
    """(precision, batch size, whether compiled) of the images in a folder, None where unknown.

    A damaged manifest is left to the GeneratedFolder, which says what to do.
    """
    file = path / "manifest.json"
    try:
        manifest = read_json(file, "manifest")
        precision = entry(entry(manifest, "settings", dict, file), "precision", str, file, None)
        batch_size = entry(manifest, "batch_size", int, file, None, minimum=1)
        return precision, batch_size, entry(manifest, "compiled", bool, file, False)
    except (UserError, OSError):
        return None, None, None


def generate(folder, pipeline, batch_size):
    """Samples, decodes and writes the missing images of this process."""
    settings = folder.settings
    scale, cfg_channels = settings["cfg_scale"], settings["cfg_channels"]
    sampler = make_sampler(settings)

    def draw(batch):
        shape, pin_memory = pipeline.latent_shape, pipeline.device.type == "cuda"
        return batch_noise(settings["seed"], batch, shape, sampler.noise_steps, pin_memory)

    # The loaded weights are finite, and nan or inf among the latents reaches the images
    remedy = f"lower --cfg-scale, which is {scale:g}, "
    remedy += "give --precision fp32, " if settings["precision"] != "fp32" else ""
    remedy += f"or check the weights of {pipeline.name}"
    batches = folder.missing_batches(batch_size)  # lists of (class, index)
    for batch, noise in zip(batches, prefetch(draw(batch) for batch in batches)):
        # noise (1 + noise steps, N, C, H, W) → images (N, 3, S, S) in [−1, 1]
        images = pipeline.sample_batch(batch, noise, sampler, scale, cfg_channels)
        folder.write(batch, to_pixels(images, settings["grey"], remedy))


def sampler_settings(spacing, interval, scale):
    """The settings of flags that earlier folders do not have, if they are given.

    Raises UserError for an interval without guidance.
    """
    settings = {}
    if spacing:
        settings["timestep_spacing"] = spacing
    if interval:
        if scale == 1:
            raise UserError("--cfg_interval needs guidance: give --cfg-scale above 1, or omit it")
        settings["cfg_interval"] = interval
    return settings


def make_sampler(settings):
    """The Sampler of the settings of a folder."""
    return Sampler(
        settings["sampler"],
        settings["num_sampling_steps"],
        settings["schedule"],
        settings.get("timestep_spacing"),
        settings.get("cfg_interval", (0.0, 1.0)),
    )


def sampling_cost(images, source, settings, path):
    """Estimates the cost of `images` images: a dict of images, evaluations, operations, bytes and
    free_bytes.

    evaluations: forward passes of the DiT for one image each, two per guided step;
    operations: floating-point operations of these and of the decoder; bytes: size of the files;
    free_bytes: free space on the disk of `path`.
    """
    evaluations = images * make_sampler(settings).evaluations(settings["cfg_scale"])
    evaluation, decoding = operations(source)
    return {
        "images": images,
        "evaluations": evaluations,
        "operations": evaluations * evaluation + images * decoding,
        "bytes": round(images * image_bytes(settings)),
        "free_bytes": free_bytes(path),
    }


def description(cost, path):
    """Two lines that describe the result of `sampling_cost`."""
    total, per_image = (
        with_prefix(operations, "FLOP")
        for operations in (cost["operations"], cost["operations"] / cost["images"])
    )
    return (
        f"{cost['images']} images take {cost['evaluations']} network evaluations; with decoding, "
        f"{total} ({per_image} per image)\n"
        f"and about {with_prefix(cost['bytes'], 'B')} on the disk of {path} "
        f"({with_prefix(cost['free_bytes'], 'B')} free)"
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
