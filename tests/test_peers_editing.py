"""Inpainting beside diffusers' RePaintScheduler: the same steps from the same noise."""

import importlib.util

import beside_torch
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_distill import samplers
from guided_distill.prediction import from_eps

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("torch", "diffusers")), reason="needs torch and diffusers"
    ),
]

STEPS, TIMES = 20, 3  # So that one step of diffusers' jumps is one of ours.


@pytest.fixture
def theirs(monkeypatch):
    """(scheduler, set_noise): the scheduler draws what `set_noise` was given last."""
    import torch

    beside_torch.allow_no_torchvision()
    from diffusers.schedulers import scheduling_repaint

    drawn = {}
    monkeypatch.setattr(scheduling_repaint, "randn_tensor", lambda *_, **__: drawn["noise"])
    scheduler = scheduling_repaint.RePaintScheduler(num_train_timesteps=STEPS, beta_end=0.4, clip_sample=False)
    scheduler.set_timesteps(STEPS, 1, TIMES)
    return scheduler, lambda noise: drawn.update(noise=torch.from_numpy(np.array(noise)))


def model(z):
    """An eps that is the same in both worlds."""
    return 0.9 * np.sin(1.3 * np.asarray(z)) + 0.05 * np.asarray(z)


def test_repaint_is_diffusers(theirs):
    """Every step of a trajectory, three times each, with its way back up: 1e-5 of the largest value."""
    import torch

    scheduler, set_noise = theirs
    rng = np.random.default_rng(0)
    known, z = (rng.standard_normal((2, 4, 4, 1)).astype(np.float32) for _ in range(2))
    paint = rng.random(known.shape) < 0.5
    alpha_bar = scheduler.alphas_cumprod.numpy().astype(np.float64)
    levels = np.concatenate([np.log(alpha_bar / (1 - alpha_bar))[::-1], [np.inf]]).astype(np.float32)
    keys = jax.random.split(jax.random.key(4), len(z))
    ours, expected = [], []

    def denoise(z, logsnr, cond):
        ours.append(z)
        return from_eps(0.9 * jnp.sin(1.3 * z) + 0.05 * z, z, logsnr)

    step = samplers.masked(samplers.ddim, jnp.asarray(known), jnp.asarray(paint), TIMES)
    with jax.disable_jit():  # So that the scan is a loop.
        ours.append(samplers.sample(keys, denoise, step, jnp.asarray(z), {}, jnp.asarray(levels)))

    def noise(step_index, stream):  # As `masked` draws it.
        of = [jax.random.fold_in(jax.random.fold_in(key, step_index), stream) for key in keys]
        return samplers.per_example_noise(jnp.stack(of), jnp.asarray(z))

    sample, keep = torch.from_numpy(z), torch.from_numpy(1.0 - paint.astype(np.float32))
    for index, t in enumerate(range(STEPS - 1, -1, -1)):
        for turn in range(TIMES):
            if turn:
                set_noise(noise(index, 3 * turn))
                sample = scheduler.undo_step(sample, t)  # By betas[t], those of the step from t - 1 up to t.
            set_noise(noise(index, 3 * turn + 2))
            expected.append(sample.numpy())
            eps = torch.from_numpy(model(sample.numpy()))
            sample = scheduler.step(eps, t, sample, torch.from_numpy(known), keep).prev_sample
    expected.append(sample.numpy())
    assert len(ours) == len(expected) == STEPS * TIMES + 1
    for here, there in zip(ours, expected, strict=True):
        np.testing.assert_allclose(here, there, atol=1e-5 * float(np.abs(there).max()))
