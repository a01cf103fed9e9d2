"""DiT pipelines: a transformer and a VAE, from a diffusers folder or an official checkpoint.

`read_pipeline` reads the configuration, `load_pipeline` the networks.
"""

import math
import operator
import re
from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from diffusion import official
from diffusion.sampler import Sampler, batch_noise
from diffusion.schedule import DEFAULT_SCHEDULE
from helper.batches import default_batch_size, padded_batches
from helper.checkpoints import ENDINGS, PRETRAINED_MODELS, check_finite
from helper.cost import forward_operations
from helper.device import autocast
from helper.distributed import fixed_kernels
from helper.errors import UserError
from helper.files import entry, read_json, sha256

WEIGHTS = "diffusion_pytorch_model"  # diffusers' name of weight files, without the suffix

# Pixels that are decoded together. On a GPU 16 images of 256 px, whose activations take about 4 GiB
# in float32. On a CPU one such image, whose activations fit its cache: twice as fast as 16.
DECODED_PIXELS = {"cuda": 16 * 256**2, "cpu": 256**2}

TIME_EMBEDDINGS = ("official", "diffusers")
PRECISIONS = ("fp32", "bf16")

# Settings of diffusers that change the images and that the samplers and `decode` do not have. The
# spacing and the solver of a pipeline's scheduler do not matter: --sampler brings its own.
UNSUPPORTED = {
    "scheduler": (
        *("clip_sample", "thresholding", "rescale_betas_zero_snr", "use_flow_sigmas"),
        *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    ),
    "vae": ("shift_factor", "latents_mean", "latents_std"),
}
DIT_SIZES = (  # in transformer/config.json
    *("num_layers", "num_attention_heads", "attention_head_dim", "patch_size"),
    *("in_channels", "sample_size", "num_embeds_ada_norm"),
)


