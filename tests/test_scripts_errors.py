"""Flags of the training scripts, and their errors: one or two lines, exit code 2, no file lost."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import helper.files
import train_dit
import train_student
import train_teacher
from dataset.folders import released_list_path
from helper import checkpoints
from helper.distributed import World
from helper.errors import run_script
from models.architectures import create_model
from models.classifiers import architecture_of

FEW = ["--epochs", "2", "--batch_size", "64", "--device", "cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_fashion_mnist):
    """A working directory with a data root DATA, a teacher, and an image folder SET."""
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


class MaliciousObject:
    """Runs a command when it is unpickled."""

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
    """A run folder whose checkpoint is not that of a run."""
    Path(folder).mkdir(parents=True)
    shutil.copy("resnet8/teacher.pth", f"{folder}/{model}_latest.pth")


RUN = "save/student_model/fashion_mnist_resnet8/fold-1"

# name: (preparation, flags that replace valid ones, pattern of the message)
STUDENT = {
    # Data
    "no data": (
        None,
        ["--data_root", "nowhere"],
        "nowhere/FashionMNIST/raw.* python -m tools.fashion_mnist",
    ),
    "no cifar": (None, ["--dataset", "cifar10"], "cifar10 .*DATA.*torchvision"),
    "no imagenet": (
        None,
        ["--dataset", "imagenet"],
        "imagenet.*DATA/imagenet_val.txt.*--val_data",
    ),
    "no folder": (None, ["--train_data", "nowhere"], "training images .*nowhere"),
    "no released list": (
        None,
        ["--train_data", None],
        "training images .*syn_dataset/s4_st100_400k.txt",
    ),
    "empty folder": (
        lambda: Path("empty").mkdir(),
        ["--train_data", "empty"],
        "images in empty",
    ),
    "missing image": (
        lambda: write("list.txt", "SET/0001/00000.png 1\nSET/lost.png 2\n"),
        ["--train_data", "list.txt"],
        "list.txt, line 2: .*SET/lost.png",
    ),
    "damaged image": (lambda: damage("SET/0003/00000.png"), [], "damaged .*SET/0003/00000.png"),
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
        "damaged .*BIG/0002/0.png",
    ),
    "damaged manifest": (
        lambda: write("SET/manifest.json", "{"),
        [],
        "SET/manifest.json",
    ),
    "class out of range": (
        lambda: images("SET", ["0010/00000.png"]),
        [],
        "SET .*class 10 .*10 classes.*--dataset.*--class-list.*--ignore_labels",
    ),
    "class out of range in a list": (
        lambda: write("list.txt", "SET/0001/00000.png 11"),
        ["--train_data", "list.txt"],
        "list.txt .*class 11 .*10 classes.*--dataset",
    ),
    "too many images asked": (
        None,
        ["--data_amount", "13"],
        "--data_amount 13 .*2 .*class 2.*SET .*1",
    ),
    "too many real images": (
        None,
        ["--train_data", "real", "--data_amount", "1k"],
        "--data_amount 1000 .*100 .*fashion_mnist",
    ),
    "validation classes": (
        lambda: images("VAL", ["a/0.png", "b/0.png"]),
        ["--val_data", "VAL"],
        "VAL .*2 .*10 classes.*--val_data.*--dataset",
    ),
    "validation class out of range": (
        lambda: write("val.txt", "SET/0001/00000.png 10"),
        ["--val_data", "val.txt"],
        "val.txt .*class 10",
    ),
    "validation missing": (None, ["--val_data", "nowhere"], "validation images .*nowhere"),
    "validation empty": (
        lambda: Path("empty").mkdir(),
        ["--val_data", "empty"],
        "validation images in empty",
    ),
    "validation unlabelled": (
        lambda: write("val.txt", "SET/0001/00000.png"),
        ["--val_data", "val.txt"],
        "val.txt .*labels",
    ),
    "validation damaged": (
        lambda: [images("VAL", [f"{i}/0.png" for i in range(10)]), damage("VAL/4/1.png")],
        ["--val_data", "VAL"],
        "damaged .*VAL/4/1.png",
    ),
    "holdout of another set": (
        None,
        ["--dataset", "cifar10", "--val_split", "holdout"],
        "--val_split holdout .*fashion_mnist.*cifar10",
    ),
    "cross-entropy without labels": (
        lambda: images("plain", ["x/a.png", "y/b.png"]),
        ["--train_data", "plain", "-r", "1"],
        "-r 1 .*labels.*plain",
    ),
    "cross-entropy without the labels": (
        None,
        ["--ignore_labels", "-r", "1"],
        "-r 1 .*labels.*SET.*--ignore_labels",
    ),
    "nothing to estimate": (
        None,
        ["--train_data", "nowhere", "--estimate"],
        "training images .*nowhere",
    ),
    "estimate of an evaluation": (
        None,
        ["--estimate", "--evaluate", "resnet8/teacher.pth"],
        "--estimate .*--evaluate",
    ),
    # Checkpoints
    "no teacher flag": (None, ["--path-t", None], "--path-t "),
    "no teacher": (
        None,
        ["--path-t", "resnet8/none.pth"],
        "resnet8/none.pth",
    ),
    "nothing names the architecture": (
        lambda: checkpoint("mine/t.pth", {"head.weight": torch.zeros(10, 3)}),
        ["--path-t", "mine/t.pth"],
        "mine.* mine/t.pth .*head.weight.*--model_t",
    ),
    "unknown layout": (
        lambda: checkpoint("mine/t.pth", {"weights": {"fc": [0.0]}}),
        ["--path-t", "mine/t.pth"],
        "mine/t.pth .*'model', 'state_dict', 'state', 'net'",
    ),
    "other architecture": (None, ["--model_t", "wrn_16_1"], "resnet8/teacher.pth .*wrn_16_1"),
    "other architecture is named": (
        None,
        ["--model_t", "resnet20"],
        "teacher.pth .*resnet20.*resnet8",
    ),
    "unknown architecture": (None, ["--model_t", "resnet9"], "'resnet9'"),
    "unknown student": (None, ["--model_s", "vgg12"], "'vgg12'"),
    "other class count": (
        lambda: checkpoint("resnet8/t.pth", create_model("resnet8", 7).state_dict()),
        ["--path-t", "resnet8/t.pth"],
        "resnet8/t.pth .*resnet8 .*7 classes.*10",
    ),
    "no state dict": (
        lambda: checkpoint("resnet8/t.pth", [1, 2]),
        ["--path-t", "resnet8/t.pth"],
        "resnet8/t.pth .*state dict",
    ),
    "truncated": (
        lambda: truncated("resnet8/t.pth"),
        ["--path-t", "resnet8/t.pth"],
        "resnet8/t.pth .*truncated",
    ),
    "truncated safetensors": (
        lambda: truncated("resnet8/t.safetensors"),
        ["--path-t", "resnet8/t.safetensors"],
        "resnet8/t.safetensors .*truncated",
    ),
    "no checkpoint at all": (
        lambda: write("resnet8/t.pth", "hello"),
        ["--path-t", "resnet8/t.pth"],
        "resnet8/t.pth .*truncated",
    ),
    "empty checkpoint": (
        lambda: write("resnet8/t.pth", ""),
        ["--path-t", "resnet8/t.pth"],
        "resnet8/t.pth .*truncated",
    ),
    "code": (
        lambda: checkpoint("resnet8/t.pth", {"model": MaliciousObject()}),
        ["--path-t", "resnet8/t.pth"],
        "resnet8/t.pth .*could run code",
    ),
    "code in an old format": (
        lambda: torch.save(
            MaliciousObject(), "resnet8/t.pth", _use_new_zipfile_serialization=False
        ),
        ["--path-t", "resnet8/t.pth"],
        "resnet8/t.pth .*could run code",
    ),
    "evaluate nothing": (None, ["--evaluate", "none.pth"], "none.pth"),
    "evaluate a list": (
        lambda: checkpoint("resnet8/s.pth", [1]),
        ["--evaluate", "resnet8/s.pth", "--model_s", None],
        "resnet8/s.pth .*state dict",
    ),
    "evaluate code": (
        lambda: checkpoint("s.pth", MaliciousObject()),
        ["--evaluate", "s.pth"],
        "s.pth .*could run code",
    ),
    # Run folders
    "folder holds a run": (lambda: other_run(RUN), [], f"{RUN} .*--resume"),
    "resume from no run": (
        lambda: other_run(RUN),
        ["--resume"],
        f"{RUN}/resnet8_latest.pth ",
    ),
    "resume from a truncated run": (
        lambda: [other_run(RUN), truncated(f"{RUN}/resnet8_latest.pth")],
        ["--resume"],
        f"{RUN}/resnet8_latest.pth .*delete",
    ),
    "folder below a file": (lambda: write("save", ""), [], "save/student_model"),
    "folder is a file": (lambda: write(RUN, ""), [], f"{RUN} "),
    # Flags
    "unknown flag": (None, ["--colour", "red"], "unrecognized arguments: --colour red"),
    "abbreviated flag": (None, ["--epo", "3"], "unrecognized arguments: --epo 3"),
    "value missing": (None, ["--epochs"], "argument --epochs: expected one argument"),
    "no epochs": (None, ["--epochs", "0"], "--epochs.* 0 "),
    "epochs no number": (None, ["--epochs", "ten"], "argument --epochs"),
    "batch size": (None, ["--batch_size", "-4"], "--batch_size.* -4 "),
    "learning rate": (None, ["--learning_rate", "nan"], "--learning_rate.* nan "),
    "temperature": (None, ["--kd_T", "0"], "--kd_T.* 0 "),
    "negative weight": (None, ["-a", "-1"], "--alpha.* -1 "),
    "nothing to learn": (None, ["-a", "0"], "-a and -r .*0"),
    "amount": (None, ["--data_amount", "1.5"], "--data_amount.* 1.5 "),
    "amount no number": (None, ["--data_amount", "many"], "argument --data_amount"),
    "milestones": (None, ["--lr_decay_epochs", "30;60"], "argument --lr_decay_epochs"),
    "warm-up above the epochs": (
        None,
        ["--epochs", "2", "--warmup_epochs", "5"],
        "--warmup_epochs 5 .*--epochs 2",
    ),
    "no weight of a loss": (
        None,
        ["--distill", "dist", "--dist_beta", "0", "--dist_gamma", "0"],
        "--distill dist .*0",
    ),
    "momentum of one": (None, ["--momentum", "1"], "--momentum.* 1 "),
    "empty value": (None, ["--train_data", ""], "value of --train_data is empty"),
    "empty value after an equals sign": (None, ["--model_t="], "value of --model_t is empty"),
    "mean": (None, ["--mean_t", "0.5,0.5"], "--mean_t.* 0.5,0.5 "),
    "mixing": (None, ["--use_aug", "blur"], "--use_aug.*'blur'"),
    "mixing weight": (None, ["--mix_beta", "1"], "--mix_beta .*--use_aug mixup or cutmix"),
    "method": (None, ["--distill", "crd"], "--distill.*'crd'"),
    "data set": (None, ["--dataset", "mnist"], "--dataset.*'mnist'"),
    "image size": (None, ["--image_size", "0"], "--image_size.* 0 "),
    "seed": (None, ["--seed=-1"], "--seed.* -1 "),
    "device": (None, ["--device", "abacus"], "--device abacus"),
}

IMAGE_FOLDER = ["--dataset", "imagefolder", "--data_root", "DATA2"]

TEACHER = {
    "no data": STUDENT["no data"],
    "no train images": (
        lambda: images("DATA2/imagefolder/val", ["a/0.png"]),
        IMAGE_FOLDER,
        "imagefolder.*DATA2/imagefolder_train.txt",
    ),
    "train and validation classes": (
        lambda: [
            images("DATA2/imagefolder/val", ["a/0.png"]),
            images("DATA2/imagefolder/train", ["a/0.png", "b/0.png"]),
        ],
        IMAGE_FOLDER,
        "training .*class b .*2 class.* 1.*--val_data",
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
        "damaged .*DATA2/imagefolder/train/a/1.png",
    ),
    "missing image": (
        lambda: [
            write("DATA2/imagefolder_val.txt", "SET/0000/00000.png 0"),
            write("DATA2/imagefolder_train.txt", "SET/0000/00000.png 0\nlost.png 0\n"),
        ],
        IMAGE_FOLDER,
        "imagefolder_train.txt, line 2: .*lost.png",
    ),
    "validation classes": STUDENT["validation classes"],
    "holdout of another set": (
        lambda: images("DATA2/imagefolder/train", ["a/0.png"]),
        [*IMAGE_FOLDER, "--val_split", "holdout"],
        "--val_split holdout .*fashion_mnist.*imagefolder",
    ),
    "no model": (None, ["--model", None], "--model"),
    "unknown model": (None, ["--model", "resnet21"], "'resnet21'"),
    "unknown model of a library": (
        None,
        ["--model", "timm/resnt18"],
        "'timm/resnt18'",
    ),
    "no published weights": (None, ["--pretrained"], "resnet8 .*published"),
    "pretrained on nothing": (None, ["--pretrained", "none.pth"], "none.pth"),
    "pretrained as another": (
        lambda: checkpoint("x/t.pth", create_model("resnet14", 10).state_dict()),
        ["--pretrained", "x/t.pth"],
        "x/t.pth .*resnet14",
    ),
    "no train data": (None, ["--train_data", "nowhere"], "training images .*nowhere"),
    "train data without labels": (
        lambda: images("plain", ["x/a.png", "y/b.png"]),
        ["--train_data", "plain"],
        "plain .*labels",
    ),
    "train data of other classes": (
        lambda: images("SET", ["0010/00000.png"]),
        ["--train_data", "SET"],
        "SET .*class 10 .*10 classes.*--dataset.*--class-list.*--ignore_labels",
    ),
    "smoothing": (None, ["--label_smoothing", "1.5"], "--label_smoothing.* 1.5 "),
    "folder holds a run": (
        lambda: other_run("save/models/fashion_mnist/resnet8"),
        [],
        "save/models/fashion_mnist/resnet8 .*--resume",
    ),
    "resume from no run": (
        lambda: other_run("save/models/fashion_mnist/resnet8"),
        ["--resume"],
        "save/models/fashion_mnist/resnet8/resnet8_latest.pth ",
    ),
    "folder below a file": (
        None,
        ["--save_dir", "resnet8/teacher.pth/x"],
        "resnet8/teacher.pth/x",
    ),
    "folder is a file": (
        None,
        ["--save_dir", "resnet8/teacher.pth"],
        "resnet8/teacher.pth ",
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
    "no stage": (None, ["--stage", None], "--stage"),
    "unknown stage": (None, ["--stage", "gan"], "--stage.*'gan'"),
    "no autoencoder": (None, ["--stage", "dit"], f"{VAE_FILE} .*--stage vae"),
    "foreign autoencoder": (
        lambda: vae_file({"weight": torch.zeros(1)}),
        ["--stage", "dit"],
        f"{VAE_FILE} .*--stage vae",
    ),
    "truncated autoencoder": (
        lambda: write(VAE_FILE, "PK"),
        ["--stage", "dit"],
        f"{VAE_FILE} .*truncated",
    ),
    "unfinished autoencoder": (
        lambda: vae_file({"flags": {}, "optimizer": {}}),
        ["--stage", "dit"],
        f"{VAE_FILE} .*unfinished",
    ),
    "other autoencoder": (
        lambda: vae_file({"flags": {"vae_channels": [8, 8], "latent_channels": 4}}),
        ["--stage", "dit"],
        r"vae_latest.pth .*\[8, 8\]",
    ),
    "channels": (None, ["--vae_channels", "8,12"], "--vae_channels .*8"),
    "no channels": (None, ["--vae_channels", "0"], "--vae_channels .*8"),
    "image size": (None, ["--image_size", "31"], "--image_size 31 .*2"),
    "decay": (None, ["--ema", "1"], r"--ema .*\[0, 1\)"),
    "label dropout": (None, ["--label_dropout", "1.2"], r"--label_dropout .*\[0, 1\)"),
    "folder below a file": (
        None,
        ["--save_dir", "resnet8/teacher.pth/x"],
        "resnet8/teacher.pth/x",
    ),
    "folder holds a run": (
        lambda: vae_file({"weight": torch.zeros(1)}),
        [],
        f"{Path(VAE_FILE).parent} .*--resume",
    ),
    "unknown flag": STUDENT["unknown flag"],
    "no width": (None, ["--width", "0"], "--width.* 0 "),
}

BASE = ["--dataset", "fashion_mnist", "--data_root", "DATA", *FEW]
VALID = {
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
    """Replaces flags of a valid command line; the value None removes a flag."""
    argv = list(argv)
    for flag, value in zip(flags, flags[1:], strict=False):
        if value is None:
            at = argv.index(flag)
            del argv[at : at + 2]
    removed = {i for i, flag in enumerate(flags) if flag is None or flags[i + 1 : i + 2] == [None]}
    return argv + [flag for i, flag in enumerate(flags) if i not in removed]


def assert_message(capsys, expected):
    errors = capsys.readouterr().err.replace("\r", "\n")
    message = errors[errors.index("error: ") :].rstrip("\n")  # after a progress bar, if any
    assert re.search(expected, message, re.DOTALL), message
    assert message.count("\n") <= 1 and "Traceback" not in errors and "usage:" not in errors


def check(script, table, name, capsys):
    prepare, flags, expected = table[name]
    if prepare:
        prepare()
    before = {path: path.read_bytes() for path in Path().rglob("*.pth")}
    capsys.readouterr()
    assert run_script(script.main, changed(VALID[script], flags)) == 2
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


@pytest.mark.parametrize("script", VALID)
def test_batch_that_cannot_be_divided(place, capsys, monkeypatch, script):
    monkeypatch.setattr("helper.distributed.start", lambda _: World(0, 2, torch.device("cpu")))
    monkeypatch.setattr(
        "torch.nn.parallel.DistributedDataParallel", lambda model, device_ids: model
    )
    monkeypatch.setattr(World, "close", lambda _: None)
    assert run_script(script.main, [*VALID[script], "--batch_size", "33"]) == 2
    assert_message(capsys, "--batch_size 33 .*2 processes")


@pytest.mark.parametrize("script", VALID)
def test_no_permission(place, capsys, monkeypatch, script):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("helper.files.Path.mkdir", denied)
    assert run_script(script.main, VALID[script]) == 2
    assert_message(capsys, "permission")


@pytest.mark.parametrize("moment", ["write", "rename"])
@pytest.mark.parametrize("name", ["resnet8_latest.pth", "metrics.csv"])
def test_full_disk_leaves_the_previous_checkpoint(place, capsys, monkeypatch, moment, name):
    """The disk is full at the end of the second epoch; the resumed run gives the same weights.

    An epoch writes metrics.csv once and the latest checkpoint twice, before and after its
    evaluation.
    """
    call = 2 if name == "metrics.csv" else 4
    folder, times = Path("save/student_model/full/fold-1"), []

    def full(path):
        times.append(str(path)) if name in Path(path).name else None
        return len(times) == call and name in Path(path).name

    def opened(path, mode, **options):
        return open("/dev/full" if full(path) else path, mode, **options)

    def replaced(part, path):
        if full(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.rename(part, path)

    argv = [*VALID[train_student], "--val_split", "holdout", "--experiments_dir"]
    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(helper.files, "open", opened, raising=False)
        else:
            patch.setattr("helper.files.os.replace", replaced)
        assert run_script(train_student.main, [*argv, "full"]) == 2
    assert_message(capsys, "the disk is full")
    assert len(times) == call and not list(folder.glob("*.part"))
    assert checkpoints.load(folder / "resnet8_latest.pth")["progress"]["epoch"] == 1
    assert len((folder / "metrics.csv").read_text().splitlines()) == (
        2 if name == "metrics.csv" else 3
    )
    train_student.main([*argv, "full", "--resume"])
    train_student.main([*argv, "uninterrupted"])
    one, other = (
        checkpoints.load(f"save/student_model/{name}/fold-1/resnet8_latest.pth")["model"]
        for name in ("full", "uninterrupted")
    )
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_dashes_and_underscores_are_equivalent():
    for script, argv in VALID.items():
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
    line = """--path-t ./save/models/ResNet18/resnet18.pth --distill kd --batch_size 256
        --epochs 100 --dataset imagenet --gpu_id 0,1,2,3,4,5,6,7 --dist-url tcp://127.0.0.1:23333
        --num_workers 32 --multiprocessing-distributed --learning_rate 0.1
        --lr_decay_epochs 30,60,90 --weight_decay 1e-4 --model_s ResNet18 -r 0 -a 1 --kd_T 10
        --use_aug none --data_amount 200k --data_quality 2 --s_step 100
        --experiments_dir tea-res18-stu-res18 --experiments_name fold-1 --print-freq 20
        --save_model --deterministic --rank 0"""
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
    assert (
        str(released_list_path(options.data_quality, options.s_step, options.data_amount))
        == "syn_dataset/s2_st100_200k.txt"
    )
    assert architecture_of(options.path_t) == "ResNet18"


def test_released_defaults_and_the_learning_rate_of_shuffle_students(capsys):
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


def test_the_message_is_printed_by_rank_0_only(place, capsys, monkeypatch):
    """For an error of all ranks, torchrun ends the other ranks while they wait."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(
        "helper.errors.time.sleep", lambda _: (_ for _ in ()).throw(SystemExit(143))
    )
    with pytest.raises(SystemExit):
        run_script(train_student.main, [*VALID[train_student], "--epochs", "0"])
    assert capsys.readouterr().err == ""
