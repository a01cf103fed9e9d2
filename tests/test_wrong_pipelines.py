"""Pipelines, weights and JSON files that are damaged, of other programs, or not supported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_biggan import published_state
from test_biggan import write as write_biggan
from test_make_tables import RESULT
from test_official_dit import official_state, small_vae
from test_synthesize_baseline import SMALL, save_network

import make_tables
import run_sweep
import synthesize_baseline
import synthesize_dit
import train_dit
from dataset.folders import read_training
from dataset.pool import Pool
from diffusion.loss import GaussianDiffusion
from diffusion.pipeline import load_component, load_pipeline, read_pipeline
from diffusion.sampler import Sampler, check_steps, uneven_steps
from diffusion.schedule import DEFAULT_SCHEDULE, linear_betas
from helper.distributed import World
from helper.errors import UserError, run_script
from helper.files import entry, read_json
from report.sweeps import FIDELITY, read_figures
from tools import spread, summary

FLAGS = ["--num-sampling-steps", "2", "--images_per_class", "1", "--device", "cpu"]
WORLD = World(0, 1, torch.device("cpu"))
WEIGHTS = "diffusion_pytorch_model"


@pytest.fixture
def pipeline(tiny_pipeline, tmp_path, monkeypatch):
    """A copy of the tiny pipeline, `model`, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_pipeline, "model"))


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def error_of(capsys, main, *argv):
    """The message of a command line that must fail: exit code 2, one or two lines."""
    capsys.readouterr()
    assert run_script(main, [*map(str, argv)]) == 2
    _, error, message = capsys.readouterr().err.partition("error: ")  # after the progress bar
    assert error and 1 <= message.count("\n") <= 2
    return message


def synthesis_error(capsys, *flags, model="model"):
    argv = ["--model", model, "--save_dir", "set", *FLAGS, *flags]
    message = error_of(capsys, synthesize_dit.main, *argv)
    assert not [*Path().glob("set/**/*.*")]  # no image, and no manifest that stands in the way
    return message


# JSON of pipelines

TRANSFORMER, VAE = "transformer/config.json", "vae/config.json"
SCHEDULER, INFO = "scheduler/scheduler_config.json", "generator.json"
WRONG_VALUES = {
    "text for a size": (TRANSFORMER, "sample_size", "8"),
    "null for a size": (TRANSFORMER, "patch_size", None),
    "negative size": (TRANSFORMER, "num_layers", -2),
    "float size": (TRANSFORMER, "num_attention_heads", 2.5),
    "true for a size": (TRANSFORMER, "num_embeds_ada_norm", True),
    "text for channels": (TRANSFORMER, "out_channels", "8"),
    "activation": (TRANSFORMER, "activation_fn", 7),
    "a size that is not divisible": (TRANSFORMER, "patch_size", 3),
    "text for a factor": (VAE, "scaling_factor", "0.5"),
    "factor zero": (VAE, "scaling_factor", 0),
    "number for a list": (VAE, "block_out_channels", 8),
    "texts in a list": (VAE, "block_out_channels", ["8", "8"]),
    "grey VAE": (VAE, "out_channels", 1),
    "VAE blocks": (VAE, "up_block_types", [1, 2]),
    "shift": (VAE, "shift_factor", 0.1),
    "latents_mean": (VAE, "latents_mean", [0.1] * 4),
    "latents_std": (VAE, "latents_std", [2.0] * 4),
    "timesteps": (SCHEDULER, "num_train_timesteps", "1000"),
    "beta of text": (SCHEDULER, "beta_start", "1e-4"),
    "beta above 1": (SCHEDULER, "beta_end", 12),
    "betas of another length": (SCHEDULER, "trained_betas", [0.1, 0.2]),
    "nan among betas": (SCHEDULER, "trained_betas", [float("nan")] * 1000),
    "unknown schedule": (SCHEDULER, "beta_schedule", "cosine"),
    "v-prediction": (SCHEDULER, "prediction_type", "v_prediction"),
    "zero SNR": (SCHEDULER, "rescale_betas_zero_snr", True),
    "clipped latents": (SCHEDULER, "clip_sample", True),
    "thresholding": (SCHEDULER, "thresholding", True),
    "Karras": (SCHEDULER, "use_karras_sigmas", True),
    "flow": (SCHEDULER, "use_flow_sigmas", True),
    "channels of text": (INFO, "cfg_channels", "four"),
    "text for grey": (INFO, "grey", "no"),
    "unknown embedding": (INFO, "time_embedding", "sinusoidal"),
    "too few class names": (INFO, "class_names", ["bag"]),
    "class names of another kind": (INFO, "class_names", {"0": "bag"}),
}


