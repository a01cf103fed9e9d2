"""Writes the table and plot of a sweep, OUT.csv, OUT.md and OUT.png, from finished runs.

    python -m tools.sweeps OUT LABEL VALUE=RUN_FOLDER...
    python -m tools.sweeps OUT LABEL --append VALUE=RUN_FOLDER...   # to the runs in OUT.csv

LABEL says what the values are: a name in report.sweeps.LABELS or any text. The first value is the
baseline. Runs with the same value differ in their seeds. The table includes the figures that
evaluate_images.py measured on the images of a run with its teacher. --append needs no folders of
the runs that are in OUT.csv, so they may have been on another machine.
"""

import sys
from pathlib import Path

from helper.errors import UserError, note, run_script
from helper.files import entry, file_stem, read_json
from helper.options import Parser
from report.results import read_run
from report.sweeps import LABELS, read_figures, read_records, record_of, write


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
        help="keep the runs in OUT.csv, in front; a run of the same value and seed is replaced",
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
        earlier = read_records(f"{out}.csv")
        for record in earlier:
            check_images(record, result, f"{out}.csv")
        both = [*earlier, *records]
        records = list({(record["value"], record["seed"]): record for record in both}.values())
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


def check_images(record, result, path):
    """Raises UserError if a record of the CSV `path` was evaluated on other images than a
    RunResult.
    """
    dataset = f" {record['settings'] or ''} ".partition(" --dataset ")[2].partition(" ")[0]
    if (dataset or result.dataset, record["val_split"]) != (result.dataset, result.val_split):
        raise UserError(
            f"{record['run']} in {path} was evaluated on the {record['val_split']} images of "
            f"{dataset or result.dataset}, and {result.folder} on the {result.val_split} images of "
            f"{result.dataset}: give another OUT"
        )


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
