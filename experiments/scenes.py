"""What is edited: images, what they are, what they are to become, and a judge of whether they are it."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.svm import SVC

from configs import digits_stage2, emoji_stage2
from experiments.emoji import SCALES, Pairs, embedding
from experiments.matcher import Matcher
from experiments.results import read
from guided_distill import codecs, data, evaluate
from guided_distill.errors import UserError

Told = dict[str, Any]
"""What a run is told of n images, by the keyword of `Run.sample`."""


class Scene(Protocol):
    """`images` float32 [n, *shape], `was`: what they are; `edited`, `translated`: what an edit or a translation is to
    make of them; `others`: pictures of the same thing. `accuracy`: of the judge, on real images that it had not seen.
    `guidance` and the teacher's `many` steps, that it is edited with."""

    images: np.ndarray
    others: np.ndarray
    was: Told
    edited: Told
    translated: Told
    accuracy: float
    guidance: float
    many: int

    def share(self, images: np.ndarray, told: Told) -> float:
        """Of images that are taken for what was told."""

    def apart(self, images: np.ndarray) -> float | None:
        """Distance of features to those of the scene's images, where two different images are 1 apart."""

    def encoder(self):
        """The config of a distilled encoder of ENCODER_STEPS steps."""


ENCODER_STEPS = 4


class Digits:
    """`num` digits, classes in turn, which become the next class; `chain`: a directory of `experiments.digits`."""

    guidance, many = 1.0, 64

    def __init__(self, num: int, seed: int, chain: Path):
        even, odd = (data.load("digits", split)[:] for split in ("even", "odd"))  # The judge's, and the scene's.
        self.classifier = self._fitted(even)
        self.accuracy = float(self.classifier.score(self._flat(odd["x"]), odd["label"]))
        most = 10 * int(np.bincount(odd["label"]).min())
        if not 1 <= num <= most:
            raise UserError(f"{num} digits: expected 1 to {most}, as classes come in turn")
        rng = np.random.default_rng(seed)
        chosen = [rng.permutation(np.flatnonzero(odd["label"] == k))[: -(-num // 10)] for k in range(10)]
        chosen = np.stack(chosen, 1).ravel()[:num]  # Classes in turn.
        self.images, labels = codecs.to_float(odd["x"][chosen]), odd["label"][chosen]
        self.was = {"labels": labels}
        self.edited = self.translated = {"labels": (labels + 1) % 10}
        # What an image's own half is worth.
        others = [rng.choice(np.setdiff1d(np.flatnonzero(odd["label"] == odd["label"][k]), [k])) for k in chosen]
        self.others = codecs.to_float(odd["x"][others])

    @staticmethod
    def _flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / 255.0

    def _fitted(self, part: dict[str, np.ndarray]) -> SVC:
        return SVC(C=10).fit(self._flat(part["x"]), part["label"])

    def share(self, images: np.ndarray, told: Told) -> float:
        """By a support vector machine on pixels."""
        return float(np.mean(self.classifier.predict(self._flat(codecs.to_uint8(images))) == told["labels"]))

    def apart(self, images: np.ndarray) -> None:
        """There is no network of features for 8 x 8 pixels."""

    def encoder(self):
        """Of the full chain's."""
        config = digits_stage2.get_config("encoding")
        config.num_updates, config.halving.end_steps, config.optim.lr = 300, ENCODER_STEPS, 5e-4
        return config


class Emoji:
    """`num` pictures with captions "name, style", those that were held out first; an edit makes another name of them, a
    translation another style. `chain`: a directory of `experiments.emoji`."""

    guidance, many = 2.0, 128

    def __init__(self, num: int, seed: int, chain: Path):
        name = read(chain)[1]["settings"].get("scale")
        if name not in SCALES:
            raise UserError(f"{chain} is of another experiment than emoji")
        scale = SCALES[name]
        self.scale, (_, features) = scale, evaluate.load_features(scale.features)
        self._features = lambda images: evaluate.feature_set(images, None, features).features
        seen = Pairs(data.load(**scale.source), features, num)
        held = Pairs(data.load(**scale.heldout), features, num)
        self.matcher = Matcher(seen.real.features, seen.captions, embedding(scale), seed)
        self.accuracy = self.matcher.precision(held.real.features, held.captions)
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(seen.captions))[: max(num - len(held.captions), 0)]
        self.images = np.concatenate([held.images, seen.images[chosen]])[:num]
        was = (held.captions + [seen.captions[k] for k in chosen])[:num]
        every, pictures = held.captions + seen.captions, np.concatenate([held.images, seen.images])
        restyled = [_another(caption, every, rng, style=True) for caption in was]
        self.was, self.translated = {"prompts": was}, {"prompts": restyled}
        self.edited = {"prompts": [_another(caption, every, rng, style=False) for caption in was]}
        self.others = pictures[[every.index(caption) for caption in restyled]]
        self.source = self._features(self.images)
        self.far = float(np.linalg.norm(self.source - np.roll(self.source, 1, axis=0), axis=1).mean())

    def share(self, images: np.ndarray, told: Told) -> float:
        """Whose caption the matcher finds."""
        return self.matcher.precision(self._features(images), told["prompts"])

    def apart(self, images: np.ndarray) -> float:
        """Of the features that the chain is measured by."""
        return float(np.linalg.norm(self._features(images) - self.source, axis=1).mean() / self.far)

    def encoder(self):
        """Of the chain's size."""
        config = emoji_stage2.get_config(f"{self.scale.argument},encoding".lstrip(","))
        if self.scale.argument != "tiny":
            config.num_updates, config.halving.end_steps = 300, ENCODER_STEPS
        return config


def _another(caption: str, captions: list[str], rng: np.random.Generator, style: bool) -> str:
    """A caption that differs in its style alone, or in its name alone, where there is one."""
    parts = {other: other.partition(", ") for other in captions if other != caption}
    name, _, kind = caption.partition(", ")
    fit = [o for o, (n, _, k) in parts.items() if (n == name and k != kind if style else n != name and k == kind)]
    return str(rng.choice(fit or list(parts)))


SCENES = {"digits": Digits, "emoji": Emoji}