READ_BY_DIFFUSERS = (
    "activation",
    "sizes that do not fit together",
    "texts in a list",
    "VAE blocks",
)


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_wrong_values_in_the_files_of_a_pipeline(pipeline, capsys, case):
    file, key, value = WRONG_VALUES[case]
    change_json(pipeline / file, **{key: value})
    message = synthesis_error(capsys)
    assert f"model/{file.partition('/')[0]}" in message or key in message
    if case not in READ_BY_DIFFUSERS:
        assert key in message


@pytest.mark.parametrize("file", [TRANSFORMER, VAE, SCHEDULER, INFO])
@pytest.mark.parametrize("text", ["[1, 2]", '"DiT"', "null", "", "[" * 100_000])
def test_files_of_a_pipeline_that_hold_no_object(pipeline, capsys, file, text):
    (pipeline / file).write_text(text)
    assert f"model/{file}" in synthesis_error(capsys)


def test_a_scheduler_without_betas_is_refused(pipeline, capsys):
    (pipeline / SCHEDULER).write_text(
        json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    )
    assert "FlowMatch" in synthesis_error(capsys)


def test_schedulers_of_published_pipelines_are_read(pipeline):
    published = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.12.0.dev0",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "trained_betas": None,
    }
    solver = {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "leading"}
    solver |= {"steps_offset": 1, "solver_order": 3, "use_karras_sigmas": False}
    for config in (published, published | solver, {}):
        (pipeline / SCHEDULER).write_text(json.dumps(config))
        assert read_pipeline(pipeline).schedule == DEFAULT_SCHEDULE
    (pipeline / SCHEDULER).write_text(
        json.dumps({"trained_betas": [0.01] * 4} | {"num_train_timesteps": 4})
    )
    assert read_pipeline(pipeline).schedule["trained_betas"] == [0.01] * 4


def test_json_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(tmp_path / "x.json", "file") == {}


def test_schedules_that_a_sampler_does_not_know():
    sigmoid = DEFAULT_SCHEDULE | {"beta_schedule": "sigmoid"}
    check_steps("ddpm", 2, sigmoid)
    with pytest.raises(UserError, match="sigmoid.*--sampler ddim"):
        check_steps("ddim", 2, sigmoid)


def test_entries():
    data = {"text": "a", "whole": 3, "number": 0.5, "none": None, "yes": True, "huge": 10**400}
    assert entry(data, "whole", float, "f") == 3 and entry(data, "none", int | None, "f") is None
    assert entry(data, "absent", int, "f", 7) == 7 and entry(data, "yes", bool, "f") is True
    for key, kind in (
        *(("text", int), ("number", int), ("none", int), ("yes", int), ("whole", bool)),
        *(("huge", float), ("absent", str), ("whole", str | None)),
    ):
        with pytest.raises(UserError, match=f"^f: {key} is "):
            entry(data, key, kind, "f")
    with pytest.raises(UserError, match="at least 4"):
        entry(data, "whole", int, "f", minimum=4)


# Weights


def rename_weights(folder, name):
    (folder / f"{WEIGHTS}.safetensors").rename(folder / name)


def test_the_only_variant_of_the_weights_is_read(pipeline, tiny_pipeline):
    expected = load_pipeline(tiny_pipeline).denoiser.state_dict()
    rename_weights(pipeline / "transformer", f"{WEIGHTS}.fp16.safetensors")
    rename_weights(pipeline / "vae", f"{WEIGHTS}.non_ema.safetensors")
    source = read_pipeline(pipeline)
    assert source.weights_sha256 == read_pipeline(tiny_pipeline).weights_sha256
    loaded = load_pipeline(source).denoiser.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_variant_in_several_files_is_read(pipeline, tiny_pipeline):
    from diffusers import DiTTransformer2DModel

    expected = load_component(DiTTransformer2DModel, tiny_pipeline / "transformer")
    shutil.rmtree(pipeline / "transformer")
    expected.save_pretrained(pipeline / "transformer", variant="fp16", max_shard_size="40KB")
    parts = sorted((pipeline / "transformer").glob("*-of-*.safetensors"))
    assert len(parts) > 1
    loaded = load_pipeline(pipeline).denoiser.transformer.state_dict()
    weight = "transformer_blocks.1.attn1.to_q.weight"
    assert torch.equal(loaded[weight], expected.state_dict()[weight])
    parts[0].unlink()
    with pytest.raises(UserError, match=parts[0].name):
        read_pipeline(pipeline)


