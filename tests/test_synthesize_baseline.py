"""synthesize_baseline.py: folders, manifests, restarts, growth, processes, wrong input."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_biggan import published_state
from test_biggan import write as write_biggan

import synthesize_baseline
from dataset.folders import read_training
from dataset.one_image import load_photograph, patch
from helper import checkpoints
from helper.errors import run_script
from models.architectures import create_model

ROOT = Path(__file__).parent.parent
CLASSES = 3
# 7 images in batches of 3, the last of which has two more.
SMALL = [
    "--dataset",
    "cifar10",
    "--num-classes",
    "3",
    "--image-size",
    "16",
    "--batch",
    "3",
    "--steps",
    "2",
    "--jitter",
    "1",
    "--device",
    "cpu",
]


def save_network(path, name, seed):
    """Writes a checkpoint of a random network whose BatchNorm statistics are not those of
    initialisation.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = create_model(name, CLASSES)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    checkpoints.save(path, {"model": net.state_dict(), "model_name": name})
    return path


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Checkpoints: a teacher, a student, one without BatchNorm."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "teacher": save_network(folder / "resnet8/teacher.pth", "resnet8", 0),
        "student": save_network(folder / "resnet8/student.pth", "resnet8", 1),
        "plain": save_network(folder / "plain/alexnet.pth", "torchvision/squeezenet1_1", 2),
    }


def invert(networks, folder, amount, *flags):
    return synthesize_baseline.main(
        [
            "--method",
            "deepinversion",
            "--path-t",
            str(networks["teacher"]),
            *SMALL,
            "--save_dir",
            str(folder),
            "--data_amount",
            str(amount),
            *map(str, flags),
        ]
    )


