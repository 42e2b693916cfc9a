"""Loss weights: log-SNR -> weight of the squared error in x (PD, section 4).

In terms of other errors: eps-MSE = SNR x-MSE, v-MSE = (1 + SNR) x-MSE; truncated SNR is the larger of the x- and the
eps-MSE.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_distill.errors import one_of
from guided_distill.prediction import Prediction

Weighting = Callable[[Float[Array, " b"]], Float[Array, " b"]]


def uniform(logsnr: Float[Array, " b"]) -> Float[Array, " b"]:
    """1: the error in x."""
    return jnp.ones_like(logsnr)


def snr(logsnr: Float[Array, " b"]) -> Float[Array, " b"]:
    """SNR: the error in eps."""
    return jnp.exp(logsnr)


def truncated_snr(logsnr: Float[Array, " b"]) -> Float[Array, " b"]:
    """max(SNR, 1): the larger of the errors in x and in eps."""
    return jnp.exp(jnp.maximum(logsnr, 0.0))


def snr_plus_one(logsnr: Float[Array, " b"]) -> Float[Array, " b"]:
    """SNR + 1: the error in v."""
    return 1 + jnp.exp(logsnr)


def make(name: str, max_logsnr: float = float("inf")) -> Weighting:
    """The weighting of that name; log-SNRs above `max_logsnr` weigh as `max_logsnr`. Raises `UserError` for an unknown
    name."""
    one_of("weighting", name, ("uniform", "snr", "truncated_snr", "snr_plus_one"))
    weighting = globals()[name]
    return lambda logsnr: weighting(jnp.minimum(logsnr, max_logsnr))


def weighted_error(
    prediction: Prediction, target: Prediction, logsnr: Float[Array, " b"], weighting: Weighting
) -> Float[Array, " b"]:
    """weight(logsnr) * mean squared error in x, [b]; the mean is over an example's entries.

    Measured in v and scaled (x-MSE = sigma² v-MSE), since v alone is accurate at every log-SNR: at 20, x-MSE would be a
    difference of float32 numbers that agree to all their digits.
    """
    error = jnp.square(prediction.v(logsnr) - target.v(logsnr))
    return weighting(logsnr) * jax.nn.sigmoid(-logsnr) * jnp.mean(error, axis=tuple(range(1, error.ndim)))
