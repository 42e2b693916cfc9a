"""Training: rounds, the step, promotion, resuming bit for bit, one trace."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_stage1, digits_stage2, digits_teacher, mixture2d_stage1, mixture2d_stage2
from guided_distill import checkpoint, data, rounds, runs, stages, state, streams, train_step, trainer
from guided_distill.errors import UserError
from guided_distill.guidance import without


def test_rounds_of_halving():
    plan = rounds.halving(1024, 1, 50, 100, stochastic=False)
    assert (
        plan.num_steps == (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
        and plan.updates == (50,) * 8 + (100, 100)
        and plan.total == 600
    )
    assert rounds.halving(16, 1, 5, 5, stochastic=True).num_steps == (16, 8, 4, 2)
    assert rounds.halving(16, 4, 5, 5, stochastic=False).num_steps == (8, 4)
    assert rounds.halving(64, 1, 5, 9, stochastic=False, factor=4) == rounds.Rounds((16, 4, 1), (5, 5, 9))
    assert rounds.halving(16, 1, 5, 9, stochastic=False, last_from=4) == rounds.Rounds((8, 4, 2, 1), (5, 9, 9, 9))
    for wrong, why in (({"factor": 3}, "factor 3 is not"), ({"factor": 1}, "factor 1 is not")):
        with pytest.raises(UserError, match=why):
            rounds.halving(64, 1, 5, 5, stochastic=False, **wrong)
    with pytest.raises(UserError, match="32 steps divided by 4 again and again miss end_steps 1"):
        rounds.halving(32, 1, 5, 5, stochastic=False, factor=4)
    with pytest.raises(UserError, match="can only be halved"):
        rounds.halving(64, 1, 5, 5, stochastic=True, factor=4)
    found = [int(jax.jit(plan.num_steps_at)(jnp.int32(step))) for step in (0, 49, 50, 399, 400, 499, 500, 599)]
    assert found == [512, 512, 256, 4, 2, 2, 1, 1]
    assert [plan.starts_round(step) for step in (0, 50, 51, 500, 600)] == [False, True, False, True, False]
    assert [plan.round_of(step) for step in (0, 49, 50, 599)] == [0, 0, 1, 9]
    for step in (0, 73, 450):
        done, updates = plan.within(jnp.int32(step))
        assert (int(done), int(updates)) == {0: (0, 50), 73: (23, 50), 450: (50, 100)}[step]


def test_learning_rate_anneals_within_every_round():
    plan = rounds.Rounds((4, 2), (10, 20))
    linear = jax.vmap(rounds.learning_rate(plan, 2.0, 0, "linear"))(jnp.arange(30))
    np.testing.assert_allclose(linear[:10], 2 * (1 - np.arange(10) / 10), rtol=1e-6)
    np.testing.assert_allclose(linear[10:], 2 * (1 - np.arange(20) / 20), rtol=1e-6)
    warm = jax.vmap(rounds.learning_rate(plan, 2.0, 4, "constant"))(jnp.arange(30))
    np.testing.assert_allclose(warm[:5], [0.5, 1, 1.5, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(warm[10:12], [0.5, 1.0], rtol=1e-6)
    cosine = jax.vmap(rounds.learning_rate(plan, 2.0, 0, "cosine"))(jnp.arange(30))
    np.testing.assert_allclose([cosine[0], cosine[5], cosine[20]], [2, 1, 1], rtol=1e-5)


def test_adam_against_its_formula():
    """Two updates of Adam with the clip, by hand."""
    tx = train_step.optimiser("adam", clip=1.0)
    params, opt = jnp.array([1.0, -2.0]), None
    opt = tx.init(params)
    m = v = 0.0
    for count, gradient in enumerate([np.array([3.0, 4.0]), np.array([0.1, -0.2])], start=1):
        updates, opt = tx.update(jnp.asarray(gradient, jnp.float32), opt, params)
        g = gradient / max(1.0, np.linalg.norm(gradient))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        np.testing.assert_allclose(updates, m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8), rtol=1e-4)


def test_average_starts_at_the_weights_and_reaches_its_decay():
    ema = train_step.moving_average({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)}, 0.9, jnp.int32(0))
    assert float(ema["w"]) == pytest.approx(0.1 * 1 + 0.9 * 3)
    ema = train_step.moving_average({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)}, 0.9, jnp.int32(10_000))
    assert float(ema["w"]) == pytest.approx(0.9 * 1 + 0.1 * 3)


def test_graft_names_what_is_new_and_refuses_what_does_not_fit():
    new = {"a": jnp.zeros((2,)), "w": jnp.zeros((3,))}
    grafted, added = state.graft(new, {"a": jnp.ones((2,))})
    assert added == ["['w']"] and float(grafted["a"][0]) == 1 and float(grafted["w"][0]) == 0
    with pytest.raises(ValueError, match=r"\(5,\) for \(2,\)"):
        state.graft(new, {"a": jnp.ones((5,))})
    with pytest.raises(ValueError, match="unexpected"):
        state.graft({"a": jnp.zeros((2,))}, {"a": jnp.ones((2,)), "b": jnp.ones((1,))})


def test_promotion_restarts_all_but_the_step():
    tx = train_step.optimiser()
    params = {"student": {"w": jnp.array([1.0, 2.0])}}
    before = state.create(params, {"teacher": {"w": jnp.zeros(2)}}, tx, keep_ema=True)
    _, opt_state = tx.update({"student": {"w": jnp.ones(2)}}, before.opt_state, params)
    before = before.replace(step=jnp.int32(7), opt_state=opt_state)
    after = state.promote(before, tx)
    assert int(after.step) == 7
    np.testing.assert_array_equal(after.teacher["teacher"]["w"], params["student"]["w"])
    fresh = tx.init(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), after.opt_state, fresh))


def test_at_update_zero_the_student_is_the_conditional_teacher(digits):
    config = digits_stage1.get_config("tiny")
    config.teacher = str(digits / "teacher")
    stage = stages.build(config.to_dict())
    student = runs.bind(stage.manifest)(jax.jit(stage.init)(stage.leaves(stage.layout())).params["student"])
    teacher = runs.load(digits / "teacher")
    conditional = runs.parameterised(teacher.manifest).bind(teacher.weights())
    z, logsnr = jax.random.normal(jax.random.key(0), (6, 8, 8, 1)), jnp.linspace(-10.0, 10.0, 6)
    cond = {"label": jnp.arange(6), "guidance": jnp.linspace(0.0, 4.0, 6)}
    want = jax.jit(conditional)(z, logsnr, without(cond, "guidance"))
    np.testing.assert_allclose(jax.jit(student)(z, logsnr, cond).x, want.x, atol=1e-6)
    assert float(jnp.max(jnp.abs(want.x - z * jax.nn.sigmoid(logsnr)[:, None, None, None] ** 0.5))) > 1e-3


class Stopped(BaseException):
    """Like a kill: nothing catches it."""


CASES = [
    (digits_teacher, "tiny", None, 6, 1),
    (digits_stage1, "tiny", "teacher", 4, 1),
    (digits_stage1, "tiny", "teacher", 4, 2),  # two updates a call
    (digits_stage2, "tiny", "stage1", 6, 1),  # in the middle of round 2
    (digits_stage2, "tiny", "stage1", 4, 1),  # between rounds
    (digits_stage2, "tiny", "teacher", 4, 1),  # stage one skipped: the teacher changes its kind
]


NAMES = ["teacher", "stage1", "calls", "mid-round", "between-rounds", "skipping"]


@pytest.mark.parametrize("module, argument, above, stop, each", CASES, ids=NAMES)
def test_a_resumed_run_ends_bit_identical(module, argument, above, stop, each, digits, tmp_path, monkeypatch):
    config = module.get_config(argument)
    config.compute.updates_per_call = each
    if above:
        config.teacher = str(digits / above)
    config = config.to_dict()
    whole = tmp_path / "whole"
    trainer.run(config, whole, say=quiet)
    save = checkpoint.Checkpoints.save

    def save_and_stop(self, current, position, score=None):
        save(self, current, position, score)
        if position == stop:
            self.wait()
            raise Stopped

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_and_stop)
    with pytest.raises(Stopped):
        trainer.run(config, tmp_path / "parts", say=quiet)
    monkeypatch.setattr(checkpoint.Checkpoints, "save", save)
    trainer.run(config, tmp_path / "parts", say=quiet)
    ends = [final_state(directory, config) for directory in (whole, tmp_path / "parts")]
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), *ends))
    logs = [
        [json.loads(line) for line in (d / "metrics.jsonl").read_text().splitlines()]
        for d in (whole, tmp_path / "parts")
    ]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    assert [row.get("loss") for row in logs[0]] == [row.get("loss") for row in logs[1]]


def quiet(text):
    """Says nothing."""


def final_state(run_dir, config):
    """Every array of the newest checkpoint."""
    stage, saved = stages.build(config), checkpoint.Checkpoints(run_dir)
    restored, start = trainer.begin(stage, saved, stage.layout())
    assert start == stage.rounds.total
    return jax.device_get(restored)


def test_one_trace_over_all_rounds_and_a_frozen_teacher(mixture, monkeypatch):
    config = mixture2d_stage2.get_config("tiny")
    config.teacher = str(mixture / "stage1")
    stage = stages.build(config.to_dict())
    assert stage.steps[0] is stage.steps[1]
    traces = []
    prepare = train_step.prepare
    monkeypatch.setattr(train_step, "prepare", lambda *args: traces.append(1) or prepare(*args))
    step, promote = jax.jit(stage.steps[0]), jax.jit(stage.promote)
    current = jax.jit(stage.init)(stage.leaves(stage.layout()))
    batches = data.batches(stage.source, stage.loop.batch_size, 0)
    seen = []
    for k in range(stage.rounds.total):
        if stage.rounds.starts_round(k):
            student = current.params["student"]
            current = promote(current)
            assert same(current.teacher["teacher"], student)
        teacher = current.teacher
        current, metrics = step(current, next(batches))
        assert same(current.teacher, teacher)
        seen.append(int(metrics["num_steps"]))
    assert len(traces) == 1
    assert seen == [n for n in (4, 2, 1) for _ in range(10)]


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b))


def test_streams_are_functions_of_seed_name_and_index():
    draw = lambda *of: jax.random.key_data(streams.key(*of)).tolist()  # noqa: E731
    assert draw(0, "a", 3) == draw(0, "a", 3)
    assert len({str(draw(*of)) for of in ((0, "a", 3), (1, "a", 3), (0, "b", 3), (0, "a", 4))}) == 4


def test_batches_are_functions_of_seed_and_position():
    source = data.load("digits")
    first = [next(b) for b in [data.batches(source, 128, 0)] for _ in range(20)]
    later = data.batches(source, 128, 0, start=17)
    np.testing.assert_array_equal(first[17]["x"], next(later)["x"])
    seen = np.concatenate([b["x"].reshape(128, -1) for b in first])[: len(source)]
    assert sorted(map(bytes, seen)) == sorted(map(bytes, source.arrays["x"].reshape(len(source), -1)))
    with pytest.raises(UserError, match="batch_size 5000"):
        data.batches(source, 5000, 0)


def test_flips_mirror_half_of_the_batch_where_allowed():
    of = train_step.Ingredients(None, None, None, lambda x: x, None, None, rounds.Rounds((0,), (1,)), 0, flip=True)
    x = np.random.default_rng(0).integers(0, 255, (64, 4, 4, 1), dtype=np.uint8)
    out = np.asarray(train_step.prepare(of, {"x": x}, jnp.int32(0))["x"])
    plain, mirrored = x / 127.5 - 1, x[:, :, ::-1] / 127.5 - 1
    flipped = [np.allclose(o, m, atol=1e-6) for o, m in zip(out, mirrored, strict=True)]
    assert 16 < sum(flipped) < 48
    for o, p, f in zip(out, plain, flipped, strict=True):
        assert f or np.allclose(o, p, atol=1e-6)


def test_calls_of_several_updates_go_on_from_where_they_can(mixture, tmp_path):
    """Else they would step over every place to save, log and promote at."""
    config = mixture2d_stage1.get_config("tiny")
    config.teacher, config.num_updates, config.save_every, config.log_every = str(mixture / "teacher"), 12, 3, 3
    stopped = tmp_path / "run"
    trainer.run(config.to_dict(), stopped, say=quiet)
    for step in ("12",):
        (stopped / "checkpoints" / f"{step}.sha256.json").unlink(missing_ok=True)
    config.compute.updates_per_call, config.save_every, config.log_every = 2, 4, 4
    with pytest.raises(UserError, match=r"updates_per_call 2 does not divide 9, .*; go on with 1 until"):
        trainer.run(config.to_dict(), stopped, say=quiet)
