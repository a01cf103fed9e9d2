"""Prints the accuracies of distillations with several seeds.

    python -m tools.spread RUN_FOLDER...

Runs on one kind of training images must differ in their seeds only.
"""

import statistics
import sys
from pathlib import Path

from helper.errors import UserError, run_script
from helper.files import entry, read_json
from helper.options import Parser
from report.tables import spread

FIELDS = {  # of result.json
    **dict.fromkeys(("dataset", "val_split", "method", "student"), str),
    **dict.fromkeys(("val_images", "images", "epochs", "seed"), int),
    "teacher": str | None,
    "top1_last": float,
}
IMAGES_OF = {"DM-KD": "generated images", "KD": "real images"}


def main(argv=None):
    """Prints the last epoch's accuracies for each kind of training images, and their difference.

    Returns {kind: [top-1 in percent]}. Raises UserError if the runs were not evaluated on the same
    images, and as `check_runs` for each kind.
    """
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="RUN_FOLDER")
    folders = parser.parse_args(argv).folders
    results = []
    for folder in folders:
        path = Path(folder) / "result.json"
        result = read_json(path, "result of the distillation")
        values = {name: entry(result, name, kind, path) for name, kind in FIELDS.items()}
        results.append({"folder": folder, **values})
    splits = {(result["dataset"], result["val_split"], result["val_images"]) for result in results}
    if len(splits) > 1:
        raise UserError(f"the runs were evaluated on different images: {sorted(splits)}")
    results_of = {}
    for result in sorted(results, key=lambda result: result["seed"]):
        kind = IMAGES_OF.get(result["method"], result["method"])
        results_of.setdefault(kind, []).append(result)
    for group in results_of.values():
        check_runs(group)
    accuracies = {
        kind: [result["top1_last"] for result in group] for kind, group in results_of.items()
    }
    ((dataset, split, count),) = splits
    print(f"\nstudent's top-1 (%), last epoch, on {count} real {split} images of {dataset}:")
    for kind, values in accuracies.items():
        print(f"{kind:17} {spread(values)}   ({', '.join(f'{value:.2f}' for value in values)})")
    if accuracies.keys() == set(IMAGES_OF.values()):
        generated, real = (statistics.mean(accuracies[kind]) for kind in IMAGES_OF.values())
        print(f"real − generated  {real - generated:.2f}", flush=True)
    return accuracies


def check_runs(results):
    """Raises UserError if the results of runs on one kind of training images differ in their
    networks, number of images or epochs, or if two of them have the same seed.
    """
    first, folder_of = results[0], {}
    for result in results:
        folder, seed = result["folder"], result["seed"]
        for name in ("teacher", "student", "images", "epochs"):
            if result[name] != first[name]:
                raise UserError(
                    f"{first['folder']} and {folder} differ in {name} ({first[name]}, "
                    f"{result[name]}): give runs that differ in their seeds only"
                )
        if seed in folder_of:
            raise UserError(
                f"{folder_of[seed]} and {folder} have the same seed, {seed}: give one of them"
            )
        folder_of[seed] = folder


if __name__ == "__main__":
    sys.exit(run_script(main))
