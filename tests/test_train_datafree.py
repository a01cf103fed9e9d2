"""train_datafree.py: run folder, pool, resuming, several processes, wrong input."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import train_datafree
import train_student
from datafree import fastdfkd
from dataset.image_set import ImageSet
from dataset.pool import Pool, RepeatedLoader
from helper import checkpoints
from helper.distributed import World
from helper.errors import UserError, run_script
from helper.run import Run
from models.architectures import create_model

ROOT = Path(__file__).resolve().parent.parent
FEW = [
    "--dataset",
    "fashion_mnist",
    "--image_size",
    "16",
    "--epochs",
    "2",
    "--steps_per_epoch",
    "4",
    "--batch_size",
    "16",
    "--learning_rate",
    "0.05",
    "--val_batch_size",
    "203",
    "--device",
    "cpu",
]
METHODS = {
    "dafl": ["--z_dim", "8", "--student_steps", "3"],
    "dfq": ["--z_dim", "8", "--student_steps", "3"],
    "fastdfkd": ["--z_dim", "8", "--k", "2", "--batch", "16", "--warmup_rounds", "2"],
    "deepinversion": ["--steps", "2", "--batch", "16"],
}
ROWS = {"dafl": "DAFL", "dfq": "DFQ", "fastdfkd": "FastDFKD", "deepinversion": "DeepInv"}
RUN_FILES = {
    "config.json",
    "train.log",
    "metrics.csv",
    "curves.png",
    "result.json",
    "resnet8_latest.pth",
    "resnet8_best.pth",
}
WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("datafree")


@pytest.fixture(autouse=True)
def in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def common(workspace, tiny_fashion_mnist):
    """Flags of every run, with a teacher of random weights."""
    torch.manual_seed(0)
    teacher = workspace / "teachers/resnet8/resnet8.pth"
    teacher.parent.mkdir(parents=True)
    torch.save({"model": create_model("resnet8", 10).state_dict()}, teacher)
    return [*FEW, "--data_root", str(tiny_fashion_mnist), "--path-t", str(teacher)]


@pytest.fixture(scope="module")
def reference(workspace, common):
    """A function: method → (folder, result) of its uninterrupted run, which is made once."""
    results = {}

    def run_of(method):
        if method not in results:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(workspace)
                argv = [*common, "--method", method, *METHODS[method]]
                results[method] = train_datafree.main(argv)
        return folder_of(method), results[method]

    return run_of


def folder_of(name):
    return Path("save/student_model/fashion_mnist_resnet8") / name


def rows_of(folder):
    with open(folder / "metrics.csv") as file:
        return list(csv.DictReader(file))


def pool_files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*.png"))
    }


def assert_same_run(folder, other):
    """Asserts that two run folders hold the same weights, metrics and pool, bit for bit."""
    for kind in ("latest", "best"):
        one, two = (
            checkpoints.load(place / f"resnet8_{kind}.pth")["model"] for place in (folder, other)
        )
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    rows = [
        [{k: v for k, v in row.items() if k != "images_s"} for row in rows_of(place)]
        for place in (folder, other)
    ]
    assert rows[0] == rows[1]
    assert pool_files(folder / "pool") == pool_files(other / "pool")
    assert not list(folder.rglob("*.part"))


class Operations(TorchDispatchMode):
    """Counts the operations of convolutions and matrix products within its context."""

    total = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        value = function(*arguments, **(keywords or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.total += count(*arguments, **(keywords or {}), out_val=value)
        return value


# The run folder and the pool


@pytest.mark.parametrize("method", METHODS)
def test_run_folder(reference, method, tiny_fashion_mnist):
    folder, result = reference(method)
    has_pool = method in ("fastdfkd", "deepinversion")
    assert {file.name for file in folder.iterdir()} == RUN_FILES | {
        "pool" if has_pool else "samples"
    }
    assert json.loads((folder / "result.json").read_text()) == {"schema": 1, **result}
    images = {"dafl": 128, "dfq": 128, "fastdfkd": 4 * 16, "deepinversion": 2 * 16}[method]
    # The generator takes a step before the first and the fourth of an epoch's 4 student steps.
    steps = {"dafl": 4, "dfq": 4, "fastdfkd": 4 * 2, "deepinversion": 2 * 2}[method]
    assert {
        "method": ROWS[method],
        "source": method,
        "teacher": "resnet8",
        "student": "resnet8",
        "images": images,
        "epochs": 2,
        "image_steps": 128,
        "student_steps": 8,
        "generator_steps": steps,
    }.items() <= result.items()
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert ("generator_loss" in rows[0]) is not has_pool
    assert result["top1_last"] == pytest.approx(float(rows[-1]["top1"]), rel=1e-5)
    config = json.loads((folder / "config.json").read_text())
    published = {
        "dafl": (1, 1e-3),
        "dfq": (1, 1e-3),
        "fastdfkd": (20, 5e-3),
        "deepinversion": (20, None),
    }[method]
    assert config["flags"]["kd_T"] == published[0]
    assert config["flags"]["lr_g"] == published[1]  # fastdfkd: that for k = 2
    assert "optimizer" not in checkpoints.load(folder / "resnet8_latest.pth")
    create_model("resnet8", 10, checkpoint=folder / "resnet8_latest.pth")


def test_config_has_the_flags_of_earlier_runs(reference):
    """A resumed run compares them, so the keys must not change."""
    flags = json.loads((reference("dafl")[0] / "config.json").read_text())["flags"]
    assert set(flags) == set(
        """act adv alpha amp balance batch batch_size beta1 beta2 bn bn_momentum class_list
        class_order compile dataset decay epochs first_bn flip gamma half_steps image_size jitter k
        kd_T keep l2 learning_rate lr lr_decay_epochs lr_decay_rate lr_g lr_g_meta lr_z lr_z_meta
        mean_s mean_t meta method min_lr mix_beta model_s model_t momentum no_tau2 oh optimizer
        pool pool_data reset_round rounds_per_epoch schedule seed std_s std_t steps steps_per_epoch
        student_steps teacher_sha256 temperature tv use_aug val_data val_split
        validation_images_sha256 view warmup warmup_epochs warmup_rounds weight_decay z_dim
        z_rounds""".split()
    )
    assert (flags["alpha"], flags["gamma"], flags["use_aug"]) == (1.0, 0.0, "none")
    assert flags["oh"] == 1.0 and flags["k"] is None


@pytest.mark.parametrize("method", METHODS)
def test_estimated_cost_is_that_of_the_steps(common, method, monkeypatch):
    """Counted in the steps of the methods, forward and backward."""
    costs, real_cost = [], train_datafree.synthesis_cost

    def recorded_cost(*arguments):
        costs.append(real_cost(*arguments))
        return costs[-1]

    counter = Operations()

    def counting(function):
        def call(*arguments, **keywords):
            with counter:
                return function(*arguments, **keywords)

        return call

    owner = train_datafree.METHODS[method].kind
    for name in {"update", "images", "synthesize"} & set(dir(owner)):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
    monkeypatch.setattr(train_datafree, "synthesis_cost", recorded_cost)
    monkeypatch.setattr(train_datafree, "SAMPLES", 1)  # not part of the cost
    flags = METHODS[method] if method != "fastdfkd" else [*METHODS[method], "--warmup_rounds", "0"]
    if method == "deepinversion":
        flags = [*flags, "--half_steps", "3"]
    train_datafree.main(
        [*common, "--method", method, *flags, "--experiments_name", f"cost_{method}"]
    )
    assert costs[0].operations == pytest.approx(counter.total, rel=0.05)
    assert (costs[0].student > 0) is (method != "dafl")
    assert str(costs[0]) in (folder_of(f"cost_{method}") / "train.log").read_text()


def test_samples_of_a_generator_are_different_grey_images(reference):
    folder, _ = reference("dfq")
    files = sorted((folder / "samples").iterdir())
    assert [file.name for file in files] == [
        f"{index:05d}.png" for index in range(train_datafree.SAMPLES)
    ]
    assert len({file.read_bytes() for file in files}) > 90
    with Image.open(files[0]) as image:
        assert image.mode == "L" and image.size == (16, 16)


def test_pool_is_an_image_folder_for_train_student(reference, common):
    folder, _ = reference("fastdfkd")
    pool = folder / "pool"
    manifest = json.loads((pool / "manifest.json").read_text())
    assert manifest["complete"] and manifest["method"] == "FastDFKD" and manifest["images"] == 64
    assert manifest["settings"]["k"] == 2 and manifest["settings"]["seed"] == 0
    files = pool_files(pool)
    counts = {
        str(label): sum(name.startswith(f"{label:04d}/") for name in files) for label in range(10)
    }
    assert manifest["classes"] == {label: count for label, count in counts.items() if count}
    for label, count in manifest["classes"].items():
        assert {f"{int(label):04d}/{index:05d}.png" for index in range(count)} <= files.keys()
    with Image.open(pool / next(iter(files))) as image:
        assert image.mode == "L" and image.size == (16, 16)  # Fashion-MNIST is grey
    result = train_student.main(
        [flag for flag in common if flag not in ("--steps_per_epoch", "4")]
        + ["--train_data", str(pool), "--experiments_name", "again"]
    )
    assert result["images"] == 64 and result["method"] == "FastDFKD"


def test_pool_data_and_pool_folder(common, tiny_image_folder):
    result = train_datafree.main(
        [
            *common,
            "--method",
            "deepinversion",
            *METHODS["deepinversion"],
            "--epochs",
            "1",
            "--rounds_per_epoch",
            "2",
            "--pool",
            "elsewhere",
            "--pool_data",
            str(tiny_image_folder),
            "--experiments_name",
            "beside",
        ]
    )
    assert result["images"] == 2 * 16 == len(pool_files("elsewhere"))
    assert not (folder_of("beside") / "pool").exists()


def test_imagenet_settings(common):
    """Reptile, noise kept for several rounds, resized crops, the last batch, several rounds per
    epoch, images above 64 pixels.
    """
    argv = [
        *common,
        "--method",
        "fastdfkd",
        "--image_size",
        "80",
        "--z_dim",
        "4",
        "--k",
        "2",
        "--batch",
        "4",
        "--batch_size",
        "4",
        "--steps_per_epoch",
        "2",
        "--meta",
        "reptile",
        "--lr_g_meta",
        "1e-4",
        "--lr_z_meta",
        "5e-3",
        "--z_rounds",
        "50",
        "--view",
        "resized",
        "--keep",
        "last",
        "--warmup_rounds",
        "0",
        "--rounds_per_epoch",
        "2",
        "--bn",
        "0.1",
        "--oh",
        "0.1",
        "--adv",
        "1",
        "--kd_T",
        "5",
        "--num_workers",
        "0",
        "--epochs",
        "1",
        "--lr_g",
        "2e-4",
        "--val_split",
        "holdout",
    ]
    result = train_datafree.main([*argv, "--experiments_name", "imagenet"])
    assert result["images"] == 8
    flags = json.loads((folder_of("imagenet") / "config.json").read_text())["flags"]
    assert flags["meta"] == "reptile" and (flags["lr_g"], flags["lr_z"]) == (2e-4, 0.015)


def test_defaults_depend_on_method_and_k(common):
    assert train_datafree.parse_option([*common, "--method", "fastdfkd", "--k", "50"]).lr_g == 2e-3
    given = train_datafree.parse_option(
        [*common, "--method", "fastdfkd", "--k", "5", "--lr_z", "0.5"]
    )
    assert (given.lr_g, given.lr_z) == (3e-3, 0.5)
    defaults = train_datafree.parse_option(
        ["--method", "fastdfkd", "--path-t", "x", "--dataset", "cifar100"]
    )
    assert (
        defaults.learning_rate,
        defaults.batch_size,
        defaults.epochs,
        defaults.min_lr,
        defaults.weight_decay,
        defaults.schedule,
        defaults.steps_per_epoch,
    ) == (0.2, 256, 200, 2e-4, 1e-4, "cosine", 400)


def test_bf16(common):
    for method in ("dfq", "fastdfkd"):
        result = train_datafree.main(
            [
                *common,
                "--method",
                method,
                *METHODS[method],
                "--amp",
                "bf16",
                "--epochs",
                "1",
                "--experiments_name",
                f"bf16-{method}",
            ]
        )
        assert (
            np.isfinite(float(rows_of(folder_of(f"bf16-{method}"))[0]["loss"]))
            and result["epochs"] == 1
        )


def test_passes_over_the_pool_differ_and_resume_in_the_middle():
    class Passes:
        """A loader of two steps per epoch, whose batches are (epoch, step)."""

        batch_size = 6

        def __len__(self):
            return 2

        def epoch_batches(self, epoch, first_step=0):
            return iter([(epoch, step) for step in range(first_step, 2)])

    loader = RepeatedLoader(Passes(), 5)
    batches = [list(loader.epoch_batches(epoch)) for epoch in (0, 1)]
    assert (len(loader), loader.batch_size) == (5, 6)
    assert [len(batch) for batch in batches] == [5, 5] and len(set(sum(batches, []))) == 10
    assert list(loader.epoch_batches(1, 3)) == batches[1][3:]


def test_small_images_are_in_memory_in_order(tmp_path):
    pool = Pool(tmp_path / "pool", 8, False, WORLD, {"run": "x"})
    pool.open()
    images = torch.arange(12).view(12, 1, 1, 1).expand(12, 3, 8, 8) / 255
    for half in range(2):
        pool.add(images[6 * half : 6 * half + 6], torch.arange(6))
    assert pool.images().in_memory
    assert pool.images().images[:, 0, 0, 0].tolist() == list(range(12))


def test_large_images_stay_on_the_disk(tmp_path):
    path = tmp_path / "beside.png"
    Image.fromarray(np.full((72, 72, 3), 99, np.uint8)).save(path)
    pool = Pool(tmp_path / "pool", 72, False, WORLD, {"run": "x"}, ImageSet([path], None))
    pool.open()
    pool.add(torch.full((2, 3, 72, 72), 0.2), torch.tensor([3, 3]))
    images = pool.images()
    assert not images.in_memory
    assert [np.asarray(images.load(index))[0, 0, 0] for index in range(3)] == [99, 51, 51]
    assert images.images[2] == str(tmp_path / "pool/0003/00001.png")


# Resuming


def interrupt(monkeypatch, target, name, call, action):
    """Makes the `call`-th call of target.name do `action` at its end."""
    real, calls = getattr(target, name), []

    def wrapped(*arguments, **keywords):
        calls.append(1)
        result = real(*arguments, **keywords)
        if len(calls) == call:
            action()
        return result

    monkeypatch.setattr(target, name, wrapped)


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing is saved."""


