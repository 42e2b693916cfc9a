"""The golden set: frozen once, laws of its numbers, and damage that it must catch."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest

from configs import mixture2d_teacher
from experiments.golden_damage import Misled, damages, skipped_round, swapped
from guided_distill import data, evaluate, runs, trainer
from guided_distill.cli import golden as golden_verb
from guided_distill.errors import UserError
from guided_distill.golden import checks, frozen, measure, verdict
from guided_distill.golden.measure import PLAIN, STAGE_ONE, STUDENT, TEACHER, Stage, astray, confusion

REFERENCE = 500
COUNTS = [9, 8, 3, 7, 9, 9, 9, 9, 9, 9]


@pytest.fixture(autouse=True, scope="module")
def few():
    """Images of the data: fewer than are meant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "REFERENCE", REFERENCE)
        yield


def test_a_set_is_a_function_of_its_arguments():
    one, again, other = (frozen.freeze(10, COUNTS, seed=seed) for seed in (0, 0, 1))
    assert one == again and one.hash == again.hash != other.hash
    assert len(one.items) == frozen.SIZE and np.array_equal(one.noise((3,)), again.noise((3,)))
    assert dataclasses.replace(one, tolerances={"recall_loss": 0.1}).hash != one.hash


def test_slices_are_what_they_are_called():
    golden = frozen.freeze(10, COUNTS, (0.5, 3.0), 200)
    of = {name: [item for item in golden.items if item.slice == name] for name in golden.slices(1)}
    assert set(of) == {*frozen.SHARES, frozen.ALL} and frozen.ONE_STEP not in golden.slices(2)
    assert {item.label for item in of[frozen.RARE]} == {2}
    assert {item.w for item in of[frozen.EDGES]} == {0.5, 3.0}
    assert not {item.w for item in of[frozen.OFF_GRID]} & set(golden.rungs)
    assert {item.label for item in of[frozen.ALL]} == set(range(10))
    same = of[frozen.SAME]
    assert len({item.label for item in same}) == 1 and len({item.seed for item in same}) == len(same)
    for name, key, values in ((frozen.LADDER, "w", golden.rungs), (frozen.CLASS_LADDER, "label", range(10))):
        for seed in {item.seed for item in of[name]}:
            assert sorted(getattr(item, key) for item in of[name] if item.seed == seed) == sorted(values)
    assert len({item.seed for item in golden.items if item.steps is None}) == golden.independent.sum()
    noise = golden.noise((4,))
    first, second = np.flatnonzero(golden.where(frozen.LADDER))[:2]
    assert np.array_equal(noise[first], noise[second])


def test_a_set_without_classes_or_range_has_the_slices_that_are_left():
    assert frozen.freeze(10, w_range=(0.3, 0.9), num=100).rungs[-1] == 0.9  # And not the next float.
    golden = frozen.freeze(0, None, (1.0, 1.0), 100)
    assert golden.labels is None and set(golden.w) == {1.0}
    assert set(golden.slices(1)) == {frozen.ONE_STEP, frozen.NO_CLASSES}


def test_many_classes_are_asked_in_groups():
    golden = frozen.freeze(100, None, num=500)
    ladder = golden.where(frozen.CLASS_LADDER)
    assert len(set(golden.labels[ladder])) == ladder.sum()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"num": 40}, "40 items are too few"), ({"rungs": [0.0, 9.0]}, "guidance 0 .. 9 is outside the range")],
)
def test_sets_that_cannot_be(arguments, told):
    with pytest.raises(UserError, match=told):
        frozen.freeze(10, COUNTS, **arguments)


def test_a_frozen_set_is_read_never_made_anew(tmp_path):
    path, golden = tmp_path / "set.json", frozen.freeze(4, num=100, tolerances={"recall_loss": 0.1})
    frozen.write(path, golden)
    assert frozen.read(path) == golden
    with pytest.raises(UserError, match="never made anew"):
        frozen.write(path, frozen.freeze(4, num=120))
    values = json.loads(path.read_text())
    values["items"][3]["w"] += 0.5
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="was changed after it was frozen"):
        frozen.read(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="no golden set, or damaged"):
        frozen.read(path)
    with pytest.raises(UserError, match="--make"):
        frozen.read(tmp_path / "none.json")


def test_astray_is_the_share_of_the_way():
    rng = np.random.default_rng(0)
    right, wrong = rng.standard_normal((2, 50, 8))
    for part in (0.0, 0.3, 1.0):
        assert astray(right + part * (wrong - right), right, wrong) == pytest.approx(part, abs=1e-12)
    across = rng.standard_normal((50, 8))
    way = (wrong - right) / np.linalg.norm(wrong - right, axis=1, keepdims=True)
    across -= (across * way).sum(1, keepdims=True) * way
    assert astray(right + 100 * across, right, wrong) == pytest.approx(0, abs=1e-9)
    assert astray(right, right, right) == 0
    nearer = astray(right + 0.6 * (wrong - right), right, wrong)
    assert nearer > 0.5  # Where the wrong answer is the nearer one.


