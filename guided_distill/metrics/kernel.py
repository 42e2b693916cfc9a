"""Kernel distance (Bińkowski et al. 2018): squared maximum mean discrepancy with a cubic kernel, nothing fitted.

It is called KID only on the standard Inception-v3 features; on others, KD-<feature function>. Unbiased, so it comes
first where samples are few.
"""

import numpy as np
from jaxtyping import Float

from guided_distill.metrics import FeatureSet, checked

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """k(x, y) = (x·y / d + 1)³."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y), with X' and Y' other samples than X and Y: unbiased, so that it may be
    negative."""

    def within(a: Float[np.ndarray, "n d"]) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def compute(fake: FeatureSet, real: FeatureSet, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE) -> dict:
    """`kernel_distance`: the mean of `squared_mmd` over random subsets of both sets; 0 is best, and equal distributions
    scatter about it. `kernel_distance_error`: its standard error, if both sets were drawn anew.

    Subsets have `subset_size` samples, or half of the smaller set where that is less: only then does their scatter s
    tell of the draw. Of n samples, delete-d jackknife (Shao & Wu 1989): error = s √(size / (n - size)), which is too
    large rather than too small for equal distributions and for sets of different size. Raises `UserError` as
    `metrics.checked` does.
    """
    x, y = checked(fake, real, at_least=4)
    num = min(len(x), len(y))
    size = min(subset_size, num // 2)
    rng = np.random.RandomState(2020)  # With the order of draws, as torch-fidelity.
    values = [
        squared_mmd(*(z[rng.choice(len(z), size, replace=False)] for z in (x, y)))  # Fake first.
        for _ in range(subsets)
    ]
    error = np.std(values, ddof=1) * np.sqrt(size / (num - size))
    return {"kernel_distance": float(np.mean(values)), "kernel_distance_error": float(error)}
