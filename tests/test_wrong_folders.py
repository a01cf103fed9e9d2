"""Folders that do not fit: other classes than the validation set's, and files that are no images
of the set.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate_images
import tools.contact_sheet
import tools.make_list
import tools.pack
import train_student
import train_teacher
from dataset import folders, real, scan
from helper.errors import UserError, run_script
from helper.options import Parser
from models.architectures import create_model


def write(folder, *names, size=32):
    """Writes an image for each name and returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (7 * len(name), 60, 90)).save(
            folder / name, None if Path(name).suffix else "PNG"
        )
    return folder


def classes(folder, *names, count=2):
    """Writes `count` images for each class folder and returns the folder."""
    return write(folder, *(f"{name}/{index}.png" for name in names for index in range(count)))


def labels_of(images):
    """{class folder: label} of an ImageSet."""
    return {
        path.split("/")[-2]: int(label)
        for path, label in zip(images.images, images.labels, strict=True)
    }


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """run(script, *flags): (exit code, what it printed); run.student and run.teacher train."""
    monkeypatch.chdir(tmp_path)
    Path("resnet8").mkdir()

    def run(script, *argv):
        code = run_script(script.main, [str(text) for text in argv])
        out, err = capfd.readouterr()
        assert "Traceback" not in err and err.count("\n") <= 2
        return code, out + err

    def teacher_of(num_classes):
        torch.manual_seed(0)
        torch.save(create_model("resnet8", num_classes).state_dict(), "resnet8/teacher.pth")
        return "resnet8/teacher.pth"

    few = ["--dataset", "imagefolder", "--image_size", "32", "--epochs", "1", "--device", "cpu"]
    few += ["--batch_size", "4", "--num_workers", "0"]

    def student(num_classes, *argv):
        teacher = ["--path-t", teacher_of(num_classes), "--model_s", "resnet8"]
        return run(train_student, *few, *teacher, *argv)

    def teacher(*argv):
        return run(train_teacher, *few, "--model", "resnet8", *argv)

    run.student, run.teacher, run.teacher_of = student, teacher, teacher_of
    return run


# Classes of two folders


def test_names_that_differ(tmp_path, run):
    """Cross-entropy is refused; where only the KL loss is used, a note is enough."""
    train = classes(tmp_path / "train", "apple", "pear", "plum")
    val = classes(tmp_path / "val", "pear", "plum", "red_apple")
    flags = ["--train_data", train, "--val_data", val]
    for code, printed in (run.student(3, *flags, "-r", "1"), run.teacher(*flags)):
        assert code == 2 and "apple" in printed and "red_apple" in printed
        assert str(train) in printed and "validation" in printed
    code, printed = run.student(3, *flags, "--data_amount", "3")
    assert code == 0 and "note: " in printed and "red_apple" in printed
    assert folders.read_training(train, 3, 3, class_names=["b", "c", "d"]).labels is None


def test_labels_of_a_list_are_said_to_be_indices(tmp_path, run):
    """As the numbered folders of a generated set are, if the validation images have names."""
    folder = classes(tmp_path / "train", "0", "1")
    files = sorted(folder.glob("*/*"))
    (tmp_path / "list.txt").write_text("".join(f"{file} {file.parent.name}\n" for file in files))
    val = classes(tmp_path / "val", "pear", "plum")
    _, printed = run.teacher("--train_data", tmp_path / "list.txt", "--val_data", val)
    assert "list.txt: its labels are class indices: 0 is pear" in printed and "1 is plum" in printed
    _, printed = run.teacher("--train_data", tmp_path / "list.txt", "--val_data", folder)
    assert "class indices" not in printed


@pytest.mark.parametrize(
    "train, val, word",
    [
        (["apple", "plum"], ["apple", "pear", "plum"], "pear"),
        (["apple", "fig", "pear"], ["apple", "pear"], "fig"),
        (["1", "2", "3"], ["1", "2", "3", "4"], "class 4 "),
        (["0", "90", "180"], ["0", "90", "180", "270"], "class 270 "),
        (["n01440764", "n02102040"], ["n01440764", "n02102040", "n02979186"], "n02979186"),
    ],
)
def test_a_class_that_is_missing_is_named(tmp_path, run, train, val, word):
    train, names = classes(tmp_path / "train", *train), val
    val = classes(tmp_path / "val", *val)
    for code, printed in (
        run.student(len(names), "--train_data", train, "--val_data", val, "-r", "1"),
        run.teacher("--train_data", train, "--val_data", val),
    ):
        assert code == 2 and word in printed and str(train) in printed, printed


