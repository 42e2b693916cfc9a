"""The config.json of diffusers' UNet2DConditionModel, and what `latent_unet` calls what is in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from guided_distill.errors import UserError

DEFAULTS = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "attention_head_dim": 8,  # The number of heads, in spite of its name.
    "use_linear_projection": False,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "time_cond_proj_dim": None,
    "dropout": 0.0,
}
"""What a config.json says of the network's fields, and what it means where it does not."""
FIXED = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "resnet_out_scale_factor": 1,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
}
"""What this network computes and no field changes. All else has to be off: None or False."""
# The last one changes the precision only, and diffusers' own fused attention does not read it.
UNREAD = ("sample_size", "addition_embed_type_num_heads", "upcast_attention")


def described(config: Mapping[str, Any], what: str) -> tuple[dict[str, Any], int]:
    """config.json -> (the fields of a `LatentUNet`, channels of its input). Raises `UserError` for entries that ask for
    another computation."""
    for key, value in config.items():
        expected = FIXED.get(key)
        known = key in DEFAULTS or key in UNREAD or key.startswith("_")
        if not known and value != expected and (key in FIXED or value is not False):
            raise UserError(f"{what}: config.json has {key}={value!r}, this network computes {key}={expected!r} only")
    said = {**DEFAULTS, **config}
    widths, heads = said["block_out_channels"], said["attention_head_dim"]
    down, up = [[name.startswith("CrossAttn") for name in said[f"{way}_block_types"]] for way in ("down", "up")]
    names = [
        f"{'CrossAttn' if a else ''}{way}Block2D" for way, attends in (("Down", down), ("Up", up)) for a in attends
    ]
    if names != [*said["down_block_types"], *said["up_block_types"]] or up != down[::-1] or len(up) != len(widths):
        told = f"{list(said['down_block_types'])} and {list(said['up_block_types'])}"
        raise UserError(
            f"{what}: config.json has blocks {told}; expected (CrossAttn)DownBlock2D and their mirror image"
        )
    if not isinstance(heads, int) and len(heads) != len(widths):
        raise UserError(
            f"{what}: config.json has attention_head_dim={heads}; expected one for each of {len(widths)} levels"
        )
    if any(width % widths[0] for width in widths):
        raise UserError(f"{what}: config.json has block_out_channels={widths}; expected multiples of the first")
    fields = {
        "out_channels": said["out_channels"],
        "channels": widths[0],
        "channel_multipliers": [width // widths[0] for width in widths],
        "attention_downsampling": [2**level for level, attends in enumerate(down) if attends],
        "cross_attention_dim": _one(said, "cross_attention_dim", what),
        "num_res_blocks": _one(said, "layers_per_block", what),
        "depth": _one(said, "transformer_layers_per_block", what),
        "linear_projection": said["use_linear_projection"],
        "groups": said["norm_num_groups"],
        "num_classes": (said["num_class_embeds"] or 1) - 1,
        "embed_guidance": said["time_cond_proj_dim"] is not None,
        "dropout": said["dropout"],
        **({"guidance_dim": said["time_cond_proj_dim"]} if said["time_cond_proj_dim"] else {}),
        **_heads(heads, widths, [*down[:-1], True]),
    }
    return fields, said["in_channels"]


def config_of(network: nn.Module, in_channels: int, sample_size: int | None) -> dict[str, Any]:
    """The reverse of `described`, for a `LatentUNet`."""
    kinds = ["CrossAttn" if attends else "" for attends in network.attended]
    even = isinstance(network.num_heads, int) and not network.head_dim
    table = network.num_classes and network.label_as == "time"
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": network.out_channels,
        "block_out_channels": network.widths,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "layers_per_block": network.num_res_blocks,
        "cross_attention_dim": network.cross_attention_dim,
        "transformer_layers_per_block": network.depth,
        "attention_head_dim": network.num_heads if even else network.heads,
        "use_linear_projection": network.linear_projection,
        "norm_num_groups": network.groups,
        "num_class_embeds": network.num_classes + 1 if table else None,
        "time_cond_proj_dim": network.guidance_dim if network.embed_guidance else None,
        "dropout": network.dropout,
        **FIXED,
    }


def _heads(heads: int | Sequence[int], widths: Sequence[int], attended: Sequence[bool]) -> dict[str, Any]:
    """num_heads or head_dim: where attended levels have equal heads, it is told by them."""
    if isinstance(heads, int):
        return {"num_heads": heads}
    dims = {width / number for width, number, attends in zip(widths, heads, attended) if attends}
    return {"head_dim": int(dims.pop())} if len(dims) == 1 else {"num_heads": heads}


def _one(said: Mapping[str, Any], key: str, what: str) -> Any:
    """A number, or the one that all levels share."""
    value = said[key]
    if isinstance(value, list | tuple) and len(set(map(str, value))) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{what}: config.json has {key}={value!r}; expected one number for all levels")
    return value
