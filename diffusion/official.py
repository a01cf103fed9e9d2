"""The official DiT checkpoints (arXiv 2212.09748): their tensors, and conversion to diffusers.

A file is a state dict, or the training script's dict with the averaged weights under `ema`. Names
and shapes of the tensors, with D width, C latent channels, p patch size, K classes (plus the null
class) and T = (latent size / p)² tokens:

    x_embedder.proj  conv (D, C, p, p)     t_embedder.mlp.0/2  linear (D, 256), (D, D)
    pos_embed  (1, T, D)                   y_embedder.embedding_table  (K + 1, D)
    blocks.N.  attn.qkv, attn.proj, mlp.fc1, mlp.fc2, adaLN_modulation.1
    final_layer.  adaLN_modulation.1 (2D, D): shift, scale;  linear (2Cp², D): noise, variance
"""

import math
import re
from dataclasses import dataclass

from helper import checkpoints
from helper.errors import UserError

SIZES = {  # size: blocks, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
PATCHES = (2, 4, 8)
CLASSES = 1000  # ImageNet
IMAGE_SIZE = 256  # the smaller of the published sizes
CHANNELS = 4  # latent channels of Stable Diffusion's VAE
PUBLISHED = {("DiT-XL/2", 256): "facebook/DiT-XL-2-256", ("DiT-XL/2", 512): "facebook/DiT-XL-2-512"}
VAE_FACTOR = 8  # image size / latent size
VAES = {"mse": "stabilityai/sd-vae-ft-mse", "ema": "stabilityai/sd-vae-ft-ema"}
# Configuration of both VAEs, to estimate costs without their files
VAE_CONFIG = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": CHANNELS,
    "scaling_factor": 0.18215,
}


