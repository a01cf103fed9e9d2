"""Tables of runs: which runs belong to which place, and the figures of a place as text, Markdown
and CSV.
"""

import statistics
from dataclasses import dataclass

from report.results import averaged, network_name

_LIKE = (
    0.02  # a count of images is the published one within this share: ImageNet's 1.28M are 1,281,167
)
_KNOWN = (
    "teacher",
    "student",
    "images",
    "epochs",
)  # what runs of one place may differ in besides the seed
_MEASURED = ("top1_last", "top1_best", "agreement")
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
    *(f"{name}{what}" for name in _MEASURED for what in ("", "_sd")),
    "image_steps",
    "minutes",
    "published",
    "runs",
)


@dataclass(frozen=True)
class Slot:
    """A place of a table: what the paper has there, and which runs belong to it.

    row: the leading cells of its row; column: its heading. Networks have the paper's names;
    `teachers` are those that the column leaves open, none for a network that learns from labels.
    images and epochs: None where the table does not say; published: top-1 in percent, None where
    the paper has none.
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

    def takes(self, run):
        """Whether a run is of this place, whatever its images and epochs."""
        taught = network_name(run.teacher) in self.teachers if run.teacher else not self.teachers
        here = (run.dataset, run.method, network_name(run.student)) == (
            self.dataset,
            self.method,
            self.student,
        )
        return here and taught

    def has_images_of(self, run):
        """Whether a run has about as many images as the place asks for, if it does."""
        return self.images is None or abs(run.images - self.images) <= _LIKE * self.images


@dataclass(frozen=True)
class Table:
    """A table of the paper. name: of its files, and `table` in result.json; leading: headings
    before the `column`s of its slots, which go row by row; decimals: of its published figures.
    """

    name: str
    title: str
    datasets: tuple
    leading: tuple
    decimals: int
    slots: tuple


def place(table, runs):
    """Returns the lines of a table, pairs (slot, runs that are averaged).

    Slots come in their order, one without runs with an empty list, one whose runs cannot be
    averaged several times. Runs that no slot takes come last, with None. Where a method has several
    rows, the images choose.
    """
    taken, rest = {slot: [] for slot in table.slots}, []
    for run in runs:
        slots = [slot for slot in table.slots if slot.takes(run)]
        if len({slot.images for slot in slots}) > 1:
            slots = [slot for slot in slots if slot.has_images_of(run)]
        for slot in slots:
            taken[slot].append(run)
        if not slots:
            rest.append(run)
    lines = [(slot, group) for slot, found in taken.items() for group in averaged(found) or [[]]]
    return lines + [(None, group) for group in averaged(rest)]


def spread_of(group, name):
    """Returns 'mean ± sample deviation' of a field of several runs, '–' where they do not have
    it.
    """
    values = [getattr(run, name) for run in group]
    return "–" if None in values else spread(values)


def _entry(table, slot, groups):
    """Returns the text of a place: what was measured, last / best, and in brackets what was
    published.
    """
    measured = "; ".join(_measured(slot, group, groups) for group in groups) or "—"
    return (
        measured if slot.published is None else f"{measured} ({slot.published:.{table.decimals}f})"
    )


def _measured(slot, group, groups):
    """Returns the figures of runs that are averaged, with what tells them from the place and its
    other runs.
    """
    run = group[0]
    unlike = {name for name in _KNOWN if len({getattr(other[0], name) for other in groups}) > 1}
    unlike |= {
        name
        for name, differs in (
            ("teacher", len(slot.teachers) > 1),
            ("images", not slot.has_images_of(run)),
            ("epochs", slot.epochs not in (None, run.epochs)),
        )
        if differs
    }
    words = [_word(run, name) for name in _KNOWN if name in unlike]
    if _is_repeated(group, groups):
        words.append(f"seed {run.seed}")
    text = f"{spread_of(group, 'top1_last')} / {spread_of(group, 'top1_best')}"
    text += f", n = {len(group)}" if len(group) > 1 else ""
    return text + (f" [{', '.join(words)}]" if words else "")


def _word(run, name):
    value = getattr(run, name)
    return f"{value:,} {name}" if isinstance(value, int) else f"{name} {value}"


def _is_repeated(group, groups):
    """Whether other runs differ from these in nothing but perhaps the seed, and so were not
    averaged with them.
    """
    return sum(group[0].cell == other[0].cell for other in groups) > 1


def grid(table, lines):
    """Returns a table of the paper in Markdown, an entry a place."""
    rows = {}
    for slot in table.slots:
        groups = [group for other, group in lines if other is slot and group]
        rows.setdefault(slot.row, []).append(_entry(table, slot, groups))
    headings = dict.fromkeys(slot.column for slot in table.slots)
    return markdown(
        [*table.leading, *headings], [[*row, *entries] for row, entries in rows.items()]
    )


def markdown(headings, rows):
    """Returns a table in Markdown; every cell is a text."""
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows)
    )


def sources(groups):
    """Returns the runs behind a table as a list in Markdown, each list of `groups` once, with what
    is not averaged.
    """
    groups = {
        tuple(one.folder for one in group): group for group in groups
    }.values()  # a teacher has several places
    lines = []
    for group in groups:
        run = group[0]
        networks = f"{run.teacher} → {run.student}" if run.teacher else run.student
        members = ", ".join(
            f"`{one.folder}` (seed {one.seed}: {one.top1_last:.2f} / {one.top1_best:.2f})"
            for one in group
        )
        note = "; not averaged: a seed has several runs" if _is_repeated(group, groups) else ""
        what = (
            f"{run.dataset}, {run.method}, {networks}, {run.images:,} images, {run.epochs} epochs"
        )
        lines.append(f"* {what}: {members}{note}")
    return "\n".join(lines)


def record(name, slot, group):
    """Returns a line of a table's CSV as a dict of COLUMNS: what was measured, or an empty place of
    the paper.
    """
    line = dict.fromkeys(COLUMNS, "") | {"table": name}
    if slot:
        line |= {
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
        return line
    run = group[0]
    line |= {
        "dataset": run.dataset,
        "method": run.method,
        "teacher": run.teacher or "",
        "student": run.student,
        "images": run.images,
        "epochs": run.epochs,
        "n": len(group),
        "seeds": " ".join(str(one.seed) for one in group),
        "image_steps": round(statistics.mean(one.image_steps for one in group)),
        "minutes": round(statistics.mean(one.seconds for one in group) / 60, 2),
        "runs": "; ".join(one.folder for one in group),
    }
    for field in _MEASURED:
        values = [getattr(one, field) for one in group]
        if None not in values:
            line[field] = round(statistics.mean(values), 4)
            line[f"{field}_sd"] = round(statistics.stdev(values), 4) if len(values) > 1 else ""
    return line


def spread(values):
    """Returns 'mean ± sample standard deviation' of accuracies in percent; of one value, that value
    alone.
    """
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean
