"""make_tables.py on artificial runs: their cells, averages, and the runs that are skipped."""

import csv
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import make_tables
import train_teacher
from dataset.real import REAL_SETS
from helper.errors import run_script
from report.results import method_name, network_name

ROOT = Path(__file__).resolve().parent.parent
PAPER = json.loads((ROOT / "results/paper_tables.json").read_text())
RESULT = {
    "schema": 1,
    "table": None,
    "method": "DM-KD",
    "dataset": "cifar100",
    "teacher": "wrn_40_2",
    "student": "wrn_16_1",
    "source": "syn_dataset/x",
    "images": 50_000,
    "epochs": 240,
    "seed": 0,
    "val_split": "test",
    "val_images": 10_000,
    "top1_last": 55.5,
    "top1_best": 56.0,
    "top5_last": 90.0,
    "agreement": 70.0,
    "teacher_top1": 75.8,
    "image_steps": 12_000_000,
    "seconds": 600.0,
}
IMAGENET = {
    "dataset": "imagenet",
    "teacher": "ResNet18",
    "student": "ResNet18",
    "images": 200_000,
    "epochs": 200,
    "val_images": 50_000,
}
DM_KD = "| DM-KD | Diffusion |"


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A working directory with an empty folder for runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "save").mkdir()


def add_run(name, **changes):
    """Writes save/`name`/result.json."""
    folder = Path("save", name)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({**RESULT, **changes}))
    return f"save/{name}"


def page(table):
    return Path(f"results/tables/{table}.md").read_text()


def cells(table, start):
    """The cells of the only row of a table's page that begins with `start`."""
    (row,) = [line for line in page(table).splitlines() if line.startswith(start)]
    return row.strip("| ").split(" | ")


def csv_lines(table, **values):
    """The lines of a table's CSV with the given values, as dicts of strings."""
    with open(f"results/tables/{table}.csv") as file:
        return [
            line
            for line in csv.DictReader(file)
            if all(line[name] == value for name, value in values.items())
        ]


def test_without_runs_every_cell_is_a_dash_and_the_published_figure(capsys):
    records = make_tables.main([])
    for facts, table, columns, leading, decimals in (
        (PAPER["cifar100"], "table1_cifar100", "pairs", 2, 2),
        (PAPER["imagenet"], "table2_imagenet", "columns", 4, 2),
        (PAPER["other"], "table3_other", "columns", 2, 1),
    ):
        rows = [
            line.strip("| ").split(" | ")
            for line in page(table).splitlines()
            if line.startswith("|")
        ]
        heading, rows = rows[0], rows[2:]
        assert heading[leading:] == facts[columns]
        assert [row[leading:] for row in rows] == [
            ["—" if top1 is None else f"— ({top1:.{decimals}f})" for top1 in row["top1"]]
            for row in facts["rows"]
        ]
        assert [row[0] for row in rows] == [
            row.get("method", row.get("dataset")) for row in facts["rows"]
        ]
        published = [top1 for row in facts["rows"] for top1 in row["top1"]]
        assert [line["published"] for line in csv_lines(table)] == [
            "" if top1 is None else str(top1) for top1 in published
        ]
        assert {line["runs"] for line in csv_lines(table)} == {""}
        assert len(records[table]) == len(published)
    printed = capsys.readouterr().out
    assert all(page(table) in printed for table in records)
    assert cells("fashion_mnist", "| DAFL") == ["DAFL", *["—"] * 9]


def test_published_figures_are_the_papers():
    """Some figures of each table, copied from the paper."""
    rows = {row["method"]: row["top1"] for row in PAPER["cifar100"]["rows"]}
    assert rows["DM-KD"] == [76.58, 70.83, 56.29, 65.01, 66.89] and rows["DAFL"][2] == 20.88
    assert [row["top1"] for row in PAPER["imagenet"]["rows"][-3:]] == [
        [66.74, 60.10],
        [68.63, 61.61],
        [72.43, 68.25],
    ]
    assert PAPER["other"]["rows"][1]["top1"] == [87.9, 81.5, 85.4]


