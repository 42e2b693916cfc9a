"""Generation + metrics: how good samples are, against data and against a teacher from the same noise."""

from collections.abc import Sequence

import numpy as np

from guided_distill.codecs import to_float
from guided_distill.data import Source
from guided_distill.features import Features
from guided_distill.metrics import FeatureSet
from guided_distill.plugins import resolve

AGAINST_DATA = ("frechet", "precision_recall", "class_variance")


def feature_set(images: np.ndarray, labels: np.ndarray | None, features: Features) -> FeatureSet:
    """The features of images (uint8, or float in [-1, 1]) with their labels."""
    return FeatureSet(features(to_float(images)), labels)


def reference(source: Source, features: Features) -> FeatureSet:
    """The features of a whole data set."""
    return feature_set(source.arrays["x"], source.arrays.get("label"), features)


def load_features(name: str) -> tuple[str, Features]:
    """(what its metrics are called by, feature function). Raises `UserError` for an unknown name."""
    module = resolve("features", name)
    return module.NAME, module.make()


def score(
    fake: FeatureSet, real: FeatureSet, teacher: FeatureSet | None = None, metrics: Sequence[str] = AGAINST_DATA
) -> dict[str, float]:
    """The named metrics of `fake` against `real`, and the paired distance to `teacher`'s samples from the same noise,
    if given."""
    out: dict[str, float] = {}
    for name in metrics:
        if name == "class_variance" and (fake.labels is None or real.labels is None):
            continue
        out |= resolve("metrics", name).compute(fake, real)
    if teacher is not None:
        out |= resolve("metrics", "paired").compute(fake, teacher)
    return out
