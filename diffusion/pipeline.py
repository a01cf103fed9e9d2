"""The networks of a DiT pipeline: transformer and VAE, from a diffusers folder or an official
checkpoint.
"""

import re
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import nn

from diffusion import official
from helper.cost import forward_operations
from helper.errors import UserError
from helper.files import read_json, sha256

_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}
_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class PipelineSource:
    """What a pipeline's files say; no network is built.

    latent_shape: (C, H, W); image_size: pixels a side; schedule: the betas' settings; info:
    generator.json or {}; transformer_config, vae_config: what diffusers builds the networks from;
    transformer_path: the folder of diffusers' weights, or an official checkpoint; vae_path: a
    folder; weights_sha256: of the weight files of both networks. Known by its name alone
    (`named_pipeline`), a pipeline has no paths and no hash.
    """

    name: str
    num_classes: int
    latent_shape: tuple
    image_size: int
    scaling_factor: float
    schedule: dict
    info: dict
    transformer_config: dict
    vae_config: dict
    transformer_path: Path | None
    vae_path: Path | None
    weights_sha256: str


def named_pipeline(model, image_size=None, num_classes=None):
    """Returns the PipelineSource of an official name without any file: shapes, enough to say what
    sampling costs.

    Raises UserError if the name's patches do not divide the image size.
    """
    architecture = official.from_name(model, image_size, num_classes)
    return _source(
        f"{model.replace('/', '-')}-{image_size or official.IMAGE_SIZE}",
        None,
        architecture.config(),
        None,
        official.VAE_CONFIG,
    )


def read_pipeline(model, checkpoint=None, vae=None, image_size=None, num_classes=None, say=print):
    """Reads what there is to know of a pipeline without building it.

    model: a pipeline folder, a hub name, which is downloaded into the hub's cache, or an official
    name (DiT-XL/2 …), whose weights are `checkpoint`, else pretrained_models/DiT-XL-2-256x256.pt,
    else the hub's: `say` is told which. vae: 'ema', 'mse', the folder of an AutoencoderKL or of a
    pipeline, or a hub name; None takes the pipeline's own, and mse for official names. image_size,
    num_classes: what the caller expects. Returns a PipelineSource. Raises UserError if something is
    missing, is no DiT, or is not what was expected.
    """
    is_official = str(model) in official.names()
    if checkpoint and not is_official:
        raise UserError(
            f"--ckpt is an official checkpoint and --model {model} is not one of its names: give "
            "one of "
            f"{', '.join(official.names())}"
        )
    if is_official:
        vae = vae or "mse"
        checkpoint, published = (
            (checkpoint, None) if checkpoint else _published(model, image_size, say)
        )
        source = (
            _read_official(model, Path(checkpoint), vae)
            if checkpoint
            else _read_folder(published, vae)
        )
    else:
        source = _read_folder(model, vae)
    for flag, asked, there in (
        ("image-size", image_size, source.image_size),
        ("num-classes", num_classes, source.num_classes),
    ):
        if asked and asked != there:
            raise UserError(
                f"--{flag} {asked}: {source.transformer_path} has {there}: leave the flag out, or "
                "give "
                "another model"
            )
    return source


def _source(
    name, transformer_path, transformer_config, vae_path, vae_config, schedule=None, info=None
):
    """Puts a PipelineSource together. Raises UserError if the VAE's latents are not the
    transformer's.
    """
    channels, size = (
        transformer_config.get("in_channels", 4),
        transformer_config.get("sample_size", 32),
    )
    if vae_config.get("latent_channels", 4) != channels:
        raise UserError(
            f"{vae_path} has {vae_config.get('latent_channels', 4)} latent channels and the DiT of "
            f"{transformer_path} takes {channels}: give another --vae"
        )
    return PipelineSource(
        name=name,
        num_classes=transformer_config.get("num_embeds_ada_norm", 1000),
        latent_shape=(channels, size, size),
        image_size=size * _factor(vae_config),
        scaling_factor=vae_config.get("scaling_factor", 0.18215),
        schedule={key: (schedule or {}).get(key, default) for key, default in _SCHEDULE.items()},
        info=info or {},
        transformer_config=transformer_config,
        vae_config=vae_config,
        transformer_path=transformer_path,
        vae_path=vae_path,
        weights_sha256=sha256(*_weight_files(transformer_path), *_weight_files(vae_path))
        if vae_path
        else "",
    )


