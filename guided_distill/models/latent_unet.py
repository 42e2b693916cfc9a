"""The U-Nets of latent diffusion and Stable Diffusion (Rombach et al. 2022, arXiv:2112.10752), with the w input of LCM.

LCM: Latent Consistency Models (Luo et al. 2023, arXiv:2310.04378). The networks are those of diffusers'
UNet2DConditionModel, whose files are read by `load` and written from `to_diffusers`. Inpainting (9 input channels) and
instruction editing (8) are the same networks on a z with more channels (`channels`).
"""

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from guided_distill import torch_weights
from guided_distill.errors import UserError, one_of
from guided_distill.layers.embeddings import GuidanceEmbedding, required
from guided_distill.layers.latent_blocks import Down, Middle, Resample, ResnetBlock, TimeEmbedding, Transformer, Up
from guided_distill.models import _diffusers
from guided_distill.models.unet import REMAT

_SD = {"channels": 320, "channel_multipliers": (1, 2, 4, 4), "attention_downsampling": (1, 2, 4)}
PRESETS: dict[str, dict] = {
    # 859.5 M parameters.
    "sd1": {**_SD, "cross_attention_dim": 768, "num_heads": 8},
    # 865.9 M parameters.
    "sd2": {**_SD, "cross_attention_dim": 1024, "head_dim": 64, "linear_projection": True},
    # 400.9 M parameters and the table of classes. Latents are 64 x 64 x 3.
    "ldm_imagenet256": {
        "channels": 192,
        "channel_multipliers": (1, 2, 3, 5),
        "attention_downsampling": (2, 4, 8),
        "cross_attention_dim": 512,
        "num_heads": 1,
        "label_as": "token",
    },
}
"""Stable Diffusion 1.x and 2.x, and the class-conditional ImageNet model of the LDM paper (its config cin256-v2). Data
sets add `num_classes` (1000 makes LDM's table of 1001), predictions `out_channels`, stages `embed_guidance`."""


