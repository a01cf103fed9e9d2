"""BigGAN-deep: random weights in the published layout against the formulas in float64; noise, files
and messages.
"""

import json
import math
import types
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helper.errors import UserError, run_script
from helper.files import sha256
from models.biggan import at_truncation, load_biggan

Z, CLASSES, WIDTH, ROWS, SIZE = 4, 5, 8, 51, 64
LAYERS = [[False, 16, 16], [True, 16, 8], [True, 8, 4], [False, 4, 4], [True, 4, 2], [True, 2, 1]]
ATTENTION = 3
CONFIG = {
    "output_dim": SIZE,
    "z_dim": Z,
    "class_embed_dim": Z,
    "channel_width": WIDTH,
    "num_classes": CLASSES,
    "layers": LAYERS,
    "attention_layer_position": ATTENTION,
    "eps": 1e-4,
    "n_stats": ROWS,
}
ITEMS = [(3, 0), (0, 0), (4, 7)]
LABELS = torch.tensor([label for label, _ in ITEMS])


def published_state():
    """Random tensors under the published names; u and v are singular vectors of W, as spectral
    normalisation has.
    """
    random = np.random.default_rng(0)
    state = {"embeddings.weight": random.normal(size=(Z, CLASSES))}

    def spectral(name, *shape, bias=True):
        weight = random.normal(size=shape)
        left, _, right = np.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
        state.update(
            {
                f"{name}.weight_orig": weight,
                f"{name}.weight_u": left[:, 0],
                f"{name}.weight_v": right[0],
            }
        )
        if bias:
            state[f"{name}.bias"] = random.normal(size=shape[0]) / 4

    def statistics(name, channels):
        state[f"{name}.running_means"] = random.normal(size=(ROWS, channels)) / 4
        state[f"{name}.running_vars"] = random.uniform(0.1, 1, size=(ROWS, channels))

    spectral("generator.gen_z", 16 * 16 * WIDTH, 2 * Z)
    for number, (_, c_in, c_out) in enumerate(LAYERS):
        block = f"generator.layers.{number + (number >= ATTENTION)}"
        inner = c_in * WIDTH // 4
        widths = (c_in * WIDTH, inner, inner, inner, c_out * WIDTH)
        for i, kernel in enumerate((1, 3, 3, 1)):
            statistics(f"{block}.bn_{i}", widths[i])
            spectral(f"{block}.bn_{i}.scale", widths[i], 2 * Z, bias=False)
            spectral(f"{block}.bn_{i}.offset", widths[i], 2 * Z, bias=False)
            spectral(f"{block}.conv_{i}", widths[i + 1], widths[i], kernel, kernel)
    channels = LAYERS[ATTENTION][1] * WIDTH
    for name, c_in, c_out in (
        ("theta", channels, channels // 8),
        ("phi", channels, channels // 8),
        ("g", channels, channels // 2),
        ("o_conv", channels // 2, channels),
    ):
        spectral(f"generator.layers.{ATTENTION}.snconv1x1_{name}", c_out, c_in, 1, 1, bias=False)
    state[f"generator.layers.{ATTENTION}.gamma"] = np.array([0.8])
    statistics("generator.bn", WIDTH)
    state |= {
        "generator.bn.weight": random.normal(0.3, 0.1, WIDTH),
        "generator.bn.bias": random.normal(size=WIDTH) / 8,
    }
    spectral("generator.conv_to_rgb", WIDTH, WIDTH, 3, 3)
    return {name: torch.from_numpy(array).float() for name, array in state.items()}


class Formulas:
    """BigGAN-deep's generator in float64, an array expression a formula, from the published
    tensors.
    """

    def __init__(self, state, truncation):
        self.state = {name: tensor.double().numpy() for name, tensor in state.items()}
        self.truncation = truncation

    def images(self, noise, labels):
        condition = np.hstack(
            [noise.double().numpy(), np.eye(CLASSES)[labels] @ self.state["embeddings.weight"].T]
        )
        gen_z = self.linear("generator.gen_z", condition) + self.state["generator.gen_z.bias"]
        x = gen_z.reshape(-1, 4, 4, 16 * WIDTH).transpose(0, 3, 1, 2)
        for number, (up, _, c_out) in enumerate(LAYERS):
            if number == ATTENTION:
                x = self.attention(f"generator.layers.{number}", x)
            x = self.block(
                f"generator.layers.{number + (number >= ATTENTION)}",
                x,
                condition,
                up,
                c_out * WIDTH,
            )
        gain, shift = self.state["generator.bn.weight"][None], self.state["generator.bn.bias"][None]
        x = self.norm("generator.bn", x, gain, shift)
        return np.tanh(self.conv("generator.conv_to_rgb", np.maximum(x, 0))[:, :3])

    def block(self, name, x, condition, up, c_out):
        h = x
        for i in range(4):
            gain = 1 + self.linear(f"{name}.bn_{i}.scale", condition)
            h = self.norm(
                f"{name}.bn_{i}", h, gain, self.linear(f"{name}.bn_{i}.offset", condition)
            )
            h = np.maximum(h, 0)
            h = self.conv(f"{name}.conv_{i}", doubled(h) if up and i == 1 else h)
        return h + (doubled(x) if up else x)[:, :c_out]

    def attention(self, name, x):
        def project(what, y):
            return self.conv(f"{name}.snconv1x1_{what}", y)

        def pooled(y):
            n, c, height, width = y.shape
            return y.reshape(n, c, height // 2, 2, width // 2, 2).max((3, 5)).reshape(n, c, -1)

        queries, keys = (
            project("theta", x).reshape(len(x), -1, x[0, 0].size),
            pooled(project("phi", x)),
        )
        scores = np.einsum("ncq,nck->nqk", queries, keys)
        weights = np.exp(scores - scores.max(2, keepdims=True))
        weights /= weights.sum(2, keepdims=True)
        seen = np.einsum("nqk,nck->ncq", weights, pooled(project("g", x)))
        seen = seen.reshape(len(x), -1, *x.shape[2:])
        return x + self.state[f"{name}.gamma"] * project("o_conv", seen)

    def norm(self, name, x, gain, shift):
        mean, variance = (
            self.statistics(f"{name}.running_{what}")[:, None, None] for what in ("means", "vars")
        )
        return (
            gain[..., None, None] * (x - mean) / np.sqrt(variance + 1e-4) + shift[..., None, None]
        )

    def statistics(self, name):
        """Each channel's value between the two nearest truncations of 0, 0.02, …, 1."""
        grid = np.linspace(0, 1, ROWS)
        return np.array([np.interp(self.truncation, grid, column) for column in self.state[name].T])

    def weight(self, name):
        weight, u, v = (self.state[f"{name}.weight_{part}"] for part in ("orig", "u", "v"))
        return weight / (u @ weight.reshape(len(weight), -1) @ v)

    def linear(self, name, x):
        return x @ self.weight(name).T

    def conv(self, name, x):
        weight = self.weight(name)
        border = weight.shape[-1] // 2
        x = np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
        out = np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)
        return out + self.state.get(f"{name}.bias", np.zeros(len(weight)))[:, None, None]


def doubled(x):
    """Every pixel four times: (N, C, H, W) → (N, C, 2H, 2W)."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def write(folder, state, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def state():
    return published_state()


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    return write(tmp_path_factory.mktemp("biggan") / "biggan-tiny", state)


@pytest.fixture(scope="module")
def net(folder):
    return load_biggan(folder)


def made(net, truncation, items=ITEMS):
    return net.generate(
        net.noise(1, items, truncation), torch.tensor([label for label, _ in items]), truncation
    )


@pytest.mark.parametrize("truncation", [0.4, 0.433, 1.0])
def test_images_are_those_of_the_formulas(state, net, truncation):
    expected = Formulas(state, truncation).images(net.noise(1, ITEMS, truncation), LABELS.numpy())
    images = made(net, truncation)
    assert (
        images.shape == (3, 3, SIZE, SIZE)
        and images.dtype == torch.float32
        and not images.requires_grad
    )
    assert (
        expected.std() > 0.1 and (np.abs(expected) < 0.99).mean() > 0.8
    )  # neither flat nor all at the bounds
    np.testing.assert_allclose(images.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("truncation", [0.4, 0.41, 0.5, 1.0])
def test_images_are_those_of_the_published_code(state, net, truncation):
    package = pytest.importorskip("pytorch_pretrained_biggan", exc_type=ImportError)
    theirs = package.BigGAN(package.BigGANConfig(**CONFIG)).eval()
    theirs.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(net.noise(1, ITEMS, truncation), torch.eye(CLASSES)[LABELS], truncation)
    np.testing.assert_allclose(made(net, truncation).numpy(), expected.numpy(), atol=2e-5)


@pytest.mark.parametrize(
    ("truncation", "row"),
    [(0.4, 20), (0.58, 29), (0.94, 47), (1.0, 50), (0.405, 20.25), (0.01, 0.5), (0.999, 49.95)],
)
def test_statistics_lie_between_two_rows(truncation, row):
    table = torch.stack([torch.arange(51.0), -10 * torch.arange(51.0)], dim=1)
    np.testing.assert_allclose(
        at_truncation(table, truncation).numpy(), [row, -10 * row], rtol=1e-5
    )


def test_truncation_matters_beyond_the_noise(net):
    noise = net.noise(1, ITEMS, 0.4)
    assert (net.generate(noise, LABELS, 0.4) - net.generate(noise, LABELS, 0.42)).abs().max() > 1e-3


def test_noise_is_a_normal_distribution_cut_off_at_two(net):
    noise = net.noise(
        0, [(label, index) for label in range(50) for index in range(500)], 1
    ).double()
    values, count = noise.flatten().numpy(), noise.numel()
    assert np.abs(values).max() <= 2 and np.abs(values).max() > 1.99
    inside = math.erf(math.sqrt(2))  # the mass of a normal distribution within ±2
    density = math.exp(-2) / math.sqrt(2 * math.pi)  # at 2
    variance = 1 - 4 * density / inside
    assert abs(values.mean()) < 5 * math.sqrt(variance / count)
    assert abs(values.var() - variance) < 5 * math.sqrt(2 / count)
    for bound in (-1.5, -0.5, 0.3, 1.2):
        expected = 0.5 + math.erf(bound / math.sqrt(2)) / (2 * inside)
        assert abs((values < bound).mean() - expected) < 5 * 0.5 / math.sqrt(count)
    assert np.abs(np.corrcoef(noise.T.numpy()) - np.eye(Z)).max() < 5 / math.sqrt(len(noise))


def test_noise_scales_with_the_truncation(net):
    torch.testing.assert_close(net.noise(1, ITEMS, 0.4), 0.4 * net.noise(1, ITEMS, 1))
    assert net.noise(1, ITEMS, 0.4).dtype == torch.float32


def test_noise_belongs_to_seed_class_and_index(net):
    together = net.noise(1, ITEMS, 0.5)
    assert all(
        torch.equal(net.noise(1, [item], 0.5)[0], row)
        for item, row in zip(ITEMS, together, strict=True)
    )
    others = torch.cat(
        [together, net.noise(2, ITEMS[:1], 0.5), net.noise(1, [(3, 1), (2, 0)], 0.5)]
    )
    assert len(others.unique(dim=0)) == len(others)


def test_an_image_is_the_same_in_any_batch(net):
    together = made(net, 0.5)
    alone = torch.cat([made(net, 0.5, [item]) for item in ITEMS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.equal(made(net, 0.5), together)
    noise = net.noise(1, ITEMS, 0.5)
    assert (
        net.generate(noise, LABELS.roll(1), 0.5) - together
    ).abs().max() > 0.1  # the class matters


def test_what_a_loaded_network_says(folder, net):
    assert (net.num_classes, net.image_size, net.name) == (CLASSES, SIZE, "biggan-tiny")
    assert net.weights_sha256 == sha256(folder / "pytorch_model.bin")
    assert not net.training and not any(parameter.requires_grad for parameter in net.parameters())


def test_safetensors_and_wrapped_weights(state, net, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(state, tmp_path / "model.safetensors")
    assert torch.equal(made(load_biggan(tmp_path), 0.5), made(net, 0.5))
    wrapped = {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}
        | {"steps": torch.ones(1)}
    }
    assert torch.equal(made(load_biggan(write(tmp_path / "wrapped", wrapped)), 0.5), made(net, 0.5))


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("generator.layers.1.bn_2.scale.weight_v"),
            r"layers\.1\.bn_2\.scale\.weight_v .*missing.*\(8,\)",
        ),
        (
            without("generator.bn.running_vars"),
            r"generator\.bn\.running_vars .*missing.*\(51, 8\)",
        ),
        (
            lambda state: state | {"embeddings.weight": torch.zeros(Z, 9)},
            r"embeddings\.weight .*\(4, 9\).*\(4, 5\)",
        ),
        (
            lambda state: state | {"generator.layers.7.conv_0.bias": torch.zeros(2)},
            r"layers\.7\.conv_0\.bias",
        ),
        (lambda state: {"config": "none"}, "no state dict"),
        (lambda state: state | {"generator.bn.bias": types.SimpleNamespace(a=1)}, "could run code"),
    ],
)
def test_weights_that_do_not_fit_are_refused(state, tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        load_biggan(write(tmp_path / "changed", change(state)))
    assert "changed/pytorch_model.bin" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_dim": None}, "z_dim is missing"),
        ({"channel_width": "wide"}, 'channel_width is "wide"'),
        ({"layers": [[True, 16]]}, "not enough values"),
        ({"layers": [[True, 16, 4], [True, 2, 1]]}, "16 channels to 1"),
        ({"output_dim": 256}, "64 pixels.* output_dim .*256"),
        ({"attention_layer_position": 6}, "attention_layer_position 6"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(state, tmp_path, change, message):
    config = {name: value for name, value in (CONFIG | change).items() if value is not None}
    with pytest.raises(UserError, match=message) as caught:
        load_biggan(write(tmp_path, state, config))
    assert "config.json" in str(caught.value)


def test_folders_that_lack_a_file(folder, tmp_path):
    with pytest.raises(UserError, match=r"configuration not found: .*config\.json"):
        load_biggan(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"pytorch_model\.bin or model\.safetensors is missing"):
        load_biggan(tmp_path)
    with pytest.raises(UserError, match="biggan-256.*biggan-deep-256"):
        load_biggan("biggan-256")


def test_a_published_name_is_its_folder_in_pretrained_models(state, net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda *given: pytest.fail("all files are there")
    )
    write(tmp_path / "pretrained_models/biggan-deep-256", state)
    found = load_biggan("biggan-deep-256")
    assert found.name == "biggan-deep-256" and torch.equal(made(found, 0.5), made(net, 0.5))


def test_a_published_name_is_downloaded_once(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked, said = [], []

    def download(url, target):
        asked.append(url)
        name = url.rpartition("biggan-deep-128-")[2]
        (tmp_path / target).write_bytes((folder / name).read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert load_biggan("biggan-deep-128", said.append).name == "biggan-deep-128"
    assert [url.rpartition("/")[2] for url in asked] == [
        "biggan-deep-128-config.json",
        "biggan-deep-128-pytorch_model.bin",
    ]
    assert len(said) == 2 and all(url in line for url, line in zip(asked, said, strict=True))


def test_without_network_the_message_says_what_goes_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def download(url, target):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert run_script(lambda argv: load_biggan("biggan-deep-256", lambda line: None)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and "Name or service not known" in error
    for file in ("config.json", "pytorch_model.bin"):
        assert f"biggan-deep-256-{file} as pretrained_models/biggan-deep-256/{file}" in error


@pytest.mark.parametrize("truncation", [0, -0.5, 1.01, math.nan])
def test_truncations_out_of_range(net, truncation):
    with pytest.raises(UserError, match=r"truncation .*\(0, 1\]"):
        net.noise(0, ITEMS, truncation)
    with pytest.raises(UserError, match=r"truncation .*\(0, 1\]"):
        net.generate(torch.zeros(3, Z), LABELS, truncation)