def _factor(vae_config):
    """Returns how many pixels of a side an AutoencoderKL turns into one latent cell."""
    return 2 ** (len(vae_config.get("block_out_channels", [64])) - 1)


def _read_folder(path_or_name, vae):
    """Returns the PipelineSource of a diffusers folder or hub name, with another VAE if `vae` is
    given.
    """
    folder = Path(path_or_name)
    name = folder.resolve().name
    if not folder.exists():
        folder = _pipeline_from_hub(str(path_or_name))
    transformer = _config(folder, "transformer/config.json")
    vae_path, vae_config = (
        _read_vae(vae) if vae else (folder / "vae", _vae_config(folder, "vae/config.json"))
    )
    scheduler = _config(folder, "scheduler/scheduler_config.json")
    # Before diffusers 0.28 a DiT's class was Transformer2DModel, told from others by its
    # normalisation.
    kind = (transformer.get("_class_name"), transformer.get("norm_type"))
    if kind[0] not in ("DiTTransformer2DModel", "Transformer2DModel") or kind[1] != "ada_norm_zero":
        raise UserError(
            f"{folder} is not a DiT pipeline: its transformer is a {kind[0]} ({kind[1]})"
        )
    channels = transformer.get("in_channels", 4)
    if transformer.get("out_channels") != 2 * channels:
        raise UserError(
            f"{folder} predicts no variance (out_channels {transformer.get('out_channels')}, "
            "needed "
            f"{2 * channels}): it cannot be sampled here"
        )
    if scheduler.get("prediction_type", "epsilon") != "epsilon":
        raise UserError(
            f"{folder} predicts {scheduler['prediction_type']}, not noise: it cannot be sampled "
            "here"
        )
    info_file = folder / "generator.json"
    info = read_json(info_file, "generator description") if info_file.exists() else {}
    return _source(name, folder / "transformer", transformer, vae_path, vae_config, scheduler, info)


def _read_official(model, checkpoint, vae):
    """Returns the PipelineSource of an official checkpoint; only its names and shapes are looked
    at.
    """
    config = official.check(official.read_state(checkpoint), model, checkpoint).config()
    vae_path, vae_config = _read_vae(vae)
    if _factor(vae_config) != official.VAE_FACTOR:
        raise UserError(
            f"--vae {vae} makes {_factor(vae_config)} pixels of a latent cell and an official DiT "
            "needs "
            f"{official.VAE_FACTOR}: give mse, ema or the folder of another"
        )
    name = f"{model.replace('/', '-')}-{config['sample_size'] * official.VAE_FACTOR}"
    return _source(
        name, checkpoint, config, vae_path, vae_config, info={"time_embedding": "official"}
    )


def _published(model, image_size, say):
    """Returns (file, None) or (None, hub name) of an official name's published weights."""
    size = image_size or official.IMAGE_SIZE
    hub_name = official.PUBLISHED.get((model, size))
    if hub_name is None:
        raise UserError(
            f"there are no published weights of {model} for {size} pixels: give --ckpt FILE"
        )
    file = Path("pretrained_models") / f"{model.replace('/', '-')}-{size}x{size}.pt"
    if file.is_file():
        say(f"{model}: {file}")
        return file, None
    say(f"{model}: no --ckpt and no {file} here, so {hub_name} from the Hugging Face hub")
    return None, hub_name


def _read_vae(vae):
    """Returns (folder, configuration) of the AutoencoderKL that --vae names."""
    name = official.VAES.get(vae, vae)
    folder = Path(name)
    if not folder.exists():
        folder = _vae_from_hub(name)
    if not (folder / "config.json").exists() and (folder / "vae").is_dir():
        folder = folder / "vae"
    return folder, _vae_config(folder, "config.json")


