"""train_dit.py: diffusion objective, network, stages, resuming, pipeline folder."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

import train_dit
from dataset import fashion_mnist, folders
from diffusion.build import build_dit, build_vae, separate_embedders
from diffusion.loss import GaussianDiffusion, drop_labels, moving_average
from helper import checkpoints
from helper.errors import UserError
from helper.run import Run

ROOT = Path(__file__).resolve().parent.parent
BETAS = np.linspace(1e-4, 0.02, 1000)


# The objective


def chain_of(betas=BETAS):
    return GaussianDiffusion(torch.tensor(betas))


def random_step(t, seed=0, shape=(2, 4, 4)):
    """Returns numpy x0 and noise (N, C, H, W) and an output (N, 2C, H, W) for timesteps `t`."""
    rng = np.random.default_rng(seed)
    x0, noise = (rng.normal(size=(len(t), *shape)) for _ in range(2))
    eps = noise + 0.3 * rng.normal(size=noise.shape)
    return x0, noise, np.concatenate([eps, rng.uniform(-1.5, 1.5, noise.shape)], axis=1)


def independent_losses(output, x0, noise, t, betas=BETAS):
    """(mse, bound in bits) of one sample in numpy; the posterior follows by Bayes' rule."""
    eps, v = np.split(output, 2)
    bar = np.cumprod(1 - betas)
    before = bar[t - 1] if t else 1.0
    xt = math.sqrt(bar[t]) * x0 + math.sqrt(1 - bar[t]) * noise

    def posterior(x0):
        if t == 0:
            return x0, 0.0
        # q(x_{t−1} | x_0) = N(√ᾱ_{t−1}·x_0, 1 − ᾱ_{t−1}); q(x_t | x_{t−1}) = N(√(1 − β)·x_{t−1},
        # β): precisions add.
        precision = 1 / (1 - before) + (1 - betas[t]) / betas[t]
        weighted = math.sqrt(before) * x0 / (1 - before) + math.sqrt(1 - betas[t]) * xt / betas[t]
        return weighted / precision, 1 / precision

    predicted_x0 = (xt - math.sqrt(1 - bar[t]) * eps) / math.sqrt(bar[t])
    mean, variance = posterior(predicted_x0)
    floor = betas[1] * (1 - bar[0]) / (1 - bar[1]) if t == 0 else variance
    predicted = np.exp((v + 1) / 2 * math.log(betas[t]) + (1 - v) / 2 * math.log(floor))
    if t:
        true_mean, true_variance = posterior(x0)
        nats = 0.5 * (
            np.log(predicted / true_variance)
            + (true_variance + (true_mean - mean) ** 2) / predicted
            - 1
        )
    else:

        def below(value):
            return np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in value.ravel()]).reshape(
                value.shape
            )

        up, down = (below((x0 - mean + side / 255) / np.sqrt(predicted)) for side in (1, -1))
        probability = np.where(x0 < -0.999, up, np.where(x0 > 0.999, 1 - down, up - down))
        nats = -np.log(np.maximum(probability, 1e-12))
    return ((eps - noise) ** 2).mean(), nats.mean() / math.log(2)


def torch_losses(chain, output, x0, noise, t):
    x0, noise, output = (torch.tensor(array, dtype=torch.float32) for array in (x0, noise, output))
    t = torch.tensor(t)
    return chain.losses(output, x0, chain.add_noise(x0, t, noise), t, noise)


def test_losses_are_those_of_the_formulas():
    t = [1, 2, 3, 10, 100, 500, 900, 999]
    x0, noise, output = random_step(t)
    mse, bound = torch_losses(chain_of(), output, x0, noise, t)
    assert mse.shape == bound.shape == (len(t),)
    for i, step in enumerate(t):
        expected = independent_losses(output[i], x0[i], noise[i], step)
        assert float(mse[i]) == pytest.approx(expected[0], rel=1e-4)
        assert float(bound[i]) == pytest.approx(expected[1], rel=2e-3)


