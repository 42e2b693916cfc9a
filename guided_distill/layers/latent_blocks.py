"""Blocks of the U-Nets of latent diffusion (Rombach et al. 2022, arXiv:2112.10752), on [b, h, w, c].

Modules have the names that they have in diffusers' files of weights, and compute what its UNet2DConditionModel does.
Parameters are float32; `dtype` is that of convolutions, matrix products and outputs; norms, time and w are computed in
float32. A new block is its skip path: the last layer of each starts at zero, as in latent diffusion.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from guided_distill.layers.blocks import attend, upsample
from guided_distill.layers.embeddings import sinusoidal

MAX_PERIOD = 10000.0
ZEROS = nn.initializers.zeros


def time_features(time: Real[Array, " b"], dim: int) -> Float[Array, "b {dim}"]:
    """[cos(f t), sin(f t)], float32: dim / 2 frequencies f = MAX_PERIOD^(-2 i / dim), the last of which is not reached.

    Exponents are rounded to float32 before exp, as where the weights come from: at t = 999 the last digit shows. `dim`
    is even.
    """
    half = dim // 2
    exponents = np.float32(-np.log(MAX_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half)
    angles = time.astype(jnp.float32)[:, None] * np.exp(exponents.astype(np.float64)).astype(np.float32)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """time [b], and w [b] or None -> [b, features] float32: Dense-swish-Dense of time's sinusoid.

    w (0 = off) enters as in LCM (Luo et al. 2023, arXiv:2310.04378): the sinusoid of 1000 w, `guidance_dim` wide, is
    projected without a bias and added to that of time. The projection starts at zero, so that a new student is its
    teacher.
    """

    features: int
    dim: int
    guidance_dim: int

    @nn.compact
    def __call__(
        self, time: Real[Array, " b"], w: Real[Array, " b"] | None = None
    ) -> Float[Array, "b {self.features}"]:
        """`time`: the index of a discrete schedule, which need not be whole."""
        h = time_features(time, self.dim)
        if w is not None:
            fourier = sinusoidal(1000.0 * w.astype(jnp.float32), self.guidance_dim, MAX_PERIOD)
            h = h + nn.Dense(self.dim, use_bias=False, kernel_init=ZEROS, name="cond_proj")(fourier)
        h = nn.swish(nn.Dense(self.features, name="linear_1")(h))
        return nn.Dense(self.features, name="linear_2")(h)


class ResnetBlock(nn.Module):
    """norm-swish-conv, plus a projection of the embedding, norm-swish-dropout-conv, plus the skip path.

    Fields: `channels` of the output; `groups` of the norms; `dropout` rate, active iff the "dropout" rng is given.
    """

    channels: int
    groups: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, h: Float[Array, "b h w c"], emb: Float[Array, "b e"]) -> Float[Array, "b h w {self.channels}"]:
        """h, and emb (float32), which is added before the second norm."""
        norm = partial(nn.GroupNorm, self.groups, epsilon=1e-5, dtype=jnp.float32)
        conv = partial(nn.Conv, self.channels, dtype=self.dtype)
        h = skip = h.astype(self.dtype)
        h = conv((3, 3), name="conv1")(nn.swish(norm(name="norm1")(h).astype(self.dtype)))
        shift = nn.Dense(self.channels, name="time_emb_proj")(nn.swish(emb))
        h = nn.swish(norm(name="norm2")(h + shift[:, None, None]).astype(self.dtype))
        h = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(h)
        h = conv((3, 3), kernel_init=ZEROS, name="conv2")(h)
        if skip.shape[-1] != self.channels:
            skip = conv((1, 1), name="conv_shortcut")(skip)
        return skip + h


class Attention(nn.Module):
    """Projection of softmax(Q Kᵀ / sqrt(d)) V in `heads` heads, with keys and values from `context`."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l c"], context: Float[Array, "b m d"]) -> Float[Array, "b l c"]:
        """`context`: x itself, for self-attention."""
        project = partial(nn.Dense, x.shape[-1], dtype=self.dtype)
        q, k, v = (project(use_bias=False, name=f"to_{n}")(y) for n, y in (("q", x), ("k", context), ("v", context)))
        q, k, v = (rearrange(y, "b l (n d) -> b l n d", n=self.heads) for y in (q, k, v))
        return project(name="to_out_0")(rearrange(attend(q, k, v), "b l n d -> b l (n d)"))


