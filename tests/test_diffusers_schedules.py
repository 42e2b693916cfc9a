"""The schedules of diffusers, by their definitions, and their configs. Beside it: test_peers_interchange."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill import prediction, samplers, schedules
from guided_distill.errors import UserError
from guided_distill.interchange import scheduler

KINDS = {
    "stable-diffusion": schedules.Discrete(),
    "ldm": schedules.Discrete(0.0015, 0.0195),
    "linear": schedules.Discrete(1e-4, 0.02, betas="linear"),
    "cosine": schedules.Discrete(betas="squaredcos_cap_v2"),
    "trained": schedules.Discrete(num_timesteps=3, trained_betas=(0.1, 0.2, 0.5)),
    "zero": schedules.Discrete(zero_terminal_snr=True),
}


def alpha_bar(schedule):
    """Of every index, float64."""
    return 1 / (1 + np.exp(-schedule.table[1][1:]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("meant", ["eps", "v", "x"])
def test_configs_come_back(kind, meant):
    schedule = KINDS[kind]
    config = json.loads(json.dumps(scheduler.config_of(schedule, meant)))
    told = scheduler.described(config, "it")
    again = schedules.make("Discrete", **told.schedule)
    assert told.prediction == meant and told.notes == []
    np.testing.assert_array_equal(again.table[1], schedule.table[1])
    assert scheduler.config_of(again, meant) == config
    assert hash(again) == hash(schedules.make("Discrete", **json.loads(json.dumps(dataclasses.asdict(again)))))


@pytest.mark.parametrize("kind", KINDS)
def test_log_snr_falls_and_is_undone(kind):
    schedule, t = KINDS[kind], jnp.linspace(0, 1, 2 * KINDS[kind].num_timesteps + 1)
    logsnr = np.asarray(schedule(t))
    assert np.all(np.isfinite(logsnr)) and np.all(np.diff(logsnr) < 0)
    np.testing.assert_allclose(schedule.inverse(logsnr), t, atol=2e-6)


def test_cosine_telescopes_until_it_is_capped():
    f = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    t = np.arange(1, 1001) / 1000
    found = alpha_bar(KINDS["cosine"])
    np.testing.assert_allclose(found[:-1], (f(t) / f(0))[:-1], rtol=1e-9)
    assert found[-1] == pytest.approx(found[-2] * 0.001)


def test_trained_betas_are_taken_instead():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    given = schedules.Discrete(beta_start=0.5, beta_end=0.6, trained_betas=betas.tolist())
    np.testing.assert_allclose(given.table[1], schedules.Discrete().table[1], rtol=1e-12)
    np.testing.assert_allclose(alpha_bar(KINDS["trained"]), [0.9, 0.72, 0.36])


def test_zero_terminal_snr_stretches_the_roots():
    """Lin et al. 2023, algorithm 1: sqrt(alpha_bar) moves linearly; its first value stays, its last becomes 0."""
    before, after = (np.sqrt(alpha_bar(KINDS[kind])) for kind in ("stable-diffusion", "zero"))
    assert after[0] == pytest.approx(before[0], rel=1e-12) and after[-1] < 1e-8
    slope = np.diff(after) / np.diff(before)
    np.testing.assert_allclose(slope[:-1], slope[0], rtol=1e-6)
    assert KINDS["zero"].table[1][-1] == schedules.LOGSNR_OF_ZERO


@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_at_zero_terminal_snr_v_is_minus_x_and_all_is_finite(num_steps):
    z, at = jax.random.normal(jax.random.key(0), (2, 3)), jnp.full((2,), KINDS["zero"](1.0))
    x = jnp.ones((2, 3))
    said = prediction.from_v(-x, z, at)
    np.testing.assert_allclose(said.x, x, atol=1e-6)
    np.testing.assert_allclose(said.eps, z, atol=1e-6)
    grid = schedules.grid(KINDS["zero"], num_steps)
    for name in ("ddim", "dpmpp_2m", "heun"):
        denoise = lambda z, logsnr, cond: prediction.from_v(0.3 * z, z, logsnr)  # noqa: E731
        end = samplers.sample(jax.random.key(1), denoise, samplers.get(name), z, {}, grid)
        assert np.all(np.isfinite(end)) and np.abs(end).max() < 10
    following = jnp.full((2,), KINDS["zero"](0.5))
    target = prediction.from_step(z, samplers.recombine(said, following), at, following)
    np.testing.assert_allclose(target.x, x, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 50])
@pytest.mark.parametrize("kind", ["stable-diffusion", "ldm", "linear", "cosine"])
def test_ddim_with_trailing_steps_in_closed_form(kind, num_steps):
    """v = a z: every step is a number. Indices are those that diffusers calls trailing; the last step returns x."""
    a, bar = 0.3, alpha_bar(KINDS[kind])
    indices = np.round(np.arange(1000, 0, -1000 / num_steps)).astype(int) - 1
    alpha, sigma = np.sqrt(bar[indices]), np.sqrt(1 - bar[indices])
    after, left = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    expected = np.prod(after * (alpha - sigma * a) + left * (sigma + alpha * a))
    denoise = lambda z, logsnr, cond: prediction.from_v(a * z, z, logsnr)  # noqa: E731
    grid = schedules.grid(KINDS[kind], num_steps)
    end = samplers.sample(jax.random.key(0), denoise, samplers.ddim, jnp.ones((1, 1)), {}, grid)
    np.testing.assert_allclose(float(end[0, 0]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"betas": "sigmoid"}, "unknown betas of a schedule 'sigmoid'; valid: scaled_linear, linear, squaredcos"),
        ({"trained_betas": (0.1, 0.2)}, "2 trained betas for 1000 timesteps"),
        ({"beta_start": 0.0}, "between 0 and 1"),
        ({"beta_end": 1.5, "betas": "linear"}, "between 0 and 1"),
        ({"logsnr_max": 3.0}, "log-SNR must fall from logsnr_max 3"),
    ],
)
def test_what_is_no_schedule_is_refused(arguments, told):
    with pytest.raises(UserError, match=told):
        schedules.make("Discrete", **arguments)


def test_what_diffusers_has_no_word_for_is_refused():
    with pytest.raises(UserError, match="no word for logsnr_max 15; expected 20"):
        scheduler.config_of(schedules.Discrete(logsnr_max=15.0), "v")
    with pytest.raises(UserError, match="unknown prediction that diffusers has a word for: 'both'"):
        scheduler.config_of(schedules.Discrete(), "both")


def test_schedulers_of_other_noise_are_refused():
    with pytest.raises(UserError, match="it is of a FlowMatchEulerDiscreteScheduler, whose noise levels"):
        scheduler.described({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "it")
    with pytest.raises(UserError, match="it has no beta_start"):
        scheduler.described({"_class_name": "DDIMScheduler", "beta_schedule": "linear"}, "it")


def test_steps_are_exact_where_they_divide():
    assert [n for n in (1, 2, 3, 4, 8, 16, 25) if scheduler.exact(schedules.Discrete(), n)] == [1, 2, 4, 8, 25]
