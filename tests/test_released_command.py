"""The released ImageNet command line, word for word but for its sizes, in a folder that holds its
files in small.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_student
from dataset import folders, real
from dataset.class_list import FOLDER, read_class_list
from helper.errors import UserError
from models.architectures import create_model

ROOT = Path(__file__).resolve().parent.parent

RELEASED = """
    --path-t ./save/models/ResNet18/resnet18.pth --distill kd --batch_size 256 --epochs 100
    --dataset imagenet --gpu_id 0,1,2,3,4,5,6,7 --num_workers 32 --multiprocessing-distributed
    --learning_rate 0.1 --lr_decay_epochs 30,60,90 --weight_decay 1e-4 --model_s ResNet18
    -r 0 -a 1 --kd_T 10 --use_aug none --data_amount 200k --data_quality 2 --s_step 100
    --experiments_dir 'syn_200k_s2_st100_imagenet-tea-res18-stu-res18/kd_T10'
    --experiments_name 'fold-1'"""
SMALLER = {
    "--batch_size 256": "--batch_size 4",
    "--epochs 100": "--epochs 1",
    "--data_amount 200k": "--data_amount 8",
}
RUN = Path("save/student_model/syn_200k_s2_st100_imagenet-tea-res18-stu-res18/kd_T10/fold-1")
IMAGES = 8

# A machine with a GPU is left out of it.
ON_CPU = ["--device", "cpu"] if torch.cuda.is_available() else []


def smaller(command):
    for there, here in SMALLER.items():
        assert there in command
        command = command.replace(there, here)
    return shlex.split(command)


def save_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 64), Image.BICUBIC).save(path)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "resnet18.pth"
    torch.save(create_model("ResNet18", 1000).state_dict(), path)
    return path


@pytest.fixture
def place(tmp_path, teacher):
    """A working directory as the released README describes it: teacher, synthetic images and their
    list, validation.
    """
    folder = tmp_path / "save/models/ResNet18"
    folder.mkdir(parents=True)
    os.link(teacher, folder / "resnet18.pth")
    names = [
        f"syn_dataset/syn_s2_st100/class_{c}_seed_{s}_num_{n}.png"
        for c, s, n in zip((0, 9, 281, 999) * 2, (0,) * 4 + (3,) * 4, (7, 8) * 4, strict=True)
    ]
    for seed, name in enumerate(names):
        save_image(tmp_path / name, seed)
    (tmp_path / f"syn_dataset/s2_st100_{IMAGES}.txt").write_text("\n".join(names))
    lines = []
    for index, label in enumerate((0, 3, 281, 999)):
        save_image(tmp_path / f"true_dataset/val/ILSVRC2012_val_{index:08d}.JPEG", 100 + index)
        lines.append(f"true_dataset/val/ILSVRC2012_val_{index:08d}.JPEG {label}\n")
    (tmp_path / "true_dataset/imagenet_val.txt").write_text("".join(lines))
    return tmp_path


def start(place, launcher=()):
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "train_student.py"), *smaller(RELEASED), *ON_CPU],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, place):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, json.loads((place / RUN / "result.json").read_text())


def test_the_released_command_on_one_process_and_on_two(place, tmp_path_factory):
    second = tmp_path_factory.mktemp("two") / "place"
    subprocess.run(["cp", "-r", place, second], check=True)
    processes = (
        start(place),
        start(second, ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]),
    )
    (output, one), (_, two) = (
        finish(*pair) for pair in zip(processes, (place, second), strict=True)
    )
    assert "no GPU: --multiprocessing-distributed runs as one CPU process" in output or ON_CPU
    same = {
        "method": "DM-KD",
        "dataset": "imagenet",
        "teacher": "ResNet18",
        "student": "ResNet18",
        "images": IMAGES,
        "source": f"syn_dataset/s2_st100_{IMAGES}.txt",
        "epochs": 1,
        "image_steps": 8,
        "val_images": 4,
    }
    for result in (one, two):
        assert same.items() <= result.items()
        assert result["teacher_top1"] == one["teacher_top1"]
    # Each process normalises its own half of a batch: the losses are near, not equal.
    losses = [
        float((folder / RUN / "metrics.csv").read_text().splitlines()[1].split(",")[2])
        for folder in (place, second)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.3)
    flags = json.loads((place / RUN / "config.json").read_text())["flags"]
    assert (flags["lr_decay_epochs"], flags["weight_decay"], flags["kd_T"]) == (
        [30, 60, 90],
        1e-4,
        10,
    )


def test_its_other_flags(place, monkeypatch):
    """Those of the released parser that the command line does not use; the teacher's own name
    overrides --model_t.
    """
    monkeypatch.chdir(place)
    others = """--print-freq 10 --lr_decay_rate 0.2 --momentum 0.8 --model_t ResNet18
        --use_aug cutmix --save_model --dist-url tcp://127.0.0.1:8081 --rank 0 --deterministic
        --resume --image_size 72 --num_workers 0"""
    result = train_student.main([*smaller(RELEASED), *shlex.split(others), "--device", "cpu"])
    flags = json.loads((RUN / "config.json").read_text())["flags"]
    assert (flags["lr_decay_rate"], flags["momentum"], flags["use_aug"]) == (0.2, 0.8, "cutmix")
    assert result["image_steps"] == 8
    torch.use_deterministic_algorithms(False)
    with pytest.raises(UserError, match="is not a resnet8(.|\n)*use the name ResNet18"):
        train_student.main(
            [*smaller(RELEASED), "--model_t", "resnet8", "--device", "cpu", "--resume"]
        )


def test_the_released_list_for_other_classes(place, monkeypatch, tiny_fashion_mnist):
    """The list's classes are ImageNet's: for another data set they balance the amount and are
    forgotten.
    """
    monkeypatch.chdir(place)
    torch.manual_seed(0)
    Path("resnet8").mkdir()
    torch.save(create_model("resnet8", 10).state_dict(), "resnet8/t.pth")
    argv = [
        "--dataset",
        "fashion_mnist",
        "--data_root",
        str(tiny_fashion_mnist),
        "--path-t",
        "resnet8/t.pth",
        "--epochs",
        "1",
        "--batch_size",
        "4",
        "--data_amount",
        str(IMAGES),
        "--data_quality",
        "2",
        "--val_split",
        "holdout",
        "--device",
        "cpu",
    ]
    result = train_student.main(argv)
    assert (result["images"], result["image_steps"]) == (IMAGES, IMAGES)
    log = Path("save/student_model/fashion_mnist_resnet8/fold-1/train.log").read_text()
    assert "labels of the training images are ignored" in log
    with pytest.raises(UserError, match="-r 0.5 .*--ignore_labels"):
        train_student.main([*argv, "-r", "0.5"])
    # The same images as a folder: their classes are refused, or ignored if that is asked for.
    folder = [*argv, "--train_data", "syn_dataset/syn_s2_st100"]
    with pytest.raises(UserError, match="class 999 and there are 10 classes"):
        train_student.main(folder)
    again = train_student.main([*folder, "--ignore_labels", "--experiments_name", "folder"])
    assert again["images"] == IMAGES


def test_the_released_list_for_some_of_imagenets_classes(place, monkeypatch):
    """With a class list the images of its classes are taken, and their labels are the places in
    it.
    """
    monkeypatch.chdir(place)
    indices = read_class_list(FOLDER / "imagenette.txt").indices
    names = [
        f"class_{c}_seed_0_num_{n}.png" for n in (0, 1) for c in (1, *indices)
    ]  # 1 is none of them
    for seed, name in enumerate(names):
        save_image(place / "syn_dataset" / name, seed)
    Path("syn_dataset/s4_st100_20.txt").write_text(
        "\n".join(f"syn_dataset/{name}" for name in names)
    )
    lines = [f"syn_dataset/class_{c}_seed_0_num_0.png {c}\n" for c in (1, *indices)]
    Path("true_dataset/imagenet_val.txt").write_text("".join(lines))
    torch.manual_seed(0)
    Path("resnet8").mkdir()
    torch.save(create_model("resnet8", 10).state_dict(), "resnet8/t.pth")
    result = train_student.main(
        [
            "--dataset",
            "imagenette",
            "--path-t",
            "resnet8/t.pth",
            "--image_size",
            "32",
            "--data_amount",
            "20",
            "--epochs",
            "1",
            "--batch_size",
            "5",
            "-r",
            "1",
            "--device",
            "cpu",
        ]
    )
    assert (result["images"], result["val_images"], result["image_steps"]) == (20, 10, 20)
    options = train_student.parse_option(
        ["--dataset", "imagenette", "--path-t", "x", "--data_amount", "20"]
    )
    data = real.data_from(options)
    source = folders.released_list_path(4, 100, 20)
    images = train_student.read_images(data, source, 20, 10, options.ignore_labels)
    for index in range(20):
        assert f"class_{indices[images.label(index)]}_" in str(images.images[index])
    assert not options.ignore_labels