def test_seeds_are_averaged(capsys):
    figures = {0: (55.5, 56.0), 1: (54.25, 55.75), 2: (56.0, 56.5)}
    folders = [
        add_run(
            f"runs/seed{seed}", seed=seed, top1_last=last, top1_best=best, agreement=70.0 + seed
        )
        for seed, (last, best) in figures.items()
    ]
    make_tables.main([])
    last, best = zip(*figures.values(), strict=True)
    text = (
        f"{sum(last) / 3:.2f} ± {statistics.stdev(last):.2f} / {sum(best) / 3:.2f} ± "
        f"{statistics.stdev(best):.2f}, "
        "n = 3 (56.29)"
    )
    assert cells("table1_cifar100", DM_KD)[2:] == [
        "— (76.58)",
        "— (70.83)",
        text,
        "— (65.01)",
        "— (66.89)",
    ]
    assert text in capsys.readouterr().out
    (line,) = csv_lines("table1_cifar100", n="3")
    assert (
        line["column"] == "T:WRN-40-2 S:WRN-16-1"
        and line["seeds"] == "0 1 2"
        and line["runs"] == "; ".join(folders)
    )
    assert float(line["top1_last"]) == pytest.approx(statistics.mean(last), abs=1e-4)
    assert float(line["top1_last_sd"]) == pytest.approx(statistics.stdev(last), abs=1e-4)
    assert float(line["top1_best_sd"]) == pytest.approx(statistics.stdev(best), abs=1e-4)
    assert (line["agreement"], line["minutes"], line["published"]) == ("71.0", "10.0", "56.29")
    for folder in folders:
        assert f"`{folder}` (seed" in page("table1_cifar100")


def test_two_runs_of_a_seed_are_shown_separately():
    add_run("a", top1_last=50.0, top1_best=51.0)
    add_run("b", top1_last=60.0, top1_best=61.0)
    add_run("c", seed=1, top1_last=40.0, top1_best=41.0)
    make_tables.main([])
    cell = cells("table1_cifar100", DM_KD)[4]
    assert cell == "50.00 / 51.00 [seed 0]; 60.00 / 61.00 [seed 0]; 40.00 / 41.00 [seed 1] (56.29)"
    assert [line["runs"] for line in csv_lines("table1_cifar100", n="1")] == [
        "save/a",
        "save/b",
        "save/c",
    ]
    assert page("table1_cifar100").count("not averaged") == 3


def test_runs_with_other_epochs_or_images_are_not_averaged():
    add_run("a", epochs=240, seed=0)
    add_run("b", epochs=100, seed=1, top1_last=50.0, top1_best=50.0)
    add_run("c", images=200_000, seed=2, top1_last=58.0, top1_best=58.0)
    make_tables.main([])
    assert cells("table1_cifar100", DM_KD)[4] == (
        "50.00 / 50.00 [50,000 images, 100 epochs]; 55.50 / 56.00 [50,000 images, 240 epochs]; "
        "58.00 / 58.00 [200,000 images, 240 epochs] (56.29)"
    )


def test_teachers_and_students_from_labels():
    labels = {"teacher": None, "agreement": None}
    add_run(
        "teacher", method="Teacher", student="wrn_40_2", top1_last=75.0, top1_best=75.5, **labels
    )
    add_run(
        "student", method="Student", student="resnet18", top1_last=77.0, top1_best=77.5, **labels
    )
    make_tables.main([])
    assert cells("table1_cifar100", "| Teacher")[2:] == [
        "— (78.05)",
        "— (71.32)",
        *["75.00 / 75.50 (75.83)"] * 3,
    ]
    assert cells("table1_cifar100", "| Student")[2:4] == ["77.00 / 77.50 (77.10)"] * 2
    assert page("table1_cifar100").count("`save/teacher`") == 1 and "not averaged" not in page(
        "table1_cifar100"
    )
    assert [line["agreement"] for line in csv_lines("table1_cifar100", runs="save/teacher")] == [
        ""
    ] * 3


def test_imagenet_rows_by_images_teacher_and_epochs():
    add_run("low", **IMAGENET | {"images": 140_000})
    add_run("mid", **IMAGENET | {"epochs": 100})
    add_run("all", **IMAGENET | {"images": 1_281_167, "student": "ResNet50"})
    add_run("strong", **IMAGENET | {"teacher": "ResNet50"}, seed=1)
    add_run("few", **IMAGENET | {"images": 50_000})
    add_run("places", **IMAGENET | {"images": 1_000_000, "teacher": "ResNet50"}, method="Places365")
    make_tables.main([])
    by_images = {
        images: cells("table2_imagenet", f"{DM_KD} {images}")[4:]
        for images in ("140K", "200K", "1.28M")
    }
    assert by_images == {
        "140K": ["— (66.74)", "55.50 / 56.00 [teacher ResNet18] (60.10)"],
        "200K": [
            "— (68.63)",
            "55.50 / 56.00 [teacher ResNet18, 100 epochs]; "
            "55.50 / 56.00 [teacher ResNet50, 200 epochs] (61.61)",
        ],
        "1.28M": ["55.50 / 56.00 [teacher ResNet18] (72.43)", "— (68.25)"],
    }
    # A method with a single row gets all its runs; another number of images is noted.
    assert (
        cells("table2_imagenet", "| Place365+KD")[5]
        == "55.50 / 56.00 [teacher ResNet50, 1,000,000 images] (45.53)"
    )
    outside = page("table2_imagenet").partition("no place for")[2]
    assert "`save/few`" in outside and "`save/low`" not in outside
    assert [line["published"] for line in csv_lines("table2_imagenet", runs="save/few")] == [""]


