"""Makes the paper's tables from the runs under save/: each entry what was measured, and the
published figure beside it.

    python make_tables.py
    python make_tables.py --runs save/student_model --out /tmp/tables

Reads every result.json below --runs, prints the tables and writes each as Markdown and CSV. Runs of
the same table, method, data set, networks, images and epochs are averaged over their seeds; where a
seed has two runs all are shown and none is averaged. Runs that were measured on holdout images are
in no table.
"""

import sys
from collections import Counter
from pathlib import Path

from helper import options as flags
from helper.errors import run
from helper.files import csv_text, make_folder, read_json, write_text
from report import tables
from report.results import averaged, read_runs
from report.tables import Slot, Table

PUBLISHED = Path(__file__).parent / "results/paper_tables.json"
SMALL = "fashion_mnist"  # the table that the paper does not have
SMALL_METHODS = (
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
)
LEGEND = (
    "Top-1 (%) on the real validation set, *measured (published)*. Measured: last epoch / best "
    "epoch; of n seeds "
    "the mean ± the sample standard deviation. Published: best epoch. —: not run."
)
SMALL_LEGEND = (
    "On the 10,000 real test images, in %; of several seeds the mean ± the sample standard "
    "deviation. "
    "Image-steps: images that the student has learnt from, counted each time. Minutes: of training "
    "and "
    "evaluation, images that are made meanwhile included, those made beforehand not. —: not run."
)


