"""Wrong image files: what is read, what is refused, and faults of the machine and of workers."""

import errno
import json
import os
import shutil
import signal
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin
from torch.utils.data import get_worker_info

import synthesize_dit
import tools.contact_sheet
import train_student
from dataset import image_set, one_image, transforms
from dataset.class_list import read_class_list
from dataset.image_set import ImageSet, UnusableImage, decode, opened
from dataset.image_writer import is_whole
from dataset.loader import Loader
from helper.errors import UserError, run_script
from models.architectures import create_model

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
ALL_16_BITS = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def write_png(path, size, depth, colour, data=b"", chunks=()):
    """Writes a PNG of `size` pixels, whose pixel data need not be complete."""
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]:
        checksum = zlib.crc32(name + body)
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)
    path.write_bytes(content)
    return path


def write_images(folder, count=12, size=40):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(np.roll(NOISE, number, 0)).resize((size, size)).save(
            folder / f"{number:02d}.png"
        )
    return sorted(map(str, folder.glob("*.png")))


# Bit depth and modes


@pytest.mark.parametrize("name", ["png", "tif", "big-endian tif", "compressed tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path, name):
    path = tmp_path / f"x.{name.split()[-1]}"
    if name == "pgm":
        path.write_bytes(b"P5 256 256 65535\n" + ALL_16_BITS.astype(">u2").tobytes())
    else:
        image = Image.fromarray(ALL_16_BITS.astype(">u2") if "big" in name else ALL_16_BITS)
        image.save(path, **({"compression": "tiff_lzw"} if "compressed" in name else {}))
    pixels = np.asarray(decode(path))
    assert pixels.dtype == np.uint8 and pixels.shape == (256, 256, 3)
    assert np.array_equal(pixels[..., 1], np.floor(ALL_16_BITS / 257 + 0.5))


def test_other_depths(tmp_path):
    """10-bit PGM; 16-bit PNG in colour, and with a transparent value."""
    ten_bits = ALL_16_BITS // 64
    (tmp_path / "x.pgm").write_bytes(b"P5 256 256 1023\n" + ten_bits.astype(">u2").tobytes())
    pixels = np.asarray(decode(tmp_path / "x.pgm")).astype(int)
    assert np.abs(pixels[..., 0] - ten_bits / 1023 * 255).max() <= 0.51
    for colour, channels in ((0, 1), (2, 3), (4, 2)):
        rows = np.repeat(ALL_16_BITS.astype(">u2"), channels, axis=1)
        data = b"".join(b"\0" + row.tobytes() for row in rows)
        chunks = [(b"tRNS", bytes(2))] if channels == 1 else []
        path = write_png(tmp_path / "x.png", (256, 256), 16, colour, data, chunks)
        pixels = np.asarray(decode(path)).astype(int)
        assert np.abs(pixels[..., 0] - ALL_16_BITS / 257).max() < 1


@pytest.mark.parametrize(
    "image, kind",
    [
        (Image.fromarray(ALL_16_BITS.astype(np.int32)), "integers"),
        (Image.fromarray(ALL_16_BITS.astype(np.int32) - 9), "integers"),
        (Image.fromarray(ALL_16_BITS / np.float32(65535)), "floating-point"),
        (Image.frombytes("LAB", (40, 40), NOISE.tobytes()), "Lab"),
    ],
    ids=["int32", "negative", "float", "Lab"],
)
def test_values_of_unknown_range_are_refused(tmp_path, image, kind):
    image.save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=rf"x\.tif .*{kind}.*convert") as error:
        decode(tmp_path / "x.tif")
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("ending", ["png", "tif", "gif", "webp", "jpg"])
@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK"])
def test_modes_are_read_as_pillow_converts_them(tmp_path, mode, ending):
    path, image = tmp_path / f"x.{ending}", Image.fromarray(NOISE).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(NOISE[..., 0]))
    try:
        image.save(path, **({"transparency": bytes(range(256))} if mode == "P" else {}))
    except (OSError, ValueError, struct.error):
        pytest.skip("a format without this mode")
    with warnings.catch_warnings(), Image.open(path) as expected:
        warnings.simplefilter("ignore")
        expected = np.asarray(expected.convert("RGB"))
        warnings.simplefilter("error")
        assert np.array_equal(np.asarray(decode(path)), expected)


