"""The report's page: whole in itself, true to the runs and rows it is of, and complete for whatever is not there."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import guided_distill
from guided_distill import report, sections
from guided_distill.__main__ import main
from guided_distill.codecs import to_uint8
from guided_distill.errors import UserError
from guided_distill.report import chain, charts, parts, rows, samples

VOID = {"meta", "img", "br", "hr", "link", "input"}
ROWS = [
    {"method": "half of the data", "sampler": "none", "steps": 0, "evaluations": 0, "guidance": 0.0, "seed": 0}
    | {"frechet_distance": 0.2561},
    *(
        {"method": method, "sampler": "ddim", "steps": n, "evaluations": cost * n, "guidance": w, "seed": 0}
        | {"frechet_distance": (1 + w) * scale / n, "recall": 0.873 - w / 10, "images_per_second": 4321.0}
        for w in (0.0, 1.0)
        for method, cost, scale, counts in (
            ("teacher", 2, 10.1, (64,)),
            ("student", 1, 1.37, (4, 1)),
            ("DDIM on the teacher", 2, 7.77, (4, 1)),
        )
        for n in counts
    ),
]


class Page(HTMLParser):
    """What is on a page: tags, text, links; fails where a tag is not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.words, self.pictures = [], [], [], [], [], []
        self.cells = []  # Of each row of a table.
        self.feed(text)
        self.close()
        assert not self.open
        self.text = " ".join("".join(self.words).replace("\u00a0", " ").replace("\u2011", "-").split())

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag == "td":
            self.cells[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.links += [value] if name in ("src", "href", "srcset", "data", "action") else []
            assert not name.startswith("on")
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)
        if "td" in self.open:
            self.cells[-1][-1] += data


def read(path) -> Page:
    """The page, held to what holds for every page."""
    text = path.read_text()
    page = Page(text)
    assert path.stat().st_size <= 5_000_000
    assert "http" not in text and "@import" not in text and "//" not in re.sub(r"base64,[\w+/=]*", "", text)
    assert page.tags.count("style") == 1
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    referred = re.findall(r'(?:url\(|href=")#([^")]*)', text)
    assert set(referred) <= set(page.ids)
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= {"--side", "--done"} | set(re.findall(r"(--[\w-]+):", text))
    assert not re.findall(r"#010[123]\w\w", text), "a stand-in colour is left"
    return page


@pytest.fixture
def moved(mixture, tmp_path):
    """A copy of the mixture's chain."""
    return shutil.copytree(mixture, tmp_path / "moved")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_chain_with_its_rows_and_pictures(digits, tmp_path):
    out = report.write(
        tmp_path / "r.html", "Digits", [digits / "stage2"], ROWS, num=3, guidance=(1.0,), notes=["Note!"]
    )
    page = read(out)
    for row in ROWS[1:]:
        numbers = [f"{row[key]:#.3g}" for key in ("frechet_distance", "recall")]
        assert [row["method"], str(row["steps"]), str(row["evaluations"]), *numbers, "4,321"] in page.cells
    assert ["half of the data", "0", "0", "0.256", "–", "–"] in page.cells
    for words in (
        "Note!",
        "teacher",
        "stage1",
        "stage2",
        "unet",
        "1,797 examples",
        "BSD-3-Clause",
        "4,321",
        "images/s",
    ):
        assert words in page.text
    drawn = samples.drawings(chain.gather([digits / "stage2"]))[0]
    assert [(d.label, d.steps) for d in drawn][-5:] == [("student", 4), ("student", 2), ("student", 1)] + [
        ("DDIM on the teacher", n) for n in (4, 1) if n < drawn[0].steps
    ]
    strips = [page.pictures[k : k + 3] for k in range(0, len(page.pictures), 3)]
    for k in (0, len(drawn) - 3):  # The pictures are the runs' own samples, bit for bit.
        wanted = to_uint8(drawn[k].run.sample(3, drawn[k].steps, 1.0))[..., 0]
        found = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in strips[k]]
        np.testing.assert_array_equal(np.stack([np.asarray(image) for image in found]), wanted)


