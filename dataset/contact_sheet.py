"""A contact sheet: one row of images a class, the class's name at its left."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from helper.files import whole_file

ROWS, COLUMNS = 10, 10
_GAP = 2  # pixels between images
_FONT_SIZE = 14


def write_contact_sheet(path, rows):
    """Draws a contact sheet as PNG.

    rows: (name, [image paths]) a class; of more than 10 classes 10 are taken, evenly spaced, and of
    each the first 10 images. All images are of one size; those up to 64 pixels a side are enlarged
    twice, those above 128 are reduced.
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
