"""Rows of a table: networks sampled from the same noise and labels, measured against data and against the teacher."""

from pathlib import Path

import numpy as np

from experiments.results import Results
from guided_distill import data, evaluate, pictures
from guided_distill.metrics import FeatureSet, frechet, kernel
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
        split: str = "train",
    ):
        """`split` of the data that is the reference; `teacher_steps` of the partners."""
        self.results, self.teacher, self.num, self.seed, self.teacher_steps = results, teacher, num, seed, teacher_steps
        self.metrics, (_, self.features) = evaluate.default_metrics(features), evaluate.load_features(features)
        self.source = data.load(**teacher.manifest["data"])
        self.logits = "inception_score" in self.metrics
        held = data.load(**{**teacher.manifest["data"], "split": split})
        self.real = evaluate.reference(held, self.features, num_reference, 0, evaluate.CACHE, self.logits)
        self.partners: dict[float, FeatureSet] = {}

    def labels(self, num: int) -> np.ndarray | None:
        """Classes in turn."""
        classes = self.teacher.manifest["num_classes"]
        return np.arange(num) % classes if classes else None

    def samples(self, run: Run, steps: int, w: float, sampler: str, num: int, clip: bool | None = None) -> FeatureSet:
        """The features of a run's samples."""
        labels = self.labels(num)
        images = run.sample(num, steps, w, labels, self.seed, sampler, clip=clip)
        if clip is False:
            images = np.clip(images, -1, 1)
        return evaluate.feature_set(images, labels, self.features, logits=self.logits)

    def partner(self, w: float, fake: FeatureSet | None = None) -> FeatureSet:
        """The teacher's samples from the same noise: kept, as they are the dearest; `fake`, if they are at hand."""
        name = f"w{w:g} seed{self.seed} num{self.num} steps{self.teacher_steps} {self.teacher.hash}"
        path = self.results.workdir / "partners" / f"{name} {self.features_name}.npy".replace(" ", "_")
        if w not in self.partners and fake is None and path.is_file():
            self.partners[w] = FeatureSet(np.load(path), self.labels(self.num))
        if w not in self.partners:
            self.partners[w] = fake or self.samples(self.teacher, self.teacher_steps, w, "ddim", self.num)
            path.parent.mkdir(exist_ok=True)
            with path.with_suffix(".part").open("wb") as file:
                np.save(file, self.partners[w].features)
            path.with_suffix(".part").replace(path)
        return self.partners[w]

    @property
    def features_name(self) -> str:
        """What the features are called."""
        return getattr(self.features, "name", "pixels")

    def row(
        self,
        method: str,
        run: Run,
        sampler: str,
        steps: int,
        w: float,
        evaluations: int,
        clip: bool | None = None,
        num: int | None = None,
        **more,
    ) -> None:
        """One row, unless it stands: the metrics against data, the distances to the teacher's samples, from the same
        noise and from other noise, and the speed (without what compiles; left out where one batch is all there is).
        `clip` False: at the end only. `num` samples, if not as many as all rows. `more` goes into the row as it is."""
        num = num or self.num

        def compute() -> dict:
            fake = self.samples(run, steps, w, sampler, num, clip)
            rate = run.images_per_second
            own = (run, steps, sampler, clip, num) == (self.teacher, self.teacher_steps, "ddim", None, self.num)
            teacher = _first(self.partner(w, fake if own else None), num)
            speed = {"images_per_second": rate, "seconds": num / rate} if rate else {}
            scores = evaluate.score(fake, self.real, teacher, self.metrics)
            return {**scores, **apart(fake, teacher, "kernel" in self.metrics), **speed, **more}

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


def apart(fake: FeatureSet, teacher: FeatureSet, unbiased: bool) -> dict[str, float]:
    """Distances of `fake` to the teacher's samples from other noise: one half of the samples to the teacher's other
    half, and the reverse, averaged; of the teacher itself it is the floor. `unbiased`: the kernel distance, too."""
    half = len(fake.features) // 2
    pairs = [(_first(fake, half), _last(teacher, half)), (_last(fake, half), _first(teacher, half))]
    out = {"frechet_to_teacher": float(np.mean([frechet.compute(*pair)["frechet_distance"] for pair in pairs]))}
    if unbiased:
        found = [kernel.compute(*pair, subsets=25) for pair in pairs]
        out["kernel_to_teacher"] = float(np.mean([one["kernel_distance"] for one in found]))
        out["kernel_to_teacher_error"] = float(np.mean([one["kernel_distance_error"] for one in found]))
    return out


def _first(of: FeatureSet, num: int) -> FeatureSet:
    return FeatureSet(*(None if array is None else array[:num] for array in of))


def _last(of: FeatureSet, num: int) -> FeatureSet:
    return FeatureSet(*(None if array is None else array[-num:] for array in of))


def sheet(path: Path, rows: dict[str, tuple], w: float, seed: int, num: int = 20) -> None:
    """A row of `num` samples from the same noise for each of {name: (run, steps) or (run, steps, sampler)}, at one w;
    classes in turn."""
    classes = next(iter(rows.values()))[0].manifest["num_classes"]
    labels = np.arange(num) % classes if classes else None
    pictures.save_sheet(path, {name: run.sample(num, n, w, labels, seed, *by) for name, (run, n, *by) in rows.items()})
