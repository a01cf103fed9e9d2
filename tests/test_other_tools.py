"""Other programs read what this repository writes: folders of images, pipelines and weights.

torchvision, timm and diffusers are always there. Of the others the package is asked if it is
installed, or else its rule for finding files is followed.
"""

import argparse
import json
import os
import re
from glob import glob
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluate_images
import synthesize_dit
import train_student
import train_teacher
from dataset.image_writer import to_pixels
from dataset.real import REAL_SETS
from diffusion.pipeline import load_pipeline, use_official_embedding
from diffusion.sampler import Sampler, batch_noise
from helper import checkpoints
from helper.errors import run_script
from helper.files import sha256
from helper.seeds import image_generator
from models.classifiers import image_statistics

SHIPPED = Path(__file__).parent.parent / "save/models/fashion_mnist"


# Folders of images: each reader returns {path below the folder: label}, or a set of paths if it
# has no labels


def read_with_torchvision(folder):
    from torchvision.datasets import ImageFolder

    return dict(ImageFolder(folder).samples)


def read_with_timm(folder):
    from timm.data import create_dataset

    return dict(create_dataset("", root=str(folder)).reader.samples)


def read_with_datasets(folder):
    """Hugging Face's `imagefolder`: every image below the folder is a row, except hidden ones.

    The names of the folders are labels if all images are equally deep.
    """
    if find_spec("datasets"):
        from datasets import Image, load_dataset

        rows = load_dataset("imagefolder", data_dir=str(folder), split="train")
        assert "label" in rows.features
        rows = rows.cast_column("image", Image(decode=False))
        return {row["image"]["path"]: row["label"] for row in rows}
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg")]
    assert len({len(path.parts) for path in paths}) == 1
    names = sorted({path.parent.name for path in paths})
    return {str(path): names.index(path.parent.name) for path in paths}


def read_with_clean_fid(folder):
    """clean-fid: all files at any depth with the ending of an image."""
    endings = {"bmp", "jpg", "jpeg", "pgm", "png", "ppm", "tif", "tiff", "webp", "npy"}
    if find_spec("cleanfid"):
        from cleanfid.utils import EXTENSIONS as endings
    return {path for end in endings for path in glob(f"{folder}/**/*.{end}", recursive=True)}


def read_with_torch_fidelity(folder):
    """torch-fidelity with samples_find_deep: all files at any depth with one of three endings."""
    if find_spec("torch_fidelity"):
        from torch_fidelity.utils import glob_samples_paths

        return set(glob_samples_paths(str(folder), True, "png,jpg,jpeg", verbose=False))
    names = (os.path.join(root, name) for root, _, files in os.walk(folder) for name in files)
    return {name for name in names if name.lower().endswith((".png", ".jpg", ".jpeg"))}


READERS = {
    function.__name__.removeprefix("read_with_"): function
    for function in (
        read_with_torchvision,
        read_with_timm,
        read_with_datasets,
        read_with_clean_fid,
        read_with_torch_fidelity,
    )
}


@pytest.fixture(scope="module")
def generated(tiny_pipeline, tmp_path_factory):
    """A generated folder of three classes with four images each, and {path: class}."""
    folder = (tmp_path_factory.mktemp("generated") / "images").resolve()
    line = ["--model", str(tiny_pipeline), "--data_amount", "12", "--num-sampling-steps", "2"]
    synthesize_dit.main([*line, "--device", "cpu", "--save_dir", str(folder)])
    labels = {f"{folder}/{c:04d}/{i:05d}.png": c for c in range(3) for i in range(4)}
    return folder, labels


def read(reader, folder, monkeypatch, cache):
    monkeypatch.setenv("HF_HOME", str(cache))
    return READERS[reader](folder)


@pytest.mark.parametrize("reader", READERS)
def test_a_generated_folder_is_read_by(reader, generated, tmp_path, monkeypatch):
    folder, labels = generated
    assert {path.name for path in folder.iterdir()} == {"0000", "0001", "0002", "manifest.json"}
    found = read(reader, folder, monkeypatch, tmp_path)
    assert found == (labels if isinstance(found, dict) else set(labels))


