"""A run: its folder, its checkpoints, and the state of the training loop.

    run = Run(folder, "resnet8", {"model": student.net, "optimizer": optimizer}, world)
    run.open(settings, config, resume)              # restores the checkpoint of an earlier run
    for _ in run.epochs(240, schedule, seed):       # the epochs that are left; stops on SIGTERM
        for batch in run.batches(loader):           # seeds, learning rate, progress bar
            ...
            run.add(len(images), loss=loss)
        run.end_epoch(metrics, metrics["top1"])     # metrics row and checkpoints
    run.finish(result, panels)

The folder holds config.json, train.log, metrics.csv, curves.png, result.json, <name>_latest.pth and
<name>_best.pth, and what a tracker writes (helper/tracker.py).
"""

import fcntl
import json
import os
import platform
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from helper import checkpoints
from helper.cost import Pace
from helper.distributed import StopRequest
from helper.errors import UserError
from helper.files import (
    append_text,
    csv_text,
    file_stem,
    make_folder,
    plain_pyplot,
    read_json,
    read_text,
    remove_parts,
    write_figure,
    write_json,
    write_text,
)
from helper.finite import first_not_finite
from helper.seeds import seed_step
from helper.tracker import Tracker

_LOCKS = {}  # {path of a lock file: open file} of this process
RESULT_SCHEMA = 1  # of result.json
SIGTERM_EXIT = 143  # exit code that a shell reports for a process ended by SIGTERM
# Flags that are younger than some runs, and the values that those runs used.
LATER_FLAGS = {"optimizer": "sgd", "augment": "usual", "distill": "kd"}


@dataclass
class Progress:
    """State of a run: finished epochs, and the finished steps of the current epoch."""

    epoch: int = 0
    step: int = 0
    totals: dict = field(default_factory=dict)  # sums over the samples of the current epoch
    rows: list = field(default_factory=list)  # metrics.csv, one dict per epoch
    best: float = -1.0
    seconds: float = 0.0


