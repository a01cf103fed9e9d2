"""The packages from Python: sampling, teachers, the README's snippet, imports and installation."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import synthesize_dit
from diffusion import load_pipeline
from helper.errors import UserError
from models import create_model, load_teacher

ROOT = Path(__file__).resolve().parent.parent
CLASSES = [2, 0, 0, 1, 2, 1, 0]
FILES = ["2/0", "0/0", "0/1", "1/0", "2/1", "1/1", "0/2"]  # class / index of each of them


def command_line(model, folder, *flags):
    """The files of CLASSES, uint8 (7, 3, S, S), in batches of 5 of which the last is padded."""
    argv = ["--model", str(model), "--save_dir", str(folder), "--data_amount", "7"]
    synthesize_dit.main([*argv, "--batch_size", "5", "--device", "cpu", *map(str, flags)])
    images = []
    for name in FILES:
        label, index = map(int, name.split("/"))
        with Image.open(folder / f"{label:04d}/{index:05d}.png") as image:
            images.append(np.asarray(image.convert("RGB")))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def rounded(images):
    return (255 * images + 0.5).floor().to(torch.uint8)


# Sampling


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("scale", [1, 1.5])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_images_are_those_of_the_command_line(sampler, scale, precision, tiny_pipeline, tmp_path):
    flags = ["--sampler", sampler, "--cfg-scale", scale, "--num-sampling-steps", 3, "--seed", 4]
    files = command_line(tiny_pipeline, tmp_path / "set", *flags, "--precision", precision)
    pipeline = load_pipeline(tiny_pipeline, precision=precision)
    images = pipeline.sample(CLASSES, scale, 3, seed=4, sampler=sampler, batch_size=5)
    assert images.shape == (7, 3, 16, 16) and images.dtype == torch.float32
    assert torch.equal(rounded(images), files)
    assert len(files.flatten(1).unique(dim=0)) == 7


def test_grey_images_and_the_other_flags(tiny_pipeline, tmp_path):
    model = Path(shutil.copytree(tiny_pipeline, tmp_path / "grey"))
    (model / "generator.json").write_text(json.dumps({"grey": True}))
    flags = ["--sampler", "ddim", "--num-sampling-steps", 4, "--cfg-channels", 2]
    flags += ["--cfg_interval", "0.1,0.6", "--timestep_spacing", "trailing"]
    files = command_line(model, tmp_path / "set", *flags, "--time-embedding", "diffusers")
    pipeline = load_pipeline(model, time_embedding="diffusers")
    options = {"cfg_channels": 2, "interval": (0.1, 0.6), "spacing": "trailing", "tf32": False}
    images = pipeline.sample(CLASSES, steps=4, sampler="ddim", batch_size=5, **options)
    assert torch.equal(rounded(images), files)
    assert torch.equal(images[:, 0], images[:, 2])
    del options["interval"]
    others = pipeline.sample(CLASSES, steps=4, sampler="ddim", batch_size=5, **options)
    assert not torch.equal(rounded(others), files)


def test_the_defaults_are_those_of_the_command_line(tiny_pipeline, tmp_path):
    """Sampler, guidance, steps, seed, and the size of the batches."""
    folder, pipeline, sizes = tmp_path / "set", load_pipeline(tiny_pipeline), set()
    argv = ["--model", str(tiny_pipeline), "--save_dir", str(folder), "--images_per_class", "1"]
    synthesize_dit.main([*argv, "--device", "cpu"])
    pipeline.vae.decoder.conv_in.register_forward_hook(lambda net, x, y: sizes.add(len(x[0])))
    images = rounded(pipeline.sample([1, 2, 0]))
    assert sizes == {json.loads((folder / "manifest.json").read_text())["batch_size"]}
    for image, label in zip(images, (1, 2, 0)):
        with Image.open(folder / f"{label:04d}/00000.png") as file:
            assert np.array_equal(image.permute(1, 2, 0), np.asarray(file))


def test_sampling_leaves_the_state_of_torch_alone(tiny_pipeline):
    pipeline = load_pipeline(tiny_pipeline)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    try:
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        first = pipeline.sample(torch.tensor([0, 1]), steps=2, batch_size=2)
        assert torch.equal(torch.rand(1), expected)
        assert torch.equal(pipeline.sample(np.array([0, 1]), steps=2, batch_size=2), first)
        assert torch.backends.cudnn.benchmark
        assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
    finally:
        torch.backends.cudnn.benchmark = False


WRONG = {
    "class": ({"classes": [0, 3]}, r"\b3\b.* 0 to 2"),
    "negative class": ({"classes": [-1]}, r"-1\b.* 0 to 2"),
    "no class": ({"classes": []}, "classes 0"),
    "steps": ({"steps": 0}, "steps 0"),
    "too many steps": ({"steps": 1001}, "steps 1001 .*1000"),
    "scale": ({"scale": -0.5}, "scale -0.5"),
    "scale not a number": ({"scale": float("nan")}, "scale nan"),
    "seed": ({"seed": -1}, "seed -1"),
    "batch": ({"batch_size": -2}, "batch_size -2"),
    "sampler": ({"sampler": "euler"}, "euler.*ddpm, ddim"),
    "spacing": ({"spacing": "karras"}, "karras.*trailing"),
    "channels": ({"cfg_channels": 5}, r"channels 5: .*tiny.* 4\b"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case, tiny_pipeline):
    arguments, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        load_pipeline(tiny_pipeline).sample(**{"classes": [0], "steps": 2} | arguments)


def test_classes_are_whole_numbers(tiny_pipeline):
    with pytest.raises(TypeError):
        load_pipeline(tiny_pipeline).sample([0.5], steps=2)


def test_unknown_precision(tiny_pipeline):
    with pytest.raises(UserError, match="fp16.*bf16"):
        load_pipeline(tiny_pipeline, precision="fp16")


def test_images_that_are_not_finite(tiny_pipeline):
    pipeline = load_pipeline(tiny_pipeline)
    pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="tiny"):
        pipeline.sample([0], steps=2, batch_size=1)


# Teachers


def test_a_teacher_is_described_by_its_file(tmp_path):
    """The architecture, number of classes, mean and std are in the checkpoints of our runs."""
    path, net = tmp_path / "net.pth", create_model("wrn_16_1", 7)
    facts = {"model_name": "wrn_16_1", "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.1]}
    torch.save({"model": net.state_dict(), **facts}, path)
    x = torch.rand(2, 3, 32, 32)
    logits = load_teacher(path)(x)
    assert logits.shape == (2, 7) and not logits.requires_grad
    assert torch.equal(logits, load_teacher(path, 7, facts["mean"], facts["std"])(x))
    # An argument comes before what the file says
    other = load_teacher(path, std=(0.5, 0.5, 0.5))
    assert other.mean.flatten().tolist() == pytest.approx(facts["mean"])
    assert other.std.flatten().tolist() == [0.5] * 3
    with pytest.raises(UserError, match="7 classes, 9"):
        load_teacher(path, 9)


@pytest.mark.parametrize("name", ["resnet8", "timm/resnet18", "torchvision/mobilenet_v2"])
def test_a_plain_state_dict_lacks_mean_and_std(name, tmp_path):
    path = tmp_path / name.replace("/", "_") / "net.pth"
    path.parent.mkdir()
    torch.save(create_model(name, 6).state_dict(), path)
    with pytest.raises(UserError, match=rf"{path}.* mean"):
        load_teacher(path)
    teacher = load_teacher(path, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert teacher(torch.rand(1, 3, 64, 64)).shape == (1, 6)


def test_weights_of_imagenet_have_the_statistics_of_their_library(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(create_model("ResNet18", 1000).state_dict(), path)
    teacher = load_teacher(path, name="ResNet18")
    assert teacher.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_a_file_that_does_not_tell_the_number_of_classes(tmp_path):
    """SqueezeNet's last layer is a convolution."""
    path, name = tmp_path / "net.pth", "torchvision/squeezenet1_1"
    torch.save(create_model(name, 6).state_dict(), path)
    with pytest.raises(UserError, match=rf"{path}.*number of classes"):
        load_teacher(path, mean=(0.5,) * 3, std=(0.25,) * 3, name=name)
    with pytest.raises(UserError, match=rf"{path} is not a resnet8"):
        load_teacher(path, mean=(0.5,) * 3, std=(0.25,) * 3, name="resnet8")


