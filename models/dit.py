"""Diffusers DiT pipelines: a folder (or a Hugging Face hub name) → transformer, VAE and what sampling must know.

A pipeline folder holds `transformer/`, `vae/` and `scheduler/` as diffusers writes them, and may hold `generator.json`,
written by train_dit.py: cfg_channels, time_embedding, grey, class_names, dataset, image_size.
"""

import re
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from helper.errors import UserError
from helper.files import read_json, sha256

TIME_EMBEDDINGS = ("official", "diffusers")
_SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
             "trained_betas": None}  # fmt: skip
# At this size and above the VAE's activations are large: 16 images of 256 px take about 4 GiB in float32.
_LARGE_IMAGE, _DECODE_CHUNK = 256, 16


@dataclass(frozen=True)
class PipelineFolder:
    """What a pipeline's configuration files say; no weights are loaded.

    latent_shape: (C, H, W); image_size: pixels a side; schedule: the betas' settings; info: generator.json or {};
    weights_sha256: of the weight files of both networks.
    """

    name: str
    folder: Path
    num_classes: int
    latent_shape: tuple
    image_size: int
    scaling_factor: float
    schedule: dict
    info: dict
    weights_sha256: str


@dataclass(frozen=True)
class Pipeline(PipelineFolder):
    """A loaded pipeline: both networks in float32 and eval mode, without gradients."""

    transformer: torch.nn.Module
    vae: torch.nn.Module
    time_embedding: str

    def predict(self, x, t, labels):
        """Noise and variance channels, (N, 2C, H, W), for latents x (N, C, H, W), timesteps t (N,), labels (N,)."""
        return self.transformer(x, timestep=t, class_labels=labels, return_dict=False)[0]

    @torch.no_grad()
    def decode(self, latents):
        """Turns latents (N, C, H, W) into images (N, 3, image_size, image_size), about [−1, 1]."""
        chunk = _DECODE_CHUNK if self.image_size >= _LARGE_IMAGE else len(latents)
        return torch.cat([
            self.vae.decode(part / self.scaling_factor, return_dict=False)[0] for part in latents.split(chunk)
        ])  # fmt: skip

    def to(self, device):
        """Moves both networks to `device` and returns the pipeline."""
        self.transformer.to(device)
        self.vae.to(device)
        return self


def read_pipeline(path_or_name):
    """Reads the configuration of a pipeline folder, or of a hub name, which is downloaded into the hub's cache.

    Returns a PipelineFolder. Raises UserError if there is no such folder or hub name, or it holds no DiT pipeline.
    """
    folder = Path(path_or_name)
    name = folder.resolve().name
    if not folder.exists():
        folder = _download(str(path_or_name))
    transformer = _config(folder, "transformer/config.json")
    vae = _config(folder, "vae/config.json")
    scheduler = _config(folder, "scheduler/scheduler_config.json")
    # Before diffusers 0.28 a DiT's class was Transformer2DModel, told from others by its normalisation.
    kind = (transformer.get("_class_name"), transformer.get("norm_type"))
    if kind[0] not in ("DiTTransformer2DModel", "Transformer2DModel") or kind[1] != "ada_norm_zero":
        raise UserError(f"{folder} is not a DiT pipeline: its transformer is a {kind[0]} ({kind[1]})")
    if vae.get("_class_name") != "AutoencoderKL":
        raise UserError(f"{folder} is not a DiT pipeline: its vae is a {vae.get('_class_name')}, not an AutoencoderKL")
    channels = transformer.get("in_channels", 4)
    if transformer.get("out_channels") != 2 * channels:
        raise UserError(f"{folder} predicts no variance (out_channels {transformer.get('out_channels')}, needed "
                        f"{2 * channels}): it cannot be sampled here")
    if scheduler.get("prediction_type", "epsilon") != "epsilon":
        raise UserError(f"{folder} predicts {scheduler['prediction_type']}, not noise: it cannot be sampled here")
    size = transformer.get("sample_size", 32)
    info_file = folder / "generator.json"
    return PipelineFolder(
        name=name,
        folder=folder,
        num_classes=transformer.get("num_embeds_ada_norm", 1000),
        latent_shape=(channels, size, size),
        image_size=size * 2 ** (len(vae.get("block_out_channels", [64])) - 1),
        scaling_factor=vae.get("scaling_factor", 0.18215),
        schedule={key: scheduler.get(key, default) for key, default in _SCHEDULE.items()},
        info=read_json(info_file, "generator description") if info_file.exists() else {},
        weights_sha256=sha256(*_weight_files(folder / "transformer"), *_weight_files(folder / "vae")),
    )


