"""A run measured over steps x w x sampler x seed: one row each, resumable; then its fronts, ranges of w and presets.

    sweeps.run("runs/digits_stage2", steps=[1, 2, 4], guidance=[0.0, 1.0, 4.0], seeds=[0, 1, 2])

leaves, in the run or in another directory, sweep.json (the rows), presets.json and the section `sweep` of its report.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from guided_distill import codecs, data, evaluate, files, presets, runs
from guided_distill.errors import UserError
from guided_distill.metrics import FeatureSet, NotFinite
from guided_distill.report import fronts
from guided_distill.samplers import NOISY

KEY = (*presets.KEY, "seed")
GUIDANCE = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
AT_AN_END = 0.9  # Of [-1, 1]. Nearer to 1, faint noise on a white background would hide what saturates.
DATA_IMAGES = 10_000  # Of the data, whose own saturation is measured.


def run(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    steps: Sequence[int] | None = None,
    guidance: Sequence[int | float] | None = None,
    samplers: Sequence[str] | None = None,
    num: int = 1000,
    seeds: Sequence[int] = (0,),
    features: str = "pixels",
    weights: str | None = None,
    split: str = "train",
    num_reference: int | None = None,
    teacher: str | Path | None = None,
    tolerance: float = presets.TOLERANCE,
    saturation: float = presets.SATURATION,
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Computes the rows that do not stand in `out`/sweep.json yet (`out` None: the run's directory), and writes
    presets.json and the section anew, of all rows there. Returns what presets.json holds.

    None for `steps`, `guidance`, `samplers`: all that a halved chain has, else powers of two up to the recommended;
    `GUIDANCE` within the run's range; the run's own. `teacher`: a run whose samples from the same noise, at its
    recommended steps, are the partners of `paired_distance`. Raises `UserError` for what could not work, before
    anything is drawn, and for rows there that were made with other settings.
    """
    subject, partner = runs.load(run_dir), None if teacher is None else runs.load(teacher)
    samplers = list(samplers or [subject.manifest["sampler"]])
    steps, guidance = list(steps or default_steps(subject)), [float(w) for w in guidance or default_guidance(subject)]
    check(subject, partner, steps, guidance, samplers, num, seeds)
    presets.ranges([], tolerance, saturation)
    measure = Measure(subject, partner, num, features, weights, split, num_reference)
    out = Path(run_dir if out is None else out)
    out.mkdir(parents=True, exist_ok=True)
    with files.alone(out, "trained or swept"):
        rows = Rows(out / "sweep.json", measure.settings)
        for seed in seeds:
            for w in guidance:
                for sampler in samplers:
                    for n in steps:
                        try:
                            row = rows.row((sampler, n, w, seed), measure)
                        except NotFinite as error:
                            say(f"{sampler}, {n} steps, w = {w:g}, seed {seed}: left out, {error}")
                            continue
                        if row is not None:
                            say(shown(row))
        if not rows.rows:
            raise UserError(f"{run_dir}: no samples that are numbers, at any of these settings")
        rows.write(measure.floor())
        found = presets.cells(rows.rows)
        document = presets.describe(found, measure.settings, subject.manifest["shape"][:2], tolerance, saturation)
        presets.write(out, document)
        fronts.section(out, found, document, rows.floor)
    return document


def default_steps(of: runs.Run) -> list[int]:
    """All that a halved chain is trained for; else powers of two up to the recommended number, and that."""
    if of.trained_steps is not None:
        return sorted(of.trained_steps)
    most = of.default_steps()
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def default_guidance(of: runs.Run) -> list[float]:
    """`GUIDANCE`, as far as the run can be asked for it; else the recommended w."""
    kind = of.manifest["guidance"]
    low, high = {"none": (0.0, 0.0), "external": (0.0, np.inf)}.get(kind["kind"]) or kind["range"]
    return [w for w in GUIDANCE if low <= w <= high] or [of.manifest["recommended"]["guidance"]]