class Run:
    """Trains the networks in `parts` and writes their run folder (rank 0 only).

    parts: {name: object with a state_dict}; 'model' is the network that is saved as best and that
    loads as a teacher, 'optimizer' the optimizer whose learning rate is scheduled.
    facts: entries stored beside the weights, such as the `mean` and `std` of a classifier.
    tracker: the program that shows the run meanwhile, of helper.tracker.TRACKERS.
    """

    def __init__(self, folder, name, parts, world, facts=None, tracker="none"):
        self.folder, self.name, self.parts, self.world = Path(folder), name, parts, world
        self.facts = {"model_name": name, **(facts or {})}
        self.progress, self.settings = Progress(), {}
        self.absent_parts = []  # parts that the restored checkpoint does not have
        self.processes = world.size  # that the run was started on
        self.tracker, self._tracker_name = None, tracker
        self._clock = time.monotonic()

    # Files

    @property
    def latest(self):
        return latest_path(self.folder, self.name)

    @property
    def best(self):
        return self.folder / f"{file_stem(self.name)}_best.pth"

    def open(self, settings, config, resume):
        """Creates the run folder, or restores the run in it.

        settings: flags and inputs that change the result; a resumed run must have the same ones.
        config: further content of config.json.
        Raises UserError if the folder holds a run and `resume` is false, if settings differ, or if
        the tracker cannot be started.
        """
        self.settings = dict(sorted(settings.items()))
        refuse_existing(self.folder, self.name, resume)
        notes = self._restore() if resume and self.latest.exists() else None
        if not self._is_finished(self.settings.get("epochs")):
            self.world.from_main(lock_folder, self.folder)
            if self._tracker_name != "none":
                self.world.from_main(self._start_tracker, notes is None)
        if self.world.is_main:
            remove_parts(self.folder)
            config = {**config, "processes": self.processes, "flags": self.settings}
            if notes is None:
                write_text(self.folder / "train.log", "")
                write_json(self.folder / "config.json", {**config, **environment()})
            elif not is_json(self.folder / "config.json"):
                write_json(self.folder / "config.json", {**config, **environment()})
                notes.append("config.json was missing or damaged and has been written again")
        for note in notes or []:
            self.log(f"note: {note}")
        self.world.barrier()
        self._clock = time.monotonic()

    def _start_tracker(self, fresh):
        """Starts the tracker and sends the epochs that it lacks (rank 0)."""
        self.tracker = Tracker(self._tracker_name, self.folder, self.settings, fresh)
        self.tracker.log_epochs(self.progress.rows)

    def track_image(self, name, path):
        """Shows an image file in the tracker, if there are both."""
        if self.tracker and Path(path).is_file():
            self.tracker.log_image(name, path)

    def _is_finished(self, epochs):
        """Whether the run has its last epoch and its result, as rank 0 sees it."""
        path = self.folder / "result.json"
        done = epochs is not None and self.progress.epoch >= epochs
        return self.world.from_main(lambda: done and path.exists())

    def _restore(self):
        """Restores parts and progress from the latest checkpoint; returns notes for the log."""
        try:
            state = checkpoints.load(self.latest)
        except UserError:
            raise UserError(
                f"{self.latest} is damaged or cannot be read: restore a copy, or delete it (and "
                "result.json, if the run was finished) to start the run from the beginning"
            ) from None
        if not isinstance(state, dict) or "progress" not in state:
            raise UserError(f"{self.latest} is not the checkpoint of a run: choose another folder")
        for key, value in self.settings.items():
            before = state["flags"].get(key, LATER_FLAGS.get(key))
            if key.endswith("_sha256"):  # of a file or of images; younger than some runs
                if before not in (None, value):
                    raise UserError(
                        f"--resume: {self.folder} was started with other content of the "
                        f"{key.removesuffix('_sha256').replace('_', ' ')} ({key} {before[:12]}…, "
                        f"now {value[:12]}…): restore it, or start a run in another folder"
                    )
                continue
            # A run that is older than a flag behaved as if the flag had not been given.
            if before != value and (key in state["flags"] or value):
                raise UserError(
                    f"--resume: {self.folder} was started with {key} {before}, not {value}: "
                    "use the settings of the run, or another folder"
                )
        self.progress = Progress(**state["progress"])
        for name, part in self.parts.items():
            if name in state:
                try:
                    part.load_state_dict(state[name])
                except (RuntimeError, ValueError) as error:  # other tensors
                    raise UserError(
                        f"--resume: {self.latest} is of another {name} than {self.name} is now "
                        f"({str(error).splitlines()[-1].strip()}): restore the code of the network "
                        "or the version of its library, or start a run in another folder"
                    ) from None
            else:
                self.absent_parts.append(name)
        notes, self.processes = [], state.get("processes", self.world.size)
        if self.processes != self.world.size:
            notes.append(
                f"started on {self.processes} processes, now on {self.world.size}: the result "
                "will differ from that of an uninterrupted run"
            )
        if self.progress.rows:
            line = self._epoch_line(self.progress.rows[-1])
            log = self.folder / "train.log"
            if not log.exists() or line not in read_text(log):
                notes.append(f"the log of this epoch was lost: {line}")
        return notes

    def finished_result(self, epochs, panels, safetensors=False):
        """Returns the content of result.json if the run is finished, else None.

        Other files of a finished run that are missing are written again.
        panels, safetensors: as in `finish`.
        """
        if not self._is_finished(epochs):
            return None
        path = self.folder / "result.json"
        result = read_json(path, "result")
        if self.world.is_main:
            self._write_curves(panels, again=False)
            if safetensors:
                self._write_safetensors()
            self._drop_optimizer()
            unlock_folder(self.folder)
            print(f"{self.folder} is finished ({epochs} epochs): nothing to do", flush=True)
        return result

    def save(self):
        """Writes the latest checkpoint.

        Raises UserError if a weight is not finite, so that the last good checkpoint stays.
        """
        self._count_time()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        name = first_not_finite(state)
        if self.world.any(name is not None):
            raise UserError(
                f"{self._title}: {name or 'a weight of another process'} is not finite, and "
                f"{self.latest} is not written: {_remedy(name or '')}"
            )
        if not self.world.is_main:
            return
        state |= {**self.facts, "flags": self.settings, "progress": vars(self.progress)}
        checkpoints.save(self.latest, {**state, "processes": self.processes})

    def log(self, line):
        """Prints a line and appends it to train.log (rank 0)."""
        if self.world.is_main:
            print(line, flush=True)
            moment = time.strftime("%Y-%m-%d %H:%M:%S")
            append_text(self.folder / "train.log", f"{moment} {line}\n")

    def finish(self, result, panels, safetensors=False):
        """Writes curves.png, result.json and the final checkpoint, without the optimizer.

        Whatever else belongs to a finished run must exist before: result.json declares it finished.
        panels: {title: [columns of metrics.csv]}, one plot each.
        safetensors: also write <name>_latest.safetensors and <name>_best.safetensors.
        """
        if self.world.is_main:
            self._write_curves(panels, again=True)
            if safetensors:
                self._write_safetensors()
            write_json(self.folder / "result.json", {"schema": RESULT_SCHEMA, **result})
            self._drop_optimizer()
            unlock_folder(self.folder)
        if self.tracker:
            self.tracker.close()

    def _write_safetensors(self):
        """Writes the weights of both checkpoints as safetensors, beside them."""
        for path in filter(Path.exists, (self.latest, self.best)):
            checkpoints.save_safetensors(path.with_suffix(".safetensors"), checkpoints.load(path))

    def _drop_optimizer(self):
        """Removes what only training needs from the latest checkpoint of a finished run."""
        state = checkpoints.load(self.latest)
        if "optimizer" in state:
            weights = {key: state[key] for key in state if key not in ("optimizer", "method")}
            checkpoints.save(self.latest, weights)

    def _write_curves(self, panels, again):
        """Writes metrics.csv and curves.png, those that are missing or empty, or (`again`) all."""
        metrics, curves = self.folder / "metrics.csv", self.folder / "curves.png"
        if again or is_absent(metrics):
            self._write_metrics()
        if again or is_absent(curves):
            draw_curves(self.progress.rows, curves, panels)

    def accuracies(self):
        """Returns the accuracies of a finished classifier for result.json, in percent."""
        rows = self.progress.rows
        return {
            "top1_last": rows[-1]["top1"],
            "top1_best": max(row["top1"] for row in rows),
            "top5_last": rows[-1]["top5"],
            "agreement": rows[-1].get("agreement"),
        }

    @property
    def seconds(self):
        """Time of training and evaluation, in seconds, of all sessions."""
        return round(self.progress.seconds, 1)

    # The training loop

    def epochs(self, epochs, schedule, seed, print_freq=50):
        """Yields the numbers of the epochs that are left, counted from 0.

        schedule: learning rate as a function of the finished epochs (a float). The caller iterates
        over `batches()` and ends every epoch with `end_epoch()`. SIGTERM saves the run at the next
        step and exits with code 143.
        """
        self._epochs, self._schedule = epochs, schedule
        self._seed, self._print_freq = seed, print_freq
        self._pace, self._stop_checks = None, 0
        with StopRequest() as self.stop:
            while self.progress.epoch < epochs:
                yield self.progress.epoch

    def batches(self, loader):
        """Yields the batches of the current epoch that are left.

        Before each one torch is seeded with (seed, epoch, step, rank) and the learning rate is set;
        after each one the progress bar is updated and SIGTERM is obeyed.
        loader: has `len()` (steps per epoch), `batch_size` (of all processes) and
        `epoch_batches(epoch, first_step)`.
        """
        progress = self.progress
        batches = loader.epoch_batches(progress.epoch, progress.step)
        yield from self._steps(batches, len(loader), loader.batch_size)

    def steps(self, steps, batch_size):
        """Yields the numbers of the current epoch's steps that are left, from 0 to `steps` − 1.

        For training without a loader; what `batches()` does around a batch is done around a step.
        """
        yield from self._steps(range(self.progress.step, steps), steps, batch_size)

    def _steps(self, batches, steps, batch_size):
        progress, world = self.progress, self.world
        if progress.step and not world.is_main:
            # Rank 0 carries the sums of the steps before the interruption.
            progress.totals = dict.fromkeys(progress.totals, 0.0)
        if self._pace is None:
            self._pace = Pace(self._epochs * steps * batch_size, "image")
        started, first_step = time.monotonic(), progress.step
        tracked = dict(progress.totals)  # the sums when the tracker got the last values
        stopped = False
        bar = tqdm(
            total=steps,
            initial=first_step,
            desc=self._title,
            unit="step",
            leave=False,
            mininterval=1,
            disable=not world.is_main,
        )
        with bar:  # an error must not be printed behind it
            for batch in batches:
                seed_step(self._seed, progress.epoch, progress.step, world.rank)
                self._set_learning_rate(progress.epoch + progress.step / steps)
                yield batch
                progress.step += 1
                bar.update()
                shown = progress.step % self._print_freq == 0
                if shown:
                    sums = self._sums()
                    bar.set_postfix(loss=f"{sums['loss'] / sums['count']:.4f}")
                    if self.tracker:
                        values = means_since(tracked, sums)
                        values["lr"] = self._schedule(progress.epoch + (progress.step - 1) / steps)
                        self.tracker.log_step(progress.epoch * steps + progress.step, values)
                        tracked = sums
                self._log_pace((progress.epoch * steps + progress.step) * batch_size)
                # An epoch may have fewer steps than print_freq.
                if self.stop.agreed(world, shown or progress.step == steps):
                    stopped = True
                    break
        progress.totals = self._sums()
        if stopped:
            self.save()
            self.exit_stopped(f"at step {progress.step} of {self._title}: saved")
        done = (steps - first_step) * batch_size
        self._images_per_second = done / (time.monotonic() - started)
        self._last_rate = self._schedule(progress.epoch + (steps - 1) / steps)
        self.save()  # nothing is lost if the evaluation is killed

    def should_stop(self):
        """Whether SIGTERM asks the run to stop, for long work outside of `batches()`.

        Several processes call this equally often and agree at every `print_freq`th call.
        """
        self._stop_checks += 1
        return self.stop.agreed(self.world, self._stop_checks % self._print_freq == 0)

    def exit_stopped(self, where):
        """Logs where SIGTERM stopped the run and exits with code 143."""
        self.log(f"stopped by SIGTERM {where}, continue with --resume")
        if self.tracker:
            self.tracker.close(SIGTERM_EXIT)
        self.stop.restore()
        self.world.barrier()  # torchrun would kill rank 0, which may still be writing
        raise SystemExit(SIGTERM_EXIT)

    def add(self, count, **values):
        """Adds a step of `count` samples to the epoch's means, without waiting for the device.

        values: means over the samples (0-d tensors), or one value per sample, (count,).
        """
        totals = self.progress.totals
        for name, value in values.items():
            value = value.detach()
            total = value.sum() if value.dim() else value * count
            totals[name] = totals.get(name, 0.0) + total.double()
        totals["count"] = totals.get("count", 0.0) + count

    def end_epoch(self, metrics, score):
        """Ends the epoch: a row of metrics.csv, <name>_best.pth if `score` is the highest so far,
        <name>_latest.pth, and a line of train.log.

        A run killed between two of these writes repeats the epoch and writes the same.
        Raises UserError, and writes nothing, if a metric is not finite.
        """
        progress = self.progress
        self._check_finite(metrics)
        count = progress.totals.pop("count")
        means = {name: total / count for name, total in progress.totals.items()}
        row = {
            "epoch": progress.epoch + 1,
            "lr": self._last_rate,
            **means,
            "images_s": round(self._images_per_second, 1),
            **metrics,
        }
        progress.rows.append(row)
        progress.epoch, progress.step, progress.totals = progress.epoch + 1, 0, {}
        if self.world.is_main:
            if score > progress.best:
                state = {"model": self.parts["model"].state_dict(), **self.facts}
                checkpoints.save(self.best, {**state, "epoch": progress.epoch, "score": score})
            self._write_metrics()
        progress.best = max(progress.best, score)
        self.save()
        self.log(self._epoch_line(row))
        if self.tracker:
            self.tracker.log_epochs(progress.rows)

    def _epoch_line(self, row):
        values = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        return f"epoch {row['epoch']}/{self.settings['epochs']}  {values}"

    @property
    def _title(self):
        return f"epoch {self.progress.epoch + 1}/{self._epochs}"

    def _set_learning_rate(self, position):
        rate = self._schedule(position)
        for group in self.parts["optimizer"].param_groups:
            if isinstance(group["lr"], torch.Tensor):  # of a captured step
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _sums(self):
        """Returns the sums over the samples of the epoch so far, of all processes; waits for the
        device.

        Raises UserError if one is not finite, so that no such network is evaluated or saved.
        """
        totals = self.progress.totals
        sums = torch.tensor([float(value) for value in totals.values()], dtype=torch.float64)
        sums = dict(zip(totals, self.world.sum(sums).tolist(), strict=True))
        self._check_finite(sums)
        return sums

    def _check_finite(self, values):
        """Raises UserError if one of the numbers {name: value} of the current epoch is not finite.

        All processes have the same ones.
        """
        if name := first_not_finite(values):
            raise UserError(
                f"{self._title}, by step {self.progress.step}: the {name.replace('_', ' ')} is "
                f"{values[name]}: {_remedy(name)}, or check the checkpoints that are given and the "
                "images"
            )

    def _log_pace(self, images):
        """Logs, once, the remaining time at the rate of the first batches (rank 0)."""
        if self.world.is_main and (line := self._pace.batch(images, self.world.synchronize)):
            with tqdm.external_write_mode():  # the progress bar makes room
                self.log(line)

    def _count_time(self):
        now = time.monotonic()
        self.progress.seconds += now - self._clock
        self._clock = now

    def _write_metrics(self):
        rows = [
            {
                key: f"{value:.6g}" if isinstance(value, float) else value
                for key, value in row.items()
            }
            for row in self.progress.rows
        ]
        write_text(self.folder / "metrics.csv", csv_text(list(rows[0]), rows))