def kill():
    raise Killed


# The method, what is interrupted, at which call and how, and the checkpoint: epochs, steps, images
# of the pool.
INTERRUPTIONS = {
    "dafl in an epoch": ("dafl", train_datafree, "update", 6, sigterm, (1, 2, 0)),
    "dfq in an epoch": ("dfq", train_datafree, "update", 2, sigterm, (0, 2, 0)),
    "dafl killed before its samples": ("dafl", train_datafree, "write_samples", 1, kill, (2, 0, 0)),
    "dafl killed before its result": ("dafl", Run, "finish", 1, kill, (2, 0, 0)),
    "dfq killed": ("dfq", Run, "end_epoch", 1, kill, (1, 0, 0)),
    "fastdfkd in the warm-up": ("fastdfkd", fastdfkd.FastDFKD, "losses", 3, sigterm, (0, 0, 16)),
    "fastdfkd in a round": ("fastdfkd", fastdfkd.FastDFKD, "losses", 7, sigterm, (1, 0, 48)),
    "fastdfkd in an epoch": ("fastdfkd", train_datafree, "update", 6, sigterm, (1, 2, 64)),
    "fastdfkd killed after an unsaved round": ("fastdfkd", Pool, "add", 4, kill, (1, 0, 48)),
    "deepinversion in an epoch": (
        "deepinversion",
        train_datafree,
        "update",
        3,
        sigterm,
        (0, 3, 16),
    ),
    "deepinversion killed after an unsaved round": (
        "deepinversion",
        Pool,
        "add",
        2,
        kill,
        (1, 0, 16),
    ),
}


