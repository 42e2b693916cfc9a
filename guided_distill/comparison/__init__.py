"""Systems before judges: pairs of pictures of the same label, people's and models' votes on them, and what they add up
to.

A comparison is a directory: comparison.json (systems and pairs), images/<random id>.png, votes.jsonl (every vote as it
was cast), raters.json (each rater's secret link). Only this directory tells which picture is whose.
"""

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np

from guided_distill.errors import UserError

FORMAT = 2
JUDGE = "judge:"  # How the names of raters begin that are models.


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pictures of one label, or one caption. `systems` are in the order in which the comparison lists them; who
    sees which of them on the left is a matter of `Comparison.plan`."""

    id: str
    label: int | None
    systems: tuple[str, str]
    images: tuple[str, str]
    caption: str | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What comparison.json says. `systems`: name -> {"source", "run", "steps", "guidance", "sampler", "seconds"};
    `salt`: random, so that nobody can work out the sides who has not this file."""

    dir: Path
    seed: int
    salt: str
    question: str
    systems: dict[str, dict[str, Any]]
    pairs: tuple[Pair, ...]

    def asked(self, pair: Pair) -> str:
        """The question of a pair, its label in the place of "{label}", its caption in that of "{caption}"."""
        question = self.question.replace("{label}", "" if pair.label is None else str(pair.label))
        return question.replace("{caption}", pair.caption or "")

    def png(self, image: str) -> bytes:
        """The picture of an id that stands in a pair."""
        return (self.dir / "images" / f"{image}.png").read_bytes()

    def plan(self, rater: str) -> list[tuple[Pair, bool]]:
        """All pairs in this rater's order, each with whether its second picture is on the left: half of those of every
        two systems, to one. The same whenever it is asked for; another for another rater, so that a habit of looking at
        one side first favours nobody."""
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{self.salt} {rater}".encode()).digest()))
        turned = {}
        for match in dict.fromkeys(pair.systems for pair in self.pairs):
            own = [pair.id for pair in self.pairs if pair.systems == match]
            turned |= zip(own, rng.permutation((np.arange(len(own)) + rng.integers(2)) % 2 == 1).tolist(), strict=True)
        return [(self.pairs[k], turned[self.pairs[k].id]) for k in rng.permutation(len(self.pairs))]


def need(*packages: str) -> None:
    """Raises `UserError` when a package of the extra is missing."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"this needs {' and '.join(missing)}: pip install -r requirements-compare.txt")


def load(out: str | Path) -> Comparison:
    """The comparison in a directory. Raises `UserError` where there is none, or one of another format."""
    path = Path(out) / "comparison.json"
    if not path.is_file():
        raise UserError(
            f"no comparison in {out}: make one with `python -m guided_distill compare make {out} --system ...`"
        )
    try:
        told = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if told.get("format") != FORMAT:
        raise UserError(f"{path} has format {told.get('format')}; this version reads {FORMAT}")
    pairs = [
        Pair(p["id"], p["label"], tuple(p["systems"]), tuple(p["images"]), p.get("caption")) for p in told["pairs"]
    ]
    return Comparison(Path(out), told["seed"], told["salt"], told["question"], told["systems"], tuple(pairs))