def evaluations(manifest: Mapping[str, Any], sampler: str, steps: int) -> int:
    """Of the network, for one sample: external guidance takes two a step, and so does Heun's rule."""
    each = 2 if manifest["guidance"]["kind"] == "external" else 1
    return steps * each * (2 if sampler == "heun" else 1)


def check(
    subject: runs.Run,
    partner: runs.Run | None,
    steps: Sequence[int],
    guidance: Sequence[float],
    samplers: Sequence[str],
    num: int,
    seeds: Sequence[int],
) -> None:
    """Everything that could fail in the middle fails here: rows are dear. Raises `UserError`."""
    if subject.manifest["objective"] == "encoding":
        raise UserError(f"{subject.dir} is an encoder; there are no samples of it to sweep")
    check_steps(subject, steps)
    for sampler in samplers:
        subject.check_sampler(sampler)
    subject.check_guidance(np.asarray(guidance))
    if partner is not None:
        check_partner(subject, partner, guidance, samplers)
    if num < 4:
        raise UserError(f"num {num} is too few samples for metrics; take 4 or more")
    if not seeds:
        raise UserError("no seeds to sweep; name one, such as 0")


def check_steps(run: runs.Run, steps: Sequence[int]) -> None:
    """Raises `UserError` for a number of steps that a run has no student of."""
    trained = run.trained_steps
    for n in steps:
        if n < 1 or (trained is not None and n not in trained):
            known = ", ".join(map(str, sorted(trained))) if trained else "none yet" if trained == {} else "any from 1"
            raise UserError(f"{run.dir} has no student of {n} steps; it has: {known}")


def check_partner(subject: runs.Run, partner: runs.Run, guidance: Sequence[float], samplers: Sequence[str]) -> None:
    """Raises `UserError` where samples of the two from the same noise, labels and w are no partners."""
    if partner.manifest["objective"] == "encoding":
        raise UserError(f"{partner.dir} is an encoder; there are no samples of it to be partners")
    for name in ("shape", "code_shape", "num_classes"):
        own, other = subject.manifest[name], partner.manifest[name]
        if own != other:
            raise UserError(f"{partner.dir} has {name} {other}, {subject.dir} {own}: no partners")
    for of, sampler in [(partner, partner.manifest["sampler"]), *((subject, sampler) for sampler in samplers)]:
        if sampler in NOISY:
            raise UserError(f"{of.dir} with {sampler} adds noise of its own: no partners; sweep without a teacher")
    partner.check_guidance(np.asarray(guidance))
    partner.default_steps()


