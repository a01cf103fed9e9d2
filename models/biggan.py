"""BigGAN-deep's generator (arXiv 1809.11096, appendix B, table 7 to 9) with the weights that are
published in PyTorch.

A published folder holds config.json and pytorch_model.bin. The network is built from the first; the
second is changed for sampling while it is read: every weight W that was trained under spectral
normalisation becomes W / σ once, and of the last convolution only the three channels that are a
picture's are kept (the published one computes `width` of them). Truncation t scales the noise and
selects the BatchNorm statistics, which are stored for t = 0, 0.02, …, 1.
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
from helper.files import make_folder, read_json, sha256
from helper.seeds import image_generator

PUBLISHED = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512")
CONFIG, WEIGHTS = "config.json", ("pytorch_model.bin", "model.safetensors")
FOLDER = Path("pretrained_models")
_URL = "https://s3.amazonaws.com/models.huggingface.co/biggan/{name}-{file}"

FIRST_SIZE, FIRST_WIDTH = (
    4,
    16,
)  # pixels a side of the first features; their channels, in units of `width`
BOTTLENECK = 4  # a block's inner convolutions have a quarter of its channels
NOISE_BOUND = 2.0  # the normal distribution that is scaled by the truncation is cut off here
_RGB = "generator.conv_to_rgb"


@dataclass(frozen=True)
class Config:
    """What config.json says.

    layers: (upsample, c_in, c_out) a block, channels in units of `width`; attention: the number of
    blocks before the attention; stats: rows of BatchNorm statistics, for truncations 0 to 1; eps:
    of BatchNorm.
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
        """Length of the vector, noise and class embedding, that every block is given."""
        return self.z_dim + self.class_dim


# Field → its name in config.json and its type.
_FIELDS = {
    "image_size": ("output_dim", int),
    "z_dim": ("z_dim", int),
    "class_dim": ("class_embed_dim", int),
    "width": ("channel_width", int),
    "num_classes": ("num_classes", int),
    "layers": ("layers", tuple),
    "attention": ("attention_layer_position", int),
    "eps": ("eps", float),
    "stats": ("n_stats", int),
}


def read_config(path):
    """Returns the Config of a config.json.

    Raises UserError if it is missing or damaged, or if its layers do not lead from 16 · width
    channels of 4 × 4 to width channels of its output_dim.
    """
    given = read_json(path, "BigGAN configuration")
    try:
        config = Config(**{field: kind(given[name]) for field, (name, kind) in _FIELDS.items()})
        ups, inputs, outputs = zip(*config.layers, strict=True)
    except KeyError as error:
        raise UserError(f"{path} is not that of a BigGAN: {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not that of a BigGAN: {error}") from None
    if (FIRST_WIDTH, *outputs) != (*inputs, 1) or any(
        out > into for into, out in zip(inputs, outputs, strict=True)
    ):
        raise UserError(
            f"{path}: its layers must lead from {FIRST_WIDTH} channels to 1, each with as many or "
            "fewer"
        )
    if not 0 <= config.attention < len(inputs):
        raise UserError(
            f"{path}: attention_layer_position {config.attention} is none of its {len(inputs)} "
            "layers"
        )
    size = FIRST_SIZE * 2 ** sum(map(bool, ups))
    if size != config.image_size:
        raise UserError(
            f"{path}: its layers make {size} pixels a side and its output_dim is "
            f"{config.image_size}"
        )
    return config


def at_truncation(table, truncation):
    """Returns the row (C,) of `table` (rows, C) at a truncation in [0, 1], between two rows
    linearly interpolated.

    The published code weighs the two rows the wrong way round (close to a row it takes the other
    one); on the rows, where 0.4, 0.5 and 1 are, and midway, the statistics are the same.
    """
    position = truncation * (len(table) - 1)
    row = int(position)
    return torch.lerp(table[row], table[min(row + 1, len(table) - 1)], position - row)


