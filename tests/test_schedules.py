"""t <-> log-SNR."""

import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill import schedules
from guided_distill.errors import UserError

ALL = [
    schedules.Cosine(),
    schedules.Cosine(-10.0, 12.0),
    schedules.ShiftedCosine(resolution=256),
    schedules.Discrete(),
    schedules.Discrete(0.0015, 0.0195),
]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_inverse_undoes_and_decreases(schedule):
    t = jnp.linspace(0, 1, 1025)
    logsnr = schedule(t)
    assert np.all(np.diff(np.asarray(logsnr)) < 0)
    np.testing.assert_allclose(schedule.inverse(logsnr), t, atol=2e-6)


def test_cosine_against_float64_closed_form():
    t = np.linspace(0, 1, 4097)
    b = np.arctan(np.exp(-10.0))
    a = np.arctan(np.exp(10.0)) - b
    np.testing.assert_allclose(schedules.Cosine()(t), -2 * np.log(np.tan(a * t + b)), atol=2e-4)
    check = {0: 20, 1 / 1024: 12.90, 1 / 16: 4.63, 1 / 8: 3.23, 0.25: 1.763, 0.5: 0, 0.75: -1.763, 1: -20}
    for time, value in check.items():
        assert float(schedules.Cosine()(time)) == pytest.approx(value, abs=6e-3)


def test_cosine_is_antisymmetric():
    t = jnp.linspace(0, 1, 257)
    np.testing.assert_allclose(schedules.Cosine()(t), -schedules.Cosine()(1 - t), atol=2e-4)


def test_shift_moves_by_the_resolution():
    t = jnp.linspace(0, 1, 9)
    shifted = schedules.ShiftedCosine(resolution=256)(t)
    np.testing.assert_allclose(shifted - schedules.Cosine()(t), np.log(1 / 16), rtol=1e-5)


@pytest.mark.parametrize("betas, ends", [((0.00085, 0.012), (7.07, -5.36)), ((0.0015, 0.0195), (6.50, -8.86))])
def test_discrete_ends_and_trailing_steps(betas, ends):
    schedule = schedules.Discrete(*betas)
    assert float(schedule(1 / 1000)) == pytest.approx(ends[0], abs=5e-3)
    assert float(schedule(1.0)) == pytest.approx(ends[1], abs=5e-3)
    assert float(schedule(0.0)) == 20.0
    t = schedule.inverse(schedules.grid(schedule, 4)[:-1])
    np.testing.assert_allclose(t * 1000 - 1, [999, 749, 499, 249], atol=1e-3)


def test_discrete_alphas_are_the_product_of_betas():
    schedule = schedules.Discrete()
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha, sigma = schedules.alpha_sigma(schedule(jnp.arange(1, 1001) / 1000))
    np.testing.assert_allclose(alpha**2, np.cumprod(1 - betas), rtol=1e-4)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)


def test_grid_ends_in_clean_data():
    grid = schedules.grid(schedules.Cosine(), 4)
    assert grid.shape == (5,) and jnp.isinf(grid[-1]) and grid[0] == -20.0
    np.testing.assert_array_equal(jnp.stack(schedules.alpha_sigma(grid[-1])), [1, 0])
    assert jnp.all(jnp.isfinite(schedules.encoding_grid(schedules.Cosine(), 4)))


def test_unknown_names_are_refused_with_the_valid_ones():
    with pytest.raises(UserError, match="Cosine, ShiftedCosine, Discrete"):
        schedules.make("Linear")
    with pytest.raises(UserError, match="lambda_max"):
        schedules.make("Cosine", lambda_max=3)