def contents(folder):
    """{relative path: bytes} of the images in subfolders."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("*/*"))}


def sheet_of(folder):
    return folder.with_name(f"{folder.name}_contact_sheet.png")


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def reference(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "reference"
    assert invert(networks, folder, 7)["made"] == 7
    return folder


@pytest.fixture
def copy(reference, tmp_path):
    """A copy of the reference set that a test may change."""
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def test_inverted_folder_and_manifest(reference, networks, tmp_path, monkeypatch):
    assert list(contents(reference)) == [
        "0000/00000.png",
        "0000/00001.png",
        "0000/00002.png",
        "0001/00000.png",
        "0001/00001.png",
        "0002/00000.png",
        "0002/00001.png",
    ]
    assert len(set(contents(reference).values())) == 7
    for file in reference.glob("*/*"):
        with Image.open(file) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB") and np.asarray(image).std() > 10
    state = manifest(reference)
    assert (state["method"], state["complete"], state["images"]) == ("DeepInv", True, 7)
    assert state["classes"] == {"0": 3, "1": 2, "2": 2}
    expected = {
        "method": "deepinversion",
        "teacher": "resnet8",
        "seed": 0,
        "image_size": 16,
        "classes": "0-2",
        "batch": 3,
        "steps": 2,
        "lr": 0.1,
        "adv": 0.0,
        "format": "png",
        "grey": False,
        "teacher_mean": [0.4914, 0.4822, 0.4465],
    }
    assert (
        expected.items() <= state["settings"].items()
        and len(state["settings"]["teacher_sha256"]) == 64
    )
    assert sheet_of(reference).exists()
    assert {file.name for file in reference.iterdir()} == {"manifest.json", "0000", "0001", "0002"}
    images = read_training(reference, CLASSES)
    assert np.bincount(images.labels).tolist() == [3, 2, 2]
    monkeypatch.chdir(tmp_path)
    flags = [
        "--method",
        "deepinversion",
        "--path-t",
        str(networks["teacher"]),
        *SMALL,
        "--images_per_class",
        "1",
        "--classes",
        "0,2",
    ]
    result = synthesize_baseline.main(flags)
    assert result["folder"] == "syn_dataset/deepinversion_cifar10_resnet8_seed0"
    assert manifest(Path(result["folder"]))["settings"]["classes"] == "0,2"


def test_a_complete_set_returns_at_once(networks, copy, monkeypatch, capsys):
    monkeypatch.setattr(synthesize_baseline, "invert", None)
    before = (copy / "manifest.json").stat().st_mtime_ns
    assert invert(networks, copy, 7)["made"] == 0 and invert(networks, copy, 4)["made"] == 0
    assert "is complete: 7 images" in capsys.readouterr().out
    assert (copy / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("complete", [True, False])
def test_lost_images_come_back_the_same(networks, reference, copy, monkeypatch, complete):
    batches, inverted = [], synthesize_baseline.invert
    monkeypatch.setattr(
        synthesize_baseline,
        "invert",
        lambda teacher, labels, *rest, **given: (
            batches.append(labels.tolist()) or inverted(teacher, labels, *rest, **given)
        ),
    )
    if not complete:  # as a killed run leaves it
        state = manifest(copy) | {"complete": False, "finished": {}}
        (copy / "manifest.json").write_text(json.dumps(state))
    (copy / "0001/00001.png").unlink()  # image 4, of the second batch
    (copy / "0000/00002.png").unlink()  # image 6, of the third, which is computed whole
    assert invert(networks, copy, 7)["made"] == 2
    assert batches == [[0, 1, 2], [0, 1, 2]]
    assert contents(copy) == contents(reference) and manifest(copy)["complete"]


def test_growth_is_the_same_as_all_at_once(networks, reference, tmp_path):
    small, large = tmp_path / "grown", tmp_path / "at once"
    assert [invert(networks, small, amount)["made"] for amount in (1, 5, 8)] == [1, 4, 3]
    invert(networks, large, 8)
    assert contents(small) == contents(large)
    assert contents(reference).items() <= contents(large).items()


def test_a_batch_is_a_function_of_its_settings(networks, reference, tmp_path):
    ours = contents(reference)
    for name, flags in {
        "seed": ["--seed", "1"],
        "adaptive": ["--path-s", networks["student"], "--adv", "500"],
        "stages": ["--half_steps", "2"],
        "loss": ["--tv", "0.1"],
    }.items():
        invert(networks, tmp_path / name, 7, *flags)
        assert contents(tmp_path / name).keys() == ours.keys()
        assert contents(tmp_path / name) != ours, name
    settings = manifest(tmp_path / "adaptive")["settings"]
    assert (settings["adv"], settings["student"]) == (500, "resnet8")
    assert settings["student_sha256"] != settings["teacher_sha256"]
    assert manifest(tmp_path / "stages")["settings"]["half_steps"] == 2


def test_fashion_mnist_is_grey(tmp_path):
    teacher = ROOT / "save/models/fashion_mnist/resnet8/resnet8_latest.pth"
    synthesize_baseline.main(
        [
            "--method",
            "deepinversion",
            "--path-t",
            str(teacher),
            "--dataset",
            "fashion_mnist",
            "--data_amount",
            "2",
            "--batch",
            "2",
            "--steps",
            "1",
            "--device",
            "cpu",
            "--save_dir",
            str(tmp_path / "set"),
        ]
    )
    with Image.open(tmp_path / "set/0001/00000.png") as image:
        assert (image.size, image.mode) == ((32, 32), "L")
    assert manifest(tmp_path / "set")["settings"]["jitter"] == 4


def test_two_processes_make_the_same_bytes(networks, reference, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(ROOT / "synthesize_baseline.py"),
        "--method",
        "deepinversion",
        "--path-t",
        str(networks["teacher"]),
        *SMALL,
        "--data_amount",
        "7",
        "--save_dir",
        str(tmp_path / "set"),
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "set") == contents(reference)
    assert "2 × cpu" in done.stdout and done.stdout.count("teacher resnet8") == 1


def test_estimate_counts_both_ways_through_the_networks(networks, tmp_path, capsys):
    flags = {
        "one": ["--steps", "1"],
        "ten": ["--steps", "10"],
        "half": ["--steps", "1", "--half_steps", "4"],
        "adaptive": ["--steps", "1", "--path-s", networks["student"]],
    }
    costs = {
        name: invert(networks, tmp_path / name, 7, "--estimate", *flags[name])["operations"]
        for name in flags
    }
    assert not list(tmp_path.iterdir()) and "FLOP" in capsys.readouterr().out
    # By hand: resnet8's convolutions on 16×16, then 8×8 and 4×4, twice (forward, and back to the
    # pixels).
    products = 16**2 * 9 * (3 * 16 + 2 * 16 * 16) + 8**2 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
    products += 4**2 * (9 * (32 * 64 + 64 * 64) + 32 * 64) + 64 * CLASSES
    assert costs["one"] == 7 * 2 * 2 * products
    assert costs["ten"] == 10 * costs["one"] and costs["adaptive"] == 2 * costs["one"]
    assert costs["half"] == pytest.approx(
        2 * costs["one"], rel=1e-3
    )  # four steps of a quarter of the size


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A photograph of 90 × 80 pixels with something to see everywhere."""
    path = tmp_path_factory.mktemp("photographs") / "colours.png"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize((90, 80), Image.Resampling.BICUBIC).save(path)
    return path


def cut(photograph, folder, amount, *flags):
    return synthesize_baseline.main(
        [
            "--method",
            "one-image",
            "--image",
            str(photograph),
            "--image-size",
            "16",
            "--data_amount",
            str(amount),
            "--save_dir",
            str(folder),
            "--num_workers",
            "0",
            "--device",
            "cpu",
            *map(str, flags),
        ]
    )


