"""train_teacher.py and train_student.py: the run folder, resuming, evaluation, several
processes.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import train_student
import train_teacher
from dataset import fashion_mnist, real, transforms
from dataset.loader import make_loader
from helper import checkpoints
from helper.device import to_device
from helper.distributed import World
from helper.errors import UserError, run_script
from helper.files import write_json
from helper.run import Run
from models.architectures import create_model
from models.classifiers import Normalised, make_student

ROOT = Path(__file__).resolve().parent.parent
STATS = ((0.2190,) * 3, (0.3318,) * 3)
FEW = [
    "--epochs",
    "2",
    "--batch_size",
    "32",
    "--learning_rate",
    "0.1",
    "--schedule",
    "cosine",
    "--device",
    "cpu",
]
FILES = {
    "config.json",
    "train.log",
    "metrics.csv",
    "curves.png",
    "result.json",
    "resnet8_latest.pth",
    "resnet8_best.pth",
}


@pytest.fixture(scope="module")
def data(tiny_fashion_mnist):
    return ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(autouse=True)
def in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def teacher(workspace, data):
    """The checkpoint of a trained teacher; its run folder is beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        train_teacher.main(
            [
                *data,
                *FEW,
                "--epochs",
                "3",
                "--batch_size",
                "16",
                "--model",
                "resnet8",
                "--val_split",
                "holdout",
            ]
        )
    return workspace / "save/models/fashion_mnist/resnet8/resnet8_latest.pth"


@pytest.fixture(scope="module")
def student_argv(data, teacher, tiny_image_folder):
    return [
        *data,
        *FEW,
        "--path-t",
        str(teacher),
        "--train_data",
        str(tiny_image_folder),
        "--model_s",
        "resnet8",
    ]


def folder_of(name):
    return Path("save/student_model/fashion_mnist_resnet8") / name