def test_plain_weights_come_before_variants_and_one_of_two_variants_is_not_chosen(pipeline, capsys):
    folder = pipeline / "transformer"
    for variant in ("fp16", "bf16"):
        (folder / f"{WEIGHTS}.{variant}.safetensors").write_bytes(b"")
    load_pipeline(pipeline)
    (folder / f"{WEIGHTS}.safetensors").unlink()
    assert "bf16, fp16" in synthesis_error(capsys)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}'])
def test_a_weight_index_of_another_form(pipeline, capsys, index):
    file = pipeline / f"vae/{WEIGHTS}.safetensors.index.json"
    file.write_text(index)
    assert file.name in synthesis_error(capsys)


def damage(file, value, match=""):
    """Sets one number of one tensor, whose name contains `match`."""
    state = load_file(file)
    name = next(name for name in state if match in name)
    state[name].view(-1)[0] = value
    save_file(state, file)
    return name


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_never_make_an_image(
    pipeline, tiny_pipeline, capsys, part, value
):
    name = damage(pipeline / part / f"{WEIGHTS}.safetensors", value, "weight")
    message = synthesis_error(capsys)
    assert f"model/{part}" in message and name in message
    # The folder is free for the repaired model
    shutil.rmtree(pipeline)
    shutil.copytree(tiny_pipeline, pipeline)
    assert run_script(synthesize_dit.main, ["--model", "model", "--save_dir", "set", *FLAGS]) == 0


