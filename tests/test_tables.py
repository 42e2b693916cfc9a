"""The paper's tables: planned as the paper has them, run at --tiny from nothing to a report, killed once on the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs import cifar10_stage1, cifar10_stage2
from experiments import cifar10, fashion_mnist, imagenet64, paper, published, tables
from experiments.results import Results
from guided_distill.errors import UserError

ROOT = Path(__file__).parents[1]
MODULES = {module.TABLE.name: module for module in (cifar10, fashion_mnist, imagenet64)}


def plan(table, argument=""):
    planned = tables.trainings(table, argument)
    return planned, tables.rows(table, planned)


@pytest.mark.parametrize("name", MODULES)
def test_the_plan_is_the_papers_table(name):
    table = MODULES[name].TABLE
    planned, rows = plan(table)
    of = {}
    for row in rows:
        of.setdefault(row.method, []).append(row)
    students = {(row.steps, row.guidance) for row in of["student"]}
    assert students == {(n, w) for n in (1, 2, 4, 8, 16) for w in (0.0, 0.3, 1.0, 2.0, 4.0)}
    assert students == {(row.steps, row.guidance) for row in of["stochastic student"]}
    assert {row.sampler for row in of["stochastic student"]} == {"stochastic"}
    many = planned[0].config.sampling.steps
    assert {row.evaluations for row in of["teacher"]} == {2 * many} and {row.steps for row in of["teacher"]} == {many}
    assert all(
        row.evaluations == (1 if "student" in row.method or row.method == "matched" else 2) * row.steps for row in rows
    )
    assert {row.guidance for row in of["unguided student"]} == {0.0}
    assert len({(row.method, row.sampler, row.steps, row.guidance) for row in rows}) == len(rows)
    trained = [training.name for training in planned]
    assert all(training.above is None or training.above in trained[:k] for k, training in enumerate(planned))
    assert {row.run for row in rows} <= set(trained)
    measured = {(row.method, row.steps, row.guidance) for row in rows}
    assert {(f.method, f.steps, f.guidance) for f in table.figures if f.verified and f.steps} <= measured


def test_examples_are_those_of_all_rounds():
    planned = {training.name: training for training in tables.trainings(cifar10.TABLE, "")}
    assert planned["matched"].examples == 50_000 * 128
    # 1024 -> 512 ... 4 are eight rounds of 50,000; 2 and 1 take twice as many.
    assert planned["student"].examples == (8 + 4) * 50_000 * 128
    # Stochastic: N = 1024 ... 4 are nine, N = 2 takes twice as many, and there is no round of N = 1.
    assert planned["stochastic"].examples == (9 + 2) * 50_000 * 128
    assert planned["student"].config.teacher == cifar10_stage2.get_config().teacher
    assert planned["matched_single_w1"].config.arguments == cifar10_stage1.get_config("w=1").arguments


@pytest.mark.parametrize("name, giga", [("imagenet64", 219), ("cifar10", 36)])
def test_flops_of_the_papers_networks(name, giga):
    """219 GFLOP is the figure that others count for a network of this size at 64 x 64."""
    table = MODULES[name].TABLE
    counted = tables.forward_flops(table.teacher.get_config()) / 1e9
    assert abs(counted / giga - 1) < 0.02


def command(name, workdir, *more):
    return [sys.executable, "-m", f"experiments.{name}", f"--workdir={workdir}", "--tiny", *more]


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    done = subprocess.run(
        [*command("cifar10", tmp_path / "x"), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for part in ("DPM-Solver++ on the teacher", "A100", "TPU v5e", "train stochastic", "GFLOP, counted"):
        assert part in done.stdout
    assert not (tmp_path / "x").exists()


def test_an_unknown_part_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x", f"--workdir={tmp_path}", "--tiny", "--only=stocastic"])
    with pytest.raises(UserError, match=r"stocastic.*valid: core, stochastic, single_w, unguided"):
        cifar10.main()


def figure(metric="FID", source="somewhere", **changes):
    given = {"method": "student", "steps": 4, "guidance": 0.3, "value": 2.0}
    return published.Figure(**{**given, **changes}, metric=metric, source=source)


def beside(figures, rows, why_not=lambda figure: "", **on):
    return paper.beside(figures, rows, why_not, paper.On(**{"features": "inception", "num": paper.NUM, **on}))


def test_a_difference_and_its_interval_over_seeds():
    key = {"method": "student", "steps": 4, "guidance": 0.3}
    rows = [{**key, "seed": k, "frechet_distance": value} for k, value in enumerate((2.5, 2.7, 2.9))]
    (cell,) = beside([figure()], [*rows, {**key, "steps": 2, "frechet_distance": 9.0}])
    assert cell.difference == pytest.approx(0.7) and not cell.missing
    assert cell.half_width == pytest.approx(4.302653 * 0.2 / 3**0.5)  # Student's t of two degrees of freedom.
    (alone,) = beside([figure()], rows[:1])
    assert alone.half_width is None and "(1 seed)" in alone.text()[5]
    (few,) = beside([figure()], rows, num=1000)
    assert few.values and few.missing == "1,000 samples instead of 50,000" and few.difference is None
    (part,) = beside([figure()], rows, num_reference=5000)
    assert part.values and part.missing == "against 5,000 images instead of all" and part.text()[6] == ""
    (own,) = beside([figure(steps=0)], [{**key, "steps": 0, "frechet_distance": 2.0}])
    assert not own.values and "source's own" in own.missing and own.text()[1] == "own"


@pytest.mark.parametrize(
    "given, missing",
    [
        ({"stand_in": True}, "stand-in pictures"),
        ({"features": "efficientnet_lite0"}, "efficientnet_lite0 is not Inception-v3"),
        ({"why_not": lambda f: "left out by --only"}, "left out by --only"),
        ({}, "not measured yet"),
    ],
)
def test_an_empty_cell_says_what_is_missing(given, missing):
    (cell,) = beside([figure()], [], **given)
    assert missing in cell.missing and cell.difference is None and cell.text()[5:] == ["", ""]


def test_recalled_figures_stand_in_brackets_wherever_they_are_shown():
    cells = beside([figure(), figure(source=published.RECALLED, value=3.25, metric="IS")], [])
    page = paper.markdown(cells, "x")
    assert "| [3.25] |" in page and "| 2 |" in page and "[2]" not in page
    assert f"source 2: {published.RECALLED}" in page and "missing a: not measured yet" in page
    table = paper.printed(cells, "x")
    assert list(table.columns[4].cells) == ["2", "[3.25]"]


def test_only_what_was_found_in_print_counts_as_published():
    """PAPER: S at w = 0.3, one figure of D, progressive distillation and the teachers of Ho & Salimans."""
    found = [f for f in published.FIGURES["imagenet64"] if f.verified]
    stochastic = {(f.steps, f.guidance): f.value for f in found if f.method == "stochastic student"}
    assert stochastic == {(1, 0.3): 18.5, (2, 0.3): 5.81, (4, 0.3): 2.24, (8, 0.3): 2.31}
    assert [(f.steps, f.guidance, f.value) for f in found if f.method == "student"] == [(1, 1.0, 7.54)]
    assert all(f.metric == "FID" for f in found if f.method != "teacher")
    assert len({(f.method, f.steps, f.guidance, f.metric, f.source) for f in published.FIGURES["imagenet64"]}) == len(
        published.FIGURES["imagenet64"]
    )


def test_a_dry_run_says_what_each_figure_lacks(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x", f"--workdir={tmp_path}", "--dry-run", "--only=core", "--features=inception"])
    imagenet64.main()
    printed = capsys.readouterr().out
    assert "left out by --only" in printed and "not measured yet" in printed
    assert "source's own" in printed and "[2.92]" in printed


def test_a_dry_run_shows_rows_as_they_were_made(capsys, monkeypatch, tmp_path):
    """Rows on other features are no FIDs, whatever --features says now."""
    row = {"method": "student", "steps": 1, "guidance": 1.0, "frechet_distance": 0.0123}
    (tmp_path / "results.json").write_text(json.dumps([row]))
    settings = {"features": "efficientnet_lite0", "num": 50_000, "num_reference": None, "argument": ""}
    (tmp_path / "hardware.json").write_text(json.dumps({"settings": settings}))
    monkeypatch.setattr(sys, "argv", ["x", f"--workdir={tmp_path}", "--dry-run", "--features=inception"])
    imagenet64.main()
    printed = capsys.readouterr().out
    assert "efficientnet_lite0 is not Inception-v3" in printed and "0.0123" not in printed


def test_a_row_of_other_weights_is_measured_again(tmp_path):
    results = Results(tmp_path)
    key = {"method": "student", "sampler": "ddim", "steps": 1, "guidance": 0.0, "seed": 0}
    values = iter((1.0, 2.0, 3.0))
    draw = lambda weights: results.row({**key, "weights": weights}, 1, lambda: {"x": next(values)})["x"]  # noqa: E731
    assert [draw("a"), draw("a"), draw("b"), draw("b")] == [1.0, 1.0, 2.0, 2.0] and len(results.rows) == 1


@pytest.mark.slow
def test_tiny_from_an_empty_folder_to_a_report_killed_once(tmp_path):
    """No data is downloaded: stand-ins, and the report says so."""
    process = subprocess.Popen(command("cifar10", tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "method=matched" in line:  # In the middle of the rows: all is trained, some of it is measured.
            process.kill()
            break
    process.wait()
    assert not (tmp_path / "report.html").exists()
    stood = json.loads((tmp_path / "results.json").read_text())
    saved = sorted(int(path.name.split(".")[0]) for path in (tmp_path / "student/checkpoints").glob("*.sha256.json"))
    (tmp_path / f"student/checkpoints/{saved[-1]}.sha256.json").unlink()  # As if killed before its last save.
    done = subprocess.run(command("cifar10", tmp_path), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"student: update {saved[-2]} of {saved[-1]}" in done.stdout and "teacher: update 12 of 12" in done.stdout
    rows = json.loads((tmp_path / "results.json").read_text())
    keys = [(row["method"], row["sampler"], row["steps"], row["guidance"]) for row in rows]
    assert rows[: len(stood)] == stood and len(set(keys)) == len(keys)
    _, measured = plan(cifar10.TABLE, "tiny")
    assert {row["method"] for row in rows} == {row.method for row in measured} | {"half of the data"}
    page = (tmp_path / "report.html").read_text()
    assert "stand-in" in page and (tmp_path / "sheet_w1.png").exists()
