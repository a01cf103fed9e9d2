"""Sweeps: differences between values over paired seeds with their t intervals; a sweep's CSV, page
and plot.
"""

import math
import statistics
import textwrap
from pathlib import Path

from helper.errors import UserError
from helper.files import csv_text, make_folder, read_json, whole_file, write_text
from report.tables import markdown, spread

# What the values of a sweep are, at Fashion-MNIST's scale and at the paper's.
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
    "source": "training images, equal number",
}
COLUMNS = (
    "sweep",
    "value",
    "seed",
    "top1_last",
    "top1_best",
    "agreement",
    "teacher",
    "student",
    "images",
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
)
# Columns with a figure of the images, what they are called, and their decimals.
FIDELITY = {
    "frechet": ("Fréchet distance to real images", 2),
    "label_top1": ("teacher's accuracy on the intended label (%)", 2),
    "entropy": ("entropy of the teacher's softmax (nats)", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
}


def t_quantile(degrees, level=0.95):
    """Returns t with P(|T| ≤ t) = `level`, 0 < level < 1, for Student's T with `degrees` ≥ 1
    degrees of freedom.

    The closed forms for whole degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4), inverted by
    bisection.
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
    """Returns (mean of ours − baseline, half the width of its 95 % t interval) over the seeds that
    both have.

    ours, baseline: {seed: figure}. The width is None for one seed, both are None for no seed.
    """
    differences = [ours[seed] - baseline[seed] for seed in ours.keys() & baseline.keys()]
    if len(differences) < 2:
        return (differences[0] if differences else None), None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), t_quantile(len(differences) - 1) * error


def by_value(records, column):
    """Returns {value: {seed: figure}} of a column, values in the records' order; missing figures
    are left out.
    """
    figures = {}
    for record in records:
        mine = figures.setdefault(record["value"], {})
        if record[column] is not None:
            mine[record["seed"]] = record[column]
    return figures


def measured_columns(records):
    """Returns the columns of FIDELITY in which every value has a figure."""
    return [column for column in FIDELITY if all(by_value(records, column).values())]


def table(records, baseline, label):
    """Returns the means of each value, and its difference from the value `baseline`, as a table in
    Markdown.
    """
    top1, best, agreement = (
        by_value(records, column) for column in ("top1_last", "top1_best", "agreement")
    )
    fidelity = {column: by_value(records, column) for column in measured_columns(records)}
    rows = []
    for value, figures in top1.items():
        rows.append(
            [
                value,
                str(len(figures)),
                spread(list(figures.values())),
                "baseline"
                if value == baseline
                else _difference(*paired_difference(figures, top1[baseline])),
                spread(list(best[value].values())),
                spread(list(agreement[value].values())),
                *(
                    f"{statistics.mean(found[value].values()):.{FIDELITY[column][1]}f}"
                    for column, found in fidelity.items()
                ),
            ]
        )
    headings = [
        label,
        "seeds",
        "top-1, last epoch (%)",
        f"difference from {baseline} [95 % interval]",
        "best epoch (%)",
        "agreement with the teacher (%)",
        *(FIDELITY[column][0] for column in fidelity),
    ]
    return markdown(headings, rows)


def _difference(mean, half):
    if half is None:
        return "–" if mean is None else f"{mean:+.2f}"
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def draw(records, panels, title, label, path):
    """Draws a sweep: each seed's figures as points joined by a line, their means, and bars of a
    sample deviation.

    panels: {column: what its axis says}; `label` says what the values are.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(5.5 * len(panels), 4.5), layout="constrained", squeeze=False
    )
    for axis, (column, text) in zip(axes[0], panels.items(), strict=True):
        figures = by_value(records, column)
        values = list(figures)
        for number, seed in enumerate(sorted({record["seed"] for record in records})):
            places = [place for place, value in enumerate(values) if seed in figures[value]]
            axis.plot(
                places,
                [figures[values[place]][seed] for place in places],
                color="0.65",
                marker=".",
                linewidth=0.8,
                label="one seed" if number == 0 else None,
            )
        points = [list(figures[value].values()) for value in values]
        axis.errorbar(
            range(len(values)),
            [statistics.mean(own) for own in points],
            [statistics.stdev(own) if len(own) > 1 else 0.0 for own in points],
            color="C0",
            marker="o",
            linestyle="none",
            capsize=4,
            label=f"mean ± sample standard deviation of {max(map(len, points))} seeds",
        )
        axis.set_xticks(range(len(values)), values)
        axis.set(xlabel=label, ylabel=text, xlim=(-0.5, len(values) - 0.5))
        axis.grid(alpha=0.3)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize="small",
    )
    figure.suptitle(textwrap.fill(title, 75 * len(panels)), fontsize="medium")
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)


