"""Our sampler beside diffusers' DiTPipeline: the same random weights, labels, noise, steps and
guidance, other code.

    python -m benchmarks.sampler                                    # DiT-S/8 and a small VAE: a processor's size
    python -m benchmarks.sampler --model DiT-XL/2 --vae official --num-sampling-steps 50      # a GPU's

From class labels to bytes of pixels. Ours is what synthesize_dit.py calls for a batch: it draws the
noise of every image (there in a thread of its own, beside the batch before), runs the chain,
decodes and rounds. The pipeline returns PIL images, as it does unless told otherwise. With DDIM
both make the same pictures; with DDPM the pipeline throws the learned variance away and ours does
not. Three columns say where the time goes: the network alone, called as often on latents that stay;
the decoder; and what is left: noise, guidance, scheduler and the way to bytes.
"""

import sys
import tempfile

import torch

from benchmarks import timing
from dataset.image_writer import to_pixels
from diffusion import official
from diffusion.build import build_vae
from diffusion.pipeline import load_pipeline
from diffusion.sampler import Sampler, batch_noise
from diffusion.schedule import DEFAULT_SCHEDULE
from helper.errors import UserError, run
from helper.options import Parser, int_list, positive_int
from helper.seeds import image_generator

SCALE, SEED = 2.0, 0
SMALL_VAE = (8, 16, 32, 64)  # channels: 2.7 GFLOP an image, as two guided steps of a DiT-S/8
OURS, DIFFUSERS = "ours", "DiTPipeline"
WHOLE, NETWORK, DECODER = "whole", "network", "decoder"


def parse_option(argv=None):
    """Reads the flags. Raises UserError for a wrong one."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--model", choices=official.names(), default="DiT-S/8", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--vae",
        choices=["small", "official"],
        default="small",
        help="official: of the size of Stable Diffusion's (default: %(default)s)",
    )
    parser.add_argument("--image-size", type=positive_int, help="pixels a side (default: 256)")
    parser.add_argument(
        "--sampler", choices=["ddim", "ddpm"], default="ddim", help="(default: ddim)"
    )
    parser.add_argument("--num-sampling-steps", type=positive_int, help="T (default: 5)")
    parser.add_argument("--batches", type=int_list, help="batch sizes (default: 1,4,16,64)")
    timing.add_flags(parser, repeats=3)
    options = parser.parse_args(argv)
    options.image_size = options.image_size or (64 if options.quick else 256)
    options.num_sampling_steps = options.num_sampling_steps or (2 if options.quick else 5)
    options.batches = options.batches or ([1, 2] if options.quick else [1, 4, 16, 64])
    if min(options.batches) < 1:
        raise UserError(f"--batches {min(options.batches)}: a batch has at least one image")
    return options


def write_pipeline(folder, options):
    """Writes a diffusers pipeline of 1000 classes with random weights into `folder`."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        DiTPipeline,
        DiTTransformer2DModel,
    )

    torch.manual_seed(0)
    config = official.from_name(options.model, options.image_size).config()
    if options.quick:
        config["num_layers"] = 2
    transformer = DiTTransformer2DModel.from_config(config)
    embedder = transformer.transformer_blocks[0].norm1.emb
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(
            embedder.state_dict()
        )  # the official model has one, copied for each block
    if options.vae == "official":
        vae = AutoencoderKL.from_config(official.VAE_CONFIG)
    else:
        vae = build_vae(SMALL_VAE, official.CHANNELS, options.image_size)
    if options.sampler == "ddim":
        scheduler = DDIMScheduler(
            **DEFAULT_SCHEDULE, timestep_spacing="leading", steps_offset=0, clip_sample=False
        )
    else:
        scheduler = DDPMScheduler(
            **DEFAULT_SCHEDULE, timestep_spacing="linspace", clip_sample=False
        )
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)


