"""DINOv2's ViT (Oquab et al. 2023, arXiv:2304.07193): features learned without labels, on which distances agree with
people better than on Inception's (Stein et al. 2023, arXiv:2306.04675). FD-DINOv2 is the Fréchet distance on them.

Weights: a folder or file that Hugging Face's Dinov2Model wrote, by path. Images are seen at 224 x 224, as
`features.clip` resizes them, normalised by ImageNet's mean and deviation; the feature is the class token, normed.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from guided_distill import torch_weights
from guided_distill.errors import UserError
from guided_distill.features import Net, clip
from guided_distill.layers import transformer

NAME = "DINOv2"
SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # Of red, green, blue in [0, 1].
LETTERS = {384: "S", 768: "B", 1024: "L"}  # Of widths.
MOST_HEADS = 24
CUBIC = -0.75  # PyTorch's bicubic kernel, by which places are interpolated.
NAMES = {  # In Hugging Face's files, of transformers before 5 and after -> in `transformer.Encoder`.
    r"^encoder\.layer\.": "encoder.layers.",
    r"\.norm(\d)\.": r".layer_norm\1.",
    r"\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.": r".self_attn.\1_proj.",
    r"\.attention\.(q|k|v)_proj\.": r".self_attn.\1_proj.",
    r"\.attention\.(?:output\.dense|o_proj)\.": ".self_attn.out_proj.",
    r"^embeddings\.patch_embeddings\.projection\.": "embeddings.patch_embedding.",
}
SCALED = {"layer_scale1": "self_attn.out_proj", "layer_scale2": "mlp.fc2"}  # What each is a factor of.


def make(weights: str | None = None, batch_size: int = 64) -> Net:
    """images -> [n, d], by the network at `weights`. Raises `UserError` without weights, and for others'."""
    if weights is None:
        raise UserError(
            "features dinov2: no weights; give the folder of a Dinov2Model (config.json, model.safetensors) as weights"
        )
    tower, params, sha256 = load(weights)
    name = f"{NAME}-{LETTERS.get(tower.width, f'{tower.width}-')}{tower.patch}"
    identity = f"{name} {clip.PREPROCESSING} {SIZE} {sha256}"
    return Net(name, identity, apply_of(tower), params, None, batch_size, preprocessing=clip.PREPROCESSING)


@functools.cache  # The same function again, so that it is compiled once.
def apply_of(tower: "Tower") -> Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b d"]]:
    """(params, images [b, h, w, 3] in [-1, 1]) -> class tokens [b, d]."""

    def apply(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        pixels = clip.resized(jnp.clip(jnp.round((images + 1) * 127.5), 0, 255), SIZE)
        mean, std = (jnp.asarray(values, jnp.float32)[None, None, None] for values in (MEAN, STD))
        return tower.apply({"params": params}, (pixels / 255 - mean) / std)

    return apply


class _Embeddings(nn.Module):
    width: int
    patch: int

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b l d"]:
        square = (self.patch, self.patch)
        patches = nn.Conv(self.width, square, square, "VALID", name="patch_embedding")(images)
        x = patches.reshape(len(images), -1, self.width)
        first = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, self.width))
        places = self.param("position_embeddings", nn.initializers.normal(0.02), (1, x.shape[1] + 1, self.width))
        return jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], axis=1) + places


class Tower(nn.Module):
    """The transformer. Scales of layers are part of the products before them (`load`)."""

    width: int
    layers: int
    heads: int
    hidden: int
    patch: int = 14
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Normalised images -> the class token, normed. Products are in full float32."""
        with jax.default_matmul_precision("highest"):
            x = _Embeddings(self.width, self.patch, name="embeddings")(images)
            sizes = (self.layers, self.heads, self.hidden, "gelu", self.epsilon)
            states = transformer.Encoder(*sizes, name="encoder")(x)[-1]
            return nn.LayerNorm(self.epsilon, name="layernorm")(states[:, 0])


def load(weights: str | Path) -> transformer.Loaded:
    """The network in a .safetensors file or folder, its sizes measured on the arrays, with places for SIZE. Raises
    `UserError` for weights of something else."""
    given = torch_weights.pretrained(weights, lambda name: name != "embeddings.mask_token")
    arrays = _renamed({name.removeprefix("dinov2."): array for name, array in given.arrays.items()})
    if any(".mlp.weights_in." in name for name in arrays):
        raise UserError(f"{weights}: a DINOv2 with SwiGLU, the giant one, is not built here; take S, B or L")
    fields = transformer.measured(arrays, (), MOST_HEADS)
    fields.pop("activation")
    patches, places = arrays.get("embeddings.patch_embedding.weight"), arrays.get("embeddings.position_embeddings")
    if patches is not None and places is not None and places.ndim == 3:
        fields["patch"] = patches.shape[-1]
        arrays["embeddings.position_embeddings"] = placed(places, SIZE // fields["patch"])
    config = given.config or {}
    named = {"heads": "num_attention_heads", "epsilon": "layer_norm_eps"}
    tower = Tower(**fields | {field: config[name] for field, name in named.items() if name in config})
    shapes = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    what = f"DINOv2 of {tower.layers} layers and width {tower.width} ({weights})"
    return transformer.Loaded(tower, torch_weights.to_flax(arrays, shapes, what), given.sha256)


def _renamed(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As the modules here are named, and every layer's scale multiplied into the product that it follows."""
    arrays = {}
    for name, array in given.items():
        for pattern, other in NAMES.items():
            name = re.sub(pattern, other, name)
        arrays[name] = array
    for name in [name for name in arrays if name.endswith(".lambda1")]:
        layer, scale = name.removesuffix(".lambda1").rsplit(".", 1)
        factor = arrays.pop(name)
        for kind in ("weight", "bias"):
            product = f"{layer}.{SCALED.get(scale)}.{kind}"
            if product in arrays:
                array = arrays[product]
                arrays[product] = array * factor.reshape(-1, *[1] * (array.ndim - 1))
    return arrays


def placed(places: Float[np.ndarray, "1 l d"], side: int) -> Float[np.ndarray, "1 m d"]:
    """Embeddings of the class token and a square of places, for side x side places: bicubic as PyTorch interpolates,
    not antialiased."""
    first, grid = places[:, :1], places[0, 1:]
    size = round(len(grid) ** 0.5)
    if size == side:
        return places
    weights = cubic(size, side)
    moved = np.einsum("ia,jb,abd->ijd", weights, weights, grid.reshape(size, size, -1).astype(np.float64))
    return np.concatenate([first, moved.reshape(1, side * side, -1).astype(np.float32)], axis=1)


def cubic(size: int, side: int) -> Float[np.ndarray, "{side} {size}"]:
    """The weights of `size` places in `side` others, centres aligned, edges repeated."""
    at = (np.arange(side) + 0.5) * size / side - 0.5
    out = np.zeros((side, size))
    for offset in range(-1, 3):
        index = np.floor(at).astype(int) + offset
        x = np.abs(at - index)
        near = ((CUBIC + 2) * x - (CUBIC + 3)) * x**2 + 1
        far = ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC
        np.add.at(out, (np.arange(side), np.clip(index, 0, size - 1)), np.where(x <= 1, near, far))
    return out
