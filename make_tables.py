"""Makes the paper's tables from the runs under save/: measured figures beside the published ones.

    python make_tables.py
    python make_tables.py --runs save/student_model --out /tmp/tables
    python make_tables.py --html results/tables/runs.html

Reads every result.json below --runs (links to folders are followed), prints the tables and writes
each as Markdown and CSV. Runs with the same table, method, data set, networks, number of images and
epochs are averaged over their seeds; if a seed has two runs, all are shown and none is averaged.
Runs evaluated on holdout images, or on another number of images than the data set's test images,
are not in the tables.

--html also writes one page to look at: the tables, the curves and contact sheets of all runs, also
of unfinished ones and of DiTs, and links to their folders.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from dataset.contact_sheet import sheet_beside, sheet_rows, write_contact_sheet
from dataset.real import REAL_SETS
from dataset.scan import CONTACT_SHEET
from helper import options as flags
from helper.errors import UserError, run_script
from helper.files import csv_text, make_folder, read_json, write_text
from report import html, tables
from report.results import groups_to_average, read_runs
from report.tables import Slot, Table

PUBLISHED = Path(__file__).parent / "results/paper_tables.json"
FASHION_MNIST = "fashion_mnist"  # a table that the paper does not have
FASHION_MNIST_METHODS = (
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
    "epoch; of n seeds the mean ± the sample standard deviation. Published: best epoch. —: not run."
)
FASHION_MNIST_LEGEND = (
    "On the 10,000 real test images, in %; of several seeds the mean ± the sample standard "
    "deviation. Image-steps: images that the student has learnt from, counted each time. Minutes: "
    "of training and evaluation, images that are made meanwhile included, those made beforehand "
    "not. —: not run."
)


def parse_option(argv=None):
    """Parses the flags. Raises UserError."""
    parser = flags.Parser(__doc__)
    parser.add_argument("--runs", default="save", help="folder with the runs (default: save)")
    parser.add_argument(
        "--out", default="results/tables", help="output folder (default: results/tables)"
    )
    parser.add_argument(
        "--html", default=None, metavar="FILE", help="also write a page with tables and curves"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Prints and writes the tables; returns {table: records of its CSV}."""
    options = parse_option(argv)

    # The tables of the paper, and the runs that belong to each
    published = read_json(PUBLISHED, "published figures")
    paper_tables = [
        cifar100(published["cifar100"]),
        imagenet(published["imagenet"]),
        other_sets(published["other"]),
    ]
    runs, faults = read_runs(options.runs)
    runs_of, notes = runs_by_table(runs, paper_tables)

    # Print and write
    out = make_folder(options.out)
    records, pages = {}, {}
    for table in paper_tables:
        entries = tables.table_entries(table, runs_of[table.name])
        pages[table.name] = paper_page(table, entries)
        records[table.name] = write(out, table.name, pages[table.name], entries)
    entries = fashion_mnist_entries(runs_of[FASHION_MNIST])
    pages[FASHION_MNIST] = fashion_mnist_page(entries)
    records[FASHION_MNIST] = write(out, FASHION_MNIST, pages[FASHION_MNIST], entries)
    if options.html:
        faults += write_html(options.html, pages.values(), options.runs)
    for fault in faults:
        print(f"skipped: {fault}", file=sys.stderr)
    for note in notes:
        print(note)
    print(f"{sum(map(len, runs_of.values()))} runs in the tables of {out}/", flush=True)
    if options.html:
        print(f"page: {options.html}", flush=True)
    return records


