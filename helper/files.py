"""Files appear whole or not at all: written aside as `.part`, then renamed."""

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

from helper.errors import UserError


@contextlib.contextmanager
def whole_file(path, mode="wb"):
    """Opens `path` for writing; it appears under its name only when the block ends without an
    exception.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, mode) as file:
            yield file
        os.replace(part, path)
    except OSError as error:
        # A full disk raises without a name: say which file it was.
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    """Writes `text` to `path`, whole or not at all."""
    with whole_file(path, "w") as file:
        file.write(text)


def write_json(path, data):
    """Writes `data` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2, default=str) + "\n")


def read_json(path, what):
    """Returns the parsed JSON of `path`; `what` names it in the error. Raises UserError if missing
    or damaged.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(
            f"{what} {path} is not valid JSON ({error}): restore or delete it"
        ) from None


def csv_text(columns, records):
    """Returns the records, dicts of `columns`, as CSV with a header; what a record lacks is
    empty.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def file_stem(model_name):
    """Returns the architecture's name as a file name: timm/resnet18 → timm_resnet18."""
    return model_name.replace("/", "_")


def make_folder(path):
    """Creates a folder and its parents and returns it as a Path. Raises UserError if a file is in
    the way.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path} is a file, a folder is needed: choose another path") from None
    return path


def remove_parts(folder):
    """Removes the `.part` files that a killed run left in `folder` (not below it)."""
    for part in Path(folder).glob("*.part"):
        part.unlink(missing_ok=True)


def sha256(*paths):
    """Returns the hex SHA-256 of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def free_bytes(folder):
    """Returns the room on the disk that holds `folder`, or will hold it."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(
        next(place for place in (folder, *folder.parents) if place.exists())
    ).free


def check_free_space(folder, needed):
    """Raises UserError if the disk that holds `folder` has fewer than `needed` bytes left."""
    free = free_bytes(folder)
    if free < needed:
        raise UserError(
            f"{folder} has {free / 2**30:.2f} GiB free and about {needed / 2**30:.2f} GiB are "
            "needed: "
            "free some space, or ask for fewer images"
        )
