"""Generation + metrics: how good samples are, against data and against a teacher from the same noise."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guided_distill import extraction, image_sets
from guided_distill.data import Source
from guided_distill.errors import UserError
from guided_distill.features import Features
from guided_distill.image_sets import ImageSet
from guided_distill.metrics import FeatureSet, class_variance
from guided_distill.plugins import resolve

AGAINST_DATA = ("frechet", "precision_recall", "class_variance")
TRACKED = ("frechet_distance_pixels", "precision_pixels", "recall_pixels")
"""What the scores of a training run can be ranked by."""
CACHE = Path.home() / ".cache" / "guided_distill" / "features"
CHUNK = 4096  # Examples that are read at a time.


def default_metrics(features: str) -> tuple[str, ...]:
    """Names of metrics: with a network's many features, the one that few samples do not bias comes first; of
    Inception-v3 its score, too."""
    scored = ("inception_score",) if features == "inception" else ()
    return AGAINST_DATA if features == "pixels" else ("kernel", *AGAINST_DATA, *scored)


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
    images: np.ndarray,
    labels: np.ndarray | None,
    features: Features,
    cache: Path | None = None,
    logits: bool = False,
) -> FeatureSet:
    """The features of images (uint8, or float in [-1, 1]) with their labels, and with the network's `logits` if asked
    for. With `cache`, a folder, a network's are looked up there by the images themselves and the network, and kept:
    memory-mapped."""
    return of_images(image_sets.of_array(np.asarray(images)), labels, features, cache, logits)


def of_images(
    images: ImageSet, labels: np.ndarray | None, features: Features, cache: Path | None = None, logits: bool = False
) -> FeatureSet:
    """As `feature_set`, of images that need not be in memory."""
    identity = getattr(features, "identity", None)
    if cache is None or identity is None:
        found, of_logits = extraction.in_memory(features, images, logits)
    else:
        key = hashlib.sha256(f"{identity} {images.digest()}".encode()).hexdigest()
        found, of_logits = extraction.extract(features, images, cache / key, logits)
    return FeatureSet(found, labels, of_logits)


def reference(
    source: Source,
    features: Features,
    num: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    logits: bool = False,
) -> FeatureSet:
    """The features of a whole data set, or of `num` examples, drawn by `seed` without replacement. Raises `UserError`
    when there are fewer."""
    if num is None:
        return _part(source, None, features, cache, logits)
    if not 0 < num <= len(source):
        raise UserError(f"a reference of {num} images; the data set has {len(source)}")
    return _part(source, order(len(source), seed)[:num], features, cache, logits)


def order(num: int, seed: int) -> np.ndarray:
    """The numbers below `num`, shuffled."""
    return np.random.default_rng([2023, seed]).permutation(num)


def _part(source: Source, index: np.ndarray | None, features: Features, cache: Path | None, logits: bool) -> FeatureSet:
    return of_images(image_sets.of_source(source, index), labels_of(source, index), features, cache, logits)


def labels_of(source: Source, index: np.ndarray | None = None) -> np.ndarray | None:
    """The labels of a data set, or of its examples of `index`; None where it has none. Not all images are in memory at
    a time."""
    if not source.info.num_classes or "label" not in source[:1]:
        return None
    index = np.arange(len(source)) if index is None else index
    return np.concatenate([source[index[k : k + CHUNK]]["label"] for k in range(0, len(index), CHUNK)])


def told(manifest: Mapping[str, Any], source: Source, num: int) -> dict[str, Any]:
    """What a run is asked for when `num` samples are to be held against a data set, and its teacher likewise:
    {"labels": classes in turn}, {"prompts": captions, spread over the set}, or {}."""
    if manifest.get("text"):
        index = np.arange(num) * len(source) // num if num <= len(source) else np.arange(num) % len(source)
        if not source.info.captions:
            raise UserError("a run that reads captions is held against a data set that has them, and this one has none")
        return {"prompts": source.captions_at(index)}
    classes = manifest["num_classes"]
    return {"labels": np.arange(num) % classes} if classes else {}


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
        rest = order(len(source), seed)[len(real.features) :]
        fake, other = _part(source, rest[:num], features, cache, real.logits is not None), real
    else:
        shuffled, size = order(len(real.features), seed), min(num, len(real.features) // 2)
        fake, other = (
            FeatureSet(*(None if array is None else array[rows] for array in real))
            for rows in (shuffled[:size], shuffled[size:])
        )
    sizes = {"num": len(fake.features), "num_reference": len(other.features)}
    return {**sizes, **score(fake, other, metrics=metrics)}


def score(
    fake: FeatureSet, real: FeatureSet, teacher: FeatureSet | None = None, metrics: Sequence[str] = AGAINST_DATA
) -> dict[str, float]:
    """The named metrics of `fake` against `real`, and the paired distance to `teacher`'s samples from the same noise,
    if given. The variance within classes is left out where no class has two samples in both."""
    out: dict[str, float] = {}
    for name in metrics:
        if name == "class_variance" and not _classes_repeat(fake, real):
            continue
        out |= resolve("metrics", name).compute(fake, real)
    if teacher is not None:
        out |= resolve("metrics", "paired").compute(fake, teacher)
    return out


def _classes_repeat(fake: FeatureSet, real: FeatureSet) -> bool:
    if fake.labels is None or real.labels is None:
        return False
    return len(class_variance.shared(np.asarray(fake.labels), np.asarray(real.labels))) > 0