@dataclass(frozen=True)
class PipelineDescription:
    """The configuration of a pipeline, without its networks.

    latent_shape: (C, H, W). image_size: pixels. schedule: the settings of DEFAULT_SCHEDULE.
    info: generator.json, or {}. transformer_config, vae_config: diffusers' configurations.
    transformer_path: a folder of diffusers' weights or an official checkpoint. vae_path: a folder.
    weights_sha256: of the weight files of both networks.
    null_class: whether the last row of the label table is the null class, which guidance needs.

    `named_pipeline` describes pipelines without files: the paths are None and the hash is empty.
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
    null_class: bool = True

    @property
    def grey(self):
        """Whether the images are grey: the channels are averaged."""
        return bool(self.info.get("grey", False))

    def guided_channels(self, scale, cfg_channels=None):
        """The number of guided latent channels: by default that in generator.json, else 3.

        Raises UserError if the model lacks a null class for guidance, or so many channels.
        """
        if scale != 1 and not self.null_class:
            raise UserError(
                f"--cfg-scale {scale:g}: with --num-classes {self.num_classes} the "
                f"{self.num_classes} label embeddings of {self.transformer_path} are all classes, "
                "and guidance needs a null class: give --cfg-scale 1, or correct --num-classes"
            )
        cfg_channels = cfg_channels or self.info.get("cfg_channels", 3)
        if cfg_channels > self.latent_shape[0]:
            raise UserError(
                f"--cfg-channels {cfg_channels}: {self.transformer_path or self.name} has "
                f"{self.latent_shape[0]} latent channels"
            )
        return cfg_channels


@dataclass(frozen=True, kw_only=True)
class Pipeline(PipelineDescription):
    """A loaded pipeline: both networks in eval mode, without gradients.

    pipeline = load_pipeline("save/models/fashion_mnist/DiT-6x160-2")
    images = pipeline.sample(classes=range(8), scale=1.5, steps=50)  # (8, 3, 32, 32) in [0, 1]
    """

    denoiser: nn.Module
    vae: nn.Module
    time_embedding: str

    def predict(self, x, t, labels):
        """Noise and variance channels (N, 2C, H, W) for latents x (N, C, H, W), timesteps t (N,)
        and labels (N,).
        """
        return self.denoiser(x, t, labels)

    @torch.no_grad()
    def decode(self, latents):
        """Decodes latents (N, C, H, W) to images (N, 3, image_size, image_size), about [−1, 1]."""
        batch_size = max(1, DECODED_PIXELS[latents.device.type] // self.image_size**2)
        images = [
            self.vae.decode(part / self.scaling_factor, return_dict=False)[0]
            for part in latents.split(batch_size)
        ]
        return torch.cat(images)

    def sample_batch(self, batch, noise, sampler, scale, cfg_channels):
        """Samples and decodes images (N, 3, image_size, image_size), about [−1, 1].

        batch: N pairs (class, index); noise: that of `batch_noise`, on any device; sampler: a
        Sampler; scale, cfg_channels: guidance.
        """
        device = self.device
        noise = noise.to(device, non_blocking=True)  # (1 + noise steps, N, C, H, W)
        labels = torch.tensor([label for label, _ in batch]).to(device)
        null_label = self.num_classes
        latents = sampler.sample(self.predict, noise, labels, null_label, scale, cfg_channels)
        return self.decode(latents)

    def sample(
        self,
        classes,
        scale=2.0,
        steps=100,
        seed=0,
        sampler="ddpm",
        batch_size=None,
        cfg_channels=None,
        tf32=True,
        **options,
    ):
        """Samples an image of each entry of `classes`: float32 (N, 3, image_size, image_size) in
        [0, 1] on the device of the networks.

        Rounded to 8 bits, they are the files of synthesize_dit.py with the same flags, from which
        the defaults are. An image has the index that counts the earlier entries of its class:
        classes=[3, 7, 3] are 0003/00000.png, 0007/00000.png and 0003/00001.png.

        options: `spacing` and `interval` of the Sampler. Raises UserError if an argument is out of
        its range, or an image has values that are not finite.
        """
        items, counts = [], Counter()
        for label in map(operator.index, classes):
            if not 0 <= label < self.num_classes:
                raise UserError(
                    f"classes: {label}: {self.name} has classes 0 to {self.num_classes - 1}"
                )
            items.append((label, counts[label]))
            counts[label] += 1
        batch_size = batch_size or default_batch_size(self.image_size, self.device)
        for name, value, minimum in (
            ("number of classes", len(items), 1),
            ("scale", scale, 0),
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
        ):
            if not minimum <= value < math.inf:
                raise UserError(f"{name} {value}: expected at least {minimum}")
        cfg_channels = self.guided_channels(scale, cfg_channels)
        sampler = Sampler(sampler, steps, self.schedule, **options)

        images = {}
        with fixed_kernels(tf32):
            # In the order of synthesize_dit.py: by index, then by class
            for batch in padded_batches(sorted(items, key=lambda item: item[::-1]), batch_size):
                noise = batch_noise(seed, batch, self.latent_shape, sampler.noise_steps)
                sampled = self.sample_batch(batch, noise, sampler, scale, cfg_channels)
                if self.grey:
                    sampled = sampled.mean(dim=1, keepdim=True).expand_as(sampled)
                images |= zip(batch, sampled)
        images = torch.stack([images[item] for item in items])
        if not images.isfinite().all():
            raise UserError(
                f"{self.name}: an image has values that are not finite: use a lower scale, or "
                "check the weights"
            )
        return (images / 2 + 0.5).clamp(0, 1)

    @property
    def device(self):
        return next(self.vae.parameters()).device

    def to(self, device):
        """Moves both networks to `device` and returns the pipeline."""
        self.denoiser.to(device)
        self.vae.to(device)
        return self


# Reading the configuration


def named_pipeline(model, image_size=None, num_classes=None):
    """Describes the pipeline of an official name without files, to estimate the cost of sampling.

    Raises UserError if the image size is not divisible into patches.
    """
    dit = official.from_name(model, image_size, num_classes)
    name = f"{model.replace('/', '-')}-{image_size or official.IMAGE_SIZE}"
    return _describe(name, (None, dit.config()), (None, official.VAE_CONFIG))


def read_pipeline(model, checkpoint=None, vae=None, image_size=None, num_classes=None, say=print):
    """Reads the PipelineDescription of a pipeline.

    model: a pipeline folder, a name on the Hugging Face hub, or an official name (DiT-XL/2). The
    weights of an official name are `checkpoint`, or pretrained_models/DiT-XL-2-256x256.pt, or those
    on the hub; `say` prints which.
    vae: 'ema', 'mse', the folder of an AutoencoderKL or a pipeline, or a name on the hub; by
    default the pipeline's own, or 'mse' for official names.
    image_size, num_classes: expected values. An official checkpoint with `num_classes` rows in its
    label table, and not one more, has no null class.

    Raises UserError if files are missing or damaged, or are not those of a DiT with the expected
    values.
    """
    if not Path(model).exists():
        _refuse_sit(str(model))
    is_official = str(model) in official.names()
    if checkpoint and not is_official:
        raise UserError(
            f"--ckpt is an official checkpoint and --model {model} is not one of its names: give "
            f"one of {', '.join(official.names())}"
        )
    if is_official:
        vae = vae or "mse"
        if not checkpoint:
            checkpoint, model = _find_official_weights(model, image_size, say)
    if checkpoint:
        pipeline = _read_official(model, Path(checkpoint), vae)
    else:
        pipeline = _read_folder(model, vae)
    rows = pipeline.num_classes + 1  # of the label table, with the null class
    if checkpoint and num_classes == rows:
        pipeline = replace(pipeline, num_classes=rows, null_class=False)
    elif checkpoint and not num_classes and rows != official.CLASSES + 1:
        say(
            f"note: {checkpoint} has {rows} label embeddings, read as {rows - 1} classes and the "
            f"null class of guidance; if it was trained without label dropout, all {rows} are "
            f"classes: give --num-classes {rows} and --cfg-scale 1"
        )
    for flag, expected, actual in (
        ("image-size", image_size, pipeline.image_size),
        ("num-classes", num_classes, pipeline.num_classes),
    ):
        if expected and expected != actual:
            raise UserError(
                f"--{flag} {expected}: {pipeline.transformer_path} has {actual}: omit the flag or "
                "choose another model"
            )
    return pipeline


def read_initial(path, vae=None):
    """Reads the PipelineDescription of a pipeline to fine-tune.

    path: an official checkpoint, a pipeline folder, or a name on the hub; vae: as in
    `read_pipeline`. Raises UserError as that, or if the model has another noise schedule than
    train_dit.py trains with.
    """
    path = Path(path)
    if path.is_file() or path.suffix in ENDINGS:
        pipeline = _read_official(None, path, vae or "mse")
    else:
        pipeline = _read_folder(path, vae, flag="--init")
    for key, usual in DEFAULT_SCHEDULE.items():
        if (value := pipeline.schedule.get(key, usual)) != usual:
            raise UserError(
                f"--init {path}: {key} of its noise schedule is {value}, and train_dit.py trains "
                f"with {usual}: give another model"
            )
    return pipeline


def _read_folder(path_or_name, vae, flag="--model"):
    """The description of a diffusers folder or hub name; `vae` replaces its VAE if not None.

    flag: that the message names.
    """
    folder = Path(path_or_name)
    name = folder.resolve().name
    if not folder.exists():
        folder = _download_pipeline(str(path_or_name), flag)
    config = _read_dit_config(folder)
    vae_path = _find_vae(vae) if vae else folder / "vae"
    vae_config = _read_vae_config(vae_path) if vae else _read_vae_config(folder, "vae/config.json")
    if vae and (folder / "vae/config.json").is_file():
        _check_vae(vae, vae_config, _read_vae_config(folder, "vae/config.json"))
    schedule = _read_schedule(folder)
    info = _read_info(folder, config.get("num_embeds_ada_norm", 1000))
    transformer, vae = (folder / "transformer", config), (vae_path, vae_config)
    return _describe(name, transformer, vae, schedule, info)


def _refuse_sit(name):
    """Raises UserError for the name of a SiT, whose tensors are those of a DiT."""
    if re.match(r"sit[-_.]", name, re.IGNORECASE):
        raise UserError(
            f"{name} is named like a SiT, which predicts a velocity, and a network that predicts "
            "the noise is needed: give a DiT"
        )


def _read_official(model, checkpoint, vae):
    """The description of an official checkpoint. Only names and shapes of its tensors are read."""
    _refuse_sit(Path(checkpoint).name)
    dit = official.recognise(official.read_state(checkpoint), model, checkpoint)
    config = dit.config()
    vae_path = _find_vae(vae)
    vae_config = _read_vae_config(vae_path)
    _check_vae(vae, vae_config, official.VAE_CONFIG)
    name = f"{dit.name.replace('/', '-')}-{config['sample_size'] * official.VAE_FACTOR}"
    info = {"time_embedding": "official"}
    return _describe(name, (checkpoint, config), (vae_path, vae_config), info=info)


def _check_vae(vae, config, trained_with):
    """Raises UserError if the latents of `--vae` are others than the DiT was trained on.

    config, trained_with: configurations of AutoencoderKLs.
    """
    for what, value_of in (
        ("pixels per latent cell", _vae_factor),
        ("as its scaling factor", lambda config: config.get("scaling_factor", 0.18215)),
    ):
        value, needed = value_of(config), value_of(trained_with)
        if value != needed:
            raise UserError(
                f"--vae {vae} has {value:g} {what}, and the DiT was trained with {needed:g}: give "
                "another, or omit the flag"
            )


def _describe(name, transformer, vae, schedule=None, info=None):
    """Builds a PipelineDescription.

    transformer, vae: (path, configuration); the paths are None for a pipeline without files.
    Raises UserError if the VAE and the transformer differ in their latent channels.
    """
    (transformer_path, transformer_config), (vae_path, vae_config) = transformer, vae
    channels = transformer_config.get("in_channels", 4)
    latent_size = transformer_config.get("sample_size", 32)
    vae_channels = vae_config.get("latent_channels", 4)
    if vae_channels != channels:
        raise UserError(
            f"{vae_path} has {vae_channels} latent channels and the DiT of {transformer_path} "
            f"takes {channels}: give another --vae"
        )
    files = [*_weight_files(transformer_path), *_weight_files(vae_path)] if vae_path else []
    return PipelineDescription(
        name=name,
        num_classes=transformer_config.get("num_embeds_ada_norm", 1000),
        latent_shape=(channels, latent_size, latent_size),
        image_size=latent_size * _vae_factor(vae_config),
        scaling_factor=vae_config.get("scaling_factor", 0.18215),
        schedule={
            key: (schedule or {}).get(key, default) for key, default in DEFAULT_SCHEDULE.items()
        },
        info=info or {},
        transformer_config=transformer_config,
        vae_config=vae_config,
        transformer_path=transformer_path,
        vae_path=vae_path,
        weights_sha256=sha256(*files) if files else "",
    )


def _read_config(folder, file):
    """Reads the JSON configuration of a component. Raises UserError if it is missing or damaged."""
    path = folder / file
    if not path.is_file():
        kind = "a DiT pipeline" if "/" in file else "an AutoencoderKL"
        raise UserError(f"{folder} is not {kind} folder: {file} is missing")
    if path.read_bytes()[:2] in (b"\xef\xbb", b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} begins with a byte-order mark: save it as UTF-8 without one")
    return read_json(path, "pipeline configuration")


def _read_dit_config(folder):
    """Reads and checks transformer/config.json."""
    path = folder / "transformer/config.json"
    config = _read_config(folder, "transformer/config.json")
    # Before diffusers 0.28 DiT's class was Transformer2DModel, with this normalisation.
    kind, norm = config.get("_class_name"), config.get("norm_type")
    if kind not in ("DiTTransformer2DModel", "Transformer2DModel") or norm != "ada_norm_zero":
        raise UserError(f"{folder} is not a DiT pipeline: its transformer is a {kind} ({norm})")
    for key in DIT_SIZES:
        entry(config, key, int, path, None, minimum=1)
    size, patch = config.get("sample_size", 32), config.get("patch_size", 2)
    if size % patch:
        raise UserError(f"{path}: sample_size {size} is not a multiple of patch_size {patch}")
    channels, outputs = config.get("in_channels", 4), config.get("out_channels")
    if outputs != 2 * channels:
        raise UserError(
            f"{folder} does not predict the variance (out_channels is {outputs}, not "
            f"{2 * channels}): only models with a learned variance are supported"
        )
    return config


def _read_vae_config(folder, file="config.json"):
    """Reads and checks the configuration of an AutoencoderKL."""
    path, config = folder / file, _read_config(folder, file)
    kind = config.get("_class_name")
    if kind != "AutoencoderKL":
        raise UserError(f"{path} is that of a {kind}, not of an AutoencoderKL")
    entry(config, "latent_channels", int, path, None, minimum=1)
    entry(config, "scaling_factor", float, path, None, minimum=1e-6)
    entry(config, "block_out_channels", list, path, None)
    if (channels := config.get("out_channels", 3)) != 3:
        raise UserError(f"{path}: out_channels is {channels}: only RGB images (3) are supported")
    _refuse_unsupported(config, "vae", path)
    return config


def _read_schedule(folder):
    """Reads and checks scheduler/scheduler_config.json."""
    path = folder / "scheduler/scheduler_config.json"
    schedule = _read_config(folder, "scheduler/scheduler_config.json")
    prediction = schedule.get("prediction_type", "epsilon")
    if prediction != "epsilon" or ("_class_name" in schedule and "beta_start" not in schedule):
        kind = schedule.get("_class_name")
        raise UserError(
            f"{path}: prediction_type is {prediction} of a {kind}: only models that predict the "
            "noise (epsilon) of a schedule of betas are supported"
        )
    _refuse_unsupported(schedule, "scheduler", path)
    steps = entry(schedule, "num_train_timesteps", int, path, 1000, minimum=1)
    entry(schedule, "beta_schedule", str, path, None)
    betas = entry(schedule, "trained_betas", list | None, path, None)
    if betas is not None and len(betas) != steps:
        raise UserError(f"{path}: trained_betas has {len(betas)} values for {steps} timesteps")
    used = {f"trained_betas[{number}]": beta for number, beta in enumerate(betas or [])}
    for key in used or ("beta_start", "beta_end"):
        if entry(used or schedule, key, float, path, 0.01, minimum=1e-9) >= 1:
            raise UserError(f"{path}: {key} must be below 1")
    return schedule


def _read_info(folder, num_classes):
    """Reads and checks generator.json, which pipelines of other programs do not have: {} then."""
    path = folder / "generator.json"
    if not path.exists():
        return {}
    info = read_json(path, "generator description")
    entry(info, "cfg_channels", int, path, None, minimum=1)
    entry(info, "grey", bool, path, None)
    if info.get("time_embedding", "official") not in TIME_EMBEDDINGS:
        raise UserError(
            f"{path}: time_embedding is {info['time_embedding']}: expected one of "
            f"{', '.join(TIME_EMBEDDINGS)}"
        )
    names = entry(info, "class_names", list | None, path, None)
    if names and not (len(names) == num_classes and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path}: class_names must be {num_classes} texts, one per class")
    return info


def _refuse_unsupported(config, component, path):
    """Raises UserError if a setting of UNSUPPORTED is on; null, false and 0 are off."""
    for key in UNSUPPORTED[component]:
        if config.get(key):
            raise UserError(
                f"{path}: {key} {config[key]} is not supported, and images without it would be "
                "others: use another model, or remove the entry if the model was trained without it"
            )


def _vae_factor(vae_config):
    """Image size / latent size of an AutoencoderKL."""
    return 2 ** (len(vae_config.get("block_out_channels", [64])) - 1)


def _weight_files(path):
    """The weight files that diffusers reads from the folder `path`, or `path` if it is a file."""
    return [path] if path.is_file() else _find_weights(path)[1]


def _find_weights(folder):
    """(variant, files) of the weights in the folder of a network of diffusers.

    variant: None, or the word in diffusion_pytorch_model.fp16.safetensors (fp16) if there are no
    weights without. Raises UserError if there are no weights, several variants, or parts missing.
    """
    suffixes = ("safetensors", "bin")
    names = (
        path.name
        for suffix in suffixes
        for pattern in (f"{WEIGHTS}.*.{suffix}", f"{WEIGHTS}.{suffix}.index.*.json")
        for path in folder.glob(pattern)
    )
    variants = sorted({name.split(".")[-2].partition("-")[0] for name in names})
    for variant in (None, *variants):
        word = f".{variant}" if variant else ""
        for suffix in suffixes:
            # Large models are saved in several files
            index = folder / f"{WEIGHTS}.{suffix}.index{word}.json"
            files = [folder / f"{WEIGHTS}{word}.{suffix}"]
            if index.is_file():
                parts = entry(read_json(index, "weight index"), "weight_map", dict, index).values()
                files = sorted({folder / str(name) for name in parts})
                if missing := [file for file in files if not file.is_file()]:
                    raise UserError(f"{missing[0]} is missing, a part that {index} names")
            if not all(file.is_file() for file in files):
                continue
            if variant and len(variants) > 1:
                raise UserError(
                    f"{folder} holds its weights in several variants ({', '.join(variants)}): "
                    f"rename the one to use to {WEIGHTS}.{suffix}"
                )
            return variant, files
    raise UserError(f"{folder} holds no weights: {WEIGHTS}.safetensors is missing")


# Finding and downloading files


def _find_official_weights(model, image_size, say):
    """The published weights of an official name: (local checkpoint, model) or (None, hub name)."""
    size = image_size or official.IMAGE_SIZE
    hub_name = official.PUBLISHED.get((model, size))
    if hub_name is None:
        raise UserError(
            f"there are no published weights of {model} for {size} pixels: give --ckpt FILE"
        )
    file = PRETRAINED_MODELS / f"{model.replace('/', '-')}-{size}x{size}.pt"
    if file.is_file():
        say(f"{model}: {file}")
        return file, model
    say(f"{model}: neither --ckpt nor {file} found, using {hub_name} from the Hugging Face hub")
    return None, hub_name


def _find_vae(vae):
    """The folder of the AutoencoderKL that --vae names."""
    name = official.VAES.get(vae, vae)
    folder = Path(name)
    if folder.is_file():
        raise UserError(f"--vae {vae} is a file: give mse, ema or the folder of an AutoencoderKL")
    if not folder.exists():
        folder = _download_vae(name)
    if not (folder / "config.json").exists() and (folder / "vae").is_dir():
        return folder / "vae"
    return folder


def _download_pipeline(name, flag):
    from diffusers import DiTPipeline

    instead = {
        "--model": "a pipeline folder, or an official name and --ckpt",
        "--init": "a pipeline folder, or an official checkpoint",
    }[flag]
    return _download(name, flag, instead, DiTPipeline.download)


def _download_vae(name):
    from huggingface_hub import snapshot_download

    files = ["config.json", f"{WEIGHTS}.safetensors"]
    patterns = [*files, *(f"vae/{file}" for file in files)]  # of a VAE, or of a pipeline's
    fetch = partial(snapshot_download, allow_patterns=patterns)
    return _download(name, "--vae", "the folder of an AutoencoderKL", fetch)


def _download(name, flag, instead, fetch):
    """Downloads `name` with `fetch` into the hub's cache, or finds it there; returns the folder.

    Raises UserError if `name` cannot be a name on the hub, or the download fails.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise UserError(
            f"{flag} {name}: no such folder here, and not a name on the Hugging Face hub; give "
            f"{instead}"
        )
    from diffusers.utils import logging

    logging.set_verbosity_error()  # the message below is enough
    try:
        return Path(fetch(name))
    except Exception as error:  # the hub's client raises many types
        raise UserError(
            f"{flag} {name}: no such folder here, and it cannot be downloaded from the Hugging "
            f"Face hub; give {instead}, or try again online ({type(error).__name__}: "
            f"{_first_line(error)})"
        ) from None


