"""Memorisation: whether samples lie nearer to training images than training images lie to each other."""

import numpy as np
from jaxtyping import Float64

from guided_distill.metrics import FeatureSet, TooFew, checked, distance_tiles, nearest_distances

NEAR = 0.01
"""The quantile of distances below which a sample counts as near."""


def check(fake: FeatureSet, real: FeatureSet) -> None:
    """Raises `UserError` as `metrics.checked` does: one sample, and two training images, are enough."""
    checked(fake, real, at_least=1)
    if len(real.features) < 2:
        raise TooFew("too few real samples: 1; this metric needs at least 2")


def compute(fake: FeatureSet, real: FeatureSet, *, own: Float64[np.ndarray, " m"] | None = None) -> dict[str, float]:
    """How far samples are from the training images, which `real` has to be; Euclidean, in units of the features.

    Let f be the distance of a sample to its nearest training image, and r that of a training image to its nearest
    other one. `nearest_median` and `nearest_percentile` are the median and the 1st percentile of f. `nearest_limit` is
    the 1 % quantile of r, and `nearest_share` the share of samples with f < `nearest_limit`, or f = 0: an exact copy
    counts also where the training set holds copies. New samples of the training images' own distribution have a share
    of about 0.01; much more is memorised. `own`: r, where it is known. Raises `UserError` as `check` does.
    """
    check(fake, real)
    fakes, reals = np.asarray(fake.features), np.asarray(real.features)
    own = nearest_distances(reals, 1)[:, 0] if own is None else own
    found = np.full(len(fakes), np.inf)
    for rows, _, tile in distance_tiles(fakes, reals):
        found[rows] = np.minimum(found[rows], tile.min(axis=1))
    limit = float(np.quantile(own, NEAR))
    return {
        "nearest_median": float(np.median(found)),
        "nearest_percentile": float(np.quantile(found, 0.01)),
        "nearest_limit": limit,
        "nearest_share": float(np.mean((found < limit) | (found == 0))),
    }
