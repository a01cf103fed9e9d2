"""Sweeps: differences over paired seeds with their t intervals; CSV, Markdown page and plot."""

import csv
import math
import statistics
import textwrap
from pathlib import Path

from helper.errors import UserError
from helper.files import (
    csv_text,
    entry,
    make_folder,
    plain_pyplot,
    read_json,
    read_text,
    write_figure,
    write_text,
)
from report.tables import markdown, spread

# What the values of each sweep are called.
LABELS = {
    "scale": "guidance scale s",
    "steps": "sampling steps T",
    "fidelity": "guidance scale s : sampling steps T",
    "teacher": "teacher",
    "images": "generated images, equal epochs",
    "epochs": "epochs",
    "temperature": "temperature τ",
    "augmentation": "mixing of a batch's images",
    "labels": "weight of the teacher's outputs : of the labels",
    "loss": "distillation loss : standardised logits : temperature τ : weight",
    "source": "training images, equal number",
    "spacing": "sampler : spacing of the timesteps : steps T",
    "interval": "guidance scale s : interval of noise levels : steps T",
    "frontier": "sampler : spacing : steps T : images : epochs : of warm-up",
}
COLUMNS = (
    "sweep",
    "value",
    "seed",
    "top1_last",
    "top1_best",
    "agreement",
    "teacher",
    "teacher_top1",
    "student",
    "images",
    "evaluations",
    "epochs",
    "val_split",
    "image_steps",
    "seconds",
    "frechet",
    "label_top1",
    "entropy",
    "precision",
    "recall",
    "run",
    "settings",
)
OPTIONAL_COLUMNS = {"teacher_top1"}  # which older CSVs do not have
TEXT_COLUMNS = {"sweep", "value", "teacher", "student", "val_split", "run", "settings"}
WHOLE_COLUMNS = {"seed", "images", "evaluations", "epochs", "image_steps"}
REQUIRED_COLUMNS = {"value", "seed", "top1_last", "top1_best", "student", "val_split", "run"}
# Columns that describe the images: heading and decimals.
FIDELITY = {
    "frechet": ("Fréchet distance to real images", 2),
    "label_top1": ("teacher's accuracy on the intended label (%)", 2),
    "entropy": ("entropy of the teacher's softmax (nats)", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
}


def t_quantile(degrees, level=0.95):
    """t with P(|T| ≤ t) = `level`, 0 < level < 1, for Student's T with `degrees` ≥ 1 degrees of
    freedom.

    Bisection of the closed forms for integer degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """

    def inside(angle):
        """P(|T| ≤ tan(angle)·√degrees)."""
        first, term, total = (3, math.cos(angle), 0.0) if degrees % 2 else (2, 1.0, 0.0)
        for power in range(first, degrees + 1, 2):
            total += term
            term *= math.cos(angle) ** 2 * (power - 1) / power
        return (
            2 / math.pi * (angle + math.sin(angle) * total)
            if degrees % 2
            else math.sin(angle) * total
        )

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def paired_difference(ours, baseline):
    """(mean of ours − baseline, half the width of its 95 % t interval) over their common seeds.

    ours, baseline: {seed: figure}. The width is None for one seed, both are None for none.
    """
    differences = [ours[seed] - baseline[seed] for seed in ours.keys() & baseline.keys()]
    if len(differences) < 2:
        return (differences[0] if differences else None), None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), t_quantile(len(differences) - 1) * error


def difference_text(mean, half):
    """'+mean [low, high]' of a `paired_difference`; the mean alone without an interval."""
    if half is None:
        return "–" if mean is None else f"{mean:+.2f}"
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def by_value(records, column):
    """{value: {seed: figure}} of a column, values in the order of the records, without missing
    figures.
    """
    figures = {}
    for record in records:
        by_seed = figures.setdefault(record["value"], {})
        if record[column] is not None:
            by_seed[record["seed"]] = record[column]
    return figures


def is_complete(records, column):
    """Whether every value has a figure in a column."""
    return all(by_value(records, column).values())


def measured_columns(records):
    """The columns of FIDELITY in which every value has a figure."""
    return [column for column in FIDELITY if is_complete(records, column)]


