"""The result.json files of finished runs, read back: what tables and plots are made from."""

import math
import os
import re
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path

from helper.errors import UserError
from helper.files import read_json
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
# Other spellings of the rows: the scripts' --method, and the data set's usual name.
_ALIASES = {"deepinversion": "DeepInv", "places365": "Place365+KD", "places365+kd": "Place365+KD"}
_RESNETS = re.compile(
    r"(?:cifar)?resnet(18|34|50|101|152)"
)  # not CIFAR's resnet20, …, which are of another family


@dataclass(frozen=True)
class Run:
    """What a finished run's result.json says; accuracies and agreement in percent.

    `teacher` is None for a network that learnt from labels, `table` None where the data set
    decides.
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
    top1_last: float
    top1_best: float
    agreement: float | None
    image_steps: int
    seconds: float

    @property
    def cell(self):
        """What runs that are averaged have in common; sortable, methods in the order of METHODS."""
        place = METHODS.index(self.method) if self.method in METHODS else len(METHODS)
        return (
            place,
            self.method,
            self.dataset,
            self.teacher or "",
            self.student,
            self.images,
            self.epochs,
        )


def read_runs(root):
    """Returns (the Runs of all result.json files below the folder `root`, by path; a line for each
    that is left out).

    Left out are damaged files and those of another schema; a DiT's are passed over in silence. What
    lies inside of a run folder is not looked at. Raises UserError if `root` is not a folder.
    """
    if not Path(root).is_dir():
        raise UserError(f"no folder {root}: give the one that holds the runs")
    runs, faults = [], []
    for folder, inner, files in os.walk(root):
        inner.sort()
        if "result.json" in files:
            inner.clear()  # a run may hold a pool of a million images
            try:
                runs.append(read_run(folder))
            except (UserError, OSError) as error:
                faults.append(str(error))
    return [run for run in runs if run], faults


def read_run(folder):
    """Returns the Run of a run folder, None if it is of no classifier.

    Raises UserError if result.json is missing, damaged or of another schema.
    """
    path = Path(folder) / "result.json"
    data = read_json(path, "result")
    if not isinstance(data, dict) or data.get("schema") != RESULT_SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise UserError(
            f"result {path} is of schema {found}, this version reads {RESULT_SCHEMA}: run the cell "
            "again"
        )
    if "stage" in data:
        return None
    # Runs that are older than a field: the split was always `test`.
    data = {
        "table": None,
        "teacher": None,
        "agreement": None,
        "val_split": "test",
        **data,
        "folder": str(folder),
    }
    for field in fields(Run):
        if not _is(data.get(field.name), field.type):
            raise UserError(f"result {path} is damaged: {field.name} is {data.get(field.name)!r}")
    data["method"] = method_name(data["method"])
    return Run(**{field.name: data[field.name] for field in fields(Run)})


def _is(value, kind):
    """Whether a value of JSON is of a field's type; a finite number ≥ 0 where a number is
    wanted.
    """
    if isinstance(value, bool):
        return False
    number = isinstance(value, int | float) and 0 <= value < math.inf
    return {
        str: isinstance(value, str),
        int: number and isinstance(value, int),
        float: number,
        str | None: value is None or isinstance(value, str),
        float | None: value is None or number,
    }[kind]


def method_name(name):
    """Returns a method's name as the tables have it: deepinversion → DeepInv, one-image →
    One-Image.
    """
    known = {method.lower(): method for method in METHODS} | _ALIASES
    return known.get(name.lower(), name)


def network_name(name):
    """Returns an architecture's name as the paper has it: cifarresnet18, ResNet18 → RN-18; wrn40_2
    → WRN-40-2.

    Names that the paper does not have stay as they are.
    """
    plain = name.rpartition("/")[2].lower()
    if found := _RESNETS.fullmatch(plain):
        return f"RN-{found[1]}"
    if found := re.fullmatch(r"wrn_?(\d+)_(\d+)", plain):
        return f"WRN-{found[1]}-{found[2]}"
    if found := re.fullmatch(r"vgg(\d+)", plain):
        return f"VGG-{found[1]}"
    return name


def averaged(runs):
    """Returns lists of the runs to average: same data set, method, networks, images and epochs;
    each seed once.

    Where a seed would stand twice in a list, every run of it is a list of its own. They are in the
    order of METHODS.
    """
    lists = []
    for _, group in groupby(
        sorted(runs, key=lambda run: (run.cell, run.seed, run.folder)), lambda run: run.cell
    ):
        group = list(group)
        repeated = len({run.seed for run in group}) < len(group)
        lists += [[run] for run in group] if repeated else [group]
    return lists
