"""What there is to know of a DiT pipeline before it is loaded, and where its files lie.

A pipeline folder holds `transformer/`, `vae/` and `scheduler/` as diffusers writes them, and may hold `generator.json`,
written by train_dit.py: cfg_channels, time_embedding, grey, class_names, dataset, image_size. An official checkpoint
(models/official_dit.py) is one file of a DiT, and an AutoencoderKL lies elsewhere.
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from helper.errors import UserError
from helper.files import read_json, sha256
from models import official_dit

_SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
             "trained_betas": None}  # fmt: skip
_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class PipelineSource:
    """What a pipeline's files say; no network is built.

    latent_shape: (C, H, W); image_size: pixels a side; schedule: the betas' settings; info: generator.json or {};
    transformer_config, vae_config: what diffusers builds the networks from; transformer_path: the folder of diffusers'
    weights, or an official checkpoint; vae_path: a folder; weights_sha256: of the weight files of both networks. Known
    by its name alone (`named_pipeline`), a pipeline has no paths and no hash.
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
    """Returns the PipelineSource of an official name without any file: shapes, enough to say what sampling costs.

    Raises UserError if the name's patches do not divide the image size.
    """
    architecture = official_dit.from_name(model, image_size, num_classes)
    return _source(f"{model.replace('/', '-')}-{image_size or official_dit.IMAGE_SIZE}", None, architecture.config(),
                   None, official_dit.VAE_CONFIG)


def read_pipeline(model, checkpoint=None, vae=None, image_size=None, num_classes=None, say=print):
    """Reads what there is to know of a pipeline without building it.

    model: a pipeline folder, a hub name, which is downloaded into the hub's cache, or an official name (DiT-XL/2 …),
    whose weights are `checkpoint`, else pretrained_models/DiT-XL-2-256x256.pt, else the hub's: `say` is told which.
    vae: 'ema', 'mse', the folder of an AutoencoderKL or of a pipeline, or a hub name; None takes the pipeline's own,
    and mse for official names. image_size, num_classes: what the caller expects.
    Returns a PipelineSource. Raises UserError if something is missing, is no DiT, or is not what was expected.
    """
    official = str(model) in official_dit.names()
    if checkpoint and not official:
        raise UserError(f"--ckpt is an official checkpoint and --model {model} is not one of its names: give one of "
                        f"{', '.join(official_dit.names())}")
    if official:
        vae = vae or "mse"
        checkpoint, published = (checkpoint, None) if checkpoint else _published(model, image_size, say)
        source = _read_official(model, Path(checkpoint), vae) if checkpoint else _read_folder(published, vae)
    else:
        source = _read_folder(model, vae)
    for flag, asked, there in (("image-size", image_size, source.image_size),
                               ("num-classes", num_classes, source.num_classes)):  # fmt: skip
        if asked and asked != there:
            raise UserError(f"--{flag} {asked}: {source.transformer_path} has {there}: leave the flag out, or give "
                            "another model")
    return source


def _source(name, transformer_path, transformer_config, vae_path, vae_config, schedule=None, info=None):
    """Puts a PipelineSource together. Raises UserError if the VAE's latents are not the transformer's."""
    channels, size = transformer_config.get("in_channels", 4), transformer_config.get("sample_size", 32)
    if vae_config.get("latent_channels", 4) != channels:
        raise UserError(f"{vae_path} has {vae_config.get('latent_channels', 4)} latent channels and the DiT of "
                        f"{transformer_path} takes {channels}: give another --vae")
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
        weights_sha256=sha256(*_weight_files(transformer_path), *_weight_files(vae_path)) if vae_path else "",
    )


def _factor(vae_config):
    """Returns how many pixels of a side an AutoencoderKL turns into one latent cell."""
    return 2 ** (len(vae_config.get("block_out_channels", [64])) - 1)


def _read_folder(path_or_name, vae):
    """Returns the PipelineSource of a diffusers folder or hub name, with another VAE if `vae` is given."""
    folder = Path(path_or_name)
    name = folder.resolve().name
    if not folder.exists():
        folder = _pipeline_from_hub(str(path_or_name))
    transformer = _config(folder, "transformer/config.json")
    vae_path, vae_config = _read_vae(vae) if vae else (folder / "vae", _vae_config(folder, "vae/config.json"))
    scheduler = _config(folder, "scheduler/scheduler_config.json")
    # Before diffusers 0.28 a DiT's class was Transformer2DModel, told from others by its normalisation.
    kind = (transformer.get("_class_name"), transformer.get("norm_type"))
    if kind[0] not in ("DiTTransformer2DModel", "Transformer2DModel") or kind[1] != "ada_norm_zero":
        raise UserError(f"{folder} is not a DiT pipeline: its transformer is a {kind[0]} ({kind[1]})")
    channels = transformer.get("in_channels", 4)
    if transformer.get("out_channels") != 2 * channels:
        raise UserError(f"{folder} predicts no variance (out_channels {transformer.get('out_channels')}, needed "
                        f"{2 * channels}): it cannot be sampled here")
    if scheduler.get("prediction_type", "epsilon") != "epsilon":
        raise UserError(f"{folder} predicts {scheduler['prediction_type']}, not noise: it cannot be sampled here")
    info_file = folder / "generator.json"
    info = read_json(info_file, "generator description") if info_file.exists() else {}
    return _source(name, folder / "transformer", transformer, vae_path, vae_config, scheduler, info)