def test_first_step_is_a_likelihood():
    betas = np.linspace(0.02, 0.2, 50)  # bins that single precision tells apart
    x0, noise, output = random_step([0] * 4)
    x0 *= 0.5
    x0[0, 0, 0] = [-1.2, 1.3, -0.9995, 0.9995]  # the open outer bins
    mse, bound = torch_losses(chain_of(betas), output, x0, noise, [0] * 4)
    for i in range(4):
        expected = independent_losses(output[i], x0[i], noise[i], 0, betas)
        assert float(mse[i]) == pytest.approx(expected[0], rel=1e-4)
        assert float(bound[i]) == pytest.approx(expected[1], rel=5e-3)


def test_a_perfect_prediction_costs_nothing():
    t = [1, 50, 700]
    x0, noise, output = random_step(t)
    # The noise itself, and the variance of the posterior
    output = np.concatenate([noise, -np.ones_like(noise)], axis=1)
    mse, bound = torch_losses(chain_of(), output, x0, noise, t)
    assert mse.abs().max() < 1e-10 and bound.abs().max() < 1e-4


def test_the_bound_trains_the_variance_only():
    t = torch.tensor([0, 1, 400])
    x0, noise, output = (torch.tensor(array, dtype=torch.float32) for array in random_step(t))
    output.requires_grad_()
    mse, bound = chain_of().losses(output, x0, chain_of().add_noise(x0, t, noise), t, noise)
    (by_bound,) = torch.autograd.grad(bound.sum(), output, retain_graph=True)
    (by_mse,) = torch.autograd.grad(mse.sum(), output)
    assert by_bound[:, :2].abs().max() == 0 < by_bound[:, 2:].abs().max()
    assert by_mse[:, 2:].abs().max() == 0 < by_mse[:, :2].abs().max()
    torch.testing.assert_close(by_mse[:, :2], 2 * (output[:, :2] - noise).detach() / 32)


def test_noise_is_added_with_unit_variance():
    chain, x0 = chain_of(), torch.ones(1, 1, 1, 1)
    for t in (0, 10, 999):
        bar = float(np.prod(1 - BETAS[: t + 1]))
        step = torch.tensor([t])
        assert float(chain.add_noise(x0, step, 0 * x0)) == pytest.approx(math.sqrt(bar), rel=1e-5)
        assert float(chain.add_noise(0 * x0, step, x0)) == pytest.approx(
            math.sqrt(1 - bar), rel=1e-5
        )


def test_min_snr_weights():
    steps = torch.tensor([0, 30, 300, 999])
    weights = chain_of().min_snr_weight(steps, 5.0)
    bar = np.cumprod(1 - BETAS)[steps.numpy()]
    snr = bar / (1 - bar)
    np.testing.assert_allclose(weights, np.minimum(snr, 5) / snr, rtol=1e-4)
    assert weights[0] < 1e-3 and weights[1] < 1 and weights[2] == weights[3] == 1
    assert torch.equal(chain_of().min_snr_weight(steps, 0.0), torch.ones(4))


def test_the_moving_average_starts_without_lagging():
    network = torch.nn.Linear(1, 1, bias=False)
    averaged = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=moving_average(0.5))
    expected = None
    for n in range(12):
        value = float(n**2)
        torch.nn.init.constant_(network.weight, value)
        averaged.update_parameters(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert float(averaged.module.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_labels_are_dropped_once_per_sample():
    labels = torch.arange(10).repeat(2000)
    torch.manual_seed(0)
    dropped = drop_labels(labels, 10, 0.1)
    changed = dropped != labels
    assert set(dropped[changed].tolist()) == {10}  # index of the null class
    assert labels.max() == 9  # not changed in place
    assert float(changed.float().mean()) == pytest.approx(0.1, abs=0.01)
    assert all(
        float(changed[labels == c].float().mean()) == pytest.approx(0.1, abs=0.03)
        for c in range(10)
    )
    assert torch.equal(drop_labels(labels, 10, 0.0), labels)
    assert (drop_labels(labels, 10, 1.0) == 10).all()


# The network


def tiny_dit(seed=0, depth=2):
    torch.manual_seed(seed)
    return build_dit(
        depth=depth,
        width=16,
        heads=2,
        patch_size=2,
        latent_size=4,
        latent_channels=2,
        num_classes=3,
    )


def randomised(model):
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    return model


def inputs(count=6, seed=3):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 2, 4, 4, generator=rng),
        torch.randint(1000, (count,), generator=rng),
        torch.arange(count) % 4,
    )


