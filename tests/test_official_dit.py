"""Official DiT checkpoints, compared with a reference implementation (reference_dit.py)."""

import argparse
import copy
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_dit import CHAINS, guided, position_embedding
from safetensors.torch import save_file

import synthesize_dit
from diffusion.official import OfficialDiT, names, to_diffusers
from diffusion.pipeline import load_pipeline, read_pipeline, use_bf16_blocks
from diffusion.sampler import Sampler, batch_noise
from helper.device import autocast
from helper.errors import UserError, run_script
from helper.files import sha256

CLASSES, IMAGE_SIZE = 5, 128
SHAPE = (4, 16, 16)  # four 8×8 patches
SCALE = 3


def official_state(name="DiT-S/8", num_classes=CLASSES, side=2, random=True):
    """A state dict with official names and shapes: random, or zeros expanded from one element,
    whose file is small.
    """
    depth, width = {"S": (12, 384), "B": (12, 768), "L": (24, 1024), "XL": (28, 1152)}[
        name[4:].partition("/")[0]
    ]
    patch = int(name[-1])
    shapes = {
        "x_embedder.proj.weight": (width, 4, patch, patch),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.2.weight": (width, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
        "final_layer.linear.weight": (8 * patch * patch, width),
    }
    for number in range(depth):
        shapes |= {
            f"blocks.{number}.attn.qkv.weight": (3 * width, width),
            f"blocks.{number}.attn.proj.weight": (width, width),
            f"blocks.{number}.mlp.fc1.weight": (4 * width, width),
            f"blocks.{number}.mlp.fc2.weight": (width, 4 * width),
            f"blocks.{number}.adaLN_modulation.1.weight": (6 * width, width),
        }
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    shapes |= {
        "y_embedder.embedding_table.weight": (num_classes + 1, width),
        "pos_embed": (1, side**2, width),
    }
    if not random:
        return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        inputs = np.prod(shape[1:]) if len(shape) > 1 and "y_embedder" not in name else 4
        state[name] = torch.randn(shape, generator=generator) * 0.7 / inputs**0.5
    return state | {"pos_embed": position_embedding(width, side).float()}


