"""Distances between two sets of features, one metric a file, found by name.

Every module has `compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]`, in numpy float64. What the
features are (raw pixels, a network's activations) is the caller's choice, and belongs in the printed name:
FD-pixels, FD-EffLite0.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from guided_distill.errors import UserError

BLOCK_ENTRIES = 2**22  # Of a distance matrix at a time: 32 MiB in float64.
ROUNDING = 1e-13  # Squared distances below this share of the squared norms are rounding: the rows are equal.


class FeatureSet(NamedTuple):
    """Features of `n` samples, a row each, and their classes where a metric asks for them."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"] | None = None


def checked(
    fake: FeatureSet, real: FeatureSet, *, at_least: int = 2
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """The features of both sets in float64.

    Raises `UserError` for features that are not [n, d], fewer than `at_least` samples, NaN or infinite
    entries, or dimensions that differ.
    """
    arrays = []
    for name, (features, _) in (("fake", fake), ("real", real)):
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or not features.shape[1]:
            raise UserError(f"{name} features have shape {features.shape}; expected [samples, dimensions]")
        if len(features) < at_least:
            raise UserError(f"too few {name} samples: {len(features)}; this metric needs at least {at_least}")
        if bad := int(np.sum(~np.isfinite(features).all(axis=1))):
            raise UserError(f"{bad} of {len(features)} {name} samples have NaN or infinite features")
        arrays.append(features)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        dimensions = f"fake {arrays[0].shape[1]}, real {arrays[1].shape[1]}"
        raise UserError(f"feature dimensions differ: {dimensions}; take both from one feature function")
    return arrays[0], arrays[1]


def distance_blocks(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Iterator[Float[np.ndarray, "rows m"]]:
    """The Euclidean distances of a's rows to all of b's, some rows of a at a time, in order.

    |a - b|² = |a|² + |b|² - 2 a·b, about b's mean so that a common offset costs no digits; equal rows are at
    exactly 0.
    """
    centre = b.mean(axis=0)
    b = b - centre
    b_norms = np.sum(b * b, axis=1)
    rows = max(1, BLOCK_ENTRIES // len(b))
    for start in range(0, len(a), rows):
        block = a[start : start + rows] - centre
        norms = np.sum(block * block, axis=1)[:, None] + b_norms
        squared = norms - 2 * block @ b.T
        yield np.sqrt(np.where(squared > ROUNDING * norms, squared, 0.0))
