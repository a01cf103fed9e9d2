"""The training scripts' flags, and what they say of wrong input: one or two lines, exit code 2,
nothing lost.
"""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import helper.files
import train_dit
import train_student
import train_teacher
from helper import checkpoints
from helper.distributed import World
from helper.errors import run
from models.architectures import create_model

FEW = ["--epochs", "2", "--batch_size", "64", "--device", "cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_fashion_mnist):
    """A working directory with a data root DATA, a teacher, and a set SET of 12 images to be
    damaged.
    """
    monkeypatch.chdir(tmp_path)
    Path("DATA").symlink_to(tiny_fashion_mnist)
    Path("resnet8").mkdir()
    torch.manual_seed(0)
    torch.save(create_model("resnet8", 10).state_dict(), "resnet8/teacher.pth")
    images("SET", {f"{i % 10:04d}/{i // 10:05d}.png" for i in range(12)})
    return tmp_path


def images(folder, names, size=32):
    for name in names:
        (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (90, 60, len(name))).save(Path(folder) / name)


def checkpoint(name, content):
    Path(name).parent.mkdir(exist_ok=True)
    torch.save(content, name)


def truncated(name):
    content = Path("resnet8/teacher.pth").read_bytes()
    Path(name).write_bytes(content[: len(content) // 2])


class Code:
    """Unpickled it would run a command."""

    def __reduce__(self):
        return os.system, ("touch CODE_HAS_RUN",)


def damage(name, size=32):
    images(Path(name).parent, [Path(name).name], size)
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: len(content) - 30])


def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def other_run(folder, model="resnet8"):
    """A run folder that holds some checkpoint."""
    Path(folder).mkdir(parents=True)
    shutil.copy("resnet8/teacher.pth", f"{folder}/{model}_latest.pth")


RUN = "save/student_model/fashion_mnist_resnet8/fold-1"

# What is done beforehand, the flags that differ from right ones, what the message says.
STUDENT = {
    # Data
    "no data": (
        None,
        ["--data_root", "nowhere"],
        "Fashion-MNIST is not in nowhere/FashionMNIST/raw: run  python -m",
    ),
    "no cifar": (None, ["--dataset", "cifar10"], "cifar10 is not in DATA: run"),
    "no imagenet": (
        None,
        ["--dataset", "imagenet"],
        "no val images of imagenet: none of DATA/imagenet_val.txt",
    ),
    "no folder": (None, ["--train_data", "nowhere"], "training images not found: nowhere"),
    "no released list": (
        None,
        ["--train_data", None],
        "training images not found: syn_dataset/s4_st100_400k.txt",
    ),
    "empty folder": (
        lambda: Path("empty").mkdir(),
        ["--train_data", "empty"],
        "no images in empty",
    ),
    "missing image": (
        lambda: write("list.txt", "SET/0001/00000.png 1\nSET/lost.png 2\n"),
        ["--train_data", "list.txt"],
        "list.txt, line 2: image not found: SET/lost.png",
    ),
    "damaged image": (lambda: damage("SET/0003/00000.png"), [], "damaged image SET/0003/00000.png"),
    "damaged image, decoded in the loop": (
        lambda: [images("BIG", ["0000/0.png", "0001/0.png"], 96), damage("BIG/0002/0.png", 96)],
        [
            "--train_data",
            "BIG",
            "--image_size",
            "96",
            "--num_workers",
            "1",
            "--val_split",
            "holdout",
        ],
        "damaged image BIG/0002/0.png",
    ),
    "damaged manifest": (
        lambda: write("SET/manifest.json", "{"),
        [],
        "manifest SET/manifest.json is not valid JSON",
    ),
    "class out of range": (
        lambda: images("SET", ["0010/00000.png"]),
        [],
        "SET holds class 10 and there are 10 classes",
    ),
    "class out of range in a list": (
        lambda: write("list.txt", "SET/0001/00000.png 11"),
        ["--train_data", "list.txt"],
        "list.txt holds class 11 and there are 10 classes",
    ),
    "too many images asked": (
        None,
        ["--data_amount", "13"],
        "--data_amount 13 needs 2 images in class 2 and SET holds 1",
    ),
    "too many real images": (
        None,
        ["--train_data", "real", "--data_amount", "1k"],
        "--data_amount 1000 needs 100 images",
    ),
    "validation classes": (
        lambda: images("VAL", ["a/0.png", "b/0.png"]),
        ["--val_data", "VAL"],
        "VAL has 2 class folders and the data set has 10 classes",
    ),
    "validation class out of range": (
        lambda: write("val.txt", "SET/0001/00000.png 10"),
        ["--val_data", "val.txt"],
        "val.txt holds class 10",
    ),
    "validation missing": (None, ["--val_data", "nowhere"], "validation images not found: nowhere"),
    "validation empty": (
        lambda: Path("empty").mkdir(),
        ["--val_data", "empty"],
        "no labelled validation images in empty",
    ),
    "validation unlabelled": (
        lambda: write("val.txt", "SET/0001/00000.png"),
        ["--val_data", "val.txt"],
        "val.txt gives no labels",
    ),
    "validation damaged": (
        lambda: [images("VAL", [f"{i}/0.png" for i in range(10)]), damage("VAL/4/1.png")],
        ["--val_data", "VAL"],
        "damaged image VAL/4/1.png",
    ),
    "holdout of another set": (
        None,
        ["--dataset", "cifar10", "--val_split", "holdout"],
        "--val_split holdout is fashion_mnist's, --dataset is cifar10",
    ),
    "cross-entropy without labels": (
        lambda: images("plain", ["x/a.png", "y/b.png"]),
        ["--train_data", "plain", "-r", "1"],
        "-r 1 weighs a cross-entropy and plain has no",
    ),
    "cross-entropy without the labels": (
        None,
        ["--ignore_labels", "-r", "1"],
        "-r 1 weighs a cross-entropy and SET has labels that play no part",
    ),
    "nothing to estimate": (
        None,
        ["--train_data", "nowhere", "--estimate"],
        "training images not found: nowhere",
    ),
    "estimate of an evaluation": (
        None,
        ["--estimate", "--evaluate", "resnet8/teacher.pth"],
        "--estimate is of a training and --evaluate makes none",
    ),
    # Checkpoints
    "no teacher flag": (None, ["--path-t", None], "--path-t is needed"),
    "no teacher": (
        None,
        ["--path-t", "resnet8/none.pth"],
        "checkpoint not found: resnet8/none.pth",
    ),
    "nothing names the architecture": (
        lambda: checkpoint("mine/t.pth", {"head.weight": torch.zeros(10, 3)}),
        ["--path-t", "mine/t.pth"],
        "does not begin with the name of an architecture, and its tensors (head.weight, …) are not",
    ),
    "unknown layout": (
        lambda: checkpoint("mine/t.pth", {"weights": {"fc.weight": torch.zeros(10, 3)}}),
        ["--path-t", "mine/t.pth"],
        "holds no state dict: expected tensors by name, or a dict under "
        "'model', 'state_dict', 'state', 'net'",
    ),
    "other architecture": (None, ["--model_t", "wrn_16_1"], "is not a wrn_16_1"),
    "other architecture is named": (None, ["--model_t", "resnet20"], "use the name resnet8"),
    "unknown architecture": (None, ["--model_t", "resnet9"], "unknown model 'resnet9'"),
    "unknown student": (None, ["--model_s", "vgg12"], "unknown model 'vgg12'"),
    "other class count": (
        lambda: checkpoint("resnet8/t.pth", create_model("resnet8", 7).state_dict()),
        ["--path-t", "resnet8/t.pth"],
        "is a resnet8 for 7 classes, 10 are needed",
    ),
    "no state dict": (
        lambda: checkpoint("resnet8/t.pth", [1, 2]),
        ["--path-t", "resnet8/t.pth"],
        "holds no state dict",
    ),
    "truncated": (
        lambda: truncated("resnet8/t.pth"),
        ["--path-t", "resnet8/t.pth"],
        "t.pth is truncated or not a",
    ),
    "truncated safetensors": (
        lambda: truncated("resnet8/t.safetensors"),
        ["--path-t", "resnet8/t.safetensors"],
        "t.safetensors is truncated or not a",
    ),
    "no checkpoint at all": (
        lambda: write("resnet8/t.pth", "hello"),
        ["--path-t", "resnet8/t.pth"],
        "is truncated or not",
    ),
    "empty checkpoint": (
        lambda: write("resnet8/t.pth", ""),
        ["--path-t", "resnet8/t.pth"],
        "is truncated or not",
    ),
    "code": (
        lambda: checkpoint("resnet8/t.pth", {"model": Code()}),
        ["--path-t", "resnet8/t.pth"],
        "could run code: refused",
    ),
    "code in an old format": (
        lambda: torch.save(Code(), "resnet8/t.pth", _use_new_zipfile_serialization=False),
        ["--path-t", "resnet8/t.pth"],
        "could run code: refused",
    ),
    "evaluate nothing": (None, ["--evaluate", "none.pth"], "checkpoint not found: none.pth"),
    "evaluate a list": (
        lambda: checkpoint("resnet8/s.pth", [1]),
        ["--evaluate", "resnet8/s.pth", "--model_s", None],
        "holds no state dict",
    ),
    "evaluate code": (
        lambda: checkpoint("s.pth", Code()),
        ["--evaluate", "s.pth"],
        "could run code: refused",
    ),
    # Run folders
    "folder holds a run": (lambda: other_run(RUN), [], "holds a run already: give --resume"),
    "resume from no run": (
        lambda: other_run(RUN),
        ["--resume"],
        "is not a run's checkpoint to resume from",
    ),
    "resume from a truncated run": (
        lambda: [other_run(RUN), truncated(f"{RUN}/resnet8_latest.pth")],
        ["--resume"],
        "is truncated or not a",
    ),
    "folder below a file": (lambda: write("save", ""), [], "cannot write save/student_model"),
    "folder is a file": (lambda: write(RUN, ""), [], f"{RUN} is a file, a folder is needed"),
    # Flags
    "unknown flag": (None, ["--colour", "red"], "unrecognized arguments: --colour red"),
    "abbreviated flag": (None, ["--epo", "3"], "unrecognized arguments: --epo 3"),
    "value missing": (None, ["--epochs"], "argument --epochs: expected one argument"),
    "no epochs": (None, ["--epochs", "0"], "0 is not a positive integer"),
    "epochs no number": (None, ["--epochs", "ten"], "argument --epochs"),
    "batch size": (None, ["--batch_size", "-4"], "-4 is not a positive integer"),
    "learning rate": (None, ["--learning_rate", "nan"], "nan is not a positive number"),
    "temperature": (None, ["--kd_T", "0"], "0 is not a positive number"),
    "negative weight": (None, ["-a", "-1"], "-1 is not a number of at least 0"),
    "nothing to learn": (None, ["-a", "0"], "-a and -r are both 0"),
    "amount": (None, ["--data_amount", "1.5"], "1.5 is not a count of images"),
    "amount no number": (None, ["--data_amount", "many"], "argument --data_amount"),
    "milestones": (None, ["--lr_decay_epochs", "30;60"], "argument --lr_decay_epochs"),
    "mean": (None, ["--mean_t", "0.5,0.5"], "is not one number or three"),
    "mixing": (None, ["--use_aug", "blur"], "invalid choice: 'blur'"),
    "mixing weight": (None, ["--mix_beta", "1"], "give --use_aug mixup or cutmix"),
    "method": (None, ["--distill", "crd"], "invalid choice: 'crd'"),
    "data set": (None, ["--dataset", "mnist"], "invalid choice: 'mnist'"),
    "image size": (None, ["--image_size", "0"], "0 is not a positive integer"),
    "seed": (None, ["--seed=-1"], "-1 is negative"),
    "device": (None, ["--device", "abacus"], "--device abacus is unknown"),
}

IMAGE_FOLDER = ["--dataset", "imagefolder", "--data_root", "DATA2"]

TEACHER = {
    "no data": STUDENT["no data"],
    "no train images": (
        lambda: images("DATA2/imagefolder/val", ["a/0.png"]),
        IMAGE_FOLDER,
        "no train images of imagefolder",
    ),
    "train and validation classes": (
        lambda: [
            images("DATA2/imagefolder/val", ["a/0.png"]),
            images("DATA2/imagefolder/train", ["a/0.png", "b/0.png"]),
        ],
        IMAGE_FOLDER,
        "2 training classes and 1 validation classes",
    ),
    "empty train folder": (
        lambda: [
            images("DATA2/imagefolder/val", ["a/0.png"]),
            Path("DATA2/imagefolder/train").mkdir(),
        ],
        IMAGE_FOLDER,
        "images in DATA2/imagefolder/train",
    ),
    "damaged image": (
        lambda: [
            images("DATA2/imagefolder/val", ["a/0.png"]),
            damage("DATA2/imagefolder/train/a/1.png"),
        ],
        [*IMAGE_FOLDER, "--image_size", "32"],
        "damaged image DATA2/imagefolder/train/a/1.png",
    ),
    "missing image": (
        lambda: [
            write("DATA2/imagefolder_val.txt", "SET/0000/00000.png 0"),
            write("DATA2/imagefolder_train.txt", "SET/0000/00000.png 0\nlost.png 0\n"),
        ],
        IMAGE_FOLDER,
        "imagefolder_train.txt, line 2: image not found: lost.png",
    ),
    "validation classes": STUDENT["validation classes"],
    "holdout of another set": (
        lambda: images("DATA2/imagefolder/train", ["a/0.png"]),
        [*IMAGE_FOLDER, "--val_split", "holdout"],
        "--val_split holdout is fashion_mnist's, --dataset is imagefolder",
    ),
    "no model": (None, ["--model", None], "the following arguments are required: --model"),
    "unknown model": (None, ["--model", "resnet21"], "unknown model 'resnet21'"),
    "unknown model of a library": (
        None,
        ["--model", "timm/resnt18"],
        "unknown model 'timm/resnt18'",
    ),
    "no published weights": (None, ["--pretrained"], "resnet8 has no published weights"),
    "pretrained on nothing": (None, ["--pretrained", "none.pth"], "checkpoint not found: none.pth"),
    "pretrained as another": (
        lambda: checkpoint("x/t.pth", create_model("resnet14", 10).state_dict()),
        ["--pretrained", "x/t.pth"],
        "use the name resnet14",
    ),
    "no train data": (None, ["--train_data", "nowhere"], "training images not found: nowhere"),
    "train data without labels": (
        lambda: images("plain", ["x/a.png", "y/b.png"]),
        ["--train_data", "plain"],
        "plain has no labels, which a teacher learns from",
    ),
    "train data of other classes": (
        lambda: images("SET", ["0010/00000.png"]),
        ["--train_data", "SET"],
        "SET holds class 10 and there are 10 classes",
    ),
    "smoothing": (None, ["--label_smoothing", "1.5"], "1.5 is not in [0, 1]"),
    "folder holds a run": (
        lambda: other_run("save/models/fashion_mnist/resnet8"),
        [],
        "holds a run already",
    ),
    "resume from no run": (
        lambda: other_run("save/models/fashion_mnist/resnet8"),
        ["--resume"],
        "is not a run's checkpoint",
    ),
    "folder below a file": (
        None,
        ["--save_dir", "resnet8/teacher.pth/x"],
        "a part of this path is a file",
    ),
    "folder is a file": (
        None,
        ["--save_dir", "resnet8/teacher.pth"],
        "is a file, a folder is needed",
    ),
    "unknown flag": STUDENT["unknown flag"],
    "no epochs": STUDENT["no epochs"],
}

VAE_FILE = "save/models/fashion_mnist/DiT-1x16-2/train_vae/vae_latest.pth"


def vae_file(content):
    Path(VAE_FILE).parent.mkdir(parents=True)
    torch.save(content, VAE_FILE)


DIT = {
    "no data": STUDENT["no data"],
    "no stage": (None, ["--stage", None], "the following arguments are required: --stage"),
    "unknown stage": (None, ["--stage", "gan"], "invalid choice: 'gan'"),
    "no autoencoder": (None, ["--stage", "dit"], f"{VAE_FILE} not found: run --stage vae first"),
    "foreign autoencoder": (
        lambda: vae_file({"weight": torch.zeros(1)}),
        ["--stage", "dit"],
        "is not a checkpoint of --stage vae",
    ),
    "truncated autoencoder": (
        lambda: write(VAE_FILE, "PK"),
        ["--stage", "dit"],
        "is truncated or not a",
    ),
    "unfinished autoencoder": (
        lambda: vae_file({"flags": {}, "optimizer": {}}),
        ["--stage", "dit"],
        "of an unfinished run",
    ),
    "other autoencoder": (
        lambda: vae_file({"flags": {"vae_channels": [8, 8], "latent_channels": 4}}),
        ["--stage", "dit"],
        "vae_latest.pth was trained with [8, 8]",
    ),
    "channels": (None, ["--vae_channels", "8,12"], "--vae_channels must be multiples of 8"),
    "no channels": (None, ["--vae_channels", "0"], "--vae_channels must be multiples of 8"),
    "image size": (None, ["--image_size", "31"], "--image_size 31 is not divisible by 2"),
    "decay": (None, ["--ema", "1"], "--ema must be in [0, 1)"),
    "label dropout": (None, ["--label_dropout", "1.2"], "--label_dropout in [0, 1]"),
    "folder below a file": (
        None,
        ["--save_dir", "resnet8/teacher.pth/x"],
        "a part of this path is a file",
    ),
    "folder holds a run": (lambda: vae_file({"weight": torch.zeros(1)}), [], "holds a run already"),
    "unknown flag": STUDENT["unknown flag"],
    "no width": (None, ["--width", "0"], "0 is not a positive integer"),
}

BASE = ["--dataset", "fashion_mnist", "--data_root", "DATA", *FEW]
RIGHT = {
    train_student: [
        *BASE,
        "--path-t",
        "resnet8/teacher.pth",
        "--train_data",
        "SET",
        "--model_s",
        "resnet8",
    ],
    train_teacher: [*BASE, "--model", "resnet8"],
    train_dit: [
        *BASE,
        "--stage",
        "vae",
        "--vae_channels",
        "8,16",
        "--depth",
        "1",
        "--width",
        "16",
        "--heads",
        "2",
    ],
}


def changed(argv, flags):
    """Returns the right flags with others in their place; None takes a flag away."""
    argv = list(argv)
    for flag, value in zip(flags, flags[1:], strict=False):
        if value is None:
            at = argv.index(flag)
            del argv[at : at + 2]
    takes_away = {
        i for i, flag in enumerate(flags) if flag is None or flags[i + 1 : i + 2] == [None]
    }
    return argv + [flag for i, flag in enumerate(flags) if i not in takes_away]


def assert_message(capsys, expected):
    errors = capsys.readouterr().err.replace("\r", "\n")
    shown = errors[errors.index("error: ") :].rstrip("\n")  # a progress bar may stand before it
    assert expected in shown
    assert shown.count("\n") <= 1 and "Traceback" not in errors and "usage:" not in errors


def check(script, table, name, capsys):
    prepare, flags, expected = table[name]
    if prepare:
        prepare()
    before = {path: path.read_bytes() for path in Path().rglob("*.pth")}
    capsys.readouterr()
    assert run(script.main, changed(RIGHT[script], flags)) == 2
    assert_message(capsys, expected)
    assert not list(Path().rglob("*.part")) and not Path("CODE_HAS_RUN").exists()
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("name", STUDENT)
def test_train_student(place, capsys, name):
    check(train_student, STUDENT, name, capsys)


@pytest.mark.parametrize("name", TEACHER)
def test_train_teacher(place, capsys, name):
    check(train_teacher, TEACHER, name, capsys)


@pytest.mark.parametrize("name", DIT)
def test_train_dit(place, capsys, name):
    check(train_dit, DIT, name, capsys)


@pytest.mark.parametrize("script", RIGHT)
def test_batch_that_cannot_be_shared(place, capsys, monkeypatch, script):
    monkeypatch.setattr("helper.distributed.start", lambda _: World(0, 2, torch.device("cpu")))
    monkeypatch.setattr("train_student.parallel", lambda model, _: model)
    monkeypatch.setattr(World, "close", lambda _: None)
    assert run(script.main, [*RIGHT[script], "--batch_size", "33"]) == 2
    assert_message(
        capsys, "--batch_size 33 cannot be shared among 2 processes: give a multiple of 2"
    )


@pytest.mark.parametrize("script", RIGHT)
def test_no_permission(place, capsys, monkeypatch, script):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("helper.files.Path.mkdir", denied)
    assert run(script.main, RIGHT[script]) == 2
    assert_message(capsys, "no permission: choose another folder or change its permissions")


@pytest.mark.parametrize("moment", ["write", "rename"])
@pytest.mark.parametrize("name", ["resnet8_latest.pth", "metrics.csv"])
def test_full_disk_leaves_the_previous_checkpoint(place, capsys, monkeypatch, moment, name):
    """The end of the second epoch finds the disk full; with room again the run goes on to the same
    end.
    """
    folder, times = Path("save/student_model/full/fold-1"), []

    def full(path):
        times.append(str(path)) if name in Path(path).name else None
        return len(times) == 2 and name in Path(path).name

    def opened(path, mode):
        return open("/dev/full" if full(path) else path, mode)

    def replaced(part, path):
        if full(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(part, path)

    argv = [*RIGHT[train_student], "--val_split", "holdout", "--experiments_dir"]
    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(helper.files, "open", opened, raising=False)
        else:
            patch.setattr("helper.files.os.replace", replaced)
        assert run(train_student.main, [*argv, "full"]) == 2
    assert_message(capsys, "the disk is full: free some space, then run the same command again")
    assert len(times) == 2 and not list(folder.glob("*.part"))
    assert checkpoints.load(folder / "resnet8_latest.pth")["progress"]["epoch"] == 1
    assert len((folder / "metrics.csv").read_text().splitlines()) == (
        2 if name == "metrics.csv" else 3
    )
    train_student.main([*argv, "full", "--resume"])
    train_student.main([*argv, "room"])
    one, other = (
        checkpoints.load(f"save/student_model/{name}/fold-1/resnet8_latest.pth")["model"]
        for name in ("full", "room")
    )
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_dashes_and_underscores_are_one():
    for script, argv in RIGHT.items():
        for one, other in (("-", "_"), ("_", "-")):
            words = [
                "--" + word[2:].replace(one, other) if word[:2] == "--" else word for word in argv
            ]
            words += [f"--print{other}freq=7", f"--weight{other}decay=0.25"]
            options = script.parse_option(words)
            assert (
                options.print_freq == 7
                and options.weight_decay == 0.25
                and options.data_root == "DATA"
            )
    assert (
        train_student.parse_option(["--path_t", "some_folder/a-b_c.pth"]).path_t
        == "some_folder/a-b_c.pth"
    )


def test_the_released_command_line():
    line = """--path-t ./save/models/ResNet18/resnet18.pth --distill kd --batch_size 256 --epochs 100 --dataset imagenet
        --gpu_id 0,1,2,3,4,5,6,7 --dist-url tcp://127.0.0.1:23333 --num_workers 32 --multiprocessing-distributed
        --learning_rate 0.1 --lr_decay_epochs 30,60,90 --weight_decay 1e-4 --model_s ResNet18 -r 0 -a 1 --kd_T 10
        --use_aug none --data_amount 200k --data_quality 2 --s_step 100 --experiments_dir tea-res18-stu-res18
        --experiments_name fold-1 --print-freq 20 --save_model --deterministic --rank 0"""
    options = train_student.parse_option(line.split())
    expected = {
        "path_t": "./save/models/ResNet18/resnet18.pth",
        "distill": "kd",
        "batch_size": 256,
        "epochs": 100,
        "dataset": "imagenet",
        "gpu_id": "0,1,2,3,4,5,6,7",
        "num_workers": 32,
        "multiprocessing_distributed": True,
        "learning_rate": 0.1,
        "lr_decay_epochs": [30, 60, 90],
        "lr_decay_rate": 0.1,
        "weight_decay": 1e-4,
        "model_s": "ResNet18",
        "gamma": 0,
        "alpha": 1,
        "kd_T": 10,
        "use_aug": "none",
        "data_amount": 200_000,
        "data_quality": 2,
        "s_step": 100,
        "experiments_dir": "tea-res18-stu-res18",
        "experiments_name": "fold-1",
        "schedule": "step",
        "momentum": 0.9,
        "print_freq": 20,
        "deterministic": True,
        "train_data": None,
    }
    assert {name: getattr(options, name) for name in expected} == expected
    from dataset.folders import find_released_list
    from models.classifiers import architecture_of

    assert (
        str(find_released_list(options.data_quality, options.s_step, options.data_amount))
        == "syn_dataset/s2_st100_200k.txt"
    )
    assert architecture_of(options.path_t) == "ResNet18"


def test_released_defaults_and_the_rate_of_shuffle_students(capsys):
    options = train_student.parse_option(["--path-t", "x"])
    assert (
        options.epochs,
        options.batch_size,
        options.lr_decay_epochs,
        options.weight_decay,
        options.kd_T,
    ) == (240, 128, [150, 180, 210], 5e-4, 4)
    assert (options.data_quality, options.s_step, options.alpha, options.gamma) == (4, 100, 1, 0)
    options = train_student.parse_option(
        ["--path-t", "x", "--model_s", "ShuffleV2", "--learning_rate", "0.1"]
    )
    assert options.learning_rate == 0.02 and "ShuffleV2" in capsys.readouterr().out


def test_another_ranks_message_is_not_printed_twice(place, capsys, monkeypatch):
    """What all ranks meet is said by rank 0: torchrun ends the others while they wait."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(
        "helper.errors.time.sleep", lambda _: (_ for _ in ()).throw(SystemExit(143))
    )
    with pytest.raises(SystemExit):
        run(train_student.main, [*RIGHT[train_student], "--epochs", "0"])
    assert capsys.readouterr().err == ""
