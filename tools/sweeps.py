"""Writes the table and plot of a sweep, OUT.csv, OUT.md and OUT.png, from finished runs.

    python -m tools.sweeps OUT LABEL VALUE=RUN_FOLDER...
    python -m tools.sweeps OUT LABEL --append VALUE=RUN_FOLDER...   # adds to OUT.csv

LABEL says what the values are: a name in report.sweeps.LABELS or any text. The first value is the
baseline. Runs with the same value differ in their seeds. The table includes the figures that
evaluate_images.py measured on the images of a run with its teacher. --append needs no folders of
the runs in OUT.csv, so they may be on another machine.
"""

import sys
from pathlib import Path

from helper.errors import UserError, note, run_script
from helper.files import entry, file_stem, read_json
from helper.options import Parser
from report.results import read_run
from report.sweeps import LABELS, read_figures, read_records, record_of, setting, write


def main(argv=None):
    """Writes the sweep and returns its records.

    Raises UserError for runs that cannot be compared, for damaged figures of their images, and with
    --append for an OUT.csv that is not the CSV of a sweep.
    """
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("label", metavar="LABEL")
    parser.add_argument("runs", nargs="+", metavar="VALUE=RUN_FOLDER")
    parser.add_argument(
        "--append",
        action="store_true",
        help="add the runs after those in OUT.csv, which this program has written",
    )
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
        datasets.add((result.dataset, result.val_split, result.val_images))
        flags = flags_of(folder)
        figures, settings = figures_of(result, flags), settings_text(flags)
        records.append(record_of(result, value, out.name, figures, settings=settings))
    if len(datasets) > 1:
        raise UserError(f"the runs were evaluated on different images: {sorted(datasets, key=str)}")
    if options.append:
        records = joined(out, records)
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


def joined(out, records):
    """The records of OUT.csv and, after them, new ones; a run folder that is in both counts once.

    Raises UserError if OUT.csv is missing or not of this program, was evaluated on other images, or
    has another run of the same value and seed.
    """
    path = Path(f"{out}.csv")
    if not path.exists():
        raise UserError(f"{path} does not exist: start the table without --append")
    places, new = {}, records[0]
    for record in read_records(path):
        if not setting(record, "dataset"):
            raise UserError(
                f"{path}: the settings of {record['run']} do not name its data set, as those that "
                "run_sweep.py writes: --append extends tables of tools.sweeps only"
            )
        for flag in ("dataset", "val_split", "val_data", "class_list"):
            values = [setting(one, flag) or "not given" for one in (record, new)]
            if values[0] != values[1]:
                raise UserError(
                    f"{record['run']} in {path} and {new['run']} were evaluated on different "
                    f"images: {flag} is {values[0]} and {values[1]}: give another OUT"
                )
        if (key := (record["value"], record["seed"])) in places:
            raise UserError(
                f"{path} has two runs of value {key[0]}, seed {key[1]}: remove one of them"
            )
        places[key] = record
    for record in records:
        key = record["value"], record["seed"]
        if places.setdefault(key, record)["run"] != record["run"]:
            raise UserError(
                f"{record['run']}: {path} has {places[key]['run']} of value {key[0]}, seed "
                f"{key[1]}: remove its line or give this run another value"
            )
        places[key] = record
    return list(places.values())


def flags_of(folder):
    """The flags in the config.json of a run, {name: value}; {} for a run without that file."""
    path = Path(folder) / "config.json"
    if not path.exists():
        return {}
    return entry(read_json(path, "configuration"), "flags", dict, path, {})


def figures_of(result, flags):
    """The figures of a run's images, as `read_figures`; None, with a note, if they are of another
    teacher or number of images.
    """
    path = Path(result.folder) / "result.json"
    source = entry(read_json(path, "result"), "source", str | None, path, None) or "real"
    file = Path(source) / f"fidelity_{result.dataset}_{file_stem(result.teacher or '')}.json"
    figures = read_figures(file)
    if not figures:
        return None
    own = flags.get("teacher_sha256", figures["teacher"]["sha256"])  # older runs have none
    if figures["teacher"]["sha256"] != own:
        note(f"{file} is of another teacher than {result.folder}: ignored")
    elif figures["images"] != result.images:
        note(
            f"{file} is of {figures['images']} images and {result.folder} of {result.images}: "
            "ignored"
        )
    else:
        return figures
    return None


def settings_text(flags):
    """The flags of a run as on a command line, without the facts that are recorded beside them."""
    return " ".join(
        f"--{name}" if value is True else f"--{name} {value}"
        for name, value in flags.items()
        if value is not None
        and value is not False
        and name != "images"
        and not name.endswith("sha256")
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
