"""Packs: the images, labels and order of their source, whole or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_student
from dataset import pack as packs
from dataset.folders import read_labelled, read_training
from dataset.loader import Loader
from dataset.transforms import Large
from helper.errors import UserError, run_script
from tools import compare, contact_sheet, make_list, pack

SIZE = 12


def draw(path, number, size=SIZE):
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def class_folders(root, names, images=5):
    for label, name in enumerate(names):
        for number in range(images):
            draw(root / name / f"{number}.png", 100 * label + number)
    return root


def generated(root):
    class_folders(root, ["0000", "0001", "0002"])
    settings = {"image_size": SIZE, "seed": 0}
    manifest = {"complete": True, "settings": settings, "images": 15}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def released(root):
    for label in range(3):
        for seed in range(2):
            for number in (2, 10):
                draw(root / f"class_{label}_seed_{seed}_num_{number}.png", 10 * label + number)
    return root


def unlabelled(root):
    for number in range(12):
        draw(root / f"part{number % 3}" / f"{number}.png", number)
    (root / "manifest.json").write_text(json.dumps({"complete": True, "labelled": False}))
    return root


def listed(root):
    class_folders(root, ["a", "b"])
    lines = [
        f"{name}/{number}.png {label}"
        for name, label in (("a", 2), ("b", 0))
        for number in (3, 1, 4)
    ]
    (root / "list.txt").write_text("\n".join(lines))
    return root / "list.txt"


SOURCES = {
    "generated": (generated, 3, ()),
    "named": (lambda root: class_folders(root, ["cat", "ant", "bee"]), 3, ("bee", "cat", "ant")),
    "one to three": (lambda root: class_folders(root, ["1", "2", "10"]), 3, ("1", "10", "2")),
    "released": (released, 3, ()),
    "unlabelled": (unlabelled, 3, ()),
    "shards": (lambda root: class_folders(root, ["x", "y"]), 3, ()),
    "list": (listed, 3, ()),
}


def pixels_of(images):
    return [np.asarray(images.load(index)).tolist() for index in range(len(images))]


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("amount", [None, 4])
def test_what_is_read_from_a_pack_is_what_is_read_from_its_source(tmp_path, kind, amount):
    make, classes, names = SOURCES[kind]
    source = make(tmp_path / "set")
    path = pack.main([str(source), "--out", str(tmp_path / "pack")])
    for ignore_labels in (False, True):
        options = {"amount": amount, "ignore_labels": ignore_labels, "class_names": names}
        expected = read_training(source, classes, **options)
        images = read_training(path, classes, **options)
        assert pixels_of(images) == pixels_of(expected)
        if expected.labels is None:
            assert images.labels is None
        else:
            assert images.labels.tolist() == expected.labels.tolist()
        assert images.origin["manifest"] == expected.origin["manifest"]
        assert images.pixel_size == (SIZE, SIZE)


def test_a_teacher_can_train_on_a_pack(tmp_path):
    source = class_folders(tmp_path / "set", ["cat", "ant", "bee"])
    path = pack.main([str(source), "--out", str(tmp_path / "pack")])
    for names in ((), ("bee", "cat", "ant")):
        expected, images = (read_labelled(one, 3, class_names=names) for one in (source, path))
        assert images.class_names == expected.class_names
        assert images.labels.tolist() == expected.labels.tolist()
        assert pixels_of(images) == pixels_of(expected)


@pytest.mark.parametrize("crop_device", [None, torch.device("cpu")])
@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_those_of_the_unpacked_images(tmp_path, crop_device, workers):
    source = class_folders(tmp_path / "set", ["0", "1"])
    path = pack.main([str(source), "--out", str(tmp_path / "pack")])
    options = {"seed": 3, "workers": workers, "crop_device": crop_device}
    batches = [
        list(Loader(read_training(one, 2), Large(80), 5, **options).epoch_batches(1))
        for one in (source, path)
    ]
    for (pixels, labels), (other_pixels, other_labels) in zip(*batches, strict=True):
        assert torch.equal(pixels, other_pixels) and torch.equal(labels, other_labels)


def test_an_interrupted_pack_continues(tmp_path, monkeypatch, capsys):
    source = generated(tmp_path / "set")
    whole = pack.main([str(source), "--out", str(tmp_path / "whole")])
    monkeypatch.setattr(packs, "BLOCK", 4)
    monkeypatch.setattr(packs.os, "cpu_count", lambda: 1)
    write_json, writes = packs.write_json, []

    def stop(path, content):
        writes.append(content)
        if len(writes) == 4:
            raise KeyboardInterrupt
        write_json(path, content)

    out = tmp_path / "set_pack"
    with monkeypatch.context() as patch:
        patch.setattr(packs, "write_json", stop)
        assert run_script(pack.main, [str(source)]) == 130
    with pytest.raises(UserError, match="tools.pack again"):
        read_training(out, 3)
    pack.main([str(source)])
    assert "15 images (7 new)" in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.iterdir()}
    for file in whole.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes()
    pack.main([str(source)])
    assert "(0 new)" in capsys.readouterr().out


def test_a_truncated_unfinished_pack_begins_again(tmp_path, monkeypatch):
    source = generated(tmp_path / "set")
    whole = pack.main([str(source), "--out", str(tmp_path / "whole")])
    cut = Path(shutil.copytree(whole, tmp_path / "cut"))
    (cut / "images.npy").rename(cut / "images.npy.part").write_bytes(
        (whole / "images.npy").read_bytes()[:1000]
    )
    change(cut / "pack.json", lambda description: description.update(done=10))
    (cut / "pack.json").rename(cut / "pack.part.json")
    pack.main([str(source), "--out", str(cut)])
    assert (cut / "images.npy").read_bytes() == (whole / "images.npy").read_bytes()


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


DAMAGES = {
    "truncated": lambda path: (path / "images.npy").write_bytes(b"\x93NUMPY" + b"0" * 9),
    "cut": lambda path: (path / "images.npy").write_bytes((path / "images.npy").read_bytes()[:300]),
    "other classes": lambda path: np.save(path / "classes.npy", np.zeros(3, np.int64)),
    "class folders": lambda path: change(path / "pack.json", lambda d: d["class_folders"].pop()),
    "count": lambda path: change(path / "pack.json", lambda d: d.update(images=7)),
    "text": lambda path: change(path / "pack.json", lambda d: d.update(images="many")),
    "no pixels": lambda path: (path / "images.npy").unlink(),
    "not JSON": lambda path: (path / "pack.json").write_text("{"),
    "unfinished": lambda path: (path / "pack.json").rename(path / "pack.part.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_is_named(tmp_path, damage):
    path = pack.main([str(generated(tmp_path / "set")), "--out", str(tmp_path / "pack")])
    DAMAGES[damage](path)
    with pytest.raises(UserError, match=str(path)):
        read_training(path, 3)


def test_wrong_input_of_the_tool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = generated(Path("set"))
    path = pack.main(["set"])
    with pytest.raises(UserError, match="set_pack is a pack"):
        pack.main([str(path)])
    with pytest.raises(UserError, match="other images"):
        draw(source / "0003" / "0.png", 7)
        pack.main(["set"])
    shutil.rmtree(path)
    draw(source / "0001" / "3.png", 7, size=13)
    with pytest.raises(UserError, match=r"0001/3.png is 13×13 .*12×12"):
        pack.main(["set"])
    with pytest.raises(UserError, match="not a pack"):
        pack.main(["set", "--out", "set"])
    with pytest.raises(UserError, match="nothing"):
        pack.main(["nothing"])
    Path("empty").mkdir()
    with pytest.raises(UserError, match="no images in empty"):
        pack.main(["empty"])
    monkeypatch.setattr("helper.files.free_bytes", lambda _: 100)
    with pytest.raises(UserError, match="free some space"):
        pack.main(["set", "--out", "other"])


def test_a_student_trains_on_a_pack_as_on_the_images(tmp_path, tiny_fashion_mnist, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for label in range(10):
        for number in range(4):
            draw(Path(f"set/{label:04d}/{number:05d}.png"), 10 * label + number, size=32)
    pack.main(["set"])
    weights = Path(train_student.__file__).parent / "save/models/fashion_mnist/resnet8"
    argv = ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist), "--device", "cpu"]
    argv += ["--path-t", str(weights / "resnet8_latest.pth"), "--epochs", "1", "--batch_size", "8"]
    results = [
        train_student.main([*argv, "--train_data", source, "--experiments_name", source])
        for source in ("set", "set_pack")
    ]
    differing = {name for name in results[0] if results[0][name] != results[1][name]}
    assert differing <= {"source", "seconds"}


def test_the_default_name_keeps_dots_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(generated(tmp_path / "DiT_s1.2_T25"))
    assert pack.main(["."]) == tmp_path / "DiT_s1.2_T25_pack"
    assert pack.main([str(listed(tmp_path / "other"))]) == tmp_path / "other/list_pack"


def test_tools_for_files_refuse_a_pack(tmp_path):
    path = pack.main([str(generated(tmp_path / "set")), "--out", str(tmp_path / "pack")])
    for call in (
        lambda: make_list.main([str(path), str(tmp_path / "list.txt")]),
        lambda: compare.main([str(tmp_path / "set"), str(path)]),
        lambda: contact_sheet.main([str(tmp_path / "sheet.png"), f"a={path}"]),
    ):
        with pytest.raises(UserError, match=f"{path} is a pack"):
            call()
