"""The exact denoiser of a class-conditional Gaussian mixture: an oracle with the interface of a network.

x ~ mean over the modes m of a class (over all classes, for the null class) of N(m, sigma² I). Then z ~ mean of N(alpha
m, s² I) with s² = alpha² sigma² + sigma_t², and the posterior means of x and eps follow mode by mode in closed form.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_distill.schedules import alpha_sigma


class Mixture(nn.Module):
    """Exact v of a mixture. Is told the log-SNR itself (time input "logsnr"), predicts "v", has no parameters.

    `modes` [num_classes][modes of the class][d]; `sigma` is every mode's standard deviation. Label num_classes is the
    null class.
    """

    modes: tuple[tuple[tuple[float, ...], ...], ...]
    sigma: float

    @nn.compact
    def __call__(
        self, z: Float[Array, "b d"], logsnr: Float[Array, " b"], cond: Mapping[str, Array]
    ) -> Float[Array, "b d"]:
        """v = alpha eps - sigma x, posterior means given z; reads cond["label"] [b]."""
        modes = jnp.asarray([mode for of_class in self.modes for mode in of_class], jnp.float32)
        classes = jnp.asarray([k for k, of_class in enumerate(self.modes) for _ in of_class])[None]
        log_sizes = jnp.log(jnp.asarray([len(of_class) for of_class in self.modes for _ in of_class], jnp.float32))[
            None
        ]
        alpha, sigma_t = (value[:, None] for value in alpha_sigma(logsnr))
        variance = (alpha * self.sigma) ** 2 + sigma_t**2
        offset = z[:, None, :] - alpha[:, :, None] * modes[None]  # [b, modes, d]
        label = cond["label"][:, None]
        log_prior = jnp.where((label == classes) | (label == len(self.modes)), -log_sizes, -jnp.inf)
        weights = jax.nn.softmax(log_prior - jnp.sum(offset**2, axis=-1) / (2 * variance), axis=-1)
        residual = jnp.sum(weights[:, :, None] * offset, axis=1) / variance
        x = weights @ modes + alpha * self.sigma**2 * residual
        return alpha * sigma_t * residual - sigma_t * x


Network = Mixture