def test_confusion_finds_the_one_key_that_is_another():
    rng = np.random.default_rng(0)
    noise, key = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    right = np.eye(4)[key] * (1.0 + noise[:, None])  # Half of the way to one is to be no nearer to another.
    assert confusion(right, right, noise, key) == 0
    own = right.copy()
    own[key == 1] = right[key == 3]
    assert confusion(own, right, noise, key) == pytest.approx(1)
    order = rng.permutation(24)
    assert confusion(own[order], right[order], noise[order], key[order]) == pytest.approx(1)


def test_chance_is_what_other_seeds_show(exact):
    bench = exact[0]
    found = [bench.against_data(bench.images(bench.teacher, bench.teacher.default_steps(), s)) for s in range(3)]
    for metric, value in bench.spread(range(3)).items():
        over_seeds = np.std([of[metric] for of in found], ddof=1)
        assert over_seeds <= value * (1 + 1e-9) and value < 4 * over_seeds + 0.05
    assert np.array_equal(bench.at(0).partner().features, bench.partner().features)
    assert not np.array_equal(bench.at(1).partner().features, bench.partner().features)


def test_the_floor_is_of_images_that_the_reference_leaves_out(exact, tmp_path, monkeypatch):
    bench = copy.copy(exact[0])
    bench.golden = dataclasses.replace(bench.golden, seed=1)
    scored = []
    monkeypatch.setattr(measure.Bench, "spread", lambda self, seeds: {})
    monkeypatch.setattr(evaluate, "score", lambda fake, real, **others: scored.append((fake, real)) or {})
    verdict.chance(bench, "pixels", tmp_path / "floor.json")
    [(fake, real)] = scored
    assert len(real.features) == REFERENCE
    assert not {*map(tuple, fake.features.tolist())} & {*map(tuple, real.features.tolist())}


def row(stage, steps, **values):
    usual = {"frechet_distance": 1.0, "recall": 0.8, "class_variance": 0.9, "paired_distance": 0.0}
    return {"stage": stage, "steps": steps, **usual, **values}


def test_limits_come_from_the_teacher_at_as_few_steps_and_from_chance():
    rows = [row(TEACHER, 64), row(STAGE_ONE, 64, paired_distance=0.5), row(STUDENT, 4, paired_distance=0.9)]
    plain = {4: row(PLAIN, 4, frechet_distance=3.0, recall=0.79, class_variance=0.3, paired_distance=1.0)}
    spread = {"frechet_distance": 0.01, "recall": 0.02, "class_variance": 0.01}
    judged = {(c.stage, c.tolerance): c for c in checks.judge(rows, plain, spread, {"variance_loss": 0.0})}
    student = {name: judged[STUDENT, name].limit for name in (*checks.LOSSES, "paired_distance")}
    assert student["paired_distance"] == pytest.approx(0.5 + 1.0)
    assert student["frechet_loss"] == pytest.approx((3 - 1) / 2)
    assert student["recall_loss"] == pytest.approx(checks.by_chance(-1) * 0.02)
    assert student["variance_loss"] == 0.0  # Given.
    assert judged[STAGE_ONE, "frechet_loss"].limit == pytest.approx(checks.by_chance(1) * 0.01)
    assert all(check.within for check in judged.values())


def test_chance_is_two_sided_where_either_way_is_worse():
    """Student's t with two degrees of freedom is below t with probability 1/2 + t / (2 sqrt(2 + t²))."""
    below = lambda t: 0.5 + t / (2 * math.sqrt(2 + t**2))  # noqa: E731
    assert below(checks.by_chance(1) / math.sqrt(4 / 3)) == pytest.approx(0.95, abs=1e-4)
    assert below(checks.by_chance(0) / math.sqrt(4 / 3)) == pytest.approx(0.975, abs=1e-4)
    rows = [row(TEACHER, 64), row(STAGE_ONE, 64)]
    judged = checks.judge(rows, {}, {"class_variance": 0.01, "recall": 0.01}, {})
    assert {check.tolerance: check.limit / 0.01 for check in judged} == pytest.approx(
        {"variance_loss": checks.by_chance(0), "recall_loss": checks.by_chance(-1)}
    )


def test_losses_know_which_way_is_worse():
    assert checks.loss(2.0, 1.5, 1) == 0.5 and checks.loss(1.0, 1.5, 1) == 0
    assert checks.loss(0.5, 0.75, -1) == 0.25 and checks.loss(1.0, 0.75, -1) == 0
    assert checks.loss(0.5, 0.75, 0) == checks.loss(1.0, 0.75, 0) == 0.25


