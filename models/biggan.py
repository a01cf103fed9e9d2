"""The generator of BigGAN-deep (arXiv 1809.11096, appendix B, tables 7 to 9) with the published
PyTorch weights.

A published folder holds config.json and pytorch_model.bin. The weights are converted for sampling
when they are loaded: each weight W trained with spectral normalisation becomes W / σ, and only the
three RGB channels of the last convolution are kept (the published one computes `width` channels).
Truncation t scales the noise and selects the BatchNorm statistics, which are stored for t = 0,
0.02, …, 1.
"""

import math
import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import nn

from helper import checkpoints
from helper.errors import UserError
from helper.files import entry, make_folder, read_json, sha256
from helper.seeds import image_generator

PUBLISHED = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512")
CONFIG, WEIGHTS = "config.json", ("pytorch_model.bin", "model.safetensors")
_URL = "https://s3.amazonaws.com/models.huggingface.co/biggan/{name}-{file}"

FIRST_SIZE = 4  # pixels of the first features
FIRST_WIDTH = 16  # their channels, in units of `width`
BOTTLENECK = 4  # the inner convolutions of a block have 1/4 of its channels
NOISE_BOUND = 2.0  # the normal distribution is truncated here before it is scaled
_RGB = "generator.conv_to_rgb"


@dataclass(frozen=True)
class Config:
    """The content of config.json.

    layers: (upsample, c_in, c_out) of each block, channels in units of `width`; attention: number
    of blocks before the attention; eps: of BatchNorm; stats: number of BatchNorm statistics, for
    truncations from 0 to 1.
    """

    image_size: int
    z_dim: int
    class_dim: int
    width: int
    num_classes: int
    layers: tuple
    attention: int
    eps: float
    stats: int

    @property
    def condition(self):
        """Length of the input of every block: noise and class embedding."""
        return self.z_dim + self.class_dim


# Field: (name in config.json, type)
_FIELDS = {
    "image_size": ("output_dim", int),
    "z_dim": ("z_dim", int),
    "class_dim": ("class_embed_dim", int),
    "width": ("channel_width", int),
    "num_classes": ("num_classes", int),
    "layers": ("layers", list),
    "attention": ("attention_layer_position", int),
    "eps": ("eps", float),
    "stats": ("n_stats", int),
}


def read_config(path):
    """Reads the Config of a config.json.

    Raises UserError if it is missing or damaged, or if its layers do not lead from 16 · width
    channels of 4 × 4 pixels to `width` channels of output_dim pixels.
    """
    content = read_json(path, "BigGAN configuration")
    values = {field: entry(content, name, kind, path) for field, (name, kind) in _FIELDS.items()}
    try:
        config = Config(**{**values, "layers": tuple(values["layers"])})
        ups, inputs, outputs = zip(*config.layers, strict=True)
        if min(inputs + outputs) < 1:
            raise ValueError("its layers have no channels")
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not a BigGAN configuration: {error}") from None
    if (FIRST_WIDTH, *outputs) != (*inputs, 1) or any(
        out > into for into, out in zip(inputs, outputs, strict=True)
    ):
        raise UserError(
            f"{path}: layers must lead from {FIRST_WIDTH} channels to 1 and must not add channels"
        )
    if not 0 <= config.attention < len(inputs):
        raise UserError(
            f"{path}: attention_layer_position {config.attention} is not in 0 to "
            f"{len(inputs) - 1}, its layers"
        )
    size = FIRST_SIZE * 2 ** sum(map(bool, ups))
    if size != config.image_size:
        raise UserError(
            f"{path}: its layers generate {size} pixels, but output_dim is {config.image_size}"
        )
    return config


def at_truncation(table, truncation):
    """The row (C,) of `table` (rows, C) for a truncation in [0, 1], linearly interpolated.

    The published code swaps the weights of the two rows. The statistics agree on the rows (such as
    0.4, 0.5 and 1) and midway between them.
    """
    position = truncation * (len(table) - 1)
    row = int(position)
    return torch.lerp(table[row], table[min(row + 1, len(table) - 1)], position - row)