@pytest.mark.parametrize("name", INTERRUPTIONS)
def test_resumed_run_equals_an_uninterrupted_one(reference, common, monkeypatch, name):
    method, target, function, call, action, state = INTERRUPTIONS[name]
    folder, _ = reference(method)
    argv = [*common, "--method", method, *METHODS[method], "--experiments_name", name]
    with monkeypatch.context() as patch:
        interrupt(patch, target, function, call, action)
        with pytest.raises(SystemExit if action is sigterm else Killed) as stopped:
            train_datafree.main(argv)
    if action is sigterm:
        assert stopped.value.code == 143
        assert "stopped by SIGTERM" in (folder_of(name) / "train.log").read_text()
    saved = checkpoints.load(folder_of(name) / "resnet8_latest.pth")
    images = len(saved["pool"]["names"]) if "pool" in saved else 0
    assert (saved["progress"]["epoch"], saved["progress"]["step"], images) == state
    if "unsaved" in name:
        assert len(pool_files(folder_of(name) / "pool")) == images + 16
    torch.manual_seed(1234)  # the state of the generator does not matter
    train_datafree.main([*argv, "--resume"])
    assert_same_run(folder_of(name), folder)
    samples = [
        [file.read_bytes() for file in sorted((place / "samples").glob("*"))]
        for place in (folder_of(name), folder)
    ]
    assert samples[0] == samples[1]


