"""The page of `make_tables.py --html`: tables, curves, contact sheets and links to the run folders.

One file without scripts that requests nothing: curves are SVG, images are embedded. Every text of a
run is escaped.
"""

import base64
import csv
import io
import math
import os
import time
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from helper.errors import UserError
from helper.files import read_json, read_text
from report.results import walk_once

# {title: columns of metrics.csv}; what a run does not have is left out
PANELS = {
    "loss": ("loss",),
    "accuracy (%)": ("train_top1", "top1"),
    "agreement with the teacher (%)": ("train_agreement", "agreement"),
    "validation loss": ("val_loss",),
    "loss of the generator": ("generator_loss",),
    "ε-MSE": ("mse", "val_mse", "val_mse_null"),
    "reconstruction (dB)": ("val_psnr",),
}
FACTS = {  # {entry of result.json or flag: heading}
    "method": "method",
    "stage": "stage",
    "dataset": "data set",
    "val_split": "evaluated on",
    "teacher": "teacher",
    "student": "network",
    "source": "training images",
    "images": "images",
    "epochs": "epochs",
    "seed": "seed",
    "top1_last": "top-1, last epoch (%)",
    "top1_best": "top-1, best epoch (%)",
    "agreement": "agreement (%)",
    "teacher_top1": "teacher's top-1 (%)",
    "val_psnr": "PSNR (dB)",
    "val_mse": "ε-MSE",
    "seconds": "seconds",
}
# The flags that say the same of an unfinished run
FLAGS = {"teacher": "model_t", "student": "model_s", "source": "train_data"}
FILES = ("config.json", "metrics.csv", "train.log", "result.json", "curves.png")
THUMBNAIL = 640  # pixels, the longer side
POINTS = 300  # of a curve at most
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 170, 52, 22, 8  # of a plot

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2024; --soft: #5b6470;
  --line: #d5dae1; --link: #0b5cad; --c0: #0b6bcb; --c1: #c2410c; --c2: #15803d; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1d2126; --text: #e7eaee;
  --soft: #a3adb8; --line: #39414a; --link: #7db8ff;
  --c0: #62a8ff; --c1: #ff9d5c; --c2: #5fd38d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1rem; }
nav ul, .files { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; }
.soft, figcaption, dt { color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); }
table { width: 100%; border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; min-width: 5rem; }
tbody th { position: sticky; left: 0; background: var(--card); }
.runs { display: grid; grid-template-columns: minmax(0, 1fr); gap: 1rem; }
article, .sheet { margin: 0; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); }
article { content-visibility: auto; contain-intrinsic-height: auto 30rem; }
article h3 { margin-top: 0; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .5rem 1rem; }
dd { margin: 0; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  gap: 1rem; }
.sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
  gap: 1rem; align-items: start; }
