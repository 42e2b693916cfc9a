"""Improved precision and recall (Kynkäänniemi et al. 2019): fidelity and coverage, apart.

A set's manifold is the union of closed balls about its points, each reaching to the point's k-th nearest neighbour
(eq. 1).
"""

import numpy as np
from jaxtyping import Float64

from guided_distill.metrics import FeatureSet, checked, distance_tiles, nearest_distances


def compute(
    fake: FeatureSet, real: FeatureSet, *, k: int = 3, real_radii: Float64[np.ndarray, " m"] | None = None
) -> dict[str, float]:
    """`precision`: the share of fake inside the real manifold; `recall`: of real inside the fake one (eq. 2).

    Both in [0, 1], 1 is best; k = 3 is the paper's. `real_radii`: of the balls about the real ones, if they are known.
    Raises `UserError` as `metrics.checked` does, and for sets of k samples or fewer.
    """
    fakes, reals = checked(fake, real, at_least=k + 1)
    fake_radii = nearest_distances(fakes, k)[:, -1]
    real_radii = nearest_distances(reals, k)[:, -1] if real_radii is None else real_radii
    precise, recalled = np.zeros(len(fakes), bool), np.zeros(len(reals), bool)
    for rows, columns, tile in distance_tiles(fakes, reals):
        precise[rows] |= (tile <= real_radii[columns]).any(axis=1)
        recalled[columns] |= (tile <= fake_radii[rows, None]).any(axis=0)
    return {"precision": float(precise.mean()), "recall": float(recalled.mean())}
