"""Samplers: a step and one `lax.scan`. N steps are N forwards (heun: 2N - 1 or 2N).

A step is `Step(init, update)`: `init(z) -> carry`, and `update(carry, keys, denoise, z, cond, logsnrs) -> (carry, z)`
with `logsnrs` = (now, next, after next), each [b], the last one repeated at the end. The past goes in the carry. `keys`
are one per example, so that example k never depends on the batch that it is drawn in. Clean data is logsnr = +inf: a
step that lands there returns the predicted x.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from guided_distill.errors import one_of
from guided_distill.prediction import Cond, Denoiser, Prediction, coefficients, expand

NOISY = ("stochastic", "ancestral", "consistency")  # They add noise of their own: the same start has no same sample.


class Step(NamedTuple):
    """One sampler: see the module's docstring."""

    init: Callable
    update: Callable


def get(name: str) -> Step:
    """The step of that name. Raises `UserError`, naming the valid ones."""
    one_of("sampler", name, names())
    return globals()[name]


def names() -> list[str]:
    """The samplers that there are."""
    return [name for name, value in globals().items() if isinstance(value, Step)]


def sample(
    key: Key[Array, "*b"],
    denoise: Denoiser,
    step: Step | tuple[Callable, Callable],
    z: Float[Array, "b *s"],
    cond: Cond,
    logsnrs: Float[Array, " levels"],
) -> Float[Array, "b *s"]:
    """Runs `step` along `logsnrs` (monotone; falling = encoding, which only `ddim` is meant for) and returns z at the
    last of them.

    `key`: one, which is split over the batch, or one per example.
    """
    (init, update), batch = step, z.shape[0]
    keys = jax.random.split(key, batch) if key.ndim == 0 else key
    padded = jnp.concatenate([logsnrs, logsnrs[-1:]])
    levels = jnp.stack([padded[:-2], padded[1:-1], padded[2:]], axis=1)

    def body(carry, inputs):
        index, level = inputs
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        now, following, after = (jnp.broadcast_to(value, (batch,)) for value in level)
        return update(carry[0], step_keys, denoise, carry[1], cond, (now, following, after)), None

    indices = jnp.arange(levels.shape[0])
    (_, z), _ = jax.lax.scan(body, (init(z), z), (indices, levels))
    return z


def per_example_noise(keys: Key[Array, " b"], like: Float[Array, "b *s"]) -> Float[Array, "b *s"]:
    """Standard normal noise in which example k depends on key k only."""
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)


def recombine(prediction: Prediction, logsnr: Float[Array, " b"]) -> Float[Array, "b *s"]:
    """z = alpha x + sigma eps: the deterministic step to `logsnr` (DDIM: Song et al. 2021, eta = 0)."""
    alpha, sigma = coefficients(logsnr, prediction.x)
    return alpha * prediction.x + sigma * prediction.eps


def forward_variance(noisier: Float[Array, " b"], cleaner: Float[Array, " b"]) -> Float[Array, " b"]:
    """sigma²_{a|b} / sigma_a² = 1 - exp(logsnr_a - logsnr_b), in [0, 1], a noisier than b; 0 where both are clean."""
    return -jnp.expm1(jnp.where(noisier == cleaner, 0.0, noisier - cleaner))


def forward(
    keys: Key[Array, " b"],
    z: Float[Array, "b *s"],
    cleaner: Float[Array, " b"],
    noisier: Float[Array, " b"],
) -> Float[Array, "b *s"]:
    """A draw of q(z_t | z_s), t noisier than s: (alpha_t / alpha_s) z_s + sigma_t sqrt(1 - exp(logsnr_t - logsnr_s))
    eps. From clean data (logsnr = +inf) it is alpha_t x + sigma_t eps; from a level to itself, z."""
    (alpha_clean, _), (alpha, sigma) = coefficients(cleaner, z), coefficients(noisier, z)
    deviation = sigma * expand(jnp.sqrt(forward_variance(noisier, cleaner)), z)
    return (alpha / alpha_clean) * z + deviation * per_example_noise(keys, z)


def _no_past(z):
    return ()


def _ddim(carry, keys, denoise, z, cond, logsnrs):
    now, following, _ = logsnrs
    return carry, recombine(denoise(z, now, cond), following)


