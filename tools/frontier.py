"""Plots accuracy over the cost of sampling, from CSVs of sweeps: OUT.png, the table OUT.md and the
data OUT.csv.

    python -m tools.frontier OUT SWEEP.csv...

The cost is the number of network evaluations of all images. There is one line per number of images
and kind of sampling, over its steps T. Runs that are in several files count once. The table has the
differences from the paper's sampling (DDPM, s = 2, T = 100), if it is among the runs.
"""

import shlex
import statistics
import sys
from itertools import groupby
from pathlib import Path

from helper.errors import UserError, run_script
from helper.files import csv_text, plain_pyplot, write_figure, write_text
from helper.options import Parser
from report.sweeps import (
    COLUMNS,
    difference_text,
    number_of,
    paired_difference,
    read_csv,
    setting,
    settings_of,
)
from report.tables import markdown, spread

SAMPLING = ("sampler", "timestep_spacing", "cfg_scale", "cfg_interval")  # flags of a line


def main(argv=None):
    """Writes plot and data; returns the records, dicts of texts.

    Raises UserError for files that are not CSVs of sweeps of generated images, as `read`, for runs
    that were evaluated on different images or differ in their students' settings, and if OUT.csv is
    one of the files.
    """
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("files", type=Path, nargs="+", metavar="SWEEP.csv")
    options = parser.parse_args(argv)
    data = Path(f"{options.out}.csv")
    if data.resolve() in [file.resolve() for file in options.files]:
        raise UserError(f"{data} is one of the sweeps and would be overwritten: give another OUT")
    records = [record for file in options.files for record in read(file)]
    records = list({record["run"]: record for record in records}.values())
    if not records:
        raise UserError(f"no run on generated images in {', '.join(map(str, options.files))}")
    splits = {record["val_split"] for record in records}
    if len(splits) > 1:
        raise UserError(f"the runs were evaluated on different images: {', '.join(sorted(splits))}")
    check_students(records)
    records.sort(key=lambda record: (line_of(record), cost(record), int(record["seed"])))
    write_text(data, csv_text(COLUMNS, records))
    draw(records, f"{options.out}.png")
    text = table(records)
    write_text(f"{options.out}.md", page(records, text, options.out, options.files))
    print(f"{text}\n\n{options.out}.csv, .md, .png: {len(records)} runs", flush=True)
    return records


def read(file):
    """The records of generated images in the CSV of a sweep, dicts of texts.

    Whole numbers with a decimal point, which pandas writes in a column with empty cells, lose it.
    Raises UserError as `report.sweeps.read_csv`, and for a cell that is not a number.
    """
    lines = [(line, record) for line, record in read_csv(file) if record["evaluations"]]
    for line, record in lines:
        for column in ("images", "evaluations", "seed"):
            record[column] = str(number_of(record[column], column, f"{file}, line {line}"))
        number_of(record["top1_last"], "top1_last", f"{file}, line {line}")
    return [record for _, record in lines]


def cost(record):
    """Network evaluations of all images."""
    return int(record["images"]) * int(record["evaluations"])


def check_students(records):
    """Raises UserError if the students differ in more than their images and epochs and the
    precision, or in their image-steps, or if two runs have the same sampling, images and seed.
    """
    free = (*SAMPLING, "num_sampling_steps", "data_amount", "epochs", "warmup_epochs", "amp")
    first, seen = records[0], {}
    for record in records:
        pair = [settings_of(one) | {"image_steps": one["image_steps"]} for one in (first, record)]
        for name in sorted(pair[0].keys() | pair[1].keys()):
            values = [settings.get(name, "not given") for settings in pair]
            if name not in free and values[0] != values[1]:
                raise UserError(
                    f"the runs differ in {name} ({values[0]} in {first['run']}, {values[1]} in "
                    f"{record['run']}): give sweeps of one student"
                )
        key = point_of(record), record["seed"]
        if key in seen:
            raise UserError(
                f"{seen[key]} and {record['run']} have the same images and seed: give one of them"
            )
        seen[key] = record["run"]


def line_of(record):
    """The line of a record: (number of images, sampler, spacing, guidance scale, its interval)."""
    return int(record["images"]), *(setting(record, name) for name in SAMPLING)


