"""Rows of a table: networks sampled from the same noise, labels and captions, measured against data and against the
teacher."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import guided_distill
from experiments.results import Results
from guided_distill import data, evaluate, generate, pictures, samplers
from guided_distill.checkpoint import Checkpoints
from guided_distill.errors import UserError
from guided_distill.features import clip as clip_images
from guided_distill.metrics import FeatureSet, clip_score, frechet, kernel
from guided_distill.runs import Run
from guided_distill.text import clip as clip_texts

AT_A_TIME = 2**32  # Bytes of samples, float32: 50,000 of 64 x 64 at once, of 512 x 512 a thousand.
FEW = (16, 8, 4, 2, 1)
LARGE = 256  # Pixels of a side from which a sheet has fewer columns.


class Drawn(NamedTuple):
    """`features` of samples, `embedded` by CLIP where it is asked, and how many were made in a second, if known."""

    features: FeatureSet
    embedded: FeatureSet | None
    rate: float | None


def clip_of(weights: str | Path) -> clip_score.Clip:
    """Both towers of the CLIP in a folder. Raises `UserError` where they are not to be found."""
    return clip_score.Clip(clip_images.make(str(weights)), clip_texts.make(weights))


def captions_of(source: data.Source) -> list[str]:
    """All captions of a data set, in order; no picture is read for it. Raises `UserError` where there are none."""
    if not source.info.captions:
        raise UserError("these pictures have no captions to make samples for; captioned_folder, say, has")
    shards = isinstance(source, data.ShardSource)
    found = source.arrays.only("caption")[:] if shards else source.arrays
    return [caption.decode() for caption in np.asarray(found["caption"]).tolist()]


class Measure:
    """What all rows share: noise, labels or captions, reference, features, and the teacher's samples as partners."""

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
        reference: Mapping[str, Any] | None = None,
        towers: clip_score.Clip | None = None,
    ):
        """`split` of the data (the teacher's, or the set `reference`) that is held against; `teacher_steps` of the
        partners; CLIP's `towers`, to score captions by. A network that reads text is asked for the reference's."""
        self.results, self.teacher, self.num, self.seed, self.teacher_steps = results, teacher, num, seed, teacher_steps
        self.metrics, (_, self.features) = evaluate.default_metrics(features), evaluate.load_features(features)
        spec = dict(reference or teacher.manifest["data"])
        self.source, self.held = data.images(**spec), data.images(**{**spec, "split": split})
        self.logits = "inception_score" in self.metrics
        self.real = evaluate.reference(self.held, self.features, num_reference, 0, evaluate.CACHE, self.logits)
        self.captions = captions_of(self.held) if teacher.manifest.get("text") else None
        self.towers = towers if self.captions else None
        self.partners: dict[float, FeatureSet] = {}

    def labels(self, num: int) -> np.ndarray | None:
        """Classes in turn."""
        classes = self.teacher.manifest["num_classes"]
        return np.arange(num) % classes if classes else None

    def prompts(self, num: int) -> list[str] | None:
        """The captions of the reference in turn, where the networks read any."""
        return [self.captions[k % len(self.captions)] for k in range(num)] if self.captions else None

    def samples(self, run: Run, steps: int, w: float, sampler: str, num: int, clip: bool | None = None) -> Drawn:
        """What is kept of a run's samples, of which so many are made at a time as memory is meant to hold."""
        labels, prompts, of = self.labels(num), self.prompts(num), []
        for rows in portions(run, sampler, num):
            noise = None if len(rows) == num else generate.noise(self.seed, rows, tuple(run.code_shape))
            told = {"labels": None if labels is None else labels[rows]}
            told |= {"prompts": [prompts[k] for k in rows]} if prompts else {}
            how = {"seed": self.seed, "sampler": sampler, "noise": noise, "clip": clip}
            images = run.sample(len(rows), steps, w, **told, **how)
            if clip is False:
                images = np.clip(images, -1, 1)
            found = evaluate.feature_set(images, told["labels"], self.features, logits=self.logits)
            embedded = FeatureSet(self.towers.images(images)) if self.towers else None
            of.append(Drawn(found, embedded, run.images_per_second))
        rates = [part.rate for part in of if part.rate]
        embedded = joined([part.embedded for part in of]) if self.towers else None
        return Drawn(joined([part.features for part in of]), embedded, rates[-1] if rates else None)

    def clip_scores(self, embedded: FeatureSet | None, prompts: Sequence[str] | None) -> dict[str, float]:
        """Of images and what they were asked for; {} without CLIP."""
        if embedded is None:
            return {}
        return clip_score.compute(embedded, FeatureSet(self.towers.texts(prompts)))

    def partner(self, w: float, fake: FeatureSet | None = None) -> FeatureSet:
        """The teacher's samples from the same noise: kept, as they are the dearest; `fake`, if they are at hand."""
        name = f"w{w:g} seed{self.seed} num{self.num} steps{self.teacher_steps} {self.teacher.hash}"
        path = self.results.workdir / "partners" / f"{name} {self.features_name}.npy".replace(" ", "_")
        if w not in self.partners and fake is None and path.is_file():
            self.partners[w] = FeatureSet(np.load(path), self.labels(self.num))
        if w not in self.partners:
            self.partners[w] = fake or self.samples(self.teacher, self.teacher_steps, w, "ddim", self.num).features
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
            fake, embedded, rate = self.samples(run, steps, w, sampler, num, clip)
            own = (run, steps, sampler, clip, num) == (self.teacher, self.teacher_steps, "ddim", None, self.num)
            teacher = _first(self.partner(w, fake if own else None), num)
            speed = {"images_per_second": rate, "seconds": num / rate} if rate else {}
            scores = evaluate.score(fake, self.real, teacher, self.metrics)
            scores |= self.clip_scores(embedded, self.prompts(num))
            return {**scores, **apart(fake, teacher, "kernel" in self.metrics), **speed, **more}

        key = {"method": method, "sampler": sampler, "steps": steps, "guidance": w, "seed": self.seed}
        self.results.row({**key, "weights": f"{run.hash} {self.teacher.hash}"}, evaluations, compute)

    def floor(self) -> None:
        """What as many images of the data itself score (or a half of them, against the other half); and what CLIP says
        of them and their captions."""
        key = {"method": "half of the data", "sampler": "none", "steps": 0, "guidance": 0.0, "seed": self.seed}
        cache = evaluate.CACHE

        def compute() -> dict:
            found = evaluate.floor(self.source, self.features, self.real, self.num, self.metrics, cache=cache)
            own = evaluate.reference(self.held, self.towers.images, cache=cache) if self.towers else None
            return {**found, **self.clip_scores(own, self.captions)}

        self.results.row(key, 0, compute)