class LatentUNet(nn.Module):
    """(z [b, h, w, c], time [b], cond) -> [b, h, w, out_channels] float32.

    Every activation of the way down is concatenated to the way up, which has one block more a level. A new network
    returns zero; its guidance input starts without effect.

    Fields:
      out_channels: of the output; twice the data's where x and eps are both predicted.
      channels, channel_multipliers: a level has their product, and half the resolution of the level before.
      attention_downsampling: of the levels with attention: 1 is the first level, 2 the second, 4 the third.
      cross_attention_dim: of the text's states; None: no text is read, and pixels attend to each other only.
      num_res_blocks: a level, on the way down.
      num_heads, head_dim: of the attention; heads may be given a level, and `head_dim` wins if it is given.
      linear_projection: whether files have the transformers' projections as matrices (else 1 x 1 convolutions).
      depth: transformer blocks after a residual one.
      groups: of the group norms.
      num_classes: 0 = no label is read; else the table has a row more: label `num_classes`, the null class.
      label_as: where labels enter: added to "time", or as the only "token" that is attended to, instead of text.
      embed_guidance: read cond["guidance"], the guidance strength w (0 = off); `guidance_dim` features of it.
      embed_guidance_image: read cond["guidance_image"], a second w (by an image that is shown, `channels`), too; files
        of diffusers have none.
      dropout: rate inside the residual blocks, active iff the "dropout" rng is given.
      dtype: "float32" or "bfloat16"; parameters, norms, embeddings and the output layer are float32 always.
      remat: what the backward pass recomputes, for less memory: "none"; "dots", each block but its convolutions and
        matrix products; "full", each block whole. Parameters and results are the same.
    """

    out_channels: int
    channels: int
    channel_multipliers: Sequence[int]
    attention_downsampling: Sequence[int]
    cross_attention_dim: int | None = None
    num_res_blocks: int = 2
    num_heads: int | Sequence[int] = 8
    head_dim: int | None = None
    linear_projection: bool = False
    depth: int = 1
    groups: int = 32
    num_classes: int = 0
    label_as: str = "time"
    embed_guidance: bool = False
    guidance_dim: int = 256
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    embed_guidance_image: bool = False

    def __post_init__(self):
        # JSON has lists; modules have to be hashable.
        for name in ("channel_multipliers", "attention_downsampling", "num_heads"):
            value = getattr(self, name)
            setattr(self, name, value if isinstance(value, int) else tuple(value))
        super().__post_init__()

    @property
    def widths(self) -> list[int]:
        """Channels a level."""
        return [self.channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def attended(self) -> list[bool]:
        """Whether a level has attention; the middle always has."""
        return [2**level in self.attention_downsampling for level in range(len(self.channel_multipliers))]

    @property
    def heads(self) -> list[int]:
        """Heads a level."""
        if self.head_dim:
            return [max(width // self.head_dim, 1) for width in self.widths]
        return [self.num_heads] * len(self.widths) if isinstance(self.num_heads, int) else list(self.num_heads)

    @nn.compact
    def __call__(
        self, z: Float[Array, "b h w c"], time: Float[Array, " b"], cond: Mapping[str, Array]
    ) -> Float[Array, "b h w {self.out_channels}"]:
        """The raw output for z at `time`, the index of a discrete schedule (time input "index"), in float32.

        Reads cond["label"] int [b] iff num_classes > 0, cond["guidance"] float [b] iff embed_guidance,
        cond["guidance_image"] float [b] iff embed_guidance_image, and cond["text"] float [b, l, cross_attention_dim]
        iff there is a cross_attention_dim and labels are no token.

        Raises:
          UserError: z is not divisible by the total downsampling, fields do not go together, or cond lacks an entry.
        """
        self._check(*z.shape[1:3])
        emb, text = self._embedded(time, cond)
        last, blocks = len(self.widths) - 1, self.num_res_blocks

        stored = [nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(z)]
        for level, attends in enumerate(self.attended):
            down = partial(Resample, False, self.dtype) if level < last else None
            part = Down(*self._parts(level, attends), down, blocks, name=f"down_blocks_{level}")
            stored += part(stored[-1], emb, text)
        h = Middle(*self._parts(last, True), name="mid_block")(stored[-1], emb, text)
        for level, attends in reversed(list(enumerate(self.attended))):
            up = partial(Resample, True, self.dtype) if level > 0 else None
            part = Up(*self._parts(level, attends), up, blocks + 1, name=f"up_blocks_{last - level}")
            stored, skips = stored[: -blocks - 1], stored[-blocks - 1 :]
            h = part(h, skips, emb, text)

        h = nn.swish(nn.GroupNorm(self.groups, epsilon=1e-5, dtype=jnp.float32, name="conv_norm_out")(h))
        return nn.Conv(self.out_channels, (3, 3), kernel_init=nn.initializers.zeros, name="conv_out")(h)

    def _parts(self, level: int, attends: bool) -> tuple[partial, partial | None]:
        """What makes a residual block and a transformer of a level."""
        again = REMAT[self.remat]
        resnet = partial(again(ResnetBlock), self.widths[level], self.groups, self.dropout, self.dtype)
        sizes = (self.heads[level], self.depth, self.linear_projection, self.groups, self.dtype)
        return resnet, partial(again(Transformer), *sizes) if attends else None

    def _embedded(self, time: Array, cond: Mapping[str, Array]) -> tuple[Array, Array | None]:
        """The vector that every residual block is given, float32, and the states that are attended to."""
        w = required(cond, "guidance", "embed_guidance is set") if self.embed_guidance else None
        features = 4 * self.channels
        emb = TimeEmbedding(features, self.channels, self.guidance_dim, name="time_embedding")(time, w)
        if self.embed_guidance_image:
            w_image = required(cond, "guidance_image", "embed_guidance_image is set")
            emb = emb + GuidanceEmbedding(features, dim=self.guidance_dim, name="guidance_image")(w_image)
        if self.num_classes:
            label = required(cond, "label", f"num_classes is {self.num_classes}")
            if self.label_as == "token":
                table = nn.Embed(self.num_classes + 1, self.cross_attention_dim, name="class_tokens")
                return emb, table(label)[:, None]
            emb = emb + nn.Embed(self.num_classes + 1, features, name="class_embedding")(label)
        if self.cross_attention_dim is None:
            return emb, None
        text = required(cond, "text", f"cross_attention_dim is {self.cross_attention_dim}")
        if text.ndim != 3 or text.shape[-1] != self.cross_attention_dim:
            raise UserError(f"cond['text'] has shape {text.shape}; expected [b, l, {self.cross_attention_dim}]")
        return emb, text

    def _check(self, height: int, width: int) -> None:
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        one_of("remat", self.remat, REMAT)
        one_of("label_as", self.label_as, ("time", "token"))
        if self.label_as == "token" and self.cross_attention_dim is None:
            raise UserError("label_as is 'token', which nothing attends to: give cross_attention_dim")
        levels = len(self.widths)
        if others := set(self.attention_downsampling) - {2**level for level in range(levels)}:
            raise UserError(
                f"attention_downsampling has {sorted(others)}; {levels} levels have 1 to {2 ** (levels - 1)}"
            )
        if len(self.heads) != levels:
            raise UserError(
                f"num_heads has {len(self.heads)} entries; expected a number, or one for each of {levels} levels"
            )
        for level, (channels, heads) in enumerate(zip(self.widths, self.heads, strict=True)):
            if channels % self.groups:
                raise UserError(
                    f"{channels} channels do not divide into {self.groups} groups; change channels or groups"
                )
            attends = self.attended[level] or level == levels - 1
            if attends and (heads < 1 or channels % heads or self.head_dim not in (None, channels // heads)):
                asked = f"head_dim={self.head_dim}" if self.head_dim else f"num_heads={self.num_heads}"
                raise UserError(f"{channels} channels do not divide into heads with {asked}")
        if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
            raise UserError(
                f"{height} x {width} latents are not divisible by {2 ** (levels - 1)}, the downsampling of {levels} "
                "levels; pad them, or give fewer channel_multipliers"
            )


Network = LatentUNet


# diffusers' files.

FILE = "diffusion_pytorch_model.safetensors"
WHOLE = "model.diffusion_model."  # How the U-Net's names begin in files of whole pipelines.
TOKENS = "class_tokens.weight"


class Loaded(NamedTuple):
    """A network, its parameters, and a hash of the file that they are from."""

    network: LatentUNet
    params: dict[str, Any]
    sha256: str


def load(
    weights: str | Path,
    preset: str | None = None,
    *,
    dtype: str = "float32",
    remat: str = "none",
    class_tokens: np.ndarray | None = None,
) -> Loaded:
    """The U-Net in a folder that diffusers wrote, or in a .safetensors file of that format.

    It is described by the config.json beside the weights, or, without one, by `preset`. `class_tokens`: as in
    `from_diffusers`. Raises `UserError` for weights of something else, and for entries of config.json that change the
    computation to what is not this network's.
    """
    path = Path(weights)
    file = torch_weights.file_of(path, FILE) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no weights at {path}: expected a .safetensors file, or a folder with {FILE} in it")
    given = torch_weights.pretrained(file)
    if any(name.startswith(WHOLE) for name in given.arrays):
        raise UserError(
            f"{file} is a whole pipeline in one file, by the names of the first Stable Diffusion; make a folder of it: "
            "diffusers.StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if given.config is not None:
        fields, in_channels = _diffusers.described(given.config, str(weights))
    elif preset is not None:
        one_of("preset", preset, PRESETS)
        fields, in_channels = _measured(given.arrays, PRESETS[preset])
    else:
        raise UserError(f"no config.json beside {path}; put it there, or give a preset: {', '.join(PRESETS)}")
    fields |= {"dtype": dtype, "remat": remat}
    return Loaded(*_built(fields, in_channels, given.arrays, class_tokens, str(weights)), given.sha256)


def from_diffusers(
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    dtype: str = "float32",
    remat: str = "none",
    class_tokens: np.ndarray | None = None,
    what: str = "a U-Net of diffusers",
) -> tuple[LatentUNet, dict[str, Any]]:
    """The network of a config.json and its parameters. `class_tokens` [n, d]: LDM's table of classes, which is no part
    of the U-Net in diffusers; then labels are read instead of text. Raises `UserError` as `load` does."""
    fields, in_channels = _diffusers.described(config, what)
    return _built(fields | {"dtype": dtype, "remat": remat}, in_channels, arrays, class_tokens, what)


def to_diffusers(
    network: LatentUNet, params: Mapping[str, Any], sample_size: int | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and {key: array} for `UNet2DConditionModel.from_pretrained`; the reverse of `from_diffusers`.

    `sample_size`: height of the latents that pipelines start from. A table of class tokens is left out, since pipelines
    give it as text: it is params["class_tokens"]["embedding"]. Raises `UserError` for a network without
    cross-attention, which diffusers cannot build.
    """
    if network.cross_attention_dim is None:
        raise UserError("diffusers has no such U-Net without cross-attention; give it a cross_attention_dim")
    arrays = torch_weights.to_torch(params)
    arrays.pop(TOKENS, None)
    return _diffusers.config_of(network, arrays["conv_in.weight"].shape[1], sample_size), arrays


@functools.lru_cache(maxsize=8)  # Tracing a network of real size takes seconds.
def shapes(network: LatentUNet, in_channels: int) -> dict[str, Any]:
    """Shapes and dtypes of the parameters, nothing computed."""
    size = 2 ** (len(network.widths) - 1)
    cond = {"label": jnp.zeros(1, int), "guidance": jnp.zeros(1)}
    cond["text"] = jnp.zeros((1, 1, network.cross_attention_dim or 1))
    z = jnp.zeros((1, size, size, in_channels))
    return jax.eval_shape(network.init, jax.random.key(0), z, jnp.zeros(1), cond)["params"]


def _measured(arrays: Mapping[str, np.ndarray], preset: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The fields that a preset leaves open, and the channels of z; what is missing is told when they are compared."""

    def size(name: str, axis: int, default: int) -> int:
        return arrays[name].shape[axis] if name in arrays else default

    guidance_dim = size("time_embedding.cond_proj.weight", 1, 0)
    fields = dict(preset) | {
        "out_channels": size("conv_out.weight", 0, 4),
        "num_classes": max(size("class_embedding.weight", 0, 0) - 1, 0),
        "embed_guidance": guidance_dim > 0,
        "guidance_dim": guidance_dim or LatentUNet.guidance_dim,
    }
    return fields, size("conv_in.weight", 1, 4)


def _built(
    fields: dict[str, Any],
    in_channels: int,
    arrays: Mapping[str, np.ndarray],
    class_tokens: np.ndarray | None,
    what: str,
) -> tuple[LatentUNet, dict[str, Any]]:
    if class_tokens is not None:
        arrays = {**arrays, TOKENS: class_tokens}
        fields = fields | {"num_classes": len(class_tokens) - 1, "label_as": "token"}
    network = LatentUNet(**fields)
    return network, torch_weights.to_flax(arrays, shapes(network, in_channels), f"the U-Net of {what}")
