"""Numbers and labels as vectors: Fourier features, and the vector that modulates a network's blocks.

PD: Progressive Distillation (Salimans and Ho, arXiv:2202.00512); GD: On Distillation of Guided Diffusion
Models (Meng et al., arXiv:2210.03142). Everything here is float32: in bfloat16 the times 936 and 937 are the
same number.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Real

from guided_distill.errors import UserError


def sinusoidal(values: Real[Array, " b"], dim: int, max_period: float = 10000.0) -> Float[Array, "b {dim}"]:
    """[sin(f v), cos(f v)], float32: dim / 2 log-spaced angular frequencies f from 1 down to 1 / max_period.

    To cover frequencies from F down to G, pass F * values and max_period = F / G.

    Raises:
      ValueError: `dim` is odd or less than 2.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"sinusoidal features come in pairs: dim {dim} is not a positive even number")
    frequencies = np.exp(-np.log(max_period) * np.linspace(0.0, 1.0, dim // 2)).astype(np.float32)
    angles = values.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class GuidanceEmbedding(nn.Module):
    """w [b] -> [b, features] float32: Fourier features, then Dense-swish-Dense (GD, stage one).

    `guidance_out` starts at zero, bias included: a network that gets this embedding added starts as the
    network without it. Only that layer may be zero: with `guidance_in` at zero too, no gradient would reach
    either kernel.

    Fields: `features` = width of the output; `multiplier` scales w before its `dim` (default `features`)
    Fourier features, which reach down to the angular frequency multiplier / max_period.
    """

    features: int
    multiplier: float = 1000.0
    dim: int | None = None
    max_period: float = 10000.0

    @nn.compact
    def __call__(self, w: Real[Array, " b"]) -> Float[Array, "b {self.features}"]:
        """w (0 = off), in its own units, as it is in cond["guidance"]."""
        fourier = sinusoidal(w.astype(jnp.float32) * self.multiplier, self.dim or self.features, self.max_period)
        h = nn.swish(nn.Dense(self.features, name="guidance_in")(fourier))
        return nn.Dense(self.features, kernel_init=nn.initializers.zeros, name="guidance_out")(h)


class Conditioning(nn.Module):
    """The sum of a time, a label and a guidance vector, [b, features] float32.

    Time: Fourier features of time * time_multiplier, then Dense-swish-Dense. Label: a table of num_classes +
    1 rows of unit variance, of which the last is the null class; no table if num_classes is 0. Guidance:
    `GuidanceEmbedding` of w if `embed_guidance`, and one of its own of w_image if `embed_guidance_image`.
    `dim` and `max_period` are those of the Fourier features of both time and w. (PD, appendix on
    architectures; GD, stage one)
    """

    features: int
    dim: int
    num_classes: int = 0
    embed_guidance: bool = False
    time_multiplier: float = 1000.0
    guidance_multiplier: float = 1000.0
    max_period: float = 10000.0
    embed_guidance_image: bool = False

    @nn.compact
    def __call__(self, time: Real[Array, " b"], cond: Mapping[str, Array]) -> Float[Array, "b {self.features}"]:
        """Reads cond["label"] int [b] iff num_classes > 0, cond["guidance"] [b] iff embed_guidance, and
        cond["guidance_image"] [b] iff embed_guidance_image.

        Raises:
          UserError: an entry that is needed is missing.
        """
        fourier = sinusoidal(time.astype(jnp.float32) * self.time_multiplier, self.dim, self.max_period)
        h = nn.swish(nn.Dense(self.features, name="time_in")(fourier))
        h = nn.Dense(self.features, name="time_out")(h)
        if self.num_classes:
            table = nn.Embed(
                self.num_classes + 1, self.features, embedding_init=nn.initializers.normal(1.0), name="label"
            )
            h = h + table(required(cond, "label", f"num_classes is {self.num_classes}"))
        embedded = {"guidance": self.embed_guidance, "guidance_image": self.embed_guidance_image}
        for name in (name for name, wanted in embedded.items() if wanted):
            embed = GuidanceEmbedding(self.features, self.guidance_multiplier, self.dim, self.max_period, name=name)
            h = h + embed(required(cond, name, f"embed_{name} is set"))
        return h


def required(cond: Mapping[str, Array], name: str, reason: str) -> Array:
    """cond[name].

    Raises:
      UserError: it is not there; says why the network needs it and what there is.
    """
    if name not in cond:
        raise UserError(f"this network needs cond[{name!r}], since {reason}; given: {sorted(cond) or 'nothing'}")
    return cond[name]
