"""The README's main command, with tiny settings and offline, in a copy of the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("dataset", "helper", "models", "scripts", "requirements.txt", "synthesize_dit.py", "train_student.py")


def copy_of_the_repository(folder):
    """Copies what the quickstart runs; its .venv stands for the environment of these tests."""
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


def quickstart(folder, data):
    weights = ROOT / "save/models/fashion_mnist"
    settings = {"GENERATOR": weights / "DiT-6x128-2", "TEACHER": weights / "resnet20/resnet20_latest.pth",
                "DATA": data, "IMAGES": 20, "EPOCHS": 2}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    done = subprocess.run(["sh", "scripts/quickstart.sh"], cwd=folder, env=environment, text=True, timeout=300,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstart_makes_images_a_student_and_a_table_once(tmp_path, tiny_fashion_mnist):
    copy_of_the_repository(tmp_path)
    first = quickstart(tmp_path, tiny_fashion_mnist)
    (images,) = (tmp_path / "syn_dataset").glob("quickstart_*")
    (run_folder,) = (tmp_path / "save/student_model/quickstart").iterdir()
    result = json.loads((run_folder / "result.json").read_text())
    assert len(list(images.glob("*/*.png"))) == 20 and (images / "contact_sheet.png").is_file()
    assert (run_folder / "curves.png").is_file()
    assert (result["teacher"], result["student"], result["images"], result["epochs"]) == ("resnet20", "resnet8", 20, 2)
    for word in ("teacher", "student", "agreement", "minutes", "contact_sheet.png", "curves.png"):
        assert word in first
    written = {path: path.stat().st_mtime_ns for path in [*images.glob("*/*.png"), *run_folder.glob("*.pth")]}

    second = quickstart(tmp_path, tiny_fashion_mnist)
    assert "already there" in second and "nothing to do" in second
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert json.loads((run_folder / "result.json").read_text())["top1_last"] == result["top1_last"]
