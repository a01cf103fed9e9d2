"""The commands of tools/ and benchmarks/device.py."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import train_teacher
from benchmarks import device
from helper import checkpoints
from helper.errors import UserError
from models.architectures import create_model
from tools import compare, contact_sheet, digits, fetch_weights


def write_folder(folder, images):
    for number, pixels in enumerate(images):
        (folder / "0000").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"0000/{number:05d}.png")
    return str(folder)


def test_compare_counts_levels(tmp_path, capsys):
    images = np.random.default_rng(0).integers(1, 200, (2, 10, 10, 3)).astype(np.uint8)
    others = images.copy()
    others[0, :5, :, 0] += 1  # 50 of 600 values
    others[1, 0, 0, 0] += 40  # one more
    one, other = (
        write_folder(tmp_path / "one", images),
        write_folder(tmp_path / "other", [*others, images[0]]),
    )
    counts, pairs = compare.differences(one, other)
    assert pairs == 2 and f"1 in {other} only" in capsys.readouterr().out
    assert (counts.sum(), counts[0], counts[1], counts[40]) == (600, 549, 50, 1)
    assert compare.main([one, other])[1] == 50 / 600
    assert "8.33%" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"{one} .*{other} .*0%"):
        compare.main([one, other, "--tolerance", "0.001"])


def test_sets_side_by_side(tmp_path):
    """A row a set: of ten classes an image each, of one folder ten that are spread over it."""
    for label in range(10):
        (tmp_path / f"classes/{label:04d}").mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.full((32, 32), 20 * label + index, np.uint8)).save(
                tmp_path / f"classes/{label:04d}/{index:05d}.png"
            )
    shades = np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 32, 1).repeat(32, 2)
    flat = write_folder(tmp_path / "flat", shades)
    sheet = contact_sheet.main(
        [str(tmp_path / "sheet.png"), f"by class={tmp_path / 'classes'}", f"patches={flat}"]
    )
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("L"))
    rows = [
        pixels[2 + 33 + number * 66][pixels.shape[1] - 660 :].reshape(10, 66)[:, 10]
        for number in range(2)
    ]
    assert rows[0].tolist() == [20 * label for label in range(10)]
    assert rows[1].tolist() == list(range(0, 100, 10))
    for wrong, message in (
        (["x.png", "name"], "each as NAME=FOLDER"),
        (["x.png", f"a={tmp_path / 'none'}"], "none: .*does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            contact_sheet.main(wrong)


def test_images_of_another_size_stay_in_their_cells(tmp_path):
    """A wide image is centred on white, and the other cells are as without it."""
    folder = write_folder(tmp_path / "small", np.full((10, 32, 32, 3), 100, np.uint8))
    other = write_folder(tmp_path / "wide", np.full((10, 40, 160, 3), 200, np.uint8))
    alone, both = (
        np.asarray(Image.open(contact_sheet.main([str(tmp_path / "sheet.png"), *sets])))[:, -660:]
        for sets in ([f"a={folder}"], [f"a={folder}", f"b={other}"])
    )
    assert len(both) == 2 + 2 * 66 and np.array_equal(both[: len(alone)], alone)
    cells = both[68:, :, 0].reshape(66, 10, 66)[:64, :, :64]
    assert (cells[24:40] == 200).all() and (cells[:24] == 255).all() and (cells[40:] == 255).all()


def test_digits_are_those_of_scikit_learn(tmp_path, capsys):
    scans = pytest.importorskip("sklearn.datasets").load_digits()
    digits.main([str(tmp_path)])
    assert f"{tmp_path}: 1797 digits" in capsys.readouterr().out
    files = sorted(tmp_path.rglob("*.*"))
    assert len(files) == 1797 and files[0] == tmp_path / "0/00000.png"
    of_three = scans.images[scans.target == 3]
    with Image.open(tmp_path / f"3/{len(of_three) - 1:05d}.png") as image:
        assert image.mode == "L" and image.size == (32, 32)
        small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), float)
    assert np.corrcoef(small.ravel(), of_three[-1].ravel())[0, 1] > 0.98


def test_digits_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        digits.main([str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_compare_needs_pairs_of_one_size(tmp_path):
    one = write_folder(tmp_path / "one", np.zeros((1, 8, 8, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{one} .*{tmp_path}/empty"):
        compare.main([one, str(tmp_path / "empty")])
    with pytest.raises(UserError, match="larger/0000/00000.png .*8 .*9 pixels"):
        compare.main([one, write_folder(tmp_path / "larger", np.zeros((1, 9, 9, 3), np.uint8))])


def test_downloaded_teachers_are_found_by_path_t(tmp_path, monkeypatch):
    published, download = create_model("ResNet18", 1000).state_dict(), "load_state_dict_from_url"
    monkeypatch.setattr(f"torchvision.models._api.{download}", lambda *_, **__: published)
    path = fetch_weights.main(["ResNet18", "--root", str(tmp_path)])
    assert path == tmp_path / "ResNet18/resnet18.pth"
    fetched = create_model("ResNet18", 1000, checkpoint=path).state_dict()
    assert all(torch.equal(value, published[key]) for key, value in fetched.items())
    monkeypatch.setattr(f"torchvision.models._api.{download}", None)  # no second download
    assert fetch_weights.main(["ResNet18", "--root", str(tmp_path)]) == path
    with pytest.raises(UserError, match="invalid choice"):
        fetch_weights.main(["resnet20"])


def test_device_prints_a_rate(capsys):
    rates = device.main(["--device", "cpu", "--quick"])
    assert list(rates) == ["fp32"] and rates["fp32"] > 0
    assert "fp32 " in capsys.readouterr().out


def test_a_run_that_is_older_than_a_flag_can_be_resumed(tiny_fashion_mnist, tmp_path):
    argv = [
        "--dataset",
        "fashion_mnist",
        "--data_root",
        str(tiny_fashion_mnist),
        "--model",
        "resnet8",
        "--epochs",
        "1",
        "--save_dir",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    result = train_teacher.main(argv)
    latest = tmp_path / "resnet8_latest.pth"
    state = checkpoints.load(latest)
    del state["flags"]["label_smoothing"]
    checkpoints.save(latest, state)
    assert train_teacher.main([*argv, "--resume"])["top1_last"] == result["top1_last"]
    with pytest.raises(UserError, match="label_smoothing .*None.*0.1"):
        train_teacher.main([*argv, "--resume", "--label_smoothing", "0.1"])
