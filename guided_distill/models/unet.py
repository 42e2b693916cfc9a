"""U-Net of PD (Salimans and Ho, arXiv:2202.00512) with the w input of GD (Meng et al., arXiv:2210.03142)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from guided_distill.errors import UserError, one_of
from guided_distill.layers.blocks import ResBlock, SelfAttention, group_norm
from guided_distill.layers.embeddings import Conditioning

PRESETS: dict[str, dict] = {
    # 60.0 M parameters in print; dropout 0.2 for the teacher, 0 for distillation.
    "cifar10": {
        "channels": 256,
        "channel_multipliers": (1, 1, 1),
        "num_res_blocks": 3,
        "attention_resolutions": (16, 8),
    },
    # 295.9 M parameters in print; dropout 0.1 for the teacher, 0 for distillation.
    "imagenet64": {
        "channels": 192,
        "channel_multipliers": (1, 2, 3, 4),
        "num_res_blocks": 3,
        "attention_resolutions": (32, 16, 8),
        "head_dim": 64,
    },
}
"""The networks of PD's appendix on architectures, for 32 x 32 and 64 x 64 pixels. Data sets add
`num_classes`, predictions `out_channels`, stages `dropout` and `embed_guidance`."""


REMAT: Mapping[str, Callable[[type[nn.Module]], type[nn.Module]]] = {
    "none": lambda module: module,
    "dots": partial(nn.remat, policy=jax.checkpoint_policies.dots_saveable),
    "full": nn.remat,
}


class UNet(nn.Module):
    """(z [b, h, w, c], time [b], cond) -> [b, h, w, out_channels] float32.

    Every activation of the way down is concatenated to the way up, which has one block more a level. A new
    network returns zero; its guidance input starts without effect.

    Fields:
      out_channels: of the output; twice the data's where x and eps are both predicted.
      num_classes: 0 = no label is read; else the table has a row more: label `num_classes`, the null class.
      embed_guidance: read cond["guidance"], the guidance strength w (0 = off).
      embed_guidance_image: read cond["guidance_image"], a second w (by an image that is shown, `channels`), too.
      guidance_multiplier, time_multiplier: of w and time, before their Fourier features.
      channels, channel_multipliers: a level has their product, and half the resolution of the level before.
      num_res_blocks: a level, on the way down.
      attention_resolutions: heights in pixels where blocks are followed by attention, resampling ones not.
      num_heads, head_dim: of the attention; `head_dim` wins if it is given.
      dropout: rate inside the residual blocks, active iff the "dropout" rng is given.
      dtype: "float32" or "bfloat16"; parameters, norms, embeddings and the output layer are float32 always.
      remat: what the backward pass recomputes, for less memory: "none"; "dots", each block but its convolutions and
        matrix products; "full", each block whole. Parameters and results are the same.
    """

    out_channels: int
    channels: int
    channel_multipliers: Sequence[int]
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    num_classes: int = 0
    embed_guidance: bool = False
    guidance_multiplier: float = 1000.0
    time_multiplier: float = 1000.0
    num_heads: int = 1
    head_dim: int | None = None
    dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    embed_guidance_image: bool = False

    def __post_init__(self):
        # JSON has lists; modules have to be hashable.
        self.channel_multipliers = tuple(self.channel_multipliers)
        self.attention_resolutions = tuple(self.attention_resolutions)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, z: Float[Array, "b h w c"], time: Float[Array, " b"], cond: Mapping[str, Array]
    ) -> Float[Array, "b h w {self.out_channels}"]:
        """The raw output for z at `time` (in [0, 1] with the default multiplier).

        Reads cond["label"] int [b] iff num_classes > 0, cond["guidance"] float [b] iff embed_guidance and
        cond["guidance_image"] float [b] iff embed_guidance_image, nothing else.

        Raises:
          UserError: z is not divisible by the total downsampling, `dtype` is unknown, or cond lacks an entry.
        """
        one_of("dtype", self.dtype, ("float32", "bfloat16"))
        self._check_size(*z.shape[1:3])
        emb = Conditioning(
            features=4 * self.channels,
            dim=self.channels,
            num_classes=self.num_classes,
            embed_guidance=self.embed_guidance,
            time_multiplier=self.time_multiplier,
            guidance_multiplier=self.guidance_multiplier,
            embed_guidance_image=self.embed_guidance_image,
            name="conditioning",
        )(time, cond)
        one_of("remat", self.remat, REMAT)
        rematerialise = REMAT[self.remat]
        res_block = partial(rematerialise(ResBlock), dropout=self.dropout, dtype=self.dtype)
        attention = partial(
            rematerialise(SelfAttention), num_heads=self.num_heads, head_dim=self.head_dim, dtype=self.dtype
        )

        def block(h: Array, width: int, name: str) -> Array:
            h = res_block(width, name=name)(h, emb)
            if h.shape[1] in self.attention_resolutions:
                h = attention(name=f"{name}_attention")(h)
            return h

        widths = [self.channels * multiplier for multiplier in self.channel_multipliers]
        last = len(widths) - 1
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(z)
        stored = [h]
        for level, width in enumerate(widths):
            for i in range(self.num_res_blocks):
                stored.append(block(stored[-1], width, f"down_{level}_{i}"))
            if level < last:
                stored.append(res_block(width, "down", name=f"down_{level}_resample")(stored[-1], emb))

        h = res_block(widths[-1], name="middle_in")(stored[-1], emb)
        h = attention(name="middle_attention")(h)
        h = res_block(widths[-1], name="middle_out")(h, emb)

        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.num_res_blocks + 1):
                h = block(jnp.concatenate([h, stored.pop()], axis=-1), width, f"up_{level}_{i}")
            if level > 0:
                h = res_block(width, "up", name=f"up_{level}_resample")(h, emb)

        h = nn.swish(group_norm(widths[0], "norm_out")(h))
        return nn.Conv(self.out_channels, (3, 3), kernel_init=nn.initializers.zeros, name="conv_out")(h)

    def _check_size(self, height: int, width: int) -> None:
        factor = 2 ** (len(self.channel_multipliers) - 1)
        if height % factor or width % factor:
            raise UserError(
                f"{height} x {width} inputs are not divisible by {factor}, the downsampling of "
                f"{len(self.channel_multipliers)} levels; pad the data, or give fewer channel_multipliers"
            )


Network = UNet