def runs_by_table(runs, paper_tables):
    """Assigns runs to tables: `table` of their result.json, else the table of their data set.

    Returns ({table: runs}, messages about runs that are in none of the tables).
    """
    table_of = {dataset: table.name for table in paper_tables for dataset in table.datasets}
    table_of[FASHION_MNIST] = FASHION_MNIST
    runs_of, others = {name: [] for name in table_of.values()}, Counter()
    for run in runs:
        name = run.table or table_of.get(run.dataset)
        test_images = REAL_SETS[run.dataset].test_images if run.dataset in REAL_SETS else None
        if run.val_split != "test":
            others[f"evaluated on {run.val_split} images"] += 1
        elif name not in runs_of:
            others[f"of the table {name}" if name else f"of the data set {run.dataset}"] += 1
        elif test_images and run.val_images not in (None, test_images):
            others[
                f"evaluated on {run.val_images:,} images, not the {test_images:,} of {run.dataset}"
            ] += 1
        else:
            runs_of[name].append(run)
    notes = [f"runs not in these tables: {count} {what}" for what, count in sorted(others.items())]
    return runs_of, notes


class Page(NamedTuple):
    """A table; `lists`: {heading: groups of runs}, listed below it."""

    title: str
    legend: str
    headings: list
    rows: list  # of lists of strings
    lists: dict

    def markdown(self):
        parts = [f"# {self.title}", self.legend, tables.markdown(self.headings, self.rows)]
        for heading, groups in self.lists.items():
            if groups:
                parts += [f"{heading} (last / best epoch):", tables.run_list(groups)]
        return "\n\n".join(parts) + "\n"


def write(out, name, page, entries):
    """Prints a table's page, writes it and its CSV, and returns the records of the CSV."""
    page_text = page.markdown()
    records = [tables.csv_record(name, slot, group) for slot, group in entries]
    write_text(out / f"{name}.md", page_text)
    write_text(out / f"{name}.csv", csv_text(tables.COLUMNS, records))
    print(page_text)
    return records


# The paper's tables


def networks_of(heading):
    """Teachers and student of a heading: 'T:RN-50/18 S:RN-50' → (('RN-50', 'RN-18'), 'RN-50')."""
    teacher, student = (part[2:] for part in heading.split())
    family, _, sizes = teacher.rpartition("-")
    return tuple(f"{family}-{size}" for size in sizes.split("/")), student


def cifar100(published):
    """Table 1: methods by pairs of networks. The rows Teacher and Student are trained on labels."""
    slots = []
    for row in published["rows"]:
        method, leading_cells = row["method"], (row["method"], row["synthesis"] or "–")
        for heading, top1 in zip(published["pairs"], row["top1"], strict=True):
            teachers, student = networks_of(heading)
            if method == "Teacher":
                teachers, student = (), teachers[0]
            elif method == "Student":
                teachers = ()
            slots.append(Slot(leading_cells, heading, "cifar100", method, teachers, student, top1))
    return Table(
        name="table1_cifar100",
        title="Table 1: CIFAR-100",
        datasets=("cifar100",),
        leading=("method", "synthesis"),
        decimals=2,
        slots=tuple(slots),
    )


def imagenet(published):
    """Table 2: methods, each with its images and epochs, by students."""
    slots = []
    for row in published["rows"]:
        method, images, epochs = row["method"], row["images"], row["epochs"]
        leading_cells = (method, row["synthesis"] or "–", images, str(epochs))
        for heading, top1 in zip(published["columns"], row["top1"], strict=True):
            teachers, student = networks_of(heading)
            slots.append(
                Slot(
                    leading_cells,
                    heading,
                    "imagenet",
                    method,
                    teachers,
                    student,
                    top1,
                    images=flags.amount(images),
                    epochs=epochs,
                )
            )
    return Table(
        name="table2_imagenet",
        title="Table 2: ImageNet-1K",
        datasets=("imagenet",),
        leading=("method", "synthesis", "images", "epochs"),
        decimals=2,
        slots=tuple(slots),
    )


def other_sets(published):
    """Table 3: data sets by methods, including the teacher."""
    # Headings are 'Teacher T:RN-18', 'DM-KD S:RN-50', …
    teacher = published["columns"][0].split()[1][2:]
    slots = []
    for row in published["rows"]:
        leading_cells = (row["dataset"], str(row["classes"]))
        dataset = row["dataset"].lower().replace("-", "")
        for heading, top1 in zip(published["columns"], row["top1"], strict=True):
            method, network = heading.split()
            teachers = () if method == "Teacher" else (teacher,)
            slots.append(Slot(leading_cells, heading, dataset, method, teachers, network[2:], top1))
    return Table(
        name="table3_other",
        title="Table 3: other data sets",
        datasets=("imagenet100", "flowers102"),
        leading=("data set", "classes"),
        decimals=1,
        slots=tuple(slots),
    )


