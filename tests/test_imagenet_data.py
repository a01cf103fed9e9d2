"""ImageNet, the released sets and Flowers-102, with small replacements for the real files."""

import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset import folders, real
from dataset.class_list import imagenet_synsets
from helper.errors import UserError
from helper.options import Parser
from tools import imagenet, make_list

ROOT = Path(__file__).resolve().parent.parent


def options_of(*argv):
    parser = Parser("")
    real.add_flags(parser)
    return parser.parse_args(list(argv))


def validation(root, name="imagenet"):
    return real.data_from(options_of("--dataset", name, "--data_root", str(root))).validation()


def jpeg():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


# ImageNet's archives


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """A data root with replacements of both archives in imagenet/, and {image name: class}.

    One validation image per class. The devkit's ground truth has the ILSVRC number of each image,
    which is not its class.
    """
    savemat = pytest.importorskip("scipy.io").savemat
    from torchvision.datasets import imagenet as torchvision_imagenet

    home, rng = tmp_path / "root/imagenet", np.random.default_rng(0)
    home.mkdir(parents=True)
    with tarfile.open(home / imagenet.ARCHIVES["val"], "w") as archive:
        for number in range(1, 1001):
            add(archive, f"ILSVRC2012_val_{number:08d}.JPEG", jpeg())
    numbered = rng.permutation(1000)  # ILSVRC number − 1 → class
    truth = rng.permutation(1000)  # image number − 1 → ILSVRC number − 1
    kind = [
        ("ILSVRC2012_ID", "O"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("num_children", "O"),
    ]
    meta = np.array(
        [
            (i + 1, imagenet_synsets()[place], f"thing {place}", "", 0)
            for i, place in enumerate(numbered)
        ]
        + [(1001, "n00000001", "a parent", "", 2)],
        dtype=kind,
    )
    content = io.BytesIO()
    savemat(content, {"synsets": meta})
    with tarfile.open(home / imagenet.DEVKIT, "w:gz") as archive:
        folder = "ILSVRC2012_devkit_t12/data"
        add(archive, f"{folder}/meta.mat", content.getvalue())
        add(
            archive,
            f"{folder}/ILSVRC2012_validation_ground_truth.txt",
            "".join(f"{i + 1}\n" for i in truth).encode(),
        )
    md5 = {
        name: (file, hashlib.md5((home / file).read_bytes()).hexdigest())
        for name, file in (("val", imagenet.ARCHIVES["val"]), ("devkit", imagenet.DEVKIT))
    }
    monkeypatch.setattr(
        torchvision_imagenet, "ARCHIVE_META", {**torchvision_imagenet.ARCHIVE_META, **md5}
    )
    return tmp_path / "root", {
        f"ILSVRC2012_val_{n + 1:08d}.JPEG": int(numbered[i]) for n, i in enumerate(truth)
    }


def by_name(images):
    return {
        path.rpartition("/")[2]: int(label)
        for path, label in zip(images.images, images.labels, strict=True)
    }


def test_archives(archives, capsys):
    root, expected = archives
    file = imagenet.main(["--root", str(root)])
    output = capsys.readouterr().out
    assert file == root / "imagenet_val.txt" and "1000 images of 1000 classes, 1 to 1 " in output
    assert "50000 images" in output
    assert by_name(validation(root)) == expected
    assert not list(root.glob("imagenet/*.part"))
    file.unlink()  # the folder, then the list of it
    assert by_name(validation(root)) == expected
    imagenet.main(["--root", str(root), "--images", str(root / "imagenet/val")])
    assert by_name(validation(root)) == expected


def test_an_interrupted_unpacking_leaves_nothing(archives, monkeypatch):
    root, _ = archives
    moved = []

    def interrupted(source, target):
        moved.append(source)
        if len(moved) == 500:
            raise KeyboardInterrupt

    monkeypatch.setattr("torchvision.datasets.imagenet.shutil.move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imagenet.main(["--root", str(root)])
    assert not list(root.glob("*.txt")) and not (root / "imagenet/val").exists()
    assert {path.name for path in (root / "imagenet").iterdir()} == {
        imagenet.ARCHIVES["val"],
        imagenet.DEVKIT,
    }


def test_damaged_and_missing_archives(archives, monkeypatch):
    root, _ = archives
    with open(root / "imagenet" / imagenet.ARCHIVES["val"], "r+b") as file:
        file.truncate(10_000)
    with pytest.raises(UserError, match="ILSVRC2012_img_val.tar .*damaged"):
        imagenet.main(["--root", str(root)])
    assert not (root / "imagenet/val").exists()
    with pytest.raises(UserError, match="imagenet/ILSVRC2012_img_train.tar .*--images"):
        imagenet.main(["--root", str(root), "--split", "train"])
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match="pip install scipy"):
        imagenet.main(["--root", str(root)])


# Kaggle's flat folder


@pytest.fixture
def kaggle(tmp_path):
    """(data root, flat folder of six images outside of it, CSV of their classes, {name: class})."""
    expected = {
        f"ILSVRC2012_val_{n:08d}.JPEG": label for n, label in enumerate([3, 999, 0, 3, 217, 5], 1)
    }
    folder, root = tmp_path / "CLS-LOC/val", tmp_path / "root"
    folder.mkdir(parents=True)
    lines = ["ImageId,PredictionString"]
    for name, label in reversed(expected.items()):
        (folder / name).write_bytes(jpeg())
        synset = imagenet_synsets()[label]
        lines.append(f"{name[:-5]},{synset} 1 2 3 4 {synset} 5 6 7 8")
    solution = tmp_path / "LOC_val_solution.csv"
    solution.write_text("\n".join(lines) + "\n")
    return root, folder, solution, expected


def test_kaggles_folder(kaggle, capsys):
    root, folder, solution, expected = kaggle
    file = imagenet.main(
        ["--root", str(root), "--images", str(folder), "--solution", str(solution)]
    )
    assert "6 images of 5 classes, 0 to 2 " in capsys.readouterr().out
    images = validation(root)
    assert (
        by_name(images) == expected
        and images.load(0).size == (8, 8)
        and len(images.class_names) == 1000
    )
    # Outside of the data root: an absolute path
    assert file.read_text().splitlines()[0] == f"{folder}/ILSVRC2012_val_00000001.JPEG 3"


def test_kaggles_folder_that_does_not_fit(kaggle):
    root, folder, solution, expected = kaggle
    argv = ["--root", str(root), "--images", str(folder), "--solution", str(solution)]
    text, first = solution.read_text(), folder / "ILSVRC2012_val_00000001.JPEG"
    for wrong, message in (
        (text.replace("n01440764", "n99999999"), "LOC_val_solution.csv, line 5: n99999999 "),
        ("a,b\n1,2\n", "LOC_val_solution.csv is not "),
        ("", "LOC_val_solution.csv is not "),
        (text + "ILSVRC2012_val_00000009,\n", "LOC_val_solution.csv is not "),
    ):
        solution.write_text(wrong)
        with pytest.raises(UserError, match=message):
            imagenet.main(argv)
    solution.write_text(text)
    first.unlink()
    with pytest.raises(UserError, match="val lacks 1 of the 6 images .*ILSVRC2012_val_00000001"):
        imagenet.main(argv)
    # The training images' solution
    solution.write_text(text.replace("ILSVRC2012_val", "n01440764"))
    with pytest.raises(UserError, match="none of the images of .*LOC_val_solution.csv is that of"):
        imagenet.main(argv)
    solution.write_text(text)
    with pytest.raises(UserError, match="root/LOC_val_solution.csv"):
        imagenet.main([*argv[:-1], str(root / "LOC_val_solution.csv")])
    with pytest.raises(UserError, match="--solution .*--images"):
        imagenet.main(["--solution", str(solution)])
    with pytest.raises(UserError, match="LOC_val_solution.csv .*--images"):
        imagenet.main(["--images", str(solution)])
    with pytest.raises(UserError, match="python -m tools.imagenet"):  # flat, without its list
        imagenet.main(["--images", str(folder)])
    assert not list(root.glob("*.txt"))


def test_a_flat_folder_and_its_list(kaggle, monkeypatch):
    """Paths are relative to the working directory, to the list, or to imagenet/val."""
    root, folder, _, expected = kaggle
    (root / "imagenet").mkdir(parents=True)
    folder.rename(root / "imagenet/val")
    for prefix, place in (
        ("imagenet/val/", root),
        ("root/imagenet/val/", "/"),
        ("root/imagenet/val/", root.parent),
        ("", "/"),
        ("./", "/"),
    ):
        (root / "imagenet_val.txt").write_text(
            "".join(f"{prefix}{name} {label}\n" for name, label in expected.items())
        )
        monkeypatch.chdir(place)
        if prefix.startswith("root") and place == "/":
            with pytest.raises(
                UserError,
                match="imagenet_val.txt, line 1: .*root/imagenet/val/.* .*imagenet/val/",
            ):
                validation(root)
        else:
            images = validation(root)
            assert list(by_name(images).items()) == list(expected.items())
            images.load(5)
    (root / "imagenet_val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1000\n")
    with pytest.raises(UserError, match="imagenet_val.txt .*class 1000 "):
        validation(root)


def test_script_and_command_line(kaggle, tmp_path):
    root, folder, solution, expected = kaggle
    done = subprocess.run(
        ["sh", ROOT / "scripts/imagenet_prepare.sh"],
        text=True,
        capture_output=True,
        env={
            "PYTHON": sys.executable,
            "DATA": str(root),
            "IMAGES": str(folder),
            "SOLUTION": str(solution),
            "PATH": "/usr/bin:/bin",
        },
    )
    assert done.returncode == 0 and by_name(validation(root)) == expected, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "tools.imagenet", "--root", str(tmp_path)],
        text=True,
        capture_output=True,
        cwd=ROOT,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: ")
        and len(done.stderr.splitlines()) == 1
    )


