"""run_sweep.py and report/sweeps.py: pairing, resuming, intervals, outputs and errors."""

import csv
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from test_recipes import options_of, recorded, stand_in

import run_sweep
import synthesize_dit
import train_student
from diffusion import sampler
from helper import checkpoints
from helper.errors import UserError, run_script
from helper.files import csv_text
from helper.jobs import Jobs, device_slots, last_line
from models import classifiers
from report import sweeps
from tools import frontier
from tools import sweeps as sweeps_tool

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "save/models/fashion_mnist"
RESULT = {
    "schema": 1,
    "table": "sweeps",
    "method": "DM-KD",
    "dataset": "fashion_mnist",
    "teacher": "resnet20",
    "student": "resnet8",
    "source": "syn_dataset/x",
    "images": 1000,
    "epochs": 10,
    "seed": 0,
    "val_split": "holdout",
    "val_images": 5000,
    "top1_last": 80.0,
    "top1_best": 81.0,
    "top5_last": 99.0,
    "agreement": 82.0,
    "teacher_top1": 94.0,
    "image_steps": 10_000,
    "seconds": 60.0,
}


@pytest.fixture(scope="module")
def argv(tiny_fashion_mnist):
    """A sweep of two scales and two seeds: 20 images of two steps, two epochs."""
    return [
        "--sweep",
        "scale",
        "--values",
        "1,3",
        "--seeds",
        "0,1",
        "--data_amount",
        "20",
        "--num_sampling_steps",
        "2",
        "--epochs",
        "2",
        "--batch_size",
        "10",
        "--path_t",
        str(WEIGHTS / "resnet8/resnet8_latest.pth"),
        "--model",
        str(WEIGHTS / "DiT-6x160-2"),
        "--data_root",
        str(tiny_fashion_mnist),
        "--device",
        "cpu",
    ]


@pytest.fixture(scope="module")
def begun():
    """The starting points of the cells of `swept`, in order: noise of the images and weights of the
    student.
    """
    return {"noise": [], "weights": []}


@pytest.fixture(scope="module")
def swept(argv, begun, tmp_path_factory):
    """(working folder, records) of that sweep, uninterrupted."""
    folder, noise, student = (
        tmp_path_factory.mktemp("swept"),
        sampler.batch_noise,
        classifiers.make_student,
    )

    def draw(*arguments):
        begun["noise"].append(noise(*arguments))
        return begun["noise"][-1]

    def make(*arguments, **more):
        made = student(*arguments, **more)
        begun["weights"].append(
            torch.cat([value.detach().flatten().clone() for value in made.parameters()])
        )
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(synthesize_dit, "batch_noise", draw)
        patch.setattr(train_student, "make_student", make)
        return folder, run_sweep.main([*argv, "--fidelity"])


@pytest.fixture
def calls(monkeypatch):
    """The command lines that run_sweep gives to the two scripts from now on; of sampling those that
    sample any image.
    """
    found = {synthesize_dit: [], train_student: []}
    for module, lines in found.items():

        def note(argv, own=module.main, lines=lines):
            result = own(argv)
            if result.get("made") != 0:
                lines.append(argv)
            return result

        monkeypatch.setattr(module, "main", note)
    return found


def timeless(records):
    return [
        {name: value for name, value in record.items() if name != "seconds"} for record in records
    ]


# The statistics


def test_t_quantile_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for degrees in (*range(1, 31), 57, 200):
        for level in (0.5, 0.95, 0.99):
            assert sweeps.t_quantile(degrees, level) == pytest.approx(
                stats.t.ppf((1 + level) / 2, degrees), rel=1e-9
            )


def test_t_quantile_has_the_values_of_printed_tables():
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 30: 2.042}
    assert {degrees: round(sweeps.t_quantile(degrees), 3) for degrees in printed} == printed


def test_paired_difference_by_hand():
    ours, baseline = {0: 81.0, 1: 83.5, 2: 80.0, 7: 1.0}, {2: 79.0, 0: 80.5, 1: 80.0}
    differences = np.array([0.5, 3.5, 1.0])
    mean, half = sweeps.paired_difference(ours, baseline)
    assert mean == pytest.approx(differences.mean(), rel=1e-12)
    assert half == pytest.approx(4.302653 * differences.std(ddof=1) / math.sqrt(3), rel=1e-6)
    assert sweeps.paired_difference({0: 1.0}, {0: 3.0, 1: 5.0}) == (-2.0, None)
    assert sweeps.paired_difference({0: 1.0}, {1: 5.0}) == (None, None)


def test_clock_gives_each_kind_of_work_its_speed():
    clock = sweeps.Clock()
    assert clock.seconds(10, 10) == (None, None)
    clock.add_sampling(400, 20.0)
    clock.add_training(1000, 50.0)
    clock.add_training(3000, 110.0)
    assert clock.seconds(500, 100) == (pytest.approx(20.0), pytest.approx(5.0))
    assert clock.cells_per_hour == pytest.approx(2 * 3600 / 180)


# A sweep


