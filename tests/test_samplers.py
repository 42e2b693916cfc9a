"""Samplers against flows and transition laws that are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill import samplers, schedules
from guided_distill.prediction import from_x

SCHEDULE = schedules.Cosine()
MEAN, SIGMA = np.array([0.6, -0.3]), 0.25
COND = {"label": jnp.zeros(64, jnp.int32)}


def flow_end(z, logsnr_from, logsnr_to):
    """Where the probability flow of N(m, s²) takes z: the standardised position stays (Gaussian optimal transport)."""
    (a, s), (b, r) = (np.asarray(schedules.alpha_sigma(jnp.float32(v)), np.float64) for v in (logsnr_from, logsnr_to))
    scale = [np.sqrt((c * SIGMA) ** 2 + d**2) for c, d in ((a, s), (b, r))]
    return b * MEAN + scale[1] / scale[0] * (np.asarray(z, np.float64) - a * MEAN)


def noise(n=64, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, 2))


@pytest.mark.parametrize(
    "name, order, grid",
    [
        ("ddim", 1, lambda n: schedules.grid(SCHEDULE, n)),
        ("heun", 2, lambda n: schedules.grid(SCHEDULE, n)),
        # Its order is stated in log-SNR: equal steps in t are not small there at either end.
        ("dpmpp_2m", 2, lambda n: jnp.linspace(-8.0, 8.0, n + 1)),
    ],
)
def test_order_of_convergence(oracle, name, order, grid):
    z, key = noise(), jax.random.key(1)
    counts = [32, 64, 128, 256]
    errors = []
    for n in counts:
        levels = grid(n)
        end = samplers.sample(key, oracle, samplers.get(name), z, COND, levels)
        errors.append(np.abs(np.asarray(end) - flow_end(z, levels[0], levels[-1])).mean())
    fitted = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert fitted == pytest.approx(order, abs=0.15), (fitted, errors)


@pytest.mark.parametrize("name", samplers.names())
def test_one_step_returns_x(oracle, name):
    """n = 1: the prediction at t = 1, whatever the sampler."""
    z = noise()
    end = samplers.sample(jax.random.key(1), oracle, samplers.get(name), z, COND, schedules.grid(SCHEDULE, 1))
    np.testing.assert_allclose(end, oracle(z, jnp.full((64,), -20.0), COND).x, atol=1e-6)


@pytest.mark.parametrize("name", samplers.names())
def test_last_step_returns_x_and_nothing_is_nan(oracle, name):
    seen = []

    def recording(z, logsnr, cond):
        out = oracle(z, logsnr, cond)
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), out.x, ordered=True)
        return out

    end = samplers.sample(jax.random.key(1), recording, samplers.get(name), noise(), COND, schedules.grid(SCHEDULE, 4))
    jax.effects_barrier()
    assert np.all(np.isfinite(end))
    if name != "heun":  # its last call is the second slope, which it discards
        np.testing.assert_allclose(end, seen[-1], atol=1e-6)


def test_dpmpp_takes_x_at_the_middle_of_uneven_steps():
    """x that is linear in log-SNR is extrapolated exactly, whatever the steps: the middle ones are DDIM's with x of
    their middles (Lu et al. 2022, algorithm 2), the first and the last with x of where they begin."""
    levels, z = np.array([-4.0, -2.0, 1.0, 2.0, 6.0]), np.array([[0.7], [-1.2]])
    x = lambda logsnr: 0.3 + 0.2 * np.asarray(logsnr)  # noqa: E731
    denoise = lambda z, logsnr, cond: from_x(0.3 + 0.2 * logsnr[:, None] + 0 * z, z, logsnr)  # noqa: E731
    found = samplers.sample(jax.random.key(0), denoise, samplers.dpmpp_2m, jnp.asarray(z), {}, jnp.asarray(levels))
    seen = [levels[0], (levels[1] + levels[2]) / 2, (levels[2] + levels[3]) / 2, levels[3]]
    coefficients = [(np.sqrt(1 / (1 + np.exp(-v))), np.sqrt(1 / (1 + np.exp(v)))) for v in levels]
    for (alpha, sigma), (alpha_next, sigma_next), at in zip(coefficients, coefficients[1:], seen, strict=False):
        z = alpha_next * x(at) + sigma_next * (z - alpha * x(at)) / sigma
    np.testing.assert_allclose(found, z, rtol=2e-5)


def test_encode_then_decode_returns(oracle):
    x = jnp.asarray(MEAN + SIGMA * np.asarray(noise()), jnp.float32)
    key = jax.random.key(0)
    up = samplers.sample(key, oracle, samplers.ddim, x, COND, schedules.encoding_grid(SCHEDULE, 512))
    np.testing.assert_allclose(up, flow_end(x, 20.0, -20.0), atol=2e-2)
    down = samplers.sample(key, oracle, samplers.ddim, up, COND, schedules.grid(SCHEDULE, 512))
    np.testing.assert_allclose(down, x, atol=1e-2)


@pytest.mark.parametrize("name", ["stochastic", "ancestral", "consistency"])
def test_stochastic_steps_preserve_marginals_of_a_point_mass(name):
    """With x-hat = x a step maps q(z_t | x) to q(z_s | x), in mean and variance."""
    x = jnp.broadcast_to(jnp.array([0.7, -0.4]), (200_000, 2))
    point_mass = lambda z, logsnr, cond: from_x(x, z, logsnr)  # noqa: E731
    times = jnp.array([0.75, 0.5, 0.25])
    levels = tuple(jnp.full((x.shape[0],), v) for v in SCHEDULE(times))
    (alpha, sigma), (alpha_s, sigma_s) = (schedules.alpha_sigma(v[0]) for v in levels[:2])
    z = alpha * x + sigma * noise(x.shape[0])
    keys = jax.random.split(jax.random.key(2), x.shape[0])
    step = samplers.Step(samplers.ddim.init, samplers._ancestral(0.0)) if name == "ancestral" else samplers.get(name)
    _, z_s = step.update((), keys, point_mass, z, {}, levels)
    np.testing.assert_allclose(jnp.mean(z_s, 0), alpha_s * x[0], atol=6e-3)
    np.testing.assert_allclose(jnp.var(z_s, 0), sigma_s**2, rtol=1.5e-2)
    # And it does move: noise was really added.
    assert float(jnp.mean(jnp.abs(z_s - samplers.recombine(from_x(x, z, levels[0]), levels[1])))) > 0.05


def test_ancestral_variance_lies_between_posterior_and_forward():
    """Exponent 0 is the variance of q(z_s | z_t, x), 1 that of q(z_t | z_s): log-linear in between (CFG, section 2)."""
    x = jnp.zeros((100_000, 1))
    levels = tuple(jnp.full((x.shape[0],), v) for v in (-1.0, 0.5, 1.0))
    keys = jax.random.split(jax.random.key(0), x.shape[0])
    deviations = []
    for exponent in (0.0, 0.3, 1.0):
        update = samplers._ancestral(exponent)
        deviations.append(float(jnp.std(update((), keys, lambda z, logsnr, _: from_x(x, z, logsnr), x, {}, levels)[1])))
    share = 1 - np.exp(-1.5)
    sigma = [1 / (1 + np.exp(v)) for v in (-1.0, 0.5)]
    np.testing.assert_allclose(np.square(deviations)[[0, 2]], [share * sigma[1], share * sigma[0]], rtol=2e-2)
    assert np.log(deviations[1]) == pytest.approx(0.7 * np.log(deviations[0]) + 0.3 * np.log(deviations[2]), abs=1e-2)


def test_consistency_steps_of_the_flows_end_reach_the_data_distribution():
    """Algorithm 1 with the exact consistency function, which returns where the flow ends: any number of steps will do,
    as every x is of the data. With a denoiser, which returns a mean, a few steps are too narrow."""
    z, cond = noise(4096), {"label": jnp.zeros(4096, jnp.int32)}

    def ends(z, logsnr, cond):
        alpha, sigma = (value[:, None] for value in schedules.alpha_sigma(logsnr))
        standard = (z - alpha * MEAN[None]) / jnp.sqrt((alpha * SIGMA) ** 2 + sigma**2)
        return from_x(MEAN[None] + SIGMA * standard, z, logsnr)

    for steps in (1, 2, 5):
        levels = schedules.grid(SCHEDULE, steps)
        end = samplers.sample(jax.random.key(5), ends, samplers.consistency, z, cond, levels)
        np.testing.assert_allclose(end.mean(0), MEAN, atol=2e-2)
        np.testing.assert_allclose(end.std(0), SIGMA, rtol=6e-2)


@pytest.mark.parametrize("name", ["stochastic", "ancestral"])
def test_exact_denoiser_reaches_the_data_distribution(oracle, name):
    z = noise(4096)
    cond = {"label": jnp.zeros(4096, jnp.int32)}
    end = samplers.sample(jax.random.key(5), oracle, samplers.get(name), z, cond, schedules.grid(SCHEDULE, 256))
    np.testing.assert_allclose(end.mean(0), MEAN, atol=2e-2)
    np.testing.assert_allclose(end.std(0), SIGMA, rtol=6e-2)


def test_examples_do_not_depend_on_their_batch(oracle):
    keys = jax.random.split(jax.random.key(0), 64)
    run = lambda part: samplers.sample(  # noqa: E731
        keys[part],
        oracle,
        samplers.stochastic,
        noise()[part],
        {"label": COND["label"][part]},
        schedules.grid(SCHEDULE, 4),
    )
    np.testing.assert_allclose(run(slice(0, 64))[10:20], run(slice(10, 20)), atol=1e-5)