@pytest.mark.parametrize("reader", READERS)
def test_results_of_a_measurement_do_not_disturb(reader, generated, tmp_path, monkeypatch):
    folder, labels = generated
    file = evaluate_images.default_file(folder, "fashion_mnist", "resnet20")
    assert Path(file).parent == folder
    Path(file).write_text(json.dumps({"images": 12}))
    try:
        found = read(reader, folder, monkeypatch, tmp_path)
    finally:
        Path(file).unlink()
    assert found == (labels if isinstance(found, dict) else set(labels))


@pytest.mark.parametrize("reader", ["timm", "clean_fid", "torch_fidelity"])
def test_a_picture_in_the_folder_would_be_counted(reader, generated, tmp_path):
    folder, labels = generated
    sheet = folder.with_name("images_contact_sheet.png")  # where it is: beside the folder
    (copy := folder / "sheet.png").write_bytes(sheet.read_bytes())
    try:
        assert len(READERS[reader](folder)) == len(labels) + 1
    finally:
        copy.unlink()


# Pipelines


def test_diffusers_runs_the_shipped_pipeline():
    """DiTPipeline gives our pictures; docs/files.md has these lines."""
    from diffusers import DiTPipeline

    folder = SHIPPED / "DiT-6x160-2"
    items = [(0, 0), (5, 1), (9, 2)]
    theirs = DiTPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    use_official_embedding(theirs.transformer)
    assert theirs.get_label_ids(["Sandal", "Ankle boot"]) == [5, 9]
    pixels = theirs(
        class_labels=[label for label, _ in items],
        guidance_scale=1.0,
        num_inference_steps=10,
        generator=[image_generator(7, *item) for item in items],
        output_type="np",
    ).images
    ours = load_pipeline(folder)
    sampler = Sampler("ddim", 10, ours.schedule)
    noise = batch_noise(7, items, ours.latent_shape, 0)
    labels = torch.tensor([label for label, _ in items])
    latents = sampler.sample(ours.predict, noise, labels, ours.num_classes, 1, 8)
    expected = to_pixels(ours.decode(latents), False, "").float().numpy()
    assert expected.std() > 20  # a picture
    assert abs(255 * pixels - expected).max() < 2


# Weights


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, tiny_fashion_mnist):
    """The folder of a teacher, and its command line without --save_dir."""
    folder = tmp_path_factory.mktemp("models") / "network"
    line = ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist), "--device", "cpu"]
    line += ["--model", "resnet8", "--epochs", "1", "--batch_size", "64"]
    train_teacher.main([*line, "--save_dir", str(folder), "--safetensors"])
    return folder, line


def evaluate(line, *more):
    """The metrics of `--evaluate` on the data set of a training line."""
    return train_student.main([*line[:6], *map(str, more)])


def test_checkpoints_are_contiguous(teacher, tmp_path):
    folder, _ = teacher
    for path in [*folder.glob("*.pth"), *SHIPPED.glob("*/*_latest.pth")]:
        state = checkpoints.load(path)["model"]
        save_file(state, tmp_path / "weights.safetensors")  # raises for other layouts
        assert all(tensor.is_contiguous() for tensor in state.values())


def test_runs_write_safetensors(teacher, capsys):
    folder, line = teacher
    for name in ("latest", "best"):
        state = checkpoints.load(folder / f"resnet8_{name}.pth")["model"]
        written = load_file(folder / f"resnet8_{name}.safetensors")
        assert state.keys() == written.keys()
        assert all(torch.equal(state[key], written[key]) for key in state)
    expected = evaluate(line, "--evaluate", folder / "resnet8_latest.pth")
    capsys.readouterr()
    # The folder's name tells nothing: the file knows its architecture and statistics
    assert evaluate(line, "--evaluate", folder / "resnet8_latest.safetensors") == expected
    out = capsys.readouterr().out
    assert "resnet8: " in out and "0.3318 (the checkpoint's own)" in out


def test_a_finished_run_gets_its_safetensors(teacher, tmp_path):
    folder, line = teacher
    other = tmp_path / "resnet8"
    train_teacher.main([*line, "--save_dir", str(other)])
    assert not list(other.glob("*.safetensors"))
    before = sha256(other / "resnet8_latest.pth")
    train_teacher.main([*line, "--save_dir", str(other), "--resume", "--safetensors"])
    assert {path.name for path in other.glob("*.safetensors")} == {
        "resnet8_best.safetensors",
        "resnet8_latest.safetensors",
    }
    assert sha256(other / "resnet8_latest.pth") == before