@pytest.mark.parametrize("scale", ["1e38", "1e30", "1e300"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_a_scale_that_overflows_is_named(pipeline, capsys, scale, sampler):
    argv = ["--model", "model", "--save_dir", "set", *FLAGS, "--sampler", sampler]
    message = error_of(capsys, synthesize_dit.main, *argv, "--cfg-scale", scale)
    assert "--cfg-scale" in message and not [*Path("set").glob("*/*.png")]
    manifest = Path("set/manifest.json")  # written when images begin
    assert not manifest.exists() or not json.loads(manifest.read_text())["complete"]


@pytest.mark.parametrize(
    "file, key, value",
    [
        ("transformer/config.json", "num_layers", 1),
        ("vae/config.json", "use_post_quant_conv", False),
    ],
)
def test_weights_that_the_configuration_does_not_use_are_refused(
    pipeline, capsys, file, key, value
):
    config = json.loads((pipeline / file).read_text())
    (pipeline / file).write_text(json.dumps(config | {key: value}))
    message = synthesis_error(capsys, "--cfg-scale=2")
    assert str(Path("model", file).parent) in message and "config.json" in message


def test_a_configuration_with_a_byte_order_mark_is_named(pipeline, capsys):
    file = pipeline / "transformer/config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    message = synthesis_error(capsys, "--cfg-scale=2")
    assert str(file) in message and "byte-order mark" in message


def test_a_folder_without_images_takes_other_settings(pipeline, capsys):
    """The message about the scale can be obeyed with the same --save_dir."""
    argv = ["--model", "model", "--save_dir", "set", *FLAGS]
    error_of(capsys, synthesize_dit.main, *argv, "--cfg-scale", "1e20")
    assert run_script(synthesize_dit.main, [*argv, "--cfg-scale", "2"]) == 0
    message = error_of(capsys, synthesize_dit.main, *argv, "--cfg-scale", "3")
    assert "cfg_scale" in message


@pytest.mark.parametrize("scale", ["nan", "inf", "-1", "two"])
def test_a_scale_that_is_no_number_is_refused(pipeline, capsys, scale):
    assert "--cfg-scale" in synthesis_error(capsys, f"--cfg-scale={scale}")


def test_no_scale_at_all_is_not_no_guidance(pipeline, capsys):
    message = synthesis_error(capsys, "--cfg-scale=0")
    assert "ignores the class" in message and "1 for no guidance" in message


def test_a_sit_is_not_read_as_a_dit(tmp_path, monkeypatch, capsys):
    """Its tensors are a DiT's; only its name tells."""
    monkeypatch.chdir(tmp_path)
    argv = official_argv(4, "set")
    Path("dit.pt").rename("SiT-S-8-256x256.pt")
    argv[argv.index("dit.pt")] = "SiT-S-8-256x256.pt"
    assert "velocity" in error_of(capsys, synthesize_dit.main, *argv)
    argv[argv.index("DiT-S/8")] = "SiT-S/8"
    assert "velocity" in error_of(capsys, synthesize_dit.main, *argv)


@pytest.mark.parametrize(
    "sampler, spacing, steps, better",
    [
        ("ddim", None, 600, 500),
        ("ddim", "trailing", 300, 250),
        ("dpmsolver++", "leading", 600, 499),
        ("ddpm", "leading", 150, 142),
        ("ddim", None, 3, None),
        ("ddim", None, 60, None),
        ("dpmsolver++", "leading", 3, None),
        ("dpmsolver++", "trailing", 600, None),
        ("dpmsolver++", None, 600, None),
        ("ddpm", None, 600, None),
    ],
)
def test_steps_that_do_not_cover_the_chain_are_noted(sampler, spacing, steps, better):
    """With `leading` the first timestep of diffusers' own scheduler tells how much they cover."""
    schedule = {"num_train_timesteps": 1000}
    text = uneven_steps(sampler, steps, schedule, spacing)
    assert bool(text) == bool(better)
    assert not better or f"use {better} steps" in text
    if spacing == "leading" or (spacing is None and sampler == "ddim"):
        timesteps = Sampler(sampler, steps, schedule, spacing).scheduler.timesteps
        left_out = 1000 - int(timesteps[0]) - int(timesteps[0] - timesteps[1])
        assert (left_out >= 50) == bool(better)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--num-sampling-steps", "1"], "timestep 0"),
        (["--num-sampling-steps", "1", "--sampler", "ddim"], "timestep 0"),
        (
            "--num-sampling-steps 5 --sampler dpmsolver++ --timestep_spacing leading "
            "--cfg_interval 0.2,0.3 --cfg-scale 2".split(),
            "none of the 5 timesteps",
        ),
    ],
)
def test_steps_and_intervals_without_effect_are_refused(pipeline, capsys, flags, word):
    argv = ["--model", "model", "--save_dir", "set", *FLAGS, *flags]
    assert word in error_of(capsys, synthesize_dit.main, *argv)
    assert not Path("set").exists()


@pytest.mark.parametrize("key, value", [("scaling_factor", 0.13025), ("levels", 3)])
def test_another_vae_than_the_dit_was_trained_with(pipeline, capsys, key, value):
    """With as many latent channels, but latents of another scale or size."""
    shutil.copytree(pipeline / "vae", "other")
    config = json.loads(Path("other/config.json").read_text())
    own = ["--model", "model", "--save_dir", "set", *FLAGS, "--vae", "other"]
    assert run_script(synthesize_dit.main, own) == 0
    capsys.readouterr()
    if key == "levels":
        config["block_out_channels"] = config["block_out_channels"] + [8]
    else:
        config[key] = value
    Path("other/config.json").write_text(json.dumps(config))
    argv = ["--model", "model", "--save_dir", "set2", *FLAGS, "--vae", "other"]
    assert "--vae other has" in error_of(capsys, synthesize_dit.main, *argv)


# The null class


def official_argv(rows, folder):
    torch.save(official_state(num_classes=rows - 1), "dit.pt")
    small_vae(Path("vae"))
    return ["--model", "DiT-S/8", "--ckpt", "dit.pt", "--vae", "vae", "--save_dir", folder, *FLAGS]


