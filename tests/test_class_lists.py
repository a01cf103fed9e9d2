"""Class lists: the shipped ones, invalid ones, and the images and labels that they select."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train_student
import train_teacher
from dataset import class_list, folders, real
from helper.errors import UserError
from helper.options import Parser

ROOT = Path(__file__).resolve().parent.parent
TENCH, SPRINGER, CHURCH, PARACHUTE = "n01440764", "n02102040", "n03028079", "n03888257"
PLACES = {TENCH: 0, SPRINGER: 217, CHURCH: 497, PARACHUTE: 701}  # indices in ImageNet-1K


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def listed(tmp_path, *synsets):
    return class_list.read_class_list(write(tmp_path / "classes.txt", *synsets))


def touch(folder, names):
    """Creates empty files: only their names are read."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def options_of(*argv):
    parser = Parser("")
    real.add_flags(parser)
    return parser.parse_args(list(argv))


def pairs(images):
    """[(file name, label)] of an ImageSet."""
    return [
        (path.rpartition("/")[2], int(label))
        for path, label in zip(images.images, images.labels, strict=True)
    ]


# The lists


def test_order_is_that_of_timm():
    from timm.data import ImageNetInfo

    assert list(class_list.imagenet_synsets()) == ImageNetInfo().label_names()
    assert {synset: class_list.imagenet_synsets().index(synset) for synset in PLACES} == PLACES


@pytest.mark.parametrize("name, count", [("imagenet100", 100), ("imagenette", 10)])
def test_shipped_lists(name, count):
    found = class_list.read_class_list(class_list.FOLDER / f"{name}.txt")
    assert len(found) == len(set(found.synsets)) == count and found.is_sorted
    assert list(found.indices) == sorted(found.indices)  # ImageNet's order is the synsets'
    assert [class_list.imagenet_synsets()[index] for index in found.indices] == list(found.synsets)
    assert real.REAL_SETS[name].num_classes == count
    assert real.data_from(options_of("--dataset", name)).class_list == found


def test_lines(tmp_path):
    found = listed(
        tmp_path, "# a comment", "", f"{CHURCH} church building", f"  {TENCH}\t", PARACHUTE
    )
    assert (
        found.synsets == (CHURCH, TENCH, PARACHUTE)
        and found.indices == (497, 0, 701)
        and not found.is_sorted
    )