def point_of(record):
    """The point of a record: its line, T, and network evaluations per image."""
    return line_of(record), setting(record, "num_sampling_steps"), record["evaluations"]


def is_the_papers(record):
    """Whether the images are sampled as the paper's: DDPM, s = 2, T = 100."""
    names = (*SAMPLING, "num_sampling_steps")
    return [setting(record, name) for name in names] == ["ddpm", "", "2", "", "100"]


def papers_figures(records):
    """{seed: top-1} of the paper's sampling, for the fewest images that it has; {} without it."""
    papers = sorted(filter(is_the_papers, records), key=cost)
    return {
        record["seed"]: float(record["top1_last"])
        for record in papers
        if record["images"] == papers[0]["images"]
    }


def name_of(line):
    """What the legend and the table call a line of `line_of`."""
    amount, sampler, spacing, scale, interval = line
    name = f"{amount:,} images, {sampler} {spacing}".rstrip()
    if scale != "1":
        name += f", s = {scale}"
    return f"{name} in {interval}" if interval else name


def table(records):
    """Markdown table of the settings: cost, accuracy and paired difference from the paper's."""
    papers, points, rows = papers_figures(records), {}, []
    for record in sorted(records, key=cost):
        points.setdefault(point_of(record), []).append(record)
    for (line, steps, evaluations), group in points.items():
        figures = {record["seed"]: float(record["top1_last"]) for record in group}
        row = [name_of(line), steps, evaluations, f"{cost(group[0]):,}", str(len(group))]
        row.append(spread(list(figures.values())))
        if papers:
            same = figures == papers
            row.append("–" if same else difference_text(*paired_difference(figures, papers)))
        rows.append(row)
    headings = ["images and sampling", "T", "evaluations per image", "evaluations", "seeds"]
    headings.append("student's top-1 (%)")
    if papers:
        headings.append("difference from the paper's sampling [95 % interval]")
    return markdown(headings, rows)


def page(records, text, out, files):
    """The page OUT.md with the table `text`, as Markdown."""
    split = records[0]["val_split"]
    note = (
        f"Top-1 of the student's last epoch on the real {split} images: mean ± sample standard "
        "deviation over the seeds."
    )
    if papers_figures(records):
        note += (
            " Differences are means over pairs of equal seed, with their 95 % interval by "
            "Student's t."
        )
    command = f"python -m tools.frontier {shlex.join(map(str, [out, *files]))}"
    plot = f"![Plot of this table]({out.name}.png)"
    data = f"Made by `{command}`. One line per run, with its settings: "
    data += f"[{out.name}.csv]({out.name}.csv)."
    return "\n\n".join(["# Accuracy over the cost of sampling", note, text, plot, data]) + "\n"


def heights(points):
    """([mean], [sample standard deviation]) of each point's figures, {cost: figures}."""
    means = [statistics.mean(figures) for figures in points.values()]
    return means, [statistics.stdev(f) if len(f) > 1 else 0.0 for f in points.values()]


def draw(records, path):
    """Draws mean ± sample standard deviation of the seeds over the cost; records in order."""
    pyplot = plain_pyplot()

    figure, axis = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    amounts = sorted({int(record["images"]) for record in records})
    kinds = sorted({line_of(record)[1:] for record in records})
    for line, group in groupby(records, line_of):
        amount, points = line[0], {}
        for record in group:
            points.setdefault(cost(record), []).append(float(record["top1_last"]))
        axis.errorbar(
            points.keys(),
            *heights(points),
            color=f"C{amounts.index(amount) if len(amounts) > 1 else kinds.index(line[1:])}",
            marker="os^vDPX<>"[kinds.index(line[1:]) % 9],
            markersize=5,
            linestyle=("-", "--", ":", "-.")[kinds.index(line[1:]) % 4],
            linewidth=1,
            capsize=2,
            label=name_of(line),
        )
    papers = {}
    for record in filter(is_the_papers, records):
        papers.setdefault(cost(record), []).append(float(record["top1_last"]))
    if papers:
        axis.plot(
            papers.keys(),
            heights(papers)[0],
            color="black",
            marker="*",
            markersize=14,
            linestyle="none",
            label="the paper's sampling",
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