@pytest.mark.parametrize("ending", ["png", "gif", "webp", "tif"])
def test_the_first_frame(tmp_path, ending):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / f"x.{ending}", save_all=True, append_images=[blue])
    pixel = decode(tmp_path / f"x.{ending}").getpixel((3, 3))
    assert pixel[0] > 250 and max(pixel[1:]) < 5


# Large pictures


def test_large_pictures_and_texts_are_read(tmp_path):
    path = write_png(tmp_path / "x.png", (20_000, 10_000), 8, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with opened(path) as image:
            assert image.size == (20_000, 10_000)
    texts = PngImagePlugin.PngInfo()
    for number in range(33):
        texts.add_itxt(f"workflow {number}", "x" * 2_000_000, zip=True)
    Image.fromarray(NOISE).save(path, pnginfo=texts)
    assert np.array_equal(np.asarray(decode(path)), NOISE)
    assert one_image.load_photograph(path, 20).size == (40, 40)


@pytest.mark.parametrize("size", [(1 << 16, 1 << 15), (2**31 - 1, 2**31 - 1)])
def test_pictures_that_do_not_fit_the_memory_are_refused(tmp_path, size):
    path = write_png(tmp_path / "x.png", size, 8, 2)
    with pytest.raises(UserError, match=rf"x\.png .*{size[0]}.*pixels.*reduce") as error:
        decode(path)
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 50_000)])
def test_a_long_image_is_cropped_before_it_is_resized(monkeypatch, size):
    pixels = np.zeros((*size[::-1], 3), np.uint8)
    middle = slice(max(size) // 2 - 10, max(size) // 2 + 10)
    pixels[(middle, slice(None)) if size[0] < size[1] else (slice(None), middle)] = 200
    areas, resize = [], Image.Image.resize

    def record(self, new_size, *args, **options):
        areas.append(new_size[0] * new_size[1])
        return resize(self, new_size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", record)
    result = transforms.validation(224).shrink(Image.fromarray(pixels))
    assert result.size == (224, 224) and (np.asarray(result) == 200).all()
    assert max(areas) < 1e7
    assert transforms.training(224)(Image.fromarray(pixels), np.random.default_rng(0)).size == (
        224,
        224,
    )


@pytest.mark.parametrize("size", [(1, 1), (300, 200), (123, 457), (10, 640)])
def test_other_images_are_resized_as_before(size):
    image = Image.fromarray(NOISE).resize(size)
    scale = 256 / min(size)
    resized = image.resize([max(256, int(side * scale)) for side in size], Image.BILINEAR)
    left, top = (round((side - 224) / 2) for side in resized.size)
    expected = resized.crop((left, top, left + 224, top + 224))
    assert transforms.validation(224).shrink(image).tobytes() == expected.tobytes()


# Faults of the machine


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "open files"),
        (errno.ENOMEM, "memory"),
        (errno.EIO, "disk"),
        (errno.ESTALE, "server"),
        (errno.ETIMEDOUT, "server"),
        (errno.ENOTCONN, "mount"),
        (errno.EACCES, "permission"),
        (errno.EREMOTEIO, "disk"),
    ],
)
def test_faults_of_the_machine_are_not_blamed_on_the_file(tmp_path, monkeypatch, number, remedy):
    Image.fromarray(NOISE).save(tmp_path / "x.png")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(image_set, "open", fail, raising=False)
    for read in (decode, lambda path: is_whole(path, 40, "RGB")):
        with pytest.raises(UserError, match=rf"x\.png: .*{remedy}") as error:
            read(tmp_path / "x.png")
        assert not isinstance(error.value, UnusableImage)
        assert not {"damaged", "delete"}.intersection(str(error.value).split())


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory when reading image file")])
def test_too_little_memory_is_not_blamed_on_the_file(tmp_path, monkeypatch, error):
    Image.fromarray(NOISE).save(tmp_path / "x.png")

    def load(_):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for read in (decode, lambda path: is_whole(path, 40, "RGB")):
        with pytest.raises(UserError, match=r"x\.png: .*memory.*--num_workers"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device", "circle", "long name"])
def test_what_is_not_a_file(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = Path("x.png")
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            socket.socket(socket.AF_UNIX).bind(str(path))
        case "device":
            path = Path("/dev/zero")
        case "circle":
            path.symlink_to(path)
        case "long name":
            path = Path("x" * 300)
    with pytest.raises(UserError, match=f"{path}: .*{kind.removeprefix('long ')}") as error:
        decode(path)
    assert "damaged" not in str(error.value) and not isinstance(error.value, UnusableImage)


def test_a_pipe_as_class_list(tmp_path):
    os.mkfifo(tmp_path / "classes.txt")
    with pytest.raises(UserError, match=r"classes\.txt"):
        read_class_list(tmp_path / "classes.txt")


def test_damaged_bytes_are_called_damaged(tmp_path):
    (path,) = write_images(tmp_path / "set", 1)
    content = Path(path).read_bytes()
    for damaged in (
        content[:-60],
        content[:300],
        b"",
        b"<html>",
        content.replace(b"IDAT", b"IDOT"),
    ):
        Path(path).write_bytes(damaged)
        with pytest.raises(UnusableImage, match=f"damaged .*{path}"):
            decode(path)
        assert not is_whole(Path(path), 40, "RGB")


# Data-loading processes


def read_with_workers(folder, monkeypatch, capfd, fail):
    """Calls `fail(path)` in data-loading processes; returns exit code and message of a script."""
    paths = write_images(folder)

    def decode_or_fail(path):
        if get_worker_info() is not None and path == paths[7]:
            fail(path)
        return decode(path)

    monkeypatch.setattr(image_set, "decode", decode_or_fail)
    loader = Loader(ImageSet(paths, np.arange(12)), transforms.training(64), 3, workers=2)
    code = run_script(lambda _: list(loader.epoch_batches(0)))
    message = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    return code, message[-1]


def test_a_fault_in_a_worker_is_one_line(tmp_path, monkeypatch, capfd):
    def fail(path):
        def refuse(*_):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(image_set, "open", refuse, raising=False)

    code, message = read_with_workers(tmp_path / "set", monkeypatch, capfd, fail)
    assert code == 2 and "07.png" in message and "ulimit -n" in message
    assert "damaged" not in message


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_worker_that_is_killed(tmp_path, monkeypatch, capfd, name):
    code, message = read_with_workers(
        tmp_path / "set",
        monkeypatch,
        capfd,
        lambda _: os.kill(os.getpid(), getattr(signal, name)),
    )
    assert code == 2 and "--num_workers" in message and "memory" in message


def test_memory_of_a_worker(tmp_path, monkeypatch, capfd):
    code, message = read_with_workers(
        tmp_path / "set", monkeypatch, capfd, lambda _: np.empty(1 << 57)
    )
    assert code == 2 and "memory" in message and "--num_workers" in message


def test_too_little_shared_memory(tmp_path, monkeypatch, capfd):
    """torch's error reaches the main process instead of being lost in a thread of the worker."""

    def fail(_):
        def share(_):
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on "
                "device (28)"
            )

        monkeypatch.setattr(torch.Tensor, "share_memory_", share)

    code, message = read_with_workers(tmp_path / "set", monkeypatch, capfd, fail)
    assert code == 2 and "/dev/shm" in message and "--num_workers 0" in message


# Damaged images of generated sets


def test_a_damaged_image_of_a_complete_set_is_repaired_as_the_message_says(
    tiny_pipeline, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    generate = [
        *("--model", str(tiny_pipeline), "--save_dir", "SET", "--data_amount", "6"),
        *("--num-sampling-steps", "2", "--cfg-scale", "1", "--batch_size", "6", "--device", "cpu"),
    ]
    assert run_script(synthesize_dit.main, generate) == 0
    image = Path("SET/0001/00001.png")
    content = image.read_bytes()
    image.write_bytes(content[:-60])
    (tmp_path / "list.txt").write_text(f"{image} 1\nSET/0000/00000.png 0\n")
    Path("resnet8").mkdir()
    torch.save(create_model("resnet8", 3).state_dict(), "resnet8/t.pth")
    train = [
        *("--dataset", "imagefolder", "--path-t", "resnet8/t.pth", "--model_s", "resnet8"),
        *("--image_size", "16", "--batch_size", "2", "--epochs", "1", "--device", "cpu"),
    ]
    shutil.copytree("SET", "VAL")
    shutil.copy("VAL/0001/00000.png", "VAL/0001/00001.png")
    Path("VAL/manifest.json").unlink()
    for train_data in ("SET", "list.txt"):
        capsys.readouterr()
        argv = [*train, "--val_data", "VAL", "--train_data", train_data]
        assert run_script(train_student.main, argv) == 2
        message = capsys.readouterr().err
        assert str(image) in message and "SET/manifest.json" in message and "--verify" in message
    # Too many open files are no reason to generate images again
    real_open = open

    def refuse(path, *args, **options):
        if str(path).endswith(".png"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real_open(path, *args, **options)

    monkeypatch.setattr(image_set, "open", refuse, raising=False)
    assert run_script(synthesize_dit.main, [*generate, "--verify"]) == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert image.read_bytes() == content[:-60]
    assert run_script(synthesize_dit.main, [*generate, "--verify"]) == 0
    assert image.read_bytes() == content


@pytest.mark.parametrize(
    "manifest, remedy",
    [
        (None, "delete"),
        ([1], "delete"),
        ({"name": "my app"}, "delete"),
        ({"run": "save/student_model/a/b", "settings": {}}, "save/student_model/a/b"),
        ({"command": "synthesize_baseline.py --method one-image"}, "--verify"),
    ],
)
def test_remedy_of_a_damaged_image(tmp_path, manifest, remedy):
    for folder in (tmp_path / "0003", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "x.png").write_bytes(b"no image")
        if manifest is not None:
            (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=f"damaged .*x.png.*{remedy}") as error:
            decode(folder / "x.png")
        assert ("--verify" in str(error.value)) == (remedy == "--verify")


def test_a_contact_sheet_names_the_damaged_image(tmp_path, capsys):
    damaged = Path(write_images(tmp_path / "set", 10)[4])
    damaged.write_bytes(damaged.read_bytes()[:200])
    argv = [str(tmp_path / "sheet.png"), f"set={tmp_path / 'set'}"]
    assert run_script(tools.contact_sheet.main, argv) == 2
    assert str(damaged) in capsys.readouterr().err and not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_an_image_that_needs_another_program_is_not_called_damaged(tmp_path, name):
    """Pillow would start Ghostscript for it, if that is installed."""
    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n%%EOF\n")
    with pytest.raises(UnusableImage, match="kind that is not read") as error:
        decode(path)
    assert str(path) in str(error.value) and "damaged" not in str(error.value)


def test_a_folder_given_for_an_image(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: it is a folder"):
        decode(tmp_path)


def test_a_long_tmpdir_stops_before_the_workers_hang(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.loader.gettempdir", lambda: "/scratch/" + 80 * "x")
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    images = ImageSet([str(tmp_path / "a.png")], np.zeros(1, np.int64))
    loader = Loader(images, transforms.validation(96), 1, workers=1)
    with pytest.raises(UserError, match="TMPDIR.*--num_workers 0"):
        next(iter(loader.ordered_batches()))
    alone = Loader(images, transforms.validation(96), 1, workers=0)
    assert len(next(iter(alone.ordered_batches()))[0]) == 1
