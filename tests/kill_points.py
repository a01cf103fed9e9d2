"""Kills a small run of a script before each of its file operations, and resumes it.

    python tests/kill_points.py FOLDER [--every N] [--script train_student.py] -- FLAGS

Runs the script once without a stop in FOLDER/reference. Then, for every N-th operation that
creates, replaces, deletes or appends to a file, runs it again in an empty folder, kills it right
before that operation (as SIGKILL would), runs the same command again, and compares all files with
those of the reference. Exits with 1 if a resumed run fails or differs.
"""

import argparse
import builtins
import csv
import hashlib
import importlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from helper import checkpoints  # noqa: E402

TIMES = {"seconds", "images_s", "command", "git_commit", "versions", "machine"}
KILLED = 137


class Counter:
    """Counts the file operations of this process, and ends it before operation `kill_at`."""

    def __init__(self, kill_at=None):
        self.count, self.kill_at = 0, kill_at
        for name in ("replace", "rename", "unlink", "mkdir"):
            setattr(os, name, self._counted(getattr(os, name)))
        open_file = builtins.open

        def counted_open(file, mode="r", *arguments, **keywords):
            if set(mode) & set("wax"):
                self.operation()
            return open_file(file, mode, *arguments, **keywords)

        builtins.open = io.open = counted_open

    def _counted(self, function):
        def counted(*arguments, **keywords):
            self.operation()
            return function(*arguments, **keywords)

        return counted

    def operation(self):
        if self.count == self.kill_at:
            os._exit(KILLED)
        self.count += 1


def in_child(folder, module, argv, kill_at=None):
    """Runs `module.main(argv)` in `folder` in a child process.

    Returns (its exit code, the number of its file operations).
    """
    folder.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.chdir(folder)
        torch.set_num_threads(1)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        counter, code = Counter(kill_at), 1
        try:
            module.main(argv)
            code = 0
        finally:
            os.write(writing, str(counter.count).encode())
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        count = file.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(count or 0)


def contents(folder):
    """{relative path: comparable content} of all files below `folder`, without times."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "train.log":
            continue
        if path.suffix == ".pth":
            files[name] = comparable(checkpoints.load(path))
        elif path.suffix == ".json":
            files[name] = comparable(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            files[name] = comparable(list(csv.DictReader(io.StringIO(path.read_text()))))
        else:
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return files


def comparable(value):
    if isinstance(value, torch.Tensor):
        return value.shape, hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in TIMES}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--script", default="train_student.py")
    parser.add_argument("--every", type=int, default=1)
    split = sys.argv.index("--")
    options, argv = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    module = importlib.import_module(options.script.removesuffix(".py"))
    folder = options.folder.absolute()
    code, operations = in_child(folder / "reference", module, argv)
    if code or not operations:
        sys.exit(f"the uninterrupted run failed with exit code {code}")
    reference, faults = contents(folder / "reference"), 0
    for kill_at in range(0, operations, options.every):
        place = folder / f"killed_{kill_at}"
        killed, _ = in_child(place, module, argv, kill_at)
        left = sorted(path.name for path in place.rglob("*") if path.is_file())
        code, _ = in_child(place, module, argv)
        resumed = contents(place) if code == 0 else {}
        differing = [
            name
            for name in sorted(reference.keys() | resumed.keys())
            if reference.get(name) != resumed.get(name)
        ]
        if killed not in (0, KILLED) or code or differing:
            faults += 1
            print(f"operation {kill_at}: exit code {code}, differing {differing}, left {left}")
        shutil.rmtree(place)
    tried = len(range(0, operations, options.every))
    print(f"{options.script}: killed before {tried} of {operations} operations, {faults} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
