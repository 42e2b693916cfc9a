"""The metrics of `score`, with their values under the names that it prints, and notes on what they are worth."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from guided_distill import evaluate, mapped
from guided_distill.metrics import (
    FeatureSet,
    TooFew,
    checked,
    frechet,
    inception_score,
    kernel,
    nearest,
    nearest_distances,
    precision_recall,
)

NEIGHBOURS = 3
Values = dict[str, float]


class Reference:
    """The real set, with what of it is asked for again and again; under `stem`, where there is one, that is kept in
    files, whole or not at all."""

    def __init__(self, features: FeatureSet, stem: Path | None = None):
        self.features, self._stem = features, stem
        self._known: dict[str, dict[str, np.ndarray]] = {}

    def gaussian(self) -> frechet.Gaussian:
        """Its mean and covariance."""
        found = self._kept("gaussian", lambda: frechet.gaussian(self.features.features)._asdict())
        return frechet.Gaussian(found["mean"], found["factor"], int(found["num"]))

    def neighbours(self) -> np.ndarray:
        """Each one's distances to its nearest three others (or as many as there are), rising [m, 3]."""
        features = self.features.features
        count = min(NEIGHBOURS, len(features) - 1)
        return self._kept("neighbours", lambda: {"distances": nearest_distances(features, count)})["distances"]

    def _kept(self, what: str, compute: Callable[[], Mapping[str, object]]) -> dict[str, np.ndarray]:
        if what not in self._known:
            path = self._stem.with_name(f"{self._stem.name}.{what}.npz") if self._stem else None
            self._known[what] = (path and _read(path)) or _write(path, compute())
        return self._known[what]


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """None where there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path | None, arrays: Mapping[str, object]) -> dict[str, np.ndarray]:
    found = {name: np.asarray(array) for name, array in arrays.items()}
    if path:
        with mapped.whole(path) as file:
            np.savez(file, **found)
    return found


class Measure(Protocol):
    """(fake, reference) -> values, notes."""

    def __call__(self, fake: FeatureSet, real: Reference) -> tuple[Values, list[str]]:
        """Raises `TooFew`, and `UserError` for features that are not finite."""


def fd(fake: FeatureSet, real: Reference) -> tuple[Values, list[str]]:
    """Fréchet distance."""
    checked(fake, real.features)
    (num, width), notes = fake.features.shape, []
    for what, count in (("fake", num), ("real", len(real.features.features))):
        if count <= width:
            notes.append(f"fd: {count} {what} samples of {width} dimensions, so their covariance is singular")
    return {"fd": frechet.distance(frechet.gaussian(fake.features), real.gaussian())}, notes


def kid(fake: FeatureSet, real: Reference) -> tuple[Values, list[str]]:
    """Kernel distance, as torch-fidelity takes it."""
    mean, std, size = kernel.kid(fake, real.features)
    told = f"kid: subsets of {size} instead of {kernel.SUBSET_SIZE} samples, as the smaller set has no more"
    return {"kid": mean, "kid_std": std}, [told] if size < kernel.SUBSET_SIZE else []


def inception(fake: FeatureSet, real: Reference) -> tuple[Values, list[str]]:
    """Inception Score of the logits."""
    if fake.logits is None:
        return {}, ["is: these features come without logits"]
    num = len(fake.logits)
    told = f"is: {num} parts of one sample each instead of {inception_score.SPLITS}"
    return inception_score.compute(fake, real.features), [told] if num < inception_score.SPLITS else []


def precision(fake: FeatureSet, real: Reference) -> tuple[Values, list[str]]:
    """Improved precision and recall, k = 3."""
    checked(fake, real.features, at_least=NEIGHBOURS + 1)
    return precision_recall.compute(fake, real.features, real_radii=real.neighbours()[:, NEIGHBOURS - 1]), []


def memorised(fake: FeatureSet, real: Reference) -> tuple[Values, list[str]]:
    """Distances to the nearest training image."""
    nearest.check(fake, real.features)
    return nearest.compute(fake, real.features, own=real.neighbours()[:, 0]), []


MEASURES: Mapping[str, Measure] = {"fd": fd, "kid": kid, "is": inception, "pr": precision, "nearest": memorised}


def measure(names: list[str], fake: FeatureSet, real: Reference) -> tuple[Values, list[str]]:
    """(values, notes) of the named ones. What needs more samples than there are, or is not finite, is left out, with a
    note."""
    values, notes = {}, []
    for name in names:
        try:
            found, told = MEASURES[name](fake, real)
        except TooFew as error:
            found, told = {}, [f"{name}: {error}"]
        if bad := [key for key, value in found.items() if not np.isfinite(value)]:
            told.append(f"{name}: {', '.join(bad)} is not finite")
        values |= {key: value for key, value in found.items() if key not in bad}
        notes += told
    return values, notes


def floor(num: int, real: FeatureSet) -> tuple[float | None, str | None]:
    """(the Fréchet distance of `num` of the real samples to all others, None) or (None, why there is none): as low as
    new samples of the real distribution can be expected to get."""
    available = len(real.features)
    if num < 2:
        return None, "floor: one sample has no covariance"
    if available < 2 * num:
        return None, f"floor: {available} real samples are fewer than twice the {num} fake ones"
    order = evaluate.order(available, 0)
    first, others = (frechet.gaussian(real.features, np.sort(rows)) for rows in (order[:num], order[num:]))
    return frechet.distance(first, others), None