def small_vae(folder, levels=4, channels=4):
    """Saves a random AutoencoderKL; with four levels a latent cell is eight pixels wide."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=channels,
            norm_num_groups=4,
            layers_per_block=1,
            scaling_factor=0.18215,
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def state():
    return official_state()


@pytest.fixture(scope="module")
def files(state, tmp_path_factory):
    """The checkpoint in three file formats, 128 MB each, and vae/; deleted after the tests."""
    folder = tmp_path_factory.mktemp("official")
    torch.save(state, folder / "plain.pt")
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    untrained = {name: torch.zeros(1).expand_as(tensor) for name, tensor in state.items()}
    torch.save(
        {
            "model": untrained,
            "ema": wrapped,
            "opt": {},
            "args": argparse.Namespace(model="DiT-S/8"),
        },
        folder / "training.pt",
    )
    save_file(
        {f"_orig_mod.{name}": tensor for name, tensor in state.items()}, folder / "file.safetensors"
    )
    small_vae(folder / "vae")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pipeline(files):
    return load_pipeline(read_pipeline("DiT-S/8", files / "plain.pt", str(files / "vae")))


@pytest.mark.parametrize("name", CHAINS)
def test_latents_are_the_official_ones(state, pipeline, name):
    items = [(0, 0), (4, 0), (2, 7)]
    sampler = Sampler(name, 10, pipeline.schedule)
    noise = batch_noise(5, items, pipeline.latent_shape, sampler.noise_steps)
    labels = torch.tensor([label for label, _ in items])
    ours = sampler.sample(pipeline.predict, noise, labels, pipeline.num_classes, SCALE, 3)
    expected = CHAINS[name](guided(state, 6, labels, SCALE), noise, steps=10)
    difference = ((ours - expected).norm() / expected.norm()).item()
    print(f"relative difference {difference:.1e}")  # for pytest -s
    assert difference < 1e-4
    unguided = sampler.sample(pipeline.predict, noise, labels, pipeline.num_classes, 1, 3)
    # Class and guidance matter: the comparison is not trivial.
    assert (ours - unguided).norm() / expected.norm() > 1e-2


def test_bf16_blocks_are_nearer_to_fp32_than_autocast(pipeline):
    x = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    inputs = x, torch.tensor([500, 20]), torch.tensor([1, pipeline.num_classes])
    exact = pipeline.denoiser(*inputs)
    with autocast("bf16", torch.device("cpu")):
        errors = [(pipeline.denoiser(*inputs).float() - exact).norm()]
    denoiser = copy.deepcopy(pipeline.denoiser)
    use_bf16_blocks(denoiser)
    output = denoiser(*inputs)
    assert output.dtype == torch.float32
    errors.append((output - exact).norm())
    assert 0 < errors[1] < errors[0] / 2
    weights = {
        parameter.dtype for parameter in denoiser.transformer.transformer_blocks.parameters()
    }
    assert weights == {torch.float32, torch.bfloat16}


def test_description_of_a_checkpoint(files, pipeline):
    sizes = pipeline.num_classes, pipeline.latent_shape, pipeline.image_size
    assert sizes == (CLASSES, SHAPE, IMAGE_SIZE)
    assert pipeline.name == "DiT-S-8-128" and pipeline.time_embedding == "official"
    assert pipeline.scaling_factor == 0.18215
    assert pipeline.schedule["beta_end"] == 0.02 and pipeline.info.get("cfg_channels", 3) == 3
    weights = files / "vae/diffusion_pytorch_model.safetensors"
    assert pipeline.weights_sha256 == sha256(files / "plain.pt", weights)


@pytest.mark.parametrize("file", ["training.pt", "file.safetensors"])
def test_all_file_formats_give_the_same_network(files, pipeline, file):
    other = load_pipeline(read_pipeline("DiT-S/8", files / file, str(files / "vae")))
    ours, theirs = (network.denoiser.state_dict() for network in (pipeline, other))
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    assert other.weights_sha256 != pipeline.weights_sha256


def test_position_embedding_is_loaded_from_the_file(state, pipeline, tmp_path):
    from diffusers import DiTTransformer2DModel

    built = DiTTransformer2DModel(
        **{**pipeline.transformer_config, "num_layers": 1}
    ).pos_embed.pos_embed
    # diffusers computes the official embedding.
    torch.testing.assert_close(pipeline.denoiser.transformer.pos_embed.pos_embed, built)
    torch.save(official_state(random=False) | {"pos_embed": 2 * built}, tmp_path / "other.pt")
    small_vae(tmp_path / "vae")
    other = load_pipeline(read_pipeline("DiT-S/8", tmp_path / "other.pt", str(tmp_path / "vae")))
    assert torch.equal(other.denoiser.transformer.pos_embed.pos_embed, 2 * built)


@pytest.mark.parametrize("name", names())
def test_all_names_fit_diffusers_model(name):
    """A converted checkpoint has the shapes of diffusers' model, and the published size."""
    from diffusers import DiTTransformer2DModel

    state = official_state(name, 1000, 32 // int(name[-1]), random=False)
    dit = OfficialDiT(name)
    assert dit.shapes() == {key: tuple(tensor.shape) for key, tensor in state.items()}
    with torch.device("meta"):
        model = DiTTransformer2DModel.from_config(dit.config())
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert wanted == {key: tensor.shape for key, tensor in to_diffusers(state).items()}
    # Published parameter counts at patch 2, in millions
    millions = sum(tensor.numel() for key, tensor in state.items() if key != "pos_embed") / 1e6
    assert (
        name[-1] != "2" or round(millions) == {"S": 33, "B": 130, "L": 458, "XL": 675}[name[4:-2]]
    )


def test_released_command_line(state, files, pipeline, tmp_path):
    """The released flags give the released file names and the images of the official model."""
    folder = tmp_path / "set"
    argv = ["--model", "DiT-S/8", "--vae", files / "vae", "--ckpt", files / "plain.pt"]
    argv += ["--image-size", 128, "--num-classes", 5, "--cfg-scale", SCALE]
    argv += ["--num-sampling-steps", 4, "--start_id", 1, "--end_id", 3, "--start_seed", 2]
    argv += ["--end_seed", 3, "--save_dir", folder, "--batch_size", 10, "--device", "cpu"]
    result = synthesize_dit.main([str(argument) for argument in argv])
    assert result["made"] == 20
    assert {file.name for file in folder.glob("class_*")} == {
        f"class_{label}_seed_2_num_{number}.png" for label in (1, 2) for number in range(10)
    }
    items = [(1, 20), (2, 27)]
    labels = torch.tensor([1, 2])
    latents = CHAINS["ddpm"](
        guided(state, 6, labels, SCALE), batch_noise(0, items, SHAPE, 3), steps=4
    )
    images = pipeline.decode(latents.float())
    expected = (255 * (images / 2 + 0.5)).clamp(0, 255).permute(0, 2, 3, 1).numpy()
    for (label, index), pixels in zip(items, expected, strict=True):
        ours = np.asarray(Image.open(folder / f"class_{label}_seed_2_num_{index - 20}.png")).astype(
            float
        )
        assert np.std(pixels) > 10 and abs(ours - pixels).max() < 0.6


def test_vae_files_with_old_key_names_load(files, pipeline, tmp_path):
    """The published VAEs have the names that attention layers had in earlier versions."""
    from safetensors.torch import load_file

    old = Path(shutil.copytree(files / "vae", tmp_path / "pipeline/vae"))
    weights = load_file(old / "diffusion_pytorch_model.safetensors")
    for new, name in {
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "to_out.0": "proj_attn",
    }.items():
        weights = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in weights.items()}
    save_file(weights, old / "diffusion_pytorch_model.safetensors")
    assert any(".proj_attn." in key for key in weights)
    other = load_pipeline(read_pipeline("DiT-S/8", files / "plain.pt", str(tmp_path / "pipeline")))
    latents = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(other.decode(latents), pipeline.decode(latents))


