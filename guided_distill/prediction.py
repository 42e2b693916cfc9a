"""What a denoiser says: (x, eps), from any parameterisation. The only currency of the package.

With z = alpha x + sigma eps, and v = alpha eps - sigma x (PD, section 4 and appendix D). x and eps are both kept,
because each is inaccurate where it has to be rebuilt from the other: x at low and eps at high log-SNR.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from guided_distill.schedules import alpha_sigma

Cond = Mapping[str, Array]


class Prediction(NamedTuple):
    """Predicted clean data and predicted noise, both [b, ...]."""

    x: Float[Array, "b *s"]
    eps: Float[Array, "b *s"]

    def v(self, logsnr: Float[Array, " b"]) -> Float[Array, "b *s"]:
        """v = alpha eps - sigma x."""
        alpha, sigma = coefficients(logsnr, self.x)
        return alpha * self.eps - sigma * self.x


Denoiser = Callable[[Float[Array, "b *s"], Float[Array, " b"], Cond], Prediction]
"""(z [b, ...], logsnr [b], cond) -> Prediction."""


def expand(values: Shaped[Array, " b"], like: Float[Array, "b *s"]) -> Shaped[Array, "b *ones"]:
    """[b] -> [b, 1, ...] with the rank of `like`."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def coefficients(logsnr: Float[Array, " b"], like: Float[Array, "b *s"]) -> tuple[Array, Array]:
    """(alpha, sigma), each [b, 1, ...] with the rank of `like`."""
    alpha, sigma = alpha_sigma(logsnr)
    return expand(alpha, like), expand(sigma, like)


def from_x(x: Float[Array, "b *s"], z: Float[Array, "b *s"], logsnr: Float[Array, " b"]) -> Prediction:
    """eps = (z - alpha x) / sigma."""
    alpha, sigma = coefficients(logsnr, z)
    return Prediction(x, (z - alpha * x) / sigma)


def from_eps(eps: Float[Array, "b *s"], z: Float[Array, "b *s"], logsnr: Float[Array, " b"]) -> Prediction:
    """x = (z - sigma eps) / alpha."""
    alpha, sigma = coefficients(logsnr, z)
    return Prediction((z - sigma * eps) / alpha, eps)


def from_v(v: Float[Array, "b *s"], z: Float[Array, "b *s"], logsnr: Float[Array, " b"]) -> Prediction:
    """x = alpha z - sigma v; eps = sigma z + alpha v (PD, appendix D)."""
    alpha, sigma = coefficients(logsnr, z)
    return Prediction(alpha * z - sigma * v, sigma * z + alpha * v)


def from_both(
    x_head: Float[Array, "b *s"], eps_head: Float[Array, "b *s"], z: Float[Array, "b *s"], logsnr: Float[Array, " b"]
) -> Prediction:
    """x = sigma² x_head + alpha² (z - sigma eps_head) / alpha (PD, section 4), and the eps that belongs to it,
    divisions cancelled."""
    alpha, sigma = coefficients(logsnr, z)
    x = sigma**2 * x_head + alpha * (z - sigma * eps_head)
    return Prediction(x, sigma * (z - alpha * x_head) + alpha**2 * eps_head)


def from_step(
    z: Float[Array, "b *s"],
    z_next: Float[Array, "b *s"],
    logsnr: Float[Array, " b"],
    logsnr_next: Float[Array, " b"],
) -> Prediction:
    """The prediction at `logsnr` with which one DDIM step from z lands on z_next: the target of stage two.

    Equal to x = (z_s - (sigma_s/sigma_t) z_t) / (alpha_s - (sigma_s/sigma_t) alpha_t) (PD, stage target), and
    towards noise to eps = (z_u - (alpha_u/alpha_t) z_t) / (sigma_u - (alpha_u/alpha_t) sigma_t). Written as a rotation,
    since a DDIM step is one by the angle d between the two (PD, appendix D): z_s = cos(d) z_t - sin(d) v. That form is
    accurate in both directions and at both ends, clean data (logsnr_next = inf) included.
    """
    alpha, sigma = coefficients(logsnr, z)
    alpha_next, sigma_next = coefficients(logsnr_next, z)
    cos = alpha * alpha_next + sigma * sigma_next
    # sin(d) = sigma alpha_s - alpha sigma_s, without its cancellation for small steps.
    sin = -alpha_next * sigma * expand(jnp.expm1((logsnr - logsnr_next) / 2), z)
    return from_v((cos * z - z_next) / sin, z, logsnr)


def clip(prediction: Prediction, z: Float[Array, "b *s"], logsnr: Float[Array, " b"]) -> Prediction:
    """x clipped to [-1, 1], eps recomputed from the clipped x (PD; GD)."""
    return from_x(jnp.clip(prediction.x, -1.0, 1.0), z, logsnr)
