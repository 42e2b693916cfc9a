"""The paper's tables: planned as the paper has them, run at --tiny from nothing to a report, killed once on the way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import cifar10_stage1, cifar10_stage2
from experiments import (
    cifar10,
    fashion_mnist,
    imagenet64,
    imagenet256,
    laion512,
    measure,
    paper,
    publish_table,
    published,
    tables,
)
from experiments.results import Results
from guided_distill import data, generate, samplers, trainer
from guided_distill.errors import UserError
from guided_distill.metrics import FeatureSet, clip_score, frechet

ROOT = Path(__file__).parents[1]
MODULES = {module.TABLE.name: module for module in (cifar10, fashion_mnist, imagenet64)}
LATENT = {module.TABLE.name: module for module in (imagenet256, laion512)}


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


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("argument", ["", "tiny"])
def test_the_plan_in_latent_space(name, argument):
    table = tables.tiny(LATENT[name].TABLE) if argument else LATENT[name].TABLE
    planned, rows = plan(table, argument)
    assert [training.name for training in planned] == ["teacher", "matched", "student"]
    assert {row.run for row in rows} == {training.name for training in planned}
    student = planned[-1].config.objective
    for w in table.guidance:
        assert student.w_min <= w <= student.w_max and planned[1].config.objective.w_min <= w
        cost = {}
        for row in rows:
            if row.guidance == w:
                cost.setdefault(row.method, set()).add(row.evaluations)
        shared = cost["student"] & cost["DDIM on the teacher"] & cost["DPM-Solver++ on the teacher"]
        assert cost["student"] == set(table.steps) and shared == cost["student"] - {1}
    many = planned[0].config.sampling.steps
    assert {row.evaluations for row in rows if row.method == "teacher"} == {2 * many}
    if argument:
        assert planned[0].config.data.shape[2] == 3  # So that it can be shown.


def test_a_teacher_that_is_given_is_not_trained():
    planned, rows = plan(imagenet256.TABLE)
    assert [training.name for training in tables.to_train(planned[1:], rows)] == ["matched", "student"]


def test_examples_are_those_of_all_rounds():
    planned = {training.name: training for training in tables.trainings(cifar10.TABLE, "")}
    assert planned["matched"].examples == 50_000 * 128
    # 1024 -> 512 ... 4 are eight rounds of 50,000; 2 and 1 take twice as many.
    assert planned["student"].examples == (8 + 4) * 50_000 * 128
    # Stochastic: N = 1024 ... 4 are nine, N = 2 takes twice as many, and there is no round of N = 1.
    assert planned["stochastic"].examples == (9 + 2) * 50_000 * 128
    assert planned["student"].config.teacher == cifar10_stage2.get_config().teacher
    assert planned["matched_single_w1"].config.arguments == cifar10_stage1.get_config("w=1").arguments


@pytest.mark.parametrize(
    "name, giga", [("imagenet64", 219), ("cifar10", 36), ("imagenet256", 2 * 103.6), ("laion512", 2 * (339 + 62.3))]
)
def test_flops_of_the_papers_networks(name, giga):
    """219 GFLOP is the figure that others count for a network of this size at 64 x 64. Of LDM's it is 103.6 G multiply-
    adds, of Stable Diffusion's 339 G without attention's products of states, which are 62.3 G more: 2 n² d a layer."""
    table = {**MODULES, **LATENT}[name].TABLE
    counted = tables.forward_flops(table.teacher.get_config(table.stand_in)) / 1e9
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


def test_captions_have_to_be_named(monkeypatch, tmp_path):
    """Before anything is trained or written."""
    monkeypatch.setattr(sys, "argv", ["x", f"--workdir={tmp_path / 'x'}"])
    with pytest.raises(UserError, match=r"captions.*--reference=data:captioned_folder:path=FOLDER:size=512"):
        laion512.main()
    assert not (tmp_path / "x").exists()


def test_a_dry_run_with_a_teacher_that_is_there(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x", f"--workdir={tmp_path}", "--dry-run", "--tiny", "--teacher=elsewhere"])
    laion512.main()
    printed = capsys.readouterr().out
    assert "train matched" in printed and "train teacher" not in printed and "0.275" in printed


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


def test_a_clip_score_is_a_cosine_of_as_many_pairs():
    row = {"method": "student", "steps": 4, "guidance": 0.3, "clip_score": 31.0, "frechet_distance": 25.0}
    of = figure("CLIP", value=0.3, num=5_000)
    (cell,) = beside([of], [row], num=5_000, clip=True, features="efficientnet_lite0")
    assert cell.values == (pytest.approx(0.31),) and cell.difference == pytest.approx(0.01)
    (more,) = beside([of], [row], clip=True)
    assert more.missing == "50,000 samples instead of 5,000" and more.difference is None
    (none,) = beside([of], [row], num=5_000)
    assert "--clip=FOLDER" in none.missing and not none.values


def test_a_figure_of_an_unknown_strength_has_no_difference():
    row = {"method": "student", "steps": 4, "guidance": None, "frechet_distance": 25.0}
    (cell,) = beside([figure(guidance=None, num=5_000)], [row], num=5_000)
    assert "w that was not found" in cell.missing and cell.difference is None and cell.text()[2] == "?"
    found = published.FIGURES["laion512"]
    assert {(f.steps, f.metric): f.value for f in found} == {
        **{(1, "FID"): 37.2, (2, "FID"): 26.0, (4, "FID"): 26.4},
        **{(1, "CLIP"): 0.275, (2, "CLIP"): 0.297, (4, "CLIP"): 0.3},
    }
    assert all(f.guidance is None and f.num == 5_000 for f in found)


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


SETTINGS = {"table": "fashion_mnist", "num": 8, "num_reference": None, "split": "test", "seed": 0}
SETTINGS |= {"features": "efficientnet_lite0", "argument": "cpu"}
KEY = {"method": "student", "sampler": "ddim", "steps": 1, "guidance": 0.0, "seed": 0}


def test_rows_of_elsewhere_stand_whatever_their_weights(tmp_path):
    published = tmp_path / "published.json"
    published.write_text(json.dumps({"settings": {"num": 5}, "rows": [{**KEY, "weights": "theirs", "x": 1.0}]}))
    results = Results(tmp_path / "here", published, num=5)
    never = lambda: pytest.fail("it stands")  # noqa: E731
    assert results.row({**KEY, "weights": "ours"}, 1, never)["x"] == 1.0 and results.taken(KEY)
    other = KEY | {"steps": 2}
    assert not results.taken(other) and results.row({**other, "weights": "ours"}, 2, lambda: {"x": 2.0})["x"] == 2.0
    again = Results(tmp_path / "here", published, num=5)
    assert [row["x"] for row in again.rows] == [1.0, 2.0] and again.taken(KEY) and not again.taken(other)
    for wrong, why in (({"num": 6}, "was made with"), ({}, "was made with")):
        with pytest.raises(UserError, match=why):
            Results(tmp_path / "elsewhere", published, **wrong)
    for broken in ("", "[]", "{}"):
        published.write_text(broken)
        with pytest.raises(UserError, match="holds no published rows"):
            Results(tmp_path / "elsewhere", published, num=5)


def test_only_what_the_missing_rows_need_is_trained():
    planned, rows = plan(fashion_mnist.CPU, "cpu")
    of = lambda *methods: [row for row in rows if row.method in methods]  # noqa: E731
    named = lambda rows: [training.name for training in tables.to_train(planned, rows)]  # noqa: E731
    assert named([]) == [] and named(rows) == [training.name for training in planned]
    assert named(of("DDIM on the teacher")) == ["teacher"]
    assert named(of("student")) == ["teacher", "matched", "student"]
    assert named(of("single-w student")) == ["teacher", "matched_single_w1", "single_w1"]
    assert named(of("unguided student")) == ["teacher", "unguided"]


def test_distances_to_the_teacher_are_of_samples_that_share_no_noise():
    """Of the teacher's own samples it is the distance of their halves, not 0; and a shift is seen."""
    rng = np.random.default_rng(0)
    teacher = FeatureSet(rng.standard_normal((400, 3)), np.arange(400) % 10)
    own = measure.apart(teacher, teacher, unbiased=True)
    halves = FeatureSet(teacher.features[:200]), FeatureSet(teacher.features[200:])
    assert (
        own["frechet_to_teacher"] == pytest.approx(frechet.compute(*halves)["frechet_distance"])
        and 0 < own["frechet_to_teacher"] < 0.1
    )
    assert abs(own["kernel_to_teacher"]) < 4 * own["kernel_to_teacher_error"]
    moved = measure.apart(FeatureSet(teacher.features + 1.0), teacher, unbiased=False)
    assert moved["frechet_to_teacher"] == pytest.approx(3.0, rel=0.1) and "kernel_to_teacher" not in moved


