"""A residual MLP for points: the network for data sets such as `mixture2d`, where the truth is known."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from guided_distill.layers.embeddings import Conditioning

MAX_FREQUENCY = 16 * np.pi
MIN_FREQUENCY = np.pi / 2
"""Angular: from eight periods to a quarter of one as time goes from 0 to 1."""


class Mlp(nn.Module):
    """(z [b, d], time [b], cond) -> [b, out_channels], by residual blocks h + Dense(swish(FiLM(Dense(h)))).

    Scale and shift come from one small vector of time, label and w, so that blocks cost little more than
    their two matrix products. A new network returns zero; its guidance input starts without effect.

    Fields:
      out_channels: of the output; twice d where x and eps are both predicted.
      num_classes: 0 = no label is read; else the table has a row more: label `num_classes`, the null class.
      embed_guidance: read cond["guidance"], the guidance strength w (0 = off).
      width, depth: of the residual stream, and the number of blocks.
      guidance_divisor: w is divided by it before its Fourier features: the largest w of the training range
        brings it to [0, 1], where time lives too.
      num_frequencies: of the Fourier features of time and of w, log-spaced.
      cond_width: of the conditioning vector.
    """

    out_channels: int
    num_classes: int = 0
    embed_guidance: bool = False
    width: int = 256
    depth: int = 3
    guidance_divisor: float = 4.0
    num_frequencies: int = 16
    cond_width: int = 64

    @nn.compact
    def __call__(
        self, z: Float[Array, "b d"], time: Float[Array, " b"], cond: Mapping[str, Array]
    ) -> Float[Array, "b {self.out_channels}"]:
        """The raw output for z at `time` in [0, 1].

        Reads cond["label"] int [b] iff num_classes > 0 and cond["guidance"] float [b] iff embed_guidance,
        nothing else.

        Raises:
          UserError: an entry of cond that is needed is missing.
        """
        emb = Conditioning(
            features=self.cond_width,
            dim=2 * self.num_frequencies,
            num_classes=self.num_classes,
            embed_guidance=self.embed_guidance,
            time_multiplier=MAX_FREQUENCY,
            guidance_multiplier=MAX_FREQUENCY / self.guidance_divisor,
            max_period=MAX_FREQUENCY / MIN_FREQUENCY,
            name="conditioning",
        )(time, cond)
        # The sum is linear in label and w: one more layer lets them act together.
        emb = nn.swish(nn.Dense(self.cond_width, name="mix")(nn.swish(emb)))

        h = nn.Dense(self.width, name="in")(z.astype(jnp.float32))
        for i in range(self.depth):
            scale, shift = jnp.split(nn.Dense(2 * self.width, name=f"film_{i}")(emb), 2, axis=-1)
            inner = nn.Dense(self.width, name=f"block_{i}_in")(h) * (1 + scale) + shift
            h = h + nn.Dense(self.width, name=f"block_{i}_out")(nn.swish(inner))
        return nn.Dense(self.out_channels, kernel_init=nn.initializers.zeros, name="out")(nn.swish(h))


Network = Mlp
