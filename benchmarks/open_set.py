"""Opens a set of images in a new process, for `benchmarks.input`: `python -m benchmarks.open_set
READER SOURCE`.

Prints {"seconds", "kept", "most", "images"} as JSON: memory in MiB over what the process had
before, Linux only.
"""

import json
import os
import sys
import time
from pathlib import Path

from dataset.folders import read_training

CLASSES = 1000


def ours(source):
    """The reader of train_student.py: class folders, or a list of whose files each must be
    there.
    """
    return lambda: read_training(source, CLASSES)


def torchvision(source):
    """torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    return lambda: ImageFolder(source)


def plain(source, check=False):
    """A list's lines, split into pairs (path, label); with `check`, of the files that are there."""

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
    """Returns a memory figure of this process, in MiB, as /proc has it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def main(reader, source):
    """Opens `source` and prints what it took."""
    read = READERS[reader](source)  # imports what it needs
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    began = time.perf_counter()
    images = read()
    seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "seconds": seconds,
                "kept": memory("VmRSS") - before,
                "most": memory("VmHWM") - before,
                "images": len(images),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
