"""The recipes under scripts/: what they run, with which settings. A stand-in for Python writes down what it gets."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import synthesize_dit
import train_student
import train_teacher

ROOT = Path(__file__).parent.parent
PARSERS = {"train_student.py": train_student, "train_teacher.py": train_teacher, "synthesize_dit.py": synthesize_dit}


def recorded(script, tmp_path, **settings):
    """Runs a recipe with a stand-in for Python and returns the commands it gave, each a list of words."""
    log = tmp_path / "commands"
    log.write_text("")
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nfor word in "$@"; do printf "%s\\037" "$word"; done >> {log}\necho >> {log}\n')
    stand_in.chmod(0o755)
    done = subprocess.run(["sh", ROOT / "scripts" / script], env={**os.environ, "PYTHON": str(stand_in), **settings},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split("\037")[:-1] for line in log.read_text().splitlines()]


def options_of(command):
    """Returns the parsed flags of the top-level script in a command, as the script itself reads them."""
    at, name = next((i, word) for i, word in enumerate(command) if word in PARSERS)
    return PARSERS[name].parse_option(command[at + 1:])


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
        assert settings == (options.data_amount, options.epochs, options.lr_decay_epochs, options.batch_size,
                            options.learning_rate, options.weight_decay, options.kd_T)
        assert (options.alpha, options.gamma, options.use_aug, options.resume) == (1, 0, "none", True)
        # Labels of ImageNet's images mean nothing to another set of classes.
        assert options.ignore_labels == (options.dataset in ("cifar100", "flowers102"))


def test_the_five_pairs_of_cifar100(tmp_path):
    runs = [options_of(command) for command in recorded("cifar100_distill.sh", tmp_path)]
    pairs = [(Path(run.path_t).parent.name, run.model_s) for run in runs]
    assert pairs == [("resnet34", "resnet18"), ("vgg11", "resnet18"), ("wrn_40_2", "wrn_16_1"),
                     ("wrn_40_2", "wrn_40_1"), ("wrn_40_2", "wrn_16_2")]
    assert len({(run.experiments_dir, run.experiments_name) for run in runs}) == 5


def test_the_teachers_of_a_recipe_are_where_its_students_look(tmp_path):
    for name in ("cifar100", "imagenet100", "flowers102"):
        script = "cifar100_teachers.sh" if name == "cifar100" else f"{name}_teacher.sh"
        made = {f"{teacher.save_dir}/{teacher.model}_latest.pth"
                for teacher in map(options_of, recorded(script, tmp_path))}
        students = map(options_of, recorded(f"{name}_distill.sh", tmp_path))
        assert {student.path_t for student in students} <= made


@pytest.mark.parametrize("name", ["imagenet", "imagenet100"])
def test_the_images_of_a_recipe_are_where_its_students_look(name, tmp_path):
    sampling, = map(options_of, recorded(f"{name}_synthesize.sh", tmp_path))
    student, = map(options_of, recorded(f"{name}_distill.sh", tmp_path))
    assert (sampling.sampler, sampling.num_sampling_steps, sampling.cfg_scale, sampling.seed) == ("ddpm", 100, 2, 0)
    # The default folder is named by the settings; a recipe that gives none relies on it.
    assert str(sampling.save_dir or "syn_dataset/DiT-XL-2-256_ddpm_s2_T100_seed0") == student.train_data


def test_processes_and_machines(tmp_path):
    command, = recorded("imagenet_distill.sh", tmp_path, GPUS="4", NODES="2", NODE="1", MASTER="10.0.0.1:1234")
    launcher = command[:command.index("train_student.py")]
    assert launcher == ["-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", "1", "--nproc_per_node", "4",
                        "--master_addr", "10.0.0.1", "--master_port", "1234"]


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
    slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0",
             "SLURM_JOB_NODELIST": "node-7", "PYTHON": str(tmp_path / "python")}
    job = subprocess.Popen(["sh", ROOT / "scripts/imagenet_distill_slurm.sh"], stdout=subprocess.DEVNULL,
                           env={**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    job.wait(timeout=20)
    assert "--nnodes 1 --node_rank 0 --nproc_per_node 8 --master_addr node-7" in (tmp_path / "started").read_text()
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "queued").read_text() == "requeue 77\n"