def test_training_folders_take_the_validation_sets_numbers(tmp_path):
    def labels(train, val, manifest=False):
        folder = classes(tmp_path / f"{len(list(tmp_path.iterdir()))}", *train, count=1)
        if manifest:
            (folder / "manifest.json").write_text('{"complete": true}')
        return labels_of(folders.read_training(folder, len(val), class_names=val))

    assert labels(["a", "b"], ["b", "a"]) == {"a": 1, "b": 0}
    assert labels(["cafe\u0301", "z"], ["z", "caf\u00e9"]) == {"cafe\u0301": 1, "z": 0}
    rotations = ["0", "90", "180", "270"]
    assert labels(rotations, rotations) == {"0": 0, "90": 1, "180": 2, "270": 3}
    assert labels(["000", "090", "180", "270"], rotations)["090"] == 1
    flowers = [str(number) for number in range(1, 103)]
    assert labels(flowers, flowers) == {name: label for label, name in enumerate(flowers)}
    assert labels(sorted(flowers), sorted(flowers))["10"] == 1  # string order
    # Class indices: of our own folders, and what cannot be the validation images' names
    assert labels(["1", "2"], ["1", "2", "3"], manifest=True) == {"1": 1, "2": 2}
    assert labels(["0000", "0001"], ["1", "2", "3"]) == {"0000": 0, "0001": 1}
    assert labels(["0", "2"], ["0", "1", "2"]) == {"0": 0, "2": 2}
    assert labels(["2", "0"], ["ant", "bee", "cat"]) == {"0": 0, "2": 2}
    # The validation images have no names
    assert labels(["ant", "bee"], ["0", "1"]) == {"ant": 0, "bee": 1}
    with pytest.raises(UserError, match="classes 1 to 3"):
        labels(["1", "2", "3"], ["0", "1", "2"])


def test_classes_that_a_manifest_names(tmp_path, capsys):
    """Numbers of a generated folder are indices of the generator's classes, whose names count."""

    def labels(names, val):
        folder = classes(tmp_path / "generated", "0000", "0001", "0002")
        manifest = {"complete": True, "class_names": names}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        read = folders.read_training(folder, len(val), class_names=val)
        return labels_of(read), capsys.readouterr().out

    by_number = {"0000": 0, "0001": 1, "0002": 2}
    moved = {"0000": 2, "0001": 0, "0002": 1}
    assert labels(["tee", "bag", "boot"], ["bag", "boot", "tee"]) == (moved, "")
    assert labels(["2", "0", "1"], ["0", "1", "2"])[0] == by_number  # without names
    assert labels(["3", "1", "2"], ["1", "2", "3"]) == (moved, "")
    assert labels(["bag", "boot", "tee"], ["bag", "boot", "tee"]) == (by_number, "")
    for nothing in (None, []):
        found, text = labels(nothing, ["bag", "boot", "tee"])
        assert found == by_number and "0 is bag" in text and "2 is tee" in text
    every = ["hat", "tee", "bag", "boot"]  # some of the generator's or of the validation's classes
    assert labels(every, ["tee", "bag", "hat"]) == ({"0000": 2, "0001": 0, "0002": 1}, "")
    assert labels(every, [*every[::-1], "coat"]) == ({"0000": 3, "0001": 2, "0002": 1}, "")
    found, text = labels(["tee", "bag", "boot"], ["bag", "shoe", "tee"])
    assert found == by_number and "by number" in text and "boot" in text and "shoe" in text