figure { margin: 0; } svg, img { max-width: 100%; height: auto; display: block; }
svg { width: 100%; font: 11px system-ui, sans-serif; fill: var(--soft); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; } .grid { stroke: var(--line); }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.key { white-space: nowrap; }
.k0 { color: var(--c0); } .k1 { color: var(--c1); } .k2 { color: var(--c2); }
"""


class RunFolder(NamedTuple):
    """A run folder: the content of its config.json, of its result.json ({} if it is not finished),
    and the rows of metrics.csv as {column: number}.
    """

    folder: Path
    config: dict
    result: dict
    rows: list

    @property
    def source(self):
        """The folder or list of the training images, None for a real data set."""
        train = self.config.get("train")
        source = train.get("source") if isinstance(train, dict) else None
        return source if isinstance(source, str) else None

    def facts(self):
        """What the page says of the run, {heading: value}."""
        flags = self.config.get("flags")
        flags = flags if isinstance(flags, dict) else {}
        facts = {}
        for name, heading in FACTS.items():
            if name == "val_split" and "stage" in flags:
                continue  # DiTs have validation images of their own
            value = self.result.get(name, flags.get(FLAGS.get(name, name)))
            if isinstance(value, float):
                value = f"{value:.4g}" if name in ("val_mse", "seconds") else f"{value:.2f}"
            elif isinstance(value, int) and name == "images":
                value = f"{value:,}"
            if value is not None:
                facts[heading] = value
        return facts


def read_run_folders(root):
    """All runs below `root`, finished or not, DiTs among them.

    Returns (RunFolders in the order of `walk_once`, one message per run that cannot be read).
    """
    runs, faults = [], []
    for folder, subfolders, files in walk_once(root):
        if "metrics.csv" in files or "result.json" in files:
            subfolders.clear()  # a run folder may hold a million images
        if "metrics.csv" not in files or not {"config.json", "result.json"} & set(files):
            continue  # that of another program
        try:
            config, result = (
                read_json(Path(folder, name), name) if name in files else {}
                for name in ("config.json", "result.json")
            )
            rows = read_metrics(Path(folder, "metrics.csv"))
        except (UserError, OSError) as error:
            faults.append(str(error))
        else:
            runs.append(RunFolder(Path(folder), config, result, rows))
    return runs, faults


def read_metrics(path):
    """The rows of a metrics.csv, {column: number}; raises UserError if it is damaged."""
    try:
        records = list(csv.DictReader(io.StringIO(read_text(path)), strict=True))
        rows = [{name: float(value) for name, value in record.items()} for record in records]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, then --resume of its run writes it again"
        ) from None
    return rows


def page(title, tables, runs, sheets, folder):
    """The text of the page.

    tables: (title, legend, headings, rows of strings, run folders behind it) each.
    runs: RunFolders; sheets: {run folder: (folder of its images, path of their contact sheet)}.
    folder: of the file, from which the links start.
    Returns (text, one message per contact sheet that cannot be read).
    """
    faults, pictures = [], {}
    for images, path in dict(sheets.values()).items():
        try:
            pictures[images] = thumbnail(path, images)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            faults.append(f"the contact sheet {path} cannot be read ({error})")
    anchors = {str(run.folder): f"run-{number}" for number, run in enumerate(runs, 1)}
    sheet_anchors = {images: f"images-{number}" for number, images in enumerate(pictures, 1)}

    sections = [
        table_section(f"table-{number}", *table, anchors) for number, table in enumerate(tables, 1)
    ]
    articles = []
    for run in runs:
        images, _ = sheets.get(str(run.folder), (None, None))
        anchor = sheet_anchors.get(images)
        articles.append(run_article(anchors[str(run.folder)], run, anchor, folder))
    figures = [
        sheet_figure(sheet_anchors[images], images, picture, folder)
        for images, picture in pictures.items()
    ]
    links = [(f"table-{number}", table[0]) for number, table in enumerate(tables, 1)]
    links += [("runs", f"{len(runs)} runs")]
    if figures:
        links += [("images", "Images")]
        figures_text = f'<div class="sheets">{"".join(figures)}</div>'
        sections.append(f'<section id="images"><h2>Images</h2>{figures_text}</section>')
    runs_text = f'<div class="runs">{"".join(articles)}</div>' if runs else "<p>No runs yet.</p>"
    sections.insert(len(tables), f'<section id="runs"><h2>Runs</h2>{runs_text}</section>')
    items = "".join(f'<li><a href="#{anchor}">{text(name)}</a></li>' for anchor, name in links)
    moment = time.strftime("%Y-%m-%d %H:%M")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    document = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
<p class="soft">Written on <time>{moment}</time> by make_tables.py</p>
<nav aria-label="Contents"><ul>{items}</ul></nav>
</header>
<main>
{"".join(sections)}
</main>
</body>
</html>
"""
    return document, faults


def text(value):
    """A value as text for HTML; file names need not be UTF-8."""
    return escape(str(value).encode("utf-8", "replace").decode())


def link(path, folder, name):
    """A link to the file or folder `path` from a page in `folder`."""
    target = quote(os.fsencode(os.path.relpath(path, folder)))
    return f'<a href="{target}">{text(name)}</a>'


def table_section(anchor, title, legend, headings, rows, folders, anchors):
    """A table, its legend, and the runs behind it; it scrolls sideways on a narrow screen."""
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{text(cell)}</td>" for cell in others)
        body += f'<tr><th scope="row">{text(first)}</th>{cells}</tr>\n'
    names = [name for name in dict.fromkeys(folders) if name in anchors]
    links = "".join(f'<li><a href="#{anchors[name]}">{text(name)}</a></li>' for name in names)
    runs = f"<details><summary>{len(names)} runs</summary><ul>{links}</ul></details>"
    return f"""<section id="{anchor}" aria-labelledby="{anchor}-title">
<h2 id="{anchor}-title">{text(title)}</h2>
<p class="soft">{text(legend.replace("*", ""))}</p>
<div class="scroll" role="region" aria-labelledby="{anchor}-title" tabindex="0">
<table><thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody></table>
</div>
{runs if names else ""}</section>
"""


