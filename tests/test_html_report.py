"""make_tables.py --html: what is on the page, that it needs nothing else, and damaged runs."""

import base64
import io
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image
from test_make_tables import RESULT

import make_tables
from helper.errors import run_script

VOID = {"meta", "img", "polyline", "circle", "line"}
METRICS = "epoch,lr,loss,train_top1,top1\n1,0.1,2.5,20,31.25\n2,0.01,1.5,40,52.75\n"


class Page(HTMLParser):
    """The elements of a page [(tag, attributes, text directly in it)]; tags must be balanced."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2] += data

    def all(self, tag):
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]

    def texts(self, tag):
        return [text for _, text in self.all(tag)]

    def hrefs(self):
        return [attributes["href"] for attributes, _ in self.all("a")]


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "save").mkdir()


def add_run(name, metrics=METRICS, config=None, **result):
    """Writes the run folder save/`name`; without `result` it is not finished."""
    folder = Path("save", name)
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    (folder / "config.json").write_text(json.dumps(config or {}))
    if result:
        (folder / "result.json").write_text(json.dumps({**RESULT, **result}))
    return folder


def add_images(folder, count=20, size=32):
    """Writes noise images of two classes; returns the folder."""
    random = np.random.default_rng(0)
    for index in range(count):
        path = Path(folder, f"{index % 2:04d}/{index // 2:05d}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return Path(folder)


def written(file="out/page.html", *flags):
    """The Page that make_tables.py writes, and its text."""
    make_tables.main(["--html", file, *flags])
    source = Path(file).read_text(encoding="utf-8", errors="strict")
    return Page(source), source


def pictures(page):
    """The embedded images."""
    sources = [attributes["src"] for attributes, _ in page.all("img")]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    return [
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources
    ]


def test_the_page_has_tables_curves_and_links(capsys):
    student = add_run("student/a", seed=0, top1_last=52.75, student="wrn_16_1")
    add_run("student/b", seed=1, top1_last=54.75, student="wrn_16_1")
    page, source = written()
    assert "out/page.html" in capsys.readouterr().out
    assert page.texts("h2")[:4] == [
        "Table 1: CIFAR-100",
        "Table 2: ImageNet-1K",
        "Table 3: other data sets",
        "Fashion-MNIST",
    ]
    assert any("53.75 ± 1.41" in text and "(56.29)" in text for text in page.texts("td"))
    facts = dict(zip(page.texts("dt"), page.texts("dd")))
    assert facts["method"] == "DM-KD" and facts["images"] == "50,000"

    # Curves: losses fall, so y grows downwards; accuracies rise
    labels = [attributes["aria-label"] for attributes, _ in page.all("svg")]
    assert labels[:2] == [
        "loss from 2.5 to 1.5",
        "train top1 from 20 to 40; top1 from 31.25 to 52.75",
    ]
    lines = [attributes["points"] for attributes, _ in page.all("polyline")]
    heights = [[float(pair.split(",")[1]) for pair in line.split()] for line in lines[:3]]
    assert heights[0][0] < heights[0][-1] and heights[1][0] > heights[1][-1]
    assert all(0 <= y <= 170 for line in heights for y in line)

    # Links lead from the page's folder to the run folders, and to places on the page
    targets = {Path("out", href).resolve() for href in page.hrefs() if href[0] != "#"}
    assert {student.resolve(), (student / "metrics.csv").resolve()} <= targets
    assert all(path.exists() for path in targets)
    anchors = {attributes["id"] for _, attributes, _ in page.elements if "id" in attributes}
    assert {href[1:] for href in page.hrefs() if href[0] == "#"} <= anchors


def test_the_page_is_for_phones_and_needs_nothing_else():
    add_run("a", seed=0)
    page, source = written()
    assert source.startswith("<!DOCTYPE html>") and page.all("html")[0][0]["lang"] == "en"
    metas = [attributes for attributes, _ in page.all("meta")]
    assert any("width=device-width" in meta["content"] for meta in metas if "content" in meta)
    assert any("default-src 'none'" in meta["content"] for meta in metas if "content" in meta)
    (style,) = page.texts("style")
    assert "prefers-color-scheme: dark" in style and "overflow-x: auto" in style
    assert "url(" not in style and "@import" not in style
    tags = {tag for tag, _, _ in page.elements}
    assert {"header", "nav", "main", "section", "article", "figure", "table"} <= tags
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    assert "http://" not in source and "https://" not in source
    assert {attributes["scope"] for attributes, _ in page.all("th")} == {"col", "row"}


def test_unfinished_runs_and_dits_are_shown():
    flags = {"model_s": "resnet8", "method": "dfq", "dataset": "cifar10", "seed": 3}
    add_run("unfinished", config={"flags": flags})
    dit = add_run("dit/train_dit", "epoch,lr,loss,mse,val_mse\n1,0.1,1,0.5,0.25\n")
    (dit / "result.json").write_text(json.dumps({"schema": 1, "stage": "dit", "val_mse": 0.25}))
    Path("save/unfinished/pool/metrics.csv").mkdir(parents=True)  # not looked into
    page, source = written()
    assert len(page.all("article")) == 2
    assert any("not finished: epoch 2" in text for text in page.texts("p"))
    assert {"resnet8", "dfq", "cifar10", "dit", "0.25"} <= set(page.texts("dd"))
    assert "mse from 0.5 to 0.5; val mse from 0.25 to 0.25" in source


def test_linked_run_folders_are_shown_once(tmp_path):
    add_run("run", seed=0)
    Path("save").rename("disk")
    Path("save").mkdir()
    Path("save/student_model").symlink_to(tmp_path / "disk")
    Path("disk/again").symlink_to(tmp_path / "save")
    page, _ = written()
    assert len(page.all("article")) == 1


def test_without_runs_there_are_the_published_figures():
    page, _ = written("page.html")
    assert not page.all("article") and any("76.58" in text for text in page.texts("td"))


def test_runs_of_the_same_images_share_a_contact_sheet():
    images = add_images("syn_dataset/gen")
    Image.new("RGB", (1400, 700), (250, 0, 0)).save("syn_dataset/gen_contact_sheet.png")
    for name in "ab":
        add_run(name, config={"train": {"source": str(images)}}, seed=0)
    page, _ = written()
    (picture,) = pictures(page)
    assert picture.size == (640, 320) and picture.getpixel((9, 9))[0] > 240
    assert page.hrefs().count("#images-1") == 2
    assert "../syn_dataset/gen" in page.hrefs()


def test_sheets_inside_of_older_folders_are_found():
    images = add_images("syn_dataset/gen")
    Image.new("RGB", (100, 50)).save(images / "contact_sheet.png")
    add_run("a", config={"train": {"source": str(images)}}, seed=0)
    page, _ = written()
    assert [picture.size for picture in pictures(page)] == [(100, 50)]


@pytest.mark.parametrize("kind", ["pool", "samples"])
def test_a_sheet_is_drawn_for_images_of_data_free_methods(kind):
    folder = add_run("a", seed=0)
    add_images(folder / kind)
    if kind == "samples":  # a flat folder
        for path in (folder / kind).glob("*/*.png"):
            path.rename(folder / kind / f"{path.parent.name}{path.name}")
        for path in (folder / kind).glob("*/"):
            path.rmdir()
    page, _ = written()
    assert len(pictures(page)) == 1
    assert {path.name for path in folder.iterdir()} == {
        *["config.json", "metrics.csv", "result.json", kind]
    }
    assert f"../save/a/{kind}" in page.hrefs()


def test_every_text_is_escaped():
    evil = "<script>alert(1)</script>\"'&"
    add_run(
        f"{evil.replace('/', '_')}",
        "epoch,lr,loss\n1,0.1,1\n2,0.1,2\n",
        config={"train": {"source": evil}},
        method=evil,
        student=evil,
        dataset=evil,
        source=evil,
    )
    add_run(os.fsdecode(b"caf\xe9: 50% #1?"), seed=0)
    add_run("surrogate", seed=0, source="\ud800")
    page, source = written()
    assert not page.all("script") and "<script" not in source
    assert page.texts("dd").count(evil) >= 3
    targets = [href for href in page.hrefs() if href[0] != "#"]
    assert all(Path("out", os.fsdecode(unquote_to_bytes(target))).exists() for target in targets)


def test_damaged_files_are_left_out_with_a_message(capsys):
    add_run("good", seed=0)
    add_run("letters", "epoch,loss\n1,x\n", seed=1)
    add_run("short", "epoch,loss\n1\n", seed=2)
    add_run("long", "epoch,loss\n1,2,3\n", seed=3)
    (add_run("json", seed=4) / "config.json").write_text("{")
    add_run("odd", config={"train": [], "flags": 3}, seed=5)
    add_images("syn_dataset/gen")
    Path("syn_dataset/gen_contact_sheet.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    add_run("sheet", config={"train": {"source": "syn_dataset/gen"}}, seed=6)
    Path("save/pool/pool/0000").mkdir(parents=True)
    Path("save/pool/pool/0000/00000.png").write_bytes(b"broken")
    Path("save/pool/metrics.csv").write_text(METRICS)
    Path("save/pool/config.json").write_text("{}")
    Path("save/lightning").mkdir()  # of another program
    Path("save/lightning/metrics.csv").write_text("epoch,loss\n1,\n")
    page, _ = written()
    assert page.texts("h3").count("") == len(page.all("article")) == 4  # a heading is a link
    message = capsys.readouterr().err
    for name in ("letters", "short", "long", "json", "gen_contact_sheet.png", "00000.png"):
        assert name in message, name
    assert "lightning" not in message
    assert not pictures(page)


def test_numbers_that_are_not_finite_and_gaps_are_not_drawn():
    rows = "".join(f"{epoch},{'nan' if epoch == 1 else epoch}\n" for epoch in range(1, 1001))
    add_run("a", f"epoch,loss\n{rows}", seed=0)
    add_run("b", "loss\n1\n", seed=1)
    add_run("c", "", seed=2)
    page, source = written()
    (line,) = [attributes["points"] for attributes, _ in page.all("polyline")]
    assert "nan" not in line and 200 < len(line.split()) <= 302
    assert "epoch 1000" in source and len(page.all("article")) == 3


def test_many_runs_make_a_page_of_reasonable_size():
    images = add_images("syn_dataset/gen")
    Image.fromarray(np.asarray(Image.effect_noise((1300, 1300), 80))).save(
        "syn_dataset/gen_contact_sheet.png"
    )
    rows = "".join(f"{epoch},{1 / epoch:.6g},{epoch / 3:.6g}\n" for epoch in range(1, 241))
    for number in range(100):
        config = {"train": {"source": str(images)}}
        add_run(f"run{number}", f"epoch,loss,top1\n{rows}", config=config, seed=number)
    _, source = written()
    assert len(source) < 2_000_000


def test_a_folder_in_place_of_the_file_is_named(capsys):
    Path("page.html").mkdir()
    for folder in ("page.html", "."):
        assert run_script(make_tables.main, ["--html", folder]) == 2
        assert f"--html {folder} is a folder" in capsys.readouterr().err
    assert Path("results/tables/table1_cifar100.md").exists()


def test_the_tables_are_the_same_without_the_page():
    add_run("a", seed=0)
    make_tables.main(["--out", "plain"])
    written("page.html", "--out", "beside")
    for path in Path("plain").iterdir():
        assert path.read_bytes() == Path("beside", path.name).read_bytes()