def test_initialisation_is_zero_where_the_official_one_is():
    model = tiny_dit()
    assert model(*inputs()).sample.abs().max() == 0
    for block in model.transformer_blocks:
        for parameter in block.norm1.linear.parameters():
            assert parameter.abs().max() == 0
        tokens = torch.randn(6, 4, 16)  # each block is the identity
        torch.testing.assert_close(
            block(tokens, timestep=inputs()[1], class_labels=inputs()[2]), tokens
        )
        assert block.attn1.to_q.weight.std() > 0.1 and block.attn1.to_q.bias.abs().max() == 0
    embedder = model.transformer_blocks[0].norm1.emb
    assert float(embedder.timestep_embedder.linear_1.weight.detach().std()) == pytest.approx(
        0.02, rel=0.1
    )
    classes = embedder.class_embedder.embedding_table.weight
    assert classes.shape == (4, 16)  # three classes and the null class
    assert model(*inputs()).sample.shape == (6, 4, 4, 4)


def test_one_embedder_serves_all_blocks_and_is_copied_for_saving():
    model = randomised(tiny_dit(depth=3)).eval()
    assert len({id(block.norm1.emb) for block in model.transformer_blocks}) == 1
    copy = separate_embedders(model).eval()
    assert len({id(block.norm1.emb) for block in copy.transformer_blocks}) == 3
    assert len({id(block.norm1.emb) for block in model.transformer_blocks}) == 1  # unchanged
    embedder = sum(p.numel() for p in model.transformer_blocks[0].norm1.emb.parameters())
    assert (
        sum(p.numel() for p in copy.parameters())
        == sum(p.numel() for p in model.parameters()) + 2 * embedder
    )
    with torch.no_grad():
        assert torch.equal(copy(*inputs()).sample, model(*inputs()).sample)
        assert model(*inputs()).sample.std() > 0.01


def test_time_embedding_is_the_official_one():
    projection = tiny_dit().transformer_blocks[1].norm1.emb.time_proj(torch.tensor([7.0]))
    frequencies = 10000 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(7 * frequencies), np.sin(7 * frequencies)])
    np.testing.assert_allclose(projection[0].numpy(), expected, atol=1e-5)


def test_the_blocks_own_label_dropout_is_off():
    model = randomised(tiny_dit())
    train_dit.prepare_for_training(model)
    assert model.training and all(block.training for block in model.transformer_blocks)
    x, t, _ = inputs(64)
    labels = torch.arange(64) % 3
    with torch.no_grad():
        first = model(x, t, labels).sample
        for _ in range(3):
            assert torch.equal(model(x, t, labels).sample, first)
        model.train()  # every block drops labels
        assert not torch.equal(model(x, t, labels).sample, first)


def test_impossible_autoencoders_are_refused():
    assert sum(p.numel() for p in build_vae([8, 16], 4, 32).parameters()) < 100_000
    with torch.no_grad():
        assert build_vae([8, 8, 16], 3, 32).encode(
            torch.zeros(1, 3, 32, 32)
        ).latent_dist.mean.shape == (1, 3, 8, 8)
    for channels, size, message in (
        ([8, 12], 32, "multiples of 8"),
        ([], 32, "multiples of 8"),
        ([0, 8], 32, "multiples of 8"),
        ([8, 8, 8], 30, "not divisible by 4"),
    ):
        with pytest.raises(UserError, match=message):
            build_vae(channels, 4, size)


@pytest.mark.parametrize(
    "sizes, named",
    [
        (["--width", "30", "--heads", "4"], "--heads 4"),
        (["--width", "150", "--heads", "6"], "by 4"),
        (["--warmup_epochs", "99"], "--warmup_epochs 99"),
        (["--label_dropout", "1"], "--label_dropout"),
        (["--patch_size", "3"], "--patch_size 3"),
    ],
)
def test_impossible_dits_are_refused_before_an_image_is_read(sizes, named, data, tmp_path):
    with pytest.raises(UserError, match=named):
        train_dit.main([*data, *DIT, *sizes, "--save_dir", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


# The stages


COMMON = ["--vae_channels", "8,8,16", "--batch_size", "32", "--device", "cpu", "--seed", "1"]
VAE = ["--stage", "vae", *COMMON, "--epochs", "1", "--learning_rate", "3e-3"]
DIT = [
    "--stage",
    "dit",
    *COMMON,
    "--depth",
    "1",
    "--width",
    "16",
    "--heads",
    "2",
    "--epochs",
    "3",
    "--learning_rate",
    "1e-2",
    "--ema",
    "0.8",
    "--label_dropout",
    "0.2",
    "--snr_gamma",
    "5",
]


@pytest.fixture(scope="module")
def data(tiny_fashion_mnist):
    return ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist)]


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory, data):
    """A folder whose train_vae/ holds a finished autoencoder."""
    folder = tmp_path_factory.mktemp("models") / "vae"
    train_dit.main([*data, *VAE, "--save_dir", str(folder)])
    return folder


