"""Distances between two sets of features, one metric a file, found by name.

Every module has `compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]`, in numpy float64. What the
features are (raw pixels, a network's activations) is the caller's choice, and belongs in the printed name:
FD-pixels, FD-EffLite0.

Features may be memory-mapped files: metrics read them in blocks, and hold no copy of them in memory.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from guided_distill.errors import UserError
from guided_distill.mapped import release

BLOCK_ENTRIES = 2**22  # Of a block of features, or of a tile of distances, at a time: 32 MiB in float64.
ROUNDING = 1e-13  # Squared distances below this share of the squared norms are rounding: the rows are equal.


class FeatureSet(NamedTuple):
    """Features of `n` samples, a row each; their classes, and a classifier's logits, where a metric asks for them."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None = None
    logits: Float[np.ndarray, "n c"] | None = None


class TooFew(UserError):
    """A metric needs more samples than there are."""


class NotFinite(UserError):
    """Samples, or what was made of them, hold NaN or infinity."""


def checked(
    fake: FeatureSet, real: FeatureSet, *, at_least: int = 2
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """The features of both sets, as they are.

    Raises `UserError` for features that are not [n, d], fewer than `at_least` samples (`TooFew`), NaN or infinite
    entries (`NotFinite`), or dimensions that differ.
    """
    arrays = [usable("fake", fake.features, at_least), usable("real", real.features, at_least)]
    if arrays[0].shape[1] != arrays[1].shape[1]:
        dimensions = f"fake {arrays[0].shape[1]}, real {arrays[1].shape[1]}"
        raise UserError(f"feature dimensions differ: {dimensions}; take both from one feature function")
    return arrays[0], arrays[1]


def usable(
    name: str, features: Float[np.ndarray, "..."], at_least: int, what: str = "features"
) -> Float[np.ndarray, "n d"]:
    """The array, once it is known to be [n, d], of enough samples and finite. Raises as `checked` does."""
    features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise UserError(f"{name} {what} have shape {features.shape}; expected [samples, dimensions]")
    if len(features) < at_least:
        raise TooFew(f"too few {name} samples: {len(features)}; this metric needs at least {at_least}")
    if bad := sum(int(np.sum(~np.isfinite(block).all(axis=1))) for block in blocks(features)):
        raise NotFinite(f"{bad} of {len(features)} {name} samples have NaN or infinite {what}")
    return features


def blocks(
    x: Float[np.ndarray, "n d"], index: Int[np.ndarray, " m"] | None = None
) -> Iterator[Float64[np.ndarray, "rows d"]]:
    """The rows of x, or those of `index`, some at a time, in order, as float64."""
    num, size = len(x) if index is None else len(index), block_rows(x.shape[1])
    for start in range(0, num, size):
        rows = slice(start, start + size)
        yield picked(x, rows if index is None else index[rows])


def block_rows(width: int) -> int:
    """How many rows of this width are a block: fewer than a square of that many is a tile of distances."""
    return max(1, min(BLOCK_ENTRIES // width, math.isqrt(BLOCK_ENTRIES)))


def picked(x: Float[np.ndarray, "n d"], rows: slice | Int[np.ndarray, " m"]) -> Float64[np.ndarray, "m d"]:
    """A copy of some rows, in float64; what was read of a file is not kept."""
    out = np.array(x[rows], np.float64)
    release(x)
    return out


def mean(x: Float[np.ndarray, "n d"], index: Int[np.ndarray, " m"] | None = None) -> Float64[np.ndarray, " d"]:
    """Of the rows, or of those of `index`."""
    num = len(x) if index is None else len(index)
    return np.sum([block.sum(axis=0) for block in blocks(x, index)], axis=0) / num


def distance_tiles(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"] | None = None
) -> Iterator[tuple[slice, slice, Float64[np.ndarray, "i j"]]]:
    """(rows of a, rows of b, the Euclidean distances between them), a tile at a time, in order. Without b it is a
    itself, and tiles below the diagonal, which are known from those above it, are left out.

    |a - b|² = |a|² + |b|² - 2 a·b, about b's mean so that a common offset costs no digits; equal rows are at
    exactly 0.
    """
    other = a if b is None else b
    centre, size = mean(other), block_rows(a.shape[1])
    for i in range(0, len(a), size):
        rows = slice(i, min(i + size, len(a)))
        block = picked(a, rows) - centre
        norms = np.square(block).sum(axis=1)[:, None]
        for j in range(i if b is None else 0, len(other), size):
            columns = slice(j, min(j + size, len(other)))
            against = picked(other, columns) - centre
            both = norms + np.square(against).sum(axis=1)
            squared = both - 2 * (block @ against.T)
            yield rows, columns, np.sqrt(np.where(squared > ROUNDING * both, squared, 0.0))


def nearest_distances(points: Float[np.ndarray, "n d"], k: int) -> Float64[np.ndarray, "n k"]:
    """Of every point to its k nearest others, in no order. There must be more than k points."""
    found = np.full((len(points), k + 1), np.inf)  # A point itself, at 0, is one of them.

    def seen(rows: slice, tile: Float64[np.ndarray, "i j"]) -> None:
        found[rows] = np.partition(np.concatenate([found[rows], tile], axis=1), k, axis=1)[:, : k + 1]

    for rows, columns, tile in distance_tiles(points):
        seen(rows, tile)
        if rows != columns:
            seen(columns, tile.T)
    return np.sort(found, axis=1)[:, 1:]