def means_since(earlier, sums):
    """The means {name: value} over the samples that were added to `earlier` sums to get `sums`."""
    count = sums["count"] - earlier.get("count", 0.0)
    names = [name for name in sums if name != "count"]
    return {name: (sums[name] - earlier.get(name, 0.0)) / count for name in names}


def _remedy(name):
    """What to do about a loss or state `name` that is not finite."""
    if name.startswith(("method", "generator")):  # of a data-free method
        return "lower --lr_g or the weights of the loss (--adv, --bn, …)"
    return "lower --learning_rate or the weights of the loss"


def lock_folder(folder):
    """Locks a run folder for this process, as far as its file system has locks.

    `lockf` and not `flock`: a forked data loading process that outlives its parent must not keep
    the lock. Raises UserError, naming the other process, if the folder is locked.
    """
    path = make_folder(folder).absolute() / ".lock"
    if path in _LOCKS:
        return
    file = open(path, "a+")  # noqa: SIM115 (closing it releases the lock)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{folder} is in use by {owner}: wait until it has ended, or choose another folder"
        ) from None
    except OSError:  # a file system without locks
        file.close()
        path.unlink(missing_ok=True)
        return
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        file.close()  # removed meanwhile by the process that held it
        return lock_folder(folder)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _LOCKS[path] = file