def test_published_weights_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_vae(tmp_path / "vae")
    lines = []
    with pytest.raises(
        UserError, match="facebook/DiT-XL-2-512: no such folder here, and it cannot be downloaded"
    ):
        read_pipeline("DiT-XL/2", vae="vae", image_size=512, say=lines.append)
    with pytest.raises(
        UserError, match="no published weights of DiT-B/2 for 256 pixels: give --ckpt"
    ):
        read_pipeline("DiT-B/2", vae="vae", say=lines.append)
    Path("pretrained_models").mkdir()
    torch.save(
        official_state("DiT-XL/2", 1000, 16, random=False), "pretrained_models/DiT-XL-2-256x256.pt"
    )
    source = read_pipeline("DiT-XL/2", vae="vae", say=lines.append)
    assert (source.name, source.image_size, source.num_classes) == ("DiT-XL-2-256", 256, 1000)
    assert "facebook/DiT-XL-2-512 from the Hugging Face hub" in lines[0]
    assert lines[1] == "DiT-XL/2: pretrained_models/DiT-XL-2-256x256.pt"


def test_cost_estimate_needs_no_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--model", "DiT-XL/2", "--num-sampling-steps", "100", "--data_amount", "200k"]
    cost = synthesize_dit.main([*argv, "--estimate"])
    network = cost["evaluations"] * 2 * 118.6e9  # a pass has 118.6 G multiply-adds
    decoder = 200_000 * 0.62e12
    assert (
        cost["evaluations"] == 200_000 * 200
        and abs(cost["operations"] / (network + decoder) - 1) < 1e-3
    )
    assert 18e9 < cost["bytes"] < 26e9  # the released sets have about 20 GB
    printed = capsys.readouterr().out
    assert (
        "40000000 network evaluations" in printed
        and "9.62 EFLOP" in printed
        and "GB free" in printed
    )
    argv = ["--model", "DiT-L/4", "--image-size", "512", "--cfg-scale", "1", "--end_seed", "3"]
    large = synthesize_dit.main([*argv, "--estimate"])
    assert large["images"] == 30_000 and large["evaluations"] == 30_000 * 100
    assert not list(tmp_path.iterdir())


def shape(*sizes):
    return torch.zeros(1).expand(sizes)


SMALL = official_state(random=False)


def changed(name, tensor):
    """A correct checkpoint with one tensor replaced, or removed (None)."""
    return {key: value for key, value in (SMALL | {name: tensor}).items() if value is not None}


class Code:
    """Runs a command when unpickled."""

    def __reduce__(self):
        return os.system, ("touch CODE_HAS_RUN",)


