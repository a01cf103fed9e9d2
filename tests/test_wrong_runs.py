"""Wrong input of training runs: numbers that are not finite, a teacher near chance, and images that
are replaced before a run is resumed.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate_images
import synthesize_baseline
import synthesize_dit
import train_datafree
import train_student
import train_teacher
from dataset import folders, transforms
from dataset.identity import images_sha256
from dataset.image_set import ImageSet
from dataset.loader import make_loader
from helper import checkpoints, losses, options
from helper.distributed import World
from helper.errors import UserError
from helper.evaluate import chance_warning, evaluate_teacher, order_warning
from helper.options import statistics_fault
from helper.run import Run
from models.architectures import create_model
from models.classifiers import check_start, image_statistics, load_teacher
from report.fidelity import classifier_outputs

WORLD = World(0, 1, torch.device("cpu"))
STATISTICS = ((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def teacher():
    """The path of a teacher with random weights."""
    return saved_teacher("teachers/resnet8/resnet8.pth")


@pytest.fixture
def student_argv(tiny_fashion_mnist, tiny_image_folder, teacher):
    return [
        *"--dataset fashion_mnist --device cpu --epochs 2 --batch_size 32".split(),
        *"--learning_rate 0.05 --schedule cosine --model_s resnet8 --experiments_dir a".split(),
        *("--data_root", str(tiny_fashion_mnist), "--path-t", teacher),
        *("--train_data", str(tiny_image_folder), "--data_amount", "64"),
        *("--experiments_name", "b"),
    ]


FOLDER = Path("save/student_model/a/b")


def saved_teacher(path, change=None, **facts):
    """Saves a resnet8 for ten classes, after `change(state)`, and returns its path."""
    torch.manual_seed(0)
    state = create_model("resnet8", 10).state_dict()
    if change:
        change(state)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save(path, {"model": state, **facts})
    return path


def files_of(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


# Numbers that are not finite


def set_value(name, value):
    def change(state):
        state[name].view(-1)[0] = value

    return change


DAMAGES = {
    "nan": set_value("fc.bias", math.nan),
    "inf statistics": set_value("bn1.running_var", math.inf),  # its outputs are finite
    "half precision": lambda state: state.update(
        {"conv1.weight": (1e6 * state["conv1.weight"]).half()}
    ),
}
DAMAGED = {"nan": "fc.bias", "inf statistics": "bn1.running_var", "half precision": "conv1.weight"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_are_not_finite_are_refused(damage):
    path = saved_teacher("damaged/resnet8/resnet8.pth", DAMAGES[damage])
    with pytest.raises(UserError, match=f"{path}.* not all finite .*{DAMAGED[damage]}"):
        load_teacher(path, 10, *STATISTICS)


@pytest.mark.parametrize("script", ["student", "evaluate", "teacher", "datafree", "images"])
def test_no_script_accepts_a_nan_checkpoint(
    script, student_argv, tiny_fashion_mnist, tiny_image_folder
):
    path = saved_teacher("damaged/resnet8/resnet8.pth", DAMAGES["nan"])
    common = [*"--dataset fashion_mnist --device cpu --data_root".split(), str(tiny_fashion_mnist)]
    main, argv = {
        "student": (train_student.main, [*student_argv, "--path-t", path]),
        "evaluate": (train_student.main, [*common, "--evaluate", path]),
        "teacher": (
            train_teacher.main,
            [*common, "--model", "resnet8", "--pretrained", path, "--save_dir", "save"],
        ),
        "datafree": (train_datafree.main, [*common, "--method", "dfq", "--path-t", path]),
        "images": (
            evaluate_images.main,
            [*common, "--path-t", path, "--images", str(tiny_image_folder), "--out", "save/out"],
        ),
    }[script]
    with pytest.raises(UserError, match=path):
        main(argv)
    assert not Path("save").exists()


def test_outputs_that_overflow_reach_no_result(student_argv):
    """The weights of the teacher are finite, its outputs are not."""

    def change(state):
        state["fc.weight"].fill_(3e38)

    path = saved_teacher("large/resnet8/resnet8.pth", change)
    with pytest.raises(UserError, match="not all finite"):
        train_student.main([*student_argv, "--path-t", path])
    assert files_of(FOLDER) <= {"config.json", "train.log", ".lock"}


def test_weights_lost_in_the_only_step_are_not_saved(student_argv):
    argv = [*student_argv, "--data_amount", "32", "--epochs", "1", "--learning_rate", "1e30"]
    argv += ["--weight_decay", "1e30"]
    with pytest.raises(UserError, match=r"model\..*--learning_rate"):
        train_student.main(argv)
    assert files_of(FOLDER) <= {"config.json", "train.log", ".lock"}


@pytest.mark.parametrize("tensor", ["fc.bias", "bn1.running_var"])
def test_the_last_good_checkpoint_stays(student_argv, monkeypatch, tensor):
    """The last step of the second epoch loses a value; the loss was finite."""
    steps, states = [], []
    update, save = train_student.update, Run.save

    def losing_update(optimizer, loss):
        update(optimizer, loss)
        steps.append(loss)
        if len(steps) == 4:
            run = runs[0]
            run.parts["model"].state_dict()[tensor][0] = math.inf

    runs = []

    def recording_save(run):
        runs.append(run)
        save(run)
        states.append((FOLDER / "resnet8_latest.pth").read_bytes())

    monkeypatch.setattr(train_student, "update", losing_update)
    monkeypatch.setattr(Run, "save", recording_save)
    with pytest.raises(UserError, match=f"epoch 2/2.*model.{tensor}"):
        train_student.main(student_argv)
    assert len(steps) == 4
    assert (FOLDER / "resnet8_latest.pth").read_bytes() == states[-1]
    assert checkpoints.load(FOLDER / "resnet8_latest.pth")["progress"]["epoch"] == 1
    assert not (FOLDER / "result.json").exists()


def test_a_teacher_is_checked_if_only_labels_count(student_argv, monkeypatch):
    """Its outputs for the training images are nan, those for the validation images are not."""
    monkeypatch.setattr(losses, "kd_loss", lambda logits, *_, **__: logits.sum() * math.nan)
    with pytest.raises(UserError, match="loss is nan"):
        train_student.main([*student_argv, "-a", "0", "-r", "1"])
    assert files_of(FOLDER) <= {"config.json", "train.log", ".lock"}


class Steps:
    """The number of steps that a Run has yielded."""

    def __init__(self, name, epochs, print_freq):
        network = torch.nn.Linear(2, 2)
        parts = {"model": network, "optimizer": torch.optim.SGD(network.parameters(), 0.1)}
        self.run, self.count = Run("run", name, parts, WORLD), 0
        self.run.open({"epochs": epochs}, {}, resume=False)
        self.epochs = self.run.epochs(epochs, lambda _: 0.1, 0, print_freq)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "generator_loss"])
def test_a_run_stops_where_the_progress_bar_reads_the_loss(name, value):
    training = Steps("net", 1, print_freq=5)
    with pytest.raises(UserError, match=f"epoch 1/1.* 10: .*{name.replace('_', ' ')} is {value}"):
        for _ in training.epochs:
            for number in training.run.steps(20, 4):
                training.count += 1
                losses = {"loss": torch.tensor(1.0), "generator_loss": torch.tensor(1.0)}
                losses[name] = torch.tensor(value if number == 6 else 1.0)
                training.run.add(4, **losses)
            break
    assert training.count == 10
    assert not list(Path("run").glob("*.pth"))


def test_a_metric_that_is_not_finite_is_not_written():
    training = Steps("net", 1, print_freq=5)
    with pytest.raises(UserError, match="val loss is inf"):
        for _ in training.epochs:
            for _ in training.run.steps(2, 4):
                training.run.add(4, loss=torch.tensor(1.0))
            training.run.end_epoch({"top1": 20.0, "val_loss": math.inf}, 20.0)
    assert not files_of(Path("run")) & {"net_best.pth", "metrics.csv"}


@pytest.mark.parametrize(
    "method, flags",
    [
        ("dafl", "--balance 1e30"),
        ("dfq", "--lr_g 1e30"),
        ("fastdfkd", "--batch 8 --k 2 --warmup_rounds 0 --bn 1e30"),
        ("deepinversion", "--batch 8 --steps 2 --bn 1e30"),
        ("deepinversion", "--batch 8 --steps 3 --tv 1e30"),
    ],
)
def test_data_free_methods_stop_before_anything_is_written(
    tiny_fashion_mnist, teacher, method, flags
):
    argv = [
        *f"--method {method} --dataset fashion_mnist --device cpu --epochs 1".split(),
        *"--steps_per_epoch 4 --batch_size 8 --experiments_dir a --experiments_name b".split(),
        *("--data_root", str(tiny_fashion_mnist), "--path-t", teacher, *flags.split()),
    ]
    with pytest.raises(UserError, match="nan|not.* finite"):
        train_datafree.main(argv)
    assert files_of(FOLDER) <= {"config.json", "train.log", ".lock", "manifest.json"}


def test_synthesized_images_of_a_nan_loss_are_not_written(teacher):
    argv = [
        *"--method deepinversion --dataset fashion_mnist --device cpu --data_amount 10".split(),
        *("--path-t", teacher, "--save_dir", "set", *"--batch 10 --steps 2 --bn 1e30".split()),
    ]
    with pytest.raises(UserError, match="not finite"):
        synthesize_baseline.main(argv)
    assert files_of(Path("set")) == {"manifest.json"}
    assert json.loads(Path("set/manifest.json").read_text())["complete"] is False


WRONG_FLAGS = {
    "mean of 0–255": ("--mean_t 123.675,116.28,103.53", "mean_t.*255"),
    "std of 0–255": ("--std_s 58.395", "std_s.*255"),
    "nan": ("--mean_s 0.5,nan,0.5", "mean_s.*finite"),
    "inf": ("--std_t inf", "std_t.*finite"),
    "zero": ("--std_t 0.2,0,0.2", "std_t.*above 0"),
    "negative": ("--std_s=-0.2", "std_s.*above 0"),
    "negative mean": ("--mean_s=-0.2", "mean_s.*negative"),
    "temperature": ("--kd_T 1e30", "kd_T.*1e30"),
    "small temperature": ("--kd_T 1e-30", "kd_T.*1e-30"),
    "mixing": ("--use_aug mixup --mix_beta 1e30", "mix_beta.*1e30"),
    "small mixing": ("--use_aug mixup --mix_beta 1e-20", "mix_beta.*1e-20"),
    "decay": ("--lr_decay_epochs 5,-1", "lr_decay_epochs.*-1"),
    "decay at 0": ("--lr_decay_epochs 0", "lr_decay_epochs.*0"),
    "weight of a loss": ("-a 1e38", "1e38"),
    "learning rate": ("--learning_rate 1e300", "learning_rate.*1e300"),
    "decay rate": ("--lr_decay_rate 10", "lr_decay_rate.*10"),
    "momentum": ("--momentum 9", "momentum.*9"),
}


@pytest.mark.parametrize("name", WRONG_FLAGS)
def test_wrong_numbers_name_their_flag(name):
    text, message = WRONG_FLAGS[name]
    with pytest.raises(UserError, match=message):
        train_student.parse_option(["--path-t", "x", *text.split()])


def test_usual_statistics_and_decays_are_accepted():
    argv = "--path-t x --mean_t 0 --std_t 1 --mean_s 0,0.5,1 --std_s 0.00392 --lr_decay_epochs"
    options = train_student.parse_option([*argv.split(), ""])
    assert options.mean_t == [0] * 3 and options.mean_s == [0, 0.5, 1]
    assert options.std_t == [1] * 3 and options.lr_decay_epochs == []


@pytest.mark.parametrize(
    "mean, std, message",
    [
        ([123.675, 116.28, 103.53], [0.2] * 3, "mean.*255"),
        ([0.5] * 3, [0.2, 0.0, 0.2], "std.*above 0"),
        ([0.5, math.nan, 0.5], [0.2] * 3, "mean.*finite"),
        (["0.5"] * 3, [0.2] * 3, "mean.*finite"),
    ],
)
def test_statistics_in_a_checkpoint_are_checked(mean, std, message):
    path = saved_teacher("wrong/resnet8/resnet8.pth", mean=mean, std=std)
    default = *STATISTICS, False
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        image_statistics(None, None, "t", default, path, "resnet8")
    flags = [0.4] * 3, [0.3] * 3  # these replace them
    assert image_statistics(*flags, "t", default, path, "resnet8")[:2] == flags
    assert statistics_fault(mean, "mean") or statistics_fault(std, "std")


# A teacher near chance


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 6, 10, 100, 1000])
def test_every_number_of_classes_has_a_bound_that_can_be_reached(classes):
    chance = 100 / classes
    assert chance_warning(100.0, classes) is None
    assert chance_warning(0.9 * chance, classes) and (
        classes == 1 or chance_warning(chance, classes)
    )
    if classes >= 5:  # three times chance
        assert chance_warning(3.01 * chance, classes) is None
        assert chance_warning(2.99 * chance, classes)


class Brightness(torch.nn.Module):
    """Class 1 for bright images, class 0 for dark ones."""

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([1 - mean, mean], dim=1)


@pytest.mark.parametrize("correct, warns", [(10, False), (8, False), (6, True), (0, True)])
def test_teachers_of_two_classes(correct, warns):
    labels = np.arange(10) % 2
    shown = np.where(np.arange(10) < correct, labels, 1 - labels)
    pixels = np.broadcast_to(255 * shown[:, None, None, None], (10, 32, 32, 3)).astype(np.uint8)
    images = ImageSet(pixels, labels, ["cat", "dog"])
    loader = make_loader(images, transforms.validation(32), 10, WORLD)
    lines = []
    run = SimpleNamespace(world=WORLD, log=lines.append)
    metrics, _ = evaluate_teacher(Brightness(), "t", loader, run, "off")
    assert metrics["top1"] == 10 * correct
    assert any("warning" in line and "chance" in line for line in lines) == warns


def shades(labels, classes):
    """Plain images (N, 32, 32, 3), uint8: class k of K has the brightness k / (K - 1)."""
    grey = np.round(255 * labels / (classes - 1))
    return np.broadcast_to(grey[:, None, None, None], (len(labels), 32, 32, 3)).astype(np.uint8)


class Shades(torch.nn.Module):
    """The class of an image of `shades`, or in `order` another one."""

    def __init__(self, order):
        super().__init__()
        self.order = torch.tensor(order)

    def forward(self, images):
        shade = torch.round(images.mean((1, 2, 3)) * (len(self.order) - 1)).long()
        return torch.nn.functional.one_hot(self.order[shade], len(self.order)).float()


@pytest.mark.parametrize(
    "order, count, warns",
    [
        ([0, 1, 2, 3, 4], 100, None),
        ([0, 1, 3, 4, 2], 100, "2 (from 0) is mostly `e`"),  # 40 % as it is, 100 % renamed
        ([0, 1, 2, 4, 3], 100, "3 (from 0) is mostly `e`"),  # 60 %
        ([0, 0, 0, 0, 0], 100, None),  # near chance is not another order
        ([0, 1, 3, 4, 2], 50, None),  # too few images to tell
    ],
)
@pytest.mark.parametrize("script", ["train_student", "evaluate_images"])
def test_classes_in_another_order(order, count, warns, script):
    labels = np.arange(count) % 5
    images = ImageSet(shades(labels, 5), labels, list("abcde"))
    loader = make_loader(images, transforms.validation(32), 7, WORLD)
    if script == "train_student":
        lines = []
        run = SimpleNamespace(world=WORLD, log=lines.append)
        evaluate_teacher(Shades(order), "t", loader, run, "off")
        found = [line for line in lines if "another order:" in line]
    else:
        network = torch.nn.Sequential(Shades(order), torch.nn.Linear(5, 5, bias=False))
        torch.nn.init.eye_(network[1].weight)
        outputs = classifier_outputs(network, loader, WORLD, 5)
        assert outputs.top1 == 100 * np.mean(np.array(order)[labels] == labels)
        warning = order_warning(outputs.confusion, images.class_names)
        found = [warning] if warning else []
    assert len(found) == (warns is not None)
    assert not found or warns in found[0]


SHADES = """
import torch