SIDE = (4, 4, 3)
CAPTIONED = {"name": "synthetic", "shape": SIDE, "num": 10, "num_classes": 3, "captions": True}


class Painter:
    """A run in place of a network: its noise, with the caption's last digit on top."""

    code_shape, hash, images_per_second = SIDE, "a painter", None

    def __init__(self):
        self.manifest = {"data": CAPTIONED, "num_classes": 0, "text": {"name": "words"}, "shape": list(SIDE)}
        self.asked = []

    def sample(self, num, steps, w, labels, seed, sampler, noise, clip, prompts):
        self.asked.append(prompts)
        noise = generate.noise(seed, np.arange(num), SIDE) if noise is None else noise
        return np.tanh(noise + np.array([int(prompt[-1]) for prompt in prompts])[:, None, None, None])


def seen_by_clip():
    flat = lambda images: images.reshape(len(images), -1).astype(np.float64)  # noqa: E731
    return clip_score.Clip(flat, lambda texts: np.repeat([[float(t[-1]) - 0.9] for t in texts], 48, axis=1))


def test_samples_are_of_the_captions_of_the_reference_some_at_a_time(tmp_path, monkeypatch):
    captions = [caption.decode() for caption in data.load(**CAPTIONED, split="test")[:]["caption"].tolist()]
    run, shared = Painter(), {"split": "test", "towers": seen_by_clip()}
    of = measure.Measure(Results(tmp_path), run, 12, 0, 4, **shared)
    whole = of.samples(run, 4, 1.0, "ddim", 12)
    assert run.asked == [[*captions, *captions[:2]]]
    monkeypatch.setattr(generate, "batch_of", lambda shape: 2)
    monkeypatch.setattr(measure, "AT_A_TIME", 5 * 4 * 48)  # Five at a time: two batches, since it has to be whole ones.
    parts = of.samples(run, 4, 1.0, "ddim", 12)
    assert run.asked[1:] == [captions[:4], captions[4:8], [*captions[8:], *captions[:2]]]
    for one, other in ((whole.features, parts.features), (whole.embedded, parts.embedded)):
        np.testing.assert_array_equal(one.features, other.features)
    noisy = list(measure.portions(run, samplers.NOISY[0], 8))
    assert len(noisy) == 1 and len(noisy[0]) == 8


