"""The short table at the end of the quickstart: `python -m tools.summary RUN_FOLDER IMAGE_FOLDER
SECONDS`.
"""

import sys
from pathlib import Path

from helper.errors import UserError, run
from helper.files import read_json


def main(argv=None):
    """Prints what a distillation run reached. SECONDS is what the whole command took."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 3:
        raise UserError("usage: python -m tools.summary RUN_FOLDER IMAGE_FOLDER SECONDS")
    run_folder, images, seconds = Path(arguments[0]), Path(arguments[1]), float(arguments[2])
    result = read_json(run_folder / "result.json", "result of the distillation")
    measured = f"of {result['val_images']} real {result['val_split']} images"
    seen = "real images" if result["source"] == "real" else "generated images and no real one"
    rows = [
        ("teacher", f"{result['teacher']}, {result['teacher_top1']:.2f} % {measured}"),
        (
            "student",
            f"{result['student']}, {result['top1_last']:.2f} % {measured}, "
            f"having seen {result['images']} {seen}",
        ),
        ("agreement", f"{result['agreement']:.2f} % {measured} are of one class for both"),
        ("minutes", f"{seconds / 60:.1f} now; {result['seconds'] / 60:.1f} of distillation"),
        ("curves", run_folder / "curves.png"),
    ]
    if result["source"] != "real":
        rows.append(("images", images / "contact_sheet.png"))
    print("\n" + "\n".join(f"{name:10} {text}" for name, text in rows))


if __name__ == "__main__":
    sys.exit(run(main))
