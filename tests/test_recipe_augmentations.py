"""One-Image's training augmentations, and training on Places365."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import train_student
from dataset import folders, loader, transforms
from dataset.image_set import ImageSet
from helper import checkpoints
from helper.distributed import World
from helper.errors import UserError, run_script
from models.architectures import create_model

SIZE = 72  # above 64: a large image


def coloured(count=1, width=90, height=100, seed=0):
    """Smooth colour images, uint8 (count, height, width, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)).resize(
                    (width, height), Image.BICUBIC
                )
            )
            for _ in range(count)
        ]
    )


# The transform


class Scripted:
    """numpy Generator whose `random()` returns the given values."""

    def __init__(self, *values, seed=0):
        self.values, self.rng = list(values), np.random.default_rng(seed)

    def random(self):
        return self.values.pop(0)

    def __getattr__(self, name):
        return getattr(self.rng, name)


def transformed(*values, seed=0):
    return np.asarray(
        transforms.LargeColour(SIZE)(Image.fromarray(coloured()[0]), Scripted(*values, seed=seed))
    )


def test_without_colour_changes_it_is_a_bicubic_crop():
    image = Image.fromarray(coloured()[0])
    box = transforms.Large(SIZE).crop_box(*image.size, np.random.default_rng(3))
    plain = image.resize((SIZE, SIZE), Image.BICUBIC, box=box)
    assert np.array_equal(transformed(0.9, 0.9, 0.9, 0.9, seed=3), plain)
    assert np.array_equal(transformed(0.1, 0.9, 0.9, 0.9, seed=3), ImageOps.mirror(plain))
    assert not np.array_equal(plain, image.resize((SIZE, SIZE), Image.BILINEAR, box=box))


def test_each_colour_change():
    plain = transformed(0.9, 0.9, 0.9, 0.9)
    grey = transformed(0.9, 0.9, 0.1, 0.9)
    luma = plain @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert (grey == grey[..., :1]).all() and np.abs(grey[..., 0] - luma).max() <= 1
    assert np.array_equal(
        transformed(0.9, 0.9, 0.9, 0.1), np.where(plain < 128, plain, 255 - plain)
    )
    both = transformed(0.9, 0.9, 0.1, 0.1)
    assert np.array_equal(both, np.where(grey < 128, grey, 255 - grey))
    jittered = transformed(0.9, 0.1, 0.9, 0.9)
    assert np.abs(jittered.astype(int) - plain).mean() > 5 and (jittered != jittered[..., :1]).any()


def test_frequency_and_strength_of_colour_changes():
    rng = np.random.default_rng(0)
    drawn = [transforms.LargeColour.changes(rng) for _ in range(3000)]
    names = [[name for name, _ in changes] for changes in drawn]
    frequencies = {
        name: np.mean([name in one for one in names])
        for name in ("adjust_hue", "rgb_to_grayscale", "solarize")
    }
    assert frequencies == {
        "adjust_hue": pytest.approx(0.8, abs=0.03),
        "rgb_to_grayscale": pytest.approx(0.2, abs=0.03),
        "solarize": pytest.approx(0.2, abs=0.03),
    }
    both = np.mean(["rgb_to_grayscale" in one and "solarize" in one for one in names])
    assert both == pytest.approx(0.04, abs=0.015)  # independent of each other
    for name, centre in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        values = np.array(
            [value for changes in drawn for kind, value in changes if kind == f"adjust_{name}"]
        )
        assert np.abs(values - centre).max() <= 0.4 and np.ptp(values) > 0.78
        assert values.mean() == pytest.approx(centre, abs=0.02)
    firsts = [one[0] for one in names if "adjust_hue" in one]
    assert {firsts.count(name) > 400 for name in set(firsts)} == {True} and len(set(firsts)) == 4
    # Greyscale and solarisation follow the jitter, in this order.
    assert all(
        one[4:] in ([], ["rgb_to_grayscale"], ["solarize"], ["rgb_to_grayscale", "solarize"])
        for one in names
        if "adjust_hue" in one
    )


# The loader


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [str(folder / f"{number}.png") for number in range(14)]
    for path, pixels in zip(paths, coloured(14), strict=True):
        Image.fromarray(pixels).save(path)
    return ImageSet(paths, np.arange(14))


def make(images, colour=True, batch_size=4, seed=3, workers=0):
    transform, world = transforms.training(SIZE, colour), World(0, 1, torch.device("cpu"))
    return loader.make_loader(images, transform, batch_size, world, seed, workers=workers)


def contents(batches):
    """[(labels, pixels as bytes)] of the batches."""
    return [(labels.tolist(), images.numpy().tobytes()) for images, labels in batches]


def test_an_epoch_continues_from_any_step_with_any_workers(files):
    whole = contents(make(files).epoch_batches(1))
    assert len(whole) == 3
    for step in range(4):
        assert contents(make(files).epoch_batches(1, step)) == whole[step:]
    assert contents(make(files, workers=2).epoch_batches(1, 1)) == whole[1:]
    assert (
        contents(make(files, seed=4).epoch_batches(1))
        != whole
        != contents(make(files).epoch_batches(2))
    )


def test_an_image_is_the_same_in_any_batch(files):
    def by_image(batch_size):
        batches = make(files, batch_size=batch_size).epoch_batches(0)
        return {
            int(label): image.numpy().tobytes()
            for images, labels in batches
            for image, label in zip(images, labels, strict=True)
        }

    alone, shared = by_image(1), by_image(5)
    assert len(alone) == 14 and len(shared) == 10 and shared.items() <= alone.items()


def test_without_colour_it_is_the_usual_transform(files):
    usual = contents(make(files, colour=False).epoch_batches(0))
    plain = loader.Loader(files, transforms.Large(SIZE), 4, seed=3, workers=0)
    assert contents(plain.epoch_batches(0)) == usual != contents(make(files).epoch_batches(0))
    assert isinstance(transforms.validation(SIZE), transforms.LargeValidation)