def test_the_verb_finds_teachers_and_evaluations(digits, tmp_path, capsys):
    copy = shutil.copytree(digits, tmp_path / "copy")
    row = {"sampler": "ddim", "steps": 4, "guidance": 0.0, "frechet_distance": 0.4567}
    document = {"features": "pixels", "num": 77, "seed": 5, "rows": [row]}
    (copy / "stage2" / "evaluation.json").write_text(json.dumps(document))
    (copy / "teacher" / "evaluation.json").write_text(json.dumps({**document, "rows": [{**row, "steps": 3}]}))
    assert main(["report", str(copy / "stage2"), "--no_grids", "--note=Only a test."]) == 0
    page = read(copy / "stage2" / "report.html")
    assert "report.html" in capsys.readouterr().out
    for words in ("Only a test.", "4-step student has FD-pixels", "0.457", "DDIM on the teacher", "77"):
        assert words in page.text
    assert {node.key.parent for node in chain.gather([copy / "stage2"])} == {copy}  # A copied chain is its own.


def test_the_summary_is_made_from_the_numbers(mixture, tmp_path):
    text = read(report.write(tmp_path / "r.html", "T", [], ROWS)).text
    assert "At w = 0 the 4-step student has FD-pixels 0.343 against the 64-step teacher’s 0.158, with 32× fewer" in text
    assert "; 1.37 in 1 step; DDIM on the teacher in 4 steps: 1.94. At w = 1 it is 0.685 against 0.316" in text
    assert (
        "No measurements yet" in read(report.write(tmp_path / "r.html", "T", [mixture / "teacher"], grids=False)).text
    )


def test_points_and_exact_runs(mixture, tmp_path):
    page = read(report.write(tmp_path / "r.html", "T", [mixture / "stage1"], guidance=(0.0, 2.0)))
    assert "none: it is exact" in page.text and "w = 2" in page.text and not page.pictures
    text = (tmp_path / "r.html").read_text()
    assert text.count("h0") > 2 * 3 * 300  # Most of the points of three and more clouds at two w.


def test_what_is_missing_is_said(moved, tmp_path):
    edit(moved / "stage2" / "manifest.json", teacher=[{"run": "gone/somewhere", "step": 1, "hash": "0"}])
    edit(moved / "stage1" / "manifest.json", objective="encoding", rounds=[[4, 10]])
    page = read(
        report.write(tmp_path / "r.html", "T", [moved / "stage2", moved / "stage1"], guidance=(0.0, 9.0), num=2)
    )
    assert "somewhere" in page.text and "its directory is not here" in page.text
    assert "stage1 is an encoder" in page.text and "w = 0" in page.text and "w = 9" not in page.text
    shutil.rmtree(moved / "stage2" / "checkpoints")
    page = read(report.write(tmp_path / "r.html", "T", [moved / "stage2"]))
    assert "no checkpoint in" in page.text


