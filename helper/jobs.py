"""Commands side by side, each with one CPU thread and its output in a file."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from helper.errors import UserError
from helper.files import make_folder

# One thread per command: then its result does not depend on how many run beside it.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
SHELLS = ("sh", "dash", "bash")


class Jobs:
    """At most as many processes at a time as there are `slots`; a context manager.

    Leaving it early, by an exception or SIGTERM, ends the processes with SIGTERM, which saves their
    runs, and waits for them.
    slots: {environment variable: value} for each process that may run, such as its GPU.
    """

    def __init__(self, slots):
        self._free, self._running = list(slots), {}

    def __enter__(self):
        return self

    def __exit__(self, exception, *_):
        for process, *_ in self._running.values():
            terminate(process)
        for process, *_ in self._running.values():
            process.wait()

    @property
    def has_room(self):
        return bool(self._free)

    @property
    def keys(self):
        """The keys of the processes that are running."""
        return list(self._running)

    def start(self, key, command, environment, log):
        """Starts a command in a free slot; what it prints is appended to the file `log`.

        environment: additional variables.
        """
        slot = self._free.pop(0)
        make_folder(Path(log).parent)
        with open(log, "ab") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,  # ^C in the terminal is for this process, which ends the others
                env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1"), **slot, **environment},
            )
        self._running[key] = process, slot, time.monotonic()

    def wait(self):
        """Waits until a process has ended; returns (key, exit code, seconds)."""
        while True:
            for key, (process, slot, start) in self._running.items():
                code = process.poll()
                if code is not None:
                    del self._running[key]
                    self._free.append(slot)
                    return key, code, time.monotonic() - start
            time.sleep(0.1)


def terminate(process):
    """Sends SIGTERM to a Popen, or, if it is a shell, to the commands that it runs.

    A shell would end at once and leave its commands running.
    """
    if process.poll() is not None:
        return
    ids = [process.pid]
    with contextlib.suppress(OSError):  # it has ended meanwhile, or this is not Linux
        folder = Path(f"/proc/{process.pid}")
        if (folder / "comm").read_text().strip() in SHELLS:
            commands = (folder / f"task/{process.pid}/children").read_text().split()
            ids = [int(command) for command in commands] or ids
    for process_id in ids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGTERM)


def last_line(log):
    """The last line of a log that is not a progress bar, for a message."""
    lines = Path(log).read_bytes().decode(errors="replace").replace("\r", "\n").split("\n")
    lines = [line.strip() for line in lines if line.strip() and "it/s]" not in line]
    return lines[-1] if lines else "no output"


def device_slots(jobs, gpus, gpus_per_job=1):
    """The slots of `jobs` processes: each gets `gpus_per_job` of the `gpus` GPUs, in turn.

    Raises UserError if a job needs more GPUs than there are.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(gpus)]
    if not gpus:
        return [{} for _ in range(jobs)]
    if gpus_per_job > gpus:
        raise UserError(f"a job needs {gpus_per_job} GPUs and this machine has {gpus}: use --gpus")
    groups = gpus // gpus_per_job
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(names[(job % groups) * gpus_per_job :][:gpus_per_job])}
        for job in range(jobs)
    ]
