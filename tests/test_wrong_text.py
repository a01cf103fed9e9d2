"""Text in other encodings and forms, numbers that are too large, full disks, small tools."""

import contextlib
import errno
import os
import re
import resource
import subprocess
import sys
import unicodedata
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dataset import class_list, fashion_mnist, folders, image_set
from dataset.contact_sheet import write_contact_sheet
from dataset.image_writer import ImageWriter
from dataset.lists import read_list, write_list
from dataset.paths import Paths, is_class_number
from helper import checkpoints, files, options
from helper.errors import UserError, describe_os_error, run_script
from helper.run import draw_curves, is_json
from models.architectures import create_model
from models.libraries import downloading
from tools import compare, contact_sheet, digits, imagenet, make_list, spread, summary, sweeps
from tools import fashion_mnist as fashion_mnist_tool

ROOT = Path(__file__).resolve().parent.parent
BOM = b"\xef\xbb\xbf"
# Python without its own remedies for the C locale
ASCII = {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii:strict",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("0.png", "1.png", "a, b #1 c.png", "é/ü.png"):
        touch("set/" + name)
    touch(b"set/caf\xe9.png")
    return tmp_path


def touch(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass


def write_png(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.new("RGB", (8, 8), (9, 60, 9)).save(file, "PNG")


def in_ascii_locale(*argv, **options):
    return subprocess.run(
        [sys.executable, *argv], env={**os.environ, **ASCII, "PYTHONPATH": str(ROOT)}, **options
    )


def assert_one_error(capsys, *parts):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error and error.count("\n") <= 2
    assert all(part in error for part in parts), error


# Lists


@pytest.mark.parametrize(
    "content",
    [
        b"set/0.png 0\nset/1.png 1\n",
        BOM + b"set/0.png 0\r\nset/1.png 1\r\n",
        BOM + b"set/0.png 0\n" + BOM + b"set/1.png 1",  # two joined files
        b"set/0.png\t0\nset/1.png\t1\n",
        b"set/0.png,0\nset/1.png, 1\n",
        b"set/0.png\t0\nset/1.png,1\n",
        b"# two images, 3\n\nset/0.png 0\n   # again\nset/1.png 1\n#set/2.png 2\n",
        b"#" * 3000 + b"\nset/0.png 0\nset/1.png 1\n",
    ],
)
def test_lists_that_are_read(place, content):
    (place / "list.txt").write_bytes(content)
    paths, labels = read_list("list.txt")
    assert list(paths) == ["set/0.png", "set/1.png"] and labels.tolist() == [0, 1]


def test_chunks_of_comments_only(place, monkeypatch):
    monkeypatch.setattr("dataset.lists._CHUNK", 20)
    (place / "list.txt").write_text("# more than one chunk\n" * 5 + "set/1.png 1\n# end\n")
    paths, labels = read_list("list.txt")
    assert list(paths) == ["set/1.png"] and labels.tolist() == [1]
    (place / "list.txt").write_text("# nothing\n")
    assert len(read_list("list.txt")[0]) == 0


@pytest.mark.parametrize("ending, labels", [("", None), (" 3", [3]), (",3", [3]), ("\t3", [3])])
def test_separators_in_names(place, ending, labels):
    (place / "list.txt").write_text(f"set/a, b #1 c.png{ending}\n")
    paths, numbers = read_list("list.txt")
    assert list(paths) == ["set/a, b #1 c.png"]
    assert (None if numbers is None else numbers.tolist()) == labels


@pytest.mark.parametrize(
    "line, parts",
    [
        ("set/1.png -1", ["class index", "`-1`"]),
        ("set/1.png 2.0", ["class index", "`2.0`"]),
        ("set/1.png,tench", ["class index", "`tench`"]),
        ("set/1.png 1 2", ["class index", "`1 2`"]),
        ("set/1.png 1 # cat", ["class index", "`1 # cat`"]),
        ("set/1.png;1", ["class index", "`;1`"]),
        ("set/1.png " + "1" * 23, ["class index", "1" * 23]),
        ("set/1.png ²", ["class index", "`²`"]),
        ('"set/1.png" 1', ["quotes"]),
        ("'set/1.png',1", ["quotes"]),
        ("1 set/1.png", ["path first"]),
        ("7,set/1.png,1", ["path first"]),
        ("set\\1.png 1", ["backslashes"]),
        ("set/1.png\u00a01", ["U+00A0"]),
        ("set/1.png\u200b 1", ["U+200B"]),
        ("set/0.png 0\rset/1.png 1", ["line feeds"]),
        ("set/lost.png 1", ["set/lost.png", "searched"]),
        ("set/" + "x" * 300 + ".png 1", ["searched"]),
    ],
)
def test_lines_of_another_form(place, line, parts):
    (place / "list.txt").write_text(f"# a comment\nset/0.png 0\n{line}\n", newline="")
    with pytest.raises(UserError) as raised:
        read_list("list.txt")
    message = str(raised.value)
    assert message.startswith("list.txt, line 3: ") and all(part in message for part in parts)


@pytest.mark.parametrize("header", ["path,label", "filename", "image\tclass"])
def test_header(place, header):
    (place / "list.txt").write_text(f"# made by hand\n{header}\nset/0.png,0\n")
    with pytest.raises(UserError, match="line 2: .*header"):
        read_list("list.txt")


@pytest.mark.parametrize("content", ["set/0.png 0\n".encode("utf-16"), b"\x89PNG\r\n\x1a\n\0\0\0"])
def test_lists_that_are_not_text(place, content):
    (place / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match="list.txt is not a text file in UTF-8"):
        read_list("list.txt")


@pytest.mark.parametrize(
    "line, name",
    [
        (unicodedata.normalize("NFD", "set/é/ü.png").encode(), "set/é/ü.png"),
        ("set/é/ü.png".encode("latin-1"), "set/é/ü.png"),
        (b"set/caf\xe9.png", b"set/caf\xe9.png"),
        ("set/café.png".encode(), b"set/caf\xe9.png"),
        (unicodedata.normalize("NFD", "set/café.png").encode(), b"set/caf\xe9.png"),
    ],
)
def test_names_spelled_with_other_bytes(place, line, name):
    for prefix in (b"", os.fsencode(place) + b"/"):
        (place / "list.txt").write_bytes(
            b"set/0.png 0\n" + prefix + line + b" 3\nset/1.png 1\n" + prefix + line + b" 2\n"
        )
        paths, labels = read_list("list.txt")
        found = os.fsdecode(prefix) + os.fsdecode(name)
        assert list(paths) == ["set/0.png", found, "set/1.png", found]
        assert labels.tolist() == [0, 3, 1, 2]


def test_the_exact_spelling_comes_first(place):
    composed, decomposed = (unicodedata.normalize(form, "set/é.png") for form in ("NFC", "NFD"))
    touch(composed), touch(decomposed)
    (place / "list.txt").write_text(f"{decomposed}\n{composed}\n", encoding="utf-8")
    assert list(read_list("list.txt")[0]) == [decomposed, composed]


def test_names_that_are_missing_in_any_spelling(place):
    (place / "list.txt").write_bytes(b"set/0.png 0\nset/th\xe9.png 0\n")
    with pytest.raises(UserError, match="line 2: .*0xe9: save the list as UTF-8"):
        read_list("list.txt")


def test_written_lists(place):
    for name in ("#1.png", " x.png", "\ufeffy.png", "a,1.png"):
        touch(place / name)
    names = ["#1.png", " x.png", "\ufeffy.png", "a,1.png", os.fsdecode(b"set/caf\xe9.png")]
    write_list("list.txt", Paths.of(names), range(5))
    paths, labels = read_list("list.txt")
    assert [os.path.normpath(path) for path in paths] == names and labels.tolist() == [*range(5)]
    before = Path("list.txt").read_bytes()
    with pytest.raises(UserError, match=r"a\\nb.png"):
        write_list("list.txt", Paths.of(["0.png", "a\nb.png"]))
    assert Path("list.txt").read_bytes() == before and not list(place.glob("*.part"))


# Class lists


def test_class_lists_in_other_encodings_and_forms(tmp_path):
    path = tmp_path / "classes.txt"
    for content in (
        BOM + b"n03028079 church\nn01440764 tench\n",
        b"n03028079,church\r\nn01440764\ttench, Tinca tinca\r\n",
        b"n03028079 \xe9glise\nn01440764 # tench\n",
    ):
        path.write_bytes(content)
        assert class_list.read_class_list(path).indices == (497, 0)
    for content in ("n01440764\n".encode("utf-16"), b"PK\3\4\0\0"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} is not a text file in UTF-8"):
            class_list.read_class_list(path)
    with pytest.raises(UserError, match="class list not found"):
        class_list.read_class_list(path / "below a file")


# Locales


def test_text_is_utf8_in_the_c_locale(tmp_path):
    code = r"""
import os, sys
from helper.files import append_text, read_text, write_json, write_text
from helper.errors import run_script
def main(argv):
    print("\u2212", os.fsdecode(b"caf\xe9"))
    write_text("text", "\u00e9 " + os.fsdecode(b"\xe9\n"))
    append_text("text", "\u00e9 " + os.fsdecode(b"\xe9\n"))
    write_json("json", {"path": os.fsdecode(b"\xe9")})
    assert read_text("text") == 2 * "\u00e9 \udce9\n"
sys.exit(run_script(main))
"""
    done = in_ascii_locale("-c", code, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\\u2212 caf\\udce9\n"
    assert (tmp_path / "text").read_bytes() == 2 * b"\xc3\xa9 \xe9\n"
    assert (tmp_path / "json").read_bytes() == b'{\n  "path": "\\udce9"\n}\n'


def test_latin_names_in_the_c_locale(tmp_path):
    write_png(os.fsencode(tmp_path) + b"/s\xe9t/0000/caf\xe9.png")
    argv = ["-m", "tools.make_list", b"s\xe9t", b"li\xe9.txt", "--num_classes", "1"]
    done = in_ascii_locale(*argv, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.txt")
    assert file.read_bytes() == b"s\xe9t/0000/caf\xe9.png 0\n"
    assert b"1 images" in done.stdout


def test_checkpoints_with_latin_names(tmp_path):
    tensors = {"a": torch.arange(3.0)}
    for suffix, save in ((".pth", torch.save), (".safetensors", save_file)):
        save(tensors, tmp_path / f"x{suffix}")
        path = os.rename(
            tmp_path / f"x{suffix}", os.fsencode(tmp_path / "\udce9") + suffix.encode()
        )
        path = tmp_path / f"\udce9{suffix}"
        for mmap in (False, True):
            assert torch.equal(checkpoints.load(path, mmap=mmap)["a"], tensors["a"])


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(BOM + b'{"complete": true}')
    assert is_json(tmp_path / "a.json")


# Numbers


@pytest.mark.parametrize(
    "kind, text",
    [
        (options.natural, "12345678901234567890"),
        (options.natural, "9" * 30),
        (options.positive_int, str(2**63)),
        (options.positive_int, "0"),
        (options.amount, "inf"),
        (options.amount, "1e30"),
        (options.amount, "nan"),
        (options.index_ranges, "5-2,7"),
        (options.index_ranges, "0-99999999999"),
    ],
)
def test_numbers_out_of_range(kind, text):
    with pytest.raises(ArgumentTypeError, match=re.escape(text.partition(",")[0])):
        kind(text)


def test_numbers_in_range():
    assert options.natural(str(2**63 - 1)) == 2**63 - 1
    assert options.amount("1.28m") == 1_280_000
    assert options.index_ranges("0-2,17,2") == [0, 1, 2, 17]


def test_class_folders_that_are_not_numbers(tmp_path):
    """Their names are sorted as text."""
    for other in ("²", "٣", "1" * 23):
        write_png(tmp_path / other / "0" / "a.png")
        write_png(tmp_path / other / other / "b.png")
        for images in (
            folders.read_training(tmp_path / other, 2),
            folders.read_labelled(tmp_path / other, 2),
        ):
            names = [path.rpartition("/")[2] for path in images.images]
            assert names == ["a.png", "b.png"] and images.labels.tolist() == [0, 1]
        assert not is_class_number(other)
    assert is_class_number("0012") and not is_class_number("")


# The system's errors


@contextlib.contextmanager
def file_size_limit():
    """Files of more than 60 bytes cannot be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_image(image_format):
    def write(path):
        with ImageWriter(image_format) as writer:
            writer.put(path, np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))

    return write


def open_full(_, mode, **kinds):
    return open("/dev/full", mode, **kinds)


WRITERS = {
    "train.log": lambda path: files.append_text(path, "x" * 100),
    "metrics.csv": lambda path: files.write_text(path, "x" * 100),
    "manifest.json": lambda path: files.write_json(path, ["x" * 100]),
    "latest.pth": lambda path: checkpoints.save(path, {"a": torch.ones(100)}),
    "curves.png": lambda path: draw_curves([{"epoch": 1, "a": 2}], path, {"title": ["a"]}),
    "sheet.png": lambda path: write_contact_sheet(path, [("name", ["image.png"])]),
    "image.png": write_image("png"),
    "image.jpg": write_image("jpeg"),
    "list.txt": lambda path: write_list(path, Paths.of(["x" * 100])),
}


@pytest.mark.parametrize("fault", ["full", "limit"])
@pytest.mark.parametrize("name", WRITERS)
def test_full_disk(tmp_path, monkeypatch, capsys, name, fault):
    """Of the file system, and of RLIMIT_FSIZE; the earlier file stays."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("image.png")
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    path.write_text("earlier")

    def write(_):
        # Before, so that matplotlib reads and writes its own files
        draw_curves([{"epoch": 1, "a": 2}], tmp_path / "other.png", {"title": ["a"]})
        if fault == "limit":
            with file_size_limit():
                WRITERS[name](path)
        monkeypatch.setattr(files, "open", open_full, raising=False)
        WRITERS[name](path)

    assert run_script(write) == 2
    remedy = {"full": "the disk is full", "limit": "ulimit -f"}[fault]
    assert_one_error(capsys, str(path), remedy)
    assert path.read_text().startswith("earlier") and len(list(path.parent.iterdir())) == 1


def test_full_disk_in_other_libraries(tmp_path, capsys):
    def save(_):
        with file_size_limit():
            save_file({"a": torch.ones(100_000)}, tmp_path / "a.safetensors")

    assert run_script(save) == 2
    assert_one_error(capsys, "ulimit -f")

    def download(error):
        with downloading("resnet18"):
            raise error

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "cache/file")
    assert run_script(lambda _: download(full)) == 2
    assert_one_error(capsys, "cache/file", "the disk is full")
    with pytest.raises(UserError, match="cannot be downloaded"):
        download(OSError("no connection"))


def test_output_that_cannot_be_printed():
    code = "import sys; from helper.errors import run_script; sys.exit(run_script(print))"
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as pipe:
        for output, message in ((full, "the disk is full"), (pipe, "cannot print")):
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, stdout=output, stderr=subprocess.PIPE
            )
            error = done.stderr.decode()
            assert done.returncode == 2 and error.count("\n") == 1 and message in error


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250, "x/" * 3000 + "x"])
def test_names_that_are_too_long(tmp_path, capsys, name):
    write_png(tmp_path / "0/a.png")
    argv = [str(tmp_path), f"{tmp_path}/lists/{name}", "--num_classes", "1"]
    assert run_script(make_list.main, argv) == 2
    assert_one_error(capsys, "lists/x", "shorter")
    assert run_script(make_list.main, [f"{tmp_path}/lists/{name}", "list.txt"]) == 2
    assert_one_error(capsys, "lists/x")


# Small tools

TOOLS = {
    compare: lambda folder: [folder, "good"],
    contact_sheet: lambda folder: ["sheet.png", f"a={folder}"],
    make_list: lambda folder: [folder, "list.txt"],
    imagenet: lambda folder: ["--root", "root", "--images", folder],
    spread: lambda folder: [folder],
    summary: lambda folder: [folder, folder, "3"],
    sweeps: lambda folder: ["sweep", "label", f"1={folder}"],
}


@pytest.fixture
def tool_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label in range(10):
        write_png(f"good/{label:04d}/00000.png")
    for folder in ("foreign", "foreign/0000", "good", "good/0000"):
        Path(folder).mkdir(exist_ok=True)
        for name in (".DS_Store", "._00000.png", "Thumbs.db", "notes.txt"):
            Path(folder, name).write_bytes(b"\0\5\x16\7\xff\xfe")
    Path("empty").mkdir()
    Path("file").write_text("x")
    Path("damaged").mkdir()
    Path("damaged/result.json").write_bytes(b'{"a": \xff')
    Path("folder/result.json").mkdir(parents=True)


@pytest.mark.parametrize("folder", ["missing", "file", "empty", "foreign", "damaged", "folder"])
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
def test_folders_of_the_tools(tool_place, capsys, tool, folder):
    if tool is make_list and folder == "foreign":
        pytest.skip("hidden files are those of the reader of folders")
    assert run_script(tool.main, TOOLS[tool](folder)) == 2
    assert_one_error(capsys, folder)
    assert not any(map(os.path.exists, ("sheet.png", "list.txt", "sweep.csv")))


def test_foreign_files_beside_images(tool_place, capsys):
    assert run_script(compare.main, ["good", "good"]) == 0
    assert run_script(contact_sheet.main, ["sheet.png", "a=good"]) == 0
    assert run_script(compare.main, ["good", "good", "--tolerance", "nan"]) == 2
    assert_one_error(capsys, "--tolerance", "nan")


def test_compare_flat_folders(tmp_path):
    write_png(tmp_path / "one/class_3_seed_0_num_0.png")
    assert compare.differences(tmp_path / "one", tmp_path / "one")[0][0] == 8 * 8 * 3


def test_solutions(tool_place, capsys):
    """Kaggle's CSV."""
    touch("val/x.JPEG")
    argv = ["--root", "root", "--images", "val", "--solution"]
    line = b"ImageId,PredictionString\nx,n01440764 1 2\n"
    for content in (line, BOM + line, line + b"\r\n"):
        Path("s.csv").write_bytes(content)
        assert run_script(imagenet.main, [*argv, "s.csv"]) == 0
        assert Path("root/imagenet_val.txt").read_text().endswith("val/x.JPEG 0\n")
    capsys.readouterr()
    Path("s.csv").write_bytes(line.decode().encode("utf-16"))
    for solution in ("s.csv", "val", "missing", "file", "file/x"):
        assert run_script(imagenet.main, [*argv, solution]) == 2
        assert_one_error(capsys, solution, "Kaggle")


def test_damaged_fashion_mnist(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    for name, content in zip(
        fashion_mnist.FILES, (b"", b"text", b"\x1f\x8b\x08\0", b"\x1f\x8b\x08\0" + b"\xff" * 30)
    ):
        (tmp_path / f"package/{name}.gz").write_bytes(content)
    raw = files.make_folder(fashion_mnist.folder(tmp_path))
    fashion_mnist_tool._unpack(tmp_path / "package", tmp_path)
    assert not list(raw.glob("*.part"))
    for name in fashion_mnist.FILES:
        (raw / name).write_bytes(b"\0\0\x08\3\0\0\0\1\0")  # the header is cut
    assert not fashion_mnist.is_complete(tmp_path)
    with pytest.raises(UserError, match="tools.fashion_mnist"):
        fashion_mnist.load(tmp_path, "test")


# Faults of the machine while small files are read


def test_an_error_of_the_disk_names_the_file(tmp_path, monkeypatch, capsys):
    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "read_bytes", fail)
    path = tmp_path / "manifest.json"
    assert run_script(lambda _: files.read_json(path, "manifest")) == 2
    message = capsys.readouterr().err
    assert str(path) in message and "input/output error" in message


def test_too_many_open_files_at_a_checkpoint_have_their_remedy(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path = tmp_path / "teacher.pth"
    checkpoints.save(path, {"model": {}})
    monkeypatch.setattr(checkpoints, "is_safetensors", fail)
    with pytest.raises(UserError, match=f"{path} .*ulimit -n"):
        checkpoints.load(path)


# Lists


def image_at(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_carriage_returns_alone_are_named_on_one_short_line(tmp_path):
    names = [f"images/{number:05d}.png" for number in range(300)]
    for name in names:
        image_at(tmp_path / name)
    path = tmp_path / "list.txt"
    path.write_bytes("\r".join(f"{name} 0" for name in names).encode())
    with pytest.raises(UserError, match="line feeds") as error:
        read_list(path)
    assert "\r" not in str(error.value) and len(str(error.value)) < 600


def test_a_comma_at_the_end_of_a_line_is_named(tmp_path):
    image_at(tmp_path / "a.png")
    path = tmp_path / "list.txt"
    path.write_text("a.png 0,\n")
    with pytest.raises(UserError, match="line 1: .*comma"):
        read_list(path)


def test_labels_that_begin_with_one_are_named(tmp_path):
    for number in range(3):
        image_at(tmp_path / f"{number}.png")
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{number}.png {number + 1}\n" for number in range(3)))
    with pytest.raises(UserError, match="list.txt: the labels are 1 to 3"):
        folders.read_labelled(path, None)


# Files that must not be replaced or mixed


def test_links_are_followed_and_pipes_refused(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/list.txt").write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to("target/list.txt")
    files.write_text(link, "new")
    assert link.is_symlink() and (tmp_path / "target/list.txt").read_text() == "new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"{pipe} is a pipe"):
        files.write_text(pipe, "new")
    assert pipe.is_fifo()


def test_digits_are_not_mixed_with_other_images(tmp_path):
    pytest.importorskip("sklearn")
    image_at(tmp_path / "set/3/000.png")
    with pytest.raises(UserError, match="set/3/000.png"):
        digits.write_digits(tmp_path / "set")
    assert [file.name for file in (tmp_path / "set").rglob("*.png")] == ["000.png"]


# Checkpoints


@pytest.mark.parametrize(
    "name, content, remedy",
    [
        ("teacher.pth", b"\x1f\x8b\x08" + bytes(60), "gunzip"),
        ("teacher.h5", b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
        ("model.safetensors.index.json", b'{"weight_map": {}}', "one file"),
    ],
)
def test_other_kinds_of_files_have_their_remedy(tmp_path, name, content, remedy):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} .*{remedy}"):
        checkpoints.load(path)


def test_arrays_and_optimizers_are_no_weights(tmp_path):
    torch.save({"conv1.weight": np.zeros(3)}, tmp_path / "arrays.pth")
    with pytest.raises(UserError, match="numpy.*from_numpy"):
        checkpoints.load(tmp_path / "arrays.pth")
    state = {"state": {0: {"momentum_buffer": torch.zeros(16, 3, 3, 3)}}, "param_groups": []}
    torch.save({"optimizer": state, "epoch": 3}, tmp_path / "optimizer.pth")
    with pytest.raises(UserError, match="optimizer.pth .*holds no weights"):
        create_model("resnet8", 10, checkpoint=tmp_path / "optimizer.pth")


def test_a_pipe_and_json_lines_are_no_lists(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a pipe or a device"):
        folders.read_training(tmp_path / "pipe", 10)
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "train/0.png", "label": 0}\n')
    with pytest.raises(UserError, match="line 1: .*JSON"):
        read_list(path)


def test_training_labels_that_begin_with_one_are_named(tmp_path):
    for number in range(3):
        image_at(tmp_path / f"set/{number + 1}/0.png")
    with pytest.raises(UserError, match="classes 1 to 3, .*subtract 1"):
        folders.read_training(tmp_path / "set", 3)


def test_a_list_of_class_folders_is_not_a_list_of_images(tmp_path):
    (tmp_path / "images/0").mkdir(parents=True)
    (tmp_path / "images/0/a.png").touch()
    (tmp_path / "list.txt").write_text("# two columns\nimages/0 0\n")
    with pytest.raises(UserError, match="line 2.*images/0 is a folder"):
        read_list(tmp_path / "list.txt")


def test_archives_of_fashion_mnist_are_to_be_unpacked(tmp_path):
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte.gz").touch()
    with pytest.raises(UserError, match="gunzip.*--data_root"):
        fashion_mnist.load(tmp_path, "test")


def test_files_of_a_list_without_their_ending(tmp_path):
    (tmp_path / "0000.png").touch()
    for line in ("0000,0", "./0000 0"):
        (tmp_path / "list.csv").write_text(line + "\n")
        with pytest.raises(UserError, match="line 1.*0000.png exists.*ending"):
            read_list(tmp_path / "list.csv")


def test_a_list_that_names_itself(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("list.txt\n")
    with pytest.raises(UserError, match=f"{path} is not an image.*list entry") as error:
        image_set.decode(read_list(path)[0][0])
    assert "damaged" not in str(error.value)


def test_a_link_to_a_disk_that_is_not_mounted(tmp_path):
    (tmp_path / "save").symlink_to(tmp_path / "scratch/me")
    for folder in (tmp_path / "save", tmp_path / "save/student_model/a"):
        with pytest.raises(UserError, match=f"{tmp_path}/save is a link to {tmp_path}/scratch/me"):
            files.make_folder(folder)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file"):
        files.make_folder(tmp_path / "file")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("a.txt\r", "carriage return after 'a.txt': .*Windows"),
        ("--train_data=a.txt\r", "a.txt.*Windows"),
        ("\r", "the command has a carriage return: "),
        ("--train_data=~/a", "~/a: .*HOME"),
        ("1=~/a", "1=~/a: .*HOME"),
        ("~/a", "~/a: .*HOME"),
    ],
)
def test_words_that_the_shell_passed_otherwise_than_meant(word, message):
    parser = options.Parser("a script")
    parser.add_argument("--train_data")
    parser.add_argument("file", nargs="?")
    with pytest.raises(UserError, match=message) as error:
        parser.parse_args([word])
    assert "\r" not in str(error.value)
    assert parser.parse_args(["--train_data", "a~/b", "x/~/y"]).file == "x/~/y"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("can't start new thread"), BlockingIOError(errno.EAGAIN, "unavailable")],
)
def test_a_limit_of_processes_is_named(error, capsys):
    def main(argv):
        raise error

    assert run_script(main) == 2
    assert re.search(r"ulimit -u.*--num_workers", capsys.readouterr().err)
    # Of an output that does not wait
    assert describe_os_error(BlockingIOError(errno.EAGAIN, "unavailable", 3)) is None


def test_the_same_images_in_two_formats_are_not_compared(tmp_path):
    for ending in ("png", "jpg"):
        (tmp_path / ending).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / ending / f"0.{ending}")
    with pytest.raises(UserError, match=r"other formats, \.png and \.jpg.*--format"):
        compare.main([str(tmp_path / "png"), str(tmp_path / "jpg")])


def test_a_folder_where_a_file_is_to_be_written(tmp_path):
    for folder in (tmp_path, Path("."), tmp_path / ".."):
        with pytest.raises(UserError, match="is a folder"):
            files.write_text(folder, "text")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "images"), [("4.1m", 4_100_000), ("16.1k", 16_100), ("7", 7)])
def test_amounts_are_exact(text, images):
    assert options.amount(text) == images
    with pytest.raises(ArgumentTypeError):
        options.amount("2.0005k")
