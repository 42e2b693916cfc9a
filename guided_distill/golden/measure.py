"""What the networks of a chain answer to a golden set, against data, against the teacher, and against the stage that
each was made from."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from guided_distill import evaluate, runs, samplers
from guided_distill.data import Source
from guided_distill.errors import UserError
from guided_distill.features import Features
from guided_distill.golden import frozen
from guided_distill.golden.frozen import Golden
from guided_distill.metrics import FeatureSet
from guided_distill.plugins import resolve
from guided_distill.report import chain
from guided_distill.runs import Run

BATCH = 256  # At most; the set is cut evenly.
REFERENCE = 5000  # Images of the data at most: the set is smaller by far.
TEACHER, STAGE_ONE, STUDENT, PLAIN = "teacher", "stage one", "student", "plain teacher"


class Shifted(Run):
    """A halved chain whose N-step student is the 2N-step one at N steps: every round as if it had been skipped."""

    @property
    def trained_steps(self) -> dict[int, int] | None:
        """Steps N -> the checkpoint of the student of 2N steps."""
        own = super().trained_steps
        return {n: own[2 * n] for n in own if 2 * n in own}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A network at a number of steps. `before`: the stage that it learned from; `skipped`: what it would be if it had
    not, to be drawn at the same `steps`."""

    name: str
    run: Run
    steps: int
    before: "Stage | None" = None
    skipped: Run | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}, {self.steps}"

    @property
    def paired(self) -> bool:
        """Whether the same noise leads to the same sample: not where the sampler adds some of its own."""
        return self.run.manifest["sampler"] not in samplers.NOISY


def lineage(run_dir: str | Path) -> list[Run]:
    """The run and its ancestors, the first teacher first, found by their manifests. It begins anew at a run that has
    two teachers, which have no samples as one. Raises `UserError` for an encoder, or an ancestor that is not here."""
    nodes = {node.key: node for node in chain.gather([run_dir])}
    node = nodes[Path(run_dir).resolve()]
    found = [node]
    while len(node.parents) == 1:
        node = nodes[node.parents[0]]
        if node.manifest is None:
            raise UserError(f"the teacher {node.key} of {found[0].key}: {node.trouble}; a golden set needs it")
        found.insert(0, node)
    if any(node.manifest["objective"] == "encoding" for node in found):
        raise UserError(f"{run_dir} is an encoder; there are no samples of it to measure")
    return [runs.load(node.key) for node in found]


def stages(line: Sequence[Run], steps: Sequence[int] | None = None) -> list[Stage]:
    """The stages of a lineage, teacher first. `steps`: of the students that are wanted (None: all that are trained).
    Raises `UserError` for others, and where the last run has no stage after the teacher: there is nothing to hold."""
    found = [Stage(TEACHER, line[0], line[0].default_steps())]
    for k, run in enumerate(line[1:], 1):
        if run.trained_steps is None:
            after = line[k + 1].manifest["rounds"] if k + 1 < len(line) else None
            asked = 2 * max(n for n, _ in after) if after else run.default_steps()
            found.append(Stage(STAGE_ONE, run, asked, found[-1]))
            continue
        skipped = line[k - 1]
        for n in sorted(run.trained_steps, reverse=True):
            found.append(Stage(STUDENT, run, n, found[-1], skipped))
            skipped = Shifted(run.dir)
    if len(line) == 1:
        raise UserError(
            f"{line[0].dir} is the first of its lineage (which begins anew at a run with two teachers): there is no "
            "student to hold against it; give a run that was distilled from it"
        )
    if found[-1].run is not line[-1]:
        raise UserError(f"{line[-1].dir} has not finished a round yet; there is nothing of it to hold")
    trained = [stage.steps for stage in found if stage.name == STUDENT]
    if missing := sorted(set(steps or ()) - set(trained)):
        raise UserError(
            f"--steps {missing[0]}: {line[-1].dir} has students of {', '.join(map(str, trained)) or 'none'}"
        )
    return [stage for stage in found if stage.name != STUDENT or steps is None or stage.steps in steps]


