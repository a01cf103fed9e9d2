"""The README's main command, with tiny settings and offline, in a copy of the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helper.errors import UserError
from tools import spread

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "diffusion",
    "report",
    "tools",
    "dataset",
    "helper",
    "models",
    "scripts",
    "requirements.txt",
    "synthesize_dit.py",
    "train_student.py",
)


def copy_of_the_repository(folder):
    """Copies what the quickstart runs; its .venv is the environment of these tests."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copy(folder / "requirements.txt", folder / ".venv/installed-requirements.txt")


def quickstart(folder, data, script="quickstart.sh", **more):
    weights = ROOT / "save/models/fashion_mnist"
    settings = {
        "GENERATOR": weights / "DiT-6x160-2",
        "TEACHER": weights / "resnet20/resnet20_latest.pth",
        "DATA": data,
        "IMAGES": 20,
        "EPOCHS": 2,
        **more,
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    environment |= {name: str(value) for name, value in settings.items()}
    done = subprocess.run(
        ["sh", f"scripts/{script}"],
        cwd=folder,
        env=environment,
        text=True,
        timeout=300,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstart_writes_images_student_and_summary_once(tmp_path, tiny_fashion_mnist):
    copy_of_the_repository(tmp_path)
    first = quickstart(tmp_path, tiny_fashion_mnist)
    (images,) = (tmp_path / "syn_dataset").glob("quickstart_*/")
    (run_folder,) = (tmp_path / "save/student_model/quickstart").iterdir()
    result = json.loads((run_folder / "result.json").read_text())
    assert len(list(images.glob("*/*.png"))) == 20
    assert images.with_name(f"{images.name}_contact_sheet.png").is_file()
    assert (run_folder / "curves.png").is_file()
    assert (result["teacher"], result["student"], result["images"], result["epochs"]) == (
        "resnet20",
        "resnet8",
        20,
        2,
    )
    for word in ("teacher", "student", "agreement", "minutes", "contact_sheet.png", "curves.png"):
        assert word in first
    written = {
        path: path.stat().st_mtime_ns
        for path in [*images.glob("*/*.png"), *run_folder.glob("*.pth")]
    }

    second = quickstart(tmp_path, tiny_fashion_mnist)
    assert "already there" in second and "nothing to do" in second
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert json.loads((run_folder / "result.json").read_text())["top1_last"] == result["top1_last"]


def test_the_gap_to_real_images(tmp_path, tiny_fashion_mnist):
    copy_of_the_repository(tmp_path)
    printed = quickstart(
        tmp_path, tiny_fashion_mnist, "fashion_mnist_gap.sh", SEEDS="0 1", EPOCHS=1
    )
    results = {
        folder.name: json.loads((folder / "result.json").read_text())
        for folder in (tmp_path / "save/student_model/gap").iterdir()
    }
    assert results.keys() == {
        f"{source}_seed{seed}_test" for source in ("generated", "real") for seed in (0, 1)
    }
    for seed in (0, 1):
        generated, real = (results[f"{source}_seed{seed}_test"] for source in ("generated", "real"))
        assert real["source"] == "real" and generated["source"].startswith(
            "syn_dataset/quickstart_"
        )
        assert {key for key in real if real[key] != generated[key]} <= {
            "method",
            "source",
            "top1_last",
            "top1_best",
            "top5_last",
            "agreement",
            "seconds",
        }
    means = [
        (
            results[f"{source}_seed0_test"]["top1_last"]
            + results[f"{source}_seed1_test"]["top1_last"]
        )
        / 2
        for source in ("generated", "real")
    ]
    summary = printed[printed.index("student's top-1") :]
    for mean in means:
        assert f" {mean:.2f} ± " in summary
    assert f"real − generated  {means[1] - means[0]:.2f}" in summary
    assert "20 real images of" not in summary and "trained on 20 real images" in printed


def add_run(folder, **changes):
    """Writes the result of a run; returns its folder, a text."""
    result = {
        "dataset": "fashion_mnist",
        "val_split": "test",
        "val_images": 10,
        "teacher": "resnet20",
        "student": "resnet8",
        "images": 1000,
        "epochs": 20,
        "seed": 0,
        "method": "KD",
        "top1_last": 50.0,
    }
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result | changes))
    return str(folder)


def test_accuracies_on_different_images_are_not_averaged(tmp_path):
    one, other = add_run(tmp_path / "one"), add_run(tmp_path / "other", val_split="holdout")
    assert spread.main([one]) == {"real images": [50.0]}
    with pytest.raises(UserError, match="different images"):
        spread.main([one, other])
    with pytest.raises(UserError, match="RUN_FOLDER"):
        spread.main([])


@pytest.mark.parametrize(
    "name, value",
    [("teacher", None), ("student", "resnet20"), ("images", 500), ("epochs", 10), ("seed", 0)],
)
def test_runs_that_differ_in_more_than_their_seeds_are_not_averaged(tmp_path, name, value):
    one = add_run(tmp_path / "one")
    generated = add_run(tmp_path / "generated", method="DM-KD", images=2000)
    other = add_run(tmp_path / "other", **{"seed": 1, name: value})
    again = add_run(tmp_path / "again", seed=1)
    accuracies = spread.main([one, generated, again])
    assert accuracies == {"real images": [50.0, 50.0], "generated images": [50.0]}
    with pytest.raises(UserError, match=f"one and .*other .*{name}.*{value}"):
        spread.main([one, generated, other])