def test_folders_of_other_files_are_no_classes(tmp_path, capsys):
    """Unless they are empty: annotations are often beside the class folders."""
    folder = classes(tmp_path / "images", "ant", "bee")
    for name in ("annotations/ant.xml", "splits/train.txt", "cat/.keep"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    assert folders.read_labelled(folder, None).class_names == ["ant", "bee", "cat"]
    assert "annotations" in (text := capsys.readouterr().out) and ": 2," in text
    images = folders.read_training(folder, 3, class_names=["ant", "bee", "cat"])
    assert labels_of(images) == {"ant": 0, "bee": 1}


def test_the_note_on_alphabetical_order_shows_where_it_matters(tmp_path, capsys):
    names = [f"class{number}" for number in range(12)]
    folder = classes(tmp_path / "images", *names, count=1)
    read = folders.read_training(folder, 12, class_names=[str(number) for number in range(12)])
    assert labels_of(read)["class10"] == 2 and "class10 is class 2" in capsys.readouterr().out


def test_a_folder_among_numbers_is_named(tmp_path):
    folder = classes(tmp_path / "images", "0", "1", "@Recycle", "old")
    images = folders.read_training(folder, 2, class_names=["0", "1"])
    assert images.labels is None and "old is no number" in images.why_unlabelled


def test_a_slash_in_a_class_name(tmp_path):
    names = ["T-shirt/top", "Ankle boot"]
    folder = classes(tmp_path / "images", "Ankle boot", "T-shirt_top")
    images = folders.read_training(folder, 2, class_names=names)
    assert labels_of(images) == {"T-shirt_top": 0, "Ankle boot": 1}


def test_a_pack_of_a_generated_folder_keeps_its_class_names(tmp_path):
    folder = classes(tmp_path / "generated", "0000", "0001")
    manifest = {"complete": True, "class_names": ["tee", "bag"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pack = tools.pack.main([str(folder)])
    for source in (folder, pack):
        images = folders.read_training(source, 2, class_names=["bag", "tee"])
        assert images.labels.tolist() == [0, 0, 1, 1]
        assert images.origin["images"] == 4


def test_names_that_only_look_like_numbers(tmp_path):
    odd = ["\u00b2", "1" * 23, "3"]
    for names in (odd, odd[:2]):
        folder = classes(tmp_path / str(len(names)), *names, count=1)
        images = folders.read_labelled(folder, None)
        assert images.class_names == sorted(names)
        again = folders.read_training(folder, len(names), class_names=images.class_names)
        assert labels_of(again) == labels_of(images)


def test_a_labelled_folder_that_is_read_without_labels(tmp_path, run, capfd):
    shards = classes(tmp_path / "shards", "part_a", "part_b")
    val = classes(tmp_path / "val", "apple", "pear", "plum")
    code, printed = run.student(3, "--train_data", shards, "--val_data", val)
    assert code == 0 and "note: " in printed and str(shards) in printed and "part_a" in printed
    assert folders.read_training(shards, 10).labels is None  # as make_list: no names are known
    assert "2 subfolders" in (note := capfd.readouterr().out) and "10 classes" in note
    folders.read_training(shards, 10, ignore_labels=True)
    assert capfd.readouterr().out == ""
    code, printed = run(tools.make_list, shards, tmp_path / "list.txt")
    assert code == 0 and "2 subfolders" in printed


def test_the_training_set_of_a_data_set(tmp_path, run):
    """Without --train_data, and with `--train_data real`."""
    val = classes(tmp_path / "val", "apple", "pear", "red_apple")
    root = ["--data_root", tmp_path, "--val_data", val]
    train = classes(tmp_path / "imagefolder/train", "apple", "pear", "plum")
    data = ["--train_data", "real"]
    for code, printed in (run.teacher(*root), run.student(3, *root, *data, "-r", "1")):
        assert code == 2 and "plum" in printed and "red_apple" in printed
    code, printed = run.student(3, *root, *data)
    assert code == 0 and "note: " in printed and "plum" in printed
    os.rename(train / "plum", train / "red_apple")
    assert run.teacher(*root)[0] == 0
    # Images in memory are compared likewise.
    images = real.ImageSet(np.zeros((3, 2, 2, 3), np.uint8), np.array([0, 1, 2]), ["c", "a", "b"])
    data = real.RealData("cifar10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real, "_read_cifar", lambda *_: images)
        assert data.training(class_names=["a", "b", "c"]).labels.tolist() == [2, 0, 1]
        other = data.training(class_names=["a", "b", "dog"])
        assert other.labels is None and "dog" in other.why_unlabelled
        assert data.training(class_names=["0", "1", "2"]).labels.tolist() == [0, 1, 2]


def test_fidelity_of_a_folder_of_other_classes(tmp_path, run):
    val = classes(tmp_path / "val", "apple", "pear", "plum")
    flags = ["--dataset", "imagefolder", "--val_data", val, "--path-t", run.teacher_of(3)]
    flags += ["--skip", "frechet", "precision_recall", "--image_size", "32", "--device", "cpu"]
    flags += ["--num_workers", "0", "--out", tmp_path / "out.json", "--images"]
    code, printed = run(evaluate_images, *flags, classes(tmp_path / "a", "apple", "fig", "plum"))
    assert code == 0 and "note: " in printed and "fig" in printed
    assert json.loads((tmp_path / "out.json").read_text())["label_top1"] is None


def test_the_order_of_validation_folders_that_are_numbers(tmp_path, run):
    names = [str(number) for number in range(1, 12)]
    val = classes(tmp_path / "val", *names, count=1)
    flags = ["--dataset", "imagefolder", "--val_data", val, "--image_size", "32", "--device"]
    flags += ["cpu", "--num_workers", "0", "--model_s", "resnet8"]
    flags += ["--evaluate", run.teacher_of(11)]
    code, printed = run(train_student, *flags)
    assert code == 0 and "numeric order: 1, 2, 3, " in printed and "--class_order" in printed
    code, printed = run(train_student, *flags, "--class_order", "string")
    assert code == 0 and "string order: 1, 10, 11, " in printed

    parser = Parser("")
    real.add_flags(parser)
    for order, expected in (("numeric", names), ("string", sorted(names))):
        argv = ["--dataset", "imagefolder", "--val_data", str(val), "--class_order", order]
        images = real.data_from(parser.parse_args(argv)).validation()
        assert images.class_names == expected
        assert labels_of(images) == {name: label for label, name in enumerate(expected)}
        train = folders.read_training(val, 11, class_names=images.class_names)
        assert labels_of(train) == labels_of(images)
    run.teacher("--val_data", classes(tmp_path / "few", "1", "2"))
    code, printed = run.teacher("--val_data", tmp_path / "few", "--train_data", tmp_path / "few")
    assert code == 0 and "--class_order" not in printed  # both orders are the same


# What belongs to a set


def test_files_of_other_programs(tmp_path, capsys):
    folder = classes(tmp_path / "set", "cat", "dog")
    for name in ("__MACOSX/cat", "@eaDir", "cat/@eaDir", "dog/.ipynb_checkpoints", ".git"):
        write(folder, f"{name}/0.png")
    (folder / "cat/._0.png").write_bytes(b"\0\5\x16\7")
    (folder / "contact_sheet.png").write_bytes(b"not an image of the set")
    for read in (folders.read_labelled, folders.read_training):
        images = read(folder, 2, class_names=["cat", "dog"])
        assert labels_of(images) == {"cat": 0, "dog": 1} and len(images) == 4
        out = capsys.readouterr().out
        assert "hidden files: 1" in out and "hidden or foreign folders: 5" in out
        assert "contact_sheet" not in out and "deeper" not in out
    unlabelled = folders.read_training(folder, 7)
    assert unlabelled.labels is None and len(unlabelled) == 4
    assert "hidden files: 1" in capsys.readouterr().out


def test_images_that_are_left_out_are_counted(tmp_path, capsys):
    folder = classes(tmp_path / "set", "cat", "dog")
    write(folder, "cat/more/7.png", "cat/more/8.png", "loose.png", "cat/a.gif")
    write(folder, "cat/a.pgm", "dog/b.PNG", "dog/c.Jpg")
    (folder / "cat/captions.txt").touch()
    (folder / "dog/gone").symlink_to(tmp_path / "absent")
    for read in (folders.read_labelled, folders.read_training):
        assert len(read(folder, 2)) == 7
        note = capsys.readouterr().out
        assert "images in deeper folders: 2" in note and f"{folder}/cat/more/7.png" in note
        assert "images outside of class folders: 1" in note and "loose.png" in note
        assert "formats that are not read: 1" in note and "a.gif" in note
        assert "broken links: 1" in note and "captions" not in note
    write(tmp_path / "flat", "class_0_seed_0_num_0.png", "deep/x.png")
    assert folders.read_training(tmp_path / "flat", 3).labels.tolist() == [0]
    assert "images in deeper folders: 1" in capsys.readouterr().out
    classes(tmp_path / "good", "cat", "dog")
    folders.read_labelled(tmp_path / "good", None)
    assert "note" not in capsys.readouterr().out


def test_links_are_followed_once(tmp_path, capsys):
    elsewhere = write(tmp_path / "elsewhere", "1.png", "x.png/2.png")
    folder = write(tmp_path / "set", "0.png")
    (folder / "shard").symlink_to(elsewhere)
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/up").symlink_to(folder)
    (folder / "a/loop").symlink_to(folder / "a/loop")
    (folder / "link.png").symlink_to(elsewhere / "1.png")
    images = folders.read_training(folder, 10)
    assert sorted(path.removeprefix(str(folder)) for path in images.images) == [
        "/0.png",
        "/link.png",
        "/shard/1.png",
        "/shard/x.png/2.png",
    ]
    out = capsys.readouterr().out
    assert f"{folder}/a/b/up" in out and f"{folder}/a/loop" in out
    # A real folder comes before links to it.
    write(tmp_path / "two", "z/0.png")
    (tmp_path / "two/a").symlink_to(tmp_path / "two/z")
    assert list(folders.read_training(tmp_path / "two", 10).images) == [f"{tmp_path}/two/z/0.png"]
    # Class folders
    (tmp_path / "two/up").symlink_to(tmp_path)
    assert folders.read_labelled(tmp_path / "two", None).class_names == ["a", "z"]
    assert f"above: 1, such as {tmp_path}/two/up" in capsys.readouterr().out
    (tmp_path / "by_class").mkdir()
    (tmp_path / "by_class/cat").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(tmp_path / "by_class")
    assert len(folders.read_labelled(tmp_path / "by_class", 1)) == 1
    assert "images in deeper folders: 1" in capsys.readouterr().out


def test_pipes_are_not_images(tmp_path, capsys):
    folder = classes(tmp_path, "cat", "dog")
    os.mkfifo(folder / "cat/x.png")
    assert len(folders.read_labelled(folder, None)) == 4
    assert "special files: 1" in capsys.readouterr().out


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_folders_that_cannot_be_read(tmp_path, run, monkeypatch, error):
    """An unreadable folder is an error, at any depth (the tests may run as root)."""
    folder = classes(tmp_path / "set", "cat", "dog/deep", "fox")
    val = classes(tmp_path / "val", "cat", "dog", "fox")
    scandir = os.scandir

    def refuse(path):
        if os.fsdecode(path).rstrip("/").endswith(refused):
            raise error
        return scandir(path)

    monkeypatch.setattr(scan.os, "scandir", refuse)
    for refused in ("set", "set/cat", "set/dog/deep"):
        code, printed = run.student(3, "--train_data", folder, "--val_data", val)
        assert code == 2 and f"{folder}{refused[3:]}: " in printed
        assert "damaged" not in printed
        with pytest.raises(UserError, match=refused):
            folders.read_training(folder, 7)
        with pytest.raises(UserError, match=refused):
            folders.read_labelled(folder, None)
    code, printed = run(tools.contact_sheet, "sheet.png", f"a={folder}")
    assert code == 2 and "set/dog/deep" in printed


def test_no_images_but_some_are_deeper(tmp_path, run):
    split = tmp_path / "split"
    for part in ("train", "valid", "test"):
        classes(split / part, "cat", "dog", "fox")
    wrapped = classes(tmp_path / "wrapped/data", "cat", "dog", "fox")
    train = ["--train_data", split / "train"]
    code, printed = run.student(3, *train, "--val_data", split)
    assert code == 2 and f"{split}/valid" in printed and "train" in printed
    code, printed = run.student(3, *train, "--val_data", wrapped.parent)
    assert code == 2 and "images in deeper folders: 6" in printed and f"{wrapped}/cat/0" in printed
    # Three parts, three classes
    assert run.student(3, *train, "--val_data", split / "valid")[0] == 0
    with pytest.raises(UserError, match=f"{split}/train"):
        folders.read_training(split, 3)
    write(tmp_path / "gif", "cat/0.gif", "dog/1.gif")
    with pytest.raises(UserError, match=r"formats .*: 2, .*cat/0.gif"):
        folders.read_training(tmp_path / "gif", 2)


def test_all_parts_of_a_split_are_used_with_a_note(tmp_path, capsys):
    for part in ("train", "val"):
        classes(tmp_path / part, "cat", "dog", "fox")
    images = folders.read_training(tmp_path, 3)
    out = capsys.readouterr().out
    assert images.labels is None and len(images) == 12
    assert "train" in out and "val" in out


@pytest.mark.parametrize("content", ["[1, 2]", '{"name": "app"}', '"text"'])
def test_a_manifest_of_another_program(tmp_path, capsys, content):
    folder = classes(tmp_path / "set", "1", "2")
    (folder / "manifest.json").write_text(content)
    images = folders.read_training(folder, 2, class_names=["1", "2"])
    assert labels_of(images) == {"1": 0, "2": 1} and images.origin["manifest"] is None
    assert f"{folder}/manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["photo", "0.png.crdownload", "0.jpg~", "1.PNG.part"])
def test_files_without_an_image_ending_are_counted(tmp_path, capsys, name):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / label / "0.png")
    (tmp_path / "dog" / name).write_bytes((tmp_path / "dog" / "0.png").read_bytes())
    (tmp_path / "dog" / "labels.txt").write_text("not an image")
    assert len(folders.read_training(tmp_path, 2)) == 2
    out = capsys.readouterr().out
    assert f"1, such as {tmp_path}/dog/{name}" in out and "labels.txt" not in out


def test_a_blank_at_the_end_of_a_class_is_seen(tmp_path):
    for label in ("cat ", "dog"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / label / "0.png")
    images = folders.read_training(tmp_path, 2, class_names=("cat", "dog"))
    assert images.labels is None and "'cat '" in images.why_unlabelled


def test_numbers_of_files_are_not_classes_beside_their_labels(tmp_path):
    """The layout of StyleGAN and EDM: folders of a thousand files, labels in dataset.json."""
    folder = classes(tmp_path / "set", "00000", "00001")
    folders.read_training(folder, 2)
    (folder / "dataset.json").write_text('{"labels": [["00000/a.png", 1]]}')
    with pytest.raises(UserError, match="dataset.json has the labels.*list"):
        folders.read_training(folder, 2)


def test_a_validation_folder_with_one_class(tmp_path):
    folder = classes(tmp_path / "val", "images")
    with pytest.raises(UserError, match="val has a single class folder, images: .*list"):
        folders.read_labelled(folder, None)


@pytest.mark.parametrize("name", ["0.jpg?w=640", "0.jpg_large", "0.JPG#1"])
def test_downloads_with_a_further_ending_are_counted(tmp_path, name, capsys):
    folder = classes(tmp_path / "set", "0", "1")
    (folder / "0" / name).touch()
    folders.read_training(folder, 2)
    assert f"such as {folder}/0/{name}" in capsys.readouterr().out


def test_the_order_of_negative_class_folders_is_said(tmp_path, capsys):
    options = argparse.Namespace(
        dataset="imagefolder",
        val_data=str(classes(tmp_path / "val", "-10", "-20", "0", "10")),
        data_root=str(tmp_path),
        class_list=None,
        val_split="test",
        image_size=32,
        class_order=None,
    )
    assert real.data_from(options).validation().class_names == ["-10", "-20", "0", "10"]
    assert "order of text: -10, -20" in capsys.readouterr().out