def unlock_folder(folder):
    """Removes the lock file of a run folder, unless another process holds the lock."""
    path = Path(folder, ".lock").absolute()
    if path.exists():
        lock_folder(folder)
    if path in _LOCKS:
        path.unlink(missing_ok=True)
        _LOCKS.pop(path).close()


def is_absent(path):
    """Whether there is no file, or an empty one, which a power cut may leave."""
    return not path.exists() or path.stat().st_size == 0


def is_json(path):
    """Whether a file exists and holds a JSON object."""
    try:
        return isinstance(json.loads(read_text(path)), dict)
    except (OSError, ValueError):
        return False


def latest_path(folder, name):
    """Returns the path of the latest checkpoint of network `name` in a run folder."""
    return Path(folder) / f"{file_stem(name)}_latest.pth"


def refuse_existing(folder, name, resume):
    """Raises UserError if `folder` holds a run of network `name` that is not to be resumed, a run
    of another network, or a result without the checkpoint of its run.
    """
    latest, result = latest_path(folder, name), Path(folder, "result.json")
    if latest.exists():
        if not resume:
            raise UserError(
                f"{folder} already holds a run: give --resume to continue it, or choose another "
                "folder"
            )
        return
    if other := next(Path(folder).glob("*_latest.pth"), None):
        raise UserError(
            f"{folder} holds a run of another network ({other.name}): choose another folder"
        )
    if result.exists():
        raise UserError(
            f"{folder} holds the result of a finished run and no {latest.name}: choose another "
            f"folder, restore the checkpoint, or delete {result.name} to train again"
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


def draw_curves(rows, path, panels):
    """Draws columns of the metrics `rows` over the epochs, one panel per title, side by side."""
    pyplot = plain_pyplot()

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
    write_figure(path, figure)
