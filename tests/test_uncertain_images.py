"""tools.uncertain_images: the list of the images on which a student is least certain."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import entropy

from dataset.class_list import imagenet_synsets, read_class_list
from dataset.folders import read_training
from dataset.lists import read_list
from dataset.real import REAL_SETS
from helper.errors import UserError
from models.architectures import create_model
from tools import uncertain_images


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """Checkpoint of a ResNet8 with random weights."""
    torch.manual_seed(0)
    network = create_model("resnet8", 10)
    path = tmp_path_factory.mktemp("student") / "resnet8" / "resnet8_latest.pth"
    path.parent.mkdir()
    torch.save(network.state_dict(), path)
    return path


def select(images, file, student, *flags):
    return uncertain_images.main(
        [str(images), str(file), "--student", str(student), "--dataset", "fashion_mnist"]
        + ["--device", "cpu", *flags]
    )


def copy_classes(images, folder, name_of):
    """Copies five images of each class to folder/name_of(class)/."""
    for path in images.glob("*/0000[0-4].png"):
        copy = folder / name_of(int(path.parent.name)) / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


def reference(folder, student):
    """{class: paths of its images, from the most uncertain on}, one image at a time."""
    network = create_model("resnet8", 10, checkpoint=student).eval()
    info = REAL_SETS["fashion_mnist"]
    order = {}
    for path in folder.glob("*/*.png"):
        with Image.open(path) as image:
            grey = np.asarray(image.convert("RGB"), np.float64).mean(2) / 255
        grey = (np.round(grey * 255) / 255 - info.mean[0]) / info.std[0]
        with torch.no_grad():
            logits = network(torch.from_numpy(grey).float().expand(1, 3, 32, 32))[0].double()
        order.setdefault(int(path.parent.name), []).append(
            (entropy(torch.softmax(logits, 0).numpy()), path)
        )
    return {
        label: [path for _, path in sorted(items, reverse=True)] for label, items in order.items()
    }


def test_each_class_gives_the_images_of_largest_entropy(tmp_path, tiny_image_folder, student):
    order = reference(tiny_image_folder, student)
    chosen, every = select(tiny_image_folder, tmp_path / "list.txt", student, "--data_amount", "50")
    paths, labels = read_list(tmp_path / "list.txt")
    assert (len(chosen), len(every)) == (50, 200) and chosen.mean() > every.mean()
    for label in range(10):
        of_class = [path for path, number in zip(paths, labels, strict=True) if number == label]
        assert [str(path) for path in order[label][:5]] == of_class


def test_certain_images_are_the_others(tmp_path, tiny_image_folder, student):
    lists = {}
    for flags in ((), ("--certain",)):
        file = tmp_path / f"list{len(flags)}.txt"
        select(tiny_image_folder, file, student, "--data_amount", "100", *flags)
        lists[flags] = set(read_list(file)[0])
    first, second = lists.values()
    assert len(first) == len(second) == 100 and not first & second


def test_an_uneven_number_and_images_without_labels(tmp_path, tiny_image_folder, student):
    """Some classes give one image more; without labels the whole set is one class."""
    select(tiny_image_folder, tmp_path / "list.txt", student, "--data_amount", "13")
    counts = np.bincount(read_list(tmp_path / "list.txt")[1], minlength=10)
    assert sorted(counts) == [1] * 7 + [2] * 3

    flat = tmp_path / "flat"
    flat.mkdir()
    for path in tiny_image_folder.glob("000[01]/*.png"):
        (flat / f"{path.parent.name}_{path.name}").write_bytes(path.read_bytes())
    chosen, every = select(flat, tmp_path / "flat.txt", student, "--data_amount", "13")
    assert read_list(tmp_path / "flat.txt")[1] is None
    np.testing.assert_array_equal(chosen, np.sort(every)[::-1][:13])


@pytest.mark.parametrize(
    ("amount", "words"), [("201", "needs 21 images.*has 20"), ("1k", "--data_amount 1000")]
)
def test_too_few_images(tmp_path, tiny_image_folder, student, amount, words):
    (tmp_path / "list.txt").write_text("kept")
    with pytest.raises(UserError, match=words):
        select(tiny_image_folder, tmp_path / "list.txt", student, "--data_amount", amount)
    assert (tmp_path / "list.txt").read_text() == "kept"


def test_wrong_student_and_list(tmp_path, tiny_image_folder, student):
    with pytest.raises(UserError, match="not found"):
        select(tiny_image_folder, tmp_path / "l", tmp_path / "no.pth", "--data_amount", "10")
    select(tiny_image_folder, tmp_path / "list.txt", student, "--data_amount", "100")
    with pytest.raises(UserError, match="another name"):
        select(tmp_path / "list.txt", tmp_path / "list.txt", student, "--data_amount", "10")
    assert len(read_list(tmp_path / "list.txt")[0]) == 100


def test_labels_of_a_class_list_are_imagenets(tmp_path, tiny_image_folder, student):
    """As train_student.py reads them: the list of the whole set has the labels of the folder."""
    names = imagenet_synsets()
    (tmp_path / "classes.txt").write_text("".join(f"{names[5 * n]}\n" for n in range(10)))
    folder = copy_classes(tiny_image_folder, tmp_path / "images", lambda n: f"{5 * n:04d}")
    flags = ["--dataset", "imagefolder", "--image_size", "32", "--num_workers", "0"]
    flags += ["--class-list", str(tmp_path / "classes.txt")]
    select(folder, tmp_path / "list.txt", student, "--data_amount", "20", *flags)
    class_list = read_class_list(tmp_path / "classes.txt")
    images = read_training(tmp_path / "list.txt", 10, class_list=class_list)
    assert np.bincount(images.labels).tolist() == [2] * 10
    for path, label in zip(images.images, images.labels, strict=True):
        assert int(Path(path).parent.name) == 5 * label


def test_class_folders_with_names(tmp_path, tiny_image_folder, student):
    """The student knows how many classes there are."""
    folder = copy_classes(tiny_image_folder, tmp_path / "images", lambda n: f"class {n}")
    flags = ["--dataset", "imagefolder", "--image_size", "32", "--num_workers", "0"]
    select(folder, tmp_path / "list.txt", student, "--data_amount", "20", *flags)
    assert np.bincount(read_list(tmp_path / "list.txt")[1]).tolist() == [2] * 10