# Released sets


def test_lists_of_released_sets(tmp_path, monkeypatch):
    names = [
        f"class_{c}_seed_{s}_num_{n}.png" for c in (0, 7, 999) for s in (0, 10, 2) for n in range(2)
    ]
    place = tmp_path / "syn_dataset/low_fidelity"
    place.mkdir(parents=True)
    for name in names:
        (place / name).touch()
    monkeypatch.chdir(tmp_path)
    make_list.main([str(place), "syn_dataset/s2_st100_18.txt"])
    lines = (tmp_path / "syn_dataset/s2_st100_18.txt").read_text().splitlines()
    assert sorted(lines) == sorted(
        f"low_fidelity/{name}" for name in names
    )  # as released: without labels, which are in the names
    straight, listed = (
        folders.read_training(source, 1000)
        for source in (place, folders.released_list_path(2, 100, 18))
    )
    assert by_name(straight) == by_name(listed) and [*by_name(straight)] == [*by_name(listed)]
    # Outside of the folder of the list: absolute paths
    make_list.main([str(place), "lists/few.txt", "--data_amount", "4"])
    assert (tmp_path / "lists/few.txt").read_text().splitlines() == [
        f"{place}/class_{c}_seed_0_num_{n}.png" for c, n in ((0, 0), (0, 1), (7, 0), (999, 0))
    ]
    (tmp_path / "set/0003").mkdir(parents=True)
    (tmp_path / "set/0003/00000.png").touch()
    make_list.main(["set", "plain.txt"])
    assert (tmp_path / "plain.txt").read_text() == "set/0003/00000.png 3\n"
    # For the released code: relative to the working directory
    make_list.main([str(place), "syn_dataset/s2_st100_18.txt", "--root", "."])
    lines = (tmp_path / "syn_dataset/s2_st100_18.txt").read_text().splitlines()
    assert sorted(lines) == sorted(f"syn_dataset/low_fidelity/{name}" for name in names)
    assert by_name(folders.read_training("syn_dataset/s2_st100_18.txt", 1000)) == by_name(straight)
    with pytest.raises(UserError, match="is not below --root set"):
        make_list.main([str(place), "syn_dataset/wrong.txt", "--root", "set"])
    assert not (tmp_path / "syn_dataset/wrong.txt").exists()
    # A released list may have paths relative to the working directory.
    (tmp_path / "syn_dataset/s4_st250_18.txt").write_text(
        "".join(f"syn_dataset/low_fidelity/{n}\n" for n in names)
    )
    assert by_name(folders.read_training("syn_dataset/s4_st250_18.txt", 1000)) == by_name(straight)