class Bench:
    """Draws and compares. Samples are kept: the teacher's are drawn once for all. `seed`: of the noise (None: the
    set's own)."""

    def __init__(self, golden: Golden, teacher: Run, source: Source, features: Features, seed: int | None = None):
        if teacher.manifest["num_classes"] != golden.num_classes:
            theirs = teacher.manifest["num_classes"]
            raise UserError(f"the golden set is for {golden.num_classes} classes, and {teacher.dir} has {theirs}")
        self.golden, self.teacher, self.features = golden, teacher, features
        self.seed = golden.seed if seed is None else seed
        num = None if len(source) <= REFERENCE else REFERENCE
        self.source, self.real = source, evaluate.reference(source, features, num, cache=evaluate.CACHE)
        self.told = {"labels": golden.labels}
        if teacher.manifest.get("text"):
            self.told = evaluate.told(teacher.manifest, source, len(golden.items))
        self._drawn: dict[tuple[Run, int, int], np.ndarray] = {}
        self._featured: dict[int, FeatureSet] = {}
        self._partner: FeatureSet | None = None

    def asked(self) -> str:
        """sha256 of what answers are held against and of what is told: the same set on other data is another."""
        whole = hashlib.sha256(np.ascontiguousarray(self.real.features).data)
        whole.update(json.dumps([self.told.get("prompts"), np.asarray(self.told.get("labels")).tolist()]).encode())
        whole.update(b"" if self.real.labels is None else np.ascontiguousarray(self.real.labels).tobytes())
        return whole.hexdigest()

    def images(self, run: Run, steps: int, seed: int | None = None) -> np.ndarray:
        """A run's answers [n, ...] at `steps`, whatever of them count there."""
        key = (run, steps, self.seed if seed is None else seed)
        if key not in self._drawn:
            golden, num = self.golden, len(self.golden.items)
            asked = {"guidance": golden.w, **self.told, "seed": key[2]}
            asked |= {"noise": golden.noise(run.code_shape, key[2]), "batch_size": -(-num // -(-num // BATCH))}
            self._drawn[key] = run.sample(num, steps, **asked)
        return self._drawn[key]

    def partner(self) -> FeatureSet:
        """The teacher's answers."""
        if self._partner is None:
            self._partner = self.of(self.images(self.teacher, self.teacher.default_steps()))
        return self._partner

    def at(self, seed: int) -> "Bench":
        """The same for other noise; what is drawn is shared."""
        other = copy.copy(self)
        other.seed, other._partner = seed, None
        return other

    def released(self) -> "Bench":
        """Itself, with the teacher's answers, and without its weights and all else that was drawn."""
        self.partner()
        self.teacher = runs.load(self.teacher.dir)
        self._drawn, self._featured = {}, {}
        return self

    def of(self, images: np.ndarray) -> FeatureSet:
        """Their features; those of images that are kept are kept."""
        kept = any(images is drawn for drawn in self._drawn.values())
        if kept and id(images) in self._featured:
            return self._featured[id(images)]
        found = evaluate.feature_set(images, self.golden.labels, self.features)
        if kept:
            self._featured[id(images)] = found
        return found

    def against_data(self, images: np.ndarray) -> dict[str, float]:
        """The metrics that need many samples, over the items of independent noise."""
        return evaluate.score(part(self.of(images), self.golden.independent), self.real)

    def spread(self, seeds: Sequence[int], halves: int = 8) -> dict[str, float]:
        """Standard deviations of the teacher's metrics over sets of other noise: the larger of that over `seeds`, and
        that over random halves of its answers, which estimates the same (delete-d jackknife, Shao & Wu 1989) and is not
        small by luck."""
        rng, metrics, parts = np.random.default_rng(2023), [], []
        for seed in seeds:
            images = self.images(self.teacher, self.teacher.default_steps(), seed)
            metrics.append(self.against_data(images))
            rows = np.flatnonzero(self.golden.independent)
            drawn = [rng.permutation(rows)[: len(rows) // 2] for _ in range(halves)]
            parts.append([evaluate.score(part(self.of(images), half), self.real) for half in drawn])
        out = {}
        for name in metrics[0]:
            within = np.mean([np.var([found[name] for found in of], ddof=1) for of in parts])
            out[name] = float(np.sqrt(max(np.var([found[name] for found in metrics], ddof=1), within)))
        return out

    def scores(self, images: np.ndarray, sampler: str) -> dict[str, float]:
        """Of answers from elsewhere, a student in training say: against data, and where the `sampler` adds no noise of
        its own against the teacher's."""
        out = self.against_data(images)
        if sampler in samplers.NOISY:
            return out
        near = paired(self.of(images), self.partner(), self.golden.shared)
        return {**out, "paired_distance": near, **self.confusions(images, self.partner())}

    def confusions(self, images: np.ndarray, right: FeatureSet) -> dict[str, float]:
        """class_confusion and guidance_confusion (see `confusion`), where the set has ladders of them; `right`: the
        answers that should have been given."""
        golden, found, out = self.golden, self.of(images), {}
        if (ladder := golden.where(frozen.CLASS_LADDER)).any():
            out["class_confusion"] = confusion(*self._ladder(found, right, ladder), golden.labels[ladder])
        if (ladder := golden.where(frozen.LADDER)).any():
            out["guidance_confusion"] = confusion(*self._ladder(found, right, ladder), golden.w[ladder])
        return out

    def _ladder(self, found: FeatureSet, right: FeatureSet, which: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, ...]:
        noise = np.array([item.seed for item in self.golden.items])
        return found.features[which], right.features[which], noise[which]

    def row(self, stage: Stage) -> dict[str, Any]:
        """All numbers of a stage. Distances to the teacher, and to the stage `before` from the same noise, are left out
        of a sampler that adds noise of its own; `ratio` is that of distances to the teacher, over the stage before's.
        Confusions are with answers of the stage before to other classes or w, and, `round_confusion`, with what it
        gives at these steps itself: 1 where a round has done nothing."""
        images = self.images(stage.run, stage.steps)
        row = {"stage": stage.name, "run": stage.run.dir.name, "steps": stage.steps, **self.against_data(images)}
        if stage.before is None or not stage.paired:
            return row
        shared, own = self.golden.shared, self.of(images)
        before = self.of(self.images(stage.before.run, stage.before.steps))
        row |= {"paired_distance": paired(own, self.partner(), shared), "before": stage.before.title}
        row |= {"previous_distance": paired(own, before, shared), **self.confusions(images, before)}
        if above := paired(before, self.partner(), shared):
            row["ratio"] = row["paired_distance"] / above
        if stage.skipped is not None:
            skipped = self.of(self.images(stage.skipped, stage.steps))
            row["skipped_distance"] = paired(skipped, before, shared)
            three = (part(of, shared).features for of in (own, before, skipped))
            row["round_confusion"] = astray(*three)
        return row

    def plain(self, steps: int) -> dict[str, Any]:
        """The numbers of the teacher itself at fewer steps: what a student of so many is for."""
        images = self.images(self.teacher, steps)
        near = {"paired_distance": paired(self.of(images), self.partner(), self.golden.shared)}
        return {"stage": PLAIN, "run": self.teacher.dir.name, "steps": steps, **self.against_data(images), **near}

    def slices(self, stage: Stage) -> list[dict[str, Any]]:
        """What few samples can tell, by slice: mean and variance of the values, and the paired distance."""
        images, out = self.images(stage.run, stage.steps), []
        for name in self.golden.slices(stage.steps):
            which = self.golden.where(name)
            row = {"stage": stage.name, "steps": stage.steps, "slice": name, "num": int(which.sum())}
            row |= {"mean": float(images[which].mean()), "variance": float(images[which].var(axis=0).mean())}
            if stage.before is not None and stage.paired:
                row["paired_distance"] = paired(self.of(images), self.partner(), which)
            out.append(row)
        return out


def part(of: FeatureSet, which: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> FeatureSet:
    """Some of a set."""
    return FeatureSet(of.features[which], None if of.labels is None else of.labels[which])


def paired(a: FeatureSet, b: FeatureSet, which: Bool[np.ndarray, " n"]) -> float:
    """The mean distance of partners, over some of them."""
    return resolve("metrics", "paired").compute(part(a, which), part(b, which))["paired_distance"]


def astray(own: Float[np.ndarray, "n d"], right: Float[np.ndarray, "n d"], wrong: Float[np.ndarray, "n d"]) -> float:
    """How far along the way from the right answer to a wrong one a network's answer is: 0 at the right one, 1 at the
    wrong one, above 1/2 nearer to the wrong one. Errors across that way, however large, do not count.

    The mean over rows of <own - right, wrong - right> / |wrong - right|², each within [-1, 2], so that no single one
    decides; rows whose two answers are the same can tell nothing, and are left out (0 where all are).
    """
    way = wrong - right
    length = np.square(way).sum(axis=1)
    told = length > 0
    gone = ((own - right) * way).sum(axis=1)[told] / length[told]
    return float(np.clip(gone, -1, 2).mean()) if told.any() else 0.0


def confusion(
    own: Float[np.ndarray, "n d"],
    right: Float[np.ndarray, "n d"],
    noise: np.ndarray,
    key: np.ndarray,
) -> float:
    """How near a network comes to answering another question than the one asked: the worst of `astray` over pairs of
    keys.

    Row i of `own` is the network's answer to `key[i]` (a class, a w) from the noise `noise[i]`, of `right` the answer
    that it should give. The wrong answer to one key is the right one to another, from the same noise.
    """
    rows = {(group, asked): i for i, (group, asked) in enumerate(zip(noise.tolist(), key.tolist(), strict=True))}
    pairs: dict[tuple, list[tuple[int, int]]] = {}
    for (group, asked), i in rows.items():
        for other in np.unique(key).tolist():
            if other != asked and (group, other) in rows:
                pairs.setdefault((asked, other), []).append((i, rows[group, other]))
    indices = [np.array(found).T for found in pairs.values()]
    return max((astray(own[i], right[i], right[j]) for i, j in indices), default=0.0)
