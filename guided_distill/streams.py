"""Randomness is a function of (seed, stream name, index): nothing is split from hand to hand, so resuming needs no
key."""

import zlib

import jax
from jaxtyping import Array, Key


def key(seed: int | Array, name: str, index: int | Array) -> Key[Array, ""]:
    """The key of the `index`-th draw (an update, a sample) from the named stream."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), index)


def keys(seed: int | Array, name: str, indices: Array) -> Key[Array, " b"]:
    """One key for each of `indices` [b]."""
    return jax.vmap(lambda index: key(seed, name, index))(indices)
