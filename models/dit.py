"""The networks of a DiT pipeline: transformer and VAE, from a diffusers folder or an official checkpoint."""

from dataclasses import dataclass, fields

import torch
from torch import nn

from helper.cost import forward_operations
from helper.errors import UserError
from models import official_dit
from models.dit_source import PipelineSource, read_pipeline

# Pixels that are decoded together. On a GPU 16 images of 256 px, whose activations take about 4 GiB in float32; on a
# processor one, whose activations stay in its cache: twice as fast as sixteen.
_DECODED_TOGETHER = {"cuda": 16 * 256**2, "cpu": 256**2}


@dataclass(frozen=True)
class Pipeline(PipelineSource):
    """A loaded pipeline: both networks in float32 and eval mode, without gradients."""

    denoiser: nn.Module
    vae: nn.Module
    time_embedding: str

    def predict(self, x, t, labels):
        """Noise and variance channels, (N, 2C, H, W), for latents x (N, C, H, W), timesteps t (N,), labels (N,)."""
        return self.denoiser(x, t, labels)

    @torch.no_grad()
    def decode(self, latents):
        """Turns latents (N, C, H, W) into images (N, 3, image_size, image_size), about [−1, 1]."""
        chunk = max(1, _DECODED_TOGETHER[latents.device.type] // self.image_size**2)
        return torch.cat([
            self.vae.decode(part / self.scaling_factor, return_dict=False)[0] for part in latents.split(chunk)
        ])  # fmt: skip

    def to(self, device):
        """Moves both networks to `device` and returns the pipeline."""
        self.denoiser.to(device)
        self.vae.to(device)
        return self


class Denoiser(nn.Module):
    """A diffusers DiT whose embedding of time and class is computed once a pass, if its blocks hold the same one.

    The official model has one embedder; diffusers keeps a copy in every block, computes each of them in every pass, and
    the first once more for the output: in DiT-XL/2 28 × a dozen small kernels for nothing, and 300 MB of copies. Once
    gives the same numbers to the bit. A DiT that was trained within diffusers may hold different embedders, which stay.
    """

    def __init__(self, transformer):
        super().__init__()
        blocks = transformer.transformer_blocks
        embedders = [block.norm1.emb for block in blocks]
        self.embedder = embedders[0] if all(_equal(embedders[0], other) for other in embedders[1:]) else None
        if self.embedder is not None:
            for block in blocks:
                block.norm1.emb = _Given()
        self.transformer = transformer

    def forward(self, x, t, labels):
        """x (N, C, H, W), t (N,), labels (N,) → (N, 2C, H, W)."""
        if self.embedder is not None:
            t, labels = self.embedder(t, labels, hidden_dtype=x.dtype), None
        return self.transformer(x, timestep=t, class_labels=labels, return_dict=False)[0]


class _Given(nn.Module):
    """Stands where a block would compute the embedding, and is given it, (N, D), in the timestep's place."""

    def forward(self, timestep, class_labels, hidden_dtype=None):
        return timestep


def _equal(one, other):
    """Whether two modules of a class hold the same weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def load_pipeline(pipeline, time_embedding=None):
    """Loads the networks of a pipeline: a PipelineSource, or what `read_pipeline` takes.

    time_embedding: 'official' (frequencies 10000^(−i/128), norm eps 1e-6) or 'diffusers' (10000^(−i/127), as built);
    None takes generator.json's, else 'official'.
    Returns a Pipeline on the CPU. Raises UserError if a weight file is missing, damaged or does not fit its config.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    if not isinstance(pipeline, PipelineSource):
        pipeline = read_pipeline(pipeline)
    time_embedding = time_embedding or pipeline.info.get("time_embedding") or "official"
    if pipeline.transformer_path.is_dir():
        transformer = _load(DiTTransformer2DModel, pipeline.transformer_path)
    else:
        transformer = _load_official(pipeline)
    if time_embedding == "official":
        use_official_embedding(transformer)
    described = {field.name: getattr(pipeline, field.name) for field in fields(PipelineSource)}
    vae = _load(AutoencoderKL, pipeline.vae_path).to(memory_format=torch.channels_last)
    return Pipeline(**described, denoiser=Denoiser(transformer), vae=vae, time_embedding=time_embedding)


def use_official_embedding(transformer):
    """Gives a diffusers DiT the official code's time frequencies and norm eps, in place (same weights, both ways)."""
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        # The other norms (norm1.norm, norm_out) are built with 1e-6 already; only this one takes norm_eps.
        block.norm3.eps = 1e-6


def operations(source):
    """Returns the floating-point operations of one image in (a pass of the DiT, the decoder), weights or not."""
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    with torch.device("meta"):
        transformer = DiTTransformer2DModel.from_config(source.transformer_config).eval()
        decoder = AutoencoderKL.from_config(source.vae_config).eval().decoder
        x, zero = torch.empty(1, *source.latent_shape), torch.zeros(1, dtype=torch.int64)
    return forward_operations(transformer, x, zero, zero), forward_operations(decoder, x)


def _load_official(source):
    """Returns the diffusers DiT of an official checkpoint; in float32 files no tensor is copied."""
    from diffusers import DiTTransformer2DModel

    state = {name: tensor.float() for name, tensor in official_dit.read_state(source.transformer_path).items()}
    with torch.device("meta"):
        transformer = DiTTransformer2DModel.from_config(source.transformer_config)
    transformer.load_state_dict(official_dit.to_diffusers(state), assign=True)
    transformer.pos_embed.pos_embed = state["pos_embed"]  # the file's own, where diffusers would compute it
    return transformer.eval().requires_grad_(False)


def _load(kind, folder):
    """Loads one component in float32; a `.bin` file is read by diffusers with weights_only."""
    from diffusers.utils import logging

    logging.set_verbosity_error()  # what matters of its warnings is checked below
    try:
        network, report = kind.from_pretrained(
            folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # diffusers and safetensors raise many kinds for a damaged or unfitting file
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(f"the weights in {folder} are damaged or do not fit its config.json: fetch them again "
                        f"({reason})") from None
    if report["missing_keys"]:
        raise UserError(f"the weights in {folder} lack {report['missing_keys'][0]} and "
                        f"{len(report['missing_keys']) - 1} more of its config.json: fetch them again")
    return network.eval().requires_grad_(False)