# case: content of the checkpoint (None: no file), flags in addition to valid ones, message
WRONG = {
    "no file": (None, [], "checkpoint not found: FILE"),
    "no weights": ([1, 2], [], "checkpoint FILE holds no state dict"),
    "code": ({"ema": Code()}, [], "checkpoint FILE holds objects other than weights"),
    "a classifier": (
        {"fc.weight": shape(3, 3)},
        [],
        "(it lacks x_embedder.proj.weight; its first tensor is fc.weight)",
    ),
    "diffusers' weights": (
        {"transformer_blocks.0.attn1.to_q.weight": shape(3, 3)},
        [],
        "diffusers' weights are given as --model FOLDER",
    ),
    "another of the twelve": (
        official_state("DiT-B/4", random=False),
        [],
        "a DiT-B/4 (12 blocks of width 768, patch 4), not a DiT-S/8: give --model DiT-B/4",
    ),
    "none of the twelve": (
        {key: value for key, value in SMALL.items() if not key.startswith("blocks.11.")},
        [],
        "FILE holds a DiT (11 blocks of width 384, patch 8), none of DiT-S/2, ",
    ),
    "no learned variance": (
        changed("final_layer.linear.weight", shape(256, 384)),
        [],
        "FILE predicts 4 channels for 4 latent channels",
    ),
    "a tensor missing": (
        changed("blocks.3.mlp.fc1.bias", None),
        [],
        "FILE is not a complete DiT-S/8: blocks.3.mlp.fc1.bias is missing and should be (1536,)",
    ),
    "a tensor of another shape": (
        changed("blocks.3.mlp.fc1.bias", shape(7)),
        [],
        "blocks.3.mlp.fc1.bias is (7,) and should be (1536,)",
    ),
    "a tensor too many": (
        changed("blocks.0.attn.q_norm.weight", shape(64)),
        [],
        "blocks.0.attn.q_norm.weight is (64,) and should be absent",
    ),
    "image size": (SMALL, ["--image-size", "256"], "--image-size 256: FILE has 128"),
    "class count": (SMALL, ["--num-classes", "1000"], "--num-classes 1000: FILE has 5"),
    "class list": (
        SMALL,
        ["--class-list", "dataset/class_lists/imagenette.txt"],
        "DiT-S/8 has 5 classes",
    ),
    "checkpoint of a folder": (
        SMALL,
        ["--model", "VAE"],
        "--ckpt is an official checkpoint and --model VAE is not one of its names",
    ),
    "no VAE folder": (SMALL, ["--vae", "no_vae"], "--vae no_vae: no such folder here"),
    "no VAE online": (
        SMALL,
        ["--vae", "ema"],
        "--vae stabilityai/sd-vae-ft-ema: no such folder here",
    ),
    "no VAE in the folder": (
        SMALL,
        ["--vae", "."],
        ". is not an AutoencoderKL folder: config.json is missing",
    ),
    "VAE of another factor": (
        SMALL,
        ["--vae", "FACTOR2"],
        "--vae FACTOR2 has 2 pixels per latent cell",
    ),
    "VAE of other channels": (SMALL, ["--vae", "CHANNELS3"], "CHANNELS3 has 3 latent channels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_message(files, tmp_path, monkeypatch, capsys, name):
    content, flags, expected = WRONG[name]
    monkeypatch.chdir(tmp_path)
    Path("dataset").symlink_to(Path(synthesize_dit.__file__).parent / "dataset")
    Path("VAE").symlink_to(files / "vae")
    if "FACTOR2" in flags:
        small_vae(tmp_path / "FACTOR2", levels=2)
    if "CHANNELS3" in flags:
        small_vae(tmp_path / "CHANNELS3", channels=3)
    if content is not None:
        torch.save(content, "FILE")
    valid = ["--model", "DiT-S/8", "--ckpt", "FILE", "--vae", "VAE", "--save_dir", "set"]
    valid += ["--num-sampling-steps", "2", "--images_per_class", "1"]
    assert run_script(synthesize_dit.main, [*valid, *flags]) == 2
    message = capsys.readouterr().err
    assert expected in message and message.startswith("error: ") and message.count("\n") <= 2
    assert not Path("set").exists() and not Path("CODE_HAS_RUN").exists()