def table(records, baseline, label):
    """Markdown table with the means of each value and its difference from the value `baseline`.

    The agreement has a column if every value has one, which networks trained on labels do not, and
    the teachers' accuracy has one if it differs by more than 0.1 points.
    """
    top1 = by_value(records, "top1_last")
    best = by_value(records, "top1_best")
    agreement, has_agreement = by_value(records, "agreement"), is_complete(records, "agreement")
    fidelity = {column: by_value(records, column) for column in measured_columns(records)}
    teachers = by_value(records, "teacher_top1")
    accuracies = [accuracy for by_seed in teachers.values() for accuracy in by_seed.values()]
    # Rounding can differ from run to run by an image
    several = all(teachers.values()) and max(accuracies) - min(accuracies) > 0.1
    rows = []
    for value, figures in top1.items():
        difference = "baseline"
        if value != baseline:
            difference = difference_text(*paired_difference(figures, top1[baseline]))
        row = [value, str(len(figures)), spread(list(figures.values())), difference]
        row.append(spread(list(best[value].values())))
        if has_agreement:
            row.append(spread(list(agreement[value].values())))
        if several:
            row.append(f"{statistics.mean(teachers[value].values()):.2f}")
        for column, image_figures in fidelity.items():
            mean = statistics.mean(image_figures[value].values())
            row.append(f"{mean:.{FIDELITY[column][1]}f}")
        rows.append(row)
    headings = [
        label,
        "seeds",
        "top-1, last epoch (%)",
        f"difference from {baseline} [95 % interval]",
        "best epoch (%)",
        *(["agreement with the teacher (%)"] if has_agreement else []),
        *(["teacher's top-1 (%)"] if several else []),
        *(FIDELITY[column][0] for column in fidelity),
    ]
    return markdown(headings, rows)


def draw(records, panels, title, label, path):
    """Draws a sweep: mean ± sample standard deviation of each value, and the figures of each of
    several seeds joined by a line.

    panels: {column: label of its y axis}; label: of the x axis.
    """
    pyplot = plain_pyplot()

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.5 * len(panels), 5), layout="constrained", squeeze=False
    )
    for axis, (column, y_label) in zip(axes[0], panels.items(), strict=True):
        figures = by_value(records, column)
        values = list(figures)
        seeds = sorted({record["seed"] for record in records})
        for number, seed in enumerate(seeds if len(seeds) > 1 else []):
            indices = [index for index, value in enumerate(values) if seed in figures[value]]
            axis.plot(
                indices,
                [figures[values[index]][seed] for index in indices],
                color="0.65",
                marker=".",
                linewidth=0.8,
                label="one seed" if number == 0 else None,
            )
        points = [list(figures[value].values()) for value in values]
        fewest, most = min(map(len, points)), max(map(len, points))
        counts = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
        axis.errorbar(
            range(len(values)),
            [statistics.mean(point) for point in points],
            [statistics.stdev(point) if len(point) > 1 else 0.0 for point in points],
            color="C0",
            marker="o",
            linestyle="none",
            capsize=4,
            label=f"mean ± sample standard deviation of {counts}" if most > 1 else "one seed",
        )
        slanted = {"rotation": 40, "ha": "right"} if len("".join(values)) > 50 else {}
        axis.set_xticks(range(len(values)), values, **slanted)
        axis.set(xlabel=label, ylabel=textwrap.fill(y_label, 35), xlim=(-0.5, len(values) - 0.5))
        axis.grid(alpha=0.3)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize="small",
    )
    figure.suptitle(textwrap.fill(title, 75 * len(panels)), fontsize="medium")
    write_figure(path, figure)


def record_of(result, value, name, figures=None, evaluations=None, settings=None):
    """The record of a report.results.RunResult in the sweep `name`: a dict of COLUMNS.

    figures: of its images, {column of FIDELITY: number}; evaluations: of the generator's network,
    per image; settings: flags of the images and the student, a text.
    """
    columns = {column: getattr(result, column) for column in COLUMNS if hasattr(result, column)}
    fidelity = {column: (figures or {}).get(column) for column in FIDELITY}
    cell = {"sweep": name, "value": value, "run": result.folder}
    return {**columns, **fidelity, **cell, "evaluations": evaluations, "settings": settings}


def read_figures(path):
    """The figures that evaluate_images.py wrote to `path`, None if it does not exist.

    Raises UserError for a damaged file.
    """
    if not Path(path).exists():
        return None
    try:
        data = read_json(path, "figures")
        entry(data, "images", int, path)
        entry(entry(data, "teacher", dict, path), "sha256", str, path)
        for column in FIDELITY:
            entry(data, column, float | None, path)
    except UserError as error:
        raise UserError(f"{error}; evaluate_images.py measures the images again") from None
    return data