def beside(autoencoder, name):
    """Returns a new folder with a copy of the autoencoder."""
    folder = autoencoder.parent / name
    (folder / "train_vae").mkdir(parents=True)
    (folder / "train_vae/vae_latest.pth").write_bytes(
        (autoencoder / "train_vae/vae_latest.pth").read_bytes()
    )
    return folder


@pytest.fixture(scope="module")
def pipeline(autoencoder, data):
    """(folder, result) of an uninterrupted run of stage dit."""
    folder = beside(autoencoder, "whole")
    return folder, train_dit.main([*data, *DIT, "--save_dir", str(folder)])


def rows_of(folder):
    with open(folder / "metrics.csv") as file:
        return [
            {key: value for key, value in row.items() if key != "images_s"}
            for row in csv.DictReader(file)
        ]


def test_autoencoder_run_folder(autoencoder):
    folder = autoencoder / "train_vae"
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "train.log",
        "metrics.csv",
        "curves.png",
        "vae_latest.pth",
        "vae_best.pth",
        "result.json",
    }
    result = json.loads((folder / "result.json").read_text())
    assert (
        result["stage"] == "vae"
        and result["image_steps"] == 10 * 32
        and 5 < result["val_psnr"] < 40
    )
    assert "optimizer" not in checkpoints.load(folder / "vae_latest.pth")  # finished


def test_pipeline_folder_is_diffusers_own(pipeline, capfd):
    from diffusers import DiTPipeline

    folder, result = pipeline
    assert {path.name for path in folder.iterdir()} == {
        "model_index.json",
        "transformer",
        "vae",
        "scheduler",
        "generator.json",
        "train_vae",
        "train_dit",
    }
    loaded = DiTPipeline.from_pretrained(folder)
    assert loaded.get_label_ids(["Bag"]) == [8]
    images = loaded([0], guidance_scale=1.0, num_inference_steps=2).images
    assert [image.size for image in images] == [(32, 32)]
    state = checkpoints.load(folder / "train_dit/dit_latest.pth")
    weights = loaded.transformer.state_dict()
    averaged = {
        key.removeprefix("module."): value
        for key, value in state["ema"].items()
        if key != "n_averaged"
    }
    assert weights.keys() == averaged.keys()
    for key, value in averaged.items():  # the averaged weights, not the last ones
        torch.testing.assert_close(weights[key].float(), value.half().float())
    assert any(not torch.equal(value, averaged[key]) for key, value in state["model"].items())
    config = loaded.transformer.config
    assert (
        config.num_layers,
        config.out_channels,
        config.num_embeds_ada_norm,
        config.sample_size,
    ) == (1, 8, 10, 8)
    expected = {
        "_class_name": "DDIMScheduler",
        "timestep_spacing": "leading",
        "clip_sample": False,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "num_train_timesteps": 1000,
    }
    assert expected.items() <= dict(loaded.scheduler.config).items()
    for part in ("transformer", "vae"):
        weights = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float16}
    info = json.loads((folder / "generator.json").read_text())
    expected = {
        "cfg_channels": 4,
        "time_embedding": "official",
        "grey": True,
        "image_size": 32,
        "seed": 1,
        "dataset": "fashion_mnist",
    }
    assert expected.items() <= info.items() and info["class_names"][0] == "T-shirt/top"


