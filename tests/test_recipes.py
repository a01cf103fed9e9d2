"""The recipes under scripts/: the commands that they run. A stand-in for Python records them."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

import synthesize_baseline
import synthesize_dit
import train_datafree
import train_student
import train_teacher

ROOT = Path(__file__).parent.parent
SCRIPTS = (synthesize_baseline, synthesize_dit, train_datafree, train_student, train_teacher)
PARSERS = {f"{module.__name__}.py": module for module in SCRIPTS}
PAIRS = [
    ("resnet34", "resnet18"),
    ("vgg11", "resnet18"),
    ("wrn_40_2", "wrn_16_1"),
    ("wrn_40_2", "wrn_40_1"),
    ("wrn_40_2", "wrn_16_2"),
]


def environment(**settings):
    """The environment without the variables of the tables' scripts, and with `settings`."""
    names = ("CELL", "SEED", "GPUS", "NAME", "TABLE")
    return {name: value for name, value in os.environ.items() if name not in names} | settings


def stand_in(folder, body):
    """Writes the program folder/python, a shell script."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return program


def recorded(script, *arguments, **settings):
    """Runs a recipe with a stand-in for Python; returns its commands, each a list of words."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "commands")
        log.write_text("")
        program = stand_in(
            Path(folder),
            f'for word in "$@"; do printf "%s\\037" "$word"; done >> {log}\necho >> {log}',
        )
        done = subprocess.run(
            ["sh", ROOT / "scripts" / script, *arguments],
            env=environment(PYTHON=str(program), **settings),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [line.split("\037")[:-1] for line in log.read_text().splitlines()]


def refusal(script, *arguments, **settings):
    """The error of a recipe that runs no command."""
    settings = {"PYTHON": "true", "PYTHON_BASE": "false", **settings}
    done = subprocess.run(
        ["sh", ROOT / "scripts" / script, *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


def options_of(command):
    """The parsed flags of the top-level script in a command."""
    at, name = next((i, word) for i, word in enumerate(command) if word in PARSERS)
    return PARSERS[name].parse_option(command[at + 1 :])


DISTILLATIONS = {
    # script: commands, (images, epochs, decays, batch, rate, weight decay, τ)
    "imagenet_distill.sh": (1, (200_000, 100, [30, 60, 90], 256, 0.1, 1e-4, 10)),
    "cifar100_distill.sh": (5, (50_000, 240, [150, 180, 210], 128, 0.1, 5e-4, 4)),
    "imagenet100_distill.sh": (1, (200_000, 200, [60, 120, 180], 256, 0.1, 1e-4, 10)),
    "flowers102_distill.sh": (1, (200_000, 200, [60, 120, 180], 256, 0.1, 1e-4, 10)),
}


@pytest.mark.parametrize("script", DISTILLATIONS)
def test_settings_of_the_distillations(script):
    count, settings = DISTILLATIONS[script]
    commands = recorded(script)
    assert len(commands) == count
    for options in map(options_of, commands):
        assert settings == (
            options.data_amount,
            options.epochs,
            options.lr_decay_epochs,
            options.batch_size,
            options.learning_rate,
            options.weight_decay,
            options.kd_T,
        )
        assert (options.alpha, options.gamma, options.use_aug, options.resume) == (
            1,
            0,
            "none",
            True,
        )
        # ImageNet's labels mean nothing for other classes.
        assert options.ignore_labels == (options.dataset in ("cifar100", "flowers102"))


def test_the_five_pairs_of_cifar100():
    runs = [options_of(command) for command in recorded("cifar100_distill.sh")]
    assert pairs_of(runs) == PAIRS
    assert len({(run.experiments_dir, run.experiments_name) for run in runs}) == 5


def pairs_of(runs):
    return [(Path(run.path_t).parent.name, run.model_s) for run in runs]


# The other rows of the tables


def test_students_without_a_teacher():
    runs = [options_of(command) for command in recorded("cifar100_students.sh")]
    assert [run.model for run in runs] == ["resnet18", "wrn_16_1", "wrn_40_1", "wrn_16_2"]
    for run in runs:
        assert (
            run.row,
            run.epochs,
            run.batch_size,
            run.learning_rate,
            run.lr_decay_epochs,
            run.lr_decay_rate,
        ) == ("Student", 200, 256, 0.1, [120, 150, 180], 0.2)


def test_distillation_on_real_images():
    runs = [options_of(command) for command in recorded("cifar100_kd.sh")]
    assert pairs_of(runs) == PAIRS
    for run in runs:
        assert (
            run.train_data,
            run.kd_T,
            run.batch_size,
            run.lr_decay_epochs,
            run.lr_decay_rate,
        ) == ("real", 1, 128, [120, 150, 180], 0.1)


@pytest.mark.parametrize(
    "method, tau, student_steps", [("dafl", 1, 5), ("dfq", 1, 10), ("deepinversion", 20, None)]
)
def test_methods_without_data(method, tau, student_steps):
    runs = [options_of(command) for command in recorded("cifar100_datafree.sh", METHOD=method)]
    assert pairs_of(runs) == PAIRS
    for run in runs:
        assert (
            run.method,
            run.kd_T,
            run.epochs,
            run.steps_per_epoch,
            run.batch_size,
            run.learning_rate,
            run.min_lr,
            run.weight_decay,
            run.schedule,
        ) == (method, tau, 200, 400, 256, 0.1, 2e-4, 1e-4, "cosine")
        assert student_steps is None or run.student_steps == student_steps


def test_fastdfkd_by_pair_and_by_steps():
    runs = [options_of(command) for command in recorded("cifar100_fastdfkd.sh")]
    assert pairs_of(runs) == PAIRS
    assert [(run.adv, run.oh) for run in runs] == [(1.33, 0.5), (1.0, 0.5), *[(1.1, 0.4)] * 3]
    for run in runs:
        assert (
            run.k,
            run.lr_g,
            run.lr_z,
            run.bn,
            run.kd_T,
            run.learning_rate,
            run.epochs,
            run.warmup_rounds,
        ) == (10, 2e-3, 0.01, 10, 20, 0.2, 200, 20)
    faster = options_of(recorded("cifar100_fastdfkd.sh", K="5")[0])
    assert (faster.k, faster.lr_g, faster.lr_z) == (5, 3e-3, 0.01)


@pytest.mark.parametrize(
    "script, size, amount",
    [
        ("cifar100_one_image.sh", 32, 50_000),
        ("imagenet_one_image.sh", 256, 1_280_000),
        ("imagenet100_one_image.sh", 256, 200_000),
        ("flowers102_one_image.sh", 256, 200_000),
    ],
)
def test_one_image(script, size, amount):
    """Patches, then students on them; on ImageNet and CIFAR with the method's own recipe."""
    patches, *students = map(options_of, recorded(script, IMAGE="photographs/harbour.jpg"))
    assert (patches.method, patches.image_size, patches.data_amount) == ("one-image", size, amount)
    assert len(students) == (5 if size == 32 else 1)
    for student in students:
        assert (student.train_data, student.data_amount) == (str(patches.save_dir), amount)
    recipe = {
        (
            run.optimizer,
            run.learning_rate,
            run.kd_T,
            run.no_tau2,
            run.use_aug,
            run.mix_beta,
            run.augment,
            run.epochs,
        )
        for run in students
    }
    assert recipe == {
        "cifar100_one_image.sh": {("adam", 1e-3, 8, True, "cutmix", 0.25, "usual", 1000)},
        "imagenet_one_image.sh": {("adamw", 0.01, 8, True, "cutmix", 1, "colour", 200)},
    }.get(script, {("sgd", 0.1, 10, False, "none", None, "usual", 200)})


def test_places365():
    (run,) = map(options_of, recorded("imagenet_places365.sh", STUDENT="ResNet18"))
    assert (
        run.train_data,
        run.ignore_labels,
        run.row,
        run.data_amount,
        run.epochs,
        run.model_s,
        run.path_t,
    ) == (
        "true_dataset/places365",
        True,
        "Place365+KD",
        1_800_000,
        200,
        "ResNet18",
        "save/models/ResNet50/resnet50.pth",
    )


@pytest.mark.parametrize("method, amount", [("biggan", 215_000), ("deepinversion", 140_000)])
def test_images_and_their_student_on_imagenet(method, amount):
    images, student = map(options_of, recorded(f"imagenet_{method}.sh"))
    assert (images.method, 1000 * images.images_per_class, student.data_amount, student.epochs) == (
        method,
        amount,
        amount,
        90,
    )
    assert (student.train_data, student.model_s) == (str(images.save_dir), "ResNet50")
    if method == "deepinversion":
        assert images.path_t == student.path_t and images.path_s is None


def test_an_estimate_trains_nothing():
    (images,) = map(options_of, recorded("imagenet_deepinversion.sh", ESTIMATE="1"))
    assert images.estimate


def test_fastdfkd_on_imagenet():
    (run,) = map(options_of, recorded("imagenet_fastdfkd.sh"))
    assert (run.k, run.meta, run.batch, run.rounds_per_epoch, run.steps_per_epoch) == (
        50,
        "reptile",
        100,
        7,
        1000,
    )
    assert (run.bn, run.oh, run.adv, run.kd_T) == (0.1, 0.1, 0.1, 5)
    assert (
        run.lr_g,
        run.lr_z,
        run.lr_g_meta,
        run.lr_z_meta,
        run.z_rounds,
        run.keep,
        run.view,
        run.min_lr,
    ) == (2e-4, 0.01, 1e-4, 5e-3, 50, "last", "resized", 0)


def test_trials_have_equal_length_and_never_use_the_test_images():
    commands = [command for command in recorded("fashion_mnist_trials.sh") if command[0] in PARSERS]
    runs = [options_of(command) for command in commands if command[0].startswith("train_")]
    assert len(runs) == 35 and len({run.experiments_name for run in runs}) == 35
    for run in runs:
        steps = (
            run.steps_per_epoch
            if hasattr(run, "steps_per_epoch")
            else run.data_amount // run.batch_size
        )
        assert run.epochs * steps * run.batch_size == 32_000 and run.val_split == "holdout"


def test_students_find_the_teachers_of_their_recipe():
    for name in ("cifar100", "imagenet100", "flowers102"):
        script = "cifar100_teachers.sh" if name == "cifar100" else f"{name}_teacher.sh"
        made = {
            f"{teacher.save_dir}/{teacher.model}_latest.pth"
            for teacher in map(options_of, recorded(script))
        }
        students = map(options_of, recorded(f"{name}_distill.sh"))
        assert {student.path_t for student in students} <= made


@pytest.mark.parametrize("name", ["imagenet", "imagenet100"])
def test_students_find_the_images_of_their_recipe(name):
    (sampling,) = map(options_of, recorded(f"{name}_synthesize.sh"))
    (student,) = map(options_of, recorded(f"{name}_distill.sh"))
    assert (sampling.sampler, sampling.num_sampling_steps, sampling.cfg_scale, sampling.seed) == (
        "ddpm",
        100,
        2,
        0,
    )
    assert str(sampling.save_dir) == student.train_data


def test_processes_and_machines():
    (command,) = recorded(
        "imagenet_distill.sh", GPUS="4", NODES="2", NODE="1", MASTER="10.0.0.1:1234"
    )
    launcher = command[: command.index("train_student.py")]
    assert launcher == [
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--node_rank",
        "1",
        "--nproc_per_node",
        "4",
        "--master_addr",
        "10.0.0.1",
        "--master_port",
        "1234",
    ]
    (command,) = recorded("imagenet_distill.sh", GPUS="4")
    launcher = command[: command.index("train_student.py")]
    assert launcher == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]


def test_one_image_trains_on_patches_that_exist():
    commands = recorded("cifar100_one_image.sh", IMAGES="patches", PAIRS="vgg11:resnet18")
    (student,) = map(options_of, commands)
    assert student.train_data == "patches"
    (patches,) = map(
        options_of, recorded("one_image_patches.sh", IMAGE="a/harbour.jpg", SIZE="256", SEED="3")
    )
    assert str(patches.save_dir) == "syn_dataset/one-image_harbour_256_seed3"
    assert (patches.image_size, patches.data_amount, patches.seed) == (256, 50_000, 3)


def test_slurm_job_forwards_sigterm_and_requeues_itself(tmp_path):
    """A preempted job: the training saves (here: writes a file) before the job is queued again."""
    programs = {
        "srun": 'exec "$@"',
        "scontrol": f'[ "$1" = show ] && echo node-7 || echo "$@" >> {tmp_path}/queued',
        "python": f'trap "sleep 1; echo saved > {tmp_path}/saved; exit 143" TERM\n'
        f'echo "$@" > {tmp_path}/started\nwhile :; do sleep 0.1; done',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "node-7",
        "PYTHON": str(tmp_path / "python"),
    }
    job = subprocess.Popen(
        ["sh", ROOT / "scripts/imagenet_distill_slurm.sh"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=20)
    assert (
        "--nnodes 1 --node_rank 0 --nproc_per_node 8 --master_addr node-7"
        in (tmp_path / "started").read_text()
    )
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "queued").read_text() == "requeue 77\n"


# Wrong input

WITH_ARGUMENTS = [
    script
    for script in sorted(path.name for path in (ROOT / "scripts").glob("*.sh"))
    if "TAKES_ARGUMENTS=yes" in (ROOT / "scripts" / script).read_text()
]
WITHOUT = {path.name for path in (ROOT / "scripts").glob("*.sh")} - {*WITH_ARGUMENTS}


@pytest.mark.parametrize("script", sorted(WITHOUT))
def test_arguments_that_a_script_does_not_take(script):
    assert "EPOCHS=9" in refusal(script, "EPOCHS=9", IMAGE="photograph.jpg")


def test_arguments_that_a_script_takes():
    assert len(WITH_ARGUMENTS) == 5
    for script in WITH_ARGUMENTS:
        arguments = ["vae"] if script == "fashion_mnist_weights.sh" else ["--jobs", "2"]
        (*_, command) = recorded(script, *arguments)
        assert " ".join(arguments) in " ".join(command)


@pytest.mark.parametrize("script", ["imagenet_teachers.sh", "table_fashion_mnist.sh"])
def test_a_python_that_does_not_exist(script):
    error = refusal(script, PYTHON="none/python")
    assert "none/python" in error and "scripts/install.sh" in error


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"GPUS": "0,1"}, "GPUS is 0,1"),
        ({"GPUS": "0"}, "GPUS is 0"),
        ({"NODES": "2", "NODE": "0"}, "MASTER"),
        ({"NODES": "2", "NODE": "0", "MASTER": "10.0.0.1"}, "MASTER is 10.0.0.1"),
        ({"NODES": "2", "MASTER": "10.0.0.1:29500"}, "NODE"),
    ],
)
def test_wrong_processes(settings, word):
    for script in ("imagenet_distill.sh", "imagenet_one_image.sh"):
        assert word in refusal(script, IMAGE="photograph.jpg", **settings)


@pytest.mark.parametrize("recipe", ["datafree", "distill", "fastdfkd", "kd", "one_image"])
def test_wrong_pairs(recipe):
    form = "teacher:student:adv:oh" if recipe == "fastdfkd" else "teacher:student"
    pair = "wrn_40_2:wrn_16_1" if recipe == "fastdfkd" else "wrn_40_2"
    error = refusal(f"cifar100_{recipe}.sh", PAIRS=pair)
    assert f"{pair}: " in error and form in error