@dataclass(frozen=True)
class OfficialDiT:
    """A DiT by its official name (DiT-XL/2), for latents (channels, latent_size, latent_size)."""

    name: str
    num_classes: int = CLASSES
    latent_size: int = IMAGE_SIZE // VAE_FACTOR
    channels: int = CHANNELS

    @property
    def _dimensions(self):
        """(blocks, width, heads, patch size)."""
        size, patch = re.fullmatch(r"DiT-(\w+)/(\d)", self.name).groups()
        return *SIZES[size], int(patch)

    def config(self):
        """The configuration of diffusers' DiTTransformer2DModel."""
        depth, width, heads, patch = self._dimensions
        return {
            "num_layers": depth,
            "num_attention_heads": heads,
            "attention_head_dim": width // heads,
            "patch_size": patch,
            "in_channels": self.channels,
            "out_channels": 2 * self.channels,
            "sample_size": self.latent_size,
            "num_embeds_ada_norm": self.num_classes,
        }

    def shapes(self):
        """{official name: shape} of all tensors of a checkpoint."""
        depth, width, _, patch = self._dimensions
        linears = {
            "t_embedder.mlp.0": (width, 256),
            "t_embedder.mlp.2": (width, width),
            "final_layer.adaLN_modulation.1": (2 * width, width),
            "final_layer.linear": (2 * self.channels * patch**2, width),
        }
        for number in range(depth):
            linears |= {
                f"blocks.{number}.{name}": (outputs * width, inputs * width)
                for name, outputs, inputs in (
                    ("attn.qkv", 3, 1),
                    ("attn.proj", 1, 1),
                    ("mlp.fc1", 4, 1),
                    ("mlp.fc2", 1, 4),
                    ("adaLN_modulation.1", 6, 1),
                )
            }
        shapes = {f"{name}.weight": shape for name, shape in linears.items()}
        shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
        return shapes | {
            "x_embedder.proj.weight": (width, self.channels, patch, patch),
            "x_embedder.proj.bias": (width,),
            "pos_embed": (1, (self.latent_size // patch) ** 2, width),
            "y_embedder.embedding_table.weight": (self.num_classes + 1, width),
        }


def names():
    """The twelve official names, DiT-S/2 … DiT-XL/8."""
    return [f"DiT-{size}/{patch}" for size in SIZES for patch in PATCHES]


def from_name(model, image_size=None, num_classes=None):
    """The OfficialDiT of this name for an image size; no file is read.

    Raises UserError if the image size is not divisible into patches.
    """
    image_size, patch = image_size or IMAGE_SIZE, VAE_FACTOR * int(model[-1])
    if image_size % patch:
        raise UserError(f"--image-size {image_size}: {model} needs a multiple of {patch}")
    return OfficialDiT(model, num_classes or CLASSES, image_size // VAE_FACTOR)


def read_state(path):
    """The state dict in an official checkpoint, of the averaged weights if there are any.

    Tensors are memory-mapped where the format allows it. Raises UserError if the file is missing,
    damaged, unsafe, or holds no tensors.
    """
    content = checkpoints.load(path, mmap=True)
    if isinstance(content, dict) and isinstance(content.get("ema"), dict):
        content = content["ema"]
    return checkpoints.state_dict_of(content, path)


def recognise(state, model, path):
    """Checks that a state dict, read from `path`, is that of `model`, or of any official DiT if
    that is None; returns its OfficialDiT.

    Raises UserError if it is not an official DiT, is another one, is incomplete, or does not
    predict the variance.
    """
    try:
        width, channels, patch, _ = state["x_embedder.proj.weight"].shape
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        rows = len(state["y_embedder.embedding_table.weight"])
        tokens = state["pos_embed"].shape[1]
        outputs = len(state["final_layer.linear.weight"]) // patch**2
    except (KeyError, ValueError, IndexError) as error:
        reason = f"its first tensor is {next(iter(state))}"
        if isinstance(error, KeyError):
            reason = f"it lacks {error.args[0]}; {reason}"
        hint = ""
        if "transformer_blocks" in " ".join(state):
            hint = "; diffusers' weights are given as --model FOLDER"
        raise UserError(f"{path} is not an official DiT checkpoint ({reason}){hint}") from None
    size = next((size for size, numbers in SIZES.items() if numbers[:2] == (depth, width)), None)
    name = f"DiT-{size}/{patch}"
    dimensions = f"({depth} blocks of width {width}, patch {patch})"
    if name not in names():
        raise UserError(f"{path} holds a DiT {dimensions}, none of {', '.join(names())}")
    if model and name != model:
        raise UserError(f"{path} holds a {name} {dimensions}, not a {model}: give --model {name}")
    if outputs != 2 * channels:
        raise UserError(
            f"{path} predicts {outputs} channels for {channels} latent channels: only models with "
            "a learned variance (learn_sigma) are supported"
        )
    if rows < 2:
        raise UserError(f"{path} has {rows} class embedding: it is not class-conditional")
    dit = OfficialDiT(name, rows - 1, patch * math.isqrt(tokens), channels)
    expected = dit.shapes()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for key in [*expected, *shapes]:
        if expected.get(key) != shapes.get(key):
            raise UserError(
                f"{path} is not a complete {name}: {key} is {shapes.get(key, 'missing')} and "
                f"should be {expected.get(key, 'absent')}"
            )
    return dit


def to_diffusers(state):
    """Converts an official state dict to that of diffusers' DiTTransformer2DModel.

    Every block gets the embedder of timestep and class, and attn.qkv (3D, D) is split into three.
    No tensor is copied. pos_embed is left out, as in diffusers' own files.
    """
    embedder = {
        f"timestep_embedder.linear_{layer}.{kind}": state[f"t_embedder.mlp.{place}.{kind}"]
        for layer, place in ((1, 0), (2, 2))
        for kind in ("weight", "bias")
    } | {"class_embedder.embedding_table.weight": state["y_embedder.embedding_table.weight"]}
    renamed = {}
    for kind in ("weight", "bias"):
        renamed[f"pos_embed.proj.{kind}"] = state[f"x_embedder.proj.{kind}"]
        renamed[f"proj_out_1.{kind}"] = state[f"final_layer.adaLN_modulation.1.{kind}"]
        renamed[f"proj_out_2.{kind}"] = state[f"final_layer.linear.{kind}"]
    for number in {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}:
        old, new = f"blocks.{number}", f"transformer_blocks.{number}"
        renamed |= {f"{new}.norm1.emb.{name}": tensor for name, tensor in embedder.items()}
        for kind in ("weight", "bias"):
            for part, tensor in zip("qkv", state[f"{old}.attn.qkv.{kind}"].chunk(3), strict=True):
                renamed[f"{new}.attn1.to_{part}.{kind}"] = tensor
            renamed[f"{new}.attn1.to_out.0.{kind}"] = state[f"{old}.attn.proj.{kind}"]
            renamed[f"{new}.ff.net.0.proj.{kind}"] = state[f"{old}.mlp.fc1.{kind}"]
            renamed[f"{new}.ff.net.2.{kind}"] = state[f"{old}.mlp.fc2.{kind}"]
            renamed[f"{new}.norm1.linear.{kind}"] = state[f"{old}.adaLN_modulation.1.{kind}"]
    return renamed