class Shades(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.last = torch.nn.Linear(classes, classes, bias=False)

    def forward(self, images):
        classes = self.last.in_features
        shades = torch.arange(classes, device=images.device) / (classes - 1)
        return self.last(-(images.mean((1, 2, 3))[:, None] - shades).abs())

def shades(num_classes):
    return Shades(num_classes)
"""


def test_the_scripts_print_that_classes_are_in_another_order(tmp_path, monkeypatch, capsys):
    module = f"shades_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{module}.py").write_text(SHADES)
    for label, name in enumerate("abcde"):
        Path("val", name).mkdir(parents=True)
        for index, pixels in enumerate(shades(np.full(200, label), 5)):
            Image.fromarray(pixels).save(f"val/{name}/{index}.png")
    val = ["--dataset", "imagefolder", "--val_data", "val", "--image_size", "32"]
    plain = [[f"--mean_{kind}", "0,0,0", f"--std_{kind}", "1,1,1"] for kind in "st"]
    for order in ([0, 1, 2, 3, 4], [0, 1, 3, 4, 2]):
        torch.save({"last.weight": torch.eye(5)[:, order]}, "net.pth")
        name = f"{module}:shades"
        train_student.main(["--evaluate", "net.pth", "--model_s", name, *val, *plain[0]])
        evaluated = capsys.readouterr().out
        line = ["--path-t", "net.pth", "--model_t", name, "--images", "val", "--real", "test"]
        evaluate_images.main([*line, *val, *plain[1], "--out", "f.json", "--skip", "frechet"])
        measured = capsys.readouterr().out
        for printed, sets in ((evaluated, 1), (measured, 2)):  # real images and generated ones
            assert printed.count("in another order") == (sets if order[2] == 3 else 0)


def test_two_predictions_for_one_label_are_no_order():
    confusion = torch.tensor([[0.0, 30, 30], [0, 5, 0], [0, 0, 5]])
    assert order_warning(confusion, ["a", "b", "c"]) is None
    assert "`a`" in order_warning(
        confusion + torch.tensor([[0.0, 0, -30], [0, 0, 30], [0, 0, 0]]), "abc"
    )


# A student that cannot start


def test_a_last_layer_of_zeros():
    last = torch.nn.Linear(4, 3)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4), last).train()
    cases = [("kd", True), ("dkd", True), ("dist", True), ("dist", False)]
    for loss, standardized in [*cases, ("kd", False), ("dkd", False)]:
        check_start(student, 4, loss, standardized)
    torch.nn.init.zeros_(last.weight)
    for loss, standardized in cases:
        check_start(student, 4, loss, standardized)  # the bias makes a difference
    torch.nn.init.zeros_(last.bias)
    for loss, standardized in cases:
        flag = "--standardize_logits" if standardized else "--distill dist"
        with pytest.raises(UserError, match=flag):
            check_start(student, 4, loss, standardized)
    check_start(student, 4, "kd")  # learns all the same
    check_start(student, 4, "dkd")
    assert student.training


# Images that are replaced


def write_images(folder, seed, classes=2, count=6, form="{:05d}.png", manifest=None):
    """Writes random images of 8×8 pixels in class folders; all folders have the same names."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        for index in range(count):
            path = Path(folder, str(label), form.format(index))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    if manifest is not None:
        Path(folder, "manifest.json").write_text(json.dumps({"complete": True, **manifest}))
    return folder


def identity(folder, amount=None, classes=2):
    return images_sha256(folders.read_training(folder, classes, amount))


def test_replaced_files_are_recognised():
    before = identity(write_images("a", 1))
    assert identity(write_images("a", 1)) == before
    assert identity(write_images("a", 2)) != before
    assert identity(write_images("a", 1, form="{:05d}.bmp")) != before


def test_names_and_labels_are_a_part_of_the_identity():
    before = identity(write_images("a", 1))
    Path("a/0").rename("a/x")
    Path("a/1").rename("a/0")
    Path("a/x").rename("a/1")
    assert identity("a") != before
    names = sorted(str(path) for path in Path("a").glob("*/*.png"))
    lists = []
    for labels in ((0, 1), (1, 0)):
        lines = [f"{name} {labels[number % 2]}" for number, name in enumerate(names)]
        Path("list.txt").write_text("\n".join(lines))
        lists.append(identity("list.txt"))
    assert lists[0] != lists[1]


def test_the_settings_of_a_generated_folder_identify_its_images():
    before = identity(write_images("a", 1, manifest={"settings": {"seed": 0}}))
    # As on another device, with the same settings
    assert identity(write_images("a", 2, manifest={"settings": {"seed": 0}})) == before
    assert identity(write_images("a", 1, manifest={"settings": {"seed": 1}})) != before
    # A pool depends on its run, too; others' manifests say nothing
    for manifest in ({"settings": {"seed": 0}, "run": "x"}, {"settings": [1]}, {}):
        own = identity(write_images("a", 1, manifest=manifest))
        assert identity(write_images("a", 2, manifest=manifest)) != own


def test_moved_and_grown_folders_are_recognised():
    before = identity(write_images("a", 1), amount=6)
    Path("elsewhere/b").mkdir(parents=True)
    Path("a").rename("elsewhere/b/c")
    assert identity("elsewhere/b/c", amount=6) == before
    write_images("more", 3, count=120)
    for path in sorted(Path("more").glob("*/*.png")):
        if not (new := Path("elsewhere/b/c", *path.parts[1:])).exists():
            shutil.copy(path, new)
    Image.new("RGB", (8, 8)).save("elsewhere/b/c/1/a_long_name_of_another_image.png")
    assert identity("elsewhere/b/c", amount=6) == before
    assert identity("elsewhere/b/c", amount=8) != before


def test_images_in_memory():
    array = np.random.default_rng(0).integers(0, 256, (2_500, 4, 4, 3), np.uint8)
    labels = np.arange(2_500) % 10
    before = images_sha256(ImageSet(array, labels))
    assert images_sha256(ImageSet(array.copy(), labels)) == before
    assert images_sha256(ImageSet(array[::-1], labels)) != before
    assert images_sha256(ImageSet(array, labels[::-1])) != before
    assert images_sha256(ImageSet(array[:-1], labels[:-1])) != before


class Killed(Exception):
    pass


def kill_at_first_epoch(monkeypatch, main, argv):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "end_epoch", kill)
        with pytest.raises(Killed):
            main(argv)