def test_resume_with_other_settings_is_refused(reference, common):
    reference("dfq")
    argv = [*common, "--method", "dfq", *METHODS["dfq"], "--resume"]
    with pytest.raises(UserError, match=r"bn 1\.0.*2\.0"):
        train_datafree.main([*argv, "--bn", "2"])
    train_datafree.main([*argv, "--bn", "1"])  # the published value, given or not


def test_a_pool_that_lacks_an_image_is_not_resumed(common, monkeypatch):
    argv = [*common, "--method", "fastdfkd", *METHODS["fastdfkd"], "--experiments_name", "lacking"]
    with monkeypatch.context() as patch:
        interrupt(patch, Run, "end_epoch", 1, kill)
        with pytest.raises(Killed):
            train_datafree.main(argv)
    next((folder_of("lacking") / "pool").rglob("*.png")).unlink()
    with pytest.raises(UserError, match="lacks 1 images"):
        train_datafree.main([*argv, "--resume"])


def test_the_pool_of_another_run_is_not_changed(reference, common):
    folder, _ = reference("fastdfkd")
    before = pool_files(folder / "pool")
    with pytest.raises(UserError, match="pool holds images .* --pool"):
        train_datafree.main(
            [
                *common,
                "--method",
                "fastdfkd",
                *METHODS["fastdfkd"],
                "--pool",
                str(folder / "pool"),
                "--experiments_name",
                "thief",
            ]
        )
    assert pool_files(folder / "pool") == before