def _ancestral(exponent: float):
    def update(carry, keys, denoise, z, cond, logsnrs):
        now, following, _ = logsnrs
        x = denoise(z, now, cond).x
        (alpha, _), (alpha_next, _) = coefficients(now, z), coefficients(following, z)
        share = forward_variance(now, following)
        # CFG, ancestral sampler: mean and interpolated variance of q(z_s | z_t, x).
        mean = expand(1 - share, z) * (alpha_next / alpha) * z + expand(share, z) * alpha_next * x
        log_sigma = jax.nn.log_sigmoid(-following) * (1 - exponent) + jax.nn.log_sigmoid(-now) * exponent
        deviation = jnp.where(jnp.isinf(following), 0.0, jnp.sqrt(share * jnp.exp(log_sigma)))
        return carry, mean + expand(deviation, z) * per_example_noise(keys, z)

    return update


def _stochastic(carry, keys, denoise, z, cond, logsnrs):
    # GD, stochastic sampling: down to k = t - 2/N without noise, then back up to s = t - 1/N with it.
    now, following, after = logsnrs
    return carry, forward(keys, recombine(denoise(z, now, cond), after), after, following)


def _consistency(carry, keys, denoise, z, cond, logsnrs):
    # Multistep consistency sampling (Song et al. 2023, algorithm 1), as of LCM: to x, and back up with new noise.
    now, following, _ = logsnrs
    clean = jnp.full_like(following, jnp.inf)
    return carry, forward(keys, denoise(z, now, cond).x, clean, following)


def _heun(carry, keys, denoise, z, cond, logsnrs):
    # Heun's rule (Karras et al. 2022, algorithm 1) on dz/dphi = v, phi = arctan(sigma / alpha), in which DDIM is the
    # exponential Euler step: average x and eps over both ends. Where the step ends in clean data there is no second
    # slope, so it stays Euler's.
    now, following, _ = logsnrs
    first = denoise(z, now, cond)
    clean = jnp.isinf(following)
    second = denoise(recombine(first, following), jnp.where(clean, now, following), cond)
    second = jax.tree.map(lambda a, b: jnp.where(expand(clean, z), a, b), first, second)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    (alpha, sigma), (alpha_next, sigma_next) = coefficients(now, z), coefficients(following, z)
    cos = alpha * alpha_next + sigma * sigma_next
    sin = -alpha_next * sigma * expand(jnp.expm1((now - following) / 2), z)
    return carry, cos * z - sin * mean.v(now)


def _dpmpp_2m(carry, keys, denoise, z, cond, logsnrs):
    # DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) in half log-SNR; its first and last steps are of first order.
    now, following, after = logsnrs
    x = denoise(z, now, cond).x
    past_x, past_h = carry
    h = (following - now) / 2
    first_order = (past_h == 0) | (following == after)
    slope = jnp.where(first_order, 0.0, h / (2 * jnp.where(past_h == 0, 1.0, past_h)))
    data = x + expand(jnp.where(first_order, 0.0, slope), z) * (x - past_x)
    alpha_next, sigma_next = coefficients(following, z)
    _, sigma = coefficients(now, z)
    z = (sigma_next / sigma) * z - alpha_next * expand(jnp.expm1(-h), z) * data
    return (x, h), z


def masked(step: Step, known: Float[Array, "b *s"], mask: Bool[Array, "b *s"], resample: int | Array = 1) -> Step:
    """`step` that paints only where `mask` is true. Elsewhere stands `known`, clean data, at the level that the step
    lands on, with fresh noise; at clean data as it is.

    Each step is taken `resample` times (may be traced): in between, what it landed on goes back up, known and painted
    alike, so that the two come to agree (RePaint: Lugmayr et al. 2022, algorithm 1, with jumps of one step. There the
    last step is taken once; here as often as the others, since few-step models decide most of a picture in it). With a
    mask that is true everywhere and `resample` 1 it is `step`, bit for bit.
    """

    def update(past, keys, denoise, z, cond, logsnrs):
        now, following, _ = logsnrs
        stream = lambda index: jax.vmap(jax.random.fold_in, (0, None))(keys, index)  # noqa: E731

        def once(turn, state):
            start = jnp.where(turn == 0, z, forward(stream(3 * turn), state[1], following, now))
            own_keys = jnp.where(turn == 0, keys, stream(3 * turn + 1))
            carry, painted = step.update(past, own_keys, denoise, start, cond, logsnrs)
            there = forward(stream(3 * turn + 2), known, jnp.full_like(following, jnp.inf), following)
            return carry, jnp.where(mask, painted, there)

        return jax.lax.fori_loop(0, resample, once, (past, z))

    return Step(step.init, update)


ddim = Step(_no_past, _ddim)
ancestral = Step(_no_past, _ancestral(0.3))
stochastic = Step(_no_past, _stochastic)
consistency = Step(_no_past, _consistency)
heun = Step(_no_past, _heun)
dpmpp_2m = Step(lambda z: (jnp.zeros_like(z), jnp.zeros(z.shape[:1], z.dtype)), _dpmpp_2m)