@pytest.fixture
def sets():
    """An ImageFolder for training and one for validation."""
    return write_images("train", 1, count=16), write_images("val", 2, count=4)


@pytest.fixture
def teacher_argv(sets):
    return [
        *"--dataset imagefolder --image_size 32 --device cpu --epochs 1 --batch_size 16".split(),
        *"--model resnet8 --save_dir run --learning_rate 0.01 --train_data train".split(),
        *"--val_data val".split(),
    ]


@pytest.mark.parametrize("part, what", [("train", "training images"), ("val", "validation images")])
def test_a_teacher_is_not_resumed_on_other_images(monkeypatch, teacher_argv, part, what):
    kill_at_first_epoch(monkeypatch, train_teacher.main, teacher_argv)
    saved, count = Path("run/resnet8_latest.pth").read_bytes(), {"train": 16, "val": 4}[part]
    write_images(part, 7, count=count)
    with pytest.raises(UserError, match=f"--resume: run .*{what}"):
        train_teacher.main([*teacher_argv, "--resume"])
    assert Path("run/resnet8_latest.pth").read_bytes() == saved
    write_images(part, {"train": 1, "val": 2}[part], count=count)  # restored
    assert train_teacher.main([*teacher_argv, "--resume"])["epochs"] == 1


def test_a_student_is_not_resumed_on_other_images(
    monkeypatch, student_argv, tiny_image_folder, place
):
    images = shutil.copytree(tiny_image_folder, place / "images")
    argv = [*student_argv, "--train_data", str(images), "--epochs", "1"]
    kill_at_first_epoch(monkeypatch, train_student.main, argv)
    for path in images.glob("0003/*.png"):
        Image.new("L", (32, 32), 99).save(path)
    with pytest.raises(UserError, match="--resume: .*training images"):
        train_student.main([*argv, "--resume"])