# Flowers-102


@pytest.fixture
def flowers(tmp_path):
    """Twelve images in torchvision's layout, with their classes, 1 to 102, and splits."""
    savemat = pytest.importorskip("scipy.io").savemat
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 13):
        (folder / f"jpg/image_{number:05d}.jpg").write_bytes(jpeg())
    labels = np.random.default_rng(0).permutation(np.r_[1, 102, np.arange(20, 30)])
    savemat(folder / "imagelabels.mat", {"labels": labels[None].astype(np.uint8)})
    savemat(
        folder / "setid.mat",
        {"trnid": [[3, 1, 7]], "valid": [[12, 2]], "tstid": [[4, 5, 6, 8, 9, 10, 11]]},
    )
    return tmp_path


def test_flowers_agree_with_torchvision(flowers, monkeypatch):
    from torchvision.datasets import Flowers102

    monkeypatch.setattr(
        Flowers102, "_check_integrity", lambda self: True
    )  # the published files' MD5
    theirs = {
        split: Flowers102(flowers, split, transform=lambda image: image, target_transform=int)
        for split in ("train", "val", "test")
    }
    options = options_of("--dataset", "flowers102", "--data_root", str(flowers))
    for split, parts in {"train": ("train", "val"), "test": ("test",)}.items():
        images = real.data_from(options).split(split)
        expected = [
            (str(path), label)
            for part in parts
            for path, label in zip(theirs[part]._image_files, theirs[part]._labels, strict=True)
        ]
        assert list(zip(images.images, images.labels.tolist(), strict=True)) == expected
        assert (
            images.labels.min() >= 0
            and images.labels.max() <= 101
            and len(images.class_names) == 102
        )
        assert images.load(0).size == (8, 8) and not images.in_memory
    assert {0, 101} <= set(images.labels.tolist()) | set(
        real.data_from(options).split("train").labels.tolist()
    )
    assert real.data_from(options).image_size == 224


def test_flowers_that_cannot_be_read(flowers, tmp_path, monkeypatch):
    options = options_of("--dataset", "flowers102", "--data_root", str(flowers))
    (flowers / "flowers-102/jpg/image_00005.jpg").unlink()
    with pytest.raises(UserError, match="flowers-102/jpg lacks 1 images .*image_00005.jpg"):
        real.data_from(options).split("test")
    (flowers / "flowers-102/setid.mat").write_bytes(b"truncated")
    with pytest.raises(UserError, match="flowers-102.* damaged.*torchvision.*Flowers102"):
        real.data_from(options).split("test")
    with pytest.raises(UserError, match="elsewhere/flowers-102"):
        validation(tmp_path / "elsewhere", "flowers102")
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match="pip install scipy"):
        real.data_from(options).split("train")