def test_latents_have_unit_variance(pipeline, data, tiny_fashion_mnist):
    from diffusers import AutoencoderKL

    from dataset import fashion_mnist

    vae = AutoencoderKL.from_pretrained(pipeline[0] / "vae")
    images = fashion_mnist.load(tiny_fashion_mnist, "train").images
    with torch.no_grad():
        posterior = vae.encode(
            torch.tensor(images / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
        ).latent_dist
        torch.manual_seed(0)
        latents = vae.config.scaling_factor * posterior.sample()
    assert float(latents.std()) == pytest.approx(1, abs=0.03)


def test_the_null_branch_is_trained(pipeline, autoencoder, data):
    folder, result = pipeline
    null = [float(row["val_mse_null"]) for row in rows_of(folder / "train_dit")]
    given = [float(row["val_mse"]) for row in rows_of(folder / "train_dit")]
    assert null[0] > null[-1] and null[-1] < 0.97  # 1: a network that predicts zeros
    assert given[0] > given[-1] and result["val_mse"] == pytest.approx(given[-1], rel=1e-5)
    # Its embedding changes, but not without label dropout.
    never = beside(autoencoder, "never_dropped")
    train_dit.main([*data, *DIT, "--epochs", "1", "--label_dropout", "0", "--save_dir", str(never)])
    tables = [checkpoints.load(f / "train_dit/dit_latest.pth")["model"] for f in (folder, never)]
    key = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    torch.manual_seed(1)
    start = build_dit(
        depth=1, width=16, heads=2, patch_size=2, latent_size=8, latent_channels=4, num_classes=10
    ).state_dict()[key]
    assert (tables[0][key][10] - start[10]).abs().max() > 1e-3
    assert torch.equal(tables[1][key][10], start[10]) and not torch.equal(
        tables[1][key][0], start[0]
    )


class Killed(BaseException):
    """Ends a run as SIGKILL would."""


def _kill():
    raise Killed


def _terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "name, target, function, call, action, state",
    [
        ("middle", train_dit, "update", 14, _terminate, (1, 4)),
        ("boundary", Run, "end_epoch", 2, _kill, (2, 0)),
        ("end", Run, "end_epoch", 3, _kill, (3, 0)),  # before the pipeline is written
    ],
)
def test_interrupted_and_resumed_is_never_interrupted(
    pipeline, autoencoder, data, monkeypatch, name, target, function, call, action, state
):
    folder, real, calls = beside(autoencoder, name), getattr(target, function), []

    def interrupted(*arguments, **keywords):
        result = real(*arguments, **keywords)
        calls.append(1)
        if len(calls) == call:
            action()
        return result

    argv = [*data, *DIT, "--save_dir", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(target, function, interrupted)
        with pytest.raises((SystemExit, Killed)):
            train_dit.main(argv)
    progress = checkpoints.load(folder / "train_dit/dit_latest.pth")["progress"]
    assert (progress["epoch"], progress["step"]) == state and not (folder / "transformer").exists()
    train_dit.main([*argv, "--resume"])
    whole = pipeline[0]
    for kind in ("latest", "best"):
        one, other = (checkpoints.load(f / f"train_dit/dit_{kind}.pth") for f in (folder, whole))
        assert one.keys() == other.keys()
        for part in other.keys() & {"model", "ema"}:
            assert all(torch.equal(one[part][key], value) for key, value in other[part].items())
    assert rows_of(folder / "train_dit") == rows_of(whole / "train_dit")
    weights = [file.relative_to(whole) for file in whole.glob("*/*.safetensors")]
    assert len(weights) == 2 and all(
        (folder / file).read_bytes() == (whole / file).read_bytes() for file in weights
    )


def test_fewer_images(autoencoder, data, tmp_path):
    argv = [*data, *VAE, "--data_amount", "70", "--save_dir", str(tmp_path)]
    assert train_dit.main(argv)["image_steps"] == 2 * 32  # whole batches
    with pytest.raises(UserError, match="1000000 .*class"):
        train_dit.main([*data, *VAE, "--data_amount", "1m", "--save_dir", str(tmp_path / "more")])


def test_reconstructions_are_sorted_by_class(autoencoder, data, tiny_fashion_mnist):
    argv = [
        *data,
        *VAE,
        "--stage",
        "reconstruct",
        "--data_amount",
        "40",
        "--save_dir",
        str(autoencoder),
    ]
    folder = train_dit.main(argv)
    images = folders.read_training(folder, 10)
    original = fashion_mnist.load(tiny_fashion_mnist, "train")
    assert len(images) == 40 and np.bincount(images.labels).tolist() == [4] * 10
    checkpoint = checkpoints.load(autoencoder / "train_vae/vae_latest.pth")
    vae = build_vae([8, 8, 16], 4, 32).eval()
    vae.load_state_dict(checkpoint["model"])
    for label in (0, 7):
        source = original.images[np.flatnonzero(original.labels == label)[3]]
        with torch.no_grad():
            x = torch.from_numpy(source).permute(2, 0, 1)[None] / 127.5 - 1
            expected = (
                vae.decode(vae.encode(x).latent_dist.mode()).sample.mean(dim=1)[0].clamp(-1, 1)
            )
        written = np.asarray(Image.open(folder / f"{label:04d}/00003.png"), np.float32)
        assert (
            written.shape == (32, 32)
            and np.abs(written - 127.5 * (expected.numpy() + 1)).max() <= 1
        )


def test_a_pipeline_without_its_training_gives_the_same_reconstructions(pipeline, data, tmp_path):
    """Shipped pipelines come without training checkpoints."""
    argv = [*data, *DIT, "--stage", "reconstruct", "--data_amount", "10", "--save_dir"]
    alone = tmp_path / "alone"
    shutil.copytree(pipeline[0], alone, ignore=shutil.ignore_patterns("train_*", "reconstructed"))
    written = train_dit.main([*argv, str(alone)])
    images = folders.read_training(written, 10)
    assert len(images) == 10
    vae = AutoencoderKL.from_pretrained(alone / "vae").eval()
    from_checkpoint = train_dit.load_vae(pipeline[0], [8, 8, 16], 4, 32)
    for name, value in vae.state_dict().items():  # a pipeline's weights are in half precision
        torch.testing.assert_close(value, from_checkpoint.state_dict()[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("stage", ["vae", "dit"])
def test_a_finished_stage_reads_no_image_and_writes_nothing(
    pipeline, autoencoder, data, monkeypatch, stage, capsys
):
    folder, argv = (autoencoder, VAE) if stage == "vae" else (pipeline[0], DIT)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(train_dit.real.RealData, "split", None)
        result = train_dit.main([*data, *argv, "--save_dir", str(folder), "--resume"])
        with pytest.raises(
            UserError, match="learning_rate 0.01" if stage == "dit" else "learning_rate 0.003"
        ):
            train_dit.main(
                [*data, *argv, "--save_dir", str(folder), "--resume", "--learning_rate", "0.5"]
            )
    assert result == json.loads((folder / f"train_{stage}/result.json").read_text())
    assert "is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written


def test_interrupted_autoencoder(autoencoder, data, monkeypatch, tmp_path):
    real, calls = train_dit.update, []

    def interrupted(*arguments):
        real(*arguments)
        calls.append(1)
        if len(calls) == 4:
            _terminate()

    argv = [*data, *VAE, "--save_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(train_dit, "update", interrupted)
        with pytest.raises(SystemExit):
            train_dit.main(argv)
    with pytest.raises(UserError, match="unfinished run.* --stage vae --resume"):
        train_dit.main([*data, *DIT, "--save_dir", str(tmp_path)])
    train_dit.main([*argv, "--resume"])
    one, other = (
        checkpoints.load(Path(f) / "train_vae/vae_latest.pth")["model"]
        for f in (tmp_path, autoencoder)
    )
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_two_processes_in_bf16(autoencoder, data):
    """Under torchrun only rank 0 prints and writes, and the loss falls."""
    folder = beside(autoencoder, "two")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(ROOT / "train_dit.py"),
        *data,
        *DIT,
        "--amp",
        "bf16",
        "--save_dir",
        str(folder),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/3") == done.stdout.count("pipeline: ") == 1
    rows = rows_of(folder / "train_dit")
    assert len(rows) == 3 and float(rows[-1]["mse"]) < float(rows[0]["mse"])
    assert json.loads((folder / "train_dit/result.json").read_text())["image_steps"] % (3 * 32) == 0
    assert (folder / "model_index.json").is_file() and not list(folder.glob("*.part"))