@pytest.fixture(scope="module")
def student(workspace, student_argv):
    """(run folder, result) of an uninterrupted distillation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        result = train_student.main([*student_argv, "--experiments_name", "reference"])
    return workspace / folder_of("reference"), result


def rows_of(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


TIMES = ("seconds", "images_s")  # what differs between two equal runs


def without_times(state):
    if isinstance(state, dict):
        return {key: without_times(value) for key, value in state.items() if key not in TIMES}
    return [without_times(value) for value in state] if isinstance(state, list) else state


def assert_same_run(folder, reference, name="resnet8"):
    """Asserts that two run folders hold the same run, bit for bit."""
    for kind in ("latest", "best"):
        one, other = (
            without_times(checkpoints.load(f / f"{name}_{kind}.pth")) for f in (folder, reference)
        )
        for part in (key for key, value in other.items() if key in ("model", "ema", "optimizer")):
            assert one[part].keys() == other[part].keys()
            for key, value in other[part].items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(one[part].pop(key), value), (kind, part, key)
            other[part] = {
                key: value
                for key, value in other[part].items()
                if not isinstance(value, torch.Tensor)
            }
        assert one == other
    assert without_times(rows_of(folder)) == without_times(rows_of(reference))
    results = [
        without_times(json.loads((f / "result.json").read_text())) for f in (folder, reference)
    ]
    assert results[0] == results[1]
    assert not list(folder.glob("*.part"))


# The run folder


def test_teacher_run_folder(teacher, data):
    folder = teacher.parent
    assert {file.name for file in folder.iterdir()} == FILES
    config = json.loads((folder / "config.json").read_text())
    assert (
        config["flags"]["epochs"] == 3 and config["flags"]["images"] == 330
    )  # of 360: not the holdout
    assert config["train"]["split"] == "train" and config["validation"]["split"] == "holdout"
    assert (
        config["versions"]["torch"] == torch.__version__
        and {"git_commit", "machine"} <= config.keys()
    )
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"epoch", "lr", "loss", "images_s", "top1", "top5", "train_top1", "val_loss"} <= rows[
        0
    ].keys()
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    result = json.loads((folder / "result.json").read_text())
    assert (
        result["method"] == "Teacher"
        and result["student"] == "resnet8"
        and result["teacher"] is None
    )
    assert result["images"] == 330 and result["image_steps"] == 3 * 20 * 16
    assert result["top1_last"] > 50
    assert "resnet8 on 330 images of fashion_mnist" in (folder / "train.log").read_text()
    create_model("resnet8", 10, checkpoint=teacher)


def test_student_run_folder(student, student_argv, teacher, tiny_image_folder):
    folder, result = student
    assert {file.name for file in folder.iterdir()} == FILES
    assert json.loads((folder / "result.json").read_text()) == {"schema": 1, **result}
    rows = rows_of(folder)
    expected = {
        "table": None,
        "method": "DM-KD",
        "dataset": "fashion_mnist",
        "teacher": "resnet8",
        "student": "resnet8",
        "source": str(tiny_image_folder),
        "images": 200,
        "epochs": 2,
        "seed": 0,
        "image_steps": 2 * 6 * 32,
    }
    assert expected.items() <= result.items()
    assert result.keys() >= {
        "top1_last",
        "top1_best",
        "top5_last",
        "agreement",
        "teacher_top1",
        "seconds",
    }
    assert result["top1_last"] == pytest.approx(float(rows[-1]["top1"]), rel=1e-5)
    assert result["top1_best"] == pytest.approx(max(float(row["top1"]) for row in rows), rel=1e-5)
    assert result["agreement"] == pytest.approx(float(rows[-1]["agreement"]), rel=1e-5)
    assert {
        "epoch",
        "lr",
        "loss",
        "train_agreement",
        "agreement",
        "images_s",
        "top1",
        "top5",
    } <= rows[0].keys()
    config = json.loads((folder / "config.json").read_text())
    from hashlib import sha256

    assert config["teacher"]["teacher_sha256"] == sha256(teacher.read_bytes()).hexdigest()
    assert (
        config["train"]["manifest"] == {"complete": True, "images": 200}
        and config["flags"]["kd_T"] == 4
    )
    from PIL import Image

    with Image.open(folder / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > 600
    log = (folder / "train.log").read_text()
    assert f"teacher resnet8: top-1 {result['teacher_top1']:.2f} %" in log and "warning" not in log
    assert "epoch 1/2" in log and "epoch 2/2" in log


def test_accuracy_and_agreement_counted_by_hand(student, teacher, tiny_fashion_mnist):
    folder, result = student
    images = fashion_mnist.load(tiny_fashion_mnist, "test")
    pixels = (images.images / 255 - 0.2190) / 0.3318
    inputs = torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = [
            create_model("resnet8", 10, checkpoint=path).eval()(inputs).numpy()
            for path in (teacher, folder / "resnet8_latest.pth")
        ]
    classes = [each.argmax(1) for each in logits]
    assert result["teacher_top1"] == pytest.approx(
        100 * (classes[0] == images.labels).mean(), abs=0.01
    )
    assert result["top1_last"] == pytest.approx(
        100 * (classes[1] == images.labels).mean(), abs=0.01
    )
    assert result["agreement"] == pytest.approx(100 * (classes[0] == classes[1]).mean(), abs=0.01)
    five = [
        label in np.argsort(-row)[:5] for row, label in zip(logits[1], images.labels, strict=True)
    ]
    assert result["top5_last"] == pytest.approx(100 * np.mean(five), abs=0.01)
    assert result["teacher_top1"] > 50


def test_evaluate_gives_the_same_accuracy(student, data, capsys):
    folder, result = student
    for flags in ([], ["--model_s", "resnet8"], ["--batch_size", "7"]):
        argv = [*data, "--device", "cpu", "--evaluate", str(folder / "resnet8_latest.pth"), *flags]
        metrics = train_student.main(argv)
        assert metrics["top1"] == result["top1_last"] and metrics["top5"] == result["top5_last"]
    assert f"top-1 {result['top1_last']:.2f} %" in capsys.readouterr().out


def test_a_checkpoint_brings_its_normalisation(
    student_argv, data, workspace, tiny_image_folder, monkeypatch, capsys
):
    """What a run normalised with is written beside the weights: --evaluate and --path-t need no
    flag for it.
    """
    few = [*student_argv, "--epochs", "1", "--val_split", "holdout"]
    result = train_student.main(
        [*few, "--mean_s", "0.4", "--std_s", "0.1,0.2,0.3", "--experiments_name", "other"]
    )
    latest = folder_of("other") / "resnet8_latest.pth"
    saved = checkpoints.load(latest)
    assert saved["mean"] == [0.4] * 3 and saved["std"] == [0.1, 0.2, 0.3]
    evaluate = [*data, "--evaluate", str(latest), "--device", "cpu", "--val_split", "holdout"]
    own, others = train_student.main(evaluate), train_student.main([*evaluate, "--mean_s", "0.9"])
    assert own["top1"] == result["top1_last"] and own["val_loss"] != others["val_loss"]
    assert "mean 0.4, 0.4, 0.4, std 0.1, 0.2, 0.3 (the checkpoint's own)" in capsys.readouterr().out
    again = train_student.main(
        [*few, "--path-t", str(latest), "--experiments_name", "others-student"]
    )
    assert again["teacher_top1"] == result["top1_last"]
    config = json.loads((folder_of("others-student") / "config.json").read_text())["normalisation"]
    assert config["teacher"] == {
        "mean": [0.4] * 3,
        "std": [0.1, 0.2, 0.3],
        "origin": "the checkpoint's own",
    }
    assert config["student"] == {
        "mean": [0.2190] * 3,
        "std": [0.3318] * 3,
        "origin": "the data set's",
    }


def test_a_student_of_a_library_is_evaluated_by_its_own_name(workspace, data):
    torch.manual_seed(0)
    world = World(0, 1, torch.device("cpu"))
    parts = {"model": create_model("timm/resnet10t", 10)}
    run = Run(workspace / "library", "timm/resnet10t", parts, world)
    run.open({}, {}, resume=False)
    run.save()
    assert run.latest == workspace / "library/timm_resnet10t_latest.pth"
    metrics = train_student.main([*data, "--evaluate", str(run.latest), "--device", "cpu"])
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 100


def test_checkpoints_are_teachers(student, student_argv):
    """A student's checkpoint loads back as --path-t; a weak teacher is warned of."""
    folder, result = student
    again = [
        *student_argv,
        "--epochs",
        "1",
        "--path-t",
        str(folder / "resnet8_best.pth"),
        "--model_t",
        "resnet8",
    ]
    assert (
        train_student.main([*again, "--experiments_name", "second"])["teacher_top1"]
        == result["top1_best"]
    )


def test_a_teacher_near_chance_is_warned_of(workspace, student_argv, capsys):
    torch.manual_seed(1)
    untrained = create_model("resnet8", 10)
    for parameter in untrained.fc.parameters():
        parameter.data.zero_()
    untrained.fc.bias.data[3] = 1  # always class 3: at chance
    (workspace / "weak/resnet8").mkdir(parents=True)
    torch.save(untrained.state_dict(), workspace / "weak/resnet8/teacher.pth")
    train_student.main(
        [
            *student_argv,
            "--path-t",
            "weak/resnet8/teacher.pth",
            "--epochs",
            "1",
            "--data_amount",
            "32",
            "--experiments_name",
            "warned",
        ]
    )
    log = (folder_of("warned") / "train.log").read_text()
    for text in (capsys.readouterr().out, log):
        assert re.search("warning: .*30.00 %.* chance", text)
    assert len(rows_of(folder_of("warned"))) == 1  # it goes on


