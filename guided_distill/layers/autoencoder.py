"""The autoencoders of latent diffusion (Rombach et al. 2022, arXiv:2112.10752): images [b, h, w, c] in [-1, 1] to
latents that are `factor` times smaller on each side, and back. Latents come from a Gaussian, as in Stable Diffusion,
or are rounded to a codebook.

Modules and fields have the names, and fields the defaults, of diffusers' files. Parameters are float32; `dtype` is that
of convolutions and products, in full precision where it is float32; norms are computed in float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Int

from guided_distill.errors import UserError, one_of
from guided_distill.layers.blocks import attend, upsample

EPSILON = 1e-6
LOGVAR = (-30.0, 20.0)
"""Between which the logarithm of a variance is cut off."""


class Moments(NamedTuple):
    """A Gaussian for every latent: its mean, and the logarithm of its variance, within LOGVAR."""

    mean: Float[Array, "*shape"]
    logvar: Float[Array, "*shape"]

    def sample(self, key: Array) -> Float[Array, "*shape"]:
        """One draw of each."""
        return self.mean + jnp.exp(0.5 * self.logvar) * jax.random.normal(key, self.mean.shape)

    def kl(self) -> Float[Array, " b"]:
        """KL(this || standard normal) of each example, in nats."""
        terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1 - self.logvar
        return 0.5 * jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


# Blocks.


class _ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x by a 1 x 1 convolution where its channels change."""

    channels: int
    groups: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.channels}"]:
        y = x
        for k in (1, 2):
            y = nn.silu(_norm(self.groups, f"norm{k}")(y))
            y = nn.Conv(self.channels, (3, 3), padding=1, dtype=self.dtype, name=f"conv{k}")(y)
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_shortcut")(x)
        return x + y


class _Attention(nn.Module):
    """x + attention among all pixels, in one head."""

    groups: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        _, height, width, channels = x.shape
        y = rearrange(_norm(self.groups, "group_norm")(x), "b h w c -> b (h w) c")
        q, k, v = (nn.Dense(channels, dtype=self.dtype, name=f"to_{name}")(y)[:, :, None] for name in "qkv")
        y = nn.Dense(channels, dtype=self.dtype, name="to_out_0")(attend(q, k, v)[:, :, 0])
        return x + rearrange(y, "b (h w) c -> b h w c", h=height, w=width)


class _Downsample(nn.Module):
    """A convolution of stride 2, whose window hangs over the far edges only."""

    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
        return nn.Conv(x.shape[-1], (3, 3), 2, ((0, 1), (0, 1)), dtype=self.dtype, name="conv")(x)


class _Upsample(nn.Module):
    """Each pixel 2 x 2 times, then a convolution."""

    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        return nn.Conv(x.shape[-1], (3, 3), padding=1, dtype=self.dtype, name="conv")(upsample(x))


class _Level(nn.Module):
    """`layers` residual blocks of one resolution, and the way to the next: "down", "up" or none ("")."""

    channels: int
    layers: int
    groups: int
    resample: str
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.channels}"]:
        for k in range(self.layers):
            x = _ResBlock(self.channels, self.groups, self.dtype, name=f"resnets_{k}")(x)
        if self.resample:
            kind = _Downsample if self.resample == "down" else _Upsample
            x = kind(self.dtype, name=f"{self.resample}samplers_0")(x)
        return x


class _Middle(nn.Module):
    groups: int
    attention: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        x = _ResBlock(x.shape[-1], self.groups, self.dtype, name="resnets_0")(x)
        if self.attention:
            x = _Attention(self.groups, self.dtype, name="attentions_0")(x)
        return _ResBlock(x.shape[-1], self.groups, self.dtype, name="resnets_1")(x)


class Tower(nn.Module):
    """An encoder, or a decoder, which goes up. `channels`: of every level, the first one's first."""

    up: bool
    channels: tuple[int, ...]
    out_channels: int
    layers: int
    groups: int
    attention: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.out_channels}"]:
        """The output is float32."""
        way = "up" if self.up else "down"
        middle = _Middle(self.groups, self.attention, self.dtype, name="mid_block")
        x = nn.Conv(self.channels[0], (3, 3), padding=1, dtype=self.dtype, name="conv_in")(x)
        x = middle(x) if self.up else x
        for k, channels in enumerate(self.channels):
            resample = way if k < len(self.channels) - 1 else ""
            x = _Level(channels, self.layers, self.groups, resample, self.dtype, name=f"{way}_blocks_{k}")(x)
        x = x if self.up else middle(x)
        x = nn.silu(_norm(self.groups, "conv_norm_out")(x))
        return nn.Conv(self.out_channels, (3, 3), padding=1, dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)


