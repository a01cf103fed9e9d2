"""The recipes under scripts/: what they run, with which settings. A stand-in for Python writes down
what it gets.
"""

import os
import signal
import subprocess
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


def recorded(script, tmp_path, **settings):
    """Runs a recipe with a stand-in for Python and returns the commands it gave, each a list of
    words.
    """
    log = tmp_path / "commands"
    log.write_text("")
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f'#!/bin/sh\nfor word in "$@"; do printf "%s\\037" "$word"; done >> {log}\necho >> {log}\n'
    )
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / "scripts" / script],
        env={**os.environ, "PYTHON": str(stand_in), **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\037")[:-1] for line in log.read_text().splitlines()]


def options_of(command):
    """Returns the parsed flags of the top-level script in a command, as the script itself reads
    them.
    """
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
def test_distillation_has_the_settings_of_its_table(script, tmp_path):
    count, settings = DISTILLATIONS[script]
    commands = recorded(script, tmp_path)
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
        # Labels of ImageNet's images mean nothing to another set of classes.
        assert options.ignore_labels == (options.dataset in ("cifar100", "flowers102"))


def test_the_five_pairs_of_cifar100(tmp_path):
    runs = [options_of(command) for command in recorded("cifar100_distill.sh", tmp_path)]
    assert pairs_of(runs) == PAIRS
    assert len({(run.experiments_dir, run.experiments_name) for run in runs}) == 5


def pairs_of(runs):
    return [(Path(run.path_t).parent.name, run.model_s) for run in runs]


# The other rows of the tables: METHODS' settings


def test_students_without_a_teacher(tmp_path):
    runs = [options_of(command) for command in recorded("cifar100_students.sh", tmp_path)]
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


def test_distillation_on_real_images(tmp_path):
    runs = [options_of(command) for command in recorded("cifar100_kd.sh", tmp_path)]
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
def test_methods_without_data(method, tau, student_steps, tmp_path):
    runs = [
        options_of(command) for command in recorded("cifar100_datafree.sh", tmp_path, METHOD=method)
    ]
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


def test_fastdfkd_by_pair_and_by_steps(tmp_path):
    runs = [options_of(command) for command in recorded("cifar100_fastdfkd.sh", tmp_path)]
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
    faster = options_of(recorded("cifar100_fastdfkd.sh", tmp_path, K="5")[0])
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
def test_one_image(script, size, amount, tmp_path):
    """Patches, then students of them; ImageNet's and CIFAR's with the method's own recipe."""
    patches, *students = map(
        options_of, recorded(script, tmp_path, IMAGE="photographs/harbour.jpg")
    )
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


def test_places365(tmp_path):
    (run,) = map(options_of, recorded("imagenet_places365.sh", tmp_path, STUDENT="ResNet18"))
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
def test_images_and_their_student_on_imagenet(method, amount, tmp_path):
    images, student = map(options_of, recorded(f"imagenet_{method}.sh", tmp_path))
    assert (images.method, 1000 * images.images_per_class, student.data_amount, student.epochs) == (
        method,
        amount,
        amount,
        90,
    )
    assert (student.train_data, student.model_s) == (str(images.save_dir), "ResNet50")
    if method == "deepinversion":
        assert images.path_t == student.path_t and images.path_s is None


def test_an_estimate_trains_nothing(tmp_path):
    (images,) = map(options_of, recorded("imagenet_deepinversion.sh", tmp_path, ESTIMATE="1"))
    assert images.estimate


def test_fastdfkd_on_imagenet(tmp_path):
    (run,) = map(options_of, recorded("imagenet_fastdfkd.sh", tmp_path))
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


def test_trials_of_every_method_are_of_one_length_and_never_see_the_test_images(tmp_path):
    commands = [
        command
        for command in recorded("fashion_mnist_trials.sh", tmp_path)
        if command[0] in PARSERS
    ]
    runs = [options_of(command) for command in commands if command[0].startswith("train_")]
    assert len(runs) == 35 and len({run.experiments_name for run in runs}) == 35
    for run in runs:
        steps = (
            run.steps_per_epoch
            if hasattr(run, "steps_per_epoch")
            else run.data_amount // run.batch_size
        )
        assert run.epochs * steps * run.batch_size == 32_000 and run.val_split == "holdout"


def test_the_teachers_of_a_recipe_are_where_its_students_look(tmp_path):
    for name in ("cifar100", "imagenet100", "flowers102"):
        script = "cifar100_teachers.sh" if name == "cifar100" else f"{name}_teacher.sh"
        made = {
            f"{teacher.save_dir}/{teacher.model}_latest.pth"
            for teacher in map(options_of, recorded(script, tmp_path))
        }
        students = map(options_of, recorded(f"{name}_distill.sh", tmp_path))
        assert {student.path_t for student in students} <= made


@pytest.mark.parametrize("name", ["imagenet", "imagenet100"])
def test_the_images_of_a_recipe_are_where_its_students_look(name, tmp_path):
    (sampling,) = map(options_of, recorded(f"{name}_synthesize.sh", tmp_path))
    (student,) = map(options_of, recorded(f"{name}_distill.sh", tmp_path))
    assert (sampling.sampler, sampling.num_sampling_steps, sampling.cfg_scale, sampling.seed) == (
        "ddpm",
        100,
        2,
        0,
    )
    # The default folder is named by the settings; a recipe that gives none relies on it.
    assert (
        str(sampling.save_dir or "syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0")
        == student.train_data
    )


def test_processes_and_machines(tmp_path):
    (command,) = recorded(
        "imagenet_distill.sh", tmp_path, GPUS="4", NODES="2", NODE="1", MASTER="10.0.0.1:1234"
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


def test_slurm_job_passes_sigterm_on_and_queues_itself_again(tmp_path):
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
