"""--tracker: what the trackers get of a run, resumed runs, and packages that are missing or fail.

wandb and trackio are stand-ins that write what they get to calls.jsonl.
"""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import train_datafree
import train_dit
import train_student
import train_teacher
from dataset.contact_sheet import sheet_beside, sheet_rows, write_contact_sheet
from helper import checkpoints
from helper.errors import run_script
from helper.run import Run
from helper.tracker import Tracker, is_installed

STAND_IN = """
import json
__version__ = "0"
def record(*call):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps([NAME, *call], default=str) + "\\n")
class Image:
    def __init__(self, value):
        self.value = value
    def __str__(self):
        return f"image {self.value.size}"
class Run:
    def log(self, values, step=None):
        record("log", values, step)
    def define_metric(self, name, step_metric):
        record("define_metric", name, step_metric)
    def finish(self, exit_code=0):
        record("finish", exit_code)
def init(**arguments):
    record("init", arguments)
    return Run()
finish = Run().finish
"""
# 330 training images: 10 steps in each of 3 epochs
ARGV = [
    *["--dataset", "fashion_mnist", "--batch_size", "32", "--epochs", "3", "--device", "cpu"],
    *["--print-freq", "4", "--model", "resnet8"],
]
STEPS = [4, 8, 14, 18, 24, 28]
FOLDER = Path("save/models/fashion_mnist/resnet8")


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A working directory without WANDB_… and TRACKIO_… variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Makes the stand-ins importable."""
    for name in ("wandb", "trackio"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / "packages").mkdir(exist_ok=True)
        (tmp_path / f"packages/{name}.py").write_text(f"NAME = '{name}'\n{STAND_IN}")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    for name in ("wandb", "trackio"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tiny_fashion_mnist):
    return ["--data_root", str(tiny_fashion_mnist)]


def calls(kind):
    """The arguments of the calls of one kind, such as log, in order."""
    lines = map(json.loads, Path("calls.jsonl").read_text().splitlines())
    return [call[2:] for call in lines if call[1] == kind]


def values_of(metric):
    """The points {step or epoch: value} of a curve; wandb's have their place among the values."""
    axis, points = metric.partition("/")[0], []
    for values, step in calls("log"):
        if metric in values:
            points.append((values.get(axis, step), values[metric]))
    assert len(dict(points)) == len(points), "logged twice"
    return dict(points)


def rows_of(folder):
    """The rows of a run's checkpoint, which metrics.csv rounds."""
    return checkpoints.load(folder / "resnet8_latest.pth")["progress"]["rows"]


def stop_after(monkeypatch, epochs):
    """Makes a run end with an error at the end of an epoch, after it has been saved."""
    end_epoch = Run.end_epoch

    def stopping(run, *args):
        end_epoch(run, *args)
        if run.progress.epoch == epochs:
            raise InterruptedError

    monkeypatch.setattr(Run, "end_epoch", stopping)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_resumed_run_continues_its_curves(tracker, stand_ins, data, monkeypatch):
    argv = [*ARGV, *data, "--tracker", tracker]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(InterruptedError):
            train_teacher.main(argv)
    assert not calls("finish")
    train_teacher.main([*argv, "--resume"])

    first, second = (call[0] for call in calls("init"))
    assert first == second and first["resume"] == "allow" and first["project"] == "dm-kd"
    assert "fashion_mnist-resnet8" in first["name"]
    assert first["config"] == json.loads((FOLDER / "config.json").read_text())["flags"]
    if tracker == "wandb":
        assert first["dir"] == str(FOLDER)
        assert first["id"] == json.loads((FOLDER / "tracker.json").read_text())["wandb"]["id"]
        assert ["epoch/*", "epoch"] in calls("define_metric")
    assert calls("finish") == [[0]]

    rows = rows_of(FOLDER)
    assert len(rows) == 3
    for column in set(rows[0]) - {"epoch"}:
        assert values_of(f"epoch/{column}") == {row["epoch"]: row[column] for row in rows}
    assert sorted(values_of("step/loss")) == sorted(values_of("step/lr")) == STEPS


