"""Accuracies of the same distillation with several seeds: `python -m tools.spread
RUN_FOLDER...`.
"""

import statistics
import sys
from pathlib import Path

from helper.errors import UserError, run
from helper.files import read_json
from report.tables import spread

SOURCES = {"DM-KD": "generated images", "KD": "real images"}


def main(argv=None):
    """Prints the last epoch's accuracies by the kind of training images and, given both kinds, how
    far they are apart.

    Returns {kind: [top-1 in percent]}. Raises UserError without runs, or if they were measured on
    different images.
    """
    folders = sys.argv[1:] if argv is None else argv
    if not folders:
        raise UserError("usage: python -m tools.spread RUN_FOLDER...")
    results = [
        read_json(Path(folder) / "result.json", "result of the distillation") for folder in folders
    ]
    splits = {(result["dataset"], result["val_split"], result["val_images"]) for result in results}
    if len(splits) > 1:
        raise UserError(f"the runs were measured on different images: {sorted(splits)}")
    accuracies = {}
    for result in sorted(results, key=lambda result: result["seed"]):
        accuracies.setdefault(SOURCES.get(result["method"], result["method"]), []).append(
            result["top1_last"]
        )
    ((dataset, split, count),) = splits
    print(f"\nstudent's top-1 (%), last epoch, on {count} real {split} images of {dataset}:")
    for kind, values in accuracies.items():
        print(f"{kind:17} {spread(values)}   ({', '.join(f'{value:.2f}' for value in values)})")
    if accuracies.keys() == set(SOURCES.values()):
        generated, real = (statistics.mean(accuracies[kind]) for kind in SOURCES.values())
        print(f"real − generated  {real - generated:.2f}", flush=True)
    return accuracies


if __name__ == "__main__":
    sys.exit(run(main))
