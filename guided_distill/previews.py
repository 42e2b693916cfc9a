"""Sample sheets and scores on the way, from the same noise all along."""

import functools
import logging
import math
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from guided_distill import codecs, conditions, data, evaluate, golden, pictures, runs, schedules
from guided_distill.generate import Generator, batch_of, noise
from guided_distill.metrics import FeatureSet, NotFinite
from guided_distill.stages import Stage
from guided_distill.state import TrainState

REFERENCE_BYTES = 2**29  # Of them as floats, which metrics on pixels hold several times.
REFERENCE = 5000  # Training images at most that samples are scored against: enough to tell one checkpoint from another.


class Preview:
    """Called with a state in training: samples/<step>.png, and scores against the training data where the config asks
    for them. Made before the first update: `UserError` then, where its golden set cannot be answered."""

    def __init__(self, stage: Stage, workdir: Path, mesh: Mesh):
        self.stage, self.workdir, self.manifest = stage, workdir, stage.manifest
        codec = codecs.load(**self.manifest["codec"])
        self._real: FeatureSet | None = None
        self.generator = Generator(runs.bind(self.manifest), codec, self.manifest["clip"], mesh)
        self._bench: golden.measure.Bench | None = None
        if asked := stage.loop.golden:
            self._bench = golden.verdict.open_bench(asked, self.manifest, self._images)

    @functools.cached_property
    def _images(self) -> data.Source:
        """What samples are held against."""
        return data.images(**self.manifest["data"])

    def __call__(self, state: TrainState, index: int, step: int) -> dict[str, float]:
        """Draws what the `index`-th round's student makes after update `step`; returns the scores, {} without
        `eval_num`. Every process takes part; process 0 writes."""
        if self.manifest["objective"] == "encoding":
            return {}
        shown = 40 if len(self.manifest["shape"]) > 1 else 1000
        images, labels = self._generate(state, index, max(self.stage.loop.eval_num, shown))
        if not jax.process_index():
            path = self.workdir / "samples" / f"{step:08d}.png"
            pictures.save_grid(path, images[:shown], 10, None if labels is None else labels[:shown])
        if not self.stage.loop.eval_num:
            return {}
        name, features = evaluate.load_features("pixels")
        if self._real is None:
            most = min(REFERENCE, max(REFERENCE_BYTES // (4 * math.prod(self.manifest["shape"])), 100))
            self._real = evaluate.reference(self._images, features, min(len(self._images), most))
        try:
            scores = evaluate.score(evaluate.feature_set(images, labels, features), self._real)
        except NotFinite as error:  # What may be wrong with the samples must not cost the update.
            logging.warning("update %d: not scored, %s", step, error)
            return {}
        return {f"{metric}_{name}": value for metric, value in scores.items()}

    def _generate(self, state: TrainState, index: int, num: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(samples [num, ...], labels or None) as the manifest recommends."""
        cond = {"guidance": np.full((num,), self.manifest["recommended"]["guidance"], np.float32)}
        told = evaluate.told(self.manifest, self._images, num) if self.stage.loop.eval_num else {}
        cond |= conditions.of(self.manifest, num, **told)
        z = noise(0, np.arange(num), tuple(self.manifest["code_shape"]))
        return self._draw(state, index, z, cond, 0), cond.get("label")

    def golden(self, state: TrainState, index: int) -> dict[str, float]:
        """How the `index`-th round's student answers the golden set, against data and its first teacher; {} where the
        config names none. Every process takes part."""
        if self._bench is None:
            return {}
        asked = self._bench.golden
        cond = {"guidance": asked.w} | conditions.of(self.manifest, len(asked.w), **self._bench.told)
        z = asked.noise(tuple(self.manifest["code_shape"]))
        images = self._draw(state, index, z, cond, asked.seed)
        return self._bench.scores(images, self.manifest["sampler"])

    def _draw(self, state: TrainState, index: int, z: np.ndarray, cond: dict[str, np.ndarray], seed: int) -> np.ndarray:
        """Samples from the noise z, with the round's steps where there are rounds."""
        weights = (state.params if state.ema is None else state.ema)["student"]
        steps = self.stage.rounds.num_steps[index] or self.manifest["recommended"]["steps"]
        grid = schedules.grid(schedules.make(**self.manifest["schedule"]), steps)
        rows = {"seed": seed, "indices": np.arange(len(z)), "batch_size": batch_of(self.manifest["shape"])}
        return self.generator(weights, self.manifest["sampler"], z, cond, grid, **rows)