def test_small_images_are_refused():
    with pytest.raises(UserError, match="--augment colour .*64 pixels .*32"):
        transforms.training(32, colour=True)
    assert isinstance(transforms.training(32), transforms.Small)
    assert isinstance(transforms.validation(32), transforms.SmallValidation)


# Places365


CLASSES = ("a/abbey", "a/apartment_building/outdoor", "z/zen_garden")


@pytest.fixture
def places(tmp_path):
    """torchvision's root folder: three classes of three images, their list, and a validation
    image.
    """
    root, lines = tmp_path / "places365", []
    for label, name in enumerate(CLASSES):
        for number in range(1, 4):
            write(root / f"data_256_standard/{name}/{number:08d}.jpg")
            lines.append(f"/{name}/{number:08d}.jpg {label}\n")
    write(root / "val_256/Places365_val_00000001.jpg")
    (root / "places365_train_standard.txt").write_text("".join(lines))
    return root


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coloured(width=40, height=40)[0]).save(path)


def images_of(images, root):
    return [path.removeprefix(f"{root}/data_256_standard/") for path in images.images]


def test_places365_root_is_its_training_images(places):
    images = folders.read_training(places, 10, ignore_labels=True)
    assert images.labels is None
    assert sorted(images_of(images, places)) == [
        f"{name}/{number:08d}.jpg" for name in CLASSES for number in (1, 2, 3)
    ]
    four = folders.read_training(places, 10, amount=4, ignore_labels=True)
    assert images_of(four, places) == [
        *(f"{name}/00000001.jpg" for name in CLASSES),
        "a/abbey/00000002.jpg",
    ]
    # The two folders of the first level, a and z, are not classes.
    assert folders.read_training(places, 2).labels is None


def test_places365_list_is_below_the_images(places, monkeypatch):
    whole = folders.read_training(places / "places365_train_standard.txt", 10, ignore_labels=True)
    assert sorted(whole.images) == sorted(folders.read_training(places, 10).images)
    four = folders.read_training(
        places / "places365_train_standard.txt", 10, amount=4, ignore_labels=True
    )
    assert images_of(four, places) == [
        "a/abbey/00000001.jpg",
        "a/abbey/00000002.jpg",
        *(f"{name}/00000001.jpg" for name in CLASSES[1:]),
    ]
    monkeypatch.chdir(places)
    assert len(folders.read_training("places365_train_standard.txt", 10, ignore_labels=True)) == 9
    (places / "data_256_standard/a/abbey/00000002.jpg").unlink()
    with pytest.raises(UserError, match=r"standard.txt, line 2: .*/a/abbey/00000002.jpg"):
        folders.read_training(places / "places365_train_standard.txt", 10, ignore_labels=True)


def test_places365_in_two_sizes_is_refused(places):
    write(places / "data_large_standard/a/abbey/00000001.jpg")
    for source in (places, places / "places365_train_standard.txt"):
        with pytest.raises(UserError, match="data_256_standard and data_large_standard"):
            folders.read_training(source, 10, ignore_labels=True)
    assert len(folders.read_training(places / "data_large_standard", 10, ignore_labels=True)) == 1
    assert len(folders.read_training(places / "data_256_standard", 10, ignore_labels=True)) == 9


def test_a_list_refers_to_the_images_of_its_variant(places):
    write(places / "data_256_challenge/a/abbey/00000001.jpg")
    (places / "places365_train_challenge.txt").write_text("/a/abbey/00000001.jpg 0\n")
    images = folders.read_training(places / "places365_train_challenge.txt", 10, ignore_labels=True)
    assert list(images.images) == [f"{places}/data_256_challenge/a/abbey/00000001.jpg"]


@pytest.fixture
def argv(places, tiny_fashion_mnist, tmp_path, monkeypatch):
    """Command line of train_student.py: a random Fashion-MNIST teacher and Places365 images."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (tmp_path / "resnet8").mkdir()
    checkpoints.save(
        tmp_path / "resnet8/teacher.pth", {"model": create_model("resnet8", 10).state_dict()}
    )
    return [
        "--dataset",
        "fashion_mnist",
        "--data_root",
        str(tiny_fashion_mnist),
        "--path-t",
        "resnet8/teacher.pth",
        "--model_s",
        "resnet8",
        "--epochs",
        "1",
        "--batch_size",
        "4",
        "--device",
        "cpu",
        "--train_data",
        str(places),
        "--ignore_labels",
    ]


def test_a_student_of_other_classes_learns_from_places365(argv, places):
    result = train_student.main(argv)
    assert result["images"] == 9 and result["image_steps"] == 8 and result["source"] == str(places)
    with pytest.raises(UserError, match=f"-r 1 .*{places}"):
        train_student.main([*argv, "-r", "1"])


def test_the_flag_on_the_command_line(argv, capsys):
    assert run_script(train_student.main, [*argv, "--augment", "colour"]) == 2
    assert capsys.readouterr().err.startswith("error: --augment colour ")
    folder = Path("save/student_model/fashion_mnist_resnet8/fold-1")
    assert not folder.exists()
    losses = {}
    for augment in ("colour", "usual"):
        name = ["--experiments_name", augment]
        train_student.main(
            [*argv, "--image_size", "80", "--num_workers", "0", "--augment", augment, *name]
        )
        config = json.loads((folder.parent / augment / "config.json").read_text())
        assert config["flags"]["augment"] == augment
        losses[augment] = (
            (folder.parent / augment / "metrics.csv").read_text().splitlines()[1].split(",")[2]
        )
    assert losses["colour"] != losses["usual"]
