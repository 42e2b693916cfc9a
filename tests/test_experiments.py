"""Experiments run from end to end at their smallest, skip what stands, and are turned into documents."""

import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import (
    ablations,
    demo,
    digits,
    editing,
    emoji,
    emoji_styles,
    matcher,
    mixture2d,
    publish,
    publish_ablations,
    publish_emoji,
    results,
    scenes,
    shown,
    style_transfer,
)
from experiments.results import Results
from guided_distill import codecs, data, evaluate, metrics
from guided_distill.errors import UserError


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["experiment", *map(str, arguments)])
    module.main()


@pytest.mark.slow
def test_mixture2d_measures_against_the_exact_flow(tmp_path, monkeypatch, capsys):
    command = (mixture2d, monkeypatch, f"--workdir={tmp_path}", "--tiny", "--seed=3", "--modes=ADJACENT", "--sigma=0.2")
    run(*command)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["method"] for row in rows} == {
        *("exact", "matched", "student", "single-w student", "unguided student", "stochastic student", "encoder")
    }
    for row in rows:
        assert {"method", "sampler", "steps", "evaluations", "guidance", "seed"} <= set(row) and row["seed"] == 3
        if "ddim_distance" in row and row["method"] != "encoder":
            (exact,) = [
                r
                for r in rows
                if r["method"] == "exact" and all(r[k] == row[k] for k in ("sampler", "steps", "guidance"))
            ]
            assert row["ddim_distance"] == exact["distance"]
        if row["method"] == "stochastic student":
            assert "distance" not in row and "exact_energy_distance" in row
    manifest = json.loads((tmp_path / "student" / "manifest.json").read_text())
    assert manifest["data"] == {"name": "mixture2d", "modes_layout": "ADJACENT", "sigma": 0.2}
    exact = {
        r["steps"]: r["distance"]
        for r in rows
        if r["method"] == "exact" and r["sampler"] == "ddim" and r["guidance"] == 1
    }
    assert exact[8] < exact[4] < exact[1]
    capsys.readouterr()
    run(*command)  # again: everything stands
    assert "method=" not in capsys.readouterr().out
    monkeypatch.setattr(publish, "DOCS", tmp_path / "docs")
    run(publish, monkeypatch, "mixture2d", tmp_path)
    assert (
        "| ADJACENT | 0.2 |" in (tmp_path / "docs" / "mixture2d.md").read_text()
        and (tmp_path / "docs" / "mixture2d.png").exists()
    )


@pytest.mark.long
def test_ablations_train_what_is_missing(tmp_path, monkeypatch, capsys):
    command = (ablations, monkeypatch, "--on=mixture2d", f"--workdir={tmp_path}", "--tiny", "--seeds=2")
    run(*command, "--only=steps before guidance")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {(row["steps"], row["guidance"]) for row in rows} == {(n, w) for n in (1, 4) for w in (0, 1, 4)}
    manifest = json.loads((tmp_path / "seed2/plain 1 of steps before guidance/manifest.json").read_text())
    assert manifest["guidance"] == {"kind": "external", "interval": None} and manifest["seed"] == 2
    capsys.readouterr()
    run(*command, "--only=steps before guidance")
    assert "update" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"quarting.*quartering"):
        run(*command, "--only=quarting")


@pytest.mark.long
@pytest.mark.parametrize("bed", ["mixture2d", "digits"])
def test_all_ablations_run_on_both_beds(bed, tmp_path, monkeypatch):
    run(ablations, monkeypatch, f"--on={bed}", f"--workdir={tmp_path}", "--tiny", "--seeds=0")
    rows = json.loads((tmp_path / "results.json").read_text())
    made, *about = ablations.BEDS[bed][0](True)
    assert {row["method"] for row in rows} == {v.name for v in ablations.variants(*about, made.fresh)}
    of = lambda name: {(row["steps"], row["guidance"]) for row in rows if row["method"] == name}  # noqa: E731
    assert of("the method") == of("quartering") == {(n, w) for n in (1, 4, 16) for w in (0, 1, 4)}
    assert of("single w = 1") == {(1, 1), (4, 1), (16, 1)} and of("w up to 2") == {
        (n, w) for n in (1, 4, 16) for w in (0, 1)
    }


