"""Fréchet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017, eq. 6).

It is called FID only on the standard Inception-v3 features; on others, FD-<feature function>.
"""

import numpy as np
from jaxtyping import Float

from guided_distill.metrics import FeatureSet, checked


def _factor(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d rank"]:
    """L with L Lᵀ = the unbiased covariance of x's rows: the centred rows themselves where they are few; else from its
    eigen-decomposition, less eigenvalues within rounding of zero."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return centred.T
    values, vectors = np.linalg.eigh(centred.T @ centred)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return vectors[:, kept] * np.sqrt(values[kept])


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`frechet_distance`: |m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½), in squared units of the features; 0 is best.

    Covariances S are unbiased, and may be singular. With S = L Lᵀ, tr (S1 S2)^½ is the sum of the singular values of
    L1ᵀ L2: the eigenvalues of the product are their squares, and roots of those turn rounding of 1e-16 into 1e-8. The
    distance falls with the number of samples: compare only at equal counts. Raises `UserError` as `metrics.checked`
    does.
    """
    sets = checked(fake, real)
    (mean1, mean2), (factor1, factor2) = [x.mean(axis=0) for x in sets], [_factor(x) for x in sets]
    product = np.linalg.svd(factor1.T @ factor2, compute_uv=False).sum()
    spread = np.square(factor1).sum() + np.square(factor2).sum() - 2 * product
    return {"frechet_distance": float(max(np.sum(np.square(mean1 - mean2)) + spread, 0.0))}
