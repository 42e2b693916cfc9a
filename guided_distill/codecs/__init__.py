"""Codecs, one a file: `make(**arguments) -> Codec`, found by name. The one object by which latent space differs from
pixel space."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from guided_distill.errors import UserError
from guided_distill.plugins import resolve


class Codec(NamedTuple):
    """`encode`: float32 images in [-1, 1] (or points) -> what is diffused; `decode`: back; `shape`: of an example -> of
    its code; `clip`: whether codes are bounded by [-1, 1], so that samplers may clip to it."""

    encode: Callable
    decode: Callable
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    clip: bool


def load(name: str, **arguments) -> Codec:
    """The named codec. Raises `UserError` for an unknown name or argument."""
    make = resolve("codecs", name).make
    try:
        return make(**arguments)
    except TypeError as error:
        raise UserError(f"codec {name}: {error}") from error


def to_float(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """uint8 images -> float32 in [-1, 1]; floats stay."""
    floats = x.astype(np.float32)
    return floats / 127.5 - 1 if x.dtype == np.uint8 else floats


def to_uint8(images: np.ndarray) -> np.ndarray:
    """float images in [-1, 1] -> uint8."""
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)
