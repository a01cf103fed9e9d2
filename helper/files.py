"""Reading and writing files. They are written as `.part` files first and then renamed, so that an
interruption never leaves half a file.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import get_args

from helper.errors import UserError

REMEMBERED_SIZE = 1 << 26  # bytes; the hash of smaller files takes less than a tenth of a second
_REQUIRED = object()  # the default of an entry that must be there
_JSON_TYPES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
# Text is UTF-8 whatever the locale is, and keeps the bytes of file names that are not.
_UTF8 = {"encoding": "utf-8", "errors": "surrogateescape"}


@contextlib.contextmanager
def whole_file(path, mode="wb", sync=False):
    """Context manager: a file open for writing that becomes `path` if the block succeeds.

    Text is written as UTF-8. The writers of Pillow and torch hide the error of a full disk: let
    them write to memory, and write the bytes here.
    sync: write it to the disk before, so that a power cut cannot leave an empty file.
    Links are followed. Raises UserError if the folder does not exist (any more), or `path` is a
    folder, or a pipe or a device, which must not be replaced.
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if path.is_dir():
        raise UserError(
            f"{path} is a folder, where a file is to be written: give the name of a file in it, or "
            "rename the folder"
        )
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a pipe or a device: write to another file, or remove it")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, mode, **({} if "b" in mode else _UTF8)) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except FileNotFoundError:
        if path.parent.is_dir():
            raise UserError(
                f"cannot write {path}: {part.name} has been removed, probably by another process "
                "that writes to the same folder"
            ) from None
        raise UserError(
            f"cannot write {path}: the folder {path.parent} does not exist (was it deleted?)"
        ) from None
    except OSError as error:
        # The error of a full disk does not name the file.
        if error.filename in (None, str(part)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # a name that is too long
            part.unlink(missing_ok=True)


def read_text(path):
    """The text of a file in UTF-8, with or without a byte-order mark. Raises OSError."""
    return Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")


def plain_pyplot():
    """matplotlib's pyplot, which draws into files with matplotlib's own settings: a notebook's
    backend may not be installed here, and a user's settings may need LaTeX.
    """
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib

    matplotlib.rcdefaults()
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    return pyplot


def write_figure(path, figure):
    """Writes a matplotlib figure as a PNG of 64 colours, and closes it."""
    from matplotlib import pyplot
    from PIL import Image

    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    pyplot.close(figure)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(64).save(reduced, "png", optimize=True)
    with whole_file(path) as file:
        file.write(reduced.getvalue())


def write_text(path, text):
    """Writes `text` to `path` atomically."""
    with whole_file(path, "w", sync=True) as file:
        file.write(text)


def append_text(path, text):
    """Appends `text` to the file `path`. Raises OSError that names the file."""
    try:
        with open(path, "a", **_UTF8) as file:
            file.write(text)
    except OSError as error:
        error.filename = str(path)
        raise


def write_json(path, data):
    """Writes `data` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(data, indent=2, default=str) + "\n")


def read_json(path, what, kind=dict):
    """The content of the JSON file `path`, an object (a dict); `entry` checks what is in it.

    kind: object for any JSON.
    Raises UserError, which calls the file `what`, if it is missing, damaged, or of another kind.
    """
    try:
        data = json.loads(Path(path).read_bytes())  # UTF-8 with or without a byte-order mark
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}") from None
    except OSError as error:
        error.filename = str(path)  # an error of reading does not name the file
        raise
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested too deeply
        raise UserError(
            f"{what} {path} is not valid JSON ({error}): correct or restore it"
        ) from None
    if not isinstance(data, kind):
        raise UserError(
            f"{what} {path} holds {_JSON_TYPES[type(data)]} where an object is expected: is it "
            "another program's file?"
        )
    return data


def entry(data, key, kind, path, default=_REQUIRED, minimum=0):
    """The value of `key` in the JSON object `data`, which was read from the file `path`.

    kind: a JSON type (str, bool, int, float, list, dict) or `int | None` and the like; a whole
    number is a float, too. minimum: of a number, which must be finite.
    Raises UserError if the value is another, or if the key is missing and there is no `default`.
    """
    if key not in data and default is not _REQUIRED:
        return default
    if key not in data:
        raise UserError(f"{path}: {key} is missing: restore the file")
    value = data[key]
    kinds = get_args(kind) or (kind,)
    is_number = type(value) in (int, float)
    has_kind = type(value) in kinds or (float in kinds and is_number)
    if has_kind and (not is_number or minimum <= value <= sys.float_info.max):
        return value
    expected = " or ".join(_JSON_TYPES[kind] for kind in kinds)
    if is_number:
        expected += f" of at least {minimum:g}"
    raise UserError(
        f"{path}: {key} is {json.dumps(value)[:60]}, not {expected}: correct or restore the file"
    )


def csv_text(columns, records):
    """CSV text with a header; records: dicts with keys in `columns`; missing values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def file_stem(model_name):
    """An architecture's name as a file name: timm/resnet18 → timm_resnet18, mine:net → mine_net."""
    return model_name.replace("/", "_").replace(":", "_")


def make_folder(path):
    """Creates a folder and its parents; returns its Path. Raises UserError if it is a file."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        for part in (path, *path.parents):
            if part.is_symlink() and not part.exists():
                raise UserError(
                    f"{part} is a link to {os.readlink(part)}, which does not exist: mount or "
                    "create that, or remove the link"
                ) from None
        raise UserError(f"{path} is a file, a folder is needed: choose another path") from None
    return path


def remove_parts(folder):
    """Removes the `.part` files that an interrupted run left in `folder` (not in subfolders)."""
    for part in Path(folder).glob("*.part"):
        part.unlink(missing_ok=True)


def sha256(*paths):
    """Hex SHA-256 of the concatenated contents of the files.

    That of large files is remembered in the user's cache folder by path, size and time.
    """
    stats = [os.stat(path) for path in paths]
    remembered = sum(stat.st_size for stat in stats) >= REMEMBERED_SIZE
    key = json.dumps(
        [
            (os.path.abspath(path), stat.st_size, stat.st_mtime_ns)
            for path, stat in zip(paths, stats)
        ]
    )
    if remembered and (digest := _remembered_hashes().get(key)):
        return digest
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    # A file that has just been written may change again without showing it in its time
    is_settled = max((stat.st_mtime for stat in stats), default=0) < time.time() - 10
    if remembered and is_settled:
        with contextlib.suppress(OSError, UserError):  # a home that cannot be written
            make_folder(_hash_file().parent)
            write_json(_hash_file(), {**_remembered_hashes(), key: digest.hexdigest()})
    return digest.hexdigest()


def _hash_file():
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "dm-kd", "sha256.json")


def _remembered_hashes():
    """{files: hash} of earlier calls, empty if there are none."""
    try:
        hashes = json.loads(_hash_file().read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home
        return {}
    return hashes if isinstance(hashes, dict) else {}


def free_bytes(folder):
    """Free bytes on the disk of `folder`, which need not exist yet."""
    folder = Path(folder).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def check_free_space(folder, needed):
    """Raises UserError if the disk of `folder` has fewer than `needed` bytes left."""
    free = free_bytes(folder)
    if free < needed:
        raise UserError(
            f"{folder} has {free / 2**30:.2f} GiB free and about {needed / 2**30:.2f} GiB are "
            "needed: free some space, or ask for fewer images"
        )