def read_csv(path):
    """The lines of a sweep's CSV, [(line number, {column: text})], '' where a column is missing.

    Raises UserError if it is another file, or a line has too few or too many cells.
    """
    reader = csv.DictReader(read_text(path).splitlines())
    try:
        lines = [(reader.line_num, record) for record in reader]
    except csv.Error as error:  # for example a quotation mark that is not closed
        raise UserError(f"{path} is not valid CSV ({error}): correct the file") from None
    if not lines or not set(COLUMNS) - OPTIONAL_COLUMNS <= set(reader.fieldnames):
        raise UserError(
            f"{path} is not the CSV of a sweep: give files that run_sweep.py or tools.sweeps has "
            "written (those of earlier versions have no column `evaluations`: run the sweep again)"
        )
    for line, record in lines:
        if None in record or None in record.values():
            raise UserError(
                f"{path}, line {line} has more or fewer cells than the heading: correct the file"
            )
    absent = dict.fromkeys(COLUMNS, "")
    return [(line, {**absent, **record}) for line, record in lines]


def number_of(text, column, place):
    """The number in a cell: an int in WHOLE_COLUMNS, also from '25.0', else a float.

    Raises UserError that names `place` if it is not a whole or finite number.
    """
    is_whole = column in WHOLE_COLUMNS
    if is_whole and text.isascii() and text.isdecimal():
        return int(text)  # also a seed that a float cannot hold
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not (number.is_integer() if is_whole else math.isfinite(number)):
        kind = "whole" if is_whole else "finite"
        raise UserError(f"{place}: {column} is {text!r}, not a {kind} number: correct the file")
    return int(number) if is_whole else number


def read_records(path):
    """The records that `write` wrote to a CSV, as `record_of`: numbers, and None for empty cells.

    Raises UserError as `read_csv` and `number_of`, and for an empty cell of REQUIRED_COLUMNS.
    """
    records = []
    for line, texts in read_csv(path):
        record = {column: texts[column] or None for column in COLUMNS}
        for column, text in record.items():
            if text is None and column in REQUIRED_COLUMNS:
                raise UserError(f"{path}, line {line}: {column} is empty: correct the file")
            if text is not None and column not in TEXT_COLUMNS:
                record[column] = number_of(text, column, f"{path}, line {line}")
        records.append(record)
    return records


def settings_of(record):
    """The settings of a record, {flag: value}; the value of a flag without one is 'given'."""
    parts = [part.split() for part in f" {record['settings'] or ''}".split(" --")[1:]]
    return {part[0]: " ".join(part[1:]) or "given" for part in parts}


def setting(record, flag):
    """The value of a flag in a record's settings, '' if it is not given."""
    return settings_of(record).get(flag, "")


def write(path, records, baseline, label, title, *, note, fidelity=True):
    """Writes <path>.csv, .md and .png, and prints the table and the names of the files.

    label: what the values are called; title: of page and plot; note: last paragraph of the page;
    fidelity: whether the plot has panels for the figures of the images.
    """
    path, split = Path(path), records[0]["val_split"]
    panels = {"top1_last": f"student's top-1 on the real {split} images (%)"}
    if fidelity:
        for column in measured_columns(records):
            if column in ("frechet", "label_top1"):
                panels[column] = FIDELITY[column][0]
    seeds = ", ".join(map(str, sorted({record["seed"] for record in records})))
    means = table(records, baseline, label)
    measures = "Top-1 and agreement" if is_complete(records, "agreement") else "Top-1"
    text = (
        f"{measures} on the real {split} images: mean ± sample standard deviation over "
        f"seeds {seeds}. Differences of top-1 at the last epoch: means over pairs of equal seed "
        "with their 95 % interval by Student's t (one degree of freedom less than pairs)."
    )
    make_folder(path.parent)
    write_text(f"{path}.csv", csv_text(COLUMNS, records))
    plot = f"![Plot of this table]({path.name}.png)"
    write_text(f"{path}.md", "\n\n".join([f"# {title}", text, means, plot, note]) + "\n")
    draw(records, panels, title, label, f"{path}.png")
    print(f"\n{means}\n\n{path}.csv, .md, .png", flush=True)


class Clock:
    """Time of the work done so far, and the time of the remaining work at the same speed.

    Work is image-steps of training and network evaluations of sampling, each with its own speed.
    """

    def __init__(self):
        self.cells, self.steps, self.training = 0, 0, 0.0
        self.evaluations, self.sampling = 0, 0.0

    def add_training(self, steps, seconds):
        """Adds a cell of `steps` image-steps."""
        self.cells += 1
        self.steps += steps
        self.training += seconds

    def add_sampling(self, evaluations, seconds):
        """Adds images that took `evaluations` network evaluations."""
        self.evaluations += evaluations
        self.sampling += seconds

    def seconds(self, steps, evaluations):
        """(seconds of training, seconds of sampling); None where the speed is unknown."""
        training = steps * self.training / self.steps if self.steps else None
        sampling = evaluations * self.sampling / self.evaluations if self.evaluations else None
        return training, sampling

    @property
    def cells_per_hour(self):
        """Cells per hour, including the sampling of their images."""
        return 3600 * self.cells / max(self.training + self.sampling, 1e-9)
