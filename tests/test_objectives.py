"""Each objective against the formula in the paper, with exact denoisers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill import schedules, weighting
from guided_distill.data import mixture2d
from guided_distill.guidance import guided, without
from guided_distill.objectives import Nets, denoising, draw_guidance, encoding, matching, progressive, uniform_times
from guided_distill.prediction import Prediction, coefficients, from_eps, from_x

SCHEDULE = schedules.Cosine()
WEIGHT = weighting.make("truncated_snr")
POINTS = mixture2d.make(num=512)
BATCH = {"x": jnp.asarray(POINTS.arrays["x"]), "label": jnp.asarray(POINTS.arrays["label"])}
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def teacher(ring):
    return guided(ring, {"label": 4})


class Recorder:
    """A student that remembers what it was asked."""

    def __init__(self, denoise):
        self.denoise = denoise

    def __call__(self, z, logsnr, cond):
        self.z, self.logsnr, self.cond = z, logsnr, cond
        return self.denoise(z, logsnr, cond)


def run(objective, student, teacher=None, num_steps=0):
    losses, _ = objective(KEY, Nets(student, teacher), BATCH, jnp.int32(num_steps))
    return np.asarray(losses["student"])


def test_matching_is_zero_at_the_guided_teacher(teacher):
    loss = run(matching.make(SCHEDULE, WEIGHT, 0.0, 4.0), teacher, teacher)
    np.testing.assert_allclose(loss, 0, atol=1e-6)


def test_matching_at_update_zero_is_the_guidance_gap(ring, teacher):
    """The conditional denoiser errs by w (x_c - x_null): loss = weight w² ||x_c - x_null||²."""
    student = Recorder(lambda z, logsnr, cond: ring(z, logsnr, without(cond, "guidance")))
    loss = run(matching.make(SCHEDULE, WEIGHT, 0.0, 4.0), student, teacher)
    z, logsnr, w = student.z, student.logsnr, student.cond["guidance"]
    assert float(w.min()) >= 0 and float(w.max()) <= 4 and float(w.std()) > 1
    c, u = ring(z, logsnr, {"label": BATCH["label"]}), ring(z, logsnr, {"label": jnp.full((512,), 4)})
    gap = {"x": jnp.mean((c.x - u.x) ** 2, 1), "eps": jnp.mean((c.eps - u.eps) ** 2, 1)}
    np.testing.assert_allclose(loss, w**2 * jnp.maximum(gap["x"], gap["eps"]), rtol=2e-3, atol=1e-5)
    assert loss.mean() > 1e-2


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_all_strengths_can_count_alike(ring, teacher, power):
    """The same draws, each example's loss divided by (1 + w)^power, in both stages."""
    student = Recorder(lambda z, logsnr, cond: ring(z, logsnr, without(cond, "guidance")))
    for make, steps in ((matching.make, 0), (progressive.make, 8)):
        plain, divided = (
            run(make(SCHEDULE, WEIGHT, 0.0, 4.0, w_power=p), student, teacher, steps) for p in (0.0, power)
        )
        np.testing.assert_allclose(divided, plain / (1 + student.cond["guidance"]) ** power, rtol=1e-5, atol=1e-9)
        assert plain.mean() > 1e-3


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_share_of_the_draws_is_at_the_last_step(teacher, stochastic):
    """Of the rest, as many at each step; and the same examples otherwise."""
    drawn = {}
    for share in (0.0, 0.5, 1.0):
        student = Recorder(teacher)
        objective = progressive.make(SCHEDULE, WEIGHT, 0.0, 4.0, stochastic=stochastic, last_share=share)
        assert np.isfinite(run(objective, student, teacher, 8)).all()
        drawn[share] = np.round(np.asarray(SCHEDULE.inverse(student.logsnr)) * 8).astype(int)
    assert set(drawn[1.0]) == {1} and set(drawn[0.5]) == set(range(1, 9))
    kept = drawn[0.5] != 1
    np.testing.assert_array_equal(drawn[0.5][kept], drawn[0.0][kept])
    assert np.mean(drawn[0.5] == 1) == pytest.approx(0.5 + 0.5 / 8, abs=0.06)
    with pytest.raises(ValueError, match=r"last_share .* no probability"):
        progressive.make(SCHEDULE, WEIGHT, 0.0, 4.0, last_share=1.5)
    for module in (matching, progressive, encoding):
        with pytest.raises(ValueError, match=r"w_min_share .* no probability"):
            module.make(SCHEDULE, WEIGHT, 0.0, 4.0, w_min_share=2.0)