class Norm(nn.Module):
    """BatchNorm with statistics for each truncation; subclasses provide gain and shift."""

    def __init__(self, channels, config):
        super().__init__()
        self.eps = config.eps
        self.register_buffer("running_means", torch.zeros(config.stats, channels))
        self.register_buffer("running_vars", torch.ones(config.stats, channels))

    def normalise(self, x, gain, shift, truncation):
        """x: (N, C, H, W); gain, shift: (N, C), or (1, C) for all images → (N, C, H, W)."""
        gain = gain * torch.rsqrt(at_truncation(self.running_vars, truncation) + self.eps)
        shift = shift - at_truncation(self.running_means, truncation) * gain
        return torch.addcmul(shift[..., None, None], x, gain[..., None, None])


class PlainNorm(Norm):
    """Gain and shift are parameters: (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, channels, config):
        super().__init__(channels, config)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x, truncation):
        return self.normalise(x, self.weight[None], self.bias[None], truncation)


class ConditionalNorm(Norm):
    """Gain (around 1) and shift are linear functions of the condition (N, D)."""

    def __init__(self, channels, config):
        super().__init__(channels, config)
        self.scale = nn.Linear(config.condition, channels, bias=False)
        self.offset = nn.Linear(config.condition, channels, bias=False)

    def forward(self, x, condition, truncation):
        return self.normalise(x, 1 + self.scale(condition), self.offset(condition), truncation)


class Block(nn.Module):
    """A residual block with a bottleneck (figure 16): (N, c_in, H, W) → (N, c_out, H, W), or twice
    that size with `upsample`.

    The shortcut has no weights and drops the channels beyond c_out.
    """

    def __init__(self, c_in, c_out, upsample, config):
        super().__init__()
        self.c_out, self.upsample = c_out, upsample
        inner = c_in // BOTTLENECK
        widths, kernels = (c_in, inner, inner, inner, c_out), (1, 3, 3, 1)
        for i, kernel in enumerate(kernels):
            self.add_module(f"bn_{i}", ConditionalNorm(widths[i], config))
            self.add_module(
                f"conv_{i}", nn.Conv2d(widths[i], widths[i + 1], kernel, padding=kernel // 2)
            )

    def forward(self, x, condition, truncation):
        out = self.conv_0(self.bn_0(x, condition, truncation).relu_())
        out = self._resize(self.bn_1(out, condition, truncation).relu_())
        out = self.conv_1(out)
        out = self.conv_2(self.bn_2(out, condition, truncation).relu_())
        out = self.conv_3(self.bn_3(out, condition, truncation).relu_())
        return out + self._resize(x[:, : self.c_out])

    def _resize(self, x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.upsample else x


class Attention(nn.Module):
    """Self-attention over positions (arXiv 1805.08318) with keys and values pooled 2 × 2.

    It has the arguments of a block and ignores condition and truncation.
    """

    def __init__(self, channels):
        super().__init__()
        self.snconv1x1_theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x, condition, truncation):
        query = _positions(self.snconv1x1_theta(x))  # (N, HW, C/8)
        key = _positions(F.max_pool2d(self.snconv1x1_phi(x), 2))  # (N, HW/4, C/8)
        value = _positions(F.max_pool2d(self.snconv1x1_g(x), 2))  # (N, HW/4, C/2)
        out = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (N, HW, C/2)
        out = out.transpose(1, 2).unflatten(2, x.shape[2:])  # (N, C/2, H, W)
        return x + self.gamma * self.snconv1x1_o_conv(out)


def _positions(x):
    """(N, C, H, W) → (N, HW, C)."""
    return x.flatten(2).transpose(1, 2)


class Generator(nn.Module):
    """The condition (N, z_dim + class_dim) → images (N, 3, S, S) in [−1, 1]."""

    def __init__(self, config):
        super().__init__()
        width = config.width
        self.gen_z = nn.Linear(config.condition, FIRST_SIZE**2 * FIRST_WIDTH * width)
        layers = [
            Block(width * c_in, width * c_out, bool(up), config)
            for up, c_in, c_out in config.layers
        ]
        layers.insert(config.attention, Attention(width * config.layers[config.attention][1]))
        self.layers = nn.ModuleList(layers)
        self.bn = PlainNorm(width, config)
        self.conv_to_rgb = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, condition, truncation):
        x = self.gen_z(condition).unflatten(1, (FIRST_SIZE, FIRST_SIZE, -1))
        x = x.permute(0, 3, 1, 2)  # (N, 16 · width, 4, 4), channels_last as published
        for layer in self.layers:
            x = layer(x, condition, truncation)
        return self.conv_to_rgb(self.bn(x, truncation).relu_()).tanh()


class BigGan(nn.Module):
    """A generator with its class embeddings, in eval mode and without gradients.

    name: of its folder; weights_sha256: of its weights file.
    """

    def __init__(self, config, name, weights_sha256):
        super().__init__()
        self.config, self.name, self.weights_sha256 = config, name, weights_sha256
        self.num_classes, self.image_size = config.num_classes, config.image_size
        self.embeddings = nn.Linear(config.num_classes, config.class_dim, bias=False)
        self.generator = Generator(config)
        self.eval().requires_grad_(False)

    def noise(self, seed, items, truncation):
        """Draws the noise of each image from its own generator, a function of (seed, class, index).

        The truncation trick of the published models: a normal distribution truncated at ±2 and
        scaled by the truncation. (Section 3.1 of the paper truncates at the truncation and does not
        scale, which is a little wider for the same bounds.)

        items: N pairs (class, index). Returns float32 (N, z_dim) on the CPU.
        Raises UserError if the truncation is not in (0, 1].
        """
        check_truncation(truncation)
        uniform = torch.empty(self.config.z_dim, dtype=torch.float64)
        rows = torch.empty(len(items), self.config.z_dim)
        for row, (class_index, image_index) in zip(rows, items, strict=True):
            uniform.uniform_(-1, 1, generator=image_generator(seed, class_index, image_index))
            # Inverse distribution function of the truncated normal distribution
            normal = math.sqrt(2) * torch.erfinv(uniform * math.erf(NOISE_BOUND / math.sqrt(2)))
            row.copy_(truncation * normal)
        return rows

    @torch.no_grad()
    def generate(self, noise, labels, truncation):
        """Generates images, float32 (N, 3, image_size, image_size) in [−1, 1], on the module's
        device.

        noise: (N, z_dim) of `noise` with the same truncation; labels: (N,) int64.
        An image does not depend on the other images of the batch, except for rounding.
        Raises UserError if the truncation is not in (0, 1].
        """
        check_truncation(truncation)
        device = self.embeddings.weight.device
        noise, labels = noise.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        embedded = self.embeddings.weight.T[labels]  # (N, class_dim)
        return self.generator(torch.cat([noise, embedded], dim=1), truncation)


def check_truncation(truncation):
    """Raises UserError if the truncation is not in (0, 1]."""
    if not 0 < truncation <= 1:
        raise UserError(f"truncation {truncation:g} is not in (0, 1]")


def find_biggan(path_or_name, say=print):
    """The folder of a BigGAN, given as a path or a published name.

    Published files that are missing in pretrained_models/NAME are downloaded; `say` prints it.
    Raises UserError if there is no such folder or the download fails.
    """
    if Path(path_or_name).is_dir():
        return Path(path_or_name)
    if str(path_or_name) not in PUBLISHED:
        raise UserError(
            f"no such folder: {path_or_name}; give a folder with {CONFIG} and {WEIGHTS[0]}, or one "
            f"of {', '.join(PUBLISHED)}"
        )
    folder = checkpoints.PRETRAINED_MODELS / path_or_name
    missing = [] if (folder / CONFIG).is_file() else [CONFIG]
    missing += [] if _weights_in(folder) else [WEIGHTS[0]]
    for file in missing:
        _download(path_or_name, file, make_folder(folder), say)
    return folder


def load_biggan(path_or_name, say=print):
    """Loads a BigGan, given as for `find_biggan`, on the CPU in float32.

    Raises UserError if a file is missing or damaged, or if the weights do not match the
    configuration; the message names the first tensor that differs.
    """
    folder = find_biggan(path_or_name, say)
    config, path = read_config(folder / CONFIG), _weights_in(folder)
    if path is None:
        raise UserError(f"{folder} has no weights: {' or '.join(WEIGHTS)} is missing")
    state = checkpoints.state_dict_of(checkpoints.load(path), path)
    with torch.device("meta"):
        net = BigGan(config, folder.resolve().name, sha256(path))
    _check(state, _published_shapes(net), path)
    net.load_state_dict(_for_sampling(state, net.state_dict()), assign=True)
    return net.to(memory_format=torch.channels_last)


def _weights_in(folder):
    """The weights file of a folder, or None."""
    return next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)


def _download(name, file, folder, say):
    """Downloads one published file into `folder`, whole or not at all."""
    url = _URL.format(name=name, file=file)
    say(f"{name}: {folder / file} not found, downloading {url}")
    try:
        torch.hub.download_url_to_file(url, str(folder / file))
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        files = " and ".join(
            f"{_URL.format(name=name, file=each)} as {folder / each}"
            for each in (CONFIG, WEIGHTS[0])
        )
        raise UserError(
            f"{name} is not in {folder} and cannot be downloaded ({type(error).__name__}: "
            f"{error});\n"
            f"download {files}"
        ) from None


def _is_spectral(name, tensor):
    """Whether the published file holds W, u and v instead of the weight W / (uᵀ W v)."""
    return name.endswith(".weight") and tensor.ndim > 1 and name != "embeddings.weight"


def _published_shapes(net):
    """{name: shape} of the tensors in the published file of a network."""
    shapes = {}
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        if name.startswith(_RGB):
            shape = (net.config.width, *shape[1:])
        if _is_spectral(name, tensor):
            shapes |= {
                f"{name}_orig": shape,
                f"{name}_u": shape[:1],
                f"{name}_v": (math.prod(shape[1:]),),
            }
        else:
            shapes[name] = shape
    return shapes


def _check(state, shapes, path):
    """Raises UserError, naming the first tensor that differs, if a state dict lacks these shapes.

    Other tensors are ignored, except those of further layers: the file of a larger network.
    """
    for name, shape in shapes.items():
        actual = tuple(state[name].shape) if name in state else "missing"
        if actual != shape:
            raise UserError(
                f"{path} does not match the {CONFIG} beside it: {name} is {actual}, expected "
                f"{shape}"
            )
    layers = {name.split(".")[2] for name in shapes if name.startswith("generator.layers.")}
    for name in state:
        layer = re.match(r"generator\.layers\.(\d+)\.", name)
        if layer and layer[1] not in layers:
            raise UserError(
                f"{path} does not match the {CONFIG} beside it, which has no layer {layer[1]}: "
                f"{name}"
            )


def _for_sampling(published, target):
    """The published tensors with the names and shapes of the state dict `target`."""
    state = {}
    for name, tensor in target.items():
        if _is_spectral(name, tensor):
            weight, u, v = (published[f"{name}_{part}"].double() for part in ("orig", "u", "v"))
            value = weight / (u @ weight.flatten(1) @ v)
        else:
            value = published[name]
        state[name] = value[: len(tensor)].float().contiguous()  # only RGB of the last convolution
    return state
