"""Opens an image set in a new process, for `benchmarks.input` (Linux only).

    python -m benchmarks.open_set READER SOURCE

Prints {"seconds", "kept", "peak", "images"} as JSON: `kept` and `peak` are the additional memory
in MiB after and while reading.
"""

import json
import os
import sys
import time
from pathlib import Path

from dataset.folders import read_training

CLASSES = 1000


def ours(source):
    """The reader of train_student.py: class folders, or a list of files that must all exist."""
    return lambda: read_training(source, CLASSES)


def torchvision(source):
    """torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    return lambda: ImageFolder(source)


def plain(source, check=False):
    """Pairs (path, label) of the lines of a list; `check` skips files that do not exist."""

    def read():
        with open(source) as lines:
            return [
                (path, int(label))
                for path, label in (line.rsplit(" ", 1) for line in lines)
                if not check or os.path.exists(path)
            ]

    return read


READERS = {
    "ours": ours,
    "torchvision, usual": torchvision,
    "plain Python": plain,
    "plain Python, checked": lambda source: plain(source, check=True),
}


def memory(name):
    """Returns a memory figure of this process from /proc, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def main(reader, source):
    """Opens `source` and prints time and memory."""
    read = READERS[reader](source)  # imports its packages
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start_time = time.perf_counter()
    images = read()
    seconds = time.perf_counter() - start_time
    kept, peak = memory("VmRSS") - before, memory("VmHWM") - before
    print(json.dumps({"seconds": seconds, "kept": kept, "peak": peak, "images": len(images)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