def test_other_sets():
    common = {"teacher": "ResNet18", "student": "ResNet50", "images": 200_000, "epochs": 200}
    flowers = {"dataset": "flowers102", "val_images": 6_149}
    add_run("flowers", **flowers, **common)
    add_run("one", dataset="imagenet100", val_images=5_000, method="One-Image", **common)
    add_run("teacher", **flowers, method="Teacher", teacher=None, student="ResNet18")
    make_tables.main([])
    assert cells("table3_other", "| Flowers-102")[2:] == [
        "55.50 / 56.00 (87.9)",
        "— (81.5)",
        "55.50 / 56.00 (85.4)",
    ]
    assert cells("table3_other", "| ImageNet-100")[2:] == [
        "— (89.6)",
        "55.50 / 56.00 (84.4)",
        "— (85.9)",
    ]


def test_fashion_mnist_has_a_row_for_each_group():
    small = {
        "dataset": "fashion_mnist",
        "teacher": "resnet20",
        "student": "resnet8",
        "images": 3000,
        "epochs": 20,
        "image_steps": 59_520,
    }
    for seed in (0, 1):
        figures = {"top1_last": 84.0 + seed, "top1_best": 84.0 + seed, "agreement": 85.0}
        add_run(f"s{seed}", **small, seed=seed, **figures, seconds=90)
    add_run("more", **small | {"images": 6000})
    add_run("shoes", **small, method="Shoes")
    make_tables.main([])
    sd = f"{statistics.stdev([84.0, 85.0]):.2f}"
    rows = [line for line in page("fashion_mnist").splitlines() if line.startswith("| DM-KD")]
    assert rows == [
        f"| DM-KD | resnet20 | resnet8 | 84.50 ± {sd} | 84.50 ± {sd} | 85.00 ± 0.00 | 3,000 | "
        "59,520 | 1.5 | 0 1 |",
        "| DM-KD | resnet20 | resnet8 | 55.50 | 56.00 | 70.00 | 6,000 | 59,520 | 10.0 | 0 |",
    ]
    methods = [
        line.split(" | ")[0].strip("| ")
        for line in page("fashion_mnist").splitlines()
        if line.startswith("| ")
    ]
    assert methods[2:] == [
        "Teacher",
        "Student",
        "KD",
        "Digits+KD",
        "One-Image",
        "DeepInv",
        "DAFL",
        "DFQ",
        "FastDFKD",
        "DM-KD",
        "DM-KD",
        "Shoes",
    ]


def test_holdout_runs_and_other_tables_are_counted_and_skipped(capsys):
    add_run("a", val_split="holdout", dataset="fashion_mnist")
    add_run("b", table="sweep")
    add_run("c", dataset="imagefolder")
    add_run("d", table="table1_cifar100", top1_last=33.0, top1_best=34.0)
    make_tables.main([])
    out = capsys.readouterr().out
    notes = [line for line in out.splitlines() if line.startswith("runs not in these tables: 1")]
    assert len(notes) == 3
    for what in ("holdout", "sweep", "imagefolder"):
        assert sum(what in note for note in notes) == 1
    assert (
        cells("table1_cifar100", DM_KD)[4] == "33.00 / 34.00 (56.29)"
        and "1 runs in the tables" in out
    )
    assert not any(
        name in page(table)
        for name in ("save/a", "save/b", "save/c")
        for table in ("table1_cifar100", "fashion_mnist")
    )


def test_runs_evaluated_on_other_images_are_counted_and_skipped(capsys):
    add_run("few", **IMAGENET | {"val_images": 5_000})
    folder = Path(add_run("old", **IMAGENET))
    result = json.loads((folder / "result.json").read_text())
    del result["val_images"]  # as in earlier versions
    (folder / "result.json").write_text(json.dumps(result))
    make_tables.main([])
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "50,000 of" in line]
    assert ": 1 " in note and "5,000 images" in note and "imagenet" in note
    assert "save/old" in page("table2_imagenet") and "save/few" not in page("table2_imagenet")


