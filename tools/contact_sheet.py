"""Draws a contact sheet of several image sets, a row each, ten images spread over the set:

python -m tools.contact_sheet sheet.png One-Image=syn_dataset/FOLDER
DAFL=save/student_model/…/samples
"""

import sys
from pathlib import Path

from dataset.contact_sheet import COLUMNS, ROWS, write_contact_sheet
from dataset.paths import EXTENSIONS
from helper.errors import UserError, run
from helper.options import Parser


def spread_over(folder):
    """Returns COLUMNS paths of the images below `folder`, evenly spread: of ten classes the first
    of each.

    Raises UserError if there are fewer.
    """
    files = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in EXTENSIONS and path.name != "contact_sheet.png"
    )
    if len(files) < COLUMNS:
        raise UserError(
            f"{folder} holds {len(files)} images and a row takes {COLUMNS}: give another folder"
        )
    return [files[number * len(files) // COLUMNS] for number in range(COLUMNS)]


def main(argv=None):
    """Draws the sheet of several sets and returns its path."""
    parser = Parser(__doc__)
    parser.add_argument("sheet", type=Path, help="the PNG file to write")
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help=f"at most {ROWS}")
    options = parser.parse_args(argv)
    pairs = [text.partition("=")[::2] for text in options.sets]
    if len(pairs) > ROWS or not all(name and folder for name, folder in pairs):
        raise UserError(
            f"a sheet has 1 to {ROWS} sets, each as NAME=FOLDER: got {' '.join(options.sets)}"
        )
    write_contact_sheet(options.sheet, [(name, spread_over(folder)) for name, folder in pairs])
    print(options.sheet, flush=True)
    return options.sheet


if __name__ == "__main__":
    sys.exit(run(main))
