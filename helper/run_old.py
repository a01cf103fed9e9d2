"""A run folder: config.json, train.log, metrics.csv, curves.png, the checkpoints and
result.json.
"""

import csv
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from helper import checkpoints
from helper.errors import UserError
from helper.files import (
    csv_text,
    file_stem,
    make_folder,
    read_json,
    remove_parts,
    whole_file,
    write_json,
    write_text,
)

RESULT_SCHEMA = 1  # of result.json


LATER_FLAGS = {"optimizer": "sgd", "augment": "usual"}


def result_flags(options):
    """The flags that change results, as a dict: what a resumed run must share with the one it
    continues.

    The teacher and the real data may have moved: the teacher's hash is compared instead.
    """
    free = {
        "resume",
        "num_workers",
        "print_freq",
        "device",
        "gpu_id",
        "multiprocessing_distributed",
        "dist_url",
        "world_size",
        "rank",
        "save_model",
        "deterministic",
        "evaluate",
        "estimate",
        "experiments_dir",
        "experiments_name",
        "model_name",
        "save_dir",
        "table",
        "row",
        "path_t",
        "data_root",
        "val_batch_size",
    }
    return {name: value for name, value in vars(options).items() if name not in free}


@dataclass
class Progress:
    """Where a run stands: `epoch` epochs are done, and `step` steps of the next, whose sums are
    `totals`.
    """

    epoch: int = 0
    step: int = 0
    totals: dict = field(default_factory=dict)
    rows: list = field(default_factory=list)  # metrics.csv, a dict an epoch
    best: float = -1.0
    seconds: float = 0.0


class RunFolder:
    """The files of one run; only rank 0 writes.

    `name` is the network's: the checkpoints are `<name>_latest.pth` and `<name>_best.pth`, a slash
    as `_`. `parts` maps names to what has a state_dict (model, optimizer, …); the entry 'model' is
    what loads back as `--path-t`. `inputs` (hashes, counts) are what the run was given besides its
    flags: like these they must be the same on resuming. `facts` stand in the checkpoints beside the
    weights, for whoever loads them: `mean` and `std` of a classifier.
    """

    def __init__(self, folder, name, parts, options, world, inputs=None, facts=None):
        self.folder, self.name, self.parts, self.world = Path(folder), name, parts, world
        self.flags = dict(sorted({**result_flags(options), **(inputs or {})}.items()))
        self.facts = {"model_name": name, **(facts or {})}

    @property
    def latest(self):
        return latest_path(self.folder, self.name)

    @property
    def best(self):
        return self.folder / f"{file_stem(self.name)}_best.pth"

    def open(self, resume, config):
        """Makes the folder, or continues what is in it, and returns the Progress.

        Raises UserError if the folder holds a run and `resume` is not given, or one of other
        settings.
        """
        refuse_existing(self.folder, self.name, resume)
        progress = self._restore() if resume and self.latest.exists() else Progress()
        if self.world.is_main:
            remove_parts(make_folder(self.folder))
            if progress.epoch == 0 and progress.step == 0:
                write_text(self.folder / "train.log", "")
                write_json(
                    self.folder / "config.json", {**config, "flags": self.flags, **environment()}
                )
        self.world.barrier()
        return progress

    def finished_result(self, progress, epochs):
        """Returns the result.json of a run whose `epochs` are all done, and says so; None if there
        is work left.
        """
        path = self.folder / "result.json"
        if progress.epoch < epochs or not path.exists():
            return None
        if self.world.is_main:
            print(f"{self.folder} is finished: {epochs} epochs, nothing to do", flush=True)
        return read_json(path, "result")

    def _restore(self):
        state = checkpoints.load(self.latest)
        if not isinstance(state, dict) or "progress" not in state:
            raise UserError(
                f"{self.latest} is not a run's checkpoint to resume from: choose another folder"
            )
        for key, value in self.flags.items():
            before = state["flags"].get(key, LATER_FLAGS.get(key))
            # A run made before a flag existed went on as if it had not been given.
            if before != value and (key in state["flags"] or value):
                raise UserError(
                    f"--resume: {key} was {before} in {self.folder} and is {value} now: "
                    "give the run's own settings, or another folder"
                )
        progress = Progress(**state["progress"])
        for name, part in self.parts.items():
            if name in state:
                part.load_state_dict(state[name])
        return progress

    def save(self, progress, finished=False):
        """Writes the latest checkpoint; a finished run's holds the weights without what trained
        them.
        """
        if not self.world.is_main:
            return
        state = {
            name: part.state_dict()
            for name, part in self.parts.items()
            if not finished or name not in ("optimizer", "method")
        }
        checkpoints.save(
            self.latest, {**state, **self.facts, "flags": self.flags, "progress": vars(progress)}
        )

    def end_epoch(self, progress, row, score, finished):
        """Adds `row` to the metrics and writes best (if `score` is the highest yet), metrics and
        latest, in that order.

        A run killed between two of these writes does the epoch again and writes the same.
        """
        progress.rows.append(row)
        progress.epoch, progress.step, progress.totals = progress.epoch + 1, 0, {}
        if self.world.is_main:
            if score > progress.best:
                checkpoints.save(
                    self.best,
                    {
                        "model": self.parts["model"].state_dict(),
                        **self.facts,
                        "epoch": progress.epoch,
                        "score": score,
                    },
                )
            self._write_metrics(progress.rows)
        progress.best = max(progress.best, score)
        self.save(progress, finished)

    def _write_metrics(self, rows):
        shown = [
            {key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()}
            for row in rows
        ]
        write_text(self.folder / "metrics.csv", csv_text(list(rows[0]), shown))

    def log(self, line):
        """Prints a line and adds it to train.log (rank 0)."""
        if self.world.is_main:
            print(line, flush=True)
            with open(self.folder / "train.log", "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def finish(self, result, panels):
        """Writes result.json and curves.png; `panels` maps a title to the metrics columns drawn
        under it.
        """
        if self.world.is_main:
            write_json(self.folder / "result.json", {"schema": RESULT_SCHEMA, **result})
            draw_curves(self.folder / "metrics.csv", self.folder / "curves.png", panels)


def latest_path(folder, name):
    """Returns the path of the latest checkpoint of network `name` in a run folder."""
    return Path(folder) / f"{file_stem(name)}_latest.pth"


def refuse_existing(folder, name, resume):
    """Raises UserError if `folder` holds a run of network `name` that is not to be resumed."""
    if latest_path(folder, name).exists() and not resume:
        raise UserError(
            f"{folder} holds a run already: give --resume to go on with it, or another folder"
        )


def environment():
    """Returns versions, machine and git commit, for config.json and manifests."""
    return {
        "command": " ".join(sys.argv),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def git_commit():
    """Returns this checkout's commit (`-dirty` with uncommitted changes), None without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def draw_curves(metrics, path, panels):
    """Draws columns of a metrics.csv over its epochs, one panel a title, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with open(metrics) as file:
        rows = list(csv.DictReader(file))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 3.5), layout="constrained", squeeze=False
    )
    for axis, (title, columns) in zip(axes[0], panels.items(), strict=True):
        for column in columns:
            axis.plot(
                [int(row["epoch"]) for row in rows],
                [float(row[column]) for row in rows],
                marker=".",
                label=column.replace("_", " "),
            )
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend()
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