def test_links_are_followed_and_runs_count_once(tmp_path):
    """A folder of runs on another disk, which links back, and a link to a run beside it."""
    add_run("run")
    Path("save").rename("disk")
    Path("save").mkdir()
    Path("save/student_model").symlink_to(tmp_path / "disk")
    Path("disk/best").symlink_to("run")
    Path("disk/up").symlink_to(tmp_path)
    make_tables.main(["--html", "page.html"])
    assert cells("table1_cifar100", DM_KD)[4] == "55.50 / 56.00 (56.29)"
    assert page("table1_cifar100").count("`save/student_model/run`") == 1


DAMAGED = {
    "cut": ('{"schema": 1, "method"', "not valid JSON"),
    "list": ("[1, 2]", "a list"),
    "newer": (json.dumps({**RESULT, "schema": 2}), "schema 2"),
    "text": (json.dumps({**RESULT, "top1_last": "high"}), 'top1_last is "high"'),
    "nan": (json.dumps({**RESULT, "top1_best": float("nan")}), "top1_best is NaN"),
    "huge": (json.dumps({**RESULT, "images": 1e400}), "images is Infinity"),
    "lacking": (
        json.dumps({name: value for name, value in RESULT.items() if name != "seed"}),
        "seed is missing",
    ),
    "binary": (b"\xff\xfe\x00", "not valid JSON"),
}


def test_damaged_results_are_reported_and_skipped(capsys):
    good = add_run("good")
    for name, (text, _) in DAMAGED.items():
        Path("save", name).mkdir()
        Path("save", name, "result.json").write_bytes(
            text if isinstance(text, bytes) else text.encode()
        )
    assert run_script(make_tables.main, []) == 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == len(DAMAGED)
    for name, (_, reason) in DAMAGED.items():
        (line,) = [line for line in errors if f"save/{name}/result.json" in line]
        assert line.startswith("skipped: ") and reason in line
    assert cells("table1_cifar100", DM_KD)[4] == "55.50 / 56.00 (56.29)" and good in page(
        "table1_cifar100"
    )


def test_results_of_dits_and_files_inside_runs_are_skipped(capsys):
    Path("save/dit").mkdir()
    Path("save/dit/result.json").write_text(
        json.dumps({"schema": 1, "stage": "dit", "dataset": "fashion_mnist"})
    )
    add_run("unfinished/other")
    Path("save/unfinished/other/result.json").unlink()
    add_run("one")
    add_run("one/pool/0000")  # inside a run folder
    make_tables.main([])
    captured = capsys.readouterr()
    assert captured.err == "" and "1 runs in the tables" in captured.out


def test_wrong_folders(tmp_path, capsys):
    assert run_script(make_tables.main, ["--runs", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    Path("taken").write_text("")
    assert run_script(make_tables.main, ["--out", "taken"]) == 2
    assert "taken is a file" in capsys.readouterr().err


def test_names():
    names = [
        "resnet34",
        "cifarresnet18",
        "ResNet50",
        "torchvision/resnet18",
        "wrn_40_2",
        "wrn40_2",
        "vgg11",
    ]
    assert [network_name(name) for name in names] == [
        "RN-34",
        "RN-18",
        "RN-50",
        "RN-18",
        "WRN-40-2",
        "WRN-40-2",
        "VGG-11",
    ]
    assert network_name("resnet20") == "resnet20" and network_name("resnet8x4") == "resnet8x4"
    assert [
        method_name(name) for name in ("deepinversion", "one-image", "biggan", "DM-KD", "mine")
    ] == ["DeepInv", "One-Image", "BigGAN", "DM-KD", "mine"]


def test_results_of_the_scripts_are_read(tiny_fashion_mnist, monkeypatch):
    info = replace(REAL_SETS["fashion_mnist"], test_images=203)
    monkeypatch.setitem(REAL_SETS, "fashion_mnist", info)
    data = ["--dataset", "fashion_mnist", "--data_root", str(tiny_fashion_mnist)]
    result = train_teacher.main(
        [*data, "--model", "resnet8", "--epochs", "1", "--batch_size", "64", "--device", "cpu"]
    )
    make_tables.main([])
    assert cells("fashion_mnist", "| Teacher")[2:4] == ["resnet8", f"{result['top1_last']:.2f}"]


def test_a_fresh_clone_has_the_shipped_teachers(tmp_path):
    """The committed files alone give tables."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    files = subprocess.run(["git", "ls-files", "save"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    for name in files.stdout.splitlines():
        if name.endswith("result.json"):
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, ROOT / "make_tables.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    teachers = [line for line in page("fashion_mnist").splitlines() if line.startswith("| Teacher")]
    assert [line.split(" | ")[2] for line in teachers] == [
        "resnet20",
        "resnet8",
    ] and "93.98" in teachers[0]