@pytest.mark.parametrize(
    "lines, message",
    [
        (
            [TENCH, "n0144076"],
            r"classes.txt, line 2: n0144076 .*n01440764",
        ),
        (["tench"], "classes.txt, line 1: tench "),
        ([TENCH, "# again", f"{TENCH} tench"], f"classes.txt, line 3: {TENCH} .*line 1"),
        (["# nothing", ""], "classes.txt .*empty"),
    ],
)
def test_wrong_lists(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        listed(tmp_path, *lines)


def test_lists_that_cannot_be_read(tmp_path, monkeypatch):
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            class_list.read_class_list(path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="binary"):
        class_list.read_class_list(tmp_path / "binary")
    class_list.imagenet_synsets.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'timm"):
        listed(tmp_path, TENCH)


def test_neither_torch_nor_timm_is_imported():
    code = (
        "import sys; from dataset.class_list import *; read_class_list(FOLDER / "
        "'imagenet100.txt')\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# Training images


def sets_of_all_kinds(folder):
    """Two images each of classes 0, 5, 217, 497 and 701, as folders and lists of all forms: {form:
    path}.
    """
    classes = [0, 5, 217, 497, 701]
    synsets = [class_list.imagenet_synsets()[index] for index in classes]
    touch(folder / "numbers", [f"{c:04d}/{i}.png" for c in classes for i in range(2)])
    touch(folder / "synsets", [f"{s}/{i}.png" for s in synsets for i in range(2)])
    flat = [f"class_{c}_seed_0_num_{i}.png" for c in classes for i in range(2)]
    touch(folder / "flat", flat)
    write(folder / "flat.txt", *(f"flat/{name}" for name in flat))
    write(
        folder / "numbers.txt", *(f"numbers/{c:04d}/{i}.png {c}" for c in classes for i in range(2))
    )
    return {
        name: folder / name for name in ("numbers", "synsets", "flat", "flat.txt", "numbers.txt")
    }


@pytest.mark.parametrize("kind", ["numbers", "synsets", "flat", "flat.txt", "numbers.txt"])
def test_a_class_list_selects_and_numbers(tmp_path, kind, capsys):
    source = sets_of_all_kinds(tmp_path)[kind]
    chosen = listed(tmp_path, PARACHUTE, TENCH, CHURCH)
    images = folders.read_training(source, len(chosen), class_list=chosen)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]  # the list's lines
    number = {"flat": "class_{}_", "flat.txt": "class_{}_", "synsets": "/{}/"}.get(kind, "/{:04d}/")
    for path, label in zip(images.images, images.labels, strict=True):
        index = chosen.indices[label]
        assert (
            number.format(class_list.imagenet_synsets()[index] if kind == "synsets" else index)
            in path
        )
    ignored = "2 of 5 class folders" if kind in ("numbers", "synsets") else "4 of 10 images"
    assert f"{source}: {ignored}" in capsys.readouterr().out
    # The amount is balanced over the listed classes, in the list's order.
    assert folders.read_training(source, 3, 4, class_list=chosen).labels.tolist() == [0, 0, 1, 2]
    with pytest.raises(UserError, match="--data_amount 7 .*3 .*class 0"):
        folders.read_training(source, 3, 7, class_list=chosen)
    with pytest.raises(UserError, match=f"{source}.*0 to 999.*--class-list.*--ignore_labels"):
        folders.read_training(source, 1, class_list=listed(tmp_path, "n01443537"))


@pytest.mark.parametrize("kind", ["numbers", "synsets", "flat", "flat.txt", "numbers.txt"])
def test_labels_beyond_the_classes(tmp_path, kind):
    source = sets_of_all_kinds(tmp_path)[kind]
    with pytest.raises(UserError, match="--class-list.*--ignore_labels"):
        folders.read_training(source, 100)
    for chosen in (None, listed(tmp_path, TENCH)):  # without labels, nothing is selected
        images = folders.read_training(source, 100, class_list=chosen, ignore_labels=True)
        assert images.labels is None and len(images) == 10
    # Labels still balance the amount: two images of one class, one of each other class.
    some = folders.read_training(source, 100, 6, ignore_labels=True)
    counts = {}
    for path in some.images:
        name = path.split("/")[-1 if kind.startswith("flat") else -2]
        key = name.split("_seed")[0]
        counts[key] = counts.get(key, 0) + 1
    assert sorted(counts.values()) == [1, 1, 1, 1, 2]


def test_numbers_are_imagenet_indices_in_small_sets_too(tmp_path, capsys):
    """Folders 0…2 and a list of three classes: 0 is the tench, 1 and 2 are not in the list."""
    touch(tmp_path / "set", [f"{c:04d}/0.png" for c in range(3)])
    images = folders.read_training(
        tmp_path / "set", 3, class_list=listed(tmp_path, CHURCH, TENCH, PARACHUTE)
    )
    assert images.labels.tolist() == [1]
    assert "2 of 3 class folders" in capsys.readouterr().out


def test_sets_without_classes_of_imagenet(tmp_path, capsys):
    chosen = listed(tmp_path, TENCH, CHURCH)
    touch(tmp_path / "shards", ["a/x.png", "b/y.png"])
    images = folders.read_training(tmp_path / "shards", 2, class_list=chosen)
    assert images.labels is None and len(images) == 2
    assert f"{tmp_path}/shards has no labels" in capsys.readouterr().out
    touch(tmp_path / "odd", [f"{TENCH}/x.png", "n99999999/y.png"])
    with pytest.raises(UserError, match="odd.* n99999999 "):
        folders.read_training(tmp_path / "odd", 2, class_list=chosen)
    write(tmp_path / "far.txt", *(f"odd/{TENCH}/x.png {label}" for label in (0, 1000)))
    with pytest.raises(UserError, match="far.txt .*class 1000 "):
        folders.read_training(tmp_path / "far.txt", 2, class_list=chosen)


def test_synsets_without_a_class_list(tmp_path):
    """For 1000 classes they are ImageNet's, even if incomplete, else numbered in sorted order."""
    touch(tmp_path, [f"{synset}/x.png" for synset in PLACES])
    assert folders.read_training(tmp_path, 1000).labels.tolist() == list(PLACES.values())
    assert folders.read_training(tmp_path, 4).labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=f"{tmp_path} .*4 .*10 classes.*--class-list"):
        folders.read_training(tmp_path, 10)


