"""A contact sheet: one row of images per class, labelled with its name."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dataset.image_set import decode
from dataset.scan import CONTACT_SHEET
from helper.files import whole_file

ROWS, COLUMNS = 10, 10
GAP = 2  # pixels between images
FONT_SIZE = 14


def sheet_beside(folder):
    """The path of the contact sheet of an image folder: <folder>_contact_sheet.png.

    It is not in the folder, where other tools would count it as an image or a class.
    """
    folder = Path(folder)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    return folder.with_name(f"{folder.name}_{CONTACT_SHEET}")


def sheet_rows(folder):
    """The rows (name, [image paths]) of an image folder: its class folders or, without any, ten of
    its images each.
    """
    classes = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    if classes:
        rows = [(path.name, sorted(path.glob("*.png"))) for path in classes]
    else:
        files = sorted(Path(folder).glob("*.png"))
        rows = [("", files[start : start + COLUMNS]) for start in range(0, len(files), COLUMNS)]
    return [row for row in rows if row[1]]


def write_contact_sheet(path, rows):
    """Draws a contact sheet as PNG.

    rows: (name, [image paths]) of each class. Of more than 10 classes, 10 at equal distances are
    shown, and the first 10 images of each. Those of up to 64 pixels are enlarged twice; those of
    256 pixels and more are reduced. The first image sets the size of all: images of another size
    are resized to fit and centred on white.
    Raises UserError as `decode`.
    """
    if len(rows) > ROWS:
        rows = [rows[number * len(rows) // ROWS] for number in range(ROWS)]
    rows = [(name, [_thumbnail(file) for file in files[:COLUMNS]]) for name, files in rows]
    width, height = cell = rows[0][1][0].size
    font = ImageFont.load_default(FONT_SIZE)
    margin = max(round(font.getlength(name)) for name, _ in rows) + 4 * GAP
    columns = max(len(images) for _, images in rows)
    size = (margin + columns * (width + GAP), GAP + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, images) in enumerate(rows):
        top = GAP + number * (height + GAP)
        draw.text((2 * GAP, top + height // 2), name, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images):
            if image.size != cell:
                image = ImageOps.pad(image, cell, color="white")
            sheet.paste(image, (margin + column * (width + GAP), top))
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG")
    with whole_file(path) as file:
        file.write(encoded.getbuffer())


def _thumbnail(path):
    """The image in RGB, enlarged or reduced."""
    image = decode(path)
    if image.width <= 64:
        return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)
    return image.reduce(max(1, image.width // 128))