def test_best_and_latest(student_argv, monkeypatch):
    """Best holds the weights of the first epoch with the highest accuracy, latest those of the
    last.
    """
    constant = [
        *student_argv,
        "--schedule",
        "step",
        "--learning_rate",
        "0.01",
        "--data_amount",
        "64",
    ]
    scores = iter([20.0, 60.0, 60.0, 50.0, 20.0, 60.0])  # of four epochs, then of two
    metrics = {"top5": 90.0, "val_loss": 1.0, "agreement": 80.0}
    monkeypatch.setattr(
        train_student, "evaluate_classifier", lambda *_: ({"top1": next(scores), **metrics}, None)
    )
    four = train_student.main([*constant, "--epochs", "4", "--experiments_name", "four"])
    assert (four["top1_last"], four["top1_best"]) == (50.0, 60.0)
    two = train_student.main([*constant, "--epochs", "2", "--experiments_name", "two"])
    assert two["top1_last"] == 60.0
    best, last, second = (
        checkpoints.load(folder_of(name) / f"resnet8_{kind}.pth")
        for name, kind in (("four", "best"), ("four", "latest"), ("two", "latest"))
    )
    assert best["epoch"] == 2 and best["score"] == 60.0
    assert all(torch.equal(value, second["model"][key]) for key, value in best["model"].items())
    assert any(not torch.equal(value, last["model"][key]) for key, value in best["model"].items())


# The loss and what the networks see


def test_weights_of_the_losses(student_argv):
    """α weighs the KL loss and γ the cross-entropy: at a rate of almost zero the first epoch's loss
    is their sum.
    """

    def loss(name, *flags):
        train_student.main(
            [
                *student_argv,
                "--epochs",
                "1",
                "--data_amount",
                "64",
                "--learning_rate",
                "1e-12",
                "--experiments_name",
                f"loss-{name}",
                *flags,
            ]
        )
        return float(rows_of(folder_of(f"loss-{name}"))[0]["loss"])

    kd, ce = loss("kd"), loss("ce", "-a", "0", "-r", "1")
    assert ce == pytest.approx(np.log(10), rel=0.5) and kd > 0.1 and abs(kd - ce) > 0.01
    assert loss("both", "--alpha", "2", "--gamma", "0.5") == pytest.approx(
        2 * kd + 0.5 * ce, rel=1e-4
    )


def test_loss_without_the_factor_of_the_temperature(student_argv):
    def first_loss(name, *flags):
        train_student.main(
            [
                *student_argv,
                "--epochs",
                "1",
                "--data_amount",
                "64",
                "--learning_rate",
                "1e-12",
                "--experiments_name",
                f"tau-{name}",
                *flags,
            ]
        )
        return float(rows_of(folder_of(f"tau-{name}"))[0]["loss"])

    whole, plain = (
        first_loss("whole", "--kd_T", "8"),
        first_loss("plain", "--kd_T", "8", "--no_tau2"),
    )
    assert whole == pytest.approx(64 * plain, rel=1e-4)


@pytest.mark.parametrize("optimizer, rate", [("adam", 1e-3), ("adamw", 1e-3)])
def test_other_optimizers_take_their_own_first_step(student_argv, monkeypatch, optimizer, rate):
    """Adam's first step moves every weight by the rate, against its gradient's sign; AdamW's decay
    is apart from it.
    """
    seen, update = [], train_student.update

    def recorded(optimizer, loss):
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        before = [weight.detach().clone() for weight in weights]
        update(optimizer, loss)
        seen.append(
            (
                before,
                *(
                    [value.detach().clone() for value in values]
                    for values in ([weight.grad for weight in weights], weights)
                ),
            )
        )

    monkeypatch.setattr(train_student, "update", recorded)
    decay = 0.5
    train_student.main(
        [
            *student_argv,
            "--epochs",
            "1",
            "--data_amount",
            "64",
            "--optimizer",
            optimizer,
            "--learning_rate",
            str(rate),
            "--weight_decay",
            str(decay),
            "--experiments_name",
            optimizer,
        ]
    )
    for before, gradient, after in zip(*seen[0], strict=True):
        if optimizer == "adam":
            gradient, kept = gradient + decay * before, before
        else:
            kept = before * (1 - rate * decay)
        large = gradient.abs() > 1e-5
        torch.testing.assert_close(
            after[large], (kept - rate * gradient.sign())[large], rtol=1e-3, atol=2e-6
        )


def test_a_run_of_before_the_optimizer_flag_goes_on(student_argv, monkeypatch):
    argv = [*student_argv, "--experiments_name", "old"]
    with monkeypatch.context() as patch:
        interrupt(patch, Run, "end_epoch", 1, kill)
        with pytest.raises(Killed):
            train_student.main(argv)
    latest = folder_of("old") / "resnet8_latest.pth"
    state = checkpoints.load(latest)
    for flag in ("optimizer", "augment", "mix_beta", "no_tau2"):
        del state["flags"][flag]
    checkpoints.save(latest, state)
    with pytest.raises(UserError, match="--resume: .*optimizer sgd, not adam"):
        train_student.main([*argv, "--resume", "--optimizer", "adam"])
    assert train_student.main([*argv, "--resume"])["epochs"] == 2


