"""Improved precision and recall (Kynkäänniemi et al. 2019): fidelity and coverage, apart.

A set's manifold is the union of balls about its points, each reaching to the point's k-th nearest neighbour
(eq. 1).
"""

import numpy as np
from jaxtyping import Float

from guided_distill.metrics import FeatureSet, checked, distance_blocks


def _radii(points: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, " n"]:
    """The distance of every point to its k-th nearest neighbour, itself (at 0) not counted."""
    return np.concatenate([np.partition(block, k, axis=1)[:, k] for block in distance_blocks(points, points)])


def share_inside(queries: Float[np.ndarray, "n d"], points: Float[np.ndarray, "m d"], k: int = 3) -> float:
    """The share of `queries` inside the manifold of `points`, in [0, 1] (eq. 2)."""
    radii = _radii(points, k)
    inside = [np.any(block <= radii, axis=1) for block in distance_blocks(queries, points)]
    return float(np.concatenate(inside).mean())


def compute(fake: FeatureSet, real: FeatureSet, *, k: int = 3) -> dict[str, float]:
    """`precision`: the share of fake inside the real manifold; `recall`: of real inside the fake one (eq. 2).

    Both in [0, 1], 1 is best; k = 3 is the paper's. Raises `UserError` as `metrics.checked` does, and for
    sets of k samples or fewer.
    """
    fakes, reals = checked(fake, real, at_least=k + 1)
    return {"precision": share_inside(fakes, reals, k), "recall": share_inside(reals, fakes, k)}