def _norm(groups: int, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(groups, epsilon=EPSILON, dtype=jnp.float32, use_fast_variance=False, name=name)


# Autoencoders.


class Autoencoder(nn.Module):
    """What both kinds share. `layers_per_block`: residual blocks of a level of the encoder; the decoder's have one
    more."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    mid_block_add_attention: bool = True
    dtype: str = "float32"

    def __post_init__(self):
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            given = ", ".join(map(str, self.block_out_channels))
            raise UserError(f"block_out_channels {given} do not divide into norm_num_groups {self.norm_num_groups}")
        super().__post_init__()

    @property
    def factor(self) -> int:
        """Pixels of an image's side to one of its latents'."""
        return 2 ** (len(self.block_out_channels) - 1)

    def full_precision(self):
        """The context that products are computed in."""
        return jax.default_matmul_precision("highest" if self.dtype == "float32" else "default")

    def tower(self, up: bool, out_channels: int) -> Tower:
        """The encoder (with `out_channels`), or the decoder."""
        channels, layers = self.block_out_channels, self.layers_per_block
        channels, layers = (channels[::-1], layers + 1) if up else (channels, layers)
        return Tower(up, channels, out_channels, layers, self.norm_num_groups, self.mid_block_add_attention, self.dtype)


class GaussianAutoencoder(Autoencoder):
    """AutoencoderKL, of Stable Diffusion: latents are drawn from `moments`, or are their means."""

    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def setup(self):
        """Both towers, and the layers between them and the latents."""
        latent = self.latent_channels
        self.encoder = self.tower(up=False, out_channels=2 * latent)
        self.decoder = self.tower(up=True, out_channels=self.out_channels)
        if self.use_quant_conv:
            self.quant_conv = nn.Conv(2 * latent, (1, 1))
        if self.use_post_quant_conv:
            self.post_quant_conv = nn.Conv(latent, (1, 1))

    @property
    def code_channels(self) -> int:
        """Channels of what `encode` returns."""
        return self.latent_channels

    def moments(self, images: Float[Array, "b h w c"]) -> Moments:
        """The Gaussian of each latent, as the encoder means them: not scaled."""
        with self.full_precision():
            both = self.encoder(images)
            mean, logvar = jnp.split(self.quant_conv(both) if self.use_quant_conv else both, 2, axis=-1)
        return Moments(mean, jnp.clip(logvar, *LOGVAR))

    def encode(
        self, images: Float[Array, "b h w c"], key: Array | None = None
    ) -> Float[Array, "b h2 w2 {self.latent_channels}"]:
        """The latents' means, or with a key a draw."""
        moments = self.moments(images)
        return moments.mean if key is None else moments.sample(key)

    def decode(self, z: Float[Array, "b h w {self.latent_channels}"]) -> Float[Array, "b h2 w2 {self.out_channels}"]:
        """Images, as the decoder means them: not clipped."""
        with self.full_precision():
            return self.decoder(self.post_quant_conv(z) if self.use_post_quant_conv else z)

    def __call__(self, images: Float[Array, "b h w c"], key: Array | None = None) -> tuple[Array, Moments]:
        """(images that were encoded, with a key drawn, and decoded; the moments)."""
        moments = self.moments(images)
        return self.decode(moments.mean if key is None else moments.sample(key)), moments


def gaussian_loss(
    images: Float[Array, "b h w c"],
    restored: Float[Array, "b h w c"],
    moments: Moments,
    kl_weight: float = 1e-6,
    power: int = 1,
) -> Float[Array, " b"]:
    """What a Gaussian autoencoder is trained by, of each image: sum |restored - images|^power + kl_weight KL (LDM,
    appendix G, without its adversary and its perceptual part). Raises `UserError` for a power other than 1 and 2."""
    one_of("power", power, (1, 2))
    return jnp.sum(jnp.abs(restored - images) ** power, axis=(1, 2, 3)) + kl_weight * moments.kl()


class Codebook(nn.Module):
    """Rounds every latent to the nearest of `size` codes. Gradients pass as if it did not (van den Oord et al. 2017,
    arXiv:1711.00937)."""

    size: int
    channels: int

    @nn.compact
    def __call__(self, z: Float[Array, "b h w {self.channels}"]) -> Float[Array, "b h w {self.channels}"]:
        """The nearest code of each."""
        table = nn.Embed(self.size, self.channels, name="embedding")
        rounded = table(nearest(z, jnp.asarray(table.embedding)))
        return z + jax.lax.stop_gradient(rounded - z)


def nearest(z: Float[Array, "b h w d"], codes: Float[Array, "k d"]) -> Int[Array, "b h w"]:
    """The number of the code with the least distance from each latent. An image at a time: every latent is held against
    every code."""
    squares = jnp.sum(jnp.square(codes), axis=-1)[None, None]
    return jax.lax.map(lambda image: jnp.argmin(squares - 2 * image @ codes.T, axis=-1), z)


class CodebookAutoencoder(Autoencoder):
    """VQModel, of LDM: latents are what the encoder says; `decode` rounds them to the codebook first, as diffusers and
    LDM do, unless `round_off` is False. `vq_embed_dim` None: as many as `latent_channels`."""

    latent_channels: int = 3
    num_vq_embeddings: int = 256
    vq_embed_dim: int | None = None
    round_off: bool = True

    def setup(self):
        """Both towers, and the layers between them and the latents."""
        self.encoder = self.tower(up=False, out_channels=self.latent_channels)
        self.decoder = self.tower(up=True, out_channels=self.out_channels)
        self.quant_conv = nn.Conv(self.code_channels, (1, 1))
        self.quantize = Codebook(self.num_vq_embeddings, self.code_channels)
        self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1))

    @property
    def code_channels(self) -> int:
        """Channels of what `encode` returns."""
        return self.vq_embed_dim or self.latent_channels

    def encode(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.code_channels}"]:
        """Latents before they are rounded."""
        with self.full_precision():
            return self.quant_conv(self.encoder(images))

    def decode(self, z: Float[Array, "b h w {self.code_channels}"]) -> Float[Array, "b h2 w2 {self.out_channels}"]:
        """Images, not clipped."""
        with self.full_precision():
            return self.decoder(self.post_quant_conv(self.quantize(z) if self.round_off else z))

    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.out_channels}"]:
        """Images that were encoded, rounded and decoded. All parameters are made here, whatever `decode` uses."""
        with self.full_precision():
            return self.decoder(self.post_quant_conv(self.quantize(self.encode(images))))
