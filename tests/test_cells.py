"""The cells of the tables: their settings, what they need of each other, and how they are run."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from test_recipes import environment, options_of, recorded, refusal, stand_in

import synthesize_dit
from report.results import network_name
from train_datafree import METHODS

ROOT = Path(__file__).resolve().parent.parent
PAPER = json.loads((ROOT / "results/paper_tables.json").read_text())
SCRIPTS = {
    "table1_cifar100": "table1_cifar100.sh",
    "table2_imagenet": "table2_imagenet.sh",
    "table3_other": "table3_other.sh",
    "fashion_mnist": "table_fashion_mnist.sh",
}


def lines_of(table):
    """The cells of a table, each a command line."""
    text = (ROOT / f"scripts/cells/{table}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@cache
def commands_of(table, seed="0"):
    """For each cell of a table the commands that it runs, each a list of words."""
    return [
        recorded(SCRIPTS[table], CELL=str(cell), SEED=seed)
        for cell in range(1, len(lines_of(table)) + 1)
    ]


def script_of(command):
    """The top-level script of a command, or the module of `-m`."""
    return next((word for word in command if word.endswith(".py")), command[1])


def trainings(table, seed="0"):
    """(row, options) of the classifiers that the cells of a table train."""
    found = []
    for command in sum(commands_of(table, seed), []):
        script = script_of(command)
        if script == "train_datafree.py":
            options = options_of(command)
            found.append((METHODS[options.method].row, options))
        elif script.startswith("train_"):
            options = options_of(command)
            # By default a student of the quickstart has the row of its images.
            default = "KD" if getattr(options, "train_data", None) == "real" else "DM-KD"
            found.append((options.row or default, options))
    return found


def teacher_of(options):
    return network_name(Path(options.path_t).parent.name)


@pytest.mark.parametrize("table", SCRIPTS)
def test_every_cell_runs_a_recipe_and_names_its_table(table):
    assert trainings(table) and all(commands_of(table))
    for _, options in trainings(table):
        assert options.table == table and options.resume
    for line in lines_of(table):
        assert re.search(r"(^| )sh scripts/\w+\.sh( |$)", line) and len(line) <= 110


@pytest.mark.parametrize("table", SCRIPTS)
def test_comments_number_the_cells(table):
    """'# 3–5: …' stands before the third, fourth and fifth cell."""
    number, announced = 0, []
    for line in (ROOT / f"scripts/cells/{table}.txt").read_text().splitlines():
        if found := re.match(r"# (\d+)(?:–(\d+))?: ", line):
            announced += range(int(found[1]), int(found[2] or found[1]) + 1)
        elif line and not line.startswith("#"):
            number += 1
            assert announced[number - 1 : number] == [number]
    assert len(announced) == number


@pytest.mark.parametrize("table", SCRIPTS)
def test_runs_and_seeds_have_folders_of_their_own(table):
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
    """Teachers and generated images, unless they are shipped or a README says how to get them."""
    available = {
        "real",
        "true_dataset/places365",
        "save/models/fashion_mnist/resnet20/resnet20_latest.pth",
    }
    for command in sum(commands_of(table), []):
        script = script_of(command)
        if script == "tools.fetch_weights":
            available.add(f"save/models/{command[-1]}/{command[-1].lower()}.pth")
        elif script == "tools.digits":
            available.add(command[-1])
        elif script.endswith(".py"):
            options = options_of(command)
            if script == "train_teacher.py":
                available.add(f"{options.save_dir}/{options.model}_latest.pth")
                continue
            assert getattr(options, "path_t", None) in (None, *available)
            if script.startswith("synthesize"):
                available.add(str(options.save_dir))
            else:
                assert getattr(options, "train_data", "real") in available


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


def test_fastdfkd_on_imagenet_synthesises_the_images_of_its_row():
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


def test_fashion_mnist_has_every_method_with_equal_image_steps():
    taken = {}
    for row, options in trainings("fashion_mnist"):
        if row not in ("Teacher", "Student"):
            steps = (
                getattr(options, "steps_per_epoch", None)
                or options.data_amount // options.batch_size
            )
            taken.setdefault(row, []).append(options.epochs * steps * options.batch_size)
            assert getattr(options, "distill", "kd") == "kd"  # the quickstart's is another
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
    assert {min(steps) for steps in taken.values()} == {128_000}
    assert {max(steps) for steps in taken.values()} == {1_000_000}


def students(commands):
    """Options of the training commands among recorded ones."""
    return [options_of(command) for command in commands if command[0] == "train_student.py"]


def differing(first, second):
    first, second = vars(first), vars(second)
    return {name for name in first if first[name] != second[name]}


def test_the_gap_and_cells_3_and_4_differ_in_their_images_only():
    """Of scripts/fashion_mnist_gap.sh, and of the table's KD and DM-KD."""
    for generated, real in (
        students(recorded("fashion_mnist_gap.sh", SEEDS="2")),
        reversed(students(sum(commands_of("fashion_mnist", "2")[2:4], []))),
    ):
        assert differing(generated, real) == {"train_data", "experiments_name"}
        assert (generated.seed, real.seed, real.train_data) == (2, 2, "real")