# Several processes

# A run of each method, one that SIGTERM to one of the processes stops in its first epoch, and the
# latter resumed.
PROGRAM = """
import json, os, signal, sys
import torch.distributed
from helper.distributed import World
import train_datafree

real = train_datafree.update
# One process group for all runs: a new one might meet the keys of the old one.
World.close = lambda self: None

def interrupted(*arguments):
    real(*arguments)
    calls.append(1)
    if len(calls) == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)

for method, argv in json.loads(sys.argv[1]).items():
    train_datafree.main([*argv, "--experiments_name", f"whole-{method}"])
    calls, train_datafree.update = [], interrupted
    try:
        train_datafree.main([*argv, "--experiments_name", f"stopped-{method}"])
    except SystemExit as stopped:
        assert stopped.code == 143 and len(calls) == 2
    assert len(calls) == 2
    train_datafree.update = real
    train_datafree.main([*argv, "--experiments_name", f"stopped-{method}", "--resume"])
torch.distributed.destroy_process_group()  # at interpreter exit gloo's threads may abort
"""


def test_two_processes(workspace, common):
    program = workspace / "program.py"
    program.write_text(PROGRAM)
    runs = {
        method: [*common, "--method", method, *METHODS[method], "--print-freq", "2"]
        for method in ("dfq", "fastdfkd")
    }
    # What is drawn once must be the same on both.
    runs["fastdfkd"] += ["--z_rounds", "3", "--reset_round", "2"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(program),
            json.dumps(runs),
        ],
        cwd=workspace,
        text=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for method in runs:
        assert_same_run(folder_of(f"stopped-{method}"), folder_of(f"whole-{method}"))
        result = json.loads((folder_of(f"whole-{method}") / "result.json").read_text())
        assert result["image_steps"] == 128
    # Each process makes half of a round, from its own noise.
    assert (
        result["images"]
        == 64
        == len(set(pool_files(folder_of("whole-fastdfkd") / "pool").values()))
    )


