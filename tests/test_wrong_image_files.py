"""Image files that Pillow cannot read, or reads wrongly, are named by their kind."""

import struct

import numpy as np
import pytest

from dataset.image_set import decode
from helper.errors import UserError


def write_tiff(path, values, planes=1, sample_format=1):
    """Writes an uncompressed TIFF of little-endian values (H, W) or (H, W, 3)."""
    height, width, *rest = values.shape
    samples = rest[0] if rest else 1
    data = (np.moveaxis(values, -1, 0) if planes == 2 else values).tobytes()
    strips = samples if planes == 2 else 1
    size = len(data) // strips
    entries = [
        (256, [width]),
        (257, [height]),
        (258, [8 * values.itemsize] * samples),
        (259, [1]),
        (262, [2 if samples == 3 else 1]),
        (273, [8 + number * size for number in range(strips)]),
        (277, [samples]),
        (278, [height]),
        (279, [size] * strips),
        (284, [planes]),
        (339, [sample_format] * samples),
    ]
    more, directory = b"", struct.pack("<H", len(entries))
    end = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, numbers in entries:
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, more = struct.pack("<I", end + len(more)), more + packed
        directory += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + directory + bytes(4) + more)
    return path


def test_the_written_tiff_is_read(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    assert (np.asarray(decode(write_tiff(tmp_path / "x.tif", values))) == values).all()
    grey = np.random.default_rng(0).integers(0, 65536, (6, 5)).astype(np.uint16)
    read = np.asarray(decode(write_tiff(tmp_path / "g.tif", grey)))[..., 0]
    assert (read == np.round(grey / 257)).all()


@pytest.mark.parametrize(
    "values, options",
    [
        (np.ones((6, 5, 3), np.uint16), {"planes": 2}),
        (np.full((6, 5), -3, np.int8), {"sample_format": 2}),
        (np.ones((6, 5)), {"sample_format": 3}),
        (np.ones((6, 5), np.float16), {"sample_format": 3}),
        (np.ones((6, 5), np.uint64), {}),
        (np.ones((6, 5, 3), np.float32), {"sample_format": 3}),
    ],
    ids=["planes", "int8", "float64", "float16", "uint64", "float RGB"],
)
def test_kinds_of_tiff_that_are_not_read_are_not_called_damaged(tmp_path, values, options):
    path = write_tiff(tmp_path / "x.tif", values, **options)
    with pytest.raises(UserError, match=f"{path} .*convert") as error:
        decode(path)
    assert "damaged" not in str(error.value) and "delete" not in str(error.value)


def test_a_heic_file_is_not_called_damaged(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(UserError, match=f"{path} .*convert"):
        decode(path)


def test_a_broken_link_is_named(tmp_path):
    (tmp_path / "x.png").symlink_to("/nowhere/gone.png")
    with pytest.raises(UserError, match="x.png is a broken link to /nowhere/gone.png"):
        decode(tmp_path / "x.png")


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    path = tmp_path / "x.png"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=f"{path} .*git lfs pull"):
        decode(path)
