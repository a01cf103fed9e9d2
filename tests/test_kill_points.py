"""Small runs of the two main scripts, killed before some of their file operations and resumed.

`python tests/kill_points.py --help` describes how to try every operation of any script.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def kill_everywhere(folder, script, every, argv):
    command = [sys.executable, ROOT / "tests/kill_points.py", folder, "--script", script]
    done = subprocess.run(
        [*command, "--every", str(every), "--", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert " 0 faults" in done.stdout


def test_train_student_resumes_after_a_kill_at_any_moment(tmp_path, tiny_fashion_mnist):
    teacher = ROOT / "save/models/fashion_mnist/resnet8/resnet8_latest.pth"
    argv = "--dataset fashion_mnist --val_split holdout --device cpu --model_s resnet8 --resume"
    argv += " --train_data real --data_amount 40 --batch_size 20 --epochs 2"
    paths = ["--data_root", tiny_fashion_mnist, "--path-t", teacher]
    kill_everywhere(tmp_path, "train_student.py", 14, [*argv.split(), *paths])


def test_synthesize_dit_continues_after_a_kill_at_any_moment(tmp_path, tiny_pipeline):
    argv = "--images_per_class 2 --batch_size 4 --num-sampling-steps 2 --device cpu"
    kill_everywhere(tmp_path, "synthesize_dit.py", 11, ["--model", tiny_pipeline, *argv.split()])