def test_ablations_are_made_a_page(tmp_path, monkeypatch):
    key = {"sampler": "ddim", "steps": 4, "evaluations": 4, "guidance": 1.0, "commit": "c0ffee", "device": "a machine"}
    values = {"the method": (0.1, 0.3), "quartering": (0.3, 0.5)}
    rows = [
        {**key, "method": name, "question": "rounds" if name == "quartering" else "", "seed": seed, "distance": value}
        for name, found in values.items()
        for seed, value in enumerate(found)
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    hardware = {"settings": {"on": "mixture2d"}, "seconds": {"a": 5400.0}, "device": "a machine", "jax": "0"}
    (tmp_path / "hardware.json").write_text(json.dumps(hardware))
    monkeypatch.setattr(publish_ablations, "DOCS", tmp_path)
    run(publish, monkeypatch, "ablations", tmp_path)
    page = (tmp_path / "ablations.md").read_text()
    assert "|  | the method | 0.2 ± 0.14 |" in page and "| rounds | quartering | 0.4 ± 0.14 (2 x) |" in page
    assert "Seeds 0, 1; commit c0ffee. On a machine; 1.5 hours" in page
    elsewhere = Results(tmp_path / "elsewhere", tmp_path / "ablations_mixture2d.json", on="mixture2d")
    assert len(elsewhere.standing(rows[0])) == 1
    (tmp_path / "results.json").write_text(json.dumps(rows[:3]))  # One of the variant's seeds is missing.
    run(publish, monkeypatch, "ablations", tmp_path)
    assert "| quartering | 0.3, 1 of 2 seeds (3 x) |" in (tmp_path / "ablations.md").read_text()


@pytest.mark.long
def test_digits_and_demo(tmp_path, monkeypatch, capsys):
    run(digits, monkeypatch, f"--workdir={tmp_path / 'digits'}", "--tiny")
    rows = json.loads((tmp_path / "digits" / "results.json").read_text())
    assert {row["method"] for row in rows} == {
        "half of the data",
        "teacher",
        digits.END_ONLY,
        "matched",
        "student",
        "DDIM on the teacher",
    }
    assert all(row["paired_distance"] == 0 for row in rows if row["method"] == "teacher")
    monkeypatch.setattr(publish, "DOCS", tmp_path / "docs")
    run(publish, monkeypatch, "digits", tmp_path / "digits")
    assert (tmp_path / "docs" / "digits_w1.png").exists() and "x teacher" in (
        tmp_path / "docs" / "digits.md"
    ).read_text()
    run(demo, monkeypatch, f"--workdir={tmp_path / 'demo'}", "--tiny")
    assert "| student | 4 | 4 |" in capsys.readouterr().out and (tmp_path / "demo" / "sheet.png").exists()


@pytest.mark.slow
def test_emoji_goes_from_pictures_to_one_step(tmp_path, monkeypatch, capsys):
    command = (emoji, monkeypatch, f"--workdir={tmp_path}", "--tiny")
    run(*command)
    rows = json.loads((tmp_path / "results.json").read_text())
    methods = {"real pictures", "teacher", "matched", "student", "DDIM on the teacher", "DPM-Solver++ on the teacher"}
    assert {row["method"] for row in rows} == methods | {"speed"}
    for row in (row for row in rows if row["method"] in methods):
        assert 0 <= row["r_precision"] <= 1 and 0 <= row["held_out_r_precision"] <= 1
        assert row["method"] != "teacher" or row["paired_distance"] == 0
    (speed,) = (row for row in rows if row["method"] == "speed")
    assert speed["few_steps"] == 4 and speed["speed_up_of_evaluations"] > 1
    assert {path.name for path in tmp_path.glob("sheet_*.png")} == {"sheet_seen_w2.png", "sheet_held_out_w2.png"}
    capsys.readouterr()
    run(*command)  # again: everything stands
    assert "method=" not in capsys.readouterr().out

    (docs := tmp_path / "docs").mkdir()
    monkeypatch.setattr(publish_emoji, "DOCS", docs)
    monkeypatch.setattr(publish, "DOCS", docs)
    run(publish, monkeypatch, "emoji", tmp_path)
    page = (docs / "emoji.md").read_text()
    assert "| 4 steps, KD on seen pairs, w = 2 |" in page and "Scale blobs, seed 0" in page


@pytest.mark.long
@pytest.mark.parametrize("on", ["digits", "emoji"])
def test_edits_are_measured_and_published(on, tmp_path, monkeypatch):
    command = (editing, monkeypatch, f"--workdir={tmp_path / 'edits'}", f"--on={on}", "--tiny")
    run(*command)
    monkeypatch.setattr(editing, "DOCS", tmp_path)
    run(*command, "--publish")
    found = json.loads((tmp_path / "edits" / "editing.json").read_text())
    assert all(row["known_pixels_moved_by"] == 0 for row in found["inpaint"])
    assert bool(found["mixture"]) == (on == "digits")
    page = (tmp_path / f"editing_{on}.md").read_text()
    assert ("features to source" in page) == (on == "emoji") and "where teacher leaves" in page
    assert (tmp_path / f"editing_{on}.png").exists()


@pytest.mark.long
def test_emoji_are_redrawn_as_is_told(tmp_path, monkeypatch):
    command = (emoji_styles, monkeypatch, f"--workdir={tmp_path / 'pairs'}")
    run(*command, "--tiny", "--num=8")
    rows, _ = results.read(tmp_path / "pairs")
    given, answer = rows[:2]
    assert given["to_source"] == 0 < given["to_answer"] and answer["to_answer"] == 0 and answer["r_precision"] == 1
    teacher = json.loads((tmp_path / "pairs" / "teacher" / "manifest.json").read_text())
    assert teacher["channels"] == ["image"] and teacher["text"] == {"name": "words"}
    monkeypatch.setattr(emoji_styles, "DOCS", tmp_path)
    run(*command, "--publish")
    assert "| real answers |" in (tmp_path / "emoji_styles.md").read_text() and (tmp_path / "emoji_styles.png").exists()


@pytest.mark.slow
def test_a_class_in_the_style_of_another(tmp_path, monkeypatch):
    """The figure on stand-in pictures; the rows of the teacher are those that the others are measured from."""
    command = (style_transfer, monkeypatch, f"--workdir={tmp_path}", "--on=fashion_mnist")
    run(*command, "--tiny", "--num=4")
    rows, _ = results.read(tmp_path)
    few, many = "encoder and student, as", "teacher and teacher, as"
    assert [(row["method"], row["steps"], row["evaluations"], row["seed"]) for row in rows] == [
        (f"{how} {target}", steps, evaluations, 0)
        for target in (1, 2)
        for how, steps, evaluations in ((many, 8, 32), (few, 4, 8), (few, 2, 4))
    ]
    assert all((row["to_teacher"] == 0) == (many in row["method"]) for row in rows)
    monkeypatch.setattr(style_transfer, "DOCS", tmp_path)
    run(*command, "--publish")
    assert "4 images of class\n0 that were not trained on" in (tmp_path / "style_transfer_fashion_mnist.md").read_text()


def test_a_figures_rows_are_of_what_was_translated(tmp_path, monkeypatch):
    """A translation that adds 0.1 for each class it goes up and 1 / n for its steps: distances in closed form."""
    images, told = np.zeros((2, 2, 2, 1), np.float32), []

    def translate(up, down, images, source, target, encode_steps, steps, guidance):
        told.append((up.hash, down.hash, encode_steps, steps, guidance))
        return images + 0.1 * (target - source) + 1 / steps

    monkeypatch.setattr(style_transfer.editing, "translate", translate)
    runs = {name: SimpleNamespace(hash=name, trained_steps={8: 0, 2: 0, 1: 0}) for name in ("student", "encoder")}
    runs["teacher"] = SimpleNamespace(hash="teacher", default_steps=lambda: 64)
    asked = SimpleNamespace(source=3, targets=[5], guidance=1.5, seed=0)
    style_transfer.measure(Results(tmp_path), runs, images, asked)
    rows, _ = results.read(tmp_path)
    assert told == [("teacher", "teacher", 64, 64, 1.5)] + [("encoder", "student", n, n, 1.5) for n in (8, 2)]
    assert [row["evaluations"] for row in rows] == [256, 16, 4]
    np.testing.assert_allclose([row["to_source"] for row in rows], [0.2 + 1 / n for n in (64, 8, 2)], rtol=1e-5)
    np.testing.assert_allclose([row["to_teacher"] for row in rows], [1 / n - 1 / 64 for n in (64, 8, 2)], atol=1e-6)


def test_a_figure_says_what_it_lacks(tmp_path, monkeypatch):
    for module in (style_transfer, emoji_styles):
        for argument, match in (
            (f"--chain={tmp_path}", r"no run in .*/teacher|has no results.json and no hardware.json"),
            ("--seed=1", "--chain is missing"),
            ("--publish", r"has no results.json and no hardware.json"),
        ):
            with pytest.raises(UserError, match=match):
                run(module, monkeypatch, f"--workdir={tmp_path / 'none'}", argument)
        with pytest.raises(UserError, match="--num=0 is not positive"):
            run(module, monkeypatch, f"--workdir={tmp_path / 'none'}", "--num=0", "--tiny")
    assert not (tmp_path / "none").exists()
    for name, (split, source, targets) in style_transfer.ON.items():
        of = importlib.import_module(f"guided_distill.data.{name}")
        assert split in of.SPLITS and split != "train"
        assert {source, *map(int, targets.split(","))} <= {*range(of.INFO.num_classes)}
    few = data.load("synthetic", num=20, num_classes=2)
    images = style_transfer.images_of(few, 1, 3)
    assert images.shape == (3, 16, 16, 3) and np.abs(images).max() <= 1
    np.testing.assert_array_equal(images, codecs.to_float(few.arrays["x"][few.arrays["label"] == 1][:3]))
    with pytest.raises(UserError, match=r"there are \d+ images of class 1, not 20"):
        style_transfer.images_of(few, 1, 20)


@pytest.mark.slow
def test_networks_that_are_shown_an_image_are_asked_of_images_that_they_never_saw(tmp_path, monkeypatch):
    run(shown, monkeypatch, f"--workdir={tmp_path}", "--tiny", "--num=24")
    monkeypatch.setattr(shown, "DOCS", tmp_path)
    run(shown, monkeypatch, f"--workdir={tmp_path}", "--publish")
    page = (tmp_path / "shown_digits.md").read_text()
    for name, together in (("inpainting", 2), ("instructions", 3)):
        rows, _ = results.read(tmp_path / name)
        assert [row["evaluations"] for row in rows if row["method"] == "teacher"] == [64 * together] * 2
        teacher = json.loads((tmp_path / name / "teacher" / "manifest.json").read_text())
        assert teacher["data"]["split"] == "even" and f"shown_digits_{name}.png" in page
        assert (tmp_path / f"shown_digits_{name}.png").exists()
        if name == "inpainting":
            assert {row["known_pixels_moved_by"] for row in rows} == {0}
        else:
            [as_they_are] = [row for row in rows if row["method"] == "images as they are"]
            assert as_they_are["as_told"] == 0.25 and as_they_are["to_answer_keep"] == 0 < as_they_are["to_answer_turn"]


def test_what_stands_between_marks_in_the_readme_is_replaced(tmp_path):
    path, docs = tmp_path / "README.md", tmp_path / "docs" / "results"
    path.write_text("a\n<!-- x -->\n<!-- end of x -->\nb\n")
    for text in ("one", "two\nthree"):
        results.readme(docs, "x", text)
        assert path.read_text() == f"a\n<!-- x -->\n{text}\n<!-- end of x -->\nb\n"
    path.write_text("a\n<!-- x -->\nb\n")
    results.readme(docs, "x", "one")
    assert path.read_text() == "a\n<!-- x -->\nb\n"


def test_a_matcher_finds_captions_of_pictures_that_say_them():
    rng = np.random.default_rng(0)
    captions = [f"word{k}" for k in range(150)]
    vectors = dict(zip(captions, rng.standard_normal((150, 8)), strict=True))
    embed = lambda texts: np.stack([vectors[text] for text in texts])  # noqa: E731
    told = [captions[k] for k in rng.integers(0, 150, 600)]
    mixing = rng.standard_normal((8, 20))
    features = embed(told) @ mixing + 0.05 * rng.standard_normal((600, 20))
    judge = matcher.Matcher(features, told, embed)
    assert judge.left_out > 0.95 and judge.precision(features, told) > 0.95
    others = told[1:] + told[:1]
    assert judge.precision(features, others) < 0.05 and judge.precision(rng.standard_normal((600, 20)), told) < 0.05


def test_halves_of_a_row_of_emoji_are_alike():
    """Captions are asked for in no order: names of the first half are not all before those of the other."""
    source = data.load("synthetic", num=64, captions=True)
    pairs = emoji.Pairs(source, evaluate.load_features("pixels")[1], 40, repeats=2)
    index = [pairs.captions.index(caption) for caption in pairs.asked[:40]]
    assert len(pairs.asked) == 80 and pairs.asked[:40] == pairs.asked[40:]
    assert index != sorted(index) and max(index[:20]) > min(index[20:])


def test_the_other_half_of_a_digit_is_another_images(tmp_path):
    scene = scenes.Digits(200, 0, tmp_path)
    assert not (scene.others == scene.images).all((1, 2, 3)).any()
    assert scene.share(scene.others, scene.was) > 0.95
    for num in (0, 1000):
        with pytest.raises(UserError, match=rf"{num} digits: expected 1 to \d+0, as classes come in turn"):
            scenes.Digits(num, 0, tmp_path)


def test_what_is_of_another_experiment_is_not_published_as_emoji(tmp_path, monkeypatch):
    Results(tmp_path, num=4, seed=0).row({"method": "teacher"}, 1, dict)
    with pytest.raises(UserError, match="is of another experiment than emoji"):
        publish_emoji.write([tmp_path])
    with pytest.raises(UserError, match="published from one directory, not 2"):
        publish_emoji.write([tmp_path] * 2)
    with pytest.raises(UserError, match=r"editing.json is missing: there is nothing to publish yet"):
        run(editing, monkeypatch, f"--workdir={tmp_path}", "--publish")


def test_a_partner_that_was_not_written_whole_is_made_again(tmp_path, monkeypatch):
    """What a killed process left."""
    held = object.__new__(emoji.Measured)
    held.results, held.scale, held.seed = SimpleNamespace(workdir=tmp_path), emoji.TINY, 0
    held.teacher, made = SimpleNamespace(hash="h"), metrics.FeatureSet(np.ones((3, 2), np.float32))
    monkeypatch.setattr(held, "sampled", lambda *_: made, raising=False)
    assert held.partner(1.0) is made
    np.testing.assert_array_equal(held.partner(1.0).features, made.features)
    [path] = (tmp_path / "partners").iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    assert held.partner(1.0) is made