class Norm(nn.Module):
    """BatchNorm whose statistics are stored by truncation; where gain and shift come from, the
    subclasses say.
    """

    def __init__(self, channels, config):
        super().__init__()
        self.eps = config.eps
        self.register_buffer("running_means", torch.zeros(config.stats, channels))
        self.register_buffer("running_vars", torch.ones(config.stats, channels))

    def normalise(self, x, gain, shift, truncation):
        """x: (N, C, H, W); gain, shift: (N, C), or (1, C) for the same in all images → (N, C, H,
        W).
        """
        gain = gain * torch.rsqrt(at_truncation(self.running_vars, truncation) + self.eps)
        shift = shift - at_truncation(self.running_means, truncation) * gain
        return torch.addcmul(shift[..., None, None], x, gain[..., None, None])


class PlainNorm(Norm):
    """Gain and shift are weights: (N, C, H, W) → the same."""

    def __init__(self, channels, config):
        super().__init__(channels, config)
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )

    def forward(self, x, truncation):
        return self.normalise(x, self.weight[None], self.bias[None], truncation)


class ConditionalNorm(Norm):
    """Gain, around 1, and shift are linear in each image's condition (N, D): (N, C, H, W) → the
    same.
    """

    def __init__(self, channels, config):
        super().__init__(channels, config)
        self.scale = nn.Linear(config.condition, channels, bias=False)
        self.offset = nn.Linear(config.condition, channels, bias=False)

    def forward(self, x, condition, truncation):
        return self.normalise(x, 1 + self.scale(condition), self.offset(condition), truncation)


class Block(nn.Module):
    """A residual block with a bottleneck (figure 16): (N, c_in, H, W) → (N, c_out, H, W), or twice
    that size.

    The shortcut has no weights: it drops the channels beyond c_out.
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
    """Self-attention over positions (arXiv 1805.08318), keys and values pooled 2 × 2: (N, C, H, W)
    → the same.

    Called as the blocks are, of whose condition and truncation it makes no use.
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
        seen = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (N, HW, C/2)
        seen = seen.transpose(1, 2).unflatten(2, x.shape[2:])  # (N, C/2, H, W)
        return x + self.gamma * self.snconv1x1_o_conv(seen)


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
        x = x.permute(
            0, 3, 1, 2
        )  # (N, 16 · width, 4, 4): the published order of values, in memory channels last
        for layer in self.layers:
            x = layer(x, condition, truncation)
        return self.conv_to_rgb(self.bn(x, truncation).relu_()).tanh()


class BigGan(nn.Module):
    """A generator with its class embeddings, in eval mode and without gradients.

    num_classes; image_size: pixels a side; name: of its folder; weights_sha256: of its weights
    file.
    """

    def __init__(self, config, name, weights_sha256):
        super().__init__()
        self.config, self.name, self.weights_sha256 = config, name, weights_sha256
        self.num_classes, self.image_size = config.num_classes, config.image_size
        self.embeddings = nn.Linear(config.num_classes, config.class_dim, bias=False)
        self.generator = Generator(config)
        self.eval().requires_grad_(False)

    def noise(self, seed, items, truncation):
        """Draws each image's noise from its own generator, so that a row is a function of (seed,
        class, index) alone.

        The truncation trick of the published models: normal values cut off at ±2 and then scaled by
        the truncation. (Section 3.1 cuts off at the truncation and scales nothing, which is a
        little wider for the same bounds.) items: (class, index) pairs, N of them; truncation: in
        (0, 1]. Returns float32 (N, z_dim) on the CPU, in [−2, 2] · truncation. Raises UserError if
        truncation is out of range.
        """
        check_truncation(truncation)
        uniform = torch.empty(self.config.z_dim, dtype=torch.float64)
        rows = torch.empty(len(items), self.config.z_dim)
        for row, (class_index, image_index) in zip(rows, items, strict=True):
            uniform.uniform_(-1, 1, generator=image_generator(seed, class_index, image_index))
            # The inverse of the distribution function of the cut-off normal distribution.
            normal = math.sqrt(2) * torch.erfinv(uniform * math.erf(NOISE_BOUND / math.sqrt(2)))
            row.copy_(truncation * normal)
        return rows

    @torch.no_grad()
    def generate(self, noise, labels, truncation):
        """Makes images on the module's device.

        noise: (N, z_dim) of the same truncation; labels: (N,) int64, from 0 to num_classes − 1;
        truncation: in (0, 1]. Returns float32 (N, 3, image_size, image_size) in [−1, 1]. An image
        does not depend on the others of its batch, but for rounding. Raises UserError if truncation
        is out of range.
        """
        check_truncation(truncation)
        device = self.embeddings.weight.device
        noise, labels = noise.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        embedded = self.embeddings.weight.T[
            labels
        ]  # (N, class_dim): what one-hot labels would select
        return self.generator(torch.cat([noise, embedded], dim=1), truncation)


