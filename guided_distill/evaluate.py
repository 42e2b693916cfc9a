"""Generation + metrics: how good samples are, against data and against a teacher from the same noise."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guided_distill.codecs import to_float
from guided_distill.data import Source
from guided_distill.errors import UserError
from guided_distill.features import Features
from guided_distill.metrics import FeatureSet
from guided_distill.plugins import resolve

AGAINST_DATA = ("frechet", "precision_recall", "class_variance")
TRACKED = ("frechet_distance_pixels", "precision_pixels", "recall_pixels")
"""What the scores of a training run can be ranked by."""
CACHE = Path.home() / ".cache" / "guided_distill" / "features"
CHUNK = 4096  # Images that are floats at a time.


def default_metrics(features: str) -> tuple[str, ...]:
    """Names of metrics: with a network's many features, the one that few samples do not bias comes first."""
    return AGAINST_DATA if features == "pixels" else ("kernel", *AGAINST_DATA)


def load_features(name: str, weights: str | None = None, **arguments) -> tuple[str, Features]:
    """(what its metrics are called by, feature function); `weights`: a path, where they are not in an installed
    package. Raises `UserError` for an unknown name or argument, and for other weights."""
    module = resolve("features", name)
    if weights is not None:
        arguments["weights"] = weights
    try:
        features = module.make(**arguments)
    except TypeError as error:
        raise UserError(f"features {name}: {error}") from error
    return getattr(features, "name", module.NAME), features


def feature_set(
    images: np.ndarray, labels: np.ndarray | None, features: Features, cache: Path | None = None
) -> FeatureSet:
    """The features of images (uint8, or float in [-1, 1]) with their labels. With `cache`, a folder, a network's are
    looked up there by the images themselves and the network, and kept."""
    identity = getattr(features, "identity", None)
    if cache is None or identity is None:
        return FeatureSet(_features(images, features), labels)
    images = np.ascontiguousarray(images)
    key = hashlib.sha256(f"{identity} {images.dtype} {images.shape}".encode())
    key.update(images.data)
    path = cache / f"{key.hexdigest()}.npy"
    if path.is_file():
        return FeatureSet(np.load(path, allow_pickle=False).astype(np.float64), labels)
    found = _features(images, features)
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.save(file, found.astype(np.float32))  # As the network made them.
    part.replace(path)
    return FeatureSet(found, labels)


def _features(images: np.ndarray, features: Features) -> np.ndarray:
    return np.concatenate([features(to_float(images[k : k + CHUNK])) for k in range(0, max(len(images), 1), CHUNK)])


def reference(
    source: Source, features: Features, num: int | None = None, seed: int = 0, cache: Path | None = None
) -> FeatureSet:
    """The features of a whole data set, or of `num` examples, drawn by `seed` without replacement. Raises `UserError`
    when there are fewer."""
    if num is None:
        return _part(source, slice(None), features, cache)
    if not 0 < num <= len(source):
        raise UserError(f"a reference of {num} images; the data set has {len(source)}")
    return _part(source, _order(len(source), seed)[:num], features, cache)


def _order(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng([2023, seed]).permutation(num)


def _part(source: Source, index: np.ndarray | slice, features: Features, cache: Path | None) -> FeatureSet:
    part = source[index]
    return feature_set(part["x"], part.get("label"), features, cache)


def floor(
    source: Source,
    features: Features,
    real: FeatureSet,
    num: int,
    metrics: Sequence[str] = AGAINST_DATA,
    seed: int = 0,
    cache: Path | None = None,
) -> dict[str, float | int]:
    """What `num` images of the data itself score: as low as samples can be expected to get.

    They are images that `real`, a `reference` of `seed`, leaves out, against it; or, where it leaves too few, a half of
    it (or `num`, if fewer) against its other images. Also `num` and `num_reference`, the sizes that were compared.
    """
    if len(source) - len(real.features) >= num:
        rest = _order(len(source), seed)[len(real.features) :]
        fake, other = _part(source, rest[:num], features, cache), real
    else:
        order, size = _order(len(real.features), seed), min(num, len(real.features) // 2)
        fake, other = (
            FeatureSet(real.features[rows], None if real.labels is None else real.labels[rows])
            for rows in (order[:size], order[size:])
        )
    sizes = {"num": len(fake.features), "num_reference": len(other.features)}
    return {**sizes, **score(fake, other, metrics=metrics)}


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