def _first_line(error):
    first, *others = str(error).strip().split("\n")
    if first.endswith(":"):  # the reason is in the next line
        first = " ".join([first, *others[:1]]).replace("\t", "")
    return first[:240]


# Loading the networks


def load_pipeline(pipeline, time_embedding=None, precision="fp32"):
    """Loads a Pipeline, on the CPU, from its PipelineDescription or what `read_pipeline` takes.

    precision: 'bf16' is `use_bf16_blocks`, as with --precision bf16.
    time_embedding: 'official' (frequencies 10000^(−i/128), norm eps 1e-6) or 'diffusers'
    (10000^(−i/127), as built); by default that in generator.json, or else 'official'. Raises
    UserError if a weight file is missing, damaged, does not fit its configuration, or holds numbers
    that are not finite.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    if not isinstance(pipeline, PipelineDescription):
        pipeline = read_pipeline(pipeline)
    time_embedding = time_embedding or pipeline.info.get("time_embedding") or "official"
    if pipeline.transformer_path.is_dir():
        transformer = load_component(DiTTransformer2DModel, pipeline.transformer_path)
    else:
        transformer = _load_official(pipeline)
    norm_eps = pipeline.transformer_config.get("norm_eps", 1e-5)
    if time_embedding == "official" and norm_eps not in (1e-5, 1e-6):  # diffusers', the official
        raise UserError(
            f"{pipeline.transformer_path}: norm_eps {norm_eps} in config.json is not the official "
            "DiT's, 1e-6: give --time_embedding diffusers"
        )
    if time_embedding == "official":
        use_official_embedding(transformer)
    vae = load_component(AutoencoderKL, pipeline.vae_path)
    denoiser = Denoiser(transformer)
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision}: expected one of {', '.join(PRECISIONS)}")
    if precision == "bf16":
        use_bf16_blocks(denoiser)
    return Pipeline(
        **{field.name: getattr(pipeline, field.name) for field in fields(PipelineDescription)},
        denoiser=denoiser,
        vae=vae.to(memory_format=torch.channels_last),
        time_embedding=time_embedding,
    )


def load_component(kind, folder):
    """Loads a network of diffusers in float32. Unsafe `.bin` files are refused by diffusers.

    Raises UserError if the weights are missing, damaged, or not finite.
    """
    from diffusers.utils import logging

    logging.set_verbosity(logging.CRITICAL)  # what matters is checked below
    variant, _ = _find_weights(folder)
    try:
        network, report = kind.from_pretrained(
            folder,
            variant=variant,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers and safetensors raise many types for damaged files
        raise UserError(
            f"the weights in {folder} are damaged or do not fit its config.json: download them "
            f"again ({_first_line(error)})"
        ) from None
    if report["missing_keys"]:
        raise UserError(
            f"the weights in {folder} lack {report['missing_keys'][0]} and "
            f"{len(report['missing_keys']) - 1} more of its config.json: download them again"
        )
    # Not counted: older names of attention layers, which diffusers converts, and fixed embeddings
    unused = [
        key
        for key in report["unexpected_keys"]
        if ".attentions." not in key and "pos_embed" not in key
    ]
    if unused:
        raise UserError(
            f"the weights in {folder} hold {unused[0]} and {len(unused) - 1} more that its "
            "config.json does not describe: it is that of another model: download both again"
        )
    check_finite(network.state_dict(), folder)
    return network.eval().requires_grad_(False)


def _load_official(pipeline):
    """Loads an official checkpoint as diffusers' DiT; float32 tensors are not copied."""
    from diffusers import DiTTransformer2DModel

    state = official.read_state(pipeline.transformer_path)
    state = {name: tensor.float() for name, tensor in state.items()}
    with torch.device("meta"):
        transformer = DiTTransformer2DModel.from_config(pipeline.transformer_config)
    transformer.load_state_dict(official.to_diffusers(state), assign=True)
    transformer.pos_embed.pos_embed = state["pos_embed"]  # diffusers would compute it
    check_finite(state, pipeline.transformer_path)
    return transformer.eval().requires_grad_(False)