def test_the_row_of_the_tables(student_argv, tiny_image_folder, tmp_path):
    """result.json says whose row it is: the manifest of the images, or --row."""
    shutil.copytree(tiny_image_folder, tmp_path / "patches")
    (tmp_path / "patches/manifest.json").write_text(
        json.dumps({"complete": True, "method": "One-Image"})
    )
    few = [*student_argv, "--epochs", "1", "--data_amount", "64"]
    ours = train_student.main([*few, "--experiments_name", "row"])
    patches = train_student.main(
        [*few, "--train_data", str(tmp_path / "patches"), "--experiments_name", "row-patches"]
    )
    named = train_student.main(
        [*few, "--row", "Place365+KD", "--table", "imagenet", "--experiments_name", "row-named"]
    )
    assert (ours["method"], patches["method"], named["method"], named["table"]) == (
        "DM-KD",
        "One-Image",
        "Place365+KD",
        "imagenet",
    )


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_teacher_and_student_see_the_same_mixed_images(student_argv, monkeypatch, mixing):
    inputs, forward = {True: [], False: []}, Normalised.forward

    def recorded(self, x):
        if x.device.type != "meta":  # the cost is counted without pixels
            inputs[self.training].append(x.clone())
        return forward(self, x)

    plain = [batch for batch, _ in _batches_of(student_argv)]
    monkeypatch.setattr(Normalised, "forward", recorded)
    train_student.main(
        [*student_argv, "--epochs", "1", "--use_aug", mixing, "--experiments_name", mixing]
    )
    assert len(inputs[True]) == len(plain) == 6
    for mixed, images in zip(inputs[True], plain, strict=True):
        assert any(
            torch.equal(mixed, other) for other in inputs[False]
        )  # the teacher, always in eval mode
        assert not torch.equal(mixed, images)


def _batches_of(student_argv):
    """The training batches of epoch 1 as the networks would see them without mixing."""
    options = train_student.parse_option(student_argv)
    world = World(0, 1, torch.device("cpu"))
    data = real.data_from(options)
    images = train_student.read_images(data, options.train_data, None, 10, False)
    loader = make_loader(images, transforms.training(32), options.batch_size, world)
    return [to_device(batch, world.device) for batch in loader.epoch_batches(0)]


def test_bf16_on_the_cpu(student_argv):
    few = [*student_argv, "--epochs", "1", "--data_amount", "64", "--val_split", "holdout"]
    results = [
        train_student.main([*few, "--amp", amp, "--experiments_name", amp])
        for amp in ("bf16", "off")
    ]
    assert results[0]["teacher_top1"] == pytest.approx(
        results[1]["teacher_top1"], abs=4
    )  # one image of 30
    loss = [float(rows_of(folder_of(amp))[0]["loss"]) for amp in ("bf16", "off")]
    assert loss[0] != loss[1] and loss[0] == pytest.approx(loss[1], rel=0.1)
    state = checkpoints.load(folder_of("bf16") / "resnet8_latest.pth")["model"]
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


class OpenedFiles:
    """The paths opened by this process while it is active."""

    active, paths = False, []

    @classmethod
    def hook(cls, event, arguments):
        if cls.active and event == "open":
            cls.paths.append(str(arguments[0]))


def test_distillation_opens_no_real_training_image(student_argv, data, tiny_image_folder):
    sys.addaudithook(OpenedFiles.hook)  # cannot be removed: it does nothing later
    OpenedFiles.active = True
    try:
        train_student.main([*student_argv, "--epochs", "1", "--experiments_name", "audited"])
        opened, OpenedFiles.paths = OpenedFiles.paths, []
        train_teacher.main(
            [*data, *FEW, "--epochs", "1", "--model", "resnet8", "--save_dir", "audited/resnet8"]
        )
        control = OpenedFiles.paths
    finally:
        OpenedFiles.active = False
    assert any("t10k-images" in path for path in opened) and any(
        str(tiny_image_folder) in path for path in opened
    )
    assert not [path for path in opened if "train-images" in path or "train-labels" in path]
    assert any("train-images" in path for path in control)  # the hook would have seen it


# Resuming


