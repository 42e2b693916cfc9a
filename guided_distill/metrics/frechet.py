"""Fréchet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

It is called FID only on the standard Inception-v3 features; on others, FD-<feature function>.
"""

import numpy as np
from jaxtyping import Float

from guided_distill.metrics import FeatureSet, checked


def _factor(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d rank"]:
    """L with L Lᵀ = covariance; eigenvalues within rounding of zero, or below it, are left out."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def trace_sqrt_product(covariance1: Float[np.ndarray, "d d"], covariance2: Float[np.ndarray, "d d"]) -> float:
    """tr (S1^½ S2 S1^½)^½ = tr (S1 S2)^½ of two covariances, which may be singular.

    With S1 = L1 L1ᵀ and S2 = L2 L2ᵀ from eigen-decompositions, it is the sum of the singular values of
    L1ᵀ L2. The eigenvalues of the product are their squares; roots of those turn rounding of 1e-16 into 1e-8.
    """
    return float(np.linalg.svd(_factor(covariance1).T @ _factor(covariance2), compute_uv=False).sum())


def distance(
    mean1: Float[np.ndarray, " d"],
    covariance1: Float[np.ndarray, "d d"],
    mean2: Float[np.ndarray, " d"],
    covariance2: Float[np.ndarray, "d d"],
) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½), in squared units of the features; symmetric, never negative."""
    shift = np.sum(np.square(mean1 - mean2))
    spread = np.trace(covariance1) + np.trace(covariance2) - 2 * trace_sqrt_product(covariance1, covariance2)
    return float(max(shift + spread, 0.0))


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`frechet_distance`, in squared units of the features, with unbiased covariances; 0 is best.

    It falls with the number of samples: compare only at equal counts. Raises `UserError` as `metrics.checked`
    does.
    """
    fitted = [(x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))) for x in checked(fake, real)]
    return {"frechet_distance": distance(*fitted[0], *fitted[1])}
