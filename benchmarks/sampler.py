"""Speed of our sampler and of diffusers' DiTPipeline, with the same weights, labels, noise, steps
and guidance.

    python -m benchmarks.sampler                   # DiT-S/8 and a small VAE, for a CPU
    python -m benchmarks.sampler --model DiT-XL/2 --vae official --num-sampling-steps 50   # a GPU

Timed is a batch from class labels to uint8 pixels. Ours is what synthesize_dit.py does for a batch:
draw the noise of each image (there in a thread, during the previous batch), sample, decode and
round. The pipeline returns PIL images, its default. With DDIM both give the same images; with DDPM
the pipeline ignores the learned variance.

Three columns divide the time: the network alone, called as often on constant latents; the decoder;
and the rest, which is noise, guidance, scheduler and conversion to pixels.
"""

import sys
import tempfile
from dataclasses import replace

import torch

from benchmarks import timing
from dataset.image_writer import to_pixels
from diffusion import official
from diffusion.build import build_vae
from diffusion.pipeline import PRECISIONS, load_pipeline
from diffusion.sampler import Sampler, batch_noise
from diffusion.schedule import DEFAULT_SCHEDULE
from helper.errors import UserError, run_script
from helper.options import Parser, int_list, positive_int
from helper.seeds import image_generator

SCALE, SEED = 2.0, 0
SMALL_VAE = (8, 16, 32, 64)  # channels; 2.7 GFLOP per image, like two guided steps of DiT-S/8
OURS, DIFFUSERS = "ours", "DiTPipeline"
WHOLE, NETWORK, DECODER = "whole", "network", "decoder"


def parse_option(argv=None):
    """Parses the flags. Raises UserError."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model", choices=official.names(), default="DiT-S/8", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--vae",
        choices=["small", "official"],
        default="small",
        help="official: the size of Stable Diffusion's (default: %(default)s)",
    )
    parser.add_argument("--image-size", type=positive_int, help="pixels (default: 256)")
    parser.add_argument(
        "--sampler", choices=["ddim", "ddpm"], default="ddim", help="(default: ddim)"
    )
    parser.add_argument(
        "--num-sampling-steps", type=positive_int, help="number of steps T (default: 5)"
    )
    parser.add_argument("--batches", type=int_list, help="batch sizes (default: 1,4,16,64)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of both (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="compile our network")
    timing.add_flags(parser, repeats=3)
    options = parser.parse_args(argv)
    options.image_size = options.image_size or (64 if options.quick else 256)
    options.num_sampling_steps = options.num_sampling_steps or (2 if options.quick else 5)
    options.batches = options.batches or ([1, 2] if options.quick else [1, 4, 16, 64])
    if min(options.batches) < 1:
        raise UserError(f"--batches {min(options.batches)}: a batch has at least one image")
    return options


def write_pipeline(folder, model, image_size, vae, sampler, layers):
    """Writes a diffusers pipeline of 1000 classes with random weights into `folder`.

    layers: number of transformer blocks, None for those of the model.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        DiTPipeline,
        DiTTransformer2DModel,
    )

    torch.manual_seed(0)
    config = official.from_name(model, image_size).config()
    if layers:
        config["num_layers"] = layers
    transformer = DiTTransformer2DModel.from_config(config)
    embedder = transformer.transformer_blocks[0].norm1.emb
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(
            embedder.state_dict()
        )  # the official model has one, copied for each block
    if vae == "official":
        autoencoder = AutoencoderKL.from_config(official.VAE_CONFIG)
    else:
        autoencoder = build_vae(SMALL_VAE, official.CHANNELS, image_size)
    if sampler == "ddim":
        scheduler = DDIMScheduler(
            **DEFAULT_SCHEDULE, timestep_spacing="leading", steps_offset=0, clip_sample=False
        )
    else:
        scheduler = DDPMScheduler(
            **DEFAULT_SCHEDULE, timestep_spacing="linspace", clip_sample=False
        )
    DiTPipeline(transformer, autoencoder, scheduler).save_pretrained(folder)


def load_both(model, image_size, vae, sampler, device, layers=None, precision="fp32"):
    """(our Pipeline, diffusers' DiTPipeline) with the same random weights on `device`.

    precision: bf16 is that of synthesize_dit.py for ours, and of all weights for theirs.
    """
    from diffusers import DiTPipeline

    with tempfile.TemporaryDirectory() as folder:
        write_pipeline(folder, model, image_size, vae, sampler, layers)
        # The official frequencies would give other images than diffusers' own
        ours = load_pipeline(folder, "diffusers", precision).to(device)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        theirs = DiTPipeline.from_pretrained(folder).to(device, dtype)
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs


def samplers(ours, theirs, sampler, batch_size):
    """{name: function()} that generate a batch: ours uint8 (N, S, S, 3), theirs PIL images."""
    device = theirs.device
    items = [
        (number * 15 % ours.num_classes, number) for number in range(batch_size)
    ]  # (class, index)
    classes = [label for label, _ in items]

    def sample():
        noise = batch_noise(
            SEED, items, ours.latent_shape, sampler.noise_steps, device.type == "cuda"
        )
        latents = sampler.sample(
            ours.predict,
            noise.to(device, non_blocking=True),
            torch.tensor(classes).to(device),
            ours.num_classes,
            SCALE,
            cfg_channels=ours.latent_shape[0],
        )
        return to_pixels(ours.decode(latents)).cpu().numpy()

    def sample_theirs():
        # With one generator per image the pipeline starts from the same latents
        generators = [image_generator(SEED, *item) for item in items]
        return theirs(classes, SCALE, generators, sampler.steps).images

    return {OURS: sample, DIFFUSERS: sample_theirs}


def parts(ours, theirs, steps, batch_size):
    """{(name, part): function()} for the networks in `samplers`, on constant latents."""
    device = theirs.device
    latents = torch.randn(batch_size, *ours.latent_shape, device=device)
    both = torch.cat([latents, latents])
    labels = torch.arange(2 * batch_size, device=device)
    t = torch.full((2 * batch_size,), 500, device=device)
    their_latents, their_both = (value.to(theirs.dtype) for value in (latents, both))

    def repeated(network):
        @torch.no_grad()
        def passes():
            for _ in range(steps):
                network()

        return passes

    @torch.no_grad()
    def decode_theirs():
        return theirs.vae.decode(their_latents / theirs.vae.config.scaling_factor).sample

    return {
        (OURS, NETWORK): repeated(lambda: ours.predict(both, t, labels)),
        (OURS, DECODER): lambda: ours.decode(latents),
        (DIFFUSERS, NETWORK): repeated(
            lambda: theirs.transformer(their_both, timestep=t, class_labels=labels).sample
        ),
        (DIFFUSERS, DECODER): decode_theirs,
    }


def measure(ours, theirs, sampler, batch_size, repeats, runs):
    """Times one batch size, `runs` batches at once, and returns the table rows of both samplers."""
    whole = samplers(ours, theirs, sampler, batch_size)
    functions = {(name, WHOLE): function for name, function in whole.items()}
    functions |= parts(ours, theirs, sampler.steps, batch_size)

    def repeated(function):
        return lambda: [function() for _ in range(runs)]

    times = timing.alternate(
        {key: repeated(function) for key, function in functions.items()}, repeats
    )
    against_ours = timing.ratios(times, (OURS, WHOLE))
    rows = []
    for name in (OURS, DIFFUSERS):
        seconds = timing.spread([value / runs / batch_size for value in times[name, WHOLE]])
        shares = [
            timing.ratios(times, (name, WHOLE))[name, part].median for part in (NETWORK, DECODER)
        ]
        rows.append(
            [
                batch_size,
                name,
                f"{seconds:.4f}",
                "–" if name == OURS else f"{against_ours[name, WHOLE]:.2f}",
                *(f"{100 * share:.1f} %" for share in [*shares, 1 - sum(shares)]),
            ]
        )
    return rows


def main(argv=None):
    """Times the batch sizes of `argv` and prints the table."""
    options = parse_option(argv)
    device = timing.start(options)
    torch.set_float32_matmul_precision("high")  # as synthesize_dit.py does
    layers = 2 if options.quick else None
    ours, theirs = load_both(
        options.model,
        options.image_size,
        options.vae,
        options.sampler,
        device,
        layers,
        options.precision,
    )
    if options.compile:
        ours = replace(ours, denoiser=torch.compile(ours.denoiser, dynamic=False))
    sampler = Sampler(options.sampler, options.num_sampling_steps, ours.schedule)
    rows = []
    for batch_size in options.batches:
        runs = 1 if options.quick else max(1, 8 // batch_size)  # small batches are too short
        rows += measure(ours, theirs, sampler, batch_size, options.repeats, runs)
    header = "batch|sampler|seconds per image|time over ours|network|decoder|rest".split("|")
    print(timing.markdown(header, rows))
    print(
        f"\nMedian (lowest–highest) of {options.repeats} rounds; {options.model}, {options.vae} "
        f"VAE, {options.image_size}×{options.image_size}, {options.sampler}, "
        f"T = {options.num_sampling_steps}, s = {SCALE:g}, "
        f"{options.precision}{', ours compiled' if options.compile else ''}."
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