def use_official_embedding(transformer):
    """Gives diffusers' DiT the official time frequencies and norm eps, in place; the weights are
    the same.
    """
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        # The other norms (norm1.norm, norm_out) have eps 1e-6 already.
        block.norm3.eps = 1e-6


class Denoiser(nn.Module):
    """diffusers' DiT with the embedding of timestep and class computed once per pass.

    The official model has one embedder. diffusers keeps a copy in every block and computes each of
    them, and the first once more for the output: for DiT-XL/2 that is 28 times a dozen small
    kernels, and 300 MB of copies. The output is bit-identical. The embedders of a DiT that was
    trained with diffusers may differ; then they are kept.
    """

    def __init__(self, transformer):
        super().__init__()
        blocks = transformer.transformer_blocks
        embedder, *others = [block.norm1.emb for block in blocks]
        self.embedder = None
        if all(_equal_weights(embedder, other) for other in others):
            self.embedder = embedder
            for block in blocks:
                block.norm1.emb = _ReadyEmbedding()
        self.transformer = transformer

    def forward(self, x, t, labels):
        """x (N, C, H, W), t (N,), labels (N,) → (N, 2C, H, W)."""
        if self.embedder is not None:
            t, labels = self.embedder(t, labels, hidden_dtype=x.dtype), None
        return self.transformer(x, timestep=t, class_labels=labels, return_dict=False)[0]


