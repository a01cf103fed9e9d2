"""Estimated cost of a training: operations, disk space and time."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import train_student
import train_teacher
from helper import cost
from helper import run as helper_run
from helper.cost import Pace, duration, forward_operations, with_prefix
from helper.errors import UserError
from models.architectures import create_model


def operations_by_hooks(net, x):
    """Two operations for each multiply-add of the convolutions and linear layers."""
    counts = []

    def count(module, _, out):
        counts.append(2 * out.numel() * module.weight[0].numel())

    hooks = [
        m.register_forward_hook(count)
        for m in net.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.mark.parametrize(
    "name, size", [("resnet8", 32), ("wrn_16_2", 32), ("vgg8", 64), ("ShuffleV2", 64)]
)
def test_operations_equal_those_of_the_layers(name, size):
    torch.manual_seed(0)
    net, x = create_model(name, 10).eval(), torch.rand(2, 3, size, size)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert forward_operations(net, x) == operations_by_hooks(net, x)
    assert forward_operations(net.train(), x) == operations_by_hooks(net.eval(), x)
    # Nothing was computed
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_operations_of_resnet18_equal_those_published_by_torchvision():
    from torchvision.models import ResNet18_Weights

    images = torch.empty(2, 3, 224, 224)
    operations = forward_operations(create_model("ResNet18", 1000), images) / len(images)
    # torchvision gives billions of multiply-adds.
    assert operations / 2e9 == pytest.approx(ResNet18_Weights.DEFAULT.meta["_ops"], rel=1e-3)


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0 FLOP"),
        (999, "999 FLOP"),
        (999.6, "1 KFLOP"),
        (9.487e18, "9.49 EFLOP"),
        (1.5e24, "1.5e+03 ZFLOP"),
        (44_800_000, "44.8 MFLOP"),
    ],
)
def test_prefixes(value, text):
    assert with_prefix(value, "FLOP") == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.2, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (3600 * 9.94, "9.9 h"),
        (3600 * 70, "70 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_pace_predicts_once_and_does_not_time_the_first_batch(monkeypatch):
    """A first batch of 100 s, then 8 units per second: after 10 s of these 912 of 1000 remain."""
    clock, waits, lines = [0.0], [], []
    monkeypatch.setattr(cost.time, "monotonic", lambda: clock[0])
    pace = Pace(1000, "image")
    for batch in range(60):
        clock[0] += 1 if batch else 100
        lines.append(pace.batch(8 * (batch + 1), lambda: waits.append(1)))
    ((index, line),) = [(index, line) for index, line in enumerate(lines) if line]
    assert index == 10 and line.startswith("8 images/s")
    assert "remaining 912 take about 2 min" in line
    assert len(waits) == 2  # only at the start and the end of the timing: waits slow a GPU


@pytest.fixture
def data(tmp_path, monkeypatch, tiny_fashion_mnist):
    monkeypatch.chdir(tmp_path)
    Path("resnet20").mkdir()
    torch.manual_seed(0)
    torch.save(create_model("resnet20", 10).state_dict(), "resnet20/t.pth")
    return [
        "--dataset",
        "fashion_mnist",
        "--data_root",
        str(tiny_fashion_mnist),
        "--val_split",
        "holdout",
        "--batch_size",
        "32",
        "--device",
        "cpu",
    ]


def test_a_run_logs_its_cost_and_its_pace(data, tiny_image_folder, monkeypatch):
    real_pace = Pace
    monkeypatch.setattr(
        helper_run, "Pace", lambda total, unit: real_pace(total, unit, batches=2, seconds=0)
    )
    train_student.main(
        [
            *data,
            "--path-t",
            "resnet20/t.pth",
            "--train_data",
            str(tiny_image_folder),
            "--epochs",
            "2",
            "--experiments_dir",
            "a",
        ]
    )
    log = Path("save/student_model/a/fold-1/train.log").read_text()
    image = torch.rand(1, 3, 32, 32)
    student, teacher = (
        operations_by_hooks(create_model(n, 10).eval(), image) for n in ("resnet8", "resnet20")
    )
    total = 2 * 6 * 32 * (3 * student + teacher) + 2 * 30 * student + 30 * teacher
    (line,) = [line for line in log.splitlines() if "cost: " in line]
    assert f"cost: {with_prefix(total, 'FLOP')} for 384 image-steps" in line
    assert f"3 x {with_prefix(student, 'FLOP')} of the student" in line
    assert f"{with_prefix(teacher, 'FLOP')} of the teacher" in line
    assert "60 evaluation images" in line and "run folder up to " in line
    assert log.index("cost: ") < log.index("epoch 1/2")
    pace = re.findall(r"([\d.e+]+) images/s .*the remaining (\d+) take about", log)
    assert len(pace) == 1 and float(pace[0][0]) > 0 and pace[0][1] == str(384 - 3 * 32)


def test_disk_is_the_largest_size_of_the_run_folder(data, tiny_image_folder, monkeypatch):
    """It is reached just before a latest checkpoint replaces the previous one."""
    sizes = []
    monkeypatch.setattr(
        "helper.files.os.replace",
        lambda part, path: (
            sizes.append(sum(file.stat().st_size for file in Path("run").iterdir())),
            Path(part).rename(path),
        ),
    )
    train_teacher.main(
        [
            *data,
            "--model",
            "resnet20",
            "--train_data",
            str(tiny_image_folder),
            "--epochs",
            "3",
            "--batch_size",
            "200",
            "--save_dir",
            "run",
        ]
    )
    shown = re.search(r"run folder up to ([\d.]+) MB", Path("run/train.log").read_text())[1]
    assert "resnet20 on 200 images of " in Path("run/train.log").read_text()
    assert max(sizes) / 1e6 == pytest.approx(float(shown), rel=0.15)


def test_estimate(data, tiny_image_folder, capsys):
    flags = [*data, "--model_s", "resnet8", "--epochs", "2", "--estimate"]
    whole = train_student.main(
        [*flags, "--path-t", "resnet20/t.pth", "--train_data", str(tiny_image_folder)]
    )
    assert (
        "teacher resnet20, student resnet8, 200 images, 2 epochs of 6 steps\ncost: "
        in capsys.readouterr().out
    )
    assert whole.image_steps == 2 * 6 * 32 and whole.evaluation_images == 60
    assert not Path("save").exists()
    # A row of the paper, with neither the teacher's file nor images.
    row = train_student.main(
        [
            "--dataset",
            "imagenet",
            "--path-t",
            "save/models/ResNet18/resnet18.pth",
            "--model_s",
            "ResNet18",
            "--batch_size",
            "256",
            "--epochs",
            "100",
            "--data_amount",
            "200k",
            "--data_quality",
            "2",
            "--estimate",
        ]
    )
    out = capsys.readouterr().out
    assert "evaluation" in out and "no val images of imagenet" in out
    assert "teacher ResNet18, student ResNet18, 200000 images, 100 epochs of 781 steps" in out
    assert (
        row.operations == 100 * 781 * 256 * 4 * row.teacher
        and row.teacher / 2e9 == pytest.approx(1.814, rel=1e-3)
    )
    assert (
        train_student.main(
            ["--model_t", "wrn_40_2", "--dataset", "cifar100", "--estimate"]
        ).image_steps
        == 240 * (400_000 // 128) * 128
    )
    with pytest.raises(UserError, match="--estimate and --evaluate"):
        train_student.main([*flags, "--evaluate", "resnet20/t.pth"])


def test_a_resumed_run_predicts_the_remaining_time(data, tiny_image_folder, monkeypatch):
    calls, real_pace = [], Pace
    argv = [
        *data,
        "--path-t",
        "resnet20/t.pth",
        "--train_data",
        str(tiny_image_folder),
        "--experiments_dir",
        "b",
    ]

    class RecordingPace(real_pace):
        def batch(self, done, wait):
            calls.append((self.total, done))

    class Stopped(BaseException):
        pass

    def stop(*_, **__):
        raise Stopped

    monkeypatch.setattr(helper_run, "Pace", RecordingPace)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(
            "helper.run.Run.log", lambda self, line: stop() if "epoch 1/2" in line else None
        )
        train_student.main([*argv, "--epochs", "2"])
    train_student.main([*argv, "--epochs", "2", "--resume"])
    assert calls == [(384, 32 * (step + 1)) for step in range(12)]
    assert (
        json.loads(Path("save/student_model/b/fold-1/result.json").read_text())["image_steps"]
        == 384
    )
