"""The house: imports run one way, scripts are POSIX sh, weights in git are small and safe."""

import ast
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "helper": {"helper"},
    "models": {"models", "helper"},
    "dataset": {"dataset", "helper"},
    "diffusion": {"diffusion", "models", "helper"},
    "datafree": {"datafree", "models", "dataset", "helper"},
    "report": {"report", "helper"},
}
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
OURS = {*MAY_IMPORT, *SCRIPTS}


def imported_packages(path):
    """Returns the first parts of every module that a file imports, at its top or inside of a
    function.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).glob("*.py"))
    assert files
    for path in files:
        assert imported_packages(path) & OURS <= MAY_IMPORT[package], path


@pytest.mark.parametrize(
    "script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.name
)
def test_scripts_are_posix_sh(script):
    assert subprocess.run(["sh", "-n", script]).returncode == 0


def test_shipped_weights_are_small_safetensors_or_plain_checkpoints():
    from helper import checkpoints

    files = [
        path
        for path in (ROOT / "save/models/fashion_mnist").glob("*/**/*")
        if path.suffix in (".safetensors", ".pth")
        and "train_" not in path.parent.name
        and not path.name.endswith("_best.pth")
    ]
    assert {path.parent.name for path in files} >= {"transformer", "vae", "resnet20", "resnet8"}
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    for path in files:
        checkpoints.load(path)


def test_shipped_teachers_never_saw_the_holdout():
    for name in ("resnet20", "resnet8"):
        config = json.loads((ROOT / f"save/models/fashion_mnist/{name}/config.json").read_text())
        assert config["train"] == {"dataset": "fashion_mnist", "split": "train"}
        assert config["flags"]["images"] == 55_000
