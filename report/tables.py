"""Tables of runs: which runs belong to which cell, and the figures as text, Markdown and CSV."""

import statistics
from dataclasses import dataclass

from report.results import groups_to_average, network_name

# Relative tolerance of an image count: ImageNet's 1.28M are 1,281,167.
_IMAGE_TOLERANCE = 0.02
# What the runs of one cell may differ in besides the seed
_DIFFERENCES = ("teacher", "student", "images", "epochs")
_METRICS = ("top1_last", "top1_best", "agreement")
COLUMNS = (
    "table",
    "column",
    "dataset",
    "method",
    "teacher",
    "student",
    "images",
    "epochs",
    "n",
    "seeds",
    *(f"{metric}{suffix}" for metric in _METRICS for suffix in ("", "_sd")),
    "image_steps",
    "minutes",
    "published",
    "runs",
)


@dataclass(frozen=True)
class Slot:
    """A cell of a table of the paper, and which runs belong to it.

    row: the leading cells of its row; column: the heading of its column.
    teachers: possible teachers, empty for a network trained on labels; student: its network. Both
    have the names of the paper.
    published: top-1 in percent, None where the paper has no figure.
    images, epochs: None where the table does not give them.
    """

    row: tuple
    column: str
    dataset: str
    method: str
    teachers: tuple
    student: str
    published: float | None
    images: int | None = None
    epochs: int | None = None

    def matches(self, run):
        """Whether a run belongs here, apart from its images and epochs."""
        if (run.dataset, run.method) != (self.dataset, self.method):
            return False
        if network_name(run.student) != self.student:
            return False
        return network_name(run.teacher) in self.teachers if run.teacher else not self.teachers

    def matches_images(self, run):
        """Whether a run has about the number of images of this row, if the table gives one."""
        if self.images is None:
            return True
        return abs(run.images - self.images) <= _IMAGE_TOLERANCE * self.images


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    name: of its files, and `table` in result.json; leading: headings before the `column`s of the
    slots; decimals: of the published figures; slots: row by row.
    """

    name: str
    title: str
    datasets: tuple
    leading: tuple
    decimals: int
    slots: tuple


def table_entries(table, runs):
    """The entries of a table, pairs (slot, runs to average).

    First all slots in order: with an empty list if it has no runs, several times if its runs cannot
    be averaged. Then the runs that belong to no slot, with None.
    """
    runs_of, others = {slot: [] for slot in table.slots}, []
    for run in runs:
        slots = [slot for slot in table.slots if slot.matches(run)]
        # Among several rows of a method the number of images decides.
        if len({slot.images for slot in slots}) > 1:
            slots = [slot for slot in slots if slot.matches_images(run)]
        for slot in slots:
            runs_of[slot].append(run)
        if not slots:
            others.append(run)
    entries = []
    for slot, slot_runs in runs_of.items():
        entries += [(slot, group) for group in groups_to_average(slot_runs) or [[]]]
    return entries + [(None, group) for group in groups_to_average(others)]


def spread(values):
    """'mean ± sample standard deviation' of values in percent; a single value alone."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def metric_text(group, metric):
    """The `spread` of a metric of several runs, '–' if one of them lacks it."""
    values = [getattr(run, metric) for run in group]
    return "–" if None in values else spread(values)


def _cell_text(table, slot, groups):
    """Text of a cell: what was measured, last / best epoch, and in brackets what was published."""
    text = "; ".join(_group_text(slot, group, groups) for group in groups) or "—"
    return text if slot.published is None else f"{text} ({slot.published:.{table.decimals}f})"


def _group_text(slot, group, groups):
    """Figures of a group of runs, and how it differs from the slot and its other groups."""
    run = group[0]
    differences = {
        field for field in _DIFFERENCES if len({getattr(other[0], field) for other in groups}) > 1
    }
    if len(slot.teachers) > 1:
        differences.add("teacher")
    if not slot.matches_images(run):
        differences.add("images")
    if slot.epochs not in (None, run.epochs):
        differences.add("epochs")
    notes = []
    for field in _DIFFERENCES:
        if field in differences:
            value = getattr(run, field)
            notes.append(f"{value:,} {field}" if isinstance(value, int) else f"{field} {value}")
    if _has_repeated_seed(group, groups):
        notes.append(f"seed {run.seed}")
    text = f"{metric_text(group, 'top1_last')} / {metric_text(group, 'top1_best')}"
    if len(group) > 1:
        text += f", n = {len(group)}"
    return f"{text} [{', '.join(notes)}]" if notes else text


def _has_repeated_seed(group, groups):
    """Whether a group was not averaged with others of its cell because a seed has several runs."""
    return sum(group[0].cell == other[0].cell for other in groups) > 1


def grid(table, entries):
    """A table of the paper: its headings and its rows of strings."""
    rows = {}
    for slot in table.slots:
        groups = [group for other, group in entries if other is slot and group]
        rows.setdefault(slot.row, []).append(_cell_text(table, slot, groups))
    headings = dict.fromkeys(slot.column for slot in table.slots)
    return [*table.leading, *headings], [[*row, *cells] for row, cells in rows.items()]


def markdown(headings, rows):
    """A Markdown table; every cell is a string."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def run_list(groups):
    """The runs of a table as a Markdown list, one item per group."""
    # A teacher may be in several cells of a table.
    groups = list({tuple(run.folder for run in group): group for group in groups}.values())
    lines = []
    for group in groups:
        first = group[0]
        networks = f"{first.teacher} → {first.student}" if first.teacher else first.student
        members = ", ".join(
            f"`{run.folder}` (seed {run.seed}: {run.top1_last:.2f} / {run.top1_best:.2f})"
            for run in group
        )
        repeated = _has_repeated_seed(group, groups)
        note = "; not averaged: a seed has several runs" if repeated else ""
        lines.append(
            f"* {first.dataset}, {first.method}, {networks}, {first.images:,} images, "
            f"{first.epochs} epochs: {members}{note}"
        )
    return "\n".join(lines)


def csv_record(table_name, slot, group):
    """A line of a table's CSV as a dict with the keys COLUMNS; empty figures for an empty slot."""
    record = dict.fromkeys(COLUMNS, "") | {"table": table_name}
    if slot:
        record |= {
            "column": slot.column,
            "dataset": slot.dataset,
            "method": slot.method,
            "images": slot.images or "",
            "teacher": " or ".join(slot.teachers),
            "student": slot.student,
            "epochs": slot.epochs or "",
            "published": "" if slot.published is None else slot.published,
        }
    if not group:
        return record
    first = group[0]
    record |= {
        "dataset": first.dataset,
        "method": first.method,
        "teacher": first.teacher or "",
        "student": first.student,
        "images": first.images,
        "epochs": first.epochs,
        "n": len(group),
        "seeds": " ".join(str(run.seed) for run in group),
        "image_steps": round(statistics.mean(run.image_steps for run in group)),
        "minutes": round(statistics.mean(run.seconds for run in group) / 60, 2),
        "runs": "; ".join(run.folder for run in group),
    }
    for metric in _METRICS:
        values = [getattr(run, metric) for run in group]
        if None not in values:
            record[metric] = round(statistics.mean(values), 4)
            deviation = round(statistics.stdev(values), 4) if len(values) > 1 else ""
            record[f"{metric}_sd"] = deviation
    return record