def test_a_row_of_captions_has_its_clip_score(tmp_path):
    run, results = Painter(), Results(tmp_path)
    of = measure.Measure(results, run, 10, 0, 4, split="test", towers=seen_by_clip())
    of.row("student", run, "ddim", 1, 1.0, 1)
    of.floor()
    asked, (row, floor) = of.prompts(10), results.rows
    images = Painter().sample(10, 1, 1.0, None, 0, "ddim", None, None, asked)
    assert row["clip_score"] == pytest.approx(clip_score.clip_score(images, asked, seen_by_clip()).mean)
    real = data.load(**CAPTIONED, split="test")[:]["x"] / 127.5 - 1
    assert floor["clip_score"] == pytest.approx(clip_score.clip_score(real, asked, seen_by_clip()).mean, rel=1e-4)
    plain = measure.Measure(results, run, 10, 0, 4, split="test")
    assert plain.clip_scores(plain.samples(run, 1, 1.0, "ddim", 10).embedded, asked) == {}


def test_pictures_without_captions_are_refused():
    with pytest.raises(UserError, match="no captions"):
        measure.captions_of(data.load("synthetic", num=4))


def made_up(directory, paired=(9.0, 5.0, 3.0), quality=0.01):
    """A directory of the small budget with numbers that are made up."""
    floor = {"kernel_distance": 0.0, "kernel_distance_error": 0.001, "frechet_distance": 9.0, "precision": 0.8}
    floor |= {"recall": 0.8, "class_variance": 1.0, "num": 8, "num_reference": 8}
    rows = [{**floor, **KEY, "method": "half of the data", "sampler": "none", "steps": 0}]
    shared = {**floor, "seed": 0, "commit": "c0ffee", "device": "a machine"}
    of = lambda method, steps, w, **own: rows.append(  # noqa: E731
        {**shared, "method": method, "sampler": "ddim", "steps": steps, "guidance": w, "evaluations": steps, **own}
    )
    for w in (0.0, 1.0):
        of("teacher", 128, w, paired_distance=0.0, frechet_to_teacher=4.0, kernel_distance=0.01)
        for n, distance in zip((1, 4, 8), paired, strict=True):
            of("student", n, w, paired_distance=distance, frechet_to_teacher=5.0, kernel_distance=quality)
        of("DPM-Solver++ on the teacher", 4, w, paired_distance=9.5, frechet_to_teacher=8.0)
    seconds = {"teacher": 60.0, "matched": 30.0, "student": 90.0}
    (directory / "teacher").mkdir(parents=True)
    (directory / "teacher/manifest.json").write_text(json.dumps({"data": {"name": "fashion_mnist", "size": 16}}))
    (directory / "results.json").write_text(json.dumps(rows))
    hardware = {"seconds": seconds, "settings": SETTINGS, "device": "a machine", "jax": "0"}
    (directory / "hardware.json").write_text(json.dumps(hardware))
    return publish_table.Rows(rows)