def test_runs_without_the_hashes_are_resumed_and_get_them(monkeypatch, teacher_argv):
    kill_at_first_epoch(monkeypatch, train_teacher.main, teacher_argv)
    latest = Path("run/resnet8_latest.pth")
    state = checkpoints.load(latest)
    for key in ("training_images_sha256", "validation_images_sha256"):
        del state["flags"][key]
    checkpoints.save(latest, state)
    train_teacher.main([*teacher_argv, "--resume"])
    assert checkpoints.load(latest)["flags"]["training_images_sha256"] == identity("train")


def test_replaced_initial_weights_and_images_of_a_pool(
    monkeypatch, teacher_argv, tiny_fashion_mnist, teacher
):
    argv = [*teacher_argv, "--pretrained", saved_teacher("initial.pth")]
    kill_at_first_epoch(monkeypatch, train_teacher.main, argv)
    saved_teacher("initial.pth", set_value("fc.bias", 3.0))
    with pytest.raises(UserError, match="--resume: .*pretrained"):
        train_teacher.main([*argv, "--resume"])
    argv = [
        *"--method deepinversion --dataset fashion_mnist --device cpu --epochs 1".split(),
        *"--steps_per_epoch 1 --batch_size 8 --batch 8 --steps 1 --pool_data train".split(),
        *("--experiments_dir", "a", "--experiments_name", "b"),
        *("--data_root", str(tiny_fashion_mnist), "--path-t", teacher),
    ]
    kill_at_first_epoch(monkeypatch, train_datafree.main, argv)
    write_images("train", 9, count=16)
    with pytest.raises(UserError, match="--resume: .*pool data"):
        train_datafree.main([*argv, "--resume"])