def run_article(anchor, run, sheet_anchor, folder):
    """The card of a run: facts, curves, links."""
    facts = "".join(
        f"<div><dt>{text(heading)}</dt><dd>{text(value)}</dd></div>"
        for heading, value in run.facts().items()
    )
    unfinished = "" if run.result else f'<p class="soft">not finished: epoch {len(run.rows)}</p>'
    plots = [
        plot(title, [(name, points(run.rows, name)) for name in columns])
        for title, columns in PANELS.items()
    ]
    files = [
        link(run.folder / name, folder, name) for name in FILES if (run.folder / name).exists()
    ]
    if sheet_anchor:
        files.insert(0, f'<a href="#{sheet_anchor}">images</a>')
    items = "".join(f"<li>{item}</li>" for item in files)
    return f"""<article id="{anchor}">
<h3>{link(run.folder, folder, run.folder)}</h3>
{unfinished}<dl>{facts}</dl>
<div class="curves">{"".join(plots)}</div>
<ul class="files">{items}</ul>
</article>
"""


def points(rows, column):
    """The points (epoch, value) of a curve, at most POINTS of them and the last."""
    pairs = [(row["epoch"], row[column]) for row in rows if column in row and "epoch" in row]
    pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
    return pairs[:: math.ceil(len(pairs) / POINTS) or 1] + pairs[-1:]


def plot(title, curves):
    """A figure with the curves [(name, [(epoch, value)])]; empty if there are none."""
    curves = [(name, values) for name, values in curves if values]
    if not curves:
        return ""
    epochs, values = zip(*(point for _, pairs in curves for point in pairs))
    (x0, x1), (y0, y1) = (min(epochs), max(epochs)), (min(values), max(values))
    width, height = WIDTH - LEFT - 8, HEIGHT - BOTTOM - TOP

    def place(epoch, value):
        x = LEFT + width * ((epoch - x0) / (x1 - x0) if x1 > x0 else 0.5)
        y = TOP + height * (1 - ((value - y0) / (y1 - y0) if y1 > y0 else 0.5))
        return f"{x:.1f},{y:.1f}"

    shapes, names = [], []
    for part in (0.0, 0.5, 1.0) if y1 > y0 else (0.5,):
        y = TOP + height * (1 - part)
        mark = f"{y0 + part * (y1 - y0):.4g}"
        shapes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y}" y2="{y}"/>')
        shapes.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{mark}</text>')
    for number, (name, pairs) in enumerate(curves):
        line = " ".join(place(*pair) for pair in pairs)
        x, y = place(*pairs[-1]).split(",")
        shapes.append(f'<polyline class="c{number}" points="{line}"/>')
        shapes.append(f'<circle class="c{number}" cx="{x}" cy="{y}" r="2"/>')
        label = f"{name.replace('_', ' ')} {pairs[-1][1]:.4g}"
        key = f'<span class="k{number}">▬</span>'
        names.append(f'<span class="key">{key} {text(label)}</span>')
    if x1 > x0:
        shapes.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{x0:g}</text>')
    shapes.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">epoch {x1:g}</text>')
    spoken = "; ".join(
        f"{name.replace('_', ' ')} from {pairs[0][1]:.4g} to {pairs[-1][1]:.4g}"
        for name, pairs in curves
    )
    return (
        f"<figure><figcaption>{text(title)}: {', '.join(names)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(spoken)}">'
        f"{''.join(shapes)}</svg></figure>"
    )


def sheet_figure(anchor, images, picture, folder):
    """The picture of some images, with a link to their folder."""
    return (
        f'<figure class="sheet" id="{anchor}">{picture}'
        f"<figcaption>{link(images, folder, images)}</figcaption></figure>"
    )


def thumbnail(path, images):
    """The contact sheet `path` of the folder `images` as an <img> with the picture in it.

    Raises OSError, and others of Pillow, if it cannot be read.
    """
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75, optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" '
        f'loading="lazy" alt="Images of {text(images)}">'
    )
