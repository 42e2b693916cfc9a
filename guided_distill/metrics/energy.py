"""Energy distance between two sets (Székely & Rizzo 2013): nothing is fitted, no bias with few samples."""

import numpy as np
from jaxtyping import Float

from guided_distill.metrics import FeatureSet, checked, distance_tiles


def _between(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """The sum of all distances between rows of a and rows of b."""
    return float(sum(tile.sum() for _, _, tile in distance_tiles(a, b)))


def _within(a: Float[np.ndarray, "n d"]) -> float:
    """The same with itself: tiles off the diagonal stand for two."""
    return float(sum(tile.sum() * (1 if rows == columns else 2) for rows, columns, tile in distance_tiles(a)))


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`energy_distance`: 2 E|X - Y| - E|X - X'| - E|Y - Y'|, in units of the features; 0 is best.

    X' and Y' are other samples than X and Y (U-statistics), which makes it unbiased: for equal distributions
    it scatters about 0 and may be slightly negative. Raises `UserError` as `metrics.checked` does.
    """
    x, y = checked(fake, real)
    n, m = len(x), len(y)
    within = _within(x) / (n * (n - 1)) + _within(y) / (m * (m - 1))
    return {"energy_distance": 2 * _between(x, y) / (n * m) - within}