def test_in_the_middle_of_a_round(moved, tmp_path):
    run = moved / "stage2"
    (first, end), (second, last) = json.loads((run / "manifest.json").read_text())["rounds"][:2]
    now = end + 3
    for path in (run / "checkpoints").iterdir():
        if int(path.name.split(".")[0]) > end:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = [{"step": s, "kind": "train", "loss": 1 / s, "learning_rate": 0.1, "num_steps": 4.0} for s in (1, end, now)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "ki')
    (node,) = [node for node in chain.gather([run]) if node.key == run]
    assert [r["done"] for r in node.rounds][:2] == [1.0, 3 / (last - end)] and node.trouble.startswith("in training")
    page = read(report.write(tmp_path / "r.html", "T", [run], guidance=(1.0,)))
    assert f"update {now:,} of" in page.text and "halvings are finished" in page.text
    assert [d.steps for d in samples.drawings([node])[0]] == [first] and second < first


def test_hostile_names_are_text(moved, tmp_path):
    evil = "<script>alert(1)<!-- \" ' {{ 7 * 7 }} $x_1$"
    run = shutil.copytree(moved / "stage2", moved / evil)
    page_rows = [{**row, "method": evil, evil: 1.5, "published_source": evil, "published": 3.25} for row in ROWS]
    options = {"notes": [evil], "hardware": {evil: evil}, "settings": {evil: evil}, "features": evil}
    page = read(report.write(tmp_path / "r.html", evil, [run], page_rows, guidance=(0.0,), **options))
    assert page.text.count(" ".join(evil.split())) > 10 and "3.25" in page.text


def test_rows_of_any_kind(tmp_path):
    odd = [{"method": "a", "steps": 4, "guidance": 0.0, "recall": float("nan")}, {"method": "b"}]
    odd += [
        {"method": "a", "steps": 4, "sampler": "x", "guidance": 0.0, "mine": 0.0},
        {"method": "c", "precision": None},
    ]
    odd += [
        {"method": "paper", "guidance": 0.0, "steps": 1, "mine": 2.5, "published": True, "published_source": "Tab. 2"}
    ]
    page = read(report.write(tmp_path / "r.html", "T", [], odd))
    assert "nan" in page.text and "published" in page.text and "Tab. 2" in page.text and "2.50" in page.text
    assert "svg" in page.tags
    page = read(report.write(tmp_path / "r.html", "T", []))
    assert "svg" not in page.tags and "table" not in page.tags


def test_lines_are_means_over_seeds_and_apart_by_sampler():
    made = [{"method": "a", "sampler": s, "steps": 2, "guidance": 0.0, "m": v} for s, v in zip("xxy", (1.0, 2.0, 6.0))]
    drawn = charts.against_steps([*made, {**made[0], "published": True, "m": 100.0}], "m")
    assert [(line.label, line.xs, line.ys) for line in drawn["legend"]] == [("a", (2,), (1.5,)), ("a, y", (2,), (6.0,))]
    assert rows.summary([*made, {**made[0], "published": True, "m": 100.0}], "f")[0].count("1.50") == 1


def test_a_level_is_where_its_line_is():
    lines = [charts.Line("a", (1, 2, 4), (3.0, 5.0, 5.0), "c0"), charts.Line("b", (), (5.0,), "ink", "", "--")]
    svg = charts.panel("n", lines, title="<t>", y_range=(2.0, 6.0))
    curve, level = (re.search(rf'd="([^"]*)"[^>]*stroke: var\(--{c}\)', svg)[1] for c in ("c0", "ink"))
    (_, y_curve), (_, y_level) = (re.findall(r"([\d.]+) ([\d.]+)", path)[-1] for path in (curve, level))
    assert y_curve == y_level and "&lt;t&gt;" in svg


def test_pictures_stay_in_the_budget(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    png = sum(len(samples._encoded(image, "png")) for image in noise)
    webp = sum(len(samples._encoded(image, "webp")) for image in noise)
    for budget, wanted in ((png, ("png", 4)), (webp, ("webp", 4)), (webp - 1, ("webp", 2))):
        monkeypatch.setattr(samples, "BUDGET", budget)
        assert samples._fitting([noise], 4) == wanted
    assert samples._reduced(np.zeros((200, 100, 3), np.uint8)).shape == (96, 48, 3)
    assert samples._reduced(np.zeros((300, 300, 2), np.uint8)).shape == (96, 96, 1)


def test_an_experiment_is_its_directory(moved, capsys):
    (moved / "results.json").write_text(json.dumps(ROWS))
    (moved / "hardware.json").write_text(json.dumps({"device": "an abacus", "seconds": {"stage1": 120.0}}))
    page = read(report.of_experiment(moved, "E", ["Stand-in."], grids=False))
    assert "Stand-in." in page.text and "an abacus" in page.text and "stage1 2 min" in page.text
    assert guided_distill.load(moved / "stage1") and str(moved) not in page.text
    with pytest.raises(UserError, match="no experiment in"):
        report.of_experiment(moved / "nowhere", "E")
    with pytest.raises(UserError, match="num 0"):
        report.write(moved / "r.html", "E", [], num=0)
    assert main(["report", str(moved / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_sections_of_all_runs_are_parts_of_the_page(moved, tmp_path):
    evil = "<script>alert(1)</script>"
    table = {"title": "Numbers", "columns": ["name", evil], "rows": [[evil, 0.12345], ["b", None]]}
    folder = sections.write(moved / "stage2", "sweep", evil, notes=[evil, "A note."], tables=[table]).parent
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(folder / "p.png")
    (folder / "p.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    pictures = [{"title": "P", "file": name} for name in ("p.png", "p.svg", "../../manifest.json", "gone.png")]
    sections.write(moved / "stage1", "a", "Of stage one", pictures=pictures)
    shutil.copy(folder / "p.png", moved / "stage1" / "sections")
    shutil.copy(folder / "p.svg", moved / "stage1" / "sections")
    page = read(report.write(tmp_path / "r.html", "T", [moved / "stage2"], grids=False))
    assert [evil, "0.123"] in page.cells and ["b", "–"] in page.cells and page.text.count(evil) == 4
    assert "Of stage one of stage1" in page.text and "A note." in page.text
    kinds = [uri.partition(";")[0] for uri in page.pictures]
    assert kinds == ["data:image/png", "data:image/svg+xml"]
    assert base64.b64decode(page.pictures[0].partition(",")[2]) == (folder / "p.png").read_bytes()
    assert "picture ../../manifest.json is not beside" in page.text and "picture gone.png is not" in page.text


@pytest.mark.parametrize("damage", ["{", "[]", "null", '{"title": "t"}', '{"title": "t", "notes": 3}', "uneven"])
def test_a_damaged_section_is_a_line_of_trouble(moved, tmp_path, damage):
    whole = sections.write(moved / "stage2", "b", "Sound", tables=[{"title": "x", "columns": ["a"], "rows": [[1]]}])
    path = whole.with_name("broken.json")
    uneven = whole.read_text().replace('"a"', '"a", "b"')
    path.write_text(uneven if damage == "uneven" else damage)
    page = read(report.write(tmp_path / "r.html", "T", [moved / "stage2"], grids=False))
    assert page.text.count("broken.json of stage2 is damaged") == 1 and "Sound of stage2" in page.text


def test_pictures_of_sections_stay_in_their_budget(moved, monkeypatch):
    pictures = [{"title": name, "file": f"{name}.png"} for name in "ab"]
    folder = sections.write(moved / "stage2", "s", "S", pictures=pictures).parent
    for name in "ab":
        (folder / f"{name}.png").write_bytes(bytes(100))
    monkeypatch.setattr(parts, "BUDGET", 150)
    (part,) = parts.of_runs(chain.gather([moved / "stage2"]))
    assert [picture["title"] for picture in part["pictures"]] == ["a"] and "b.png is left out" in part["troubles"][0]


def test_evaluations_of_other_features_are_left_out(digits, tmp_path):
    """Rows of one table are on the same features and as many samples; whose weights are others now is told."""
    shutil.copytree(digits, tmp_path / "runs")
    shared = {"num": 10, "num_reference": 20, "reference": "digits:train", "seed": 0}
    row = {"sampler": "ddim", "steps": 2, "guidance": 1.0}
    given = {"teacher": {"features": "pixels", "frechet_distance": 0.3}}
    given |= {"stage2": {"features": "net", "frechet_distance": 25.0}}
    for name, values in given.items():
        one = row | {"frechet_distance": values["frechet_distance"]}
        document = {**shared, "features": values["features"], "hash": "another", "rows": [one]}
        (tmp_path / "runs" / name / "evaluation.json").write_text(json.dumps(document))
    found, on, notes = rows.of_evaluations(chain.gather([tmp_path / "runs" / "stage2"]))
    assert [r["frechet_distance"] for r in found] == [25.0] and on["features"] == "net"
    assert len(notes) == 2 and "of teacher is left out: it is of features pixels, not net" in notes[0]
    assert "stage2 is of other weights than it has now" in notes[1]