# README


def test_the_snippet_of_the_readme(monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    names = {}
    exec(snippet, names)
    assert names["images"].shape == (8, 3, 32, 32)
    assert 0 <= names["images"].min() < 0.1 and 0.9 < names["images"].max() <= 1
    predicted = names["teacher"](names["images"]).argmax(1)
    assert (predicted == torch.arange(8)).sum() >= 6
    assert names["loss"].ndim == 0 and 0 < names["loss"].item() < 100
    # At most three statements sample images
    sampling = ast.parse(snippet.partition("images = ")[0]).body
    assert len([line for line in sampling if not isinstance(line, ast.ImportFrom)]) <= 2


# Imports and installation

SLOW = {
    "diffusers",
    "huggingface_hub",
    "matplotlib",
    "scipy",
    "timm",
    "torchvision",
    "transformers",
}
IMPORT = """
import sys
from diffusion import Sampler, batch_noise, load_pipeline
from helper.losses import kd_loss
from models import create_model, load_teacher
import dataset, datafree, report, tools
print(*{name.partition(".")[0] for name in sys.modules}, dataset.__file__)
"""


def packages():
    """The folders of the libraries, as the tests of the structure of the repository see them."""
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    return sorted(found - {"tests", "benchmarks"})


def test_imports_are_fast(tmp_path):
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(ROOT)!r}){IMPORT}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not SLOW & set(done.stdout.split())


def test_installation_in_place(tmp_path):
    """`pip install -e .` of a copy makes every package importable from another folder."""
    pytest.importorskip("setuptools", "77")
    copy, environment = tmp_path / "copy", tmp_path / "environment"
    for name in packages():
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    install += ["--no-warn-script-location", "--prefix", str(environment), "-e", str(copy)]
    subprocess.run(install, cwd=tmp_path, check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    command = [sys.executable, "-c", f"import site; site.addsitedir({str(site)!r}){IMPORT}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(copy / "dataset/__init__.py") in done.stdout.split()
    # What the packages need is what requirements.txt names
    (metadata,) = site.glob("dm_kd-*.dist-info/METADATA")
    needed = re.findall(r"^Requires-Dist: ([\w-]+)", metadata.read_text(), re.MULTILINE)
    listed = (ROOT / "requirements.txt").read_text().splitlines()
    listed = [re.match(r"[\w-]+", line)[0] for line in listed if not line.startswith("#")]
    assert sorted(needed) == sorted(listed)


def test_every_package_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert settings["setuptools"]["packages"] == packages()
    assert settings["ruff"]["lint"]["isort"]["known-first-party"] == packages()
