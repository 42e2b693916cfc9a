"""Tolerances of a golden set: what each is, where its default comes from, and which are exceeded.

Defaults come from rules. A confusion may be up to 1/2, where a network's answers begin to be nearer to those to another
question (see `measure.astray`). A distance or a loss may be up to what training is there to save: it is held against
the same number for the teacher itself at as few steps, and against chance, as three seeds of noise and halves of the
set show it (see `measure.Bench.spread`). The rules were changed twice after sound chains, that of digits among them,
had failed them (docs/golden.md).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from guided_distill.errors import UserError, one_of
from guided_distill.golden.measure import STAGE_ONE, STUDENT

CONFUSIONS = ("class_confusion", "guidance_confusion", "round_confusion")
LOSSES = {
    "frechet_loss": ("frechet_distance", 1),
    "recall_loss": ("recall", -1),
    "variance_loss": ("class_variance", 0),
}
"""Of a metric against the teacher's: (its name, the sign of a change for the worse; 0: either)."""
NAMES = (*CONFUSIONS, "paired_distance", *LOSSES)
SEEDS = 3  # Of noise, by which chance is told.
ONE_SIDED, TWO_SIDED = 2.92, 4.30  # Student's t with two degrees of freedom, 5 %.


class Check(NamedTuple):
    """A number of a stage beside what it may be."""

    stage: str
    steps: int
    tolerance: str
    value: float
    limit: float

    @property
    def within(self) -> bool:
        """Whether it is no more than that."""
        return self.value <= self.limit


def parse(texts: Sequence[str]) -> dict[str, float]:
    """["recall_loss=0.1"] -> {"recall_loss": 0.1}. Raises `UserError` for an unknown name, or no number."""
    out = {}
    for text in texts:
        name, _, value = text.partition("=")
        one_of("tolerance", name, NAMES)
        try:
            out[name] = float(value)
        except ValueError:
            raise UserError(f"--tolerance {text!r}: {value!r} is not a number; give {name}=0.1, say") from None
    return out


def judge(
    rows: Sequence[Mapping[str, Any]],
    plain: Mapping[int, Mapping[str, Any]],
    spread: Mapping[str, float],
    given: Mapping[str, float],
) -> list[Check]:
    """Every number of `rows`, teacher first, that has a tolerance. `plain`: the teacher's row at each number of steps;
    `spread`: standard deviations of the teacher's metrics over seeds; `given`: limits in place of the defaults."""
    teacher, out = rows[0], []
    origin = next((row["paired_distance"] for row in rows if row["stage"] == STAGE_ONE), 0.0)
    for row in rows[1:]:
        found = {name: (row[name], 0.5) for name in CONFUSIONS if name in row}
        cut = plain.get(row["steps"], teacher)
        if row["stage"] == STUDENT and "paired_distance" in row:
            found["paired_distance"] = (row["paired_distance"], origin + cut["paired_distance"])
        for name, (metric, sign) in LOSSES.items():
            if metric in row and metric in spread:
                allowed = max(loss(cut[metric], teacher[metric], sign) / 2, by_chance(sign) * spread[metric])
                found[name] = (loss(row[metric], teacher[metric], sign), allowed)
        out += [
            Check(row["stage"], row["steps"], name, value, given.get(name, limit))
            for name, (value, limit) in found.items()
        ]
    return out


def by_chance(sign: int) -> float:
    """x a standard deviation of three seeds: how far a fourth is from their mean with 5 %, to the worse side, or to
    either (`sign` 0).

    For `judge` it is an approximation: what it holds is one value of a student against one of the teacher, whose
    difference has sqrt(2) standard deviations where they are independent, and fewer from the same noise; and what it
    takes for the standard deviation is the jackknife's, where that is larger.
    """
    return (TWO_SIDED if sign == 0 else ONE_SIDED) * math.sqrt(1 + 1 / SEEDS)


def loss(value: float, teacher: float, sign: int) -> float:
    """How much worse than the teacher's; 0 where it is better."""
    change = value - teacher
    return abs(change) if sign == 0 else max(sign * change, 0.0)
