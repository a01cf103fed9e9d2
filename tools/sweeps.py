"""Writes the table and plot of a sweep, OUT.csv, OUT.md and OUT.png, from finished runs.

    python -m tools.sweeps OUT LABEL VALUE=RUN_FOLDER...

LABEL says what the values are: a name in report.sweeps.LABELS or any text. The first value is the
baseline. Runs with the same value differ in their seeds.
"""

import sys
from pathlib import Path

from helper.errors import UserError, run_script
from helper.files import entry, file_stem, read_json
from helper.options import Parser
from report.results import read_run
from report.sweeps import LABELS, read_figures, record_of, write


def main(argv=None):
    """Writes the sweep and returns its records.

    They include the figures that evaluate_images.py measured on a run's images with its teacher.
    Raises UserError for runs that cannot be compared.
    """
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("label", metavar="LABEL")
    parser.add_argument("runs", nargs="+", metavar="VALUE=RUN_FOLDER")
    options = parser.parse_args(argv)
    pairs = [text.partition("=")[::2] for text in options.runs]
    if not all(value and folder for value, folder in pairs):
        raise UserError(f"the runs are given as VALUE=RUN_FOLDER, not {' '.join(options.runs)}")
    out, label = options.out, LABELS.get(options.label, options.label)
    records, datasets, seeds = [], set(), set()
    for value, folder in pairs:
        result = read_run(folder)
        if result is None:
            raise UserError(f"{folder} is not a classifier's run")
        if (value, result.seed) in seeds:
            raise UserError(f"{folder}: there is another run of value {value}, seed {result.seed}")
        seeds.add((value, result.seed))
        datasets.add((result.dataset, result.val_split))
        path = Path(folder) / "result.json"
        source = entry(read_json(path, "result"), "source", str | None, path, None) or "real"
        figures = Path(source) / f"fidelity_{result.dataset}_{file_stem(result.teacher or '')}.json"
        records.append(
            record_of(result, value, out.name, read_figures(figures), settings=settings_of(folder))
        )
    if len(datasets) > 1:
        raise UserError(f"the runs were evaluated on different images: {sorted(datasets)}")
    networks = " and ".join(dict.fromkeys(record["student"] for record in records))
    write(
        out,
        records,
        records[0]["value"],
        label,
        f"{result.dataset}, {label}: {networks}",
        note=f"One line per run: [{out.name}.csv]({out.name}.csv).",
    )
    return records


def settings_of(folder):
    """The flags in the config.json of a run, a text, without the facts that are recorded beside
    them; '' for a run without that file.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        return ""
    settings = entry(read_json(path, "configuration"), "flags", dict, path, {})
    return " ".join(
        f"--{name}" if value is True else f"--{name} {value}"
        for name, value in settings.items()
        if value is not None
        and value is not False
        and name != "images"
        and not name.endswith("sha256")
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