def test_sampling_of_the_quickstart_and_of_the_table():
    for script, settings, flags in (
        ("quickstart.sh", {}, ("dpmsolver++", "leading", 5)),
        ("quickstart.sh", {"SAMPLER": "ddim", "SPACING": "", "STEPS": "8"}, ("ddim", None, 8)),
        ("fashion_mnist_kd.sh", {}, ("ddim", None, 25)),
    ):
        (command,) = (
            command for command in recorded(script, **settings) if command[0] == "synthesize_dit.py"
        )
        options = synthesize_dit.parse_option(command[1:])
        assert (
            options.sampler,
            options.timestep_spacing,
            options.num_sampling_steps,
        ) == flags
        assert options.cfg_scale == 1


def test_losses_of_the_quickstart_and_of_the_table():
    for script, settings, loss in (
        ("quickstart.sh", {}, "dist"),
        ("quickstart.sh", {"DISTILL": "dkd"}, "dkd"),
        ("fashion_mnist_gap.sh", {"SEEDS": "0", "DISTILL": "kd"}, "kd"),
        ("fashion_mnist_kd.sh", {}, "kd"),
    ):
        assert {run.distill for run in students(recorded(script, **settings))} == {loss}


def test_a_round_of_deliberate_practice():
    """Students of a seed differ in their images only, and take as many image-steps. Who selects
    them has not seen the pool.
    """
    commands = recorded("fashion_mnist_uncertain.sh", SEEDS="3 5")
    runs = {run.experiments_name: run for run in students(commands)}
    assert list(runs) == [
        f"{name}_holdout"
        for name in ("random_seed3", "random_seed5")
        + ("uncertain_seed3", "certain_seed3", "pool_seed3")
        + ("uncertain_seed5", "certain_seed5", "pool_seed5")
    ]
    pools = {
        options.seed: str(options.save_dir)
        for options in (
            synthesize_dit.parse_option(command[1:])
            for command in commands
            if command[0] == "synthesize_dit.py"
        )
    }
    assert {run.data_amount * run.epochs for run in runs.values()} == {128_000}
    assert {run.data_amount * run.warmup_epochs for run in runs.values()} == {8_000}
    images = {"train_data", "data_amount", "epochs", "warmup_epochs", "experiments_name"}
    for seed, other in ((3, 5), (5, 3)):
        random = runs[f"random_seed{seed}_holdout"]
        for name in ("uncertain", "certain", "pool"):
            run = runs[f"{name}_seed{seed}_holdout"]
            assert (run.seed, random.seed, random.train_data) == (seed, seed, pools[seed])
            assert differing(random, run) <= images
            if name == "pool":
                assert run.train_data == pools[seed]
                continue
            (selection,) = (command for command in commands if command[3:4] == [run.train_data])
            assert selection[:3] == ["-m", "tools.uncertain_images", pools[seed]]
            assert ("--certain" in selection) == (name == "certain")
            student = selection[selection.index("--student") + 1]
            assert f"/random_seed{other}_holdout/" in student


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"SEEDS": "1"}, "SEEDS is 1"),
        ({"SEEDS": "0,1"}, "SEEDS='0 1'"),
        ({"KEPT": "8k"}, "KEPT=8000"),
        ({"POOL": "10000", "KEPT": "4000"}, "10000"),
    ],
)
def test_a_round_that_cannot_be_compared(settings, word):
    assert word in refusal("fashion_mnist_uncertain.sh", **settings)