def _vae_config(folder, file):
    config = _config(folder, file)
    if config.get("_class_name") != "AutoencoderKL":
        raise UserError(
            f"{folder / file} is that of a {config.get('_class_name')}, not of an AutoencoderKL"
        )
    return config


def _pipeline_from_hub(name):
    """Returns the local snapshot of a hub pipeline. Raises UserError if `name` cannot be one or
    cannot be had.
    """
    from diffusers import DiTPipeline

    return _from_hub(
        name, "--model", "a pipeline folder, or an official name and --ckpt", DiTPipeline.download
    )


def _vae_from_hub(name):
    """Returns the local snapshot of a hub VAE, or of a pipeline's. Raises UserError as
    `_pipeline_from_hub`.
    """
    from huggingface_hub import snapshot_download

    files = [
        part + file for part in ("", "vae/") for file in ("config.json", f"{_WEIGHTS}.safetensors")
    ]
    fetch = partial(snapshot_download, allow_patterns=files)
    return _from_hub(name, "--vae", "the folder of an AutoencoderKL", fetch)


def _from_hub(name, flag, instead, download):
    """Returns the folder that `download(name)` fetches into the hub's cache, or finds there."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise UserError(
            f"{flag} {name}: no such folder here, and no name of the Hugging Face hub; give "
            f"{instead}"
        )
    from diffusers.utils import logging

    logging.set_verbosity_error()  # the message below says it all
    try:
        return Path(download(name))
    except (
        Exception
    ) as error:  # the hub's client raises many kinds, for the network and for what it finds there
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(
            f"{flag} {name}: no such folder here, and it cannot be downloaded from the Hugging "
            "Face hub; "
            f"give {instead}, or try again online ({type(error).__name__}: {reason})"
        ) from None


def _config(folder, file):
    """Returns a component's JSON configuration. Raises UserError if it is missing or damaged."""
    path = folder / file
    if not path.is_file():
        kind = "a DiT pipeline" if "/" in file else "an AutoencoderKL"
        raise UserError(f"{folder} is not {kind} folder: {file} is missing")
    return read_json(path, "pipeline configuration")


def _weight_files(path):
    """Returns the weight files that diffusers reads from a component's folder, or the one file that
    is given.
    """
    if path.is_file():
        return [path]
    for suffix in ("safetensors", "bin"):
        index = (
            path / f"{_WEIGHTS}.{suffix}.index.json"
        )  # large models are split into several files
        if index.is_file():
            return sorted(
                path / name for name in set(read_json(index, "weight index")["weight_map"].values())
            )
        if (path / f"{_WEIGHTS}.{suffix}").is_file():
            return [path / f"{_WEIGHTS}.{suffix}"]
    raise UserError(f"{path} holds no weights: {_WEIGHTS}.safetensors is missing")


# Pixels that are decoded together. On a GPU 16 images of 256 px, whose activations take about 4 GiB
# in float32; on a processor one, whose activations stay in its cache: twice as fast as sixteen.
_DECODED_TOGETHER = {"cuda": 16 * 256**2, "cpu": 256**2}


