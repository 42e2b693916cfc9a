"""Does the golden set catch a student that is damaged on purpose, and let the sound one pass?

    python -m experiments.golden_damage --workdir=DIR [--seeds=0,1,2] [--steps=8,4,1] [--publish]

DIR has the runs teacher, matched and student of `experiments.digits`. The set is DIR/golden_set.json, frozen where
there is none. Damages: w told as 1 + w, 2 w or w / 2; two classes swapped, or all moved on by one; a round skipped, so
that the weights of 2 N steps stand where those of N should. Expected: every damage exceeds the tolerance that is named
for it, at every seed of the noise, and the sound chain exceeds none. Writes DIR/golden_damage.json (2 CPU cores, about
10 minutes); --publish makes docs/results/golden.md of it.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import markdown
from guided_distill import data, evaluate, launch
from guided_distill.cli import numbers
from guided_distill.files import write_json
from guided_distill.golden import checks, measure, verdict
from guided_distill.golden.measure import Bench, Stage
from guided_distill.runs import Run

DOCS = Path(__file__).parents[1] / "docs" / "results" / "golden.md"


class Misled(Run):
    """A run that is told another w, or another class, than it is asked for."""

    def __init__(self, of: Run, w: Callable = lambda w: w, label: Callable = lambda label: label):
        super().__init__(of.dir)
        self._w, self._label = w, label

    def check_guidance(self, w: np.ndarray) -> None:
        """Nothing is refused: a wrong scale leaves the range."""

    def sample(self, num: int, steps: int | None = None, guidance=None, labels=None, **others) -> np.ndarray:
        """As `Run.sample`, with the wrong w or labels."""
        labels = None if labels is None else self._label(labels)
        return super().sample(num, steps, self._w(guidance), labels, **others)


def swapped(a: int, b: int) -> Callable[[np.ndarray], np.ndarray]:
    """labels -> labels, two classes exchanged."""
    return lambda labels: np.where(labels == a, b, np.where(labels == b, a, labels)).astype(labels.dtype)


def skipped_round(run: Run, steps: int, place: Path) -> Run:
    """A copy of a halved chain in `place`, whose manifest has the weights of 2 `steps` stand for `steps`."""
    rounds = {n: end for n, end in run.manifest["rounds"]}
    place.mkdir(parents=True, exist_ok=True)
    rounds[steps] = rounds[2 * steps]
    write_json(place / "manifest.json", {**run.manifest, "rounds": [list(pair) for pair in rounds.items()]})
    if not (place / "checkpoints").exists():
        (place / "checkpoints").symlink_to((run.dir / "checkpoints").resolve())
    return Run(place)


def damages(stage: Stage, place: Path) -> dict[str, tuple[str, Run]]:
    """Name -> (the tolerance that is to catch it, the damaged run)."""
    run, classes = stage.run, stage.run.manifest["num_classes"]
    found = {
        "w told as 1 + w": ("guidance_confusion", Misled(run, w=lambda w: 1 + w)),
        "w told as 2 w": ("guidance_confusion", Misled(run, w=lambda w: 2 * w)),
        "w told as w / 2": ("guidance_confusion", Misled(run, w=lambda w: w / 2)),
    }
    if classes > 1:
        found["two classes swapped"] = ("class_confusion", Misled(run, label=swapped(classes // 3, classes - 2)))
        found["all classes moved on"] = ("class_confusion", Misled(run, label=lambda label: (label + 1) % classes))
    if 2 * stage.steps in (run.trained_steps or {}):
        run = skipped_round(run, stage.steps, place / f"skipped_{stage.steps}")
        found["a round skipped"] = ("round_confusion", run)
    return found


def at_seed(bench: Bench, line: list[Run], spread: dict, steps: list[int], place: Path) -> list[dict[str, Any]]:
    """Rows {damage, steps, seed, tolerance, value, limit, within, named}: every check of the sound stages ("none"), and
    of the damaged students."""
    stages, out = measure.stages(line), []
    rows = [bench.row(stage) for stage in stages]
    plain = {stage.steps: bench.plain(stage.steps) for stage in stages if stage.name == measure.STUDENT}

    def add(damage: str, named: str, judged: list[checks.Check]) -> None:
        for check in judged:
            known = {"damage": damage, "seed": bench.seed, "named": check.tolerance == named}
            out.append({**known, **check._asdict(), "within": check.within})

    above = [row for row in rows if row["stage"] != measure.STUDENT]
    add("none", "", checks.judge(rows, plain, spread, bench.golden.tolerances))
    for stage in stages:
        if stage.name != measure.STUDENT or stage.steps not in steps:
            continue
        for damage, (named, run) in damages(stage, place).items():
            row = bench.row(dataclasses.replace(stage, run=run))
            judged = checks.judge([*above, row], plain, spread, bench.golden.tolerances)
            add(damage, named, [check for check in judged if check.stage == measure.STUDENT])
    return out


def main() -> None:
    """Writes golden_damage.json, and the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="with teacher, matched and student")
    parser.add_argument("--seeds", default="0,1,2", help="of the noise (default 0,1,2)")
    parser.add_argument("--steps", default="8,4,1", help="of the damaged students (default 8,4,1)")
    parser.add_argument("--publish", action="store_true", help="write docs/results/golden.md from what is there")
    args = parser.parse_args()
    path, begin = args.workdir / "golden_damage.json", time.perf_counter()
    if args.publish and path.is_file():
        publish(json.loads(path.read_text()))
        return
    launch.prepare_process()
    line = measure.lineage(args.workdir / "student")
    golden = verdict.open_set(line, args.workdir / "golden_set.json", make=True)
    name, features = evaluate.load_features("pixels")
    source, rows = data.load(**line[0].manifest["data"]), []
    first = Bench(golden, line[0], source, features)
    floor, spread = verdict.chance(first, name, args.workdir / verdict.FLOOR)
    for seed in numbers(args.seeds, int):
        rows += at_seed(first.at(seed), line, spread, numbers(args.steps, int), args.workdir / "damaged")
        print(f"seed {seed}: {sum(not row['within'] for row in rows)} exceeded so far", flush=True)
    known = {"set": golden.hash, "items": len(golden.items), "seeds": numbers(args.seeds, int), "floor": floor}
    known |= {"spread": spread, "seconds": round(time.perf_counter() - begin), "cores": os.cpu_count()}
    known |= {"chance": {name: checks.by_chance(sign) for name, (_, sign) in checks.LOSSES.items()}}
    write_json(path, {**known, "rows": rows})
    if args.publish:
        publish(json.loads(path.read_text()))


