"""Codecs, one a file: `make(**arguments) -> Codec`, found by name. The one object by which latent space differs from
pixel space."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from guided_distill.errors import UserError
from guided_distill.plugins import resolve


class Codec(NamedTuple):
    """`encode`: float32 images in [-1, 1] (or points) -> what is diffused; `decode`: back; `shape`: of an example -> of
    its code; `clip`: whether codes are bounded by [-1, 1], so that samplers may clip to it.

    A codec that is a network has `weights`, which a compiled program has to be given as an argument, lest they become
    constants of it: inside of the program, `bind(weights)` is the codec. `draws`: `encode` takes a key beside images
    where it is to draw codes, as in training; without one it does not draw. `pin`: arguments of `make` that tell its
    weights from all others, which manifests add to those that a config has.

    A codec that is worth being run only once has `store`: images -> what is kept of them, and `stored`: that (and a
    key, if it `draws`) -> codes.
    """

    encode: Callable
    decode: Callable
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    clip: bool
    weights: Any = None
    binder: Callable[[Any], "Codec"] | None = None
    draws: bool = False
    pin: tuple[tuple[str, str], ...] = ()
    store: Callable | None = None
    stored: Callable | None = None

    def bind(self, weights: Any) -> "Codec":
        """The same codec, by these weights: what `weights` holds, wherever it lives, or is traced."""
        return self if self.binder is None else self.binder(weights)


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


def checked(images: np.ndarray, shape: Sequence[int], name: object) -> np.ndarray:
    """Images (uint8, or floats in [-1, 1]) or points as float32 [n, *shape]. Raises `UserError` for other sizes and
    ranges than `name`, a run, takes."""
    images, size = np.asarray(images), lambda shape: " x ".join(map(str, shape))
    if images.shape[1:] != tuple(shape) or not len(images):
        raise UserError(f"images are {size(images.shape)}; {name} takes n x {size(shape)}: bring them to that size")
    images = to_float(images)
    if len(shape) == 3 and not np.abs(images).max() <= 1 + 1e-3:
        raise UserError(f"images go from {images.min():g} to {images.max():g}; expected uint8, or floats in [-1, 1]")
    return images


def require_finite(samples: np.ndarray, name: object) -> None:
    """Raises `UserError` for samples of `name`, a run, that hold NaN or infinity: 8 bits have no word for them."""
    if bad := int(np.sum(~np.isfinite(samples.reshape(len(samples), -1)).all(axis=1))):
        raise UserError(f"{bad} of {len(samples)} samples of {name} have NaN or infinite values")


def to_uint8(images: np.ndarray) -> np.ndarray:
    """float images in [-1, 1] -> uint8."""
    return np.clip(np.round((np.asarray(images) + 1) * 127.5), 0, 255).astype(np.uint8)