@pytest.mark.parametrize(
    "script, flag",
    [
        (train_student, "--experiments_name"),
        (train_student, "--experiments_dir"),
        (train_datafree, "--experiments_name"),
        (train_teacher, "--save_dir"),
        (synthesize_dit, "--save_dir"),
        (synthesize_baseline, "--save_dir"),
    ],
)
def test_an_empty_name_is_that_of_no_folder(script, flag, monkeypatch, tmp_path, capsys):
    """Such as an unset variable of the shell: the run would be written among others."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=flag):
        script.main([flag, ""])
    assert not list(tmp_path.iterdir())


def test_figures_of_images_on_a_read_only_disk(
    tiny_fashion_mnist, tiny_image_folder, teacher, monkeypatch
):
    """The folder is checked before anything is computed."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr(evaluate_images, "load_teacher", pytest.fail)
    argv = [*"--dataset fashion_mnist --device cpu --skip frechet precision_recall".split()]
    argv += ["--data_root", str(tiny_fashion_mnist), "--path-t", teacher]
    with pytest.raises(UserError, match=f"{tiny_image_folder}: give --out"):
        evaluate_images.main([*argv, "--images", str(tiny_image_folder)])


def test_the_form_of_statistics():
    argv = ["--path-t", "t.pth", "--mean_t"]
    for text in ("0.2,0.3,0.4", "[0.2, 0.3, 0.4]"):
        assert train_student.parse_option([*argv, text]).mean_t == [0.2, 0.3, 0.4]
    for words, named in ((["0.2", "0.3", "0.4"], "0.3 0.4.*commas"), (["a,b,c"], "mean_t.*three")):
        with pytest.raises(UserError, match=named):
            train_student.parse_option([*argv, *words])


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_finished_run_without_its_checkpoint_is_not_written_over(student_argv, place, resume):
    argv = [*student_argv, "--epochs", "1"]
    train_student.main(argv)
    folder = place / "save/student_model/a/b"
    (folder / "resnet8_latest.pth").unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="result of a finished run and no resnet8_latest.pth"):
        train_student.main([*argv, *resume])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    # As the message says
    (folder / "result.json").unlink()
    train_student.main([*argv, *resume])
    assert (folder / "result.json").is_file()