def publish(found: dict[str, Any]) -> None:
    """docs/results/golden.md."""
    found = {"chance": dict.fromkeys(checks.LOSSES, checks.by_chance(1)), **found}  # As it was before it was told.
    rows, lines = found["rows"], [HEADER.format(**{**found, "seeds": ", ".join(map(str, found["seeds"]))})]
    sound = [row for row in rows if row["damage"] == "none"]
    worst = []
    for tolerance in checks.NAMES:
        for stage in (measure.STAGE_ONE, measure.STUDENT):
            of = [row for row in sound if row["tolerance"] == tolerance and row["stage"] == stage]
            if of:
                row = max(of, key=lambda row: row["value"] / row["limit"])
                exceeded = sum(not row["within"] for row in of)
                worst.append(
                    {**row, "checks": len(of), "exceeded": exceeded, "value / limit": row["value"] / row["limit"]}
                )
    columns = ("tolerance", "stage", "checks", "exceeded", "steps", "seed", "value", "limit", "value / limit")
    lines += ["## The sound chain", "", SOUND, "", markdown(worst, columns), ""]
    caught = []
    kinds = dict.fromkeys(row["damage"] for row in rows if row["damage"] != "none")
    tried = dict.fromkeys((row["damage"], row["steps"]) for row in rows if row["damage"] != "none")
    for damage, steps in sorted(tried, key=lambda of: (list(kinds).index(of[0]), -of[1])):
        of = [row for row in rows if (row["damage"], row["steps"]) == (damage, steps)]
        named = [row for row in of if row["named"]]
        beside = [row for row in sound if row["steps"] == steps and row["tolerance"] == named[0]["tolerance"]]
        entry = {"damage": damage, "steps": steps, "tolerance": named[0]["tolerance"], "limit": named[0]["limit"]}
        entry |= {"damaged, least": min(row["value"] for row in named)}
        entry |= {"sound, most": max(row["value"] for row in beside if row["stage"] == measure.STUDENT)}
        others = dict.fromkeys(row["tolerance"] for row in of if not row["within"] and not row["named"])
        entry |= {"seeds caught": f"{sum(not row['within'] for row in named)} of {len(named)}"}
        caught.append(entry | {"exceeds, too": ", ".join(others) or None})
    columns = ("damage", "steps", "tolerance", "limit", "sound, most", "damaged, least", "seeds caught", "exceeds, too")
    lines += ["## Damaged students", "", DAMAGED, "", markdown(caught, columns), ""]
    DOCS.write_text("\n".join(lines))


HEADER = """# The golden set on damaged students

Made by `python -m experiments.golden_damage --publish`; no number is typed by hand. The digits chain of
[digits.md](digits.md), {items} items (set `{set}`), noise of seeds {seeds}. Fréchet distance, recall and class variance
are on raw pixels, over the {floor[num]} items of independent noise, against all images of the data; of these,
as many against the {floor[num_reference]} others have a Fréchet distance of {floor[frechet_distance]:.3g} and a
recall of {floor[recall]:.3g}. Standard deviations of the teacher by chance: Fréchet distance
{spread[frechet_distance]:.2g}, recall {spread[recall]:.2g}, class variance {spread[class_variance]:.2g}; limits by
chance are {chance[frechet_loss]:.2g} of these, of variance_loss {chance[variance_loss]:.2g}. On {cores} CPU
cores, shared with other work, in {seconds} seconds, training not counted. Where the tolerances come from:
[../golden.md](../golden.md).
"""

SOUND = (
    """Each tolerance's worst case over all numbers of steps (32 to 1) and seeds: the margin is what is left to 1."""
)

DAMAGED = """The tolerance is the one named beforehand for the damage; `sound, most` is the sound student's largest
value of it at these steps, over the seeds."""


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
