"""Networks that do not fit the images or the batch, and checkpoints in unusual layouts."""

import os
import pickle
import tarfile
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import evaluate_images
import train_datafree
import train_student
import train_teacher
from helper import checkpoints
from helper.cost import dry_pass, forward_operations
from helper.errors import UserError, run_script
from models.architectures import create_model
from models.classifiers import Normalised, architecture_of, check_classifier

STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def weights(name="resnet8", num_classes=10, seed=0):
    torch.manual_seed(seed)
    return create_model(name, num_classes).state_dict()


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def averaged(state):
    """The state dict of torch's AveragedModel: `n_averaged`, and keys under `module.`."""
    net = create_model("resnet8", 10)
    net.load_state_dict(state)
    return torch.optim.swa_utils.AveragedModel(net).state_dict()


def saved(content, tmp_path, file="mine/t.pth"):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


# Layouts of checkpoints

RIGHT, WRONG = weights(seed=1), weights(seed=2)
COUNTED = {**RIGHT, "total_ops": torch.zeros(1), "layer1.0.conv1.total_params": torch.zeros(1)}
LAYOUTS = {
    "model.": under("model.", RIGHT),
    "net.": {"state_dict": under("net.", RIGHT)},
    "backbone.": under("backbone.", RIGHT),
    "module.student.": {"model": under("module.student.", RIGHT)},
    "compiled in Lightning": {"state_dict": under("model._orig_mod.", RIGHT), "epoch": 3},
    "a compiled part": {
        key.replace("layer1.", "layer1._orig_mod."): value for key, value in RIGHT.items()
    },
    "wrapped parts": {
        key.replace(".", "._fsdp_wrapped_module._checkpoint_wrapped_module.", 1): value
        for key, value in RIGHT.items()
    },
    "model_state_dict": {"model_state_dict": RIGHT, "loss": torch.tensor(0.1), "epoch": 2},
    "averaged": averaged(RIGHT),
    "operations counted": COUNTED,
    "operations counted, prefix": {"state_dict": under("module.", COUNTED)},
    "nested": {"checkpoint": {"weights": {"encoder": RIGHT}}},
    "tuple": (3, RIGHT),
    "half precision": under("net.", {key: value.half() for key, value in RIGHT.items()}),
}


def assert_loads(path, name="resnet8", state=RIGHT):
    loaded = create_model(name, 10, checkpoint=path).state_dict()
    for key, value in state.items():
        torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_load_and_are_recognised(layout, tmp_path, capsys):
    path = saved(LAYOUTS[layout], tmp_path)
    assert architecture_of(path) == "resnet8"
    assert_loads(path)
    assert "note" not in capsys.readouterr().out  # there was no choice


