"""Prints the summary at the end of the quickstart.

python -m tools.summary RUN_FOLDER IMAGE_FOLDER SECONDS
"""

import sys
from pathlib import Path

from dataset.contact_sheet import sheet_beside
from helper.errors import run_script
from helper.files import entry, read_json
from helper.options import Parser, nonnegative_float

FIELDS = {  # of result.json
    **dict.fromkeys(("source", "val_split", "teacher", "student"), str),
    **dict.fromkeys(("val_images", "images"), int),
    **dict.fromkeys(("teacher_top1", "top1_last", "agreement", "seconds"), float),
}


def main(argv=None):
    """Prints the accuracies and files of a distillation."""
    parser = Parser(__doc__)
    parser.add_argument("run_folder", metavar="RUN_FOLDER", type=Path)
    parser.add_argument("images", metavar="IMAGE_FOLDER", type=Path, help="training images")
    parser.add_argument(
        "seconds", metavar="SECONDS", type=nonnegative_float, help="time of the quickstart"
    )
    options = parser.parse_args(argv)
    path = options.run_folder / "result.json"
    result = read_json(path, "result of the distillation")
    for name, kind in FIELDS.items():
        entry(result, name, kind, path)
    is_real = result["source"] == "real"
    minutes = options.seconds / 60
    test_set = f"of {result['val_images']} real {result['val_split']} images"
    training_set = "real images" if is_real else "generated images and no real ones"
    rows = [
        ("teacher", f"{result['teacher']}, {result['teacher_top1']:.2f} % {test_set}"),
        (
            "student",
            f"{result['student']}, {result['top1_last']:.2f} % {test_set}, "
            f"trained on {result['images']} {training_set}",
        ),
        ("agreement", f"both predict the same class for {result['agreement']:.2f} % {test_set}"),
        ("minutes", f"{minutes:.1f} in total; {result['seconds'] / 60:.1f} of distillation"),
        ("curves", options.run_folder / "curves.png"),
    ]
    if not is_real:
        rows.append(("images", sheet_beside(options.images)))
    print("\n" + "\n".join(f"{name:10} {text}" for name, text in rows))


if __name__ == "__main__":
    sys.exit(run_script(main))
