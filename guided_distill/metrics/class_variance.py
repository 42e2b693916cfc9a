"""Variance within a class, relative to the data's: what guidance trades for fidelity (Ho & Salimans 2022)."""

import numpy as np
from jaxtyping import Float, Int

from guided_distill.errors import UserError
from guided_distill.metrics import ROUNDING, FeatureSet, blocks, checked, mean


def _labels(name: str, given: FeatureSet) -> Int[np.ndarray, " n"]:
    """The labels of a set. Raises `UserError` where there are none, or not one a sample."""
    if given.labels is None:
        raise UserError(f"class_variance needs labels; the {name} set has none")
    labels = np.asarray(given.labels)
    if labels.shape != (len(given.features),):
        raise UserError(
            f"{name} labels have shape {labels.shape}; expected one for each of {len(given.features)} samples"
        )
    return labels


def shared(fake: Int[np.ndarray, " n"], real: Int[np.ndarray, " m"]) -> Int[np.ndarray, " c"]:
    """The classes that occur twice or more in both of these labels: without one there is no variance to compare."""
    counted = (np.unique(labels, return_counts=True) for labels in (fake, real))
    return np.intersect1d(*(classes[counts > 1] for classes, counts in counted))


def _mean_variance(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], classes: Int[np.ndarray, " c"]
) -> float:
    """The trace of the unbiased covariance within a class, averaged over `classes`."""

    def variance(rows: Int[np.ndarray, " m"]) -> float:
        centre = mean(features, rows)
        return sum(np.square(block - centre).sum() for block in blocks(features, rows)) / (len(rows) - 1)

    return float(np.mean([variance(np.flatnonzero(labels == c)) for c in classes]))


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`class_variance`: fake's over real's; 1 = as varied as the data, 0 = one image a class.

    A set's is the trace of the covariance within a class, averaged over the classes with two samples or more
    in both sets. Raises `UserError` as `metrics.checked` does, without labels, without such a class, and when
    real samples do not vary within their class.
    """
    fakes, reals = checked(fake, real)
    fake_labels, real_labels = _labels("fake", fake), _labels("real", real)
    classes = shared(fake_labels, real_labels)
    if not len(classes):
        raise UserError("class_variance: no class has two samples or more in both sets; draw more samples")
    data = _mean_variance(reals, real_labels, classes)
    square = sum(np.square(block).sum() for block in blocks(reals)) / len(reals)
    if data <= ROUNDING * square:  # Of equal rows it is what rounding leaves.
        raise UserError("class_variance: real samples do not vary within their class")
    return {"class_variance": _mean_variance(fakes, fake_labels, classes) / data}
