"""The cells of the tables: every line parses and has the settings of its row; how they are run."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import synthesize_baseline
import synthesize_dit
import train_datafree
import train_student
import train_teacher
from report.results import network_name

ROOT = Path(__file__).resolve().parent.parent
PAPER = json.loads((ROOT / "results/paper_tables.json").read_text())
SCRIPTS = {
    "table1_cifar100": "table1_cifar100.sh",
    "table2_imagenet": "table2_imagenet.sh",
    "table3_other": "table3_other.sh",
    "fashion_mnist": "table_fashion_mnist.sh",
}
PARSERS = {
    f"{module.__name__}.py": module.parse_option
    for module in (
        train_student,
        train_teacher,
        train_datafree,
        synthesize_dit,
        synthesize_baseline,
    )
}
MODULES = {
    "tools.fetch_weights",
    "tools.fashion_mnist",
    "tools.digits",
}  # commands that are no top-level scripts


def lines_of(table):
    """Returns the cells of a table, each a command line."""
    text = (ROOT / f"scripts/cells/{table}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def commands_of(line, seed="0"):
    """Returns the (script, parsed flags) of a cell's commands, expanded as a shell does; those of
    MODULES have none.
    """
    words = shlex.split(re.sub(r"\$\{SEED:-0\}", seed, re.sub(r"\$\{GPUS:-(\d)\}", r"\1", line)))
    commands = []
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        (program, *command), words = words[:end], words[end + 1 :]
        assert program == "python" and not any("$" in word for word in command)
        at = next(
            number for number, word in enumerate(command) if word in PARSERS or word in MODULES
        )
        script = command[at]
        commands.append((script, PARSERS[script](command[at + 1 :]) if script in PARSERS else None))
    return commands


def trainings(table, seed="0"):
    """Returns the flags of the classifiers that a table's cells train, each with its row as
    `method`.
    """
    found = []
    for line in lines_of(table):
        for script, options in commands_of(line, seed):
            if script == "train_datafree.py":
                found.append((train_datafree.METHODS[options.method].row, options))
            elif script.startswith("train_"):
                found.append((options.row, options))
    return found


def teacher_of(options):
    return network_name(Path(options.path_t).parent.name)


@pytest.mark.parametrize("table", SCRIPTS)
def test_every_line_parses_and_names_its_table(table):
    assert lines_of(table)
    for _, options in trainings(table):
        assert options.table == table and options.resume
    for line in lines_of(table):
        assert commands_of(line)


@pytest.mark.parametrize("table", SCRIPTS)
def test_comments_number_the_cells(table):
    """'# 3–5: …' stands before the third, fourth and fifth command."""
    number, announced = 0, []
    for line in (ROOT / f"scripts/cells/{table}.txt").read_text().splitlines():
        if found := re.match(r"# (\d+)(?:–(\d+))?: ", line):
            announced += range(int(found[1]), int(found[2] or found[1]) + 1)
        elif line and not line.startswith("#"):
            number += 1
            assert announced[number - 1 : number] == [number]
    assert len(announced) == number


@pytest.mark.parametrize("table", SCRIPTS)
def test_runs_do_not_share_a_folder_and_seeds_do_not_either(table):
    def folders(seed):
        return [
            getattr(options, "save_dir", None)
            or (options.experiments_dir, options.experiments_name)
            for row, options in trainings(table, seed)
            if row != "Teacher"
        ]

    assert len({*folders("0"), *folders("1")}) == 2 * len(folders("0"))


@pytest.mark.parametrize("table", SCRIPTS)
def test_cells_use_what_earlier_cells_make(table):
    """Teachers and generated images, or what the head of the file and other recipes say how to
    get.
    """
    made = {
        "real",
        "true_dataset/places365",
        "true_dataset/digits",
        "save/models/fashion_mnist/resnet20/resnet20_latest.pth",
    }
    for line in lines_of(table):
        for word in re.findall(r"tools\.fetch_weights (\w+)", line):
            made.add(f"save/models/{word}/{word.lower()}.pth")
        for script, options in commands_of(line):
            if script.startswith("synthesize"):
                assert getattr(options, "path_t", None) in (None, *made)
                made.add(str(options.save_dir))
            elif script == "train_teacher.py":
                made.add(f"{options.save_dir}/{options.model}_latest.pth")
            elif options is not None:
                assert options.path_t in made
                assert getattr(options, "train_data", "real") in made


def test_cifar100_has_every_entry_of_the_paper():
    have = {
        (
            row,
            network_name(options.model)
            if row in ("Teacher", "Student")
            else f"T:{teacher_of(options)} S:{network_name(options.model_s)}",
        )
        for row, options in trainings("table1_cifar100")
    }
    wanted = set()
    for row in PAPER["cifar100"]["rows"]:
        for column in PAPER["cifar100"]["pairs"]:
            teacher, student = (part[2:] for part in column.split())
            wanted.add(
                (row["method"], {"Teacher": teacher, "Student": student}.get(row["method"], column))
            )
    assert have == wanted


def test_imagenet_has_every_entry_of_the_paper():
    have, amounts = (
        set(),
        {1_800_000: "1.8M", 215_000: "215K", 140_000: "140K", 200_000: "200K", 1_280_000: "1.28M"},
    )
    for row, options in trainings("table2_imagenet"):
        images = amounts[getattr(options, "data_amount", 140_000)]
        have.add((row, images, options.epochs, network_name(options.model_s)))
        weak = row in ("One-Image", "DM-KD")  # whose teacher is the RN-18
        assert teacher_of(options) == ("RN-18" if weak else "RN-50")
    columns = PAPER["imagenet"]["columns"]
    wanted = {
        (row["method"], row["images"], row["epochs"], column.partition("S:")[2])
        for row in PAPER["imagenet"]["rows"]
        for column, top1 in zip(columns, row["top1"], strict=True)
        if top1 is not None
    }
    assert have == wanted


def test_fastdfkd_of_imagenet_makes_the_images_of_its_row():
    for row, options in trainings("table2_imagenet"):
        if row == "FastDFKD":
            rounds = options.warmup_rounds + options.epochs * options.rounds_per_epoch
            assert abs(options.batch * rounds - 140_000) <= 0.02 * 140_000
            assert options.adv == {"ResNet50": 0.1, "ResNet18": 1.0}[options.model_s]


def test_other_sets_have_every_entry_of_the_paper():
    have = {(options.dataset, row) for row, options in trainings("table3_other")}
    assert have == {
        (dataset, row)
        for dataset in ("imagenet100", "flowers102")
        for row in ("Teacher", "One-Image", "DM-KD")
    }


# row: (epochs, batch, rate, weight decay, schedule, τ) of CIFAR-100
CIFAR100 = {
    "KD": (200, 128, 0.1, 5e-4, "step", 1),
    "DM-KD": (240, 128, 0.1, 5e-4, "step", 4),
    "One-Image": (1000, 512, 1e-3, 0, "cosine", 8),
    "DeepInv": (200, 256, 0.1, 1e-4, "cosine", 20),
    "DAFL": (200, 256, 0.1, 1e-4, "cosine", 1),
    "DFQ": (200, 256, 0.1, 1e-4, "cosine", 1),
    "FastDFKD": (200, 256, 0.2, 1e-4, "cosine", 20),
}


def test_cifar100_settings():
    for row, options in trainings("table1_cifar100"):
        if row in CIFAR100:
            assert CIFAR100[row] == (
                options.epochs,
                options.batch_size,
                options.learning_rate,
                options.weight_decay,
                options.schedule,
                options.kd_T,
            )
        else:
            assert (
                options.epochs,
                options.batch_size,
                options.learning_rate,
                options.lr_decay_rate,
                options.lr_decay_epochs,
            ) == (200, 256, 0.1, 0.2, [120, 150, 180])
        if row in ("DeepInv", "DAFL", "DFQ", "FastDFKD"):
            assert (options.steps_per_epoch, options.min_lr) == (400, 2e-4)
        if row == "FastDFKD":
            weights = {"RN-34": (1.33, 0.5), "VGG-11": (1.0, 0.5), "WRN-40-2": (1.1, 0.4)}
            assert (options.adv, options.oh) == weights[teacher_of(options)]
            assert (options.k, options.lr_g, options.lr_z, options.bn) == (10, 2e-3, 0.01, 10)
        if row == "DM-KD":
            assert options.ignore_labels and options.data_amount == 50_000


def test_fashion_mnist_has_every_method_at_equal_image_steps():
    taken = {}
    for row, options in trainings("fashion_mnist"):
        if row not in ("Teacher", "Student"):
            steps = (
                getattr(options, "steps_per_epoch", None)
                or options.data_amount // options.batch_size
            )
            taken.setdefault(row, []).append(options.epochs * steps * options.batch_size)
    assert taken.keys() == {
        "KD",
        "Digits+KD",
        "One-Image",
        "DeepInv",
        "DAFL",
        "DFQ",
        "FastDFKD",
        "DM-KD",
    }
    assert {steps[0] for steps in taken.values()} == {128_000}


def test_fashion_mnist_has_the_runs_of_the_gap(tmp_path):
    """What scripts/fashion_mnist_gap.sh has run, the table finds done: the same folders and
    settings.
    """
    cells = {
        options.experiments_name: options
        for _, options in trainings("fashion_mnist", "2")
        if getattr(options, "experiments_dir", "") == "quickstart"
    }
    assert cells.keys() == {"gap_generated_seed2_test", "gap_real_seed2_test"}
    text = (ROOT / "scripts/quickstart.sh").read_text()
    for name, flag in {
        "IMAGES": "data_amount",
        "EPOCHS": "epochs",
        "BATCH": "batch_size",
        "RATE": "learning_rate",
        "TEMPERATURE": "kd_T",
        "MIXING": "use_aug",
    }.items():
        default = re.search(rf"{name}=\${{{name}:-([^}}]*)}}", text)[1]
        assert {str(getattr(options, flag)).removesuffix(".0") for options in cells.values()} == {
            default
        }


def stand_in(tmp_path, body=""):
    """Returns a program that writes its words to tmp_path/commands, a line each, and then does
    `body`.
    """
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/commands\n{body}\n')
    program.chmod(0o755)
    (tmp_path / "commands").write_text("")
    return program


def run_script(tmp_path, table, body="", **settings):
    """Runs a table's script with a stand-in for Python; returns (what ended, the commands it
    gave).
    """
    clean = {
        name: value for name, value in os.environ.items() if name not in ("CELL", "SEED", "GPUS")
    }
    done = subprocess.run(
        ["sh", ROOT / "scripts" / SCRIPTS[table]],
        capture_output=True,
        text=True,
        env={**clean, "PYTHON": str(stand_in(tmp_path, body)), **settings},
    )
    return done, (tmp_path / "commands").read_text().splitlines()


@pytest.mark.parametrize("table", SCRIPTS)
def test_all_cells_run_in_order(table, tmp_path):
    done, commands = run_script(tmp_path, table)
    assert done.returncode == 0, done.stderr
    parts = [part for line in lines_of(table) for part in line.split(" && ")]
    expected = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", part).removeprefix("python ") for part in parts]
    assert commands == expected


def test_one_cell_runs_alone(tmp_path):
    done, commands = run_script(tmp_path, "fashion_mnist", CELL="5", SEED="7")
    assert done.returncode == 0 and len(commands) == 2
    assert all("--seed 7" in command for command in commands) and "_seed7" in commands[1]
    done, commands = run_script(tmp_path, "table2_imagenet", CELL="3", GPUS="2")
    assert len(commands) == 1 and "--nproc_per_node 2 synthesize_dit.py" in commands[0]


@pytest.mark.parametrize("cell", ["0", "45", "x", "-1", "1,2"])
def test_wrong_cell(cell, tmp_path):
    done, commands = run_script(tmp_path, "table1_cifar100", CELL=cell)
    assert done.returncode == 2 and commands == []
    assert (
        done.stderr.strip()
        == f"error: CELL is {cell}: scripts/cells/table1_cifar100.txt has the cells 1 to 44"
    )


def test_a_failing_cell_is_named_and_the_others_run(tmp_path):
    fails = 'case $* in *synthesize_baseline*|*"--method dfq"*) exit 2 ;; esac'
    done, commands = run_script(tmp_path, "fashion_mnist", fails)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "failed cells of scripts/cells/fashion_mnist.txt: 5 8 11"
    # Cells 5 and 11 have no images: their students are not trained. The last cell has run.
    assert (
        not any("--row One-Image" in command for command in commands)
        and "--method dafl" in commands[-1]
    )


def test_a_stopped_cell_ends_the_rest(tmp_path):
    done, commands = run_script(
        tmp_path, "fashion_mnist", 'case $* in *"--row Student"*) exit 143 ;; esac'
    )
    assert done.returncode == 143 and "cell 2 was stopped" in done.stderr
    assert "--row Student" in commands[-1]
