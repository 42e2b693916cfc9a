"""Guidance is a Denoiser of Denoisers."""

import jax
import jax.numpy as jnp
import numpy as np

from guided_distill import guidance
from guided_distill.prediction import from_v

LABEL = jnp.array([0, 1, 2, 3, 0, 1])
NULL = {"label": 4}


def inputs(w):
    z = jax.random.normal(jax.random.key(0), (6, 2))
    return z, jnp.linspace(-15.0, 15.0, 6), {"label": LABEL, "guidance": jnp.full((6,), w)}


def halves(ring, z, logsnr):
    return ring(z, logsnr, {"label": LABEL}), ring(z, logsnr, {"label": jnp.full((6,), 4)})


def test_zero_is_exactly_conditional(ring):
    z, logsnr, cond = inputs(0.0)
    conditional, _ = halves(ring, z, logsnr)
    for got, want in zip(guidance.guided(ring, NULL)(z, logsnr, cond), conditional, strict=True):
        np.testing.assert_array_equal(got, want)


def test_extrapolates_x_eps_and_v(ring):
    z, logsnr, cond = inputs(3.0)
    c, u = halves(ring, z, logsnr)
    got = guidance.guided(ring, NULL)(z, logsnr, cond)
    np.testing.assert_allclose(got.x, 4 * c.x - 3 * u.x, atol=1e-5)
    np.testing.assert_allclose(got.eps, 4 * c.eps - 3 * u.eps, atol=1e-5)
    np.testing.assert_allclose(got.v(logsnr), 4 * c.v(logsnr) - 3 * u.v(logsnr), atol=1e-5)


def test_one_network_is_asked_once_for_twice_the_batch(ring):
    calls = []

    def counting(z, logsnr, cond):
        calls.append((z.shape[0], sorted(cond)))
        return ring(z, logsnr, cond)

    guidance.guided(counting, NULL)(*inputs(1.0))
    assert calls == [(12, ["label"])]


def test_two_networks_give_the_same_answer(ring):
    z, logsnr, cond = inputs(2.0)
    unconditional = lambda z, logsnr, cond: ring(z, logsnr, {"label": jnp.full(z.shape[:1], 4)})  # noqa: E731
    one = guidance.guided(ring, NULL)(z, logsnr, cond)
    two = guidance.guided(ring, {}, other=unconditional)(z, logsnr, cond)
    np.testing.assert_allclose(two.x, one.x, atol=1e-5)
    np.testing.assert_allclose(two.eps, one.eps, atol=1e-5)


def test_eps_survives_at_high_logsnr():
    """eps rebuilt from a float32 x would be off by 1e-3 at logsnr 20."""
    eps = jax.random.normal(jax.random.key(3), (4, 2))

    def plain(z, logsnr, cond):
        return from_v(jnp.concatenate([eps, -eps]), z, logsnr)

    z, logsnr = jnp.ones((4, 2)), jnp.full((4,), 20.0)
    cond = {"label": jnp.zeros(4, jnp.int32), "guidance": jnp.ones(4)}
    np.testing.assert_allclose(guidance.guided(plain, NULL)(z, logsnr, cond).eps, 3 * eps + 4.54e-5, atol=1e-5)


def test_interval_switches_guidance_off_outside(ring):
    z, logsnr, cond = inputs(2.0)
    limited = guidance.interval(guidance.guided(ring, NULL), (-4.0, 4.0))(z, logsnr, cond)
    inside = np.abs(np.asarray(logsnr)) <= 4
    full, off = (guidance.guided(ring, NULL)(z, logsnr, {**cond, "guidance": jnp.full((6,), w)}) for w in (2.0, 0.0))
    np.testing.assert_array_equal(limited.x, np.where(inside[:, None], full.x, off.x))
    assert inside.any() and not inside.all()


def test_clipped_stays_in_range(ring):
    out = guidance.clipped(lambda z, logsnr, cond: ring(4 * z, logsnr, cond))(*inputs(0.0)[:2], {"label": LABEL})
    assert float(jnp.max(jnp.abs(out.x))) <= 1.0