def record_of(found, value, name, figures=None):
    """Returns the record of a report.results.Run in the sweep `name`; figures: its images', by
    column of FIDELITY.
    """
    own = {column: getattr(found, column) for column in COLUMNS if hasattr(found, column)}
    figures = {column: (figures or {}).get(column) for column in FIDELITY}
    return {**own, **figures, "sweep": name, "value": value, "run": found.folder}


def read_figures(path):
    """Returns what evaluate_images.py wrote to `path`, None if it is not there. Raises UserError if
    it is damaged.
    """
    if not Path(path).exists():
        return None
    found = read_json(path, "figures")
    try:
        float(found["images"]), found["teacher"]["sha256"].upper()
        if all(found[column] is None or math.isfinite(found[column]) for column in FIDELITY):
            return found
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    raise UserError(f"figures {path} are damaged: measure the images again with evaluate_images.py")


def write(path, records, baseline, label, title, note, fidelity=True):
    """Writes <path>.csv, .md and .png, prints the table, and says where they are.

    label: what the values are; title: of page and plot; note: ends the page; fidelity: whether
    figures of the images have panels.
    """
    path, split = Path(path), records[0]["val_split"]
    panels = {"top1_last": f"student's top-1 on the real {split} images (%)"}
    if fidelity:
        panels |= {
            column: FIDELITY[column][0]
            for column in measured_columns(records)
            if column in ("frechet", "label_top1")
        }
    seeds = ", ".join(map(str, sorted({record["seed"] for record in records})))
    means = table(records, baseline, label)
    text = (
        f"Top-1 and agreement on the real {split} images: mean ± sample standard deviation over "
        f"seeds {seeds}. "
        "Differences are of top-1 at the last epoch: means over pairs of equal seed, with their 95 "
        "% interval by "
        "Student's t (one degree of freedom less than pairs)."
    )
    make_folder(path.parent)
    write_text(f"{path}.csv", csv_text(COLUMNS, records))
    plot = f"![The plot of this table]({path.name}.png)"
    write_text(f"{path}.md", "\n\n".join([f"# {title}", text, means, plot, note]) + "\n")
    draw(records, panels, title, label, f"{path}.png")
    print(f"\n{means}\n\n{path}.csv, .md, .png", flush=True)


class Clock:
    """What the work that was done took, and what the rest takes at its rate.

    Work is (image-steps of training, network evaluations of sampling), each with a rate of its own.
    """

    def __init__(self):
        self.cells, self.steps, self.training, self.evaluations, self.sampling = 0, 0, 0.0, 0, 0.0

    def trained(self, steps, seconds):
        """Takes note of a cell of `steps` image-steps."""
        self.cells, self.steps, self.training = (
            self.cells + 1,
            self.steps + steps,
            self.training + seconds,
        )

    def sampled(self, evaluations, seconds):
        """Takes note of images of `evaluations` network evaluations."""
        self.evaluations, self.sampling = self.evaluations + evaluations, self.sampling + seconds

    def seconds(self, steps, evaluations):
        """Returns (seconds that the training takes, and the sampling), None for what has no rate
        yet.
        """
        return (
            steps * self.training / self.steps if self.steps else None,
            evaluations * self.sampling / self.evaluations if self.evaluations else None,
        )

    @property
    def cells_an_hour(self):
        """Cells an hour, the sampling of their images included."""
        return 3600 * self.cells / max(self.training + self.sampling, 1e-9)