def run_table(tmp_path, table, body="", **settings):
    """Runs the script of a table with a stand-in for Python; returns (completed process, command
    lines). The stand-in then runs the shell lines `body`.
    """
    program = stand_in(tmp_path, f'echo "$@" >> {tmp_path}/commands\n{body}')
    (tmp_path / "commands").write_text("")
    done = subprocess.run(
        ["sh", ROOT / "scripts" / SCRIPTS[table]],
        capture_output=True,
        text=True,
        env=environment(PYTHON=str(program), **settings),
    )
    return done, (tmp_path / "commands").read_text().splitlines()


@pytest.mark.parametrize("table", SCRIPTS)
def test_all_cells_run_in_order(table, tmp_path):
    done, commands = run_table(tmp_path, table)
    assert done.returncode == 0, done.stderr
    expected = [" ".join(command) for command in sum(commands_of(table), [])]
    assert without_seconds(commands) == without_seconds(expected)


def without_seconds(commands):
    """tools.summary is given the seconds that the quickstart took."""
    return [re.sub(r"(tools\.summary .*) \d+$", r"\1", command) for command in commands]


def test_seed_and_gpus(tmp_path):
    done, commands = run_table(tmp_path, "fashion_mnist", CELL="5", SEED="7")
    assert done.returncode == 0 and len(commands) == 2
    assert all("--seed 7" in command for command in commands) and "_seed7" in commands[1]
    _, (command,) = run_table(tmp_path, "table2_imagenet", CELL="3", GPUS="2")
    assert "--nproc_per_node 2 synthesize_dit.py" in command
    _, (command,) = run_table(tmp_path, "table2_imagenet", CELL="3")
    assert "--nproc_per_node 8 synthesize_dit.py" in command


def test_images_and_teachers_of_the_papers_tables_have_seed_0():
    for table in ("table1_cifar100", "table2_imagenet", "table3_other"):
        for command in sum(commands_of(table, "5"), []):
            if script_of(command).endswith(".py"):
                options = options_of(command)
                fixed = script_of(command).startswith("synthesize")
                fixed |= getattr(options, "row", None) == "Teacher"
                assert options.seed == (0 if fixed else 5)


@pytest.mark.parametrize("cell", ["0", "45", "x", "-1", "1,2"])
def test_wrong_cell(cell, tmp_path):
    done, commands = run_table(tmp_path, "table1_cifar100", CELL=cell)
    assert done.returncode == 2 and commands == []
    for word in (f"CELL is {cell}", "scripts/cells/table1_cifar100.txt", "1 to 44"):
        assert word in done.stderr


def test_a_failing_cell_is_named_and_the_others_run(tmp_path):
    fails = 'case $* in *synthesize_baseline*|*"--method dfq"*) exit 2 ;; esac'
    done, commands = run_table(tmp_path, "fashion_mnist", fails)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.search(r"scripts/cells/fashion_mnist.txt\D* 5 8 11 18 21$", last)
    # Cells 5, 11 and 18 have no images: their students are not trained. The last cell has run.
    assert (
        not any("--row One-Image" in command for command in commands)
        and "--method deepinversion" in commands[-1]
    )


def test_a_stopped_cell_ends_the_rest(tmp_path):
    done, commands = run_table(
        tmp_path, "fashion_mnist", 'case $* in *"--row Student"*) exit 143 ;; esac'
    )
    assert done.returncode == 143 and "cell 2" in done.stderr
    assert "--row Student" in commands[-1]
