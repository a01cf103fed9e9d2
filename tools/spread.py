"""Prints the accuracies of distillations with several seeds.

python -m tools.spread RUN_FOLDER...
"""

import statistics
import sys
from pathlib import Path

from helper.errors import UserError, run_script
from helper.files import entry, read_json
from helper.options import Parser
from report.tables import spread

FIELDS = {  # of result.json
    **dict.fromkeys(("dataset", "val_split", "method"), str),
    **dict.fromkeys(("val_images", "seed"), int),
    "top1_last": float,
}
IMAGES_OF = {"DM-KD": "generated images", "KD": "real images"}


def main(argv=None):
    """Prints the last epoch's accuracies for each kind of training images, and their difference.

    Returns {kind: [top-1 in percent]}. Raises UserError if the runs were not evaluated on the same
    images.
    """
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="RUN_FOLDER")
    folders = parser.parse_args(argv).folders
    results = []
    for path in (Path(folder) / "result.json" for folder in folders):
        result = read_json(path, "result of the distillation")
        results.append({name: entry(result, name, kind, path) for name, kind in FIELDS.items()})
    splits = {(result["dataset"], result["val_split"], result["val_images"]) for result in results}
    if len(splits) > 1:
        raise UserError(f"the runs were evaluated on different images: {sorted(splits)}")
    accuracies = {}
    for result in sorted(results, key=lambda result: result["seed"]):
        kind = IMAGES_OF.get(result["method"], result["method"])
        accuracies.setdefault(kind, []).append(result["top1_last"])
    ((dataset, split, count),) = splits
    print(f"\nstudent's top-1 (%), last epoch, on {count} real {split} images of {dataset}:")
    for kind, values in accuracies.items():
        print(f"{kind:17} {spread(values)}   ({', '.join(f'{value:.2f}' for value in values)})")
    if accuracies.keys() == set(IMAGES_OF.values()):
        generated, real = (statistics.mean(accuracies[kind]) for kind in IMAGES_OF.values())
        print(f"real − generated  {real - generated:.2f}", flush=True)
    return accuracies


if __name__ == "__main__":
    sys.exit(run_script(main))