def parse_option(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument(
        "--runs", default="save", help="folder below which the runs are (default: save)"
    )
    parser.add_argument(
        "--out", default="results/tables", help="folder of the tables (default: results/tables)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Prints and writes the tables of `argv`; returns {table: its CSV's lines, dicts of
    `report.tables.COLUMNS`}.
    """
    options = parse_option(argv)
    published = read_json(PUBLISHED, "published figures")
    paper = [
        cifar100(published["cifar100"]),
        imagenet(published["imagenet"]),
        other_sets(published["other"]),
    ]
    found, faults = read_runs(options.runs)
    runs, notes = by_table(found, paper)
    out, records = make_folder(options.out), {}
    for table in paper:
        lines = tables.place(table, runs[table.name])
        records[table.name] = write(out, table.name, paper_page(table, lines), lines)
    lines = small_lines(runs[SMALL])
    records[SMALL] = write(out, SMALL, small_page(lines), lines)
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    for note in notes:
        print(note)
    print(f"{sum(map(len, runs.values()))} runs in the tables of {out}/", flush=True)
    return records


def by_table(found, paper):
    """Returns ({table: its Runs}, lines that say which runs are in none). A run without a table has
    its data set's.
    """
    home = {dataset: table.name for table in paper for dataset in table.datasets} | {SMALL: SMALL}
    runs, elsewhere = {name: [] for name in home.values()}, Counter()
    for one in found:
        name = one.table or home.get(one.dataset)
        if one.val_split != "test":
            elsewhere[f"measured on {one.val_split} images"] += 1
        elif name in runs:
            runs[name].append(one)
        else:
            elsewhere[f"made for the table {name}" if name else f"on {one.dataset}"] += 1
    return runs, [
        f"in no table, {count} of the runs: {what}" for what, count in sorted(elsewhere.items())
    ]


def write(out, name, page, lines):
    """Prints a table's page and writes it and its CSV, whose lines it returns."""
    records = [tables.record(name, slot, group) for slot, group in lines]
    write_text(out / f"{name}.md", page)
    write_text(out / f"{name}.csv", csv_text(tables.COLUMNS, records))
    print(page)
    return records


def pair(heading):
    """Returns (teachers, student) of a heading: 'T:RN-50/18 S:RN-50' → (('RN-50', 'RN-18'),
    'RN-50').
    """
    teacher, student = (part[2:] for part in heading.split())
    family, _, sizes = teacher.rpartition("-")
    return tuple(f"{family}-{size}" for size in sizes.split("/")), student


def cifar100(facts):
    """Returns the paper's first table: methods by pairs. Teacher and Student learn from labels."""
    slots = []
    for row in facts["rows"]:
        for column, top1 in zip(facts["pairs"], row["top1"], strict=True):
            teachers, student = pair(column)
            if row["method"] in ("Teacher", "Student"):
                teachers, student = (), teachers[0] if row["method"] == "Teacher" else student
            slots.append(
                Slot(
                    (row["method"], row["synthesis"] or "–"),
                    column,
                    "cifar100",
                    row["method"],
                    teachers,
                    student,
                    top1,
                )
            )
    return Table(
        "table1_cifar100",
        "Table 1: CIFAR-100",
        ("cifar100",),
        ("method", "synthesis"),
        2,
        tuple(slots),
    )


def imagenet(facts):
    """Returns the second table: methods, each with its images and epochs, by students."""
    slots = []
    for row in facts["rows"]:
        cells = (row["method"], row["synthesis"] or "–", row["images"], str(row["epochs"]))
        for column, top1 in zip(facts["columns"], row["top1"], strict=True):
            slots.append(
                Slot(
                    cells,
                    column,
                    "imagenet",
                    row["method"],
                    *pair(column),
                    top1,
                    flags.amount(row["images"]),
                    row["epochs"],
                )
            )
    leading = ("method", "synthesis", "images", "epochs")
    return Table("table2_imagenet", "Table 2: ImageNet-1K", ("imagenet",), leading, 2, tuple(slots))


def other_sets(facts):
    """Returns the third table: data sets by methods, the teacher among them."""
    headings = [
        column.split() for column in facts["columns"]
    ]  # ['Teacher', 'T:RN-18'], ['DM-KD', 'S:RN-50'], …
    teacher = headings[0][1][2:]
    slots = []
    for row in facts["rows"]:
        for (method, network), column, top1 in zip(
            headings, facts["columns"], row["top1"], strict=True
        ):
            slots.append(
                Slot(
                    (row["dataset"], str(row["classes"])),
                    column,
                    row["dataset"].lower().replace("-", ""),
                    method,
                    () if method == "Teacher" else (teacher,),
                    network[2:],
                    top1,
                )
            )
    datasets = ("imagenet100", "flowers102")
    return Table(
        "table3_other",
        "Table 3: other data sets",
        datasets,
        ("data set", "classes"),
        1,
        tuple(slots),
    )


def paper_page(table, lines):
    """Returns the page of a table of the paper: entries, the runs behind them, and those that have
    no place in it.
    """
    inside = [group for slot, group in lines if slot and group]
    outside = [group for slot, group in lines if not slot]
    return page(
        table.title,
        LEGEND,
        tables.grid(table, lines),
        {
            "The runs": inside,
            "Runs that the paper has no place for, or another number of images": outside,
        },
    )


def page(title, legend, grid, lists):
    """Returns a page in Markdown; `lists` maps the headings below the table to the runs that are
    named there.
    """
    parts = [f"# {title}", legend, grid]
    for heading, groups in lists.items():
        if groups:
            parts += [f"{heading} (last / best epoch):", tables.sources(groups)]
    return "\n\n".join(parts) + "\n"


def small_lines(runs):
    """Returns the Fashion-MNIST table's lines, as `report.tables.place` does: a method's runs, or
    its empty row.
    """
    groups = averaged(runs)
    lines = []
    for method in SMALL_METHODS:
        own = [(None, group) for group in groups if group[0].method == method]
        lines += own or [(Slot((method,), "", SMALL, method, (), "", None), [])]
    return lines + [(None, group) for group in groups if group[0].method not in SMALL_METHODS]


def small_page(lines):
    """Returns the page of the Fashion-MNIST table: a row for each list of runs that are
    averaged.
    """
    rows = []
    for slot, group in lines:
        if not group:
            rows.append([slot.method, *["—"] * 9])
            continue
        first, record = group[0], tables.record(SMALL, slot, group)
        rows.append(
            [
                first.method,
                first.teacher or "–",
                first.student,
                *(
                    tables.spread_of(group, name)
                    for name in ("top1_last", "top1_best", "agreement")
                ),
                f"{first.images:,}",
                f"{record['image_steps']:,}",
                f"{record['minutes']:.1f}",
                record["seeds"],
            ]
        )
    headings = [
        "method",
        "teacher",
        "student",
        "top-1, last epoch",
        "best epoch",
        "agreement with the teacher",
        "images",
        "image-steps",
        "minutes",
        "seeds",
    ]
    return page(
        "Fashion-MNIST",
        SMALL_LEGEND,
        tables.markdown(headings, rows),
        {"The runs": [group for _, group in lines if group]},
    )


if __name__ == "__main__":
    sys.exit(run(main))