def test_a_folder_that_holds_a_run_is_refused(student, student_argv):
    folder, result = student
    before = {file: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match="holds a run.*--resume"):
        train_student.main([*student_argv, "--experiments_name", "reference"])
    again = train_student.main([*student_argv, "--experiments_name", "reference", "--resume"])
    assert (
        again["top1_last"] == result["top1_last"] and again["seconds"] == result["seconds"]
    )  # nothing is trained
    unchanged = ["resnet8_latest.pth", "resnet8_best.pth", "metrics.csv", "config.json"]
    assert all((folder / name).read_bytes() == before[folder / name] for name in unchanged)


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing is saved on the way."""


def interrupt(monkeypatch, target, name, call, action, after=True):
    """Makes the `call`-th call of target.name do `action` after (or before) its work."""
    real, calls = getattr(target, name), []

    def wrapped(*arguments, **keywords):
        calls.append(1)
        if len(calls) == call and not after:
            action()
        result = real(*arguments, **keywords)
        if len(calls) == call and after:
            action()
        return result

    monkeypatch.setattr(target, name, wrapped)


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


def kill():
    raise Killed


# An epoch has 6 steps: what is interrupted, at which call, how, and what is then on the disk
# (epochs, steps).
INTERRUPTIONS = {
    "SIGTERM in the first epoch": (train_student, "update", 2, sigterm, True, (0, 2)),
    "SIGTERM in the middle of an epoch": (train_student, "update", 9, sigterm, True, (1, 3)),
    "SIGTERM at an epoch's last step": (train_student, "update", 6, sigterm, True, (0, 6)),
    "SIGTERM in the evaluation": (train_student, "evaluate_classifier", 1, sigterm, True, (1, 1)),
    "killed at an epoch boundary": (Run, "end_epoch", 1, kill, True, (1, 0)),
    "killed in the middle of an epoch": (train_student, "update", 10, kill, True, (1, 0)),
    "killed in the evaluation": (train_student, "evaluate_classifier", 2, kill, False, (1, 6)),
    "killed after the best was written": (Run, "_write_metrics", 2, kill, False, (1, 6)),
    "killed after the metrics were written": (Run, "save", 4, kill, False, (1, 6)),
    "killed before the result": (Run, "finish", 1, kill, False, (2, 0)),
}


@pytest.mark.parametrize("name", INTERRUPTIONS)
def test_interrupted_and_resumed_is_never_interrupted(student, student_argv, monkeypatch, name):
    target, function, call, action, after, state = INTERRUPTIONS[name]
    argv = [*student_argv, "--experiments_name", name]
    with monkeypatch.context() as patch:
        interrupt(patch, target, function, call, action, after)
        with pytest.raises(SystemExit if action is sigterm else Killed) as stopped:
            train_student.main(argv)
    if action is sigterm:
        assert stopped.value.code == 143
        assert "stopped by SIGTERM" in (folder_of(name) / "train.log").read_text()
    saved = checkpoints.load(folder_of(name) / "resnet8_latest.pth")["progress"]
    assert (saved["epoch"], saved["step"]) == state
    torch.manual_seed(1234)  # nothing may hang on the generator of the process
    train_student.main([*argv, "--resume"])
    assert_same_run(folder_of(name), student[0])


def test_interrupted_with_mixing_and_cross_entropy(student_argv, monkeypatch):
    """Random numbers of the step, momentum and the sums of the epoch all go on."""
    argv = [
        *student_argv,
        "--use_aug",
        "mixup",
        "-r",
        "0.5",
        "--schedule",
        "step",
        "--lr_decay_epochs",
        "1",
        "--seed",
        "5",
    ]
    train_student.main([*argv, "--experiments_name", "mixed"])
    with monkeypatch.context() as patch:
        interrupt(patch, train_student, "update", 8, sigterm)
        with pytest.raises(SystemExit):
            train_student.main([*argv, "--experiments_name", "mixed-resumed"])
    train_student.main(
        [*argv, "--experiments_name", "mixed-resumed", "--resume", "--num_workers", "1"]
    )
    assert_same_run(folder_of("mixed-resumed"), folder_of("mixed"))


def test_interrupted_teacher(data, monkeypatch):
    argv = [*data, *FEW, "--model", "resnet8", "--label_smoothing", "0.1"]
    train_teacher.main([*argv, "--save_dir", "whole/resnet8"])
    with monkeypatch.context() as patch:
        interrupt(patch, train_teacher, "update", 14, sigterm)
        with pytest.raises(SystemExit):
            train_teacher.main([*argv, "--save_dir", "stopped/resnet8"])
    train_teacher.main([*argv, "--save_dir", "stopped/resnet8", "--resume"])
    assert_same_run(Path("stopped/resnet8"), Path("whole/resnet8"))


def subprocess_of(script, argv, workspace, launcher=()):
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / script), *argv],
        cwd=workspace,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_sigkill(workspace, student_argv):
    argv = [*student_argv, "--epochs", "8", "--data_amount", "96", "--val_split", "holdout"]
    process = subprocess_of("train_student.py", [*argv, "--experiments_name", "shot"], workspace)
    latest = folder_of("shot") / "resnet8_latest.pth"
    while not latest.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert 0 <= checkpoints.load(latest)["progress"]["epoch"] < 8
    train_student.main([*argv, "--experiments_name", "shot", "--resume"])
    train_student.main([*argv, "--experiments_name", "alive"])
    assert_same_run(folder_of("shot"), folder_of("alive"))


@pytest.fixture(scope="module")
def stopped(workspace, student_argv):
    """The name of a run that has done one epoch of two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        interrupt(patch, Run, "end_epoch", 1, kill)
        with pytest.raises(Killed):
            train_student.main([*student_argv, "--experiments_name", "stopped"])
    return "stopped"


CHANGED = {
    "learning_rate": ["--learning_rate", "0.04"],
    "kd_T": ["--kd_T", "5"],
    "alpha": ["-a", "2"],
    "seed": ["--seed", "1"],
    "epochs": ["--epochs", "3"],
    "batch_size": ["--batch_size", "16"],
    "use_aug": ["--use_aug", "cutmix"],
    "amp": ["--amp", "bf16"],
    "schedule": ["--schedule", "step"],
    "data_amount": ["--data_amount", "100"],
    "mean_s": ["--mean_s", "0.5"],
    "optimizer": ["--optimizer", "adam"],
    "no_tau2": ["--no_tau2"],
    "distill": ["--distill", "dist"],
    "standardize_logits": ["--standardize_logits"],
    "distill_warmup_epochs": ["--distill_warmup_epochs", "2"],
}


@pytest.mark.parametrize("flag", CHANGED)
def test_resume_with_other_settings_is_refused(stopped, student_argv, flag):
    latest = (folder_of(stopped) / "resnet8_latest.pth").read_bytes()
    with pytest.raises(UserError, match=f"--resume: .*{stopped} .*{flag} "):
        train_student.main(
            [*student_argv, "--experiments_name", stopped, "--resume", *CHANGED[flag]]
        )
    assert (folder_of(stopped) / "resnet8_latest.pth").read_bytes() == latest


def test_resume_with_another_teacher_is_refused(stopped, student, student_argv, teacher):
    original = teacher.read_bytes()
    try:
        teacher.write_bytes((student[0] / "resnet8_best.pth").read_bytes())
        with pytest.raises(UserError, match="--resume: .*teacher_sha256"):
            train_student.main([*student_argv, "--experiments_name", stopped, "--resume"])
    finally:
        teacher.write_bytes(original)


def test_resume_with_other_workers_and_printing_and_moved_files(
    stopped, student, student_argv, teacher, tiny_fashion_mnist, tmp_path
):
    moved = shutil.copytree(teacher.parent, tmp_path / teacher.parent.name) / teacher.name
    data = shutil.copytree(tiny_fashion_mnist, tmp_path / "data")
    train_student.main(
        [
            *student_argv,
            "--experiments_name",
            stopped,
            "--resume",
            "--num_workers",
            "2",
            "--print-freq",
            "1",
            "--save_model",
            "--path-t",
            str(moved),
            "--data_root",
            str(data),
        ]
    )
    assert_same_run(folder_of(stopped), student[0])


# Several processes


class TwoProcesses(World):
    """One of two processes, of which the other does nothing."""

    def sum(self, tensor):
        return tensor