def test_single_w_and_share_at_the_lower_end():
    assert set(np.asarray(draw_guidance(KEY, 64, 1.0, 1.0, 0.0))) == {1.0}
    w = np.asarray(draw_guidance(KEY, 20_000, 0.5, 4.0, 0.2))
    assert np.mean(w == 0.5) == pytest.approx(0.2, abs=0.01)
    assert w[w > 0.5].mean() == pytest.approx(2.25, abs=0.05)


def test_gridded_times(teacher):
    student = Recorder(teacher)
    run(matching.make(SCHEDULE, WEIGHT, 0.0, 4.0, grid=8), student, teacher)
    indices = np.asarray(SCHEDULE.inverse(student.logsnr)) * 8
    np.testing.assert_allclose(indices, np.round(indices), atol=1e-3)
    assert sorted(set(np.round(indices))) == list(range(1, 9))


def test_times_are_uniform_one_by_one_and_together():
    times = np.stack([uniform_times(key, 16) for key in jax.random.split(KEY, 4000)])
    assert times[:, 3].mean() == pytest.approx(0.5, abs=0.02) and times[:, 3].var() == pytest.approx(1 / 12, abs=0.004)
    assert np.all(np.diff(np.sort(times[0])) == pytest.approx(1 / 16, abs=1e-5))


def test_denoising_optimum_is_the_posterior_mean(ring):
    """At the exact denoiser no small change of the prediction lowers the loss, and labels are dropped at their rate."""
    student = Recorder(ring)
    objective = denoising.make(SCHEDULE, weighting.make("snr_plus_one"), {"label": 4}, dropout=0.25)
    exact = run(objective, student).mean()
    assert np.mean(np.asarray(student.cond["label"]) == 4) == pytest.approx(0.25, abs=0.06)
    for scale in (0.9, 1.1):
        worse = run(objective, lambda z, logsnr, cond, s=scale: from_x(s * ring(z, logsnr, cond).x, z, logsnr)).mean()
        assert worse > exact


def test_denoising_is_zero_at_the_truth():
    student = Recorder(lambda z, logsnr, cond: from_x(BATCH["x"], z, logsnr))
    loss = run(denoising.make(SCHEDULE, weighting.make("uniform"), {}, dropout=0.5), student)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_array_equal(student.cond["label"], BATCH["label"])


def paper_target(teacher, z, cond, num_steps, index, stochastic):
    """Stage two of GD as the paper writes it: two DDIM steps, then x solved from one; `index` is t N."""
    length = (2 if stochastic else 1) / num_steps
    t = index / num_steps
    mid, s = jnp.maximum(t - length / 2, 0.0), jnp.maximum(t - length, 0.0)
    levels = [SCHEDULE(t), *(schedules.to_clean(SCHEDULE, jnp.where(v < 1e-6, 0.0, v)) for v in (mid, s))]
    (a_t, s_t), (a_m, s_m), (a_s, s_s) = (coefficients(level, z) for level in levels)
    first = teacher(z, levels[0], cond)
    z_mid = a_m * first.x + s_m * (z - a_t * first.x) / s_t
    second = teacher(z_mid, jnp.where(jnp.isinf(levels[1]), 0.0, levels[1]), cond)
    z_end = a_s * second.x + s_s * (z_mid - a_m * second.x) / jnp.where(s_m == 0, 1.0, s_m)
    z_end = jnp.where(s_m == 0, z_mid, z_end)
    ratio = jnp.exp(0.5 * (jax.nn.softplus(levels[0]) - jax.nn.softplus(levels[2])))[:, None]  # sigma_s / sigma_t
    return (z_end - ratio * z) / (a_s - ratio * a_t)


