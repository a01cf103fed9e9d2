"""Plots accuracy over the cost of sampling, from CSVs of sweeps: OUT.png, the table OUT.md and the
data OUT.csv.

    python -m tools.frontier OUT SWEEP.csv...

The cost is the number of network evaluations of all images. There is one line per number of images
and kind of sampling, over its steps T. Runs that are in several files count once. The table has the
differences from the paper's sampling (DDPM, s = 2, T = 100), if it is among the runs.
"""

import csv
import statistics
import sys
from itertools import groupby
from pathlib import Path

from helper.errors import UserError, run_script
from helper.files import csv_text, read_text, write_figure, write_text
from helper.options import Parser
from report.sweeps import COLUMNS, difference_text, paired_difference
from report.tables import markdown, spread

SAMPLING = ("sampler", "timestep_spacing", "cfg_scale", "cfg_interval")  # flags of a line


def main(argv=None):
    """Writes plot and data; returns the records, dicts of texts.

    Raises UserError for files that are not CSVs of sweeps of generated images, and for runs that
    were evaluated on different images or differ in their students' settings.
    """
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("files", type=Path, nargs="+", metavar="SWEEP.csv")
    options = parser.parse_args(argv)
    records = [record for file in options.files for record in read(file)]
    records = list({record["run"]: record for record in records}.values())
    if not records:
        raise UserError(f"no run on generated images in {', '.join(map(str, options.files))}")
    splits = {record["val_split"] for record in records}
    if len(splits) > 1:
        raise UserError(f"the runs were evaluated on different images: {', '.join(sorted(splits))}")
    check_students(records)
    records.sort(key=lambda record: (line_of(record), cost(record), int(record["seed"])))
    write_text(f"{options.out}.csv", csv_text(COLUMNS, records))
    draw(records, f"{options.out}.png")
    text = table(records)
    write_text(f"{options.out}.md", page(records, text, options))
    print(f"{text}\n\n{options.out}.csv, .md, .png: {len(records)} runs", flush=True)
    return records


def read(file):
    """The records of generated images in the CSV of a sweep."""
    records = list(csv.DictReader(read_text(file).splitlines()))
    if not records or not set(COLUMNS) <= set(records[0]):
        raise UserError(
            f"{file} is not the CSV of a sweep: give files that run_sweep.py has written (those "
            "of earlier versions have no column `evaluations`: run the sweep again)"
        )
    return [record for record in records if record["evaluations"]]


def cost(record):
    """Network evaluations of all images."""
    return int(record["images"]) * int(record["evaluations"])


def setting(record, flag):
    """The value of a flag in a record's settings, '' if it is not given."""
    words = record["settings"].split()
    return words[words.index(f"--{flag}") + 1] if f"--{flag}" in words else ""


def check_students(records):
    """Raises UserError if the students differ in more than the number of their images and steps."""
    free = (*SAMPLING, "num_sampling_steps", "data_amount", "epochs", "warmup_epochs", "amp")
    first = records[0]
    for record in records:
        words = {*first["settings"].split(), *record["settings"].split()}
        for name in sorted(word[2:] for word in words if word.startswith("--")):
            values = setting(first, name), setting(record, name)
            if name not in free and values[0] != values[1]:
                raise UserError(
                    f"the runs differ in --{name} ({values[0] or 'not given'} in {first['run']}, "
                    f"{values[1] or 'not given'} in {record['run']}): give sweeps of one student"
                )


def line_of(record):
    """The line of a record: (number of images, sampler, spacing, guidance scale, its interval)."""
    return int(record["images"]), *(setting(record, name) for name in SAMPLING)


def is_the_papers(record):
    """Whether the images are sampled as the paper's: DDPM, s = 2, T = 100."""
    names = ("sampler", "cfg_scale", "num_sampling_steps")
    return [setting(record, name) for name in names] == ["ddpm", "2", "100"]


def name_of(line):
    """What the legend and the table call a line of `line_of`."""
    amount, sampler, spacing, scale, interval = line
    name = f"{amount:,} images, {sampler} {spacing}".rstrip()
    if scale != "1":
        name += f", s = {scale}"
    return f"{name} in {interval}" if interval else name


def table(records):
    """Markdown table of the settings: cost, accuracy and paired difference from the paper's."""
    settings = {}
    for record in records:
        key = line_of(record), setting(record, "num_sampling_steps"), record["evaluations"]
        settings.setdefault(key, []).append(record)
    papers = {
        record["seed"]: float(record["top1_last"]) for record in filter(is_the_papers, records)
    }
    rows = []
    for (line, steps, evaluations), group in sorted(
        settings.items(), key=lambda item: cost(item[1][0])
    ):
        figures = {record["seed"]: float(record["top1_last"]) for record in group}
        row = [name_of(line), steps, evaluations, f"{cost(group[0]):,}", str(len(group))]
        row.append(spread(list(figures.values())))
        if papers:
            same = is_the_papers(group[0])
            row.append("–" if same else difference_text(*paired_difference(figures, papers)))
        rows.append(row)
    headings = ["images and sampling", "T", "evaluations per image", "of all images", "seeds"]
    headings.append("student's top-1 (%)")
    if papers:
        headings.append("difference from the paper's sampling [95 % interval]")
    return markdown(headings, rows)


def page(records, text, options):
    """The page with the table `text`, as Markdown."""
    split = records[0]["val_split"]
    note = (
        f"Top-1 of the student's last epoch on the real {split} images: mean ± sample standard "
        "deviation over the seeds. Differences are means over pairs of equal seed, with their "
        "95 % interval by Student's t."
    )
    command = f"python -m tools.frontier {' '.join(map(str, [options.out, *options.files]))}"
    plot = f"![Plot of this table]({options.out.name}.png)"
    data = f"Made by `{command}`. One line per run, with its settings: "
    data += f"[{options.out.name}.csv]({options.out.name}.csv)."
    return "\n\n".join(["# Accuracy over the cost of sampling", note, text, plot, data]) + "\n"


def draw(records, path):
    """Draws mean ± sample standard deviation of the seeds over the cost; records in order."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    amounts = sorted({int(record["images"]) for record in records})
    kinds = sorted({line_of(record)[1:] for record in records})
    for line, group in groupby(records, line_of):
        amount, points = line[0], {}
        for record in (group := list(group)):
            points.setdefault(cost(record), []).append(float(record["top1_last"]))
        paper = all(map(is_the_papers, group))
        axis.errorbar(
            points.keys(),
            [statistics.mean(figures) for figures in points.values()],
            [statistics.stdev(figures) if len(figures) > 1 else 0 for figures in points.values()],
            color="black" if paper else f"C{amounts.index(amount)}",
            marker="*" if paper else "os^vDPX<>"[kinds.index(line[1:]) % 9],
            markersize=14 if paper else 5,
            linestyle=("-", "--", ":", "-.")[kinds.index(line[1:]) % 4],
            linewidth=1,
            capsize=2,
            label="the paper's sampling" if paper else name_of(line),
        )
    split = records[0]["val_split"]
    axis.set_xscale("log")
    axis.set(
        xlabel="network evaluations of all images",
        ylabel=f"student's top-1 on the real {split} images (%)",
        title="mean ± sample standard deviation of the seeds; T grows along each line",
    )
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize="x-small", ncols=2)
    write_figure(path, figure)


if __name__ == "__main__":
    sys.exit(run_script(main))