class GatedGelu(nn.Module):
    """values * gelu(gates), both projected, `hidden` wide (Shazeer 2020, arXiv:2002.05202)."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l {self.hidden}"]:
        """Of every place by itself."""
        values, gates = jnp.split(nn.Dense(2 * self.hidden, dtype=self.dtype, name="proj")(x), 2, axis=-1)
        return values * jax.nn.gelu(gates, approximate=False)


class FeedForward(nn.Module):
    """Up to four times the width, gated, and back."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l c"]) -> Float[Array, "b l c"]:
        """Of every place by itself."""
        h = GatedGelu(4 * x.shape[-1], self.dtype, name="net_0")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="net_2")(h)


class TransformerBlock(nn.Module):
    """x + attention to x, + attention to text, + feed-forward, each of a layer norm."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l c"], text: Float[Array, "b m d"] | None) -> Float[Array, "b l c"]:
        """Without `text` there is no attention to it."""
        norms = [nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=f"norm{k}") for k in (1, 2, 3)]
        attention = partial(Attention, self.heads, self.dtype)
        y = norms[0](x)
        x = x + attention(name="attn1")(y, y)
        if text is not None:
            x = x + attention(name="attn2")(norms[1](x), text)
        return x + FeedForward(self.dtype, name="ff")(norms[2](x))


class Transformer(nn.Module):
    """h + what `depth` transformer blocks make of its pixels.

    Fields: `heads`; `linear`: whether the projections before and after are matrices in the files, or 1 x 1 convolutions
    (the same function); `groups` of the norm before them.
    """

    heads: int
    depth: int
    linear: bool
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, h: Float[Array, "b h w c"], text: Float[Array, "b m d"] | None) -> Float[Array, "b h w c"]:
        """Every pixel attends to all, and to `text`."""
        kind = nn.Dense if self.linear else partial(nn.Conv, kernel_size=(1, 1))
        project = partial(kind, h.shape[-1], dtype=self.dtype)
        h = h.astype(self.dtype)
        x = project(name="proj_in")(nn.GroupNorm(self.groups, epsilon=1e-6, dtype=jnp.float32, name="norm")(h))
        x = rearrange(x, "b h w c -> b (h w) c")
        for k in range(self.depth):
            x = TransformerBlock(self.heads, self.dtype, name=f"transformer_blocks_{k}")(x, text)
        return h + project(kernel_init=ZEROS, name="proj_out")(x.reshape(h.shape))


class Resample(nn.Module):
    """Half the size by a strided convolution, or twice by nearest neighbours and a convolution if `up`."""

    up: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, h: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Height and width must be even on the way down."""
        conv = partial(nn.Conv, h.shape[-1], (3, 3), padding=1, dtype=self.dtype, name="conv")
        return conv()(upsample(h)) if self.up else conv(strides=2)(h)


class Level(nn.Module):
    """What the parts of the U-Net are made of.

    Fields: `resnet`, `transformer` (None: no attention), `resample` (None: the size stays) make a block each, given a
    name; `blocks`: how many pairs of residual block and transformer there are.
    """

    resnet: Callable[..., nn.Module]
    transformer: Callable[..., nn.Module] | None
    resample: Callable[..., nn.Module] | None = None
    blocks: int = 1

    def block(self, k: int, h: Array, emb: Array, text: Array | None) -> Array:
        """The k-th pair."""
        h = self.resnet(name=f"resnets_{k}")(h, emb)
        return h if self.transformer is None else self.transformer(name=f"attentions_{k}")(h, text)


class Down(Level):
    """A level on the way down."""

    @nn.compact
    def __call__(self, h: Array, emb: Array, text: Array | None) -> list[Array]:
        """What every pair and the resampling return; the last goes on."""
        stored = []
        for k in range(self.blocks):
            h = self.block(k, h, emb, text)
            stored.append(h)
        return stored if self.resample is None else [*stored, self.resample(name="downsamplers_0")(h)]


class Middle(Level):
    """Residual, attention, residual."""

    @nn.compact
    def __call__(self, h: Array, emb: Array, text: Array | None) -> Array:
        """The same shape."""
        return self.resnet(name="resnets_1")(self.block(0, h, emb, text), emb)


class Up(Level):
    """A level on the way up."""

    @nn.compact
    def __call__(self, h: Array, stored: list[Array], emb: Array, text: Array | None) -> Array:
        """`stored`: what was stored on the way down, one a pair; the last one goes in first."""
        for k in range(self.blocks):
            h = self.block(k, jnp.concatenate([h, stored[-1 - k]], axis=-1), emb, text)
        return h if self.resample is None else self.resample(name="upsamplers_0")(h)