def portions(run: Run, sampler: str, num: int) -> Iterator[np.ndarray]:
    """The numbers of `num` samples, so many at a time as AT_A_TIME holds, in whole batches. A sampler that adds noise
    of its own is not interrupted: it would begin that anew."""
    shape = run.manifest["shape"]
    batch, room = generate.batch_of(shape), AT_A_TIME // (4 * math.prod(shape))
    size = num if sampler in samplers.NOISY else max(room // batch, 1) * batch
    yield from (np.arange(start, min(start + size, num)) for start in range(0, num, size))


def joined(parts: Sequence[FeatureSet]) -> FeatureSet:
    """One after the other."""
    columns = zip(*parts, strict=True)
    return FeatureSet(*(None if column[0] is None else np.concatenate(column) for column in columns))


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


def sheet(
    path: Path,
    rows: dict[str, tuple],
    w: float,
    seed: int,
    num: int = 20,
    prompts: Sequence[str] | None = None,
) -> None:
    """A row of `num` samples (fewer, if they are large) from the same noise for each of {name: (run, steps) or (run,
    steps, sampler)}, at one w; classes, or `prompts`, in turn."""
    first = next(iter(rows.values()))[0].manifest
    num = min(num, 8) if first["shape"][0] >= LARGE else num
    asked = {"labels": np.arange(num) % first["num_classes"]} if first["num_classes"] else {}
    asked |= {"prompts": [prompts[k % len(prompts)] for k in range(num)]} if prompts else {}
    shared = {**asked, "seed": seed}
    drawn = {
        name: run.sample(num, n, w, sampler=by[0] if by else None, **shared) for name, (run, n, *by) in rows.items()
    }
    pictures.save_sheet(path, drawn)


def standing(workdir: Path, names: Iterable[str]) -> dict[str, Run]:
    """The runs of these names that are in a directory, and have saved what they learned."""
    return {name: guided_distill.load(workdir / name) for name in names if Checkpoints(workdir / name).steps()}


def sheets(workdir: Path, guidance: Sequence[float], loaded: Mapping[str, Run], seed: int) -> None:
    """DIR/sheet_w*.png: all methods from the same noise, those of a table's runs that are there; captions are those
    that a run recommends."""
    teacher = loaded["teacher"]
    many = teacher.default_steps()
    prompts = next((found for run in loaded.values() if (found := run.manifest["recommended"].get("prompts"))), None)
    for w in guidance:
        lines: dict[str, tuple] = {f"teacher {many} x 2": (teacher, many)}
        if "matched" in loaded:
            lines[f"stage one {many}"] = (loaded["matched"], many)
        chains = {"student": "student", "stochastic": "stochastic", "single w": f"single_w{w:g}"}
        for name, run in (chains | ({} if w else {"unguided": "unguided"})).items():
            steps = sorted(set(loaded[run].trained_steps) & {*FEW}, reverse=True) if run in loaded else ()
            lines |= {f"{name} {n}": (loaded[run], n) for n in steps}
        lines |= {f"DPM-Solver++ {n} x 2": (teacher, n, "dpmpp_2m") for n in FEW if n > 2}  # From 2 on they are DDIM's.
        lines |= {f"DDIM {n} x 2": (teacher, n) for n in FEW}
        sheet(workdir / f"sheet_w{w:g}.png", lines, w, seed, prompts=prompts)