def test_tolerances_are_named():
    assert checks.parse(["recall_loss=0.1", "paired_distance=2"]) == {"recall_loss": 0.1, "paired_distance": 2.0}
    with pytest.raises(UserError, match="unknown tolerance 'recal'; valid: class_confusion"):
        checks.parse(["recal=1"])
    with pytest.raises(UserError, match="'x' is not a number"):
        checks.parse(["recall_loss=x"])


class Ideal(runs.Run):
    """A student without fault: the teacher's own flow, whatever the number of steps."""

    def sample(self, num, steps=None, *args, **others):
        return super().sample(num, 32, *args, **others)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """(bench, stages, plain, spread) of the exact mixture as teacher, with faultless students of 32, 4 and 1 steps."""
    where = tmp_path_factory.mktemp("exact")
    trainer.run(mixture2d_teacher.get_config("").to_dict(), where, say=str)
    teacher, source = runs.load(where), data.load("mixture2d", num=2000)
    bench = measure.Bench(frozen.freeze(4, num=200), teacher, source, evaluate.load_features("pixels")[1])
    ideal = Ideal(where)
    line = [Stage(TEACHER, teacher, teacher.default_steps())]
    line.append(Stage(STAGE_ONE, ideal, 32, line[0]))
    line += [Stage(STUDENT, ideal, n, line[1], teacher) for n in (4, 1)]
    plain = {n: bench.plain(n) for n in (4, 1)}
    return bench, line, plain, verdict.chance(bench, "pixels", where / "floor.json")[1]


def judged(exact, stage):
    bench, line, plain, spread = exact
    return checks.judge([bench.row(s) for s in (*line[:2], stage)], plain, spread, {})


@pytest.mark.parametrize("index", [2, 3])
def test_a_faultless_student_passes(exact, index):
    assert not [check for check in judged(exact, exact[1][index]) if not check.within]


class MisledIdeal(Misled, Ideal):
    """It does faultlessly what it is told, and is told something else."""


@pytest.mark.parametrize("index", [2, 3])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"w": lambda w: 1 + w}, "guidance_confusion"),
        ({"w": lambda w: 2 * w}, "guidance_confusion"),
        ({"label": swapped(1, 2)}, "class_confusion"),
    ],
)
def test_damage_is_caught_by_its_own_tolerance(exact, damage, named, index):
    stage = exact[1][index]
    found = judged(exact, dataclasses.replace(stage, run=MisledIdeal(stage.run, **damage)))
    assert named in {check.tolerance for check in found if not check.within}


def test_a_round_that_did_nothing_is_at_one(exact):
    bench, line, *_ = exact
    nothing = dataclasses.replace(line[2], run=line[2].skipped)
    assert bench.row(nothing)["round_confusion"] == pytest.approx(1)
    assert "round_confusion" in {c.tolerance for c in judged(exact, nothing) if not c.within}


def test_damages_do_what_they_say(mixture, tmp_path):
    chain = runs.load(mixture / "stage2")
    skipped = skipped_round(chain, 2, tmp_path / "skipped")
    assert skipped.trained_steps == {**chain.trained_steps, 2: chain.trained_steps[4]}
    assert measure.Shifted(chain.dir).trained_steps[2] == chain.trained_steps[4]
    labels = np.arange(4)
    assert swapped(1, 2)(labels).tolist() == [0, 2, 1, 3]
    found = damages(measure.stages(measure.lineage(chain.dir))[-1], tmp_path)
    assert {named for named, _ in found.values()} == set(checks.CONFUSIONS)
    told = Misled(chain, w=lambda w: w / 2, label=swapped(1, 2)).sample(4, 1, np.full(4, 2.0), labels, seed=3)
    np.testing.assert_array_equal(told, chain.sample(4, 1, 1.0, np.array([0, 2, 1, 3]), seed=3))


def test_a_lineage_is_found_by_manifests(mixture):
    line = measure.lineage(mixture / "stage2")
    assert [run.dir.name for run in line] == ["teacher", "stage1", "stage2"]
    found = measure.stages(line)
    assert [stage.name for stage in found[:2]] == [TEACHER, STAGE_ONE]
    steps = [stage.steps for stage in found[2:]]
    assert steps == sorted(line[2].trained_steps, reverse=True) and found[1].steps == 2 * steps[0]
    assert found[2].before is found[1] and found[2].skipped is line[1] and found[3].before is found[2]
    with pytest.raises(UserError, match="--steps 3"):
        measure.stages(line, [3])


def test_runs_of_one_name_are_told_apart(tmp_path):
    names = golden_verb.distinct([tmp_path / "a" / "student", tmp_path / "b" / "student"])
    assert names == ["a/student", "b/student"] and golden_verb.distinct([tmp_path / "a" / "student"]) == ["student"]