def test_losses_are_means_since_the_last_point(stand_ins, data):
    argv = [*ARGV, *data, "--tracker", "wandb", "--print-freq", "5", "--epochs", "2"]
    train_teacher.main(argv)
    losses, rows = values_of("step/loss"), rows_of(FOLDER)
    assert list(losses) == [5, 10, 15, 20]
    for row in rows:
        halves = losses[10 * row["epoch"] - 5], losses[10 * row["epoch"]]
        assert sum(halves) / 2 == pytest.approx(row["loss"])
    assert values_of("step/lr")[5] == 0.1


def test_a_tracker_changes_no_result(stand_ins, data):
    """The tracker is no setting of a run either: it may be given when the run is resumed."""
    argv = [*ARGV, *data, "--epochs", "1"]
    train_teacher.main([*argv, "--tracker", "wandb"])
    train_teacher.main([*argv, "--save_dir", "plain"])
    with_tracker, without = (
        checkpoints.load(folder / "resnet8_latest.pth") for folder in (FOLDER, Path("plain"))
    )
    assert with_tracker["flags"] == without["flags"]
    for key, value in without["model"].items():
        assert value.equal(with_tracker["model"][key]), key
    assert not Path("plain/tracker.json").exists()


def test_a_tracker_given_on_resuming_gets_the_earlier_epochs(stand_ins, data, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(InterruptedError):
            train_teacher.main([*ARGV, *data])
    train_teacher.main([*ARGV, *data, "--tracker", "trackio", "--resume"])
    assert list(values_of("epoch/top1")) == [1, 2, 3]
    before = Path("calls.jsonl").read_text()
    train_teacher.main([*ARGV, *data, "--tracker", "trackio", "--resume"])  # it is finished
    assert Path("calls.jsonl").read_text() == before


def test_students_show_their_images(stand_ins, data, tiny_image_folder):
    train_teacher.main([*ARGV, *data, "--epochs", "1"])
    sheet = sheet_beside(tiny_image_folder)
    write_contact_sheet(sheet, sheet_rows(tiny_image_folder))
    student = [
        *[*ARGV[:-2], *data, "--path-t", str(FOLDER / "resnet8_latest.pth"), "--epochs", "1"],
        *["--tracker", "wandb"],
    ]
    train_student.main([*student, "--train_data", str(tiny_image_folder)])
    sheet.unlink()
    images = [values for values, _ in calls("log") if "training images" in values]
    assert len(images) == 1 and images[0]["training images"].startswith("image (")
    datafree = [
        *["--method", "fastdfkd", "--k", "1", "--batch", "32", "--steps_per_epoch", "4"],
        *["--warmup_rounds", "0"],
    ]
    train_datafree.main([*student, *datafree])
    assert sum("generated images" in values for values, _ in calls("log")) == 1
    assert Path("save/student_model/fashion_mnist_resnet8/fastdfkd/pool_contact_sheet.png").exists()


def test_autoencoders_are_tracked(stand_ins, data):
    vae = ["--stage", "vae", "--vae_channels", "8,8", "--epochs", "1", "--tracker", "trackio"]
    train_dit.main([*ARGV[:-2], *data, *vae, "--save_dir", "pipeline"])
    assert len(calls("init")) == 1 and list(values_of("epoch/val_psnr")) == [1]


@pytest.mark.parametrize("script", [train_student, train_teacher, train_datafree, train_dit])
def test_a_missing_package_is_named_before_anything_is_written(script, capsys, monkeypatch):
    monkeypatch.setattr("helper.options.is_installed", lambda name: False)
    required = {
        train_student: [],
        train_teacher: ["--model", "resnet8"],
        train_datafree: ["--method", "dfq"],
        train_dit: ["--stage", "vae"],
    }[script]
    assert run_script(script.main, [*required, "--tracker", "wandb"]) == 2
    message = capsys.readouterr().err
    assert "--tracker" in message and "pip install wandb" in message
    assert not list(Path().iterdir())


def test_a_folder_of_the_same_name_is_not_the_package(tmp_path, monkeypatch):
    """wandb leaves a folder wandb/ where it is used."""
    (tmp_path / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("no_such_tracker") and is_installed("json")


def test_a_tracker_that_cannot_start_leaves_no_run(stand_ins, data, capsys, monkeypatch):
    import wandb

    def init(**_):
        raise RuntimeError("No API key configured.\nmore")

    monkeypatch.setattr(wandb, "init", init)
    assert run_script(train_teacher.main, [*ARGV, *data, "--tracker", "wandb"]) == 2
    message = capsys.readouterr().err
    assert "No API key configured" in message and "WANDB_MODE=offline" in message
    assert not [path for path in FOLDER.iterdir() if path.name != ".lock"]
    monkeypatch.undo()


def test_a_tracker_that_fails_does_not_end_the_run(stand_ins, data, capsys, monkeypatch):
    import wandb

    def log(*_, **__):
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb.Run, "log", log)
    train_teacher.main([*ARGV, *data, "--epochs", "1", "--tracker", "wandb"])
    printed = capsys.readouterr().out
    assert printed.count("the service is gone") == 1
    assert (FOLDER / "result.json").exists()


def test_a_new_run_in_the_folder_has_another_name(stand_ins, tmp_path):
    Image.new("RGB", (8, 8)).save("sheet.png")
    for fresh in (True, False, True):
        tracker = Tracker("wandb", tmp_path, {}, fresh)
        tracker.log_image("training images", "sheet.png")
        tracker.close()
    assert len(calls("log")) == 2  # the resumed run has the image already
    first, resumed, new = (call[0]["id"] for call in calls("init"))
    assert first == resumed != new


@pytest.mark.parametrize("text", ["{", "[]", '{"wandb": {"id": 3}}', '{"wandb": 1}'])
def test_a_damaged_tracker_file_is_replaced(text, stand_ins, tmp_path, capsys):
    (tmp_path / "tracker.json").write_text(text)
    tracker = Tracker("wandb", tmp_path, {}, fresh=False)
    tracker.log_epochs([{"epoch": 1, "loss": 2.0}])
    assert "tracker.json" in capsys.readouterr().out
    assert values_of("epoch/loss") == {1: 2.0}
    assert json.loads((tmp_path / "tracker.json").read_text())["wandb"]["epochs"] == 1


# TensorBoard itself


def scalars(folder):
    """{tag: [(step, value)]} of the event files in a run folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert tags["images"] == ["training images"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}


def test_tensorboard_shows_every_step_and_epoch_once(tmp_path):
    pytest.importorskip("tensorboard")
    sheet = tmp_path / "sheet.png"
    write_contact_sheet(sheet, [("", [Path(__file__).parent / "data/old_folder/0000/00000.png"])])
    rows = [{"epoch": number, "loss": 1.0 / number} for number in (1, 2, 3)]
    settings = {"epochs": 3, "lr_decay_epochs": [1, 2], "mix_beta": None, "compile": False}

    def session(fresh, steps, rows, value):
        tracker = Tracker("tensorboard", tmp_path, settings, fresh)
        tracker.log_image("training images", sheet)
        for step in steps:
            tracker.log_step(step, {"loss": value})
        tracker.log_epochs(rows)
        return tracker  # not closed, as by a run that is killed

    session(True, [10, 20, 30, 40], rows[:1], 9.0)  # of an earlier run
    session(True, [10, 20, 30], rows[:1], 1.0)
    session(False, [20, 30, 40], rows, 2.0).close()
    curves = scalars(tmp_path)
    assert curves["step/loss"] == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]
    assert [step for step, _ in curves["epoch/loss"]] == [1, 2, 3]
    assert curves["epoch/loss"][1][1] == pytest.approx(0.5)