def test_shipped_teachers_keep_the_hash_of_their_first_file():
    hashes = {
        name: checkpoints.weights_sha256(SHIPPED / f"{name}/{name}_latest.pth")[:8]
        for name in ("resnet20", "resnet8")
    }
    assert hashes == {"resnet20": "0a2d3f67", "resnet8": "ef1b866c"}


def test_the_flags_of_the_teacher_name_the_checkpoint_to_evaluate(teacher, tmp_path, capsys):
    folder, line = teacher
    state = checkpoints.load(folder / "resnet8_latest.pth")["model"]
    path = tmp_path / "anything.pth"
    torch.save({key.replace("conv1", "conv_1"): value for key, value in state.items()}, path)
    assert run_script(train_student.main, [*line[:6], "--evaluate", str(path)]) == 2
    assert "--model_t" in capsys.readouterr().err
    torch.save(state, path)
    expected = evaluate(line, "--evaluate", folder / "resnet8_latest.pth")
    statistics = ["--mean_t", "0.219,0.219,0.219", "--std_t", "0.3318,0.3318,0.3318"]
    for flag in ("--model_t", "--model_s"):
        assert evaluate(line, "--evaluate", path, flag, "resnet8", *statistics) == expected
    # Another network or other statistics: the flags are not ignored
    assert run_script(
        train_student.main, [*line[:6], "--evaluate", str(path), "--model_t", "resnet20"]
    )
    assert "resnet20" in capsys.readouterr().err
    other = [*statistics[:3], "0.5,0.5,0.5"]
    assert evaluate(line, "--evaluate", path, "--model_t", "resnet8", *other) != expected
    # With a teacher, its flags are the teacher's
    shipped = str(SHIPPED / "resnet20/resnet20_latest.pth")
    both = ["--path-t", shipped, "--model_t", "resnet20"]
    assert evaluate(line, "--evaluate", folder / "resnet8_latest.pth", *both) == expected


def test_checkpoints_with_paths_are_read(tmp_path):
    args = argparse.Namespace(results=PurePosixPath("results"), data=Path("data/train"))
    for new_format in (True, False):
        file = tmp_path / f"{new_format}.pt"
        content = {"model": {"weight": torch.ones(2)}, "args": args}
        torch.save(content, file, _use_new_zipfile_serialization=new_format)
        assert str(checkpoints.load(file)["args"].data) == "data/train"
    # As saved on Windows, and by Python 3.13
    for name in (b"pathlib\nWindowsPath\n", b"pathlib._local\nPosixPath\n"):
        other = file.read_bytes().replace(b"pathlib\nPosixPath\n", name)
        assert other != file.read_bytes()
        (tmp_path / "other.pt").write_bytes(other)
        assert checkpoints.load(tmp_path / "other.pt")["args"].data.parts == ("data", "train")


# Data


@pytest.mark.parametrize(
    "data_set, words",
    [
        ("fashion_mnist", "cd .* && python -m tools.fashion_mnist --root '/.*/no such'"),
        ("cifar10", "download=True"),
        ("flowers102", "download=True"),
        ("imagenet", f"{SHIPPED.parents[2]}/true_dataset/README.md"),
    ],
)
def test_missing_data_names_the_flag_in_any_directory(
    data_set, words, tmp_path, monkeypatch, capsys
):
    if data_set == "flowers102":
        pytest.importorskip("scipy")
    monkeypatch.chdir(tmp_path)
    line = ["--dataset", data_set, "--data_root", "no such", "--model", "resnet8"]
    assert run_script(train_teacher.main, [*line, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "give --data_root FOLDER" in error and re.search(words, error), error
    assert not list(tmp_path.iterdir())


def test_the_statistics_of_fast_datafree_are_named(tmp_path, capsys):
    cifar10 = REAL_SETS["cifar10"]
    default = cifar10.mean, cifar10.std, False
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"weight": torch.ones(2)}}, path)
    assert image_statistics(None, None, "t", default, path, "resnet34").std == cifar10.std
    assert "--std_t 0.2023,0.1994,0.201" in capsys.readouterr().out
    image_statistics(None, (0.2023, 0.1994, 0.2010), "t", default, path, "resnet34")
    image_statistics(None, None, "s", default)  # a new student
    torch.save({"model": {}, "mean": [0.5] * 3, "std": list(cifar10.std)}, path)  # of our runs
    image_statistics(None, None, "t", default, path, "resnet34")
    assert not capsys.readouterr().out