@pytest.mark.parametrize("print_freq, stops_at", [(2, 2), (50, 5)])
def test_several_processes_stop_together_even_in_short_epochs(tmp_path, print_freq, stops_at):
    parameter = torch.zeros(1, requires_grad=True)
    parts = {"model": torch.nn.Identity(), "optimizer": torch.optim.SGD([parameter], 0.1)}
    run = Run(tmp_path, "net", parts, TwoProcesses(1, 2, torch.device("cpu")))
    order, save = [], run.save
    run.save = lambda: (save(), order.append("save"))
    run.world.barrier = lambda: order.append("barrier")
    calls = []
    with pytest.raises(SystemExit):
        for _ in run.epochs(1, lambda position: 0.1, seed=0, print_freq=print_freq):
            for batch in run.batches(FiveSteps()):
                run.stop.requested = True
                calls.append(batch)
                run.add(1, loss=torch.ones(()))
    assert len(calls) == run.progress.step == stops_at
    assert order[-2:] == ["save", "barrier"]  # nobody leaves while rank 0 may be writing


class FiveSteps:
    """A loader of five batches."""

    batch_size = 2

    def __len__(self):
        return 5

    def epoch_batches(self, epoch, first_step=0):
        return iter(range(first_step, 5))


# Several runs under one torchrun: the group of processes stays between them.
PROGRAM = """
import sys
import torch.distributed
sys.path.insert(0, {root!r})
import train_student
from helper.distributed import World
World.close = lambda self: None
for argv in {argvs!r}:
    train_student.main(argv)
# Left to the interpreter, gloo's threads abort now and then.
torch.distributed.destroy_process_group()
"""


def test_two_processes(workspace, student, student_argv, data, capsys):
    one_epoch = [*student_argv, "--epochs", "1"]
    # Without BatchNorm the step of two processes is that of one; with it each normalises its own
    # half of the batch.
    norm_free = [
        *one_epoch,
        "--model_s",
        "timm/convnext_atto",
        "--learning_rate",
        "0.01",
        "--data_amount",
        "96",
        "--experiments_dir",
        "norm_free",
        "--experiments_name",
    ]
    with_norm = [*one_epoch, "--experiments_dir", "with_norm", "--experiments_name", "two"]
    evaluate = [
        *data,
        "--evaluate",
        str(student[0] / "resnet8_best.pth"),
        "--device",
        "cpu",
        "--batch_size",
        "10",
    ]
    program = workspace / "program.py"
    program.write_text(
        PROGRAM.format(root=str(ROOT), argvs=[[*norm_free, "two"], with_norm, evaluate])
    )
    process = subprocess_of(
        program,
        [],
        workspace,
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    )
    train_student.main([*norm_free, "one"])
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert (
        output.count("epoch 1/1") == output.count("teacher resnet8: top-1") == 2
    )  # rank 0 alone speaks
    one, two = (rows_of(Path(f"save/student_model/norm_free/{name}"))[0] for name in ("one", "two"))
    for column in ("loss", "val_loss"):
        assert float(two[column]) == pytest.approx(float(one[column]), rel=1e-3)
    # 203 images: one process evaluates one more than the other. The figures are exactly those of
    # one process, whose BatchNorm statistics are rank 0's, the saved ones.
    folder = Path("save/student_model/with_norm/two")
    result = json.loads((folder / "result.json").read_text())
    metrics = train_student.main(
        [*data, "--evaluate", str(folder / "resnet8_latest.pth"), "--device", "cpu"]
    )
    assert (metrics["top1"], metrics["top5"]) == (result["top1_last"], result["top5_last"])
    assert float(rows_of(folder)[0]["val_loss"]) == pytest.approx(metrics["val_loss"], rel=1e-5)
    assert result["teacher_top1"] == student[1]["teacher_top1"] and result["image_steps"] == 6 * 32
    capsys.readouterr()
    train_student.main(evaluate)
    assert (
        capsys.readouterr().out.splitlines()[-1] == output.splitlines()[-1]
        and "on 203 images" in output
    )


# A run, the same with a SIGTERM that one of the processes gets in its second epoch, and that one
# resumed.
STOPPED = """
import os, signal, sys
import torch.distributed
sys.path.insert(0, {root!r})
import train_student
from helper import distributed
argv, step, calls = {argv!r}, train_student.update, []
def interrupted(*arguments):
    step(*arguments)
    calls.append(1)
    if len(calls) == 4 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
distributed.World.close = lambda self: None
train_student.main([*argv, "whole"])
train_student.update = interrupted
try:
    train_student.main([*argv, "stopped"])
except SystemExit as stopped:
    assert stopped.code == 143 and len(calls) == 5
train_student.update = step
train_student.main([*argv, "stopped", "--resume"])
# Left to the interpreter, gloo's threads abort now and then.
torch.distributed.destroy_process_group()
"""


def test_two_processes_in_bf16_stopped_and_resumed(workspace, student_argv, teacher):
    argv = [
        *student_argv,
        "--amp",
        "bf16",
        "--data_amount",
        "24",
        "--batch_size",
        "8",
        "--print-freq",
        "2",
        "--val_split",
        "holdout",
        "--experiments_dir",
        "bf16",
        "--experiments_name",
    ]
    program = workspace / "stopped.py"
    program.write_text(STOPPED.format(root=str(ROOT), argv=argv))
    process = subprocess_of(
        program,
        [],
        workspace,
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    )
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    whole, stopped = (Path(f"save/student_model/bf16/{name}") for name in ("whole", "stopped"))
    assert "stopped by SIGTERM at step 2 of epoch 2/2" in (stopped / "train.log").read_text()
    assert_same_run(stopped, whole)
    assert {v.dtype for v in checkpoints.load(whole / "resnet8_latest.pth")["model"].values()} == {
        torch.float32,
        torch.int64,
    }
    # Autocast was on: fp32 gives another loss, but a near one.
    train_student.main([*argv, "fp32", "--amp", "off"])
    losses = [
        float(rows_of(folder)[0]["loss"])
        for folder in (whole, Path("save/student_model/bf16/fp32"))
    ]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.2)