def load_pipeline(pipeline, time_embedding=None):
    """Loads the networks of a pipeline: a PipelineFolder, a folder or a hub name.

    time_embedding: 'official' (frequencies 10000^(−i/128), norm eps 1e-6) or 'diffusers' (10000^(−i/127), as built);
    None takes generator.json's, else 'official'.
    Returns a Pipeline on the CPU. Raises UserError if a weight file is missing, damaged or does not fit its config.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    if not isinstance(pipeline, PipelineFolder):
        pipeline = read_pipeline(pipeline)
    time_embedding = time_embedding or pipeline.info.get("time_embedding") or "official"
    transformer = _load(DiTTransformer2DModel, pipeline.folder, "transformer")
    if time_embedding == "official":
        use_official_embedding(transformer)
    described = {field.name: getattr(pipeline, field.name) for field in fields(PipelineFolder)}
    vae = _load(AutoencoderKL, pipeline.folder, "vae")
    return Pipeline(**described, transformer=transformer, vae=vae, time_embedding=time_embedding)


def use_official_embedding(transformer):
    """Gives a diffusers DiT the official code's time frequencies and norm eps, in place (same weights, both ways)."""
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        # The other norms (norm1.norm, norm_out) are built with 1e-6 already; only this one takes norm_eps.
        block.norm3.eps = 1e-6


def _download(name):
    """Returns the local snapshot of a hub pipeline. Raises UserError if `name` cannot be one or cannot be had."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise UserError(f"pipeline folder not found: {name}")
    from diffusers import DiTPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()  # the message below says it all
    try:
        return Path(DiTPipeline.download(name))
    except Exception as error:  # the hub's client raises many kinds, for the network and for what it finds there
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(f"--model {name}: no such folder here, and it cannot be downloaded from the Hugging Face hub; "
                        f"give a pipeline folder, or try again online ({type(error).__name__}: {reason})") from None


def _config(folder, file):
    """Returns a component's JSON configuration. Raises UserError if it is missing or damaged."""
    path = folder / file
    if not path.is_file():
        raise UserError(f"{folder} is not a DiT pipeline folder: {file} is missing")
    return read_json(path, "pipeline configuration")


def _weight_files(folder):
    """Returns the weight files that diffusers reads from a component's folder: safetensors if there are any."""
    for suffix in ("safetensors", "bin"):
        index = folder / f"diffusion_pytorch_model.{suffix}.index.json"  # large models are split into several files
        if index.is_file():
            return sorted(folder / name for name in set(read_json(index, "weight index")["weight_map"].values()))
        if (folder / f"diffusion_pytorch_model.{suffix}").is_file():
            return [folder / f"diffusion_pytorch_model.{suffix}"]
    raise UserError(f"{folder} holds no weights: diffusion_pytorch_model.safetensors is missing")


def _load(kind, folder, part):
    """Loads one component in float32; a `.bin` file is read by diffusers with weights_only."""
    from diffusers.utils import logging

    logging.set_verbosity_error()  # what matters of its warnings is checked below
    try:
        network, report = kind.from_pretrained(
            folder, subfolder=part, torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # diffusers and safetensors raise many kinds for a damaged or unfitting file
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(f"the weights in {folder / part} are damaged or do not fit its config.json: fetch them again "
                        f"({reason})") from None
    if report["missing_keys"]:
        raise UserError(f"the weights in {folder / part} lack {report['missing_keys'][0]} and "
                        f"{len(report['missing_keys']) - 1} more of its config.json: fetch them again")
    return network.eval().requires_grad_(False)
