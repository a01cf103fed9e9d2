"""Small AutoencoderKL and DiT models to train, and saving them as a diffusers pipeline."""

import copy
import shutil
from pathlib import Path

import torch
from torch import nn

from diffusion.schedule import DEFAULT_SCHEDULE
from helper.checkpoints import check_finite
from helper.errors import UserError
from helper.files import write_json


def build_vae(channels, latent_channels, image_size):
    """An AutoencoderKL for images (N, 3, S, S) in [−1, 1].

    channels: widths of the resolutions; each but the first halves S. Raises UserError if these do
    not fit the group normalisation or the image size.
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
    """Training pass of an autoencoder: images (N, 3, S, S) in [−1, 1] → (reconstruction, mean, log
    variance).
    """

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, images):
        posterior = self.vae.encode(images).latent_dist
        return self.vae.decode(posterior.sample()).sample, posterior.mean, posterior.logvar


def check_sizes(width, heads, latent_size, patch_size):
    """Raises UserError if the sizes of a DiT do not divide each other as required."""
    if width % heads:
        raise UserError(f"--width {width} must be divisible by --heads {heads}")
    if width % 4:  # sine and cosine of both coordinates
        raise UserError(f"--width {width} must be divisible by 4, for the position embedding")
    if latent_size % patch_size:
        raise UserError(
            f"--patch_size {patch_size} must divide the size of the latents, {latent_size}: use "
            "another, or another --image_size"
        )


def build_dit(*, depth, width, heads, patch_size, latent_size, latent_channels, num_classes):
    """A DiT for latents (N, C, L, L) with the official time embedding and initialisation.

    As in the official model, all blocks share one embedder of timestep and class;
    `separate_embedders` undoes that for saving. Raises UserError if the sizes are not divisible.
    """
    from diffusers import DiTTransformer2DModel

    check_sizes(width, heads, latent_size, patch_size)
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
    embedder = model.transformer_blocks[0].norm1.emb
    embedder.time_proj.downscale_freq_shift = 0
    for block in model.transformer_blocks:
        block.norm1.emb = embedder
    return model


def _initialise(model):
    """The official initialisation: Xavier for linear layers, N(0, 0.02²) for embeddings.

    adaLN and the output layers start at zero, so that every block is the identity at first.
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
    modulations = [block.norm1.linear for block in model.transformer_blocks]
    for linear in [*modulations, model.proj_out_1, model.proj_out_2]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)


def for_new_classes(pipeline, num_classes):
    """The DiT of a loaded Pipeline with a new label table, to train it on other classes.

    The rows of the classes are drawn from N(0, 0.02²), as in a new model. The row of the null class
    is kept: what it has learned does not depend on the classes.
    """
    model = pipeline.denoiser.transformer
    blocks = model.transformer_blocks
    if pipeline.denoiser.embedder is not None:
        for block in blocks:
            block.norm1.emb = pipeline.denoiser.embedder
    for embedder in dict.fromkeys(block.norm1.emb.class_embedder for block in blocks):
        table = nn.Embedding(num_classes + 1, embedder.embedding_table.embedding_dim)
        nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            table.weight[-1] = embedder.embedding_table.weight[-1]
        embedder.embedding_table, embedder.num_classes = table, num_classes
    model.register_to_config(num_embeds_ada_norm=num_classes)
    if pipeline.time_embedding == "official":
        model.register_to_config(norm_eps=1e-6)  # as `use_official_embedding` has set it
    return model.requires_grad_(True)


def separate_embedders(model):
    """A copy whose blocks have an embedder each: `save_pretrained` rejects shared tensors."""
    model = copy.deepcopy(model)
    for block in model.transformer_blocks:
        block.norm1.emb = copy.deepcopy(block.norm1.emb)
    return model


def save_pipeline(folder, transformer, vae, info, vae_dtype=torch.float16):
    """Saves a diffusers DiT pipeline (fp16 safetensors) in `folder`, and `info` as generator.json.

    Its scheduler is DDIM with the spacing of our sampler: one that DiTPipeline runs as it is, which
    takes no learned variance. Our samplers read only the betas.
    The files are written to a temporary folder and then moved. Other files in `folder` are kept.
    """
    from diffusers import DDIMScheduler, DiTPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()  # conversion to fp16 warns about modules that DiT does not have
    scheduler = DDIMScheduler(**DEFAULT_SCHEDULE, timestep_spacing="leading", clip_sample=False)
    transformer = separate_embedders(transformer).to("cpu", torch.float16)
    vae = copy.deepcopy(vae).to("cpu", vae_dtype, memory_format=torch.contiguous_format)
    for name, network in {"DiT": transformer, "autoencoder": vae}.items():
        check_finite(network.state_dict(), f"the trained {name} in {str(network.dtype)[6:]}")
    folder = Path(folder)
    part = folder / "pipeline.part"
    shutil.rmtree(part, ignore_errors=True)
    pipeline = DiTPipeline(transformer, vae, scheduler)
    # As in the published pipelines: names for DiTPipeline.get_label_ids
    pipeline.register_to_config(id2label=dict(enumerate(info["class_names"])))
    pipeline.save_pretrained(part)
    write_json(part / "generator.json", info)
    for item in sorted(part.iterdir()):
        target = folder / item.name
        if target.is_dir():
            shutil.rmtree(target)
        item.replace(target)
    part.rmdir()
