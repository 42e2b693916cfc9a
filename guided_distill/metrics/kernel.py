"""Kernel distance (Bińkowski et al. 2018): squared maximum mean discrepancy with a cubic kernel, nothing fitted.

It is called KID only on the standard Inception-v3 features; on others, KD-<feature function>. Unbiased, so it comes
first where samples are few.
"""

import numpy as np
from jaxtyping import Float, Float64

from guided_distill.metrics import FeatureSet, checked, picked

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """k(x, y) = (x·y / d + 1)³."""
    product = x @ y.T
    product /= x.shape[1]
    product += 1
    cube = product * product
    cube *= product
    return cube


def squared_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y), with X' and Y' other samples than X and Y: unbiased, so that it may be
    negative."""

    def within(a: Float[np.ndarray, "n d"]) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def of_subsets(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], subsets: int, size: int
) -> Float64[np.ndarray, " subsets"]:
    """`squared_mmd` of random subsets of both sets, of `size` samples each, drawn in the order of torch-fidelity."""
    rng = np.random.RandomState(2020)
    draw = lambda z: picked(z, rng.choice(len(z), size, replace=False))  # noqa: E731
    return np.array([squared_mmd(draw(x), draw(y)) for _ in range(subsets)])  # Fake first.


def kid(
    fake: FeatureSet, real: FeatureSet, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> tuple[float, float, int]:
    """(mean, standard deviation, size) over subsets of `subset_size` samples, or of as many as the smaller set has: as
    torch-fidelity reports KID, which refuses smaller sets.

    The deviation is no error: subsets overlap, and those of a whole set are all alike. Raises `UserError` as
    `metrics.checked` does.
    """
    x, y = checked(fake, real)
    size = min(subset_size, len(x), len(y))
    values = of_subsets(x, y, subsets, size)
    return float(values.mean()), float(values.std()), size


def compute(fake: FeatureSet, real: FeatureSet, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE) -> dict:
    """`kernel_distance`: the mean of `squared_mmd` over random subsets of both sets; 0 is best, and equal distributions
    scatter about it. `kernel_distance_error`: its standard error, if both sets were drawn anew.

    Subsets have `subset_size` samples, or half of the smaller set where that is less: only then does their scatter s
    tell of the draw. From sets of twice `subset_size` on the mean is that of `kid`. Of n samples, delete-d jackknife
    (Shao & Wu 1989): error = s √(size / (n - size)), which is too large rather than too small for equal distributions
    and for sets of different size. Raises `UserError` as `metrics.checked` does.
    """
    x, y = checked(fake, real, at_least=4)
    num = min(len(x), len(y))
    size = min(subset_size, num // 2)
    values = of_subsets(x, y, subsets, size)
    error = values.std(ddof=1) * np.sqrt(size / (num - size))
    return {"kernel_distance": float(values.mean()), "kernel_distance_error": float(error)}