def check_truncation(truncation):
    """Raises UserError unless there are statistics for a truncation: above 0 and at most 1."""
    if not 0 < truncation <= 1:
        raise UserError(f"truncation {truncation:g} is out of range: above 0 and at most 1")


def find_biggan(source, say=print):
    """Returns the folder of `source`: a folder, or a published name, which is downloaded if it is
    not yet in pretrained_models/NAME; `say` is told so. Raises UserError if there is no such folder
    or it cannot be downloaded.
    """
    if Path(source).is_dir():
        return Path(source)
    if str(source) not in PUBLISHED:
        raise UserError(
            f"no such folder: {source}; give the folder of {CONFIG} and {WEIGHTS[0]}, or one of "
            f"{', '.join(PUBLISHED)}"
        )
    folder = FOLDER / source
    missing = [] if (folder / CONFIG).is_file() else [CONFIG]
    missing += [] if _weights_in(folder) else [WEIGHTS[0]]
    for file in missing:
        _download(source, file, make_folder(folder), say)
    return folder


def load_biggan(source, say=print):
    """Returns the BigGan of `source` (as in `find_biggan`) on the CPU, in float32.

    Raises UserError if a file is missing or damaged, or if the weights are not those of the
    configuration: the first one that differs is named.
    """
    folder = find_biggan(source, say)
    config, path = read_config(folder / CONFIG), _weights_in(folder)
    if path is None:
        raise UserError(f"{folder} holds no weights: {' or '.join(WEIGHTS)} is missing")
    state = checkpoints.state_dict_of(checkpoints.load(path), path)
    with torch.device("meta"):
        net = BigGan(config, folder.resolve().name, sha256(path))
    _check(state, _published_shapes(net), path)
    net.load_state_dict(_for_sampling(state, net.state_dict()), assign=True)
    return net.to(memory_format=torch.channels_last)


def _weights_in(folder):
    """Returns the weights file of a folder, or None."""
    return next((folder / file for file in WEIGHTS if (folder / file).is_file()), None)


def _download(name, file, folder, say):
    """Fetches one published file into `folder`, whole or not at all."""
    url = _URL.format(name=name, file=file)
    say(f"{name}: no {folder / file} here, so {url}")
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
            f"fetch {files}"
        ) from None


def _is_spectral(name, tensor):
    """Whether a weight of the network is stored as three tensors, W, u and v, of which it is W /
    (uᵀ W v).
    """
    return name.endswith(".weight") and tensor.ndim > 1 and name != "embeddings.weight"


def _published_shapes(net):
    """Returns {name: shape} of the tensors in the published file of a network."""
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
    """Raises UserError, naming the first tensor that differs, if a state dict is not of these
    shapes.

    Tensors beside them are let be, but not those of further layers: the file of a larger network.
    """
    for name, shape in shapes.items():
        found = tuple(state[name].shape) if name in state else "missing"
        if found != shape:
            raise UserError(
                f"{path} does not fit the {CONFIG} beside it: {name} is {found} and should be "
                f"{shape}"
            )
    layers = {name.split(".")[2] for name in shapes if name.startswith("generator.layers.")}
    for name in state:
        layer = re.match(r"generator\.layers\.(\d+)\.", name)
        if layer and layer[1] not in layers:
            raise UserError(
                f"{path} does not fit the {CONFIG} beside it: {name} is of a layer that it has not"
            )


def _for_sampling(published, wanted):
    """Returns the state dict, named and shaped as `wanted`, of the tensors in a published file."""
    state = {}
    for name, tensor in wanted.items():
        if _is_spectral(name, tensor):
            weight, u, v = (published[f"{name}_{part}"].double() for part in ("orig", "u", "v"))
            value = weight / (u @ weight.flatten(1) @ v)
        else:
            value = published[name]
        state[name] = (
            value[: len(tensor)].float().contiguous()
        )  # shorter for the pictures' three channels alone
    return state