def _read_official(model, checkpoint, vae):
    """Returns the PipelineSource of an official checkpoint; only its names and shapes are looked at."""
    config = official_dit.check(official_dit.read_state(checkpoint), model, checkpoint).config()
    vae_path, vae_config = _read_vae(vae)
    if _factor(vae_config) != official_dit.VAE_FACTOR:
        raise UserError(f"--vae {vae} makes {_factor(vae_config)} pixels of a latent cell and an official DiT needs "
                        f"{official_dit.VAE_FACTOR}: give mse, ema or the folder of another")
    name = f"{model.replace('/', '-')}-{config['sample_size'] * official_dit.VAE_FACTOR}"
    return _source(name, checkpoint, config, vae_path, vae_config, info={"time_embedding": "official"})


def _published(model, image_size, say):
    """Returns (file, None) or (None, hub name) of an official name's published weights."""
    size = image_size or official_dit.IMAGE_SIZE
    hub_name = official_dit.PUBLISHED.get((model, size))
    if hub_name is None:
        raise UserError(f"there are no published weights of {model} for {size} pixels: give --ckpt FILE")
    file = Path("pretrained_models") / f"{model.replace('/', '-')}-{size}x{size}.pt"
    if file.is_file():
        say(f"{model}: {file}")
        return file, None
    say(f"{model}: no --ckpt and no {file} here, so {hub_name} from the Hugging Face hub")
    return None, hub_name


def _read_vae(vae):
    """Returns (folder, configuration) of the AutoencoderKL that --vae names."""
    name = official_dit.VAES.get(vae, vae)
    folder = Path(name)
    if not folder.exists():
        folder = _vae_from_hub(name)
    if not (folder / "config.json").exists() and (folder / "vae").is_dir():
        folder = folder / "vae"
    return folder, _vae_config(folder, "config.json")


def _vae_config(folder, file):
    config = _config(folder, file)
    if config.get("_class_name") != "AutoencoderKL":
        raise UserError(f"{folder / file} is that of a {config.get('_class_name')}, not of an AutoencoderKL")
    return config


def _pipeline_from_hub(name):
    """Returns the local snapshot of a hub pipeline. Raises UserError if `name` cannot be one or cannot be had."""
    from diffusers import DiTPipeline

    return _from_hub(name, "--model", "a pipeline folder, or an official name and --ckpt", DiTPipeline.download)


def _vae_from_hub(name):
    """Returns the local snapshot of a hub VAE, or of a pipeline's. Raises UserError as `_pipeline_from_hub`."""
    from huggingface_hub import snapshot_download

    files = [part + file for part in ("", "vae/") for file in ("config.json", f"{_WEIGHTS}.safetensors")]
    fetch = partial(snapshot_download, allow_patterns=files)
    return _from_hub(name, "--vae", "the folder of an AutoencoderKL", fetch)


def _from_hub(name, flag, instead, download):
    """Returns the folder that `download(name)` fetches into the hub's cache, or finds there."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise UserError(f"{flag} {name}: no such folder here, and no name of the Hugging Face hub; give {instead}")
    from diffusers.utils import logging

    logging.set_verbosity_error()  # the message below says it all
    try:
        return Path(download(name))
    except Exception as error:  # the hub's client raises many kinds, for the network and for what it finds there
        reason = str(error).strip().split("\n")[0][:160]
        raise UserError(f"{flag} {name}: no such folder here, and it cannot be downloaded from the Hugging Face hub; "
                        f"give {instead}, or try again online ({type(error).__name__}: {reason})") from None


def _config(folder, file):
    """Returns a component's JSON configuration. Raises UserError if it is missing or damaged."""
    path = folder / file
    if not path.is_file():
        kind = "a DiT pipeline" if "/" in file else "an AutoencoderKL"
        raise UserError(f"{folder} is not {kind} folder: {file} is missing")
    return read_json(path, "pipeline configuration")


def _weight_files(path):
    """Returns the weight files that diffusers reads from a component's folder, or the one file that is given."""
    if path.is_file():
        return [path]
    for suffix in ("safetensors", "bin"):
        index = path / f"{_WEIGHTS}.{suffix}.index.json"  # large models are split into several files
        if index.is_file():
            return sorted(path / name for name in set(read_json(index, "weight index")["weight_map"].values()))
        if (path / f"{_WEIGHTS}.{suffix}").is_file():
            return [path / f"{_WEIGHTS}.{suffix}"]
    raise UserError(f"{path} holds no weights: {_WEIGHTS}.safetensors is missing")
