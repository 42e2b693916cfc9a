"""Energy distance between two sets (Székely & Rizzo 2013): nothing is fitted, no bias with few samples."""

import numpy as np
from jaxtyping import Float

from guided_distill.metrics import FeatureSet, checked, distance_blocks


def _total(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """The sum of all distances between rows of a and rows of b."""
    return float(sum(block.sum() for block in distance_blocks(a, b)))


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`energy_distance`: 2 E|X - Y| - E|X - X'| - E|Y - Y'|, in units of the features; 0 is best.

    X' and Y' are other samples than X and Y (U-statistics), which makes it unbiased: for equal distributions
    it scatters about 0 and may be slightly negative. Raises `UserError` as `metrics.checked` does.
    """
    x, y = checked(fake, real)
    n, m = len(x), len(y)
    between = _total(x, y) / (n * m)
    within = _total(x, x) / (n * (n - 1)) + _total(y, y) / (m * (m - 1))
    return {"energy_distance": 2 * between - within}
