"""Rows of a table: networks sampled from the same noise and labels, measured against data and against the teacher."""

from pathlib import Path

import numpy as np

from experiments.results import Results
from guided_distill import data, evaluate, pictures
from guided_distill.runs import Run


class Measure:
    """What all rows share: noise, labels, reference, features, and the teacher's samples as partners."""

    def __init__(
        self,
        results: Results,
        teacher: Run,
        num: int,
        seed: int,
        teacher_steps: int,
        features: str = "pixels",
        num_reference: int | None = None,
    ):
        self.results, self.teacher, self.num, self.seed, self.teacher_steps = results, teacher, num, seed, teacher_steps
        self.metrics, (_, self.features) = evaluate.default_metrics(features), evaluate.load_features(features)
        self.source = data.load(**teacher.manifest["data"])
        self.logits = "inception_score" in self.metrics
        self.real = evaluate.reference(self.source, self.features, num_reference, 0, evaluate.CACHE, self.logits)
        classes = teacher.manifest["num_classes"]
        self.labels = np.arange(num) % classes if classes else None
        self.partners: dict[float, evaluate.FeatureSet] = {}

    def samples(self, run: Run, steps: int, w: float, sampler: str, clip: bool | None = None) -> evaluate.FeatureSet:
        """The features of a run's samples."""
        images = run.sample(self.num, steps, w, self.labels, self.seed, sampler, clip=clip)
        if clip is False:
            images = np.clip(images, -1, 1)
        return evaluate.feature_set(images, self.labels, self.features, logits=self.logits)

    def partner(self, w: float) -> evaluate.FeatureSet:
        """The teacher's samples from the same noise."""
        if w not in self.partners:
            self.partners[w] = self.samples(self.teacher, self.teacher_steps, w, "ddim")
        return self.partners[w]

    def row(
        self,
        method: str,
        run: Run,
        sampler: str,
        steps: int,
        w: float,
        evaluations: int,
        clip: bool | None = None,
        **more,
    ) -> None:
        """One row, unless it stands: the metrics against data, the distance to the teacher's partner, and the speed
        (without what compiles; left out where one batch is all there is). `clip` False: at the end only. `more` goes
        into the row as it is."""

        def compute() -> dict:
            fake = self.samples(run, steps, w, sampler, clip)
            rate = run.images_per_second
            if (run, steps, sampler, clip) == (self.teacher, self.teacher_steps, "ddim", None):
                self.partners[w] = fake  # Its dearest samples are drawn once.
            speed = {"images_per_second": rate, "seconds": self.num / rate} if rate else {}
            return {**evaluate.score(fake, self.real, self.partner(w), self.metrics), **speed, **more}

        key = {"method": method, "sampler": sampler, "steps": steps, "guidance": w, "seed": self.seed}
        self.results.row({**key, "weights": f"{run.hash} {self.teacher.hash}"}, evaluations, compute)

    def floor(self) -> None:
        """What as many images of the data itself score (or a half of them, against the other half)."""
        key = {"method": "half of the data", "sampler": "none", "steps": 0, "guidance": 0.0, "seed": self.seed}
        cache = evaluate.CACHE
        self.results.row(
            key,
            0,
            lambda: evaluate.floor(self.source, self.features, self.real, self.num, self.metrics, cache=cache),
        )


def sheet(path: Path, rows: dict[str, tuple[Run, int]], w: float, seed: int, num: int = 20) -> None:
    """A row of `num` samples from the same noise for each of {name: (run, steps)}, at one w; classes in turn."""
    classes = next(iter(rows.values()))[0].manifest["num_classes"]
    labels = np.arange(num) % classes if classes else None
    pictures.save_sheet(path, {name: run.sample(num, steps, w, labels, seed) for name, (run, steps) in rows.items()})
