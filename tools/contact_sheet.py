"""Draws a contact sheet of several image sets: one row per set, ten images spread over the set.

python -m tools.contact_sheet sheet.png One-Image=syn_dataset/FOLDER DAFL=save/…/samples
"""

import sys
from pathlib import Path

from dataset.contact_sheet import COLUMNS, ROWS, write_contact_sheet
from dataset.pack import refuse_pack
from dataset.paths import Paths
from dataset.scan import LeftOut, walk
from helper.errors import UserError, run_script
from helper.options import Parser


def evenly_spaced(folder):
    """Ten paths of images below `folder` at equal distances: of ten classes the first of each.

    Raises UserError if there are fewer images, or the folder cannot be read.
    """
    refuse_pack(folder)
    files = sorted(map(Path, Paths.in_folders(walk([folder], LeftOut()))))
    if len(files) < COLUMNS:
        raise UserError(
            f"{folder} holds {len(files)} images, a row needs {COLUMNS}: give another folder"
        )
    return [files[number * len(files) // COLUMNS] for number in range(COLUMNS)]


def main(argv=None):
    """Draws the sheet and returns its path."""
    parser = Parser(__doc__)
    parser.add_argument("sheet", type=Path, help="PNG file to write")
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help=f"up to {ROWS} sets")
    options = parser.parse_args(argv)
    pairs = [text.partition("=")[::2] for text in options.sets]
    if len(pairs) > ROWS or not all(name and folder for name, folder in pairs):
        raise UserError(
            f"a sheet takes 1 to {ROWS} sets, each as NAME=FOLDER, not {' '.join(options.sets)}"
        )
    write_contact_sheet(options.sheet, [(name, evenly_spaced(folder)) for name, folder in pairs])
    print(options.sheet, flush=True)
    return options.sheet


if __name__ == "__main__":
    sys.exit(run_script(main))