class Bf16(nn.Module):
    """Runs a module with weights in bf16 on float32 tensors."""

    def __init__(self, module):
        super().__init__()
        self.module = module.bfloat16()

    def forward(self, x, **options):
        return self.module(x.bfloat16(), **options).float()


class Autocast(nn.Module):
    """Runs a denoiser under autocast to bf16, which older folders were generated with."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x, t, labels):
        with autocast("bf16", x.device):
            return self.denoiser(x, t, labels)


def use_bf16_blocks(denoiser):
    """Gives the attention and the MLP of every block of a Denoiser weights in bf16, in place.

    Nearly all operations are theirs. The residual stream, the norms and the embeddings stay in
    float32, which keeps the output closer to float32 than autocast does.
    """
    for block in denoiser.transformer.transformer_blocks:
        block.attn1, block.ff = Bf16(block.attn1), Bf16(block.ff)


class _ReadyEmbedding(nn.Module):
    """Replaces a block's embedder; it receives the embedding (N, D) as its timestep."""

    def forward(self, timestep, class_labels, hidden_dtype=None):
        return timestep


def _equal_weights(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def operations(pipeline):
    """Floating-point operations per image of (a pass of the DiT, the decoder), without weights.

    Raises UserError if a configuration is not that of a network that runs.
    """
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    path = pipeline.transformer_path
    try:
        with torch.device("meta"):
            x, zero = torch.empty(1, *pipeline.latent_shape), torch.zeros(1, dtype=torch.int64)
            transformer = DiTTransformer2DModel.from_config(pipeline.transformer_config).eval()
        transformer_operations = forward_operations(transformer, x, zero, zero)
        path = pipeline.vae_path
        with torch.device("meta"):
            decoder = AutoencoderKL.from_config(pipeline.vae_config).eval().decoder
        return transformer_operations, forward_operations(decoder, x)
    except Exception as error:  # diffusers and torch raise many types for wrong sizes
        raise UserError(
            f"the configuration in {path} does not fit together ({_first_line(error)}): download "
            "it again"
        ) from None