def test_sigterm_to_torchrun_saves(workspace, student_argv):
    """torchrun passes the signal on and waits; its own exit code is 1."""
    argv = [
        *student_argv,
        "--epochs",
        "500",
        "--data_amount",
        "32",
        "--val_split",
        "holdout",
        "--print-freq",
        "1",
        "--experiments_name",
        "preempted",
    ]
    process = subprocess_of(
        "train_student.py",
        argv,
        workspace,
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    )
    latest = folder_of("preempted") / "resnet8_latest.pth"
    while not latest.exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "stopped by SIGTERM at step" in (folder_of("preempted") / "train.log").read_text()
    assert 1 <= checkpoints.load(latest)["progress"]["epoch"] < 500


def test_initialisation_is_a_function_of_the_seed():
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(
            torch.cat([p.flatten() for p in make_student("resnet8", 10, *STATS).parameters()])
        )
    assert torch.equal(nets[0], nets[1]) and not torch.equal(nets[0], nets[2])


def test_a_run_of_an_older_version_is_resumed(workspace, tiny_fashion_mnist):
    """tests/data/old_run/README.md says how the old run was made; it ends as a new one does."""
    argv = [
        *"--dataset fashion_mnist --device cpu --train_data real --data_amount 60".split(),
        *"--model_s resnet8 --epochs 2 --batch_size 30 --momentum 0 --learning_rate 0.05".split(),
        *"--schedule cosine --use_aug mixup --experiments_dir old".split(),
        *("--path-t", str(ROOT / "save/models/fashion_mnist/resnet20/resnet20_latest.pth")),
        *("--data_root", str(tiny_fashion_mnist)),
    ]
    folder = Path("save/student_model/old/run")
    shutil.copytree(ROOT / "tests/data/old_run", folder)
    flags_before = json.loads((folder / "config.json").read_text())["flags"]
    row_before = rows_of(folder)[0]
    resumed = train_student.main([*argv, "--experiments_name", "run", "--resume"])
    whole = train_student.main([*argv, "--experiments_name", "whole"])
    other = json.loads(Path("save/student_model/old/whole/config.json").read_text())
    assert flags_before.items() <= other["flags"].items()  # later flags and hashes are new
    assert rows_of(folder)[0] == row_before
    assert resumed["top1_last"] == pytest.approx(whole["top1_last"], abs=2)
    states = [
        checkpoints.load(f"save/student_model/old/{name}/resnet8_latest.pth")["model"]
        for name in ("run", "whole")
    ]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-2, atol=1e-3)


# Flags that a resumed run may change, in every training script.
FREE = {
    *"resume num_workers print_freq device gpu_id multiprocessing_distributed dist_url".split(),
    *"world_size rank save_model deterministic evaluate estimate experiments_dir".split(),
    *"experiments_name save_dir table row path_t data_root val_batch_size".split(),
    *"capture tracker safetensors".split(),
}


@pytest.mark.parametrize(
    "script, argv",
    [(train_student, ["--path-t", "x"]), (train_teacher, ["--model", "resnet8"])],
)
def test_every_flag_is_either_a_setting_of_the_run_or_free(script, argv):
    flags = vars(script.parse_option(argv)).keys()
    assert flags - FREE == set(script.SETTINGS)


# Other distillation losses


@pytest.mark.parametrize(
    "flags",
    [
        ["--distill", "dkd", "--dkd_beta", "2", "--distill_warmup_epochs", "1"],
        ["--distill", "dkd", "--use_aug", "mixup"],
        ["--distill", "dist", "--dist_gamma", "0.5", "--standardize_logits"],
        ["--standardize_logits", "--kd_T", "2", "-a", "9"],
    ],
    ids=["dkd", "dkd of mixed images", "dist", "standardised"],
)
def test_other_losses_train_a_student(student_argv, flags):
    argv = [*student_argv, *flags, "--experiments_name", "loss"]
    shutil.rmtree(folder_of("loss"), ignore_errors=True)
    train_student.main(argv)
    rows = list(csv.DictReader((folder_of("loss") / "metrics.csv").read_text().splitlines()))
    losses = [float(row["loss"]) for row in rows]
    assert all(loss > 0 for loss in losses)
    used = json.loads((folder_of("loss") / "config.json").read_text())["flags"]
    assert used["distill"] == (flags[1] if flags[0] == "--distill" else "kd")


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--dkd_beta", "2"], "--dkd_beta"),
        (["--distill", "dist", "--dkd_alpha", "1"], "--dkd_alpha"),
        (["--distill", "dkd", "--no_tau2"], "--no_tau2"),
        (["--distill", "crd"], "--distill"),
        (["--capture", "on"], "--capture"),
    ],
)
def test_flags_that_do_not_fit_the_loss_or_the_device(student_argv, flags, named, capsys):
    argv = [*student_argv, *flags, "--experiments_name", "refused"]
    assert run_script(train_student.main, argv) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]
    assert not folder_of("refused").exists()


# Numbers that are not finite


def test_a_diverging_run_stops_and_saves_nothing(student_argv):
    argv = [*student_argv, "--learning_rate", "1e30", "--experiments_name", "diverging"]
    with pytest.raises(UserError, match="--learning_rate"):
        train_student.main(argv)
    left = {file.name for file in folder_of("diverging").iterdir()}
    assert not left & {"result.json", "metrics.csv", "resnet8_best.pth", "resnet8_latest.pth"}


def test_a_teacher_whose_outputs_are_nan_is_refused(workspace, student_argv, teacher):
    state = checkpoints.load(teacher)
    state["model"]["fc.bias"][0] = float("nan")
    damaged = workspace / "nan/resnet8/resnet8.pth"
    damaged.parent.mkdir(parents=True)
    checkpoints.save(damaged, state)
    argv = [*student_argv, "--path-t", str(damaged), "--experiments_name", "nan"]
    with pytest.raises(UserError, match="not all finite"):
        train_student.main(argv)


