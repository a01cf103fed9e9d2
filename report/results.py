"""The results of finished runs, read from their result.json files."""

import os
import re
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from helper.errors import UserError
from helper.files import entry, read_json
from helper.run import RESULT_SCHEMA

METHODS = (
    "Teacher",
    "Student",
    "KD",
    "Place365+KD",
    "One-Image",
    "BigGAN",
    "DeepInv",
    "DAFL",
    "DFQ",
    "FastDFKD",
    "DM-KD",
)
# Other spellings: the values of --method, and the usual name of the data set.
_ALIASES = {"deepinversion": "DeepInv", "places365": "Place365+KD", "places365+kd": "Place365+KD"}
# resnet20, resnet32, … are another family, made for CIFAR.
_RESNETS = re.compile(r"(?:cifar)?resnet(18|34|50|101|152)")


@dataclass(frozen=True)
class RunResult:
    """The result of a run; accuracies and agreement in percent.

    teacher: None for a network trained on labels; table: None for the table of the data set;
    val_images: None in files that lack it.
    """

    folder: str
    table: str | None
    method: str
    dataset: str
    teacher: str | None
    student: str
    images: int
    epochs: int
    seed: int
    val_split: str
    val_images: int | None
    top1_last: float
    top1_best: float
    agreement: float | None
    teacher_top1: float | None
    image_steps: int
    seconds: float

    @property
    def cell(self):
        """Sort key that runs differing only in their seeds share; methods in order of METHODS."""
        order = METHODS.index(self.method) if self.method in METHODS else len(METHODS)
        return (
            order,
            self.method,
            self.dataset,
            self.teacher or "",
            self.student,
            self.images,
            self.epochs,
        )


def walk_once(root):
    """Yields (folder, subfolders, files) as `os.walk`, in sorted order, linked folders last.

    Links to folders are followed, but every folder is visited once.
    """
    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders.sort(key=lambda name: (os.path.islink(os.path.join(folder, name)), name))
        yield folder, subfolders, files


def read_runs(root):
    """Reads all result.json files below the folder `root`.

    Returns (RunResults in the order of `walk_once`, one message per file that is damaged or has
    another schema). Results of DiTs are skipped, and so is everything inside a run folder.
    Raises UserError if `root` is not a folder.
    """
    if not Path(root).is_dir():
        raise UserError(f"no folder {root}: give the folder that holds the runs")
    runs, faults = [], []
    for folder, subfolders, files in walk_once(root):
        if "result.json" in files:
            subfolders.clear()  # the folder of a run may hold a million images
            try:
                runs.append(read_run(folder))
            except (UserError, OSError) as error:
                faults.append(str(error))
    return [run for run in runs if run], faults


def read_run(folder):
    """Reads the RunResult of a run folder; None for a DiT or VAE.

    Raises UserError if result.json is missing, damaged or has another schema.
    """
    path = Path(folder) / "result.json"
    data = read_json(path, "result")
    if (schema := data.get("schema")) != RESULT_SCHEMA:
        newer = isinstance(schema, int) and schema > RESULT_SCHEMA
        raise UserError(
            f"result {path} has schema {schema}, this version reads {RESULT_SCHEMA}: "
            + ("update this repository" if newer else "repeat the run")
        )
    if "stage" in data:
        return None
    # Defaults of the fields that older files lack
    defaults = dict.fromkeys(("table", "teacher", "agreement", "teacher_top1", "val_images"))
    defaults["val_split"] = "test"
    data = {**defaults, **data, "folder": str(folder)}
    values = {field.name: entry(data, field.name, field.type, path) for field in fields(RunResult)}
    return RunResult(**{**values, "method": method_name(values["method"])})


def method_name(name):
    """A method's name in the tables: deepinversion → DeepInv, one-image → One-Image."""
    names = {method.lower(): method for method in METHODS} | _ALIASES
    return names.get(name.lower(), name)


def network_name(name):
    """An architecture's name in the paper: cifarresnet18, ResNet18 → RN-18; wrn40_2 → WRN-40-2.

    Other names are returned unchanged.
    """
    plain = name.rpartition("/")[2].lower()
    if match := _RESNETS.fullmatch(plain):
        return f"RN-{match[1]}"
    if match := re.fullmatch(r"wrn_?(\d+)_(\d+)", plain):
        return f"WRN-{match[1]}-{match[2]}"
    if match := re.fullmatch(r"vgg(\d+)", plain):
        return f"VGG-{match[1]}"
    return name


def groups_to_average(runs):
    """Groups runs that differ only in their seeds, in order of `RunResult.cell`.

    If a seed occurs twice in a group, it is not clear which runs belong together: each run then is
    a group of its own.
    """
    groups = []
    runs = sorted(runs, key=lambda run: (run.cell, run.seed, run.folder))
    for _, cell in groupby(runs, lambda run: run.cell):
        group = list(cell)
        is_repeated = len({run.seed for run in group}) < len(group)
        groups += [[run] for run in group] if is_repeated else [group]
    return groups