def test_patches_in_shards(photograph, tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.folder_layouts.SHARD", 10)
    folder = tmp_path / "set"
    assert cut(photograph, folder, 23, "--format", "png")["made"] == 23
    assert list(contents(folder)) == [f"{i // 10:04d}/{i:05d}.png" for i in range(23)]
    image = load_photograph(photograph, 16)
    for index in (0, 9, 10, 22):
        with Image.open(folder / f"{index // 10:04d}/{index:05d}.png") as found:
            assert np.array_equal(np.asarray(found), patch(image, 16, 0, index))
    state = manifest(folder)
    assert (state["labelled"], state["images"], state["complete"]) == (False, 23, True)
    assert (
        "classes" not in state
        and state["method"] == "One-Image"
        and state["settings"]["method"] == "one-image"
    )
    images = read_training(folder, 10, amount=12)
    assert images.labels is None
    # A smaller amount is the beginning of a larger, whatever the shards.
    assert [images.images[i][-9:-4] for i in range(12)] == [f"{i:05d}" for i in range(12)]
    assert sheet_of(folder).exists()


def test_patches_do_not_depend_on_workers_and_batches_and_may_grow(
    photograph, tmp_path, monkeypatch
):
    cut(photograph, tmp_path / "reference", 20)
    reference = contents(tmp_path / "reference")
    assert list(reference)[0] == "0000/00000.jpg" and len(set(reference.values())) == 20
    monkeypatch.setattr(synthesize_baseline, "PATCHES", 6)
    cut(photograph, tmp_path / "workers", 20, "--num_workers", "2")
    assert contents(tmp_path / "workers") == reference
    assert [cut(photograph, tmp_path / "grown", amount)["made"] for amount in (5, 5, 20, 8)] == [
        5,
        0,
        15,
        0,
    ]
    assert contents(tmp_path / "grown") == reference
    (tmp_path / "grown/0000/00003.jpg").unlink()
    (tmp_path / "grown/0000/00017.jpg").unlink()
    assert cut(photograph, tmp_path / "grown", 20)["made"] == 2
    assert contents(tmp_path / "grown") == reference
    damaged = tmp_path / "workers/0000/00002.jpg"
    damaged.write_bytes(damaged.read_bytes()[:100])
    (tmp_path / "workers/manifest.json").write_text(
        json.dumps(manifest(tmp_path / "workers") | {"complete": False, "finished": 0})
    )
    assert cut(photograph, tmp_path / "workers", 20)["made"] == 1
    assert contents(tmp_path / "workers") == reference


def test_the_default_photograph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = synthesize_baseline.main(
        [
            "--method",
            "one-image",
            "--image-size",
            "32",
            "--data_amount",
            "1",
            "--num_workers",
            "0",
            "--device",
            "cpu",
        ]
    )
    assert (
        result["folder"] == "syn_dataset/one-image_grace_hopper_32_seed0" and result["images"] == 1
    )


@pytest.fixture(scope="module")
def biggan(tmp_path_factory):
    return write_biggan(tmp_path_factory.mktemp("biggan") / "biggan-tiny", published_state())


def sample(biggan, folder, *flags):
    return synthesize_baseline.main(
        [
            "--method",
            "biggan",
            "--model",
            str(biggan),
            "--save_dir",
            str(folder),
            "--device",
            "cpu",
            *map(str, flags),
        ]
    )


def pixels_of(folder):
    return np.stack(
        [np.asarray(Image.open(file)) for file in sorted(folder.glob("*/*.png"))]
    ).astype(int)


def test_biggan_images_in_class_folders(biggan, tmp_path):
    flags = ["--classes", "0,3", "--data_amount", "5"]
    assert sample(biggan, tmp_path / "set", *flags)["made"] == 5
    assert manifest(tmp_path / "set")["classes"] == {"0": 3, "3": 2}
    settings = manifest(tmp_path / "set")["settings"]
    assert settings["truncation"] == 1 and settings["generator"] == "biggan-tiny"
    cost = sample(biggan, tmp_path / "none", *flags, "--estimate")
    assert cost["operations"] > 5e6 and cost["images"] == 5 and not (tmp_path / "none").exists()
    reference = pixels_of(tmp_path / "set")
    assert (
        reference.shape == (5, 64, 64, 3) and len(np.unique(reference.reshape(5, -1), axis=0)) == 5
    )
    sample(biggan, tmp_path / "batches", *flags, "--batch_size", "2")
    difference = abs(pixels_of(tmp_path / "batches") - reference)
    assert difference.max() <= 1 and (difference > 0).mean() <= 1e-3
    sample(biggan, tmp_path / "truncated", *flags, "--truncation", "0.5")
    assert (pixels_of(tmp_path / "truncated") != reference).mean() > 0.5
    before = contents(tmp_path / "set")
    assert sample(biggan, tmp_path / "set", "--images_per_class", "3")["made"] == 10  # 5 classes
    assert before.items() <= contents(tmp_path / "set").items()


# Flags and parts of the message. SMALL: valid flags of deepinversion; PLAIN: a network without
# BatchNorm; SET: an existing folder.
WRONG = {
    "no method": ([], "the following arguments are required: --method"),
    "no amount": (["biggan"], "--data_amount … --images_per_class"),
    "patches by class": (
        ["one-image", "--images_per_class", "3"],
        "--images_per_class … deepinversion … one-image",
    ),
    "patches of classes": (
        ["one-image", "--classes", "3", "--data_amount", "3"],
        "--classes … one-image",
    ),
    "patch size": (["one-image", "--data_amount", "3"], "--image-size"),
    "small photograph": (
        ["one-image", "--data_amount", "3", "--image-size", "41", "--image", "PHOTO"],
        "PHOTO … 41 … --image-size",
    ),
    "no photograph": (
        ["one-image", "--data_amount", "3", "--image-size", "16", "--image", "no.png"],
        "no.png",
    ),
    "another's flag": (
        ["one-image", "--truncation", "0.4", "--data_amount", "3"],
        "--truncation … biggan",
    ),
    "another's setting": (
        ["biggan", "--bn", "3", "--data_amount", "3"],
        "--bn … deepinversion",
    ),
    "truncation": (
        ["biggan", "--truncation", "1.5", "--data_amount", "3"],
        "--truncation … 1.5",
    ),
    "no generator": (
        ["biggan", "--model", "nothing", "--data_amount", "3"],
        "nothing … biggan-deep-256",
    ),
    "no teacher": (["deepinversion", "--data_amount", "3"], "--path-t"),
    "teacher not there": (["SMALL", "--path-t", "no/resnet8/x.pth"], "no/resnet8/x.pth"),
    "no BatchNorm": (["SMALL", "--path-t", "PLAIN"], "teacher … BatchNorm"),
    "other classes": (["SMALL", "--num-classes", "4"], "resnet8 … 3 classes … 4"),
    "class out of range": (["SMALL", "--classes", "3"], "--classes 3 … classes 0 to 2"),
    "unknown class count": (
        ["SMALL", "--dataset", "imagefolder", "--num-classes"],
        "--num-classes",
    ),
    "no class count": (
        ["deepinversion", "--data_amount", "3", "--path-t", "x", "--dataset", "imagefolder"],
        "--dataset imagefolder … --num-classes",
    ),
    "all around": (["SMALL", "--jitter", "16"], "--jitter 16 … 16 pixels"),
    "no half size": (
        ["SMALL", "--image-size", "15", "--half_steps", "3"],
        "--half_steps 3 … 15",
    ),
    "no steps": (["SMALL", "--steps", "0"], "--steps … 0"),
    "no student": (["SMALL", "--adv", "1"], "--adv … --path-s"),
    "student left out": (
        ["SMALL", "--path-s", "x", "--adv", "0"],
        "--adv 0 … --path-s",
    ),
    "other settings": (
        ["SMALL", "--bn", "3", "--save_dir", "SET"],
        "SET … bn 10.0, not 3.0",
    ),
    "another method": (
        [
            "one-image",
            "--data_amount",
            "3",
            "--image-size",
            "16",
            "--image",
            "PHOTO",
            "--save_dir",
            "SET",
        ],
        "SET … method deepinversion, not one-image",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_message(
    networks, reference, photograph, tmp_path, monkeypatch, capsys, name
):
    flags, expected = WRONG[name]
    monkeypatch.chdir(tmp_path)
    names = {"PLAIN": networks["plain"], "PHOTO": photograph, "SET": reference}
    if flags[:1] == ["SMALL"]:
        flags = [
            "deepinversion",
            "--path-t",
            str(networks["teacher"]),
            *SMALL,
            "--data_amount",
            "3",
            *flags[1:],
        ]
    if flags:
        flags = ["--method", *(str(names.get(flag, flag)) for flag in flags)]
    before = contents(reference)
    assert run_script(synthesize_baseline.main, flags) == 2
    message = capsys.readouterr().err
    for part in expected.split(" … "):
        assert str(names.get(part, part)) in message
    assert message.startswith("error: ") and message.count("\n") <= 2 and "Traceback" not in message
    assert not list(tmp_path.iterdir()) and contents(reference) == before


@pytest.mark.parametrize("indices", [[0], [0, 1, 2, 17], [3, 5, 6, 9, 10, 11]])
def test_ranges_are_read_as_they_were_written(indices):
    from helper.options import index_ranges

    text = synthesize_baseline.as_ranges(indices)
    assert index_ranges(text) == indices and not re.search(r"(\d+)-\1\b", text)