@pytest.mark.parametrize(
    "num_steps, stochastic", [(1, False), (2, False), (16, False), (2, True), (4, True), (16, True)]
)
def test_progressive_target_is_the_papers(teacher, num_steps, stochastic):
    def student(z, logsnr, cond):
        index = jnp.round(SCHEDULE.inverse(logsnr) * num_steps)
        seen.append(np.asarray(index))
        return from_x(paper_target(teacher, z, cond, num_steps, index, stochastic), z, logsnr)

    seen = []
    loss = run(progressive.make(SCHEDULE, WEIGHT, 0.0, 4.0, stochastic=stochastic), student, teacher, num_steps)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert set(seen[0]) == set(range(1, num_steps + 1))
    wrong = run(progressive.make(SCHEDULE, WEIGHT, 0.0, 4.0, stochastic=not stochastic), student, teacher, num_steps)
    assert wrong.max() > 1e-4  # the other kind has another target


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_quartering_student_lands_where_four_steps_of_its_teacher_do(teacher, num_steps):
    def student(z, logsnr, cond):
        """x solved from one DDIM step to the end of four."""
        index = jnp.round(SCHEDULE.inverse(logsnr) * num_steps)
        times = [(index - back) / num_steps for back in (0.0, 0.25, 0.5, 0.75, 1.0)]
        levels = [SCHEDULE(times[0]), *(schedules.to_clean(SCHEDULE, time) for time in times[1:])]
        moved = z
        for now, then in itertools.pairwise(levels):
            (a, s), (to_a, to_s) = coefficients(now, z), coefficients(then, z)
            x = teacher(moved, now, cond).x
            moved = to_a * x + to_s * (moved - a * x) / s
        (a, s), (to_a, to_s) = coefficients(levels[0], z), coefficients(levels[-1], z)
        return from_x((moved - to_s / s * z) / (to_a - to_s / s * a), z, logsnr)

    loss = run(progressive.make(SCHEDULE, WEIGHT, 0.0, 4.0, factor=4), student, teacher, num_steps)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert run(progressive.make(SCHEDULE, WEIGHT, 0.0, 4.0), student, teacher, num_steps).max() > 1e-4


def test_a_chain_to_be_guided_afterwards_learns_the_null_class_as_well(teacher):
    student = Recorder(teacher)
    seen = Recorder(teacher)
    run(progressive.make(SCHEDULE, WEIGHT, 0.0, 0.0, null={"label": 4}, dropout=0.25), student, seen, 4)
    assert np.mean(np.asarray(student.cond["label"]) == 4) == pytest.approx(0.25, abs=0.06)
    np.testing.assert_array_equal(student.cond["label"], seen.cond["label"])


@pytest.mark.parametrize("num_steps", [1, 4, 16])
def test_encoding_target_is_the_papers(teacher, num_steps):
    """eps = (z_u - (alpha_u/alpha_t) z_t) / (sigma_u - (alpha_u/alpha_t) sigma_t) after two upward DDIM steps."""

    def student(z, logsnr, cond):
        index = jnp.round(SCHEDULE.inverse(logsnr) * num_steps)
        levels = [SCHEDULE((index + ahead) / num_steps) for ahead in (0.0, 0.5, 1.0)]
        (a_t, s_t), (a_m, s_m), (a_u, s_u) = (coefficients(level, z) for level in levels)
        first = teacher(z, levels[0], cond)
        z_mid = a_m * first.x + s_m * first.eps
        second = teacher(z_mid, levels[1], cond)
        z_end = a_u * second.x + s_u * second.eps
        return from_eps((z_end - a_u / a_t * z) / (s_u - a_u / a_t * s_t), z, logsnr)

    loss = run(encoding.make(SCHEDULE, WEIGHT), student, teacher, num_steps)
    np.testing.assert_allclose(loss, 0, atol=1e-5)


def test_loss_has_gradient_only_through_the_student(teacher):
    objective = progressive.make(SCHEDULE, WEIGHT, 0.0, 4.0)

    def loss(scale):
        scaled = lambda z, logsnr, cond: Prediction(*(scale * a for a in teacher(z, logsnr, cond)))  # noqa: E731
        return jnp.mean(objective(KEY, Nets(teacher, scaled), BATCH, jnp.int32(4))[0]["student"])

    assert float(jax.grad(loss)(1.1)) == 0.0