def test_a_label_table_without_null_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = official_argv(4, "set")
    message = error_of(capsys, synthesize_dit.main, *argv, "--num-classes", "4")
    assert "--cfg-scale" in message and not Path("set").exists()
    argv += ["--cfg-scale", "1"]
    assert run_script(synthesize_dit.main, [*argv, "--num-classes", "4"]) == 0
    assert len([*Path("set").glob("*/*.png")]) == 4
    capsys.readouterr()
    # Without the flag: 3 classes and the null class, with the same images, and a note
    argv[argv.index("set")] = "three"
    assert run_script(synthesize_dit.main, argv) == 0
    assert "--num-classes 4" in capsys.readouterr().out
    assert run_script(synthesize_dit.main, [*argv, "--num-classes", "3"]) == 0
    assert "note" not in capsys.readouterr().out
    for label in range(3):
        name = f"{label:04d}/00000.png"
        assert Path("set", name).read_bytes() == Path("three", name).read_bytes()
    assert "--num-classes 5" in error_of(capsys, synthesize_dit.main, *argv, "--num-classes", "5")


def test_a_pipeline_folder_says_its_number_of_classes(pipeline, capsys):
    flags = ["--num-classes", "4", "--cfg-scale", "1"]
    assert "--num-classes 4" in synthesis_error(capsys, *flags)


def test_guidance_by_an_untrained_null_class_is_noted(pipeline, capsys):
    change_json(pipeline / INFO, label_dropout=0)
    argv = ["--model", "model", "--save_dir", "set", *FLAGS]
    for scale, expected in (("1", False), ("2", True)):
        argv[3] = f"set{scale}"
        assert run_script(synthesize_dit.main, [*argv, "--cfg-scale", scale]) == 0
        assert ("label_dropout" in capsys.readouterr().out) is expected


# The other generators


def test_a_biggan_with_nan_weights_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = published_state()
    name = next(name for name in state if name.endswith("conv_0.bias"))
    state[name] = state[name].clone()
    state[name][0] = float("nan")
    write_biggan(Path("biggan"), state)
    argv = ["--method", "biggan", "--model", "biggan", "--save_dir", "set", "--device", "cpu"]
    message = error_of(capsys, synthesize_baseline.main, *argv, "--images_per_class", "1")
    assert "biggan" in message and not Path("set").exists()


def test_deepinversion_that_diverges_writes_no_image(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    teacher = save_network(Path("teacher.pth"), "resnet8", 0)
    argv = ["--method", "deepinversion", "--path-t", teacher, *SMALL, "--data_amount", "3"]
    argv += ["--save_dir", "set", "--oh", "1e30", "--bn", "1e30", "--tv", "1e30", "--l2", "1e30"]
    message = error_of(capsys, synthesize_baseline.main, *argv)
    assert "--lr" in message and not [*Path("set").glob("*/*.png")]


# Training a pipeline


def test_a_diverged_measure_of_unseen_images_ends_the_training():
    vae = train_dit.build_vae([8, 8], 4, 8)

    class Held:
        def ordered_batches(self):
            yield torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2)

    assert train_dit.evaluate_vae(vae, Held(), WORLD) < 100
    vae.decoder.conv_out.bias.data.fill_(-1e9)  # black images, without any error
    assert train_dit.evaluate_vae(vae, Held(), WORLD) == pytest.approx(120)
    vae.decoder.conv_out.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="nan.*--learning_rate"):
        train_dit.evaluate_vae(vae, Held(), WORLD)
    sizes = {"depth": 1, "width": 16, "heads": 2, "patch_size": 2, "latent_size": 4}
    dit = train_dit.build_dit(**sizes, latent_channels=4, num_classes=3)
    objective = train_dit.Objective(GaussianDiffusion(linear_betas(), "cpu"), 1.0, 0.0, "off")
    held_out = torch.zeros(2, 8, 4, 4), torch.zeros(2, dtype=torch.int64)
    assert train_dit.evaluate_transformer(dit, held_out, objective, WORLD)["val_mse"] > 0
    dit.proj_out_2.bias.data[0] = float("inf")
    with pytest.raises(UserError, match="--learning_rate"):
        train_dit.evaluate_transformer(dit, held_out, objective, WORLD)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_dit_has_a_loss_that_the_run_refuses(value):
    """Not an exception of torch.distributions, whose check would also wait for the device."""
    diffusion = GaussianDiffusion(linear_betas(), "cpu")
    latents = torch.zeros(2, 4, 4, 4)
    output, t = torch.full((2, 8, 4, 4), value), torch.tensor([0, 500])
    mse, bound = diffusion.losses(output, latents, latents, t, latents)
    assert not (mse + bound).isfinite().any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 200.0])