CHOICES = {  # content, what the note names
    "timm": ({"state_dict": WRONG, "state_dict_ema": RIGHT}, "state_dict_ema"),
    "torchvision": ({"model": WRONG, "model_ema": averaged(RIGHT)}, "model_ema"),
    "prefix": (
        {"state_dict": under("model.", WRONG) | under("ema_model.", RIGHT)},
        "state_dict.ema_model",
    ),
    "usual entry first": ({"swa": WRONG, "model": RIGHT}, "model"),
    "other tensors": (under("model.", RIGHT) | {"criterion.weight": torch.ones(10)}, "criterion"),
    "normalisation": (under("1.", RIGHT) | {"0.mean": torch.ones(1, 3, 1, 1)}, "0.mean"),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_the_entry_that_is_taken_is_noted(kind, tmp_path, capsys):
    content, named = CHOICES[kind]
    path = saved(content, tmp_path)
    assert_loads(path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: ") and str(path) in line and named in line


def test_our_own_checkpoints_hold_one_network(tmp_path, capsys):
    content = {"model": RIGHT, "model_name": "resnet8", "model_ema": WRONG, "method": {"x": WRONG}}
    assert_loads(saved(content, tmp_path))
    assert capsys.readouterr().out == ""


def test_a_file_with_student_and_teacher(tmp_path):
    both = {"model": under("student.", RIGHT) | under("teacher.", weights("resnet14", seed=3))}
    path = saved(both, tmp_path)
    with pytest.raises(UserError, match="resnet8 .*student.*resnet14 .*teacher.*--model_t"):
        architecture_of(path)
    assert_loads(path)
    assert_loads(path, "resnet14", weights("resnet14", seed=3))
    path = saved({"teacher": RIGHT, "student": WRONG}, tmp_path)
    with pytest.raises(UserError, match="several networks.* teacher and student"):
        create_model("resnet8", 10, checkpoint=path)


def test_formats_are_told_by_their_first_bytes(tmp_path):
    save_file(RIGHT, tmp_path / "a.pth")
    torch.save(RIGHT, tmp_path / "b.safetensors")
    torch.save(RIGHT, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    for file in ("a.pth", "b.safetensors", "c.safetensors"):
        assert architecture_of(tmp_path / file) == "resnet8"
        assert_loads(tmp_path / file)


REFUSED_CONTENTS = {  # content, what the message names
    "other network": ({"state_dict": under("model.", weights("resnet14"))}, "name resnet14$"),
    "other classes": (under("net.", weights(num_classes=7)), "7 classes, 10 are needed"),
    "no head": (
        under("encoder.", {key: RIGHT[key] for key in RIGHT if not key.startswith("fc.")}),
        "lacks fc.weight",
    ),
    "unknown tensor": ({**RIGHT, "extra.weight": torch.ones(3, 3)}, "unknown extra.weight"),
    "integers": ({key: value.to(torch.int8) for key, value in RIGHT.items()}, "int8"),
    "no values": ({key: value.to("meta") for key, value in RIGHT.items()}, "no values"),
    "optimizer only": ({"optimizer": {"lr": 0.1}}, "no state dict"),
    "whole network": (nn.Sequential(nn.Linear(2, 2)), "whole network.*state_dict"),
    "settings": ({"state_dict": RIGHT, "hyper_parameters": Fraction(1, 2)}, "Fraction"),
    "array": ({"state_dict": {"fc.weight": np.zeros((10, 64))}}, "numpy.ndarray"),
}


@pytest.mark.parametrize("kind", REFUSED_CONTENTS)
def test_contents_that_are_no_resnet8_are_refused(kind, tmp_path):
    content, message = REFUSED_CONTENTS[kind]
    path = saved(content, tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        create_model("resnet8", 10, checkpoint=path)
    assert str(path) in str(refusal.value) and len(str(refusal.value).splitlines()) <= 2


def write_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("resnet8/best.pth", "")


def write_tar(path):
    inner = saved(RIGHT, path.parent)
    with tarfile.open(path, "w") as archive:
        archive.add(inner, "t.pth")


class Odd:
    """Of no known kind."""


FILES = {  # how it is written, what the message names
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "web page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "web page"),
    "pointer": (
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:a"),
        "git lfs pull",
    ),
    "text": (lambda path: path.write_bytes(b'{"error": "not found"}'), "not found"),
    "TorchScript": (
        lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path)),
        "TorchScript",
    ),
    "zipped": (write_archive, "resnet8/best.pth"),
    "archive": (write_tar, "tar archive"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(RIGHT)), "torch.save"),
    "objects of many kinds": (
        lambda path: torch.save({"model": RIGHT, "rng": np.random.get_state(), "a": Odd()}, path),
        "state_dict alone",
    ),
    "begun": (lambda path: path.write_bytes(saved_bytes(path)[:5000]), "truncated"),
}


def saved_bytes(path):
    torch.save(RIGHT, path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_checkpoints_are_named(kind, tmp_path):
    write, message = FILES[kind]
    path = tmp_path / "t.pth"
    write(path)
    with pytest.raises(UserError, match=message) as refusal:
        architecture_of(path)
    assert str(path) in str(refusal.value)


def test_parts_under_prefixes_of_their_own(tmp_path):
    """MMPretrain's checkpoints hold backbone.conv1.weight and head.fc.weight."""
    state = {
        ("head." if key.startswith("fc.") else "backbone.") + key: value
        for key, value in RIGHT.items()
    }
    assert_loads(saved({"meta": {"epoch": 1}, "state_dict": state}, tmp_path))


def test_weights_that_are_no_classifiers_are_named(tmp_path):
    """Of pre-training, quantised, pruned, with weight norm, and adapters."""
    net = create_model("resnet8", 10)
    body = {key: value for key, value in RIGHT.items() if not key.startswith("fc.")}
    pruned = prune.l1_unstructured(nn.Linear(3, 2), "weight", 0.5).state_dict()
    normed = {"weight_g": torch.ones(10, 1), "weight_v": torch.ones(10, 64)}
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))
    parametrised = linear.state_dict()
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}).state_dict()
    for state, word in (
        ({**under("encoder_q.", body), **under("encoder_k.", body)}, "last layer.*encoder_q"),
        (body, "last layer is missing,"),
        (quantised, "quantised"),
        ({**body, **under("fc.", pruned)}, "pruned"),
        ({**body, **under("fc.", normed)}, "parametrised.*remove_weight_norm"),
        ({**body, **under("fc.", parametrised)}, "parametrised.*remove_parametrizations"),
        ({**body, "base_model.conv1.lora_A.weight": torch.zeros(2, 2)}, "LoRA.*merge"),
    ):
        with pytest.raises(UserError, match=word):
            create_model("resnet8", 10, checkpoint=saved(state, tmp_path))


