"""A small judge of captions: ridge regression from an image's features to its caption's embedding, fitted on real
pairs. R-precision (Park et al. 2021) is how often an image's own caption is the nearest of a hundred."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

CHOICES = 100
STRENGTHS = (10.0, 100.0, 1e3, 1e4, 1e5)
"""Of the penalty, for features of unit variance: the one is taken that finds the most captions of a fifth of the pairs
that was left out."""


class Matcher:
    """`precision(features [n, d], captions)`: the share of images whose caption is nearer than 99 others, those of
    `pool`, drawn by `seed`. `alpha`: the penalty that was chosen; `left_out`: what it had found."""

    def __init__(
        self,
        features: np.ndarray,
        captions: Sequence[str],
        embed: Callable[[Sequence[str]], np.ndarray],
        seed: int = 0,
    ):
        self.embed, self.seed, self.pool = embed, seed, list(dict.fromkeys(captions))
        targets = self._of(captions)
        self.centre = targets.mean(0)
        order = np.random.default_rng(seed).permutation(len(captions))
        out, rest = order[: len(order) // 5], order[len(order) // 5 :]
        found = {}
        for alpha in STRENGTHS:
            self.model = _fitted(features[rest], targets[rest] - self.centre, alpha)
            found[alpha] = self.precision(features[out], [captions[k] for k in out])
        self.alpha = max(found, key=found.get)
        self.left_out, self.model = found[self.alpha], _fitted(features, targets - self.centre, self.alpha)

    def _of(self, captions: Sequence[str]) -> np.ndarray:
        different = list(dict.fromkeys(captions))
        known = dict(zip(different, self.embed(different), strict=True))
        return np.stack([known[caption] for caption in captions])

    def scores(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Cosines [n, m] of images and captions."""
        ours, theirs = self.model.predict(features), self._of(captions) - self.centre
        unit = lambda of: of / np.linalg.norm(of, axis=1, keepdims=True)  # noqa: E731
        return unit(ours) @ unit(theirs).T

    def precision(self, features: np.ndarray, captions: Sequence[str]) -> float:
        """The share of images [n, d] whose own caption is nearer than CHOICES - 1 others (or all others, if fewer)."""
        pool = list(dict.fromkeys([*self.pool, *captions]))
        place = {caption: k for k, caption in enumerate(pool)}
        found, rng, right = self.scores(features, pool), np.random.default_rng(self.seed), []
        for row, caption in zip(found, captions, strict=True):
            others = np.delete(np.arange(len(pool)), place[caption])
            others = rng.choice(others, min(CHOICES - 1, len(others)), replace=False)
            right.append(row[place[caption]] > row[others].max())
        return float(np.mean(right))


def _fitted(features: np.ndarray, targets: np.ndarray, alpha: float) -> Pipeline:
    return make_pipeline(StandardScaler(), Ridge(alpha)).fit(features, targets)