class Measure:
    """What all rows of a sweep share: the reference, features and labels; `settings` says it in words. Partners, a
    teacher's samples, are drawn once for a seed and w."""

    def __init__(
        self,
        subject: runs.Run,
        partner: runs.Run | None,
        num: int,
        features: str,
        weights: str | None,
        split: str,
        num_reference: int | None,
    ):
        self.subject, self.partner, self.num = subject, partner, num
        self.metrics = evaluate.default_metrics(features)
        name, self.features = evaluate.load_features(features, weights)
        self.source = data.images(**{**subject.manifest["data"], "split": split})
        self.logits = "inception_score" in self.metrics
        self.real = evaluate.reference(self.source, self.features, num_reference, 0, evaluate.CACHE, self.logits)
        self.data_saturation = None
        if len(self.source.info.shape) == 3:
            size = min(len(self.source), DATA_IMAGES)
            index = np.linspace(0, len(self.source) - 1, size).astype(int)
            self.data_saturation = saturated(self.source[index]["x"])
        self.told = evaluate.told(subject.manifest, self.source, num)
        self.labels = self.told.get("labels")
        self.settings = {"features": name, "num": num, "hash": subject.hash}
        self.settings |= {"reference": f"{subject.manifest['data']['name']}:{split}"}
        self.settings |= {"num_reference": len(self.real.features), "num_available": len(self.source)}
        if partner is not None:
            self.settings |= {"teacher": partner.hash, "teacher_steps": partner.default_steps()}
        self._partners: dict[tuple[int, float], FeatureSet] = {}

    def floor(self) -> dict[str, Any]:
        """What images of the data score, and their own share of pixels at an end of their range."""
        found = evaluate.floor(self.source, self.features, self.real, self.num, self.metrics, cache=evaluate.CACHE)
        return found | ({} if self.data_saturation is None else {"data_saturation": self.data_saturation})

    def __call__(self, sampler: str, steps: int, w: float, seed: int) -> dict[str, Any]:
        """The numbers of a row."""
        images, seconds = self._drawn(steps, w, seed, sampler)
        partner = None
        if self.partner is not None:
            if (seed, w) not in self._partners:
                drawn = self.partner.sample(self.num, None, w, seed=seed, **self.told)  # From the same noise.
                self._partners = {(seed, w): evaluate.feature_set(drawn, self.labels, self.features)}
            partner = self._partners[seed, w]
        fake = evaluate.feature_set(images, self.labels, self.features, logits=self.logits)
        row = {"evaluations": evaluations(self.subject.manifest, sampler, steps)}
        row |= evaluate.score(fake, self.real, partner, self.metrics)
        if self.data_saturation is not None:
            row["saturation"] = saturated(images) - self.data_saturation
        return row | {"seconds_per_image": seconds, "device": machine()}

    def _drawn(self, steps: int, w: float, seed: int, sampler: str) -> tuple[np.ndarray, float]:
        """(samples, seconds of each, compilation left out)."""
        ask = {"num": self.num, "steps": steps, "guidance": w, "seed": seed, "sampler": sampler, **self.told}
        images, rate = self.subject.sample(**ask), self.subject.images_per_second
        if rate is not None:
            return images, 1 / rate
        clock = time.perf_counter()  # A single batch, which may have been compiled just now: once more.
        self.subject.sample(**ask)
        return images, (time.perf_counter() - clock) / self.num


class Rows:
    """The rows of a sweep.json; each is on the disk as soon as it is there."""

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        """Raises `UserError` for rows that were made with other settings, and for a file that cannot be read."""
        self._path, self._settings = path, dict(settings)
        self.rows: list[dict[str, Any]] = []
        self.floor: dict[str, Any] = {}
        if not path.is_file():
            return
        try:
            document = json.loads(path.read_text())
            self.rows, self.floor, known = list(document["rows"]), document["floor"], document["settings"]
            for row in self.rows:
                tuple(row[name] for name in KEY)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); delete it to sweep anew") from error
        differing = [key for key in {**known, **self._settings} if known.get(key) != self._settings.get(key)]
        if differing:
            was, now = (", ".join(f"{k} {of.get(k)}" for k in differing) for of in (known, self._settings))
            raise UserError(f"{path} was made with {was}, not {now}; choose another --out, or delete it")

    def row(self, key: tuple[str, int, float, int], measure: Callable[..., dict[str, Any]]) -> dict[str, Any] | None:
        """The row of (sampler, steps, w, seed), measured and written; None where it stands already."""
        if any(all(row[name] == value for name, value in zip(KEY, key, strict=True)) for row in self.rows):
            return None
        self.rows.append(dict(zip(KEY, key, strict=True)) | measure(*key))
        self.write(self.floor)
        return self.rows[-1]

    def write(self, floor: Mapping[str, Any]) -> None:
        """All of it, whole or not at all."""
        self.floor = dict(floor)
        files.write_json(self._path, {"settings": self._settings, "floor": self.floor, "rows": self.rows})


def saturated(images: np.ndarray) -> float:
    """The share of values of images (uint8, or float in [-1, 1] or beyond) within a twentieth of the range from one of
    its ends, or beyond it."""
    return float(np.mean(np.abs(codecs.to_float(images)) >= AT_AN_END))


def machine() -> str:
    """What this process computes on, for people."""
    devices = jax.devices()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} cores, {processor}"


def shown(row: Mapping[str, Any]) -> str:
    """A row as a line for people."""
    return "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items() if k != "device")
