"""The transformer of both of CLIP's towers (Radford et al. 2021, arXiv:2103.00020): norms before attention and before
the MLP.

Modules have the names that they have in Hugging Face's files. Everything is float32; whoever calls decides about the
precision of products.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from guided_distill.errors import UserError, one_of


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x sigmoid(1.702 x), OpenAI's stand-in for GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": functools.partial(jax.nn.gelu, approximate=False)}


class Loaded(NamedTuple):
    """A tower, its parameters, and a hash of the file that they are from."""

    tower: nn.Module
    params: dict[str, Any]
    sha256: str


class Attention(nn.Module):
    """Projections of softmax(Q Kᵀ / sqrt(d)) V in `heads` heads; if `causal`, of what came before and itself only."""

    heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Raises `UserError` where d does not divide into the heads."""
        width = x.shape[-1]
        if width % self.heads:
            raise UserError(f"a width of {width} does not divide into {self.heads} heads")
        q, k, v = (nn.Dense(width, name=f"{name}_proj")(x) for name in "qkv")
        q, k, v = (rearrange(y, "b l (n d) -> b l n d", n=self.heads) for y in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        return nn.Dense(width, name="out_proj")(rearrange(y, "b l n d -> b l (n d)"))


class Mlp(nn.Module):
    """Two layers, `hidden` wide in between; `activation`: one of ACTIVATIONS."""

    hidden: int
    activation: str

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Of every place by itself. Raises `UserError` for an unknown activation."""
        one_of("activation", self.activation, ACTIVATIONS)
        y = ACTIVATIONS[self.activation](nn.Dense(self.hidden, name="fc1")(x))
        return nn.Dense(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """x + attention(norm(x)), then + mlp(norm)."""

    heads: int
    hidden: int
    activation: str
    epsilon: float
    causal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """The same shape."""
        y = nn.LayerNorm(self.epsilon, name="layer_norm1")(x)
        x = x + Attention(self.heads, self.causal, name="self_attn")(y)
        y = nn.LayerNorm(self.epsilon, name="layer_norm2")(x)
        return x + Mlp(self.hidden, self.activation, name="mlp")(y)


class Encoder(nn.Module):
    """`layers` blocks, one after the other."""

    layers: int
    heads: int
    hidden: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    causal: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> list[Float[Array, "b l d"]]:
        """What goes in, and what every block returns: layers + 1 arrays."""
        states = [x]
        for k in range(self.layers):
            block = Block(self.heads, self.hidden, self.activation, self.epsilon, self.causal, name=f"layers_{k}")
            states.append(block(states[-1]))
        return states


# What files say about a tower.

KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "projection": "projection_dim",
}
"""{field of a tower: its name in config.json}."""
HEAD = 64  # Channels of a head, but for images in towers that would have more than 16 heads: those have 16.


def described(config: Mapping[str, Any], tower: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a tower ("text" or "vision") in a config.json, which is that of a whole CLIP or the tower's own.
    What it leaves out has Hugging Face's defaults, which are the tower's."""
    # Of the two descriptions in old files, Hugging Face believes the first.
    own = config.get(f"{tower}_config_dict") or config.get(f"{tower}_config")
    section = {**own, "projection_dim": config.get("projection_dim")} if own else config
    names = {**KEYS, **keys}
    return {field: section[name] for field, name in names.items() if section.get(name) is not None}


def measured(arrays: Mapping[str, np.ndarray], openai: tuple[int, ...], most_heads: int) -> dict[str, Any]:
    """A tower's fields by its arrays where there is no config.json. Nothing in them tells the heads, which have 64
    channels but are `most_heads` at most, as in OpenAI's and OpenCLIP's towers; and nothing the activation, which is
    taken to be quick_gelu where the width is one of OpenAI's, and else gelu. Raises `UserError` for arrays of something
    else."""
    first = arrays.get("encoder.layers.0.mlp.fc1.weight")
    if first is None or first.ndim != 2:
        raise UserError("no tower of CLIP in these weights: there is no encoder.layers.0.mlp.fc1.weight among them")
    hidden, width = first.shape
    layers = 1 + max(int(name.split(".")[2]) for name in arrays if re.match(r"encoder\.layers\.\d+\.", name))
    activation = "quick_gelu" if width in openai else "gelu"
    heads = min(max(width // HEAD, 1), most_heads)
    return {"width": width, "layers": layers, "heads": heads, "hidden": hidden, "activation": activation}
