"""Writes OUT.csv, OUT.md and OUT.png from finished runs: `python -m tools.sweeps OUT LABEL
VALUE=RUN_FOLDER...`.

LABEL, a name of report.sweeps.LABELS or a text, says what the values are, the first is the
baseline, and runs of one value differ in their seeds.
"""

import sys
from pathlib import Path

from helper.errors import UserError, run
from helper.files import file_stem, read_json
from report.results import read_run
from report.sweeps import LABELS, read_figures, record_of, write


def main(argv=None):
    """Writes the sweep of `argv`; returns its records. Figures that evaluate_images.py put beside
    the images, by the run's own teacher, join them. Raises UserError for runs that cannot be
    compared.
    """
    arguments = sys.argv[1:] if argv is None else argv
    pairs = [text.partition("=") for text in arguments[2:]]
    if not pairs or not all(value and folder for value, _, folder in pairs):
        raise UserError("usage: python -m report.sweeps OUT LABEL VALUE=RUN_FOLDER...")
    out, label = Path(arguments[0]), LABELS.get(arguments[1], arguments[1])
    records, places = [], set()
    for value, _, folder in pairs:
        found = read_run(folder)
        if found is None:
            raise UserError(f"{folder} is no classifier's run")
        if (value, found.seed) in places:
            raise UserError(
                f"{folder}: value {value} has a run of seed {found.seed} already: give each once"
            )
        places.add((value, found.seed))
        source = read_json(Path(folder) / "result.json", "result").get("source") or "real"
        figures = read_figures(
            Path(source) / f"fidelity_{found.dataset}_{file_stem(found.teacher or '')}.json"
        )
        records.append(record_of(found, value, out.name, figures))
    same = {(record["val_split"], found.dataset) for record in records}
    if len(same) > 1:
        raise UserError(f"the runs were measured on different images: {sorted(same)}")
    networks = " and ".join(dict.fromkeys(record["student"] for record in records))
    write(
        out,
        records,
        records[0]["value"],
        label,
        f"{found.dataset}, {label}: {networks}",
        f"A line a run: [{out.name}.csv]({out.name}.csv).",
    )
    return records


if __name__ == "__main__":
    sys.exit(run(main))