def test_records_pages_and_plot(swept):
    folder, records = swept
    assert [(record["value"], record["seed"]) for record in records] == [
        ("1", 0),
        ("3", 0),
        ("1", 1),
        ("3", 1),
    ]
    with open(folder / "results/sweeps/scale.csv") as file:
        lines = list(csv.DictReader(file))
    assert [[line[name] for name in ("value", "top1_last", "run")] for line in lines] == [
        [record["value"], str(record["top1_last"]), record["run"]] for record in records
    ]
    for record in records:
        result = json.loads((folder / record["run"] / "result.json").read_text())
        assert (result["top1_last"], result["agreement"], result["seed"], result["val_split"]) == (
            record["top1_last"],
            record["agreement"],
            record["seed"],
            "holdout",
        )
        assert record["image_steps"] == result["image_steps"] == 40
        figures = json.loads(
            (folder / result["source"] / "fidelity_fashion_mnist_resnet8.json").read_text()
        )
        assert (record["label_top1"], record["entropy"]) == (
            figures["label_top1"],
            figures["entropy"],
        )
        assert record["frechet"] is None  # 20 images are too few
        assert record["evaluations"] == (2 if record["value"] == "1" else 4)
        assert f"--cfg_scale {record['value']} --" in record["settings"]
    text = (folder / "results/sweeps/scale.md").read_text()
    base, other = (
        [record["top1_last"] for record in records if record["value"] == value]
        for value in ("1", "3")
    )
    differences = [b - a for a, b in zip(base, other, strict=True)]
    mean, half = (
        statistics.mean(differences),
        12.7062047 * statistics.stdev(differences) / math.sqrt(2),
    )
    (row,) = [line for line in text.splitlines() if line.startswith("| 3 |")]
    assert row.strip("| ").split(" | ")[2:4] == [
        f"{statistics.mean(other):.2f} ± {statistics.stdev(other):.2f}",
        f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]",
    ]
    assert "--num_sampling_steps 2" in text and "(scale.png)" in text
    assert (folder / "results/sweeps/scale.png").read_bytes()[:4] == b"\x89PNG"


def test_a_seed_pairs_the_values(swept, begun, monkeypatch):
    """Equal seeds: the same noise, and the same student before the first step; other seeds differ
    in both.
    """
    folder, records = swept
    monkeypatch.chdir(folder)
    for tensors in begun.values():
        first, second, other_seed, last = tensors
        assert (
            torch.equal(first, second)
            and torch.equal(other_seed, last)
            and not torch.equal(first, last)
        )
    configs = {
        (record["value"], record["seed"]): json.loads(
            (Path(record["run"]) / "config.json").read_text()
        )
        for record in records
    }
    for (value, seed), config in configs.items():
        settings = json.loads((Path(config["flags"]["train_data"]) / "manifest.json").read_text())[
            "settings"
        ]
        assert settings["seed"] == config["flags"]["seed"] == seed
        assert settings["cfg_scale"] == float(value)
    one, other = (configs["1", 0]["flags"], configs["3", 0]["flags"])
    different = {name for name in one if one[name] != other[name]}
    assert different == {"train_data", "training_images_sha256"}


def test_finished_cells_are_read(swept, argv, calls, monkeypatch, capsys):
    folder, records = swept
    monkeypatch.chdir(folder)
    again = run_sweep.main(argv)
    assert again == records and calls == {synthesize_dit: [], train_student: []}
    out = capsys.readouterr().out
    assert "4 cells, 2 values by 2 seeds; 4 are finished" in out
    assert "to do: 0 cells, 0 image-steps, 0 images to sample (0 network evaluations)" in out


def test_another_sweep_shares_images_and_cells(swept, argv, calls, monkeypatch):
    """The temperature's baseline is the scale's; its other cells use the same images."""
    folder, records = swept
    monkeypatch.chdir(folder)
    temperatures = run_sweep.main(
        ["--sweep", "temperature", "--values", "4,1", "--out", "other", *argv[4:]]
    )
    assert calls[synthesize_dit] == [] and len(calls[train_student]) == 2
    assert [record["run"] for record in temperatures if record["value"] == "4"] == [
        record["run"] for record in records if record["value"] == "1"
    ]
    # The second of these cells, run on its own, is the same.
    command = next(line for line in calls[train_student] if line[line.index("--seed") + 1] == "1")
    result = train_student.main([*command, "--experiments_name", "alone"])
    (cell,) = [one for one in temperatures if (one["value"], one["seed"]) == ("1", 1)]
    for name in ("top1_last", "top1_best", "agreement"):
        assert result[name] == cell[name]
    weights = [
        checkpoints.load(Path(run_folder) / "resnet8_latest.pth")["model"]
        for run_folder in (cell["run"], "save/student_model/sweeps/alone")
    ]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_stopped_sweep_continues(swept, argv, calls, tmp_path, monkeypatch, capsys):
    folder, records = swept
    monkeypatch.chdir(tmp_path)
    own, count = train_student.main, []

    def stop_in_the_third(argv):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return own(argv)

    with monkeypatch.context() as patch:
        patch.setattr(train_student, "main", stop_in_the_third)
        assert run_script(run_sweep.main, argv) == 130
    assert len(calls[synthesize_dit]) == 3 and len(calls[train_student]) == 2
    out = capsys.readouterr().out
    assert "to do: 4 cells, 160 image-steps, 80 images to sample (240 network evaluations)" in out
    assert (
        out.count("cells per hour; ") == 2
        and "cells per hour; 3 left, about " in out
        and " of sampling" in out
    )
    again = run_sweep.main(argv)
    assert len(calls[synthesize_dit]) == 4 and len(calls[train_student]) == 4
    assert (
        "2 are finished\nto do: 2 cells, 80 image-steps, 20 images to sample (80 network"
        in capsys.readouterr().out
    )
    figures = ("label_top1", "entropy")  # not asked for here
    assert timeless(again) == timeless([record | dict.fromkeys(figures) for record in records])
    # A damaged result is reported, and made again from the checkpoint.
    path = Path(again[0]["run"]) / "result.json"
    path.write_text('{"schema": 1, "top1_last": ')
    assert timeless(run_sweep.main(argv)) == timeless(again)
    assert (
        str(path) in capsys.readouterr().err
        and json.loads(path.read_text())["top1_last"] == again[0]["top1_last"]
    )
    Path(again[1]["run"], "result.json").write_text('{"schema": 99}')
    assert timeless(run_sweep.main(argv)) == timeless(again)
    assert "schema 99" in capsys.readouterr().err


def test_damaged_figures_are_ignored(swept, argv, monkeypatch, capsys):
    folder, records = swept
    monkeypatch.chdir(folder)
    path = Path(
        "syn_dataset/sweep_DiT-6x160-2_ddim_s1_T2_seed0/fidelity_fashion_mnist_resnet8.json"
    )
    whole = path.read_text()
    for text in ("{", "[]", '{"images": 20}', '{"images": 20, "teacher": {"sha256": 3}}'):
        path.write_text(text)
        assert run_sweep.main([*argv, "--out", "damaged"])[0]["label_top1"] is None
        assert str(path) in capsys.readouterr().err
    path.write_text(whole)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--sweep", "colour"], ["--sweep", "'colour'", "temperature"]),
        (["--sweep", "epochs", "--seeds", ","], ["--seeds", "commas"]),
        (["--sweep", "epochs", "--seeds", "1,1"], ["--seeds", "twice"]),
        (["--sweep", "epochs", "--seeds", "0,-1"], ["value 5", "-1 is negative"]),
        (["--sweep", "epochs", "--values", " ,"], ["--values", "commas"]),
        (["--sweep", "epochs", "--values", "2,0"], ["value 0", "--epochs", "positive"]),
        (["--sweep", "epochs", "--values", "2,3", "--baseline", "4"], ["--baseline 4", "2, 3"]),
        (["--sweep", "epochs", "--epochs", "3"], ["--epochs", "varies", "--values"]),
        (["--sweep", "augmentation", "--values", "none,blur"], ["value blur", "use_aug"]),
        (["--sweep", "fidelity", "--values", "2"], ["value 2", "1 parts for 2 flags", "colons"]),
        (["--sweep", "labels", "--values", "0:0"], ["value 0:0", "-a and -r are both 0"]),
        (
            ["--sweep", "source", "--values", "generated,photographs"],
            ["value photographs", "`generated` or `real`"],
        ),
        (["--sweep", "steps", "--values", "10,2000"], ["value 2000", "above 1000"]),
        (["--sweep", "teacher", "--values", "none/there.pth"], ["none/there.pth", "not found"]),
        (["--sweep", "epochs", "--path_t", "gone.pth"], ["gone.pth", "not found", "--path-t"]),
        (
            ["--sweep", "epochs", "--data_root", "empty"],
            ["Fashion-MNIST", "empty", "python -m tools.fashion_mnist"],
        ),
    ],
)
def test_wrong_input_is_refused_before_any_work(
    flags, words, argv, calls, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    given = {name: argv[argv.index(name) + 1] for name in ("--path_t", "--model", "--data_root")}
    rest = [
        word
        for name, value in given.items()
        if name not in flags and (name, flags[1]) != ("--path_t", "teacher")
        for word in (name, value)
    ]
    assert run_script(run_sweep.main, [*flags, *rest]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: ")
        and error.count("\n") <= 2
        and all(word in error for word in words)
    )
    assert calls == {synthesize_dit: [], train_student: []} and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, words",
    [
        (["imagenet", "--sweep", "scale"], ["--sweep scale", "imagenet", "fidelity"]),
        (["cifar100", "--sweep", "labels"], ["--sweep labels", "cifar100", "source"]),
        (["imagenet", "--sweep", "images", "--values", "200x"], ["value 200x", "--data_amount"]),
        (["imagenet", "--sweep", "fidelity", "--values", "2:1001"], ["value 2:1001", "1000"]),
        (["imagenet", "--sweep", "epochs", "--batch_size", "9"], ["--batch_size", "imagenet_dist"]),
        (["imagenet", "--sweep", "epochs", "--device", "cpu"], ["--device", "fashion_mnist"]),
        (["cifar100", "--sweep", "epochs", "--fidelity"], ["--fidelity", "ImageNet"]),
        (["cifar100", "--sweep", "epochs"], ["resnet34_latest.pth", "cifar100_teachers.sh"]),
        (["fashion_mnist", "--sweep", "epochs", "--gpus", "2"], ["--gpus", "imagenet"]),
    ],
)
def test_wrong_input_for_the_recipes(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_script(run_sweep.main, ["--dataset", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") <= 2 and all(word in error for word in words), error
    assert not list(tmp_path.iterdir())


def sweep_of(*argv):
    return run_sweep.read_sweep(run_sweep.parse_option(argv))


@pytest.mark.parametrize("dataset", run_sweep.VALUES)
def test_default_values_of_every_sweep_are_valid(dataset, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, values in run_sweep.VALUES[dataset].items():
        sweep = sweep_of("--dataset", dataset, "--sweep", name)
        cells = run_sweep.make_cells(sweep)
        assert sweep.baseline == values.baseline in sweep.values
        assert len({cell.run for cell in cells}) == len(cells)
        assert len(cells) == len(sweep.seeds) * len(sweep.values)


def test_a_smaller_amount_takes_the_images_of_the_larger(argv, calls, tmp_path, monkeypatch):
    """A sweep of the amount samples the largest of a seed, once."""
    monkeypatch.chdir(tmp_path)
    at = argv.index("--data_amount")
    rest = [*argv[6:at], *argv[at + 2 :]]
    records = run_sweep.main(["--sweep", "images", "--values", "10,20", "--seeds", "3", *rest])
    assert [line[line.index("--data_amount") + 1] for line in calls[synthesize_dit]] == ["20"]
    assert [record["images"] for record in records] == [10, 20]


def test_another_generators_images_are_not_taken(swept, argv, calls, tmp_path, monkeypatch, capsys):
    """Other weights under the same name: the cells are other ones, and the images there are
    refused.
    """
    folder, _ = swept
    shutil.copytree(folder / "syn_dataset", tmp_path / "syn_dataset")
    shutil.copytree(
        WEIGHTS / "DiT-6x160-2", tmp_path / "DiT-6x160-2", ignore=shutil.ignore_patterns("train_*")
    )
    monkeypatch.chdir(tmp_path)
    path = Path("DiT-6x160-2/vae/diffusion_pytorch_model.safetensors")
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value * 0.5 for name, value in state.items()}, path)
    assert run_script(run_sweep.main, [*argv, "--model", "DiT-6x160-2"]) == 2
    assert (
        "sweep_DiT-6x160-2_ddim_s1_T2_seed0" in capsys.readouterr().err and not calls[train_student]
    )


# Other runs' plots, and the scripts


def add_run(name, **changes):
    """Writes a run whose teacher's weights have the hash `ab`."""
    folder = Path("save", name)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({**RESULT, **changes}))
    flags = {"teacher_sha256": "ab", "dataset": "fashion_mnist", "val_split": "holdout"}
    flags = {name: changes.get(name, value) for name, value in flags.items()}
    (folder / "config.json").write_text(json.dumps({"flags": flags}))
    return f"save/{name}"


def test_plot_of_any_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for scale in "24":
        Path(f"s{scale}").mkdir()
        Path(f"s{scale}/fidelity_imagenet_ResNet18.json").write_text(
            json.dumps(
                {
                    "images": 1000,
                    "teacher": {"sha256": "ab"},
                    "frechet": 3.0 * int(scale),
                    "label_top1": 90.0,
                    "entropy": 0.1,
                    "precision": None,
                    "recall": None,
                }
            )
        )
    pairs = [
        f"{scale}:100="
        + add_run(
            f"{scale}-{seed}",
            seed=seed,
            dataset="imagenet",
            teacher="ResNet18",
            source=f"s{scale}",
            top1_last=60.0 + seed - scale,
        )
        for scale in (2, 4)
        for seed in (0, 1)
    ]
    records = sweeps_tool.main(["results/fidelity", "s : T", *pairs])
    assert [record["frechet"] for record in records] == [6.0, 6.0, 12.0, 12.0]
    assert (
        "| 4:100 | 2 | 56.50 ± 0.71 | -2.00 [-2.00, -2.00] |"
        in Path("results/fidelity.md").read_text()
    )
    assert {path.name for path in Path("results").iterdir()} == {
        f"fidelity.{end}" for end in ("csv", "md", "png")
    }
    assert "| s : T |" in Path("results/fidelity.md").read_text()
    sweeps_tool.main(["results/fidelity", "fidelity", *pairs])
    assert "| guidance scale s : sampling steps T |" in Path("results/fidelity.md").read_text()


def test_plot_of_teachers_has_no_agreement(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = {"method": "Teacher", "teacher": None, "agreement": None, "teacher_top1": None}
    pairs = [f"{value}={add_run(value, **labels)}" for value in ("0", "0.1")]
    sweeps_tool.main(["out", "label smoothing", *pairs])
    page = Path("out.md").read_text()
    assert "| label smoothing |" in page and "agreement" not in page


def test_runs_are_added_to_a_sweep(tmp_path, monkeypatch):
    """As if all runs had been given at once, also when the folders of the first are gone."""
    monkeypatch.chdir(tmp_path)
    runs = [(value, seed) for value in "ab" for seed in (0, 1)]
    pairs = [
        f"{value}={add_run(value + str(seed), seed=seed, top1_last=80.5 + seed, agreement=None)}"
        for value, seed in runs
    ]
    sweeps_tool.main(["whole", "method", *pairs])
    sweeps_tool.main(["parts", "method", *pairs[:3]])
    shutil.rmtree("save/a0")
    sweeps_tool.main(["parts", "method", "--append", *pairs[2:]])
    for end in ("csv", "md"):
        whole = Path(f"whole.{end}").read_text()
        assert Path(f"parts.{end}").read_text().replace("parts", "whole") == whole


def test_runs_are_not_added_to_what_they_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweeps_tool.main(["out", "method", f"a={add_run('a')}"])
    before = Path("out.csv").read_bytes()
    heading, row = before.splitlines(keepends=True)
    test_images, other_set = add_run("test", val_split="test"), add_run("set", dataset="cifar10")
    for name, content in (
        ("cut", heading + row[: len(row) // 2]),
        ("heading", heading),
        ("word", before.replace(b",60.0,", b",many,")),
        ("gap", before.replace(b",resnet8,", b",,")),
        ("twice", before + row),
        ("other", before.replace(b"--dataset fashion_mnist", b"")),
        ("quote", before + b'"' + b"x" * 200_000),
    ):
        assert content != before
        Path(f"{name}.csv").write_bytes(content)
    for out, value, run, words in (
        ("out", "b", test_images, "val_split is holdout and test"),
        ("out", "b", other_set, "dataset is fashion_mnist and cifar10"),
        ("out", "a", add_run("again"), "out.csv has save/a of value a, seed 0"),
        ("none", "b", "save/a", "none.csv does not exist"),
        ("cut", "b", "save/a", "cut.csv, line 2 has"),
        ("heading", "b", "save/a", "heading.csv is not the CSV of a sweep"),
        ("word", "b", "save/a", "word.csv, line 2: seconds is 'many'"),
        ("gap", "b", "save/a", "gap.csv, line 2: student is empty"),
        ("twice", "b", "save/a", "twice.csv has two runs of value a, seed 0"),
        ("other", "b", "save/a", "do not name its data set"),
        ("quote", "b", "save/a", "quote.csv is not valid CSV"),
    ):
        with pytest.raises(UserError, match=words):
            sweeps_tool.main([out, "method", "--append", f"{value}={run}"])
    assert Path("out.csv").read_bytes() == before


def test_numbers_of_a_table():
    """Seeds that no float holds stay whole; pandas writes others with a decimal point."""
    seed = 2**53 + 1
    assert sweeps.number_of(str(seed), "seed", "x.csv, line 2") == seed
    assert repr(sweeps.number_of("25.0", "images", "x.csv, line 2")) == "25"
    assert sweeps.number_of("25.0", "seconds", "x.csv, line 2") == 25
    for text, column in (("1.5", "seed"), ("6_0", "seconds"), ("inf", "seconds"), ("", "seed")):
        with pytest.raises(UserError, match=f"x.csv, line 2: {column} is"):
            sweeps.number_of(text, column, "x.csv, line 2")


@pytest.mark.parametrize("change", [{"images": 9}, {"teacher": {"sha256": "cd"}}])
def test_figures_of_other_images_or_teachers_are_ignored(tmp_path, monkeypatch, capsys, change):
    monkeypatch.chdir(tmp_path)
    Path("gen").mkdir()
    file = Path("gen/fidelity_fashion_mnist_resnet20.json")
    figures = {"images": 1000, "teacher": {"sha256": "ab"}, **dict.fromkeys(sweeps.FIDELITY, 1.5)}
    pairs = [f"{value}={add_run(value, source='gen')}" for value in "12"]
    for content, expected in ((figures, 1.5), (figures | change, None)):
        file.write_text(json.dumps(content))
        records = sweeps_tool.main(["out", "s", *pairs])
        assert [record["frechet"] for record in records] == [expected, expected]
        assert (str(file) in capsys.readouterr().out) == (expected is None)


def test_runs_that_cannot_be_compared_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = add_run("a"), add_run("b", val_split="test", seed=1)
    few = add_run("few", val_images=4000)
    for arguments, words in (
        (["out", "s"], "VALUE=RUN_FOLDER"),
        (["out", "s", first], "VALUE=RUN_FOLDER"),
        (["out", "s", f"1={first}", f"1={first}"], "value 1, seed 0"),
        (["out", "s", f"1={first}", f"2={second}"], "different images"),
        (["out", "s", f"1={first}", f"2={few}"], "different images.*4000"),
        (["out", "s", "1=save/none"], "save/none"),
    ):
        with pytest.raises(UserError, match=words):
            sweeps_tool.main(arguments)
    assert not Path("out.csv").exists()


def test_settings_that_contradict_a_sweep(argv, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = argv.index("--values")
    loss = ["--sweep", "loss", *argv[values + 2 :]]
    for words, message in (
        ([*argv, "--train_data", "real"], "--train_data real"),
        ([*loss, "--values", "kd:1:4:1"], "--standardize_logits 1: give yes or -"),
        (["--sweep", "teacher", "--values", "resnet99"], "path in --values"),
    ):
        with pytest.raises(UserError, match=message):
            run_sweep.make_cells(sweep_of(*words))


def test_a_short_sweep_of_a_recipe_has_epochs_to_drop_at():
    sweep = sweep_of("--dataset", "imagenet", "--sweep", "temperature", "--epochs", "3")
    assert run_sweep.make_cells(sweep)[0].student["DECAY"] == "1,1,2"


@pytest.mark.parametrize(
    ("accuracies", "shown"), [((94, 90), True), ((94, 93.98), False), ((94, None), False)]
)
def test_the_table_has_the_accuracy_of_several_teachers(accuracies, shown):
    records = [
        dict.fromkeys(sweeps.COLUMNS, 1.0) | {"value": str(number), "teacher_top1": accuracy}
        for number, accuracy in enumerate(accuracies)
    ]
    text = sweeps.table(records, "0", "teacher")
    assert ("teacher's top-1" in text) == ("90.00" in text) == shown


def write_csv(path, sampling, runs, **more):
    """A sweep's CSV with runs of given evaluations and accuracy."""
    records = [
        dict.fromkeys(sweeps.COLUMNS, "")
        | {"images": 1000, "evaluations": evaluations, "seed": seed, "top1_last": top1}
        | {"run": f"{path.stem}_{evaluations}_{seed}", "val_split": "holdout"}
        | {"settings": f"{sampling} --num_sampling_steps {evaluations}", **more}
        for evaluations, seed, top1 in runs
    ]
    path.write_text(csv_text(sweeps.COLUMNS, records))
    return str(path)


def test_the_committed_frontier_is_made_again(tmp_path):
    """By the command on its page, from files that are older than some columns."""
    page = (ROOT / "results/frontier.md").read_text()
    files = re.search(r"python -m tools.frontier results/frontier (.*?)`", page)[1].split()
    frontier.main([str(tmp_path / "frontier"), *(str(ROOT / file) for file in files)])
    committed, made = (
        list(csv.DictReader(file.read_text().splitlines()))
        for file in (ROOT / "results/frontier.csv", tmp_path / "frontier.csv")
    )
    assert len(made) == len(committed) > 20
    for one, other in zip(made, committed, strict=True):
        assert {column: one[column] for column in other} == other


def test_frontier_joins_sweeps(tmp_path):
    """Runs count once, in the order of their cost; real images have none."""
    ddim = write_csv(tmp_path / "ddim.csv", "--sampler ddim", [(8, 0, 80), (2, 1, 70), (2, 0, 71)])
    paper = "--sampler ddpm --cfg_scale 2"
    ddpm = write_csv(tmp_path / "ddpm.csv", paper, [(100, 0, 81)], images=2000)
    real = write_csv(tmp_path / "real.csv", "", [("", 0, 90)])
    records = frontier.main([str(tmp_path / "out"), ddim, ddpm, ddim, real])
    rows = (tmp_path / "out.md").read_text().splitlines()
    (cheap,), (dear,), (paper,) = (
        [row for row in rows if f"| {evaluations} | {evaluations} |" in row]
        for evaluations in (2, 8, 100)
    )
    assert "70.50 ± 0.71" in cheap and "-10.00" in cheap  # the pair of seed 0
    assert "80.00" in dear and "-1.00" in dear
    assert "81.00" in paper and "200,000" in paper
    assert [record["top1_last"] for record in records] == ["71", "70", "80", "81"]
    assert [frontier.cost(record) for record in records] == [2000, 2000, 8000, 200_000]
    assert [frontier.is_the_papers(record) for record in records] == [False] * 3 + [True]
    with open(tmp_path / "out.csv") as file:
        assert list(csv.DictReader(file)) == records
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_frontier_refuses_other_files(tmp_path):
    good = write_csv(tmp_path / "good.csv", "", [(2, 0, 70)])
    other = write_csv(tmp_path / "other.csv", "", [(2, 0, 70)], val_split="test")
    (tmp_path / "old.csv").write_text("sweep,value\nscale,1\n")
    (tmp_path / "empty.csv").write_text("")
    real = write_csv(tmp_path / "real.csv", "", [("", 0, 90)])
    hot = write_csv(tmp_path / "hot.csv", "--kd_T 8", [(4, 0, 70)])
    standardised = write_csv(tmp_path / "std.csv", "--standardize_logits", [(4, 0, 70)])
    longer = write_csv(tmp_path / "longer.csv", "", [(4, 0, 70)], image_steps=8)
    again = write_csv(tmp_path / "again.csv", "--amp bf16", [(2, 0, 71)])
    out = tmp_path / "out"
    for files, words in (
        ([good, other], "holdout, test"),
        ([tmp_path / "old.csv"], "old.csv"),
        ([tmp_path / "empty.csv"], "empty.csv"),
        ([tmp_path / "none.csv"], "none.csv"),
        ([real], "generated"),
        ([good, hot], "kd_T .not given in good_2_0, 8 in hot_4_0"),
        ([good, standardised], "standardize_logits .not given in good_2_0, given in std_4_0"),
        ([good, longer], "image_steps"),
        ([good, again], "good_2_0 and again_2_0 have the same images and seed"),
    ):
        with pytest.raises((UserError, FileNotFoundError), match=words):
            frontier.main([str(out), *map(str, files)])
    assert not list(tmp_path.glob("out*"))


def test_frontier_reads_numbers_with_a_decimal_point(tmp_path):
    """As pandas writes a column with empty cells."""
    file = write_csv(tmp_path / "pandas.csv", "", [("25.0", 0, 70), ("", "1.0", 90)])
    (record,) = frontier.main([str(tmp_path / "out"), file])
    assert record["evaluations"] == "25" and frontier.cost(record) == 25_000


@pytest.mark.parametrize(
    "run, column",
    [(("x", 0, 70), "evaluations"), ((2, 0.5, 70), "seed"), ((2, 0, ""), "top1_last")],
)
def test_frontier_names_what_is_not_a_number(tmp_path, run, column):
    file = write_csv(tmp_path / "sweep.csv", "", [(4, 0, 70), run])
    with pytest.raises(UserError, match=f"sweep.csv, line 3: {column} is "):
        frontier.main([str(tmp_path / "out"), file])


def test_frontier_names_a_short_line(tmp_path):
    file = write_csv(tmp_path / "sweep.csv", "", [(4, 0, 70)])
    with open(file, "a") as csv_file:
        csv_file.write("scale,2,0\n")
    with pytest.raises(UserError, match="sweep.csv, line 3"):
        frontier.main([str(tmp_path / "out"), file])


def test_frontier_does_not_write_over_a_sweep(tmp_path):
    file = write_csv(tmp_path / "sweep.csv", "", [(4, 0, 70)])
    before = Path(file).read_bytes()
    with pytest.raises(UserError, match="sweep.csv .*OUT"):
        frontier.main([str(tmp_path / "sweep"), file])
    assert Path(file).read_bytes() == before


def test_losses_of_a_sweep(argv):
    """Settings that are not given leave the names of earlier run folders as they were."""
    argv = [word if word != "scale" else "loss" for word in argv]
    values = argv.index("--values")
    del argv[values : values + 2]
    sweep = sweep_of(*argv, "--seeds", "0", "--num_sampling_steps", "2")
    cells = {cell.value: cell for cell in run_sweep.make_cells(sweep)}
    assert len({cell.run for cell in cells.values()}) == len(cells) == 8
    plain, standardised = cells["kd:-:4:1"], cells["kd:yes:2:9"]
    assert "--distill" in plain.student and "--standardize_logits" not in plain.student
    options = train_student.parse_option(standardised.student)
    assert (options.standardize_logits, options.kd_T, options.alpha) == (True, 2, 9)
    assert "--distill kd --standardize_logits" in standardised.settings


def test_every_stage_of_the_study_is_a_valid_sweep(monkeypatch):
    """With 128,000 image-steps in each cell; teachers that are not trained yet have no cells."""
    monkeypatch.chdir(ROOT)
    commands = recorded("study_fashion_mnist.sh")
    lines = [command[1:] for command in commands if command[0] == "run_sweep.py"]
    names = [line[line.index("--name") + 1] for line in lines]
    assert len(set(names)) == len(names) == 9
    for name, line in zip(names, lines, strict=True):
        sweep = sweep_of(*line)
        if not name.startswith("teachers"):
            cells = run_sweep.make_cells(sweep)
            assert {cell.steps for cell in cells} == {128_000}
            assert [cell.value for cell in cells] == sweep.values * len(sweep.seeds)
    assert sum("train_teacher.py" in command for command in commands) == 3


# data set: sweep: of the first and the last value, (s, T, images per class) if it samples, and some
# settings of the student
RECIPES = {
    "imagenet": {
        "fidelity": [((2, 100, 200), None), ((4, 250, 200), None)],
        "images": [(None, {"data_amount": 200_000}), ((2, 100, 1280), {"data_amount": 1_280_000})],
        "epochs": [
            (None, {"epochs": 100, "lr_decay_epochs": [30, 60, 90]}),
            (None, {"epochs": 200, "lr_decay_epochs": [60, 120, 180]}),
        ],
        "teacher": [
            (None, {"path_t": "save/models/ResNet18/resnet18.pth"}),
            (None, {"path_t": "save/models/ResNet50/resnet50.pth"}),
        ],
        "labels": [(None, {"alpha": 1, "gamma": 0}), (None, {"alpha": 0, "gamma": 1})],
        "source": [(None, {"kd_T": 10}), ("real", {"train_data": "real", "data_amount": 200_000})],
    },
    "cifar100": {
        "fidelity": [((2, 100, 50), None), ((4, 250, 50), None)],
        "epochs": [
            (None, {"epochs": 240, "lr_decay_epochs": [150, 180, 210], "kd_T": 4}),
            (None, {"epochs": 480}),
        ],
        "temperature": [(None, {"kd_T": 4}), (None, {"kd_T": 20})],
        "augmentation": [(None, {"use_aug": "none"}), (None, {"use_aug": "cutmix"})],
        "source": [
            (None, {"ignore_labels": True}),
            ("real", {"train_data": "real", "data_amount": 50_000}),
        ],
    },
}


@pytest.mark.parametrize(
    "dataset, name", [(dataset, name) for dataset, found in RECIPES.items() for name in found]
)
def test_recipes_get_what_a_sweep_varies(dataset, name):
    """The first and the last value with two seeds: their images and their student."""
    sweep = sweep_of("--dataset", dataset, "--sweep", name, "--seeds", "0,1")
    cells = run_sweep.make_cells(sweep)
    count = len(sweep.values)
    assert [cell.seed for cell in cells] == [0] * count + [1] * count
    assert len({cell.run for cell in cells}) == 2 * count
    for cell, (images, settings) in zip(
        (cells[0], cells[count - 1]), RECIPES[dataset][name], strict=True
    ):
        (student,) = map(options_of, recorded(f"{dataset}_distill.sh", **cell.student))
        assert (student.table, student.seed, student.dataset) == ("sweeps", 0, dataset)
        assert str(cell.run).split("/")[2:] == [student.experiments_dir, student.experiments_name]
        for flag, value in (settings or {}).items():
            assert getattr(student, flag) == value, flag
        assert student.train_data == str(cell.images or "real")
        assert (cell.images is None) == (images == "real")
        if cell.images:
            (sampling,) = map(options_of, recorded("imagenet_synthesize.sh", **cell.sampling))
            assert (str(sampling.save_dir), sampling.seed) == (student.train_data, 0)
            if images:
                assert (sampling.cfg_scale, sampling.num_sampling_steps) == images[:2]
                assert cell.amount == 1000 * images[2]


@pytest.mark.parametrize("dataset, gpus", [("imagenet", 8), ("cifar100", 1)])
def test_sweep_scripts(dataset, gpus):
    (command,) = recorded(f"sweep_{dataset}.sh")
    assert command[0] == "run_sweep.py"
    sweep = sweep_of(*command[1:])
    assert (sweep.dataset, sweep.name, sweep.gpus, sweep.seeds) == (dataset, "fidelity", gpus, [0])
    (command,) = recorded(
        f"sweep_{dataset}.sh", SWEEP="temperature", SEEDS="0 1", VALUES="5 10", GPUS="2"
    )
    sweep = sweep_of(*command[1:])
    assert (sweep.name, sweep.values, sweep.seeds) == ("temperature", ["5", "10"], [0, 1])
    assert sweep.gpus == 2


def test_sweep_scripts_pass_images_and_epochs():
    for script in ("sweep_cifar100.sh", "sweep_imagenet.sh", "sweep_fashion_mnist.sh"):
        (*_, command) = recorded(script, SWEEP="temperature", AMOUNT="3k", EPOCHS="5")
        settings = sweep_of(*command[1:]).settings
        assert (settings["data_amount"], settings["epochs"]) == ("3k", "5")
    (*_, command) = recorded("sweep_fashion_mnist.sh", SWEEP="frontier")
    assert sweep_of(*command[1:]).name == "frontier"


def test_a_sweep_by_recipes(tmp_path, monkeypatch, capsys):
    """Two values of CIFAR-100: a stand-in for Python writes the image or the result that the
    recipe's command would.
    """
    monkeypatch.chdir(tmp_path)
    teacher = Path("save/models/cifar100/resnet34/resnet34_latest.pth")
    teacher.parent.mkdir(parents=True)
    torch.save({"model_name": "resnet34"}, teacher)
    result = {**RESULT, "dataset": "cifar100", "val_split": "test", "top1_last": 70.0}
    (tmp_path / "result.json").write_text(json.dumps(result))
    program = stand_in(
        tmp_path,
        f"""cd {tmp_path}; echo "$@" >> commands
        value() {{ while [ "$1" != "$NAME" ]; do shift; done; echo "$2"; }}
        case $* in
        *synthesize_dit.py*) NAME=--save_dir; FOLDER=$(value "$@")/0000 FILE=00000.png ;;
        *) NAME=--experiments_name; RUN=$(value "$@"); NAME=--experiments_dir
            FOLDER=save/student_model/$(value "$@")/$RUN FILE=result.json ;;
        esac
        mkdir -p "$FOLDER"; cp result.json "$FOLDER/$FILE" """,
    )
    monkeypatch.setenv("PYTHON", str(program))
    argv = ["--dataset", "cifar100", "--sweep", "temperature", "--values", "4,10"]
    records = run_sweep.main(argv)
    assert [(record["value"], record["top1_last"]) for record in records] == [
        ("4", 70.0),
        ("10", 70.0),
    ]
    commands = (tmp_path / "commands").read_text().splitlines()
    assert [next(word for word in line.split() if word.endswith(".py")) for line in commands] == [
        "synthesize_dit.py",
        "train_student.py",
        "train_student.py",
    ]
    assert "CIFAR-100" in Path("results/sweeps/cifar100_temperature.md").read_text()
    assert run_sweep.main(argv) == records
    assert (tmp_path / "commands").read_text().splitlines() == commands
    # A recipe that fails ends the sweep with its exit code.
    stand_in(tmp_path, "exit 3")
    with pytest.raises(SystemExit) as stop:
        run_sweep.main([*argv[:-1], "4,20"])
    assert stop.value.code == 3 and "imagenet_synthesize.sh" in capsys.readouterr().err


# Several cells at a time


def test_jobs_side_by_side(tmp_path):
    """Two at a time, one thread and a GPU for each; codes and output of all; the slots go round."""
    script = 'echo "$OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES $NAME"; exit "$CODE"'
    ended = {}
    with Jobs(device_slots(2, 4, 2)) as jobs:
        for number in range(4):
            if not jobs.has_room:
                name, code, _ = jobs.wait()
                ended[name] = code
            variables = {"NAME": f"job {number}", "CODE": str(number)}
            jobs.start(number, ["sh", "-c", script], variables, tmp_path / f"logs/{number}.log")
            assert len(jobs.keys) <= 2
        while jobs.keys:
            name, code, _ = jobs.wait()
            ended[name] = code
    assert ended == {number: number for number in range(4)}
    lines = [last_line(tmp_path / f"logs/{number}.log") for number in range(4)]
    assert lines[0] == "1 0,1 job 0" and lines[1] == "1 2,3 job 1"
    assert all(line.split()[1] in ("0,1", "2,3") for line in lines[2:])


# It saves when it gets SIGTERM, as a training does, and gives up after ten seconds.
TRAINING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
print("begun", flush=True)
time.sleep(10)
sys.exit("too late")
"""


@pytest.mark.parametrize("shell", [[], ["sh", "-ec", '"$@"; echo after', "sh"]])
def test_jobs_end_with_the_context(shell, tmp_path):
    """So does the command of a shell: recipes with a loop do not exec theirs."""
    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt), Jobs([{}]) as jobs:
        jobs.start("job", [*shell, sys.executable, "-c", TRAINING], {}, log)
        while "begun" not in log.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert last_line(log) == "saved"


def test_a_terminal_does_not_interrupt_the_jobs(tmp_path):
    """^C goes to the terminal's process group: jobs get SIGTERM instead, on which they save."""
    with Jobs([{}]) as jobs:
        command = [sys.executable, "-c", "import os; print(os.getpgrp())"]
        jobs.start("job", command, {}, tmp_path / "log")
        jobs.wait()
    assert int(last_line(tmp_path / "log")) != os.getpgrp()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_context(number):
    """A closed terminal, too: the jobs of another process group do not notice it."""
    earlier = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    try:
        with pytest.raises(SystemExit) as stop, run_sweep.ended_by_signals():
            signal.raise_signal(number)
        assert stop.value.code == 128 + number and signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, earlier)


def test_gpus_of_jobs(monkeypatch):
    assert device_slots(3, 0) == [{}] * 3
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in device_slots(3, 2)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in device_slots(2, 2)] == ["4", "6"]
    with pytest.raises(UserError, match="--gpus"):
        device_slots(2, 2, gpus_per_job=8)


def test_results_do_not_depend_on_the_number_of_jobs(swept, argv, tmp_path, monkeypatch, capsys):
    folder, records = swept  # one after the other, with one thread
    records = [record for record in records if record["seed"] == 0]
    argv = [*argv, "--seeds", "0"]  # of a flag that is given twice the last one counts
    monkeypatch.chdir(tmp_path)
    parallel = run_sweep.main([*argv, "--jobs", "2"])
    figures = ("label_top1", "entropy")  # not asked for here
    assert timeless(parallel) == timeless([record | dict.fromkeys(figures) for record in records])
    logs = sorted(path.name for path in Path("results/sweeps/logs").glob("*.log"))
    assert len(logs) == 4  # of two image folders and two students
    for record in records:
        texts = [(path / record["run"] / "metrics.csv").read_text() for path in (folder, tmp_path)]
        rows = [list(csv.DictReader(text.splitlines())) for text in texts]
        for row in [*rows[0], *rows[1]]:
            row.pop("images_s")
        assert rows[0] == rows[1]
    assert "0 left" in capsys.readouterr().out
    assert timeless(run_sweep.main([*argv, "--jobs", "3"])) == timeless(parallel)


def test_a_failed_cell_does_not_stop_the_others(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [*argv, "--seeds", "0"]
    cells = run_sweep.make_cells(run_sweep.read_sweep(run_sweep.parse_option(argv)))
    cells[1].run.mkdir(parents=True)
    (cells[1].run / "resnet8_latest.pth").write_text("damaged")
    assert run_script(run_sweep.main, [*argv, "--jobs", "2"]) == 2
    out, error = capsys.readouterr()
    assert cells[1].run.name in out and "1 of 2 cells" in error
    assert [(cell.run / "result.json").exists() for cell in cells] == [True, False]
    (cells[1].run / "resnet8_latest.pth").unlink()
    assert len(run_sweep.main([*argv, "--jobs", "2"])) == 2


def test_sigterm_to_a_parallel_sweep(argv, tmp_path):
    """It ends the cells, which save; the sweep can be continued."""
    command = [sys.executable, str(ROOT / "run_sweep.py"), *argv, "--jobs", "2", "--epochs", "200"]
    with open(tmp_path / "out", "w") as out:
        sweep = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
        while not list(tmp_path.glob("save/student_model/sweeps/*/*_latest.pth")):
            assert sweep.poll() is None, (tmp_path / "out").read_text()
            time.sleep(0.05)
        sweep.terminate()
        assert sweep.wait(60) == 143
    logs = list(tmp_path.glob("results/sweeps/logs/*x200*.log"))
    assert any("SIGTERM" in log.read_text() for log in logs)  # the other may not have begun


def test_values_with_one_run_folder_take_turns(argv, monkeypatch):
    """1 and 1.0 are one cell with two names: the second waits for the first."""
    monkeypatch.chdir(ROOT)
    cells = run_sweep.make_cells(sweep_of(*argv, "--values", "1,1.0,3", "--seeds", "0"))
    first, second, other = cells
    assert first.run == second.run != other.run and first.images == second.images
    assert run_sweep.next_task(cells[1:], {other.images: other}, [first]) == other.images
    assert run_sweep.next_task(cells[1:2], {}, [first]) is None
    assert run_sweep.next_task(cells[1:2], {}, []) is second


def test_a_recipes_cell_has_one_gpu_beside_others():
    """Eight cells on eight GPUs, not eight times eight processes."""
    flags = ["--dataset", "imagenet", "--sweep", "temperature"]
    assert (sweep_of(*flags).gpus, sweep_of(*flags, "--jobs", "8").gpus) == (8, 1)
    assert sweep_of(*flags, "--jobs", "4", "--gpus", "2").gpus == 2
