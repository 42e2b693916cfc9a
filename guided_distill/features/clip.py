"""CLIP's image tower, a ViT (Radford et al. 2021, arXiv:2103.00020): embeddings in the space that captions share.

FD-CLIP is the Fréchet distance on them, as they leave the projection, not normed. Weights: a folder or file that
Hugging Face's CLIPModel or CLIPVisionModelWithProjection wrote, by path. Images are seen as CLIPImageProcessor shows
them with PIL: rounded to 8 bits, the shorter side resized to 224, the centre cropped.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from guided_distill import torch_weights
from guided_distill.errors import UserError
from guided_distill.features import Net
from guided_distill.layers import transformer

NAME = "CLIP"
PREPROCESSING = "pil-bicubic-crop"
MEAN = (0.48145466, 0.4578275, 0.40821073)  # Of red, green, blue in [0, 1].
STD = (0.26862954, 0.26130258, 0.27577711)
KEYS = {"size": "image_size", "patch": "patch_size"}
OPENAI = (768, 1024)  # Widths of their image transformers.
MOST_HEADS = 16  # H, g and bigG have wider ones instead.
OTHERS = ("text_model.", "text_projection.", "logit_scale")
LETTERS = {768: "B", 1024: "L", 1280: "H", 1408: "g", 1664: "bigG"}  # Of widths: ViT-B/32 is CLIP-B32.


def make(weights: str | None = None, batch_size: int = 64) -> Net:
    """images -> [n, p], by the image tower at `weights`. Raises `UserError` without weights, and for others'."""
    if weights is None:
        raise UserError(
            "features clip: no weights; give the folder of a CLIP (config.json, model.safetensors) as weights"
        )
    tower, params, sha256 = load(weights)
    size = "" if tower.size == ImageTower.size else f"-{tower.size}"
    name = f"{NAME}-{LETTERS.get(tower.width, f'{tower.width}-')}{tower.patch}{size}"
    identity = f"{name} {PREPROCESSING} {tower.activation} {sha256}"
    return Net(name, identity, apply_of(tower), params, None, batch_size, preprocessing=PREPROCESSING)


@functools.cache  # The same function again, so that it is compiled once.
def apply_of(tower: "ImageTower") -> Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b p"]]:
    """(params, images [b, h, w, 3] in [-1, 1]) -> embeddings [b, p]."""

    def apply(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b p"]:
        pixels = jnp.clip(jnp.round((images + 1) * 127.5), 0, 255)
        return tower.apply({"params": params}, normalised(resized(pixels, tower.size))).embedding

    return apply


# What the tower sees.


def resized(pixels: Float[Array, "b h w c"], size: int) -> Float[Array, "b {size} {size} c"]:
    """Whole numbers in [0, 255]: the shorter side is resized to `size`, the middle of the longer one is kept.

    PIL's bicubic resampling is antialiased, and goes first along the width, then along the height, each rounded to 8
    bits. Sums within rounding of a half may differ from its fixed-point ones by one level.
    """
    batch, height, width, channels = pixels.shape
    short = min(height, width)
    high, wide = size * height // short, size * width // short
    for shape in ((batch, height, wide, channels), (batch, high, wide, channels)):
        pixels = jnp.clip(jnp.round(jax.image.resize(pixels, shape, "bicubic")), 0, 255)
    top, left = (high - size) // 2, (wide - size) // 2
    return pixels[:, top : top + size, left : left + size]


def normalised(pixels: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """[0, 255] -> about mean 0 and deviation 1 of a channel over CLIP's training images."""
    mean, std = (jnp.asarray(values, jnp.float32)[None, None, None] for values in (MEAN, STD))
    return (pixels / 255 - mean) / std


# The tower.


class Image(NamedTuple):
    """`states` of the class token and all patches; `pooled`: the first one's, normed; `embedding`: projected."""

    states: Float[Array, "b l d"]
    pooled: Float[Array, "b d"]
    embedding: Float[Array, "b p"]


class _Embeddings(nn.Module):
    width: int
    patch: int

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b l d"]:
        square = (self.patch, self.patch)
        conv = nn.Conv(self.width, square, square, "VALID", use_bias=False, name="patch_embedding")
        x = conv(images).reshape(len(images), -1, self.width)
        first = self.param("class_embedding", nn.initializers.normal(0.02), (self.width,))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], axis=1)
        return x + nn.Embed(x.shape[1], self.width, name="position_embedding")(jnp.arange(x.shape[1]))[None]


class ImageTower(nn.Module):
    """A transformer on patches and one class token. The fields' defaults are Hugging Face's: ViT-B/32."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    size: int = 224
    patch: int = 32
    projection: int = 512

    @nn.compact
    def __call__(self, images: Float[Array, "b {self.size} {self.size} 3"]) -> Image:
        """`images` are `normalised`. Products are in full float32."""
        with jax.default_matmul_precision("highest"):
            x = _Embeddings(self.width, self.patch, name="embeddings")(images)
            x = nn.LayerNorm(self.epsilon, name="pre_layrnorm")(x)
            sizes = (self.layers, self.heads, self.hidden, self.activation, self.epsilon)
            states = transformer.Encoder(*sizes, name="encoder")(x)[-1]
            pooled = nn.LayerNorm(self.epsilon, name="post_layernorm")(states[:, 0])
            embedding = nn.Dense(self.projection, use_bias=False, name="visual_projection")(pooled)
            return Image(states, pooled, embedding)


def load(weights: str | Path, activation: str | None = None) -> transformer.Loaded:
    """The image tower in a .safetensors file or folder (`torch_weights.pretrained`), by its config.json, or, without
    one, by `transformer.measured`; `activation` overrides both. Raises `UserError` for weights of something else."""
    given = torch_weights.pretrained(weights, lambda name: not name.startswith(OTHERS) and "position_ids" not in name)
    arrays = {name.removeprefix("vision_model."): array for name, array in given.arrays.items()}
    fields = _measured(arrays) if given.config is None else transformer.described(given.config, "vision", KEYS)
    tower = ImageTower(**fields | ({"activation": activation} if activation else {}))
    images = jnp.zeros((1, tower.size, tower.size, 3))
    shapes = jax.eval_shape(tower.init, jax.random.key(0), images)["params"]
    what = f"CLIP's image tower of {tower.layers} layers and width {tower.width} ({weights})"
    return transformer.Loaded(tower, torch_weights.to_flax(arrays, shapes, what), given.sha256)


def _measured(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    fields = transformer.measured(arrays, OPENAI, MOST_HEADS)
    if "visual_projection.weight" in arrays:
        fields["projection"] = len(arrays["visual_projection.weight"])
    patches, places = (arrays.get(f"embeddings.{name}_embedding.weight") for name in ("patch", "position"))
    if patches is not None and places is not None:
        patch = patches.shape[-1]
        fields |= {"patch": patch, "size": patch * int(np.sqrt(len(places) - 1))}
    return fields
