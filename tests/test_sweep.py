"""Sweeps: rows are what they say and survive a kill; fronts, ranges of w and presets follow their rules."""

import itertools
import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import guided_distill
from experiments import digits_sweep
from guided_distill import data, evaluate, presets, sweeps
from guided_distill.__main__ import main
from guided_distill.errors import UserError
from guided_distill.metrics import FeatureSet
from guided_distill.report import fronts, parts
from guided_distill.report.chain import gather

SETTINGS = {"features": "pixels", "num": 10, "hash": "0", "reference": "d:train", "num_reference": 20}
QUIET = {"say": lambda text: None}


def made(steps, w, quality, seed=0, **more):
    """A row."""
    key = {"sampler": "ddim", "steps": steps, "guidance": w, "seed": seed, "evaluations": steps}
    return key | {"frechet_distance": quality, "seconds_per_image": 0.1 * steps, "device": "an abacus", **more}


def without_clock(rows):
    return [{name: value for name, value in row.items() if name != "seconds_per_image"} for row in rows]


def edited(of, to, change):
    """A run with another manifest."""
    shutil.copytree(of, to)
    manifest = json.loads((to / "manifest.json").read_text())
    change(manifest)
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


@pytest.fixture
def run(digits, tmp_path):
    """A copy of the tiny student."""
    return shutil.copytree(digits, tmp_path / "copy") / "stage2"


def test_nothing_beats_a_front_and_it_beats_all_others():
    rng = np.random.default_rng(0)
    rows = [{"a": float(a), "b": float(b)} for a, b in rng.integers(0, 12, (80, 2))]
    for more, sign in (((), 1), (("b",), -1)):
        beats = lambda p, q, s=sign: (  # noqa: E731
            p["a"] <= q["a"] and s * p["b"] <= s * q["b"] and (p["a"], p["b"]) != (q["a"], q["b"])
        )
        front = presets.front(rows, "a", "b", more=more)
        assert not any(beats(p, q) for p, q in itertools.product(rows, front))
        assert all(q in front or any(beats(p, q) for p in front) for q in rows)
        assert [row["a"] for row in front] == sorted({row["a"] for row in front})


def test_cells_are_means_over_seeds():
    (cell,) = presets.cells([made(4, 1.0, q, seed) for seed, q in enumerate((1.0, 2.0, 6.0))])
    assert (cell["frechet_distance"], cell["seeds"], cell["device"]) == (3.0, 3, "an abacus")
    np.testing.assert_allclose(cell["frechet_distance_spread"], np.sqrt(7))
    assert presets.cells([made(4, 1.0, 1.0)])[0]["frechet_distance_spread"] is None
    old = made(4, 1.0, 1.0) | {"device": "fingers", "seconds_per_image": 9.0}
    cell, *_ = moved = presets.cells([old, made(4, 1.0, 1.0, 1), made(4, 2.0, 1.0)])  # The newest device's clock alone.
    assert (cell["seconds_per_image"], cell["device"], cell["seeds"]) == (0.4, "an abacus", 2)
    assert fronts.devices(moved) == "an abacus"
    assert fronts.devices(presets.cells([old, made(8, 1.0, 1.0)])) == "fingers (4 steps); an abacus (8 steps)"
    times = [{**made(n, float(w), 1.0), "seconds_per_image": n + 9.0 * (w == 1)} for n in (1, 2) for w in range(3)]
    assert [cell["seconds_per_image"] for cell in presets.cells(times)] == [1, 1, 1, 2, 2, 2]  # One was disturbed.


