"""Small AutoencoderKL and DiT models to train, on diffusers' classes, and the pipeline folder they
are written as.
"""

import copy
import shutil
from pathlib import Path

import torch
from torch import nn

from helper.errors import UserError
from helper.files import write_json

BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


def build_vae(channels, latent_channels, image_size):
    """Returns an AutoencoderKL for (N, 3, S, S) images in [−1, 1]; each entry of `channels` but the
    first halves S.

    Raises UserError if the image size is not divisible by the resulting factor.
    """
    from diffusers import AutoencoderKL

    if not channels or any(width < 1 or width % 8 for width in channels):
        raise UserError(
            "--vae_channels must be multiples of 8 (the groups of the normalisation), such as "
            "16,32,64"
        )
    factor = 2 ** (len(channels) - 1)
    if image_size % factor:
        raise UserError(
            f"--image_size {image_size} is not divisible by {factor}, the factor of --vae_channels"
        )
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=image_size,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


class Reconstruction(nn.Module):
    """The autoencoder as one training pass: images (N, 3, S, S) in [−1, 1] → (reconstruction, mean,
    log variance).
    """

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, images):
        posterior = self.vae.encode(images).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar


def build_dit(*, depth, width, heads, patch_size, latent_size, latent_channels, num_classes):
    """Returns a DiT for latents (N, C, L, L) with the official time embedding and initialisation.

    adaLN and the output layer start at zero, so that every block starts as the identity. One
    embedder of time and class serves all blocks, as in the official model (`separate_embedders`
    undoes it for saving).
    """
    from diffusers import DiTTransformer2DModel

    if width % heads or latent_size % patch_size:
        raise UserError(
            f"--width {width} must be divisible by --heads {heads}, and the latent's size "
            f"{latent_size} "
            f"by --patch_size {patch_size}"
        )
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=latent_channels,
        out_channels=2 * latent_channels,
        num_layers=depth,
        sample_size=latent_size,
        patch_size=patch_size,
        num_embeds_ada_norm=num_classes,
        norm_eps=1e-6,
    )
    _initialise(model)
    shared = model.transformer_blocks[0].norm1.emb
    shared.time_proj.downscale_freq_shift = 0
    for block in model.transformer_blocks:
        block.norm1.emb = shared
    return model


def _initialise(model):
    """The official initialisation: Xavier linear layers, N(0, 0.02) embeddings, zero adaLN and
    output.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    projection = model.pos_embed.proj
    nn.init.xavier_uniform_(projection.weight.view(projection.weight.shape[0], -1))
    nn.init.zeros_(projection.bias)
    embedder = model.transformer_blocks[0].norm1.emb
    for weight in (
        embedder.class_embedder.embedding_table.weight,
        embedder.timestep_embedder.linear_1.weight,
        embedder.timestep_embedder.linear_2.weight,
    ):
        nn.init.normal_(weight, std=0.02)
    for linear in [block.norm1.linear for block in model.transformer_blocks] + [
        model.proj_out_1,
        model.proj_out_2,
    ]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


def separate_embedders(model):
    """Returns a copy in which every block has its own embedder: `save_pretrained` refuses shared
    tensors.
    """
    model = copy.deepcopy(model)
    for block in model.transformer_blocks:
        block.norm1.emb = copy.deepcopy(block.norm1.emb)
    return model


def save_pipeline(folder, transformer, vae, info):
    """Writes a diffusers DiT pipeline (fp16 safetensors) into `folder`, with `info` as its
    generator.json.

    Everything is written aside first; other files in `folder` stay.
    """
    from diffusers import DDPMScheduler, DiTPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()  # halving the precision warns of modules to keep in float32, of which there are none
    scheduler = DDPMScheduler(
        **BETAS, variance_type="learned_range", timestep_spacing="linspace", clip_sample=False
    )
    vae = copy.deepcopy(vae).to("cpu", torch.float16, memory_format=torch.contiguous_format)
    pipeline = DiTPipeline(separate_embedders(transformer).to("cpu", torch.float16), vae, scheduler)
    folder = Path(folder)
    aside = folder / "pipeline.part"
    shutil.rmtree(aside, ignore_errors=True)
    pipeline.save_pretrained(aside)
    write_json(aside / "generator.json", info)
    for item in sorted(aside.iterdir()):
        target = folder / item.name
        if target.is_dir():
            shutil.rmtree(target)
        item.replace(target)
    aside.rmdir()
