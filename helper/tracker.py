"""Shows the curves of a run in TensorBoard, Weights & Biases or Trackio, for `--tracker`.

    tracker = Tracker("wandb", folder, settings, fresh=True)
    tracker.log_image("training images", "syn_dataset/mine_contact_sheet.png")
    tracker.log_step(50, {"loss": 0.7, "lr": 0.1})    # step/loss, step/lr
    tracker.log_epochs(rows)                            # epoch/top1, … of the rows that are new
    tracker.close()

<run folder>/tracker.json says what each tracker knows of the run, so that a resumed run continues
its curves. An error of a tracker never ends a run: it is reported, and the tracker is switched off.
"""

import importlib.util
import os
import secrets
from pathlib import Path

import numpy as np
from PIL import Image

from helper.errors import UserError, note
from helper.files import entry, read_json, write_json

TRACKERS = ("none", "tensorboard", "wandb", "trackio")
PROJECT = "dm-kd"  # of wandb and trackio, unless WANDB_PROJECT or TRACKIO_PROJECT is set


def is_installed(name):
    """Whether the package of a tracker can be imported; it is not imported yet."""
    spec = importlib.util.find_spec(name)
    # A folder such as ./wandb, which wandb leaves where it is used, has no origin.
    return spec is not None and spec.origin is not None


class Tracker:
    """Sends a run to one tracker; used on rank 0 only.

    name: of TRACKERS, not none; folder: the run folder, which exists; settings: hyperparameters
    {name: value}; fresh: whether the run starts now, and what the trackers know is of an earlier
    run in the folder.
    Raises UserError if the tracker cannot be started.
    """

    def __init__(self, name, folder, settings, fresh):
        self.name, self._file = name, Path(folder, "tracker.json")
        self._known = {} if fresh or not self._file.exists() else _read_known(self._file)
        # What this tracker knows: the run's id, the number of its epochs and the names of images
        title = "-".join(Path(folder).absolute().parts[-2:])  # cifar100_resnet18-fold-1
        new = {"id": secrets.token_hex(4), "epochs": 0, "images": []}
        self._own = self._known.setdefault(name, new)
        kind = {"tensorboard": _TensorBoard, "wandb": _WandB, "trackio": _Trackio}[name]
        try:
            self._writer = kind(Path(folder), title, self._own["id"], settings, fresh)
        except Exception as error:  # of another package: of any type
            raise UserError(
                f"--tracker {name} cannot be started: {_first_line(error)}: {kind.remedy}"
            ) from None
        write_json(self._file, self._known)

    def log_step(self, step, values):
        """Sends {name: value} after the `step`th step of the run."""
        self._send(lambda: self._writer.log("step", values, step))

    def log_epochs(self, rows):
        """Sends the rows of metrics.csv that the tracker does not have yet."""

        def send():
            for row in rows[self._own["epochs"] :]:
                values = {name: value for name, value in row.items() if name != "epoch"}
                self._writer.log("epoch", values, row["epoch"])
            self._own["epochs"] = len(rows)
            write_json(self._file, self._known)

        self._send(send)

    def log_image(self, name, path):
        """Sends an image file, unless the tracker has the image `name` already."""

        def send():
            with Image.open(path) as image:
                self._writer.image(name, image.convert("RGB"))
            self._own["images"].append(name)
            write_json(self._file, self._known)

        if name not in self._own["images"]:
            self._send(send)

    def close(self, exit_code=0):
        """Sends what is left; exit_code: of the script, 0 for a finished run."""
        self._send(lambda: self._writer.close(exit_code))
        self._writer = None

    def _send(self, function):
        if self._writer is None:
            return
        try:
            function()
        except Exception as error:  # of another package: of any type
            self._writer = None
            note(
                f"--tracker {self.name} failed and is switched off, the run goes on: "
                f"{_first_line(error)}"
            )


class _TensorBoard:
    """Event files in <run folder>/tensorboard."""

    remedy = "install it again (pip install -U tensorboard), or leave the flag out"

    def __init__(self, folder, title, run_id, settings, fresh):
        from torch.utils.tensorboard import SummaryWriter

        # Step 0 hides the events of an earlier run in the same folder.
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=0 if fresh else None)
        self._settings, self._purged = settings, fresh

    def log(self, group, values, step):
        if group == "step" and not self._purged:
            self._purge(step)
        scalars = {f"{group}/{name}": value for name, value in values.items()}
        if group == "epoch" and self._settings:
            self._log_settings(list(scalars))
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _purge(self, step):
        """Hides steps after the last checkpoint, which a resumed run takes again."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = Event(session_log=SessionLog(status=SessionLog.START))
        self._writer.file_writer.add_event(start, step)
        self._purged = True

    def _log_settings(self, metrics):
        """Fills the tab HParams; `metrics` are its columns beside the settings."""
        from torch.utils.tensorboard.summary import hparams

        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in self._settings.items()
            if value is not None
        }
        for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):
            self._writer.file_writer.add_summary(summary)
        self._settings = None

    def image(self, name, image):
        self._writer.add_image(name, np.asarray(image), 0, dataformats="HWC")
        self._writer.flush()

    def close(self, exit_code):
        self._writer.close()


class _WandB:
    """A run of Weights & Biases; its local files are in <run folder>/wandb."""

    remedy = "run `wandb login`, set WANDB_MODE=offline, or leave the flag out"

    def __init__(self, folder, title, run_id, settings, fresh):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title,
            id=run_id,
            resume="allow",
            config=settings,
            dir=str(folder),
        )
        self._image = wandb.Image
        # Two horizontal axes. wandb's own counter must not decrease, which it would on resuming.
        for axis in ("step", "epoch"):
            self._run.define_metric(f"{axis}/*", step_metric=axis)

    def log(self, group, values, step):
        named = {f"{group}/{name}": value for name, value in values.items()}
        self._run.log({**named, group: step})

    def image(self, name, image):
        self._run.log({name: self._image(image)})

    def close(self, exit_code):
        self._run.finish(exit_code=exit_code)


class _Trackio:
    """A run of Trackio, which keeps it in a folder of its own (TRACKIO_DIR) or sends it on."""

    remedy = "install it again (pip install -U trackio), or leave the flag out"

    def __init__(self, folder, title, run_id, settings, fresh):
        import trackio

        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{title}-{run_id}",  # names identify runs
            resume="allow",
            config=settings,
            embed=False,
        )
        self._trackio = trackio

    def log(self, group, values, step):
        self._run.log({f"{group}/{name}": value for name, value in values.items()}, step=step)

    def image(self, name, image):
        self._run.log({name: self._trackio.Image(image)}, step=0)

    def close(self, exit_code):
        self._trackio.finish()


def _read_known(path):
    """The content of tracker.json, empty if it is damaged: the run then counts as a new one."""
    try:
        known = read_json(path, "tracker file")
        for own in known.values():
            for key, kind in {"id": str, "epochs": int, "images": list}.items():
                entry(own, key, kind, path)
        return known
    except (UserError, TypeError):
        note(f"{path} is damaged: the tracker shows the run as a new one")
        return {}


def _first_line(error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")