def test_latents_that_are_not_finite_name_the_autoencoder(value):
    moments = torch.zeros(2, 8, 4, 4)
    train_dit.check_latents(moments, "folder")
    moments[1, 7, 0, 0] = value
    with pytest.raises(UserError, match="train_vae"):
        train_dit.check_latents(moments, "folder")


# JSON beside images


@pytest.mark.parametrize(
    "text",
    ["[]", '"x"', '{"files": []}', '{"complete": "yes"}', '{"complete": true, "method": 3}'],
)
def test_another_programs_manifest_beside_training_images_is_ignored(tmp_path, capsys, text):
    for label in range(2):
        (tmp_path / f"{label}").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / f"{label}/a.png")
    (tmp_path / "manifest.json").write_text(text)
    images = read_training(tmp_path, 2)
    assert list(images.labels) == [0, 1] and images.origin["manifest"] is None
    assert "manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[]", '{"files": []}', '{"settings": 3}', "{"])
def test_another_programs_manifest_is_never_overwritten(pipeline, capsys, tmp_path, text):
    Path("set").mkdir()
    file = Path("set/manifest.json")
    file.write_text(text)
    argv = ["--model", "model", "--save_dir", "set", *FLAGS]
    assert "set/manifest.json" in error_of(capsys, synthesize_dit.main, *argv)
    with pytest.raises(UserError, match="set/manifest.json.*--pool"):
        Pool("set", 8, False, WORLD, {"run": "x"}).open()
    assert file.read_text() == text


# Results and figures


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema": 2}, "update"),
        ({"schema": "1"}, "schema 1"),
        ({"seed": None}, "seed is null"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"method": ["KD"]}, "method is"),
        ({"seconds": float("inf")}, "seconds is Infinity"),
        ({"table": 3}, "table is 3"),
    ],
)
def test_results_of_another_form_are_skipped_with_their_reason(tmp_path, capsys, change, expected):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").write_text(json.dumps(RESULT | change))
    assert run_script(make_tables.main, ["--runs", str(tmp_path), "--out", str(tmp_path)]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("skipped: ") and "run/result.json" in errors and expected in errors


def test_a_result_that_cannot_be_read_is_kept_by_the_sweep(tmp_path):
    file = tmp_path / "result.json"
    file.write_text('{"schema": 99}')
    assert run_sweep.finished_run(tmp_path) is None
    assert [path.read_text() for path in tmp_path.iterdir()] == ['{"schema": 99}']


@pytest.mark.parametrize("tool", [spread, summary])
@pytest.mark.parametrize("text", ["[]", "{}", '{"val_images": "100", "source": 3}'])
def test_the_tools_name_a_result_of_another_form(tmp_path, capsys, tool, text):
    (tmp_path / "result.json").write_text(text)
    flags = [tmp_path, "images", "60"] if tool is summary else [tmp_path]
    assert f"{tmp_path}/result.json" in error_of(capsys, tool.main, *flags)


FIGURES = {"images": 5, "teacher": {"sha256": "ab"}} | dict.fromkeys(FIDELITY, 1.5)


@pytest.mark.parametrize(
    "content",
    [
        [],
        FIGURES | {"images": "5"},
        FIGURES | {"teacher": "resnet"},
        FIGURES | {"teacher": {"sha256": 3}},
        FIGURES | {"frechet": "low"},
        FIGURES | {"frechet": float("nan")},
    ],
)
def test_figures_of_another_form(tmp_path, content):
    file = tmp_path / "fidelity.json"
    file.write_text(json.dumps(FIGURES))
    assert read_figures(file) == FIGURES
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="fidelity.json.*evaluate_images.py"):
        read_figures(file)


def test_a_norm_that_is_not_the_official_one(pipeline, capsys):
    change_json(pipeline / TRANSFORMER, norm_eps=0.5)
    assert "norm_eps 0.5" in synthesis_error(capsys)
    description = read_pipeline("model")
    load_pipeline(description, time_embedding="diffusers")


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.safetensors", "config.json"])
def test_a_file_given_for_the_folder_of_a_vae(pipeline, capsys, file):
    assert "is a file" in synthesis_error(capsys, "--vae", pipeline / "vae" / file)
