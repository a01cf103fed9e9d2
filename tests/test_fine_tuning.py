"""train_dit.py --init: a published DiT learns other classes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_official_dit import official_state, small_vae

import synthesize_dit
import train_dit
from dataset import latents
from diffusion.build import for_new_classes
from diffusion.pipeline import load_pipeline, read_initial
from helper import checkpoints
from helper.errors import run_script

LINE = ["--stage", "dit", "--batch_size", "32", "--device", "cpu", "--ema", "0.5", "--epochs", "2"]


@pytest.fixture(scope="module")
def data(tiny_fashion_mnist):
    return ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_pipeline, data):
    """The folder of the tiny pipeline after two epochs on Fashion-MNIST, and the line to get it."""
    folder = tmp_path_factory.mktemp("tuned") / "garments"
    line = [*LINE, *data, "--init", str(tiny_pipeline), "--save_dir", str(folder)]
    train_dit.main(line)
    return folder, line


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A random DiT-S/8 of five classes in the official format, and vae/; deleted afterwards."""
    folder = tmp_path_factory.mktemp("official")
    torch.save({"ema": official_state(), "args": {"path": Path("results")}}, folder / "official.pt")
    small_vae(folder / "vae")
    yield folder
    shutil.rmtree(folder)


def test_the_result_is_a_pipeline_of_the_new_classes(tuned, tiny_pipeline, tmp_path):
    folder, _ = tuned
    before, after = load_pipeline(tiny_pipeline), load_pipeline(folder)
    assert (before.num_classes, after.num_classes) == (3, 10)
    assert after.info["class_names"][9] == "Ankle boot" and after.info["grey"]
    assert after.info["cfg_channels"] == 4 and after.time_embedding == "official"
    assert after.scaling_factor == before.scaling_factor == 0.5
    for one, other in zip(
        before.vae.state_dict().values(), after.vae.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)  # kept, in float32
    # The DiT has learned and is not a new one
    names = dict(before.denoiser.named_parameters())
    changes = [
        float((parameter - names[name]).norm() / names[name].norm())
        for name, parameter in after.denoiser.named_parameters()
        if "embedding_table" not in name
    ]
    assert 1e-4 < np.median(changes) < 0.1
    images = tmp_path / "images"
    line = ["--model", str(folder), "--classes", "0,9", "--data_amount", "2", "--device", "cpu"]
    synthesize_dit.main([*line, "--num-sampling-steps", "2", "--save_dir", str(images)])
    assert {path.name for path in images.glob("*/*.png")} == {"00000.png"}


def test_latents_are_encoded_once(tuned, tiny_pipeline, data, tmp_path, monkeypatch):
    folder, line = tuned
    moments = np.load(folder / "latents/train.npy")
    assert moments.shape == (330, 8, 8, 8) and np.isfinite(moments).all()
    assert np.load(folder / "latents/validation.npy").shape == (30, 8, 8, 8)
    again = tmp_path / "again"
    shutil.copytree(folder / "latents", again / "latents")

    def fail(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(latents, "_encode_share", fail)
    train_dit.main([*line, "--save_dir", str(again)])
    one, other = (
        checkpoints.load(path / "train_dit/dit_latest.pth")["model"] for path in (folder, again)
    )
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    # Those of other images are not used
    for stale in ("train_dit", "transformer"):
        shutil.rmtree(again / stale)
    with pytest.raises(AssertionError, match="encoded again"):
        train_dit.main([*line, "--save_dir", str(again), "--data_amount", "100"])
    monkeypatch.undo()
    train_dit.main([*line, "--save_dir", str(again), "--data_amount", "100"])
    assert np.load(again / "latents/train.npy").shape == (100, 8, 8, 8)


def test_a_resumed_run_is_the_uninterrupted_one(tuned, tmp_path, monkeypatch):
    folder, line = tuned
    part = tmp_path / "part"

    def stop(self, metrics, score):
        end_epoch(self, metrics, score)
        raise KeyboardInterrupt

    end_epoch = train_dit.Run.end_epoch
    monkeypatch.setattr(train_dit.Run, "end_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train_dit.main([*line, "--save_dir", str(part)])
    monkeypatch.undo()
    assert not (part / "generator.json").exists()
    train_dit.main([*line, "--save_dir", str(part), "--resume"])
    one, other = (
        (path / "transformer/diffusion_pytorch_model.safetensors").read_bytes()
        for path in (folder, part)
    )
    assert one == other


def test_only_the_rows_of_the_classes_are_new(official):
    pipeline = load_pipeline(read_initial(official / "official.pt", str(official / "vae")))
    assert pipeline.name == "DiT-S-8-128"
    x = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([999, 20])
    null = pipeline.predict(x, t, torch.tensor([5, 5]))
    torch.manual_seed(1)
    model = for_new_classes(pipeline, 12)
    with torch.no_grad():
        assert torch.equal(model(x, t, torch.tensor([12, 12])).sample, null)
    embedders = {block.norm1.emb for block in model.transformer_blocks}
    assert len(embedders) == 1  # shared, as in the official model
    rows = embedders.pop().class_embedder.embedding_table.weight.detach()
    assert rows.shape == (13, 384) and float(rows[:-1].std()) == pytest.approx(0.02, rel=0.05)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config.num_embeds_ada_norm == 12 and model.config.norm_eps == 1e-6


@pytest.mark.parametrize(
    "more, words",
    [
        (["--stage", "vae"], "--init needs --stage dit"),
        (["--depth", "12"], "--depth and --init"),
        (["--vae_channels", "8,16"], "--vae_channels and --init"),
        (["--image_size", "32"], "--image_size 32: .* 16 pixels"),
        (["--init", "nothing.pt"], "checkpoint not found: nothing.pt"),
        (["--init", "nothing"], "--init nothing: no such folder"),
        (["--init", "scheduled"], "--init scheduled: beta_end .* 0.5"),
        (["--vae", "nowhere"], "--vae nowhere"),
    ],
)
def test_wrong_flags(more, words, tiny_pipeline, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_pipeline, "scheduled")
    config = Path("scheduled/scheduler/scheduler_config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.5}))
    line = [*LINE, *data, "--init", str(tiny_pipeline), *more]
    assert run_script(train_dit.main, line) == 2
    error = capsys.readouterr().err
    assert re.search(words, error) and len(error.splitlines()) <= 2
    assert {path.name for path in tmp_path.iterdir()} == {"scheduled"}


def test_a_pipeline_is_not_replaced_by_its_own_fine_tuning(tiny_pipeline, data, tmp_path, capsys):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "published")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = [*LINE, *data, "--init", str(folder), "--save_dir", str(folder)]
    assert run_script(train_dit.main, line) == 2
    assert "another --save_dir" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_is_not_resumed_with_another_start(tuned, tiny_pipeline, tmp_path, capsys):
    folder, line = tuned
    other = shutil.copytree(tiny_pipeline, tmp_path / "other")
    weights = other / "transformer/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    assert run_script(train_dit.main, [*line, "--init", str(other), "--resume"]) == 2
    assert "init_sha256" in capsys.readouterr().err
    position = line.index("--init")
    without = [*line[:position], *line[position + 2 :], "--resume"]
    assert run_script(train_dit.main, without) == 2
    assert "started with init True, not False" in capsys.readouterr().err
    assert run_script(train_dit.main, [*LINE, "--vae", "mse", *line[len(LINE) : position]]) == 2
    assert "--vae needs --init" in capsys.readouterr().err
