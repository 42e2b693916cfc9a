"""Residual blocks, attention and resampling of U-Nets, on [b, h, w, c].

The blocks of PD (Salimans and Ho, arXiv:2202.00512, appendix on architectures), which are those of DDPM with
BigGAN-style resampling. Parameters are float32; `dtype` is that of convolutions, matrix products and outputs;
norms and their modulation are computed in float32. Both blocks start as their skip path: the last
layer is zero-initialised.
"""

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

MAX_GROUPS = 32
MAX_FUSED_HEAD = 128
MAX_SCORES = 2**21
"""Of a head and an example, at a time: 8 MB in float32, where 64 x 64 latents would have 64."""
MIN_GROUP_CHANNELS = 4
"""A group of one channel would lose the channel's mean, and with it an image's brightness."""


def upsample(h: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Each pixel becomes 2 x 2 equal ones."""
    return repeat(h, "b h w c -> b (h i) (w j) c", i=2, j=2)


def downsample(h: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """The mean of each 2 x 2 pixels; `downsample(upsample(h)) == h`. Height and width must be even."""
    return reduce(h, "b (h i) (w j) c -> b h w c", "mean", i=2, j=2)


def num_groups(channels: int) -> int:
    """The largest divisor of `channels` up to 32 that leaves 4 channels to a group (or 1 group)."""
    limit = max(1, min(MAX_GROUPS, channels // MIN_GROUP_CHANNELS))
    return max(groups for groups in range(1, limit + 1) if channels % groups == 0)


def group_norm(channels: int, name: str) -> nn.GroupNorm:
    """A group norm over `channels` that computes and returns float32, whatever comes in."""
    return nn.GroupNorm(num_groups(channels), dtype=jnp.float32, name=name)


class ResBlock(nn.Module):
    """norm-swish-[resample]-conv, norm modulated by the embedding, swish-dropout-conv, plus the skip path.

    Fields: `out_channels`; `resample`: None, "up" (nearest) or "down" (mean), by 2 and on both paths, as in
    BigGAN; `dropout` rate, active iff the "dropout" rng is given; `dtype` of the computation and the output.
    """

    out_channels: int
    resample: str | None = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "b h w c"], emb: Float[Array, "b e"]
    ) -> Float[Array, "b h2 w2 {self.out_channels}"]:
        """h, and emb (float32) that scales and shifts the second norm: norm(h) (1 + scale) + shift.

        Raises:
          ValueError: unknown `resample`.
        """
        resamplers = {None: lambda h: h, "up": upsample, "down": downsample}
        if self.resample not in resamplers:
            raise ValueError(f"unknown resample {self.resample!r}; valid: None, 'up', 'down'")
        resample, channels = resamplers[self.resample], self.out_channels
        h = skip = h.astype(self.dtype)

        h = nn.swish(group_norm(h.shape[-1], "norm_in")(h).astype(self.dtype))
        h = nn.Conv(channels, (3, 3), dtype=self.dtype, name="conv_in")(resample(h))

        modulation = nn.Dense(2 * channels, name="modulation")(nn.swish(emb))
        scale, shift = rearrange(modulation, "b (two c) -> two b 1 1 c", two=2)
        h = group_norm(channels, "norm_out")(h) * (1 + scale) + shift
        h = nn.swish(h.astype(self.dtype))
        h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
        zeros = nn.initializers.zeros
        h = nn.Conv(channels, (3, 3), kernel_init=zeros, dtype=self.dtype, name="conv_out")(h)

        skip = resample(skip)
        if skip.shape[-1] != channels:
            skip = nn.Dense(channels, dtype=self.dtype, name="skip")(skip)  # = a 1 x 1 convolution
        return skip + h


def attend(
    q: Float[Array, "b l n d"], k: Float[Array, "b m n d"], v: Float[Array, "b m n d"]
) -> Float[Array, "b l n d"]:
    """softmax(q kᵀ / sqrt(d)) v, by cuDNN's fused kernel where there is one: on GPUs, in 16 bits, for heads of 8, 16,
    .. 128. Elsewhere long sequences go part by part of the queries, whose scores are computed again on the way back
    (Rabe and Staats 2021, arXiv:2112.05682): the same numbers, in memory that does not grow with l * m."""
    fused = q.dtype.itemsize == 2 and q.shape[-1] <= MAX_FUSED_HEAD and q.shape[-1] % 8 == 0
    if jax.default_backend() == "gpu" and fused:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    plain = lambda q: jax.nn.dot_product_attention(q, k, v, implementation="xla")  # noqa: E731
    length = q.shape[1]
    rows = max(MAX_SCORES // k.shape[1], 1)
    if length <= rows:
        return plain(q)
    part = next(size for size in range(rows, 0, -1) if length % size == 0)
    parts = rearrange(q, "b (parts l) n d -> parts b l n d", l=part)
    return rearrange(jax.lax.map(jax.checkpoint(plain), parts), "parts b l n d -> b (parts l) n d")


class SelfAttention(nn.Module):
    """h + projection of softmax(Q Kᵀ / sqrt(d)) V over all pixels of norm(h).

    Fields: `num_heads`, or `head_dim`, which wins if it is given (then channels / head_dim heads); `dtype`.
    """

    num_heads: int = 1
    head_dim: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, h: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Attends over the h * w pixels.

        Raises:
          ValueError: the channels do not divide into the heads.
        """
        channels = h.shape[-1]
        heads = self.num_heads if self.head_dim is None else channels // self.head_dim
        if heads < 1 or channels % heads or self.head_dim not in (None, channels // heads):
            asked = f"num_heads={self.num_heads}" if self.head_dim is None else f"head_dim={self.head_dim}"
            raise ValueError(f"{channels} channels do not divide into heads with {asked}")
        skip = h = h.astype(self.dtype)

        h = rearrange(group_norm(channels, "norm")(h), "b h w c -> b (h w) c")
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name="qkv")(h)
        q, k, v = rearrange(qkv, "b l (three n d) -> three b l n d", three=3, n=heads)
        h = rearrange(attend(q, k, v), "b l n d -> b l (n d)")
        h = nn.Dense(channels, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")(h)
        return skip + h.reshape(skip.shape)
