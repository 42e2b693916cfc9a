"""Experiments run from end to end at their smallest, skip what stands, and are turned into documents."""

import json
import sys

import pytest

from experiments import ablations, demo, digits, mixture2d, publish, publish_ablations
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


@pytest.mark.slow
def test_ablations_train_what_is_missing_and_are_made_a_page(tmp_path, monkeypatch, capsys):
    names = "the method,prediction x,single w = 1,no stage one,steps before guidance,quartering"
    command = (ablations, monkeypatch, "--on=mixture2d", f"--workdir={tmp_path / 'a'}", "--tiny", "--seeds=0,1")
    run(*command, f"--only={names}")
    rows = json.loads((tmp_path / "a/results.json").read_text())
    of = lambda name: {(row["steps"], row["guidance"]) for row in rows if row["method"] == name}  # noqa: E731
    assert {row["method"] for row in rows} == set(names.split(",")) and {row["seed"] for row in rows} == {0, 1}
    assert of("the method") == of("quartering") == {(n, w) for n in (1, 4, 16) for w in (0, 1, 4)}
    assert of("single w = 1") == {(1, 1), (4, 1), (16, 1)} and {n for n, _ in of("steps before guidance")} == {1, 4}
    manifest = json.loads((tmp_path / "a/seed0/plain 1 of steps before guidance/manifest.json").read_text())
    assert manifest["guidance"] == {"kind": "external", "interval": None} and manifest["factor"] == 2
    assert json.loads((tmp_path / "a/seed0/student of quartering/manifest.json").read_text())["factor"] == 4
    capsys.readouterr()
    run(*command, f"--only={names}")
    assert "update" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"quarting.*quartering"):
        run(*command, "--only=quarting")
    monkeypatch.setattr(publish_ablations, "DOCS", tmp_path)
    run(publish, monkeypatch, "ablations", tmp_path / "a")
    page = (tmp_path / "ablations.md").read_text()
    assert "| rounds | quartering | " in page and "±" in page and " x)" in page


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