def test_the_range_of_w_is_where_a_parabola_is_low():
    grid = np.arange(0, 3.01, 0.125)
    rows = [made(4, float(w), 1 + (w - 1) ** 2, recall=1 - w / 10, saturation=w / 40) for w in grid]
    for tolerance in (0.05, 0.1, 0.3):
        (found,) = presets.ranges(presets.cells(rows), tolerance, saturation=0.03)
        inside = grid[(grid - 1) ** 2 <= tolerance]
        assert found["w_best"] == 1 and found["w_range"] == [inside.min(), inside.max()]
        assert found["recall_falls_from"] == grid[1 - grid / 10 < 1 - tolerance].min(initial=9) or tolerance == 0.3
        assert found["saturates_from"] == grid[grid > 1.2].min()
    assert found["recall_falls_from"] is None  # Nowhere on this grid.
    gap = [made(1, w, q) for w, q in ((0.0, 1.0), (1.0, 2.0), (2.0, 1.05))]
    (found,) = presets.ranges(presets.cells(gap), 0.1)
    assert found["w_range"] == [0.0, 0.0] and found["recall_falls_from"] is found["saturates_from"] is None
    for wrong in ({"tolerance": 1.0}, {"tolerance": -0.1}, {"saturation": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            presets.ranges([], **wrong)


def test_presets_are_the_fewest_evaluations_within_their_bounds():
    qualities = {1: 1.9, 2: 1.24, 4: 1.01, 8: 1.0}
    one_seed = presets.cells([made(n, 0.0, q) for n, q in qualities.items()])
    assert {name: cell["steps"] for name, cell in presets.choose(one_seed).items()} == {
        "preview": 1,
        "fast": 2,
        "quality": 8,
    }
    noise = {4: (0.05, -0.05), 8: (0.0, 0.0)}  # 4 and 8 differ by 0.01 in the mean, ± 0.05.
    rows = [made(n, 0.0, q + noise.get(n, (0.0, 0.0))[seed], seed) for n, q in qualities.items() for seed in (0, 1)]
    assert presets.choose(presets.cells(rows))["quality"]["steps"] == 4
    common = {0: 3.0, 1: 0.0}  # What a seed does to all alike is no noise between them.
    rows = [made(n, 0.0, q + common[seed], seed) for n, q in qualities.items() for seed in (0, 1)]
    assert presets.choose(presets.cells(rows))["quality"]["steps"] == 8
    with pytest.raises(UserError, match="no rows"):
        presets.choose([])


@pytest.mark.parametrize(
    ("by_seed", "tied"),
    [
        ((0.0, 1.0, 2.0), True),  # A mean of 1; twice its standard error is 2 / sqrt(3) = 1.155.
        ((0.2, 1.2, 2.2), False),  # 1.2 is more.
        ((-5.0, -5.0, -5.0), True),
        ((0.0,), True),  # One seed has no error.
        ((0.01,), False),
    ],
)
def test_ties_are_within_two_standard_errors_of_the_paired_difference(by_seed, tied):
    best = {"by_seed": dict.fromkeys(range(3), 7.0)}
    assert presets.ties({"by_seed": {k: 7.0 + d for k, d in enumerate(by_seed)}}, best) is tied
    assert not presets.ties({"by_seed": {9: 0.0}}, best)


def test_a_noisy_cell_is_not_the_quality():
    by_seed = {(16, 0.0): (0.17, 0.18, 0.19), (1, 1.0): (0.18, 0.19, 0.2001), (1, 0.0): (0.15, 0.23, 0.26)}
    rows = [made(*key, quality, seed) for key, of in by_seed.items() for seed, quality in enumerate(of)]
    chosen = presets.choose(presets.cells(rows))
    assert {name: (cell["steps"], cell["guidance"]) for name, cell in chosen.items()} == {
        "preview": (1, 1.0),
        "fast": (1, 1.0),
        "quality": (16, 0.0),
    }
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = [
            made(n, w, float(q), seed)
            for n, w in itertools.product((1, 2, 4), (0.0, 1.0, 2.0))
            for seed, q in enumerate(1 + rng.uniform(0, 1) + rng.uniform(0, 0.6) * rng.standard_normal(3))
        ]
        document = presets.describe(presets.cells(rows), SETTINGS, (8, 8))
        preview, fast, quality = document["presets"].values()
        for less, more in ((preview, fast), (fast, quality)):
            assert less["evaluations"] <= more["evaluations"]
            assert less["quality"]["value"] >= more["quality"]["value"]
        for preset in (preview, fast, quality):
            assert preset["w_range"][0] <= preset["guidance"] <= preset["w_range"][1]


def test_a_preset_holds_its_own_w_in_its_range_and_doubts_are_told():
    rows = [made(n, w, (w - 1) ** 2 + 1 / n) for n in (1, 2) for w in (0.0, 0.9, 1.0, 1.1)]
    document = presets.describe(presets.cells(rows), SETTINGS, (8, 8))
    for preset in document["presets"].values():
        assert preset["w_range"][0] <= preset["guidance"] <= preset["w_range"][1]
        assert preset["quality"]["metric"] == "FD-pixels" and preset["resolution"] == [8, 8]
    assert presets.doubt(document, 2, "ddim", 1.1, "0") == presets.doubt(document, 2, "heun", 9.0) == ""
    assert "[0.9, 1.1]" in presets.doubt(document, 2, "ddim", 4.0)
    assert "other weights" in presets.doubt(document, 2, "ddim", 1.0, "1")


def test_saturation_is_a_share():
    assert sweeps.saturated(np.tile(np.linspace(-1, 1, 4001, dtype=np.float32), (2, 1))) == pytest.approx(0.1, abs=1e-3)
    assert sweeps.saturated(np.array([0, 255, 128, 1], np.uint8)) == 0.75
    assert sweeps.saturated(np.array([-3.0, 0.0, 3.0, 0.5], np.float32)) == 0.5


def test_a_sweep_stands_and_goes_on_after_a_kill(run, tmp_path, monkeypatch):
    student = guided_distill.load(run)
    few, more = sorted(student.trained_steps)[:2]
    asked = {"steps": [few, more], "guidance": [0.0, 1.0], "num": 24, **QUIET}
    whole = sweeps.run(run, tmp_path / "whole", seeds=(0, 1), **asked)
    rows = json.loads((tmp_path / "whole" / "sweep.json").read_text())["rows"]
    assert len({tuple(row[k] for k in sweeps.KEY) for row in rows}) == len(rows) == 8
    # A row is the metrics of the run's own samples.
    labels, (_, features) = np.arange(24) % 10, evaluate.load_features("pixels")
    images = student.sample(24, more, 1.0, seed=1)
    real = evaluate.reference(data.load("digits"), features)
    wanted = evaluate.score(FeatureSet(features(images), labels), real)
    assert {name: rows[-1][name] for name in wanted} == wanted and rows[-1]["evaluations"] == more

    compute, left = sweeps.Measure.__call__, [3]

    def killed(self, *key):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return compute(self, *key)

    monkeypatch.setattr(sweeps.Measure, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(run, **asked)
    stopped = json.loads((run / "sweep.json").read_text())["rows"]
    assert without_clock(stopped) == without_clock(rows)[:3] and not (run / "presets.json").exists()
    left[0] = 5  # What is missing, and nothing that stands.
    assert sweeps.run(run, seeds=(0, 1), **asked)["settings"] == whole["settings"] and left == [0]
    assert without_clock(json.loads((run / "sweep.json").read_text())["rows"]) == without_clock(rows)
    with pytest.raises(UserError, match="made with num 24, not num 25"):
        sweeps.run(run, seeds=(0, 1), **{**asked, "num": 25})
    for wrong in ({"steps": [7]}, {"guidance": [99.0]}, {"samplers": ["heun"]}, {"num": 3}, {"seeds": ()}):
        with pytest.raises(UserError):
            sweeps.run(run, tmp_path / "wrong", **{**asked, **wrong})
    assert not (tmp_path / "wrong").exists()
    (run / "sweep.json").write_text("[]")
    with pytest.raises(UserError, match="is damaged"):
        sweeps.run(run, **asked)


def test_points_have_no_saturation_and_partners_a_distance(mixture, tmp_path):
    asked = {"steps": [4], "guidance": [1.0], "num": 16, "num_reference": 40, **QUIET}
    document = sweeps.run(mixture / "stage1", tmp_path, teacher=mixture / "teacher", **asked)
    (row,) = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert row["paired_distance"] > 0 and "saturation" not in row and row["evaluations"] == 4
    assert document["settings"]["teacher"] == guided_distill.load(mixture / "teacher").hash
    assert document["presets"]["quality"]["resolution"] == [2]
    edited(mixture / "teacher", tmp_path / "other", lambda manifest: manifest["schedule"].update(logsnr_max=19.0))
    with pytest.raises(UserError, match="was made with teacher"):  # Two exact teachers are two.
        sweeps.run(mixture / "stage1", tmp_path, teacher=tmp_path / "other", **asked)


@pytest.mark.parametrize(
    "name,value,told",
    [
        ("num_classes", 3, "num_classes 3"),
        ("shape", [3], r"shape \[3\]"),
        ("objective", "encoding", "encoder"),
        ("sampler", "ancestral", "adds noise"),
    ],
)
def test_what_has_no_partners_is_refused_before_anything_is_drawn(name, value, told, mixture, tmp_path):
    other = edited(mixture / "teacher", tmp_path / "other", lambda manifest: manifest.update({name: value}))
    asked = {"steps": [4], "guidance": [1.0], "num": 16, "num_reference": 40, **QUIET}
    with pytest.raises(UserError, match=told):
        sweeps.run(mixture / "stage1", tmp_path / "out", teacher=other, **asked)
    asked |= {"samplers": ["ddim", "ancestral"], "teacher": mixture / "teacher"}
    with pytest.raises(UserError, match="adds noise"):
        sweeps.run(mixture / "stage1", tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_the_verbs_end_in_samples_and_a_part_of_the_report(run, tmp_path, capsys):
    few = min(guided_distill.load(run).trained_steps)
    assert main(["sample", str(run), "--preset=fast"]) == 2
    assert "python -m guided_distill sweep" in capsys.readouterr().err
    assert main(["sweep", str(run), f"--steps={few}", "--guidance=0,1", "--num=24", "--seeds=0,1"]) == 0
    assert "quality" in capsys.readouterr().out
    preset = guided_distill.load(run).presets["fast"]
    out = [tmp_path / f"{k}.npz" for k in range(3)]
    base = ["sample", str(run), "--num=24"]
    assert main([*base, "--preset=fast", f"--out={out[0]}"]) == 0 and capsys.readouterr().err == ""
    assert main([*base, f"--steps={few}", f"--guidance={preset['guidance']}", f"--out={out[1]}"]) == 0
    images = [np.load(path)["images"] for path in out[:2]]
    np.testing.assert_array_equal(*images)
    capsys.readouterr()
    assert main([*base, "--preset=fast", "--guidance=2", f"--out={out[2]}"]) == 0
    assert len((told := capsys.readouterr().err).splitlines()) == 1 and "w = 2 is outside" in told
    assert np.load(out[2])["guidance"][0] == 2
    assert main([*base, "--preset=best"]) == 2
    assert "valid: preview, fast, quality" in capsys.readouterr().err
    document = presets.read(run)
    for damage, told in (
        ("{", "damaged"),
        ("[1]", "damaged"),
        ('{"format": 7, "presets": {}}', "has format 7, not 1"),
        (json.dumps(document | {"presets": {}}), "holds no presets"),
        (json.dumps(document | {"presets": [1]}), "damaged"),
        (json.dumps(document | {"settings": {}}), "damaged"),
        (json.dumps(document | {"ranges": [{"steps": few}]}), "damaged"),
    ):
        (run / "presets.json").write_text(damage)
        with pytest.raises(UserError, match=f"{told}.*python -m guided_distill sweep"):
            guided_distill.load(run).presets  # noqa: B018
    (part,) = parts.of_runs(gather([run]))
    assert not part["troubles"] and len(part["pictures"]) == 4
    assert part["tables"][0]["title"] == "Presets"


def test_what_some_rows_lack_is_left_open():
    rows = [made(1, 0.0, 1.0, class_variance=0.5), made(1, 0.0, 1.0, 1), made(2, 0.0, 0.5), made(4, 0.0, 0.4, recall=1)]
    found = presets.cells(rows)
    assert "class_variance" not in found[0]  # Not of all its seeds.
    document = presets.describe(found, SETTINGS, (8, 8))
    *_, settings = fronts.tables(found, document)
    assert [row[settings["columns"].index("recall")] for row in settings["rows"]] == [None, None, 1]
    assert list(fronts.plots(found)) == ["latency"]


def test_plots_are_files_for_light_and_dark(tmp_path):
    rows = [made(n, w, 1 / n + w, recall=1 - w / 9, saturation=w) for n in (1, 2) for w in (0.0, 1.0)]
    drawn = fronts.plots(presets.cells(rows))
    assert list(drawn) == ["latency", "trade", "guidance", "saturation"]
    _, lines, options = drawn["latency"]
    fronts.save(tmp_path / "a.svg", lines, **options)
    fronts.save(tmp_path / "a.png", lines, size=(4, 2), **options)
    width, height = Image.open(tmp_path / "a.png").size
    assert width == 2 * height
    text = (tmp_path / "a.svg").read_text()
    used, (light, dark) = set(re.findall(r"var\(--(\w+)\)", text)), fronts.palettes()
    assert used <= set(light) == set(dark) and "prefers-color-scheme:dark" in text and "#0102" not in text
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_experiment_is_the_same_again(digits, tmp_path, monkeypatch):
    for name, of in (("student", "stage2"), ("matched", "stage1")):
        (tmp_path / name).symlink_to(digits / of)
    monkeypatch.setattr(digits_sweep, "DOCS", tmp_path / "docs")
    image = {"run": "student", "steps": 1, "peak_of": "a device"}
    spent = {"images": [image], "trainings": [], "paybacks": []}
    rows, (a, b), measured = [], (tmp_path / "a", tmp_path / "b"), []
    monkeypatch.setattr(digits_sweep.costs, "of_runs", lambda *_, **__: measured.append(1) or spent)
    for out in (a, b):
        out.mkdir()
    (a / "costs.json").write_text(json.dumps({"hash": "of other weights", "costs": {}}))
    for out in (a, b):
        monkeypatch.setattr(sys, "argv", ["x", f"--workdir={tmp_path}", f"--out={out}", "--tiny", "--publish"])
        digits_sweep.main()
        rows.append(json.loads((out / "student" / "sweep.json").read_text())["rows"])
        shutil.copy(a / "costs.json", b)
    assert measured == [1]  # What was kept is of these weights.
    assert without_clock(rows[0]) == without_clock(rows[1]) and len(rows[0]) == 2
    text = (tmp_path / "docs" / "digits_sweep.md").read_text()
    for name in re.findall(r"\]\((digits_sweep_\w+\.png)\)", text):
        assert (tmp_path / "docs" / name).is_file()
    assert "| preview |" in text and "{" not in text
