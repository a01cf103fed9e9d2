"""A contact sheet: one row of images a class, the class's name at its left.

Sets side by side, a row each, ten images spread over the set:
    python -m dataset.contact_sheet sheet.png One-Image=syn_dataset/FOLDER DAFL=save/student_model/…/samples
"""

import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dataset.paths import EXTENSIONS
from helper.errors import UserError, run
from helper.files import whole_file
from helper.options import Parser

ROWS, COLUMNS = 10, 10
_GAP = 2  # pixels between images
_FONT_SIZE = 14


def write_contact_sheet(path, rows):
    """Draws a contact sheet as PNG.

    rows: (name, [image paths]) a class; of more than 10 classes 10 are taken, evenly spaced, and of each the first 10
    images. All images are of one size; those up to 64 pixels a side are enlarged twice, those above 128 are reduced.
    """
    if len(rows) > ROWS:
        rows = [rows[number * len(rows) // ROWS] for number in range(ROWS)]
    rows = [(name, [_cell(file) for file in files[:COLUMNS]]) for name, files in rows]
    width, height = rows[0][1][0].size
    font = ImageFont.load_default(_FONT_SIZE)
    margin = max(round(font.getlength(name)) for name, _ in rows) + 4 * _GAP
    columns = max(len(cells) for _, cells in rows)
    size = (margin + columns * (width + _GAP), _GAP + len(rows) * (height + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, cells) in enumerate(rows):
        top = _GAP + number * (height + _GAP)
        draw.text((2 * _GAP, top + height // 2), name, fill="black", font=font, anchor="lm")
        for column, cell in enumerate(cells):
            sheet.paste(cell, (margin + column * (width + _GAP), top))
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG")
    with whole_file(Path(path)) as file:
        file.write(encoded.getbuffer())


def _cell(path):
    """Returns the image in RGB at the size in which it is shown."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    if image.width <= 64:
        return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)
    return image.reduce(max(1, image.width // 128))


def spread_over(folder):
    """Returns COLUMNS paths of the images below `folder`, evenly spread: of ten classes the first of each.

    Raises UserError if there are fewer.
    """
    files = sorted(path for path in Path(folder).rglob("*")
                   if path.suffix.lower() in EXTENSIONS and path.name != "contact_sheet.png")
    if len(files) < COLUMNS:
        raise UserError(f"{folder} holds {len(files)} images and a row takes {COLUMNS}: give another folder")
    return [files[number * len(files) // COLUMNS] for number in range(COLUMNS)]


def main(argv=None):
    """Draws the sheet of several sets and returns its path."""
    parser = Parser(__doc__)
    parser.add_argument("sheet", type=Path, help="the PNG file to write")
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help=f"at most {ROWS}")
    options = parser.parse_args(argv)
    pairs = [text.partition("=")[::2] for text in options.sets]
    if len(pairs) > ROWS or not all(name and folder for name, folder in pairs):
        raise UserError(f"a sheet has 1 to {ROWS} sets, each as NAME=FOLDER: got {' '.join(options.sets)}")
    write_contact_sheet(options.sheet, [(name, spread_over(folder)) for name, folder in pairs])
    print(options.sheet, flush=True)
    return options.sheet


if __name__ == "__main__":
    sys.exit(run(main))
