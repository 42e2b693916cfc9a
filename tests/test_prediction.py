"""Parameterisations are the same thing: round trips, weight identities, the step target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill import prediction, schedules, weighting
from guided_distill.samplers import recombine

LOGSNR = jnp.linspace(-12.0, 12.0, 97)


def draw(seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    x, eps = (jax.random.normal(key, (97, 3, 2)) for key in keys)
    alpha, sigma = prediction.coefficients(LOGSNR, x)
    return alpha * x + sigma * eps, x, eps


@pytest.mark.parametrize("kind", ["x", "eps", "v"])
def test_round_trip(kind):
    z, x, eps = draw()
    truth = prediction.Prediction(x, eps)
    value = {"x": x, "eps": eps, "v": truth.v(LOGSNR)}[kind]
    made = getattr(prediction, f"from_{kind}")(value, z, LOGSNR)
    # Rebuilding across the gap loses exp(|logsnr| / 2) digits by nature, except in v.
    tolerance = 2e-6 if kind == "v" else 2e-3
    np.testing.assert_allclose(made.x, x, atol=tolerance)
    np.testing.assert_allclose(made.eps, eps, atol=tolerance)
    np.testing.assert_allclose(made.v(LOGSNR), truth.v(LOGSNR), atol=tolerance)


def test_both_is_the_weighted_mean_of_its_heads():
    z, x, eps = draw()
    other_x, other_eps = x + 0.3, eps - 0.2
    made = prediction.from_both(other_x, other_eps, z, LOGSNR)
    alpha, sigma = prediction.coefficients(LOGSNR, z)
    np.testing.assert_allclose(made.x, sigma**2 * other_x + (1 - sigma**2) * (z - sigma * other_eps) / alpha, atol=2e-5)
    np.testing.assert_allclose(alpha * made.x + sigma * made.eps, z, atol=2e-6)
    exact = prediction.from_both(x, eps, z, LOGSNR)
    np.testing.assert_allclose(exact.x, x, atol=2e-6)
    np.testing.assert_allclose(exact.eps, eps, atol=2e-6)


def test_clipping_recomputes_eps():
    z, x, eps = draw()
    clipped = prediction.clip(prediction.Prediction(3 * x, eps), z, LOGSNR)
    assert float(jnp.max(jnp.abs(clipped.x))) <= 1.0
    np.testing.assert_allclose(recombine(clipped, LOGSNR), z, atol=1e-5)


@pytest.mark.parametrize("name", ["uniform", "snr", "truncated_snr", "snr_plus_one"])
def test_weight_identities(name):
    """eps-MSE = SNR x-MSE, v-MSE = (1 + SNR) x-MSE, truncated SNR the larger of x and eps, for predictions of one z."""
    z, _, eps = draw()
    truth = prediction.from_eps(eps, z, LOGSNR)
    made = prediction.from_v(truth.v(LOGSNR) + 0.1 * jnp.sin(5 * z), z, LOGSNR)
    mse = {
        "uniform": jnp.mean((made.x - truth.x) ** 2, axis=(1, 2)),
        "snr": jnp.mean((made.eps - truth.eps) ** 2, axis=(1, 2)),
        "snr_plus_one": jnp.mean((made.v(LOGSNR) - truth.v(LOGSNR)) ** 2, axis=(1, 2)),
    }
    mse["truncated_snr"] = jnp.maximum(mse["uniform"], mse["snr"])
    inner = jnp.abs(LOGSNR) < 6
    got = weighting.weighted_error(made, truth, LOGSNR, weighting.make(name))
    np.testing.assert_allclose(got[inner], mse[name][inner], rtol=2e-3)


def test_weight_is_capped():
    np.testing.assert_allclose(
        weighting.make("truncated_snr", 8.0)(jnp.array([-3.0, 2.0, 20.0])), np.exp([0, 2, 8]), rtol=1e-6
    )


@pytest.mark.parametrize("num_steps", [1, 2, 8, 64, 1024])
@pytest.mark.parametrize("direction", ["down", "up"])
def test_step_target_lands_where_it_should(num_steps, direction):
    """One DDIM step with the target reaches z_next, and the target is PD's formula (float64)."""
    schedule = schedules.Cosine()
    i = np.arange(num_steps)
    if direction == "down":
        t, after = (
            schedules.to_clean(schedule, (i + 1) / num_steps),
            schedules.to_clean(schedule, jnp.asarray(i / num_steps)),
        )
    else:
        t, after = schedule(i / num_steps), schedule((i + 1) / num_steps)
    z, z_next = (jax.random.normal(key, (num_steps, 3)) for key in jax.random.split(jax.random.key(1)))
    # A neighbour as a teacher would make it: close to z, as the steps are.
    angle = [np.arctan(np.exp(-np.asarray(v, np.float64) / 2)) for v in (t, after)]
    z_next = jnp.asarray(
        np.cos(angle[0] - angle[1])[:, None] * z - np.sin(angle[0] - angle[1])[:, None] * z_next, jnp.float32
    )
    target = prediction.from_step(z, z_next, t, after)
    np.testing.assert_allclose(recombine(target, after), z_next, atol=1e-6)
    np.testing.assert_allclose(recombine(target, t), z, atol=1e-6)
    (a_t, s_t), (a_s, s_s) = ((np.cos(p)[:, None], np.sin(p)[:, None]) for p in angle)
    z, z_next = np.asarray(z, np.float64), np.asarray(z_next, np.float64)
    if direction == "down":
        np.testing.assert_allclose(target.x, (z_next - s_s / s_t * z) / (a_s - s_s / s_t * a_t), atol=3e-3, rtol=2e-3)
    else:
        np.testing.assert_allclose(target.eps, (z_next - a_s / a_t * z) / (s_s - a_s / a_t * s_t), atol=3e-3, rtol=2e-3)