def test_a_run_of_another_network_is_not_written_over(student_argv, place):
    argv = [*student_argv, "--epochs", "1"]
    train_student.main(argv)
    folder = place / "save/student_model/a/b"
    (folder / "result.json").unlink()  # as if it had been stopped
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="another network .resnet8_latest.pth"):
        train_student.main([*argv, "--model_s", "resnet14"])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "noted"),
    [
        (["--epochs", "30"], "never drops"),
        (["--schedule", "cosine", "--lr_decay_epochs", "30"], "--lr_decay_epochs applies to"),
        (["--min_lr", "1e-4"], "--min_lr applies to --schedule cosine"),
        (
            ["--optimizer", "adam", "--momentum", "0.8", "--learning_rate", "1e-3"],
            "--momentum applies to --optimizer sgd",
        ),
        (["--train_data", "real", "--ignore_labels"], "--ignore_labels has no effect"),
        (["--epochs", "30", "--lr_decay_epochs", "20"], ""),
        (["--epochs", "240"], ""),
        (["--epochs", "30", "--schedule", "cosine"], ""),
        (["--epochs", "30", "--lr_decay_epochs="], ""),
        (["--epochs", "200", "--optimizer", "adamw"], "large for adamw"),
        (["--epochs", "200", "--optimizer", "adamw", "--learning_rate", "1e-3"], ""),
    ],
)
def test_rates_that_look_unintended_are_noted(flags, noted, capsys):
    options.schedule_of(train_student.parse_option(["--path-t", "x", *flags]))
    printed = capsys.readouterr().out
    assert noted in printed and bool(printed) == bool(noted)


@pytest.mark.parametrize("setting", ["backend", "latex"])
def test_a_users_settings_of_matplotlib_do_not_stop_a_run(student_argv, place, setting):
    """A notebook's backend in the environment, or LaTeX that is not installed."""
    (place / "matplotlibrc").write_text("text.usetex: True\n")
    more = {"MPLBACKEND": "module://matplotlib_inline.backend_inline_x"}
    if setting == "latex":
        more = {"MATPLOTLIBRC": str(place / "matplotlibrc")}
    root = Path(train_student.__file__).parent
    done = subprocess.run(
        [sys.executable, root / "train_student.py", *student_argv, "--epochs", "1"],
        capture_output=True,
        text=True,
        env=os.environ | more | {"PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    folder = place / "save/student_model/a/b"
    assert (folder / "result.json").is_file() and (folder / "curves.png").stat().st_size
    # After a power cut
    for name in ("metrics.csv", "curves.png"):
        (folder / name).write_bytes(b"")
    train_student.main([*student_argv, "--epochs", "1", "--resume"])
    assert all((folder / name).stat().st_size for name in ("metrics.csv", "curves.png"))