# Faults at the end of a run and around its folder


def finished_copy(student, name):
    """A copy of a finished run that a test may damage."""
    return Path(shutil.copytree(student[0], folder_of(name)))


def test_missing_files_of_a_finished_run_are_written_again(student, student_argv):
    folder = finished_copy(student, "incomplete")
    metrics, curves = ((folder / name).read_bytes() for name in ("metrics.csv", "curves.png"))
    (folder / "metrics.csv").unlink()
    (folder / "curves.png").unlink()
    train_student.main([*student_argv, "--experiments_name", "incomplete", "--resume"])
    assert (folder / "metrics.csv").read_bytes() == metrics
    assert (folder / "curves.png").read_bytes() == curves


def test_killed_between_result_and_final_checkpoint(student, student_argv, monkeypatch):
    argv = [*student_argv, "--experiments_name", "almost"]
    with monkeypatch.context() as patch:
        interrupt(patch, Run, "_drop_optimizer", 1, kill)
        with pytest.raises(Killed):
            train_student.main(argv)
    assert (folder_of("almost") / "result.json").exists()
    train_student.main([*argv, "--resume"])
    assert_same_run(folder_of("almost"), student[0])


def test_one_run_folder_for_one_process(student_argv, monkeypatch):
    """While a run is going on, a second process is refused and named the first."""
    argv = [*student_argv, "--experiments_name", "locked"]
    second = []

    def start_second(*arguments):
        done = subprocess.run(
            [sys.executable, ROOT / "train_student.py", *argv, "--learning_rate", "0.2"],
            capture_output=True,
            text=True,
        )
        second.append((done.returncode, done.stderr))

    with monkeypatch.context() as patch:
        interrupt(patch, train_student, "update", 1, start_second)
        train_student.main(argv)
    (code, message), *_ = second
    assert code == 2 and f"process {os.getpid()} " in message and "locked" in message
    assert not (folder_of("locked") / ".lock").exists()


def test_another_number_of_processes_is_noted(student_argv, monkeypatch):
    argv = [*student_argv, "--experiments_name", "processes"]
    with monkeypatch.context() as patch:
        interrupt(patch, Run, "end_epoch", 1, kill)
        with pytest.raises(Killed):
            train_student.main(argv)
    folder = folder_of("processes")
    assert json.loads((folder / "config.json").read_text())["processes"] == 1
    state = checkpoints.load(folder / "resnet8_latest.pth")
    checkpoints.save(folder / "resnet8_latest.pth", {**state, "processes": 2})
    train_student.main([*argv, "--resume"])
    assert "started on 2 processes, now on 1" in (folder / "train.log").read_text()


def test_a_damaged_config_and_a_lost_line_of_the_log_are_restored(student_argv, monkeypatch):
    argv = [*student_argv, "--experiments_name", "damaged"]
    with monkeypatch.context() as patch:
        interrupt(patch, Run, "end_epoch", 1, kill)
        with pytest.raises(Killed):
            train_student.main(argv)
    folder = folder_of("damaged")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text('{"flags": {')
    log = (folder / "train.log").read_text()
    line = next(line for line in log.splitlines() if "epoch 1/2" in line).split(" ", 2)[2]
    (folder / "train.log").write_text(log.replace(line, ""))
    train_student.main([*argv, "--resume"])
    assert json.loads((folder / "config.json").read_text())["flags"] == config["flags"]
    log = (folder / "train.log").read_text()
    assert "config.json" in log and line in log


def test_advice_for_a_damaged_checkpoint_works(student, student_argv):
    folder = finished_copy(student, "truncated")
    latest = folder / "resnet8_latest.pth"
    latest.write_bytes(latest.read_bytes()[:1000])
    argv = [*student_argv, "--experiments_name", "truncated"]
    with pytest.raises(UserError, match="--resume"):
        train_student.main(argv)
    with pytest.raises(UserError, match=f"{latest} .*delete"):
        train_student.main([*argv, "--resume"])
    latest.unlink()
    (folder / "result.json").unlink()
    train_student.main([*argv, "--resume"])
    assert_same_run(folder, student[0])


def test_a_run_folder_that_is_deleted_meanwhile(student_argv, monkeypatch):
    def delete():
        shutil.rmtree(folder_of("deleted"))

    with monkeypatch.context() as patch:
        interrupt(patch, train_student, "evaluate_classifier", 1, delete)
        with pytest.raises(UserError, match="deleted"):
            train_student.main([*student_argv, "--experiments_name", "deleted"])


def test_a_stale_result_is_never_taken_for_that_of_a_new_run(student, student_argv, monkeypatch):
    """The checkpoint of a finished run is deleted to start again, and the new run is killed."""
    folder = finished_copy(student, "again")
    (folder / "resnet8_latest.pth").unlink()
    argv = [*student_argv, "--learning_rate", "0.05", "--experiments_name", "again"]
    with pytest.raises(UserError, match="delete result.json"):
        train_student.main(argv)
    (folder / "result.json").unlink()
    with monkeypatch.context() as patch:
        interrupt(patch, Run, "finish", 1, kill, False)
        with pytest.raises(Killed):
            train_student.main(argv)
    assert not (folder / "result.json").exists() and (folder / ".lock").exists()
    result = train_student.main([*argv, "--resume"])
    whole = train_student.main([*argv[:-1], "anew"])
    assert without_times(result) == without_times(whole)


def test_checkpoints_and_json_are_on_the_disk_before_they_get_their_names(tmp_path, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    checkpoints.save(tmp_path / "weights.pth", {"weight": torch.zeros(3)})
    write_json(tmp_path / "config.json", {})
    assert order == ["fsync", "replace"] * 2
