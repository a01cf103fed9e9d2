"""Prints the summary at the end of the quickstart.

python -m tools.summary RUN_FOLDER IMAGE_FOLDER SECONDS
"""

import sys
from pathlib import Path

from dataset.contact_sheet import sheet_beside
from helper.errors import run_script
from helper.files import read_json
from helper.options import Parser


def main(argv=None):
    """Prints the accuracies and files of a distillation; SECONDS is the time of the command."""
    parser = Parser(__doc__)
    parser.add_argument("run_folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("images", type=Path, metavar="IMAGE_FOLDER")
    parser.add_argument("seconds", type=float, metavar="SECONDS")
    options = parser.parse_args(argv)
    run_folder, images, seconds = options.run_folder, options.images, options.seconds
    result = read_json(run_folder / "result.json", "result of the distillation")
    is_real = result["source"] == "real"
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
        ("minutes", f"{seconds / 60:.1f} in total; {result['seconds'] / 60:.1f} of distillation"),
        ("curves", run_folder / "curves.png"),
    ]
    if not is_real:
        rows.append(("images", sheet_beside(images)))
    print("\n" + "\n".join(f"{name:10} {text}" for name, text in rows))


if __name__ == "__main__":
    sys.exit(run_script(main))