def test_a_folder_is_named_as_a_folder(tmp_path):
    path = saved(RIGHT, tmp_path, "run/resnet8/resnet8_best.pth")
    for folder in (path.parent, path.parent.parent):
        for read in (architecture_of, checkpoints.load):
            with pytest.raises(UserError, match=f"{folder} is a folder.*{path}"):
                read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is a folder.* none"):
        architecture_of(tmp_path / "empty")


# The dry pass


def test_a_dry_pass_changes_nothing():
    net = create_model("torchvision/mobilenet_v2", 10)  # BatchNorm and dropout
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    output, operations = dry_pass(net, torch.empty(2, 3, 32, 32))
    assert output.is_meta and output.shape == (2, 10) and operations > 0
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


class ReadsValues(nn.Module):
    """A network that cannot run on the meta device: its control flow depends on values."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm2d(3), nn.Dropout()
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        x = self.dropout(self.norm(x).mean((2, 3)))
        return self.fc(x if x.sum().item() < 1e9 else -x)


def test_a_network_that_reads_values_is_not_refused():
    net, state = ReadsValues(), torch.get_rng_state()
    check_classifier(net, "resnet8", "--model_s", 32, 10, batch_size=1)
    assert forward_operations(net, torch.empty(2, 3, 32, 32)) == 2 * 2 * 3 * 10
    assert net.norm.num_batches_tracked == 0 and net.norm.running_mean.abs().sum() == 0
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UserError, match="--batch_size"):
        check_classifier(net, "resnet8", "--model_s", 1, 10, batch_size=1)
    with pytest.raises(UserError, match=r"\(2, 10\).*7 classes.*--model_s"):
        check_classifier(net, "resnet8", "--model_s", 32, 7)


class Pair(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x


class FeatureMap(nn.Module):
    def forward(self, x):
        return x[:, :, :1, :1]


@pytest.mark.parametrize("network, named", [(Pair(), "tuple"), (FeatureMap(), r"\(2, 3, 1, 1\)")])
def test_outputs_that_are_no_logits_are_refused(network, named):
    with pytest.raises(UserError, match=f"{named}.*--model_t"):
        check_classifier(Normalised(network, *STATISTICS), "resnet8", "--model_t", 32, 3)


# Command lines


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_fashion_mnist):
    """A working directory with a data root DATA and teachers."""
    monkeypatch.chdir(tmp_path)
    Path("DATA").symlink_to(tiny_fashion_mnist)
    for name in ("resnet8", "timm/vit_tiny_patch16_224"):
        saved(weights(name), tmp_path, f"{name.replace('/', '_')}/t.pth")
    return tmp_path


VIT = "timm/vit_tiny_patch16_224"
VIT_FILE = "timm_vit_tiny_patch16_224/t.pth"
STUDENT = ["--path-t", "resnet8/t.pth", "--train_data", "SET", "--model_s"]
COMMANDS = {  # script, flags, what the message names
    "student": (train_student, [*STUDENT, VIT], f"{VIT} .*32 .*--model_s.*--image_size 224"),
    "estimate": (
        train_student,
        [*STUDENT, "torchvision/alexnet", "--estimate"],
        "torchvision/alexnet .*32 .*--model_s.*--image_size 224",
    ),
    "teacher": (
        train_student,
        ["--path-t", VIT_FILE, "--train_data", "SET"],
        f"{VIT} .*32 .*--model_t",
    ),
    "evaluate": (train_student, ["--evaluate", VIT_FILE], f"{VIT} .*32 .*--model_s"),
    "train a teacher": (
        train_teacher,
        ["--model", "timm/inception_v3"],
        "timm/inception_v3 .*32 .*--model.*--image_size 299",
    ),
    "our own": (
        train_teacher,
        ["--model", "vgg8", "--image_size", "4"],
        "vgg8 .*4 .*--model.*--image_size 32",
    ),
    "data-free": (
        train_datafree,
        ["--path-t", VIT_FILE, "--method", "dafl"],
        f"{VIT} .*32 .*--model_t",
    ),
    "data-free student": (
        train_datafree,
        ["--path-t", "resnet8/t.pth", "--method", "dafl", "--model_s", VIT],
        f"{VIT} .*32 .*--model_s",
    ),
    "batch of one": (
        train_teacher,
        ["--model", "torchvision/resnet18", "--batch_size", "1"],
        "torchvision/resnet18 .*BatchNorm.* 32 .*--batch_size",
    ),
    "data-free batch of one": (
        train_datafree,
        [*"--path-t resnet8/t.pth --method dfq --model_s ResNet18 --batch_size 1".split()],
        "ResNet18 .*BatchNorm.* 32 .*--batch_size",
    ),
    "one image": (
        train_student,
        [*STUDENT, "ResNet18", "--data_amount", "1"],
        "ResNet18 .*BatchNorm.* 32 .*--batch_size",
    ),
    "layout": (
        train_student,
        ["--path-t", "resnet8", "--train_data", "SET"],
        "resnet8 is a folder.*resnet8/t.pth",
    ),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_networks_are_run_before_anything_is_written(kind, place, tiny_image_folder, capsys):
    script, options, message = COMMANDS[kind]
    Path("SET").symlink_to(tiny_image_folder)
    files = sorted(os.listdir())
    data = "--dataset fashion_mnist --data_root DATA --device cpu --epochs 1".split()
    with pytest.raises(UserError, match=message):
        script.main([*data, *options])
    assert sorted(os.listdir()) == files
    assert run_script(script.main, [*data, *options]) == 2
    assert len(capsys.readouterr().err.rpartition("error: ")[2].splitlines()) <= 2


def test_evaluate_images_runs_its_classifier_first(place, tiny_image_folder):
    options = f"--dataset fashion_mnist --data_root DATA --device cpu --path-t {VIT_FILE} --images"
    with pytest.raises(UserError, match=f"{VIT} .*32 .*--model_t"):
        evaluate_images.main([*options.split(), str(tiny_image_folder)])


def test_a_batch_of_one_is_accepted_where_batchnorm_has_more_values():
    check_classifier(create_model("resnet8", 10), "resnet8", "--model_s", 32, 10, batch_size=1)
    eval_mode = create_model("ResNet18", 10).eval()
    check_classifier(eval_mode, "ResNet18", "--model_t", 32, 10, batch_size=1)


def test_a_student_is_distilled_from_a_checkpoint_with_a_prefix(place, tiny_image_folder, capsys):
    saved({"state_dict": WRONG, "state_dict_ema": under("model.", RIGHT)}, place)
    options = "--dataset fashion_mnist --data_root DATA --device cpu --epochs 1 --path-t mine/t.pth"
    result = train_student.main([*options.split(), "--train_data", str(tiny_image_folder)])
    assert result["teacher"] == "resnet8"
    assert (
        "note: checkpoint mine/t.pth: the weights under state_dict_ema" in capsys.readouterr().out
    )