def paper_page(table, entries):
    """Page of a paper's table: the table, its runs, and the runs that belong to none of its
    cells.
    """
    runs_inside = [group for slot, group in entries if slot and group]
    runs_outside = [group for slot, group in entries if not slot]
    lists = {
        "The runs": runs_inside,
        "Runs that the paper has no place for, or another number of images": runs_outside,
    }
    return Page(table.title, LEGEND, *tables.grid(table, entries), lists)


# The table of Fashion-MNIST


def fashion_mnist_entries(runs):
    """The entries of the table, pairs (slot, runs to average), with an empty row for each method
    without runs.
    """
    groups = groups_to_average(runs)
    entries = []
    for method in FASHION_MNIST_METHODS:
        own = [(None, group) for group in groups if group[0].method == method]
        empty = Slot((method,), "", FASHION_MNIST, method, (), "", None)
        entries += own or [(empty, [])]
    others = [group for group in groups if group[0].method not in FASHION_MNIST_METHODS]
    return entries + [(None, group) for group in others]


def fashion_mnist_page(entries):
    """Page of the Fashion-MNIST table, with a row for each group of runs."""
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
    rows = []
    for slot, group in entries:
        if not group:
            rows.append([slot.method, *["—"] * (len(headings) - 1)])
            continue
        first, record = group[0], tables.csv_record(FASHION_MNIST, slot, group)
        rows.append(
            [
                first.method,
                first.teacher or "–",
                first.student,
                tables.metric_text(group, "top1_last"),
                tables.metric_text(group, "top1_best"),
                tables.metric_text(group, "agreement"),
                f"{first.images:,}",
                f"{record['image_steps']:,}",
                f"{record['minutes']:.1f}",
                record["seeds"],
            ]
        )
    lists = {"The runs": [group for _, group in entries if group]}
    return Page("Fashion-MNIST", FASHION_MNIST_LEGEND, headings, rows, lists)


# The page in HTML


def write_html(path, pages, root):
    """Writes the page with the tables `pages` and all runs below `root`; returns messages about
    what is left out of it. Raises UserError if `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"--html {path} is a folder: give the name of a file, {path / 'runs.html'}")
    folder = make_folder(path.parent)
    runs, faults = html.read_run_folders(root)
    with tempfile.TemporaryDirectory() as temporary:
        sheets = {}
        for number, run in enumerate(runs):
            try:
                sheets[str(run.folder)] = contact_sheet(run, Path(temporary, f"{number}.png"))
            except (UserError, OSError) as error:
                faults.append(str(error))
        sheets = {run: sheet for run, sheet in sheets.items() if sheet}
        parts = [(*page[:4], folders_behind(page)) for page in pages]
        text, more_faults = html.page("DM-KD: tables and runs", parts, runs, sheets, folder)
    write_text(path, text)
    return faults + more_faults


def folders_behind(page):
    """The folders of the runs of a Page."""
    return [run.folder for groups in page.lists.values() for group in groups for run in group]


def contact_sheet(run, path):
    """The (folder of the images, path of the contact sheet) of a run, None if it has none.

    The images are those that the run has generated itself, whose sheet is drawn to `path` if it
    does not exist, else those that it was trained on.
    """
    for images in (run.folder / "pool", run.folder / "samples"):
        if sheet_beside(images).is_file():
            return str(images), sheet_beside(images)
        if images.is_dir() and (rows := sheet_rows(images)):
            write_contact_sheet(path, rows)
            return str(images), path
    if run.source:
        for sheet in (sheet_beside(run.source), Path(run.source, CONTACT_SHEET)):
            if sheet.is_file():
                return run.source, sheet
    return None


if __name__ == "__main__":
    sys.exit(run_script(main))