def test_a_target_that_is_missed_is_told(tmp_path):
    met = lambda of: {row["target"]: row["met"] for row in publish_table.targets(of)}  # noqa: E731
    good = met(made_up(tmp_path / "good"))
    assert set(good.values()) == {"yes"} and len(good) == 7
    bad = met(made_up(tmp_path / "bad", paired=(9.6, 9.7, 3.0), quality=0.1))
    assert {target for target, answer in bad.items() if answer == "no"} == {
        "paired distance, w = 0",
        "paired distance, w = 1",
        "4 steps, KD to the data, w = 0",
        "4 steps, KD to the data, w = 1",
        "1 step, paired distance, w = 1",
    }


def test_seeds_are_averaged(tmp_path):
    """A target is of means: here each seed alone falls with steps, but for a student between those of the other."""
    made_up(tmp_path / "one")
    rows = json.loads((tmp_path / "one" / "results.json").read_text())
    other = [{**row, "seed": 1, **({"paired_distance": row["paired_distance"] + 1} if "evaluations" in row else {})}
             for row in rows]  # fmt: skip
    both = publish_table.Rows(rows + other)
    assert both.seeds == [0, 1] and len(both.all) == len(rows)
    assert both.get("student", 4, 1.0)["paired_distance"] == 5.5
    assert [row["steps"] for row in both.of("student", 1.0)] == [1, 4, 8]
    assert {row["met"] for row in publish_table.targets(both)} == {"yes"}


def test_a_page_is_made_of_a_directory(tmp_path, monkeypatch):
    docs = tmp_path / "docs" / "results"
    docs.mkdir(parents=True)
    (tmp_path / "README.md").write_text("before <!-- fashion_mnist -->\nold\n<!-- end of fashion_mnist --> after")
    monkeypatch.setattr(publish_table, "DOCS", docs)
    made_up(tmp_path / "fashion_mnist_cpu")
    publish_table.write([tmp_path / "fashion_mnist_cpu"])
    headline = (tmp_path / "README.md").read_text()
    assert headline.startswith("before") and headline.endswith("after") and "| student | 1 |" in headline
    assert "old" not in headline
    page = (docs / "fashion_mnist.md").read_text()
    for part in ("c0ffee", "test split", "8 samples a row", "| 1 step, paired distance, w = 1 | < DPM-Solver++"):
        assert part in page
    assert "Not measured yet: matched (w = 0, 0.3, 1, 2, 4); " in page and "; teacher (w = 0.3, 2, 4); " in page
    for name in ("quality", "paired", "front"):
        assert (docs / f"fashion_mnist_cpu_{name}.png").stat().st_size > 5000
    again = Results(tmp_path / "on", docs / "fashion_mnist_cpu.json", **SETTINGS)
    assert len(again.rows) == 11


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


@pytest.mark.slow
@pytest.mark.parametrize("name", LATENT)
def test_tiny_in_latent_space_from_a_teacher_that_is_there(name, tmp_path):
    """Neither data nor weights are needed; the teacher is not trained again."""
    table = tables.tiny(LATENT[name].TABLE)
    planned, measured = plan(table, "tiny")
    trainer.run(planned[0].config.to_dict(), tmp_path / "above")
    done = subprocess.run(
        command(name, tmp_path / "x", f"--teacher={tmp_path / 'above'}"), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "x/teacher").exists() and "teacher: update" not in done.stdout
    rows = json.loads((tmp_path / "x/results.json").read_text())
    assert {row["method"] for row in rows} == {row.method for row in measured} | {"half of the data"}
    assert (tmp_path / f"x/sheet_w{table.guidance[0]:g}.png").exists()
    assert "stand-in" in (tmp_path / "x/report.html").read_text()
