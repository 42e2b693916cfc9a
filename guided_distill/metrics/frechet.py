"""Fréchet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

It is called FID only on the standard Inception-v3 features; on others, FD-<feature function>.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from guided_distill.metrics import FeatureSet, blocks, checked, mean


class Gaussian(NamedTuple):
    """Fitted to `num` rows: their `mean`, and a `factor` L of their unbiased covariance L Lᵀ."""

    mean: Float64[np.ndarray, " d"]
    factor: Float64[np.ndarray, "d rank"]
    num: int


def gaussian(features: Float[np.ndarray, "n d"], index: Int[np.ndarray, " m"] | None = None) -> Gaussian:
    """Of the rows, or of those of `index`, read in blocks, twice: the covariance is about the mean.

    L is the centred rows themselves where they are few; else it is from the covariance's eigen-decomposition, less
    eigenvalues within rounding of zero.
    """
    centre, num = mean(features, index), len(features) if index is None else len(index)
    centred = (block - centre for block in blocks(features, index))
    if num <= features.shape[1]:
        return Gaussian(centre, np.concatenate(list(centred)).T / np.sqrt(num - 1), num)
    total = np.zeros((features.shape[1],) * 2)
    for block in centred:
        total += block.T @ block
    values, vectors = np.linalg.eigh(total / (num - 1))
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return Gaussian(centre, vectors[:, kept] * np.sqrt(values[kept]), num)


def distance(a: Gaussian, b: Gaussian) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½). With S = L Lᵀ, tr (S1 S2)^½ is the sum of the singular values of L1ᵀ L2:
    the eigenvalues of the product are their squares, and roots of those turn rounding of 1e-16 into 1e-8."""
    product = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
    spread = np.square(a.factor).sum() + np.square(b.factor).sum() - 2 * product
    return float(max(np.square(a.mean - b.mean).sum() + spread, 0.0))


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`frechet_distance`: the `distance` of the two Gaussians, in squared units of the features; 0 is best.

    Covariances are unbiased, and may be singular. The distance falls with the number of samples: compare only at equal
    counts. Raises `UserError` as `metrics.checked` does.
    """
    fakes, reals = checked(fake, real)
    return {"frechet_distance": distance(gaussian(fakes), gaussian(reals))}