@dataclass(frozen=True)
class Pipeline(PipelineSource):
    """A loaded pipeline: both networks in float32 and eval mode, without gradients."""

    denoiser: nn.Module
    vae: nn.Module
    time_embedding: str

    def predict(self, x, t, labels):
        """Noise and variance channels, (N, 2C, H, W), for latents x (N, C, H, W), timesteps t (N,),
        labels (N,).
        """
        return self.denoiser(x, t, labels)

    @torch.no_grad()
    def decode(self, latents):
        """Turns latents (N, C, H, W) into images (N, 3, image_size, image_size), about [−1, 1]."""
        chunk = max(1, _DECODED_TOGETHER[latents.device.type] // self.image_size**2)
        return torch.cat(
            [
                self.vae.decode(part / self.scaling_factor, return_dict=False)[0]
                for part in latents.split(chunk)
            ]
        )

    def to(self, device):
        """Moves both networks to `device` and returns the pipeline."""
        self.denoiser.to(device)
        self.vae.to(device)
        return self


class Denoiser(nn.Module):
    """A diffusers DiT whose embedding of time and class is computed once a pass, if its blocks hold
    the same one.

    The official model has one embedder; diffusers keeps a copy in every block, computes each of
    them in every pass, and the first once more for the output: in DiT-XL/2 28 × a dozen small
    kernels for nothing, and 300 MB of copies. Once gives the same numbers to the bit. A DiT that
    was trained within diffusers may hold different embedders, which stay.
    """

    def __init__(self, transformer):
        super().__init__()
        blocks = transformer.transformer_blocks
        embedders = [block.norm1.emb for block in blocks]
        self.embedder = (
            embedders[0] if all(_equal(embedders[0], other) for other in embedders[1:]) else None
        )
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
    """Stands where a block would compute the embedding, and is given it, (N, D), in the timestep's
    place.
    """

    def forward(self, timestep, class_labels, hidden_dtype=None):
        return timestep


def _equal(one, other):
    """Whether two modules of a class hold the same weights."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def load_pipeline(pipeline, time_embedding=None):
    """Loads the networks of a pipeline: a PipelineSource, or what `read_pipeline` takes.

    time_embedding: 'official' (frequencies 10000^(−i/128), norm eps 1e-6) or 'diffusers'
    (10000^(−i/127), as built); None takes generator.json's, else 'official'. Returns a Pipeline on
    the CPU. Raises UserError if a weight file is missing, damaged or does not fit its config.
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
    return Pipeline(
        **described, denoiser=Denoiser(transformer), vae=vae, time_embedding=time_embedding
    )


def use_official_embedding(transformer):
    """Gives a diffusers DiT the official code's time frequencies and norm eps, in place (same
    weights, both ways).
    """
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        # The other norms (norm1.norm, norm_out) are built with 1e-6 already; only this one takes
        # norm_eps.
        block.norm3.eps = 1e-6


def operations(source):
    """Returns the floating-point operations of one image in (a pass of the DiT, the decoder),
    weights or not.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    with torch.device("meta"):
        transformer = DiTTransformer2DModel.from_config(source.transformer_config).eval()
        decoder = AutoencoderKL.from_config(source.vae_config).eval().decoder
        x, zero = torch.empty(1, *source.latent_shape), torch.zeros(1, dtype=torch.int64)
    return forward_operations(transformer, x, zero, zero), forward_operations(decoder, x)


def _load_official(source):
    """Returns the diffusers DiT of an official checkpoint; in float32 files no tensor is copied."""
    from diffusers import DiTTransformer2DModel

    state = {
        name: tensor.float()
        for name, tensor in official.read_state(source.transformer_path).items()
    }
    with torch.device("meta"):
        transformer = DiTTransformer2DModel.from_config(source.transformer_config)
    transformer.load_state_dict(official.to_diffusers(state), assign=True)
    transformer.pos_embed.pos_embed = state[
        "pos_embed"
    ]  # the file's own, where diffusers would compute it
    return transformer.eval().requires_grad_(False)


def _load(kind, folder):
    """Loads one component in float32; a `.bin` file is read by diffusers with weights_only."""
    from diffusers.utils import logging

    logging.set_verbosity_error()  # what matters of its warnings is checked below
    try:
        network, report = kind.from_pretrained(
            folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (
        Exception
    ) as error:  # diffusers and safetensors raise many kinds for a damaged or unfitting file
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(
            f"the weights in {folder} are damaged or do not fit its config.json: fetch them again "
            f"({reason})"
        ) from None
    if report["missing_keys"]:
        raise UserError(
            f"the weights in {folder} lack {report['missing_keys'][0]} and "
            f"{len(report['missing_keys']) - 1} more of its config.json: fetch them again"
        )
    return network.eval().requires_grad_(False)