# Validation images


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A data root with imagenet/val/<synset>/<index>.JPEG, one empty file per class."""
    root = tmp_path_factory.mktemp("thousand")
    touch(
        root / "imagenet/val",
        [f"{s}/{i}.JPEG" for i, s in enumerate(class_list.imagenet_synsets())],
    )
    return root


def test_imagenet_by_synset(thousand, tmp_path):
    images = real.data_from(
        options_of("--dataset", "imagenet", "--data_root", str(thousand))
    ).validation()
    assert pairs(images) == [(f"{i}.JPEG", i) for i in range(1000)]
    assert images.class_names == list(class_list.imagenet_synsets())
    # The parent folder of val/ is accepted too, as in torchvision.
    (tmp_path / "tv/train").mkdir(parents=True)
    (tmp_path / "tv/val").symlink_to(thousand / "imagenet/val")
    (tmp_path / "tv/meta.bin").touch()
    again = real.data_from(
        options_of("--dataset", "imagenet", "--val_data", str(tmp_path / "tv"))
    ).validation()
    assert pairs(again) == pairs(images)


def test_an_incomplete_imagenet_is_refused(tmp_path):
    synsets = list(class_list.imagenet_synsets())
    touch(tmp_path / "imagenet/val", [f"{synset}/x.JPEG" for synset in synsets if synset != CHURCH])
    options = options_of("--dataset", "imagenet", "--data_root", str(tmp_path))
    with pytest.raises(UserError, match=rf"imagenet/val .* 1 of the 1000 classes .*{CHURCH}"):
        real.data_from(options).validation()
    touch(tmp_path / "imagenet/val", ["n99999999/x.JPEG"])
    with pytest.raises(UserError, match="imagenet/val.* n99999999 "):
        real.data_from(options).validation()


@pytest.mark.parametrize("name, count", [("imagenet100", 100), ("imagenette", 10)])
def test_parts_of_imagenet(thousand, tmp_path, name, count, capsys):
    """Read from their own folder, else from ImageNet's list, else from ImageNet's folders."""
    chosen = real.data_from(options_of("--dataset", name)).class_list
    expected = [(f"{index}.JPEG", place) for place, index in enumerate(chosen.indices)]

    def found(root):
        images = real.data_from(
            options_of("--dataset", name, "--data_root", str(root))
        ).validation()
        assert images.class_names == list(chosen.synsets)
        return pairs(images)

    assert found(thousand) == expected
    assert f"{1000 - count} of 1000 class folders" in capsys.readouterr().out
    (tmp_path / "imagenet").symlink_to(thousand / "imagenet")
    synsets = class_list.imagenet_synsets()
    write(
        tmp_path / "imagenet_val.txt",
        *(f"{synsets[i]}/{i}.JPEG {i}" for i in reversed(range(1000))),
    )
    # In the order of the list, whose paths are relative to imagenet/val
    assert found(tmp_path) == expected[::-1]
    touch(tmp_path / name / "val", [f"{synset}/own.JPEG" for synset in chosen.synsets])
    assert found(tmp_path) == [("own.JPEG", place) for place in range(count)]
    (tmp_path / name / "val" / chosen.synsets[3] / "own.JPEG").unlink()
    with pytest.raises(UserError, match=f" 1 of the {count} classes .*{chosen.synsets[3]}"):
        found(tmp_path)
    training = touch(
        tmp_path / name / "train",
        [f"{synset}/{i}.JPEG" for synset in chosen.synsets for i in range(2)],
    )
    images = real.data_from(options_of("--dataset", name, "--data_root", str(tmp_path))).split(
        "train"
    )
    assert images.labels.tolist() == [label for label in range(count) for _ in range(2)]
    assert str(training) in images.images[0]


def test_imagenet_with_a_class_list(thousand, tmp_path, capsys):
    file = write(tmp_path / "classes.txt", PARACHUTE, TENCH)
    options = options_of(
        "--dataset", "imagenet", "--data_root", str(thousand), "--class-list", str(file)
    )
    images = real.data_from(options).validation()
    assert sorted(pairs(images)) == [("0.JPEG", 1), ("701.JPEG", 0)] and images.class_names == [
        PARACHUTE,
        TENCH,
    ]
    assert "the class list is not sorted" in capsys.readouterr().out
    with pytest.raises(UserError, match="imagenet_train.txt"):
        real.data_from(options).split("train")
    with pytest.raises(UserError, match="--class-list .*--dataset cifar100"):
        real.data_from(options_of("--dataset", "cifar100", "--class-list", str(file))).validation()


# Through the scripts


def test_a_teacher_and_a_student_of_listed_classes(tmp_path, monkeypatch, capsys):
    """imagenette at 16 pixels: the teacher is trained on synset folders, the student on folders
    numbered by ImageNet's classes.
    """
    monkeypatch.chdir(tmp_path)
    chosen = real.RealData("imagenette").class_list
    rng = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 4)):
        for place, synset in enumerate(chosen.synsets):
            (tmp_path / f"true_dataset/imagenet/{part}/{synset}").mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(25 * place + 15, 3, (16, 16, 3)), 0, 255).astype(
                    np.uint8
                )
                Image.fromarray(pixels).save(
                    tmp_path / f"true_dataset/imagenet/{part}/{synset}/{i}.JPEG", "PNG"
                )
    for place, index in enumerate((*chosen.indices, 5, 999)):
        (tmp_path / f"syn/{index:04d}").mkdir(parents=True)
        for i in range(4):
            pixels = np.full((16, 16, 3), min(255, 25 * place + 15), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"syn/{index:04d}/{i}.png")
    common = [
        "--dataset",
        "imagenette",
        "--image_size",
        "16",
        "--device",
        "cpu",
        "--num_workers",
        "0",
    ]
    train_teacher.main(
        [
            *common,
            "--model",
            "resnet8",
            "--epochs",
            "8",
            "--batch_size",
            "16",
            "--schedule",
            "cosine",
        ]
    )
    capsys.readouterr()
    result = train_student.main(
        [
            *common,
            "--path-t",
            "save/models/imagenette/resnet8/resnet8_latest.pth",
            "--model_s",
            "resnet8",
            "--train_data",
            "syn",
            "--epochs",
            "1",
            "--batch_size",
            "8",
            "-r",
            "1",
            "--learning_rate",
            "0.01",
        ]
    )
    assert result["images"] == 40 and result["teacher_top1"] > 50
    assert "2 of 12 class folders" in capsys.readouterr().out