def load_both(options, device):
    """Returns (our Pipeline, diffusers' DiTPipeline) with the same random weights on `device`."""
    from diffusers import DiTPipeline

    with tempfile.TemporaryDirectory() as folder:
        write_pipeline(folder, options)
        # The frequencies that diffusers computes: with the official ones the pictures would differ.
        ours = load_pipeline(folder, time_embedding="diffusers").to(device)
        theirs = DiTPipeline.from_pretrained(folder).to(device)
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs


def samplers(ours, theirs, options, batch_size, device):
    """Returns {name: function()} that make a batch of pictures: ours uint8 (N, S, S, 3) on the
    host, theirs PIL's.
    """
    chain = Sampler(options.sampler, options.num_sampling_steps, ours.schedule)
    items = [
        (number * 15 % ours.num_classes, number) for number in range(batch_size)
    ]  # (class, index)
    classes = [label for label, _ in items]

    def sample():
        noise = batch_noise(
            SEED, items, ours.latent_shape, chain.noise_steps, device.type == "cuda"
        )
        latents = chain.sample(
            ours.predict,
            noise.to(device, non_blocking=True),
            torch.tensor(classes).to(device),
            ours.num_classes,
            SCALE,
            cfg_channels=ours.latent_shape[0],
        )
        return to_pixels(ours.decode(latents)).cpu().numpy()

    def sample_theirs():
        # A generator an image, as ours: given so, the pipeline draws the same latents to begin
        # with.
        generators = [image_generator(SEED, *item) for item in items]
        return theirs(classes, SCALE, generators, options.num_sampling_steps).images

    return {OURS: sample, DIFFUSERS: sample_theirs}


def parts(ours, theirs, options, batch_size, device):
    """Returns {(name, part): function()}: the networks' share of `samplers`, on latents that stay
    as they are.
    """
    latents = torch.randn(batch_size, *ours.latent_shape, device=device)
    both = torch.cat([latents, latents])
    labels = torch.arange(2 * batch_size, device=device)
    t = torch.full((2 * batch_size,), 500, device=device)

    def repeated(network):
        @torch.no_grad()
        def passes():
            for _ in range(options.num_sampling_steps):
                network()

        return passes

    @torch.no_grad()
    def decode_theirs():
        return theirs.vae.decode(latents / theirs.vae.config.scaling_factor).sample

    return {
        (OURS, NETWORK): repeated(lambda: ours.predict(both, t, labels)),
        (OURS, DECODER): lambda: ours.decode(latents),
        (DIFFUSERS, NETWORK): repeated(
            lambda: theirs.transformer(both, timestep=t, class_labels=labels).sample
        ),
        (DIFFUSERS, DECODER): decode_theirs,
    }


def measure(ours, theirs, options, batch_size, device):
    """Measures one batch size and returns the rows of both samplers."""
    whole = samplers(ours, theirs, options, batch_size, device)
    functions = {(name, WHOLE): function for name, function in whole.items()}
    functions |= parts(ours, theirs, options, batch_size, device)
    runs = (
        1 if options.quick else max(1, 8 // batch_size)
    )  # small batches are over too soon for one timed run

    def repeated(function):
        return lambda: [function() for _ in range(runs)]

    times = timing.alternate(
        {key: repeated(function) for key, function in functions.items()}, options.repeats
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
    """Measures the batch sizes of `argv` and prints the table."""
    options = parse_option(argv)
    device = timing.start(options)
    torch.set_float32_matmul_precision("high")  # as synthesize_dit.py does
    ours, theirs = load_both(options, device)
    rows = [row for size in options.batches for row in measure(ours, theirs, options, size, device)]
    print(
        timing.markdown(
            [
                "batch",
                "sampler",
                "seconds an image",
                "its time over ours",
                "network",
                "decoder",
                "rest",
            ],
            rows,
        )
    )
    print(
        f"\nMedian (lowest–highest) of {options.repeats} rounds; {options.model}, {options.vae} "
        "VAE, "
        f"{options.image_size}×{options.image_size}, {options.sampler}, T = "
        f"{options.num_sampling_steps}, "
        f"s = {SCALE:g}, float32."
    )


if __name__ == "__main__":
    sys.exit(run(main))