# Wrong input

WRONG = {
    "no teacher": (
        ["--method", "dfq", "--path-t", "nowhere/resnet8/a.pth"],
        "checkpoint not found",
    ),
    "size": (["--method", "dafl", "--image_size", "18"], "--image_size 18: .* multiple of 4"),
    "large size": (
        ["--method", "fastdfkd", "--image_size", "72"],
        "--image_size 72: .* multiple of 16",
    ),
    "k": (["--method", "fastdfkd", "--k", "0"], "--k: invalid|0 is not a positive integer"),
    "meta": (["--method", "fastdfkd", "--meta", "mamml"], "mamml.* maml, reptile"),
    "momentum": (["--method", "fastdfkd", "--bn_momentum", "1.5"], "not in"),
    "rate": (["--method", "dafl", "--lr_g", "0"], "not a positive number"),
    "another's setting": (
        ["--method", "dafl", "--bn", "1"],
        "--bn .* dfq, fastdfkd, deepinversion",
    ),
    "no pool": (["--method", "dfq", "--pool", "x"], "--pool .* dfq"),
    "few images": (
        ["--method", "deepinversion", "--batch", "8"],
        "--batch_size 16 .* 8 images",
    ),
    "no method": ([], "--method"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(common, capsys, name):
    more, message = WRONG[name]
    before = set(Path("save/student_model").rglob("*"))
    assert run_script(train_datafree.main, [*common, *more, "--experiments_name", "wrong"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") <= 2 and "Traceback" not in text
    assert re.search(message, text), text
    assert set(Path("save/student_model").rglob("*")) == before


def test_a_teacher_without_batch_norm(common, workspace, capsys):
    path = workspace / "teachers/plain.pth"
    name = "timm/vit_tiny_patch16_224"
    torch.save(create_model(name, 10).state_dict(), path)
    argv = [
        *common,
        "--path-t",
        str(path),
        "--model_t",
        name,
        "--image_size",
        "224",
        "--method",
        "dfq",
    ]
    assert run_script(train_datafree.main, argv) == 2
    assert "no BatchNorm" in capsys.readouterr().err


def test_samples_of_a_finished_run_are_never_drawn_from_another_generator(reference, common):
    folder, _ = reference("dafl")
    copy = Path(shutil.copytree(folder, folder_of("without-result")))
    (copy / "result.json").unlink()
    before = {file.name: file.read_bytes() for file in (copy / "samples").iterdir()}
    argv = [*common, "--method", "dafl", *METHODS["dafl"], "--experiments_name", copy.name]
    train_datafree.main([*argv, "--resume"])
    assert {file.name: file.read_bytes() for file in (copy / "samples").iterdir()} == before
    assert (copy / "result.json").exists()


def test_a_pool_with_a_damaged_manifest_is_resumed(reference, common, monkeypatch):
    folder, _ = reference("deepinversion")
    name = "damaged-manifest"
    argv = [*common, "--method", "deepinversion", *METHODS["deepinversion"]]
    argv += ["--experiments_name", name]
    with monkeypatch.context() as patch:
        interrupt(patch, Pool, "add", 2, kill)
        with pytest.raises(Killed):
            train_datafree.main(argv)
    (folder_of(name) / "pool/manifest.json").write_text("")
    train_datafree.main([*argv, "--resume"])
    assert_same_run(folder_of(name), folder)
