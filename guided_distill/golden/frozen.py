"""The frozen set: which (label, w, noise) are asked of every network. Chosen once, kept in a file, told by its hash."""

import dataclasses
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from guided_distill import generate
from guided_distill.errors import UserError
from guided_distill.files import write_json

FORMAT = 1
FILE = "golden_set.json"  # In the teacher's directory, unless it is said where. A run's results are its golden.json.
AUTO = "auto"  # As a config says for `FILE` in its first teacher's directory.
SIZE = 300
W_MAX = 4.0  # Of a set for a teacher that can be asked for any w: the paper's range.
RUNGS = (0.0, 0.25, 0.5, 1.0)  # Of the range of w: a wrong scale by 2, or 1 + w for w, is another rung.
CLASSES = 10  # At most, of one noise.

LADDER, CLASS_LADDER = "one noise, every w", "one noise, every class"
ALL, NO_CLASSES, EDGES, OFF_GRID = "each class", "fresh noise", "w at the edges of the range", "off-grid w"
RARE, SAME, ONE_STEP = "rare class", "same label, different noise", "one step"
SHARES = {LADDER: 0.24, CLASS_LADDER: 0.2, EDGES: 0.08, OFF_GRID: 0.08, RARE: 0.05, SAME: 0.05, ONE_STEP: 0.05}
"""Of the set; what is left is `ALL`."""


class Item(NamedTuple):
    """One question: class (None: the run has none), w, the index of its noise in the set's stream, its slice. `steps`:
    the only number of sampling steps that it counts at (None: it counts at all)."""

    label: int | None
    w: float
    seed: int
    slice: str
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Golden:
    """A frozen set. `rungs`: the w of its ladders; `tolerances`: declared with it, by name (see `checks`)."""

    seed: int
    num_classes: int
    w_range: tuple[float, float]
    rungs: tuple[float, ...]
    tolerances: Mapping[str, float]
    items: tuple[Item, ...]

    def content(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"w_range": list(self.w_range), "rungs": list(self.rungs), "tolerances": dict(self.tolerances)}
        return {"format": FORMAT, **values, "items": [item._asdict() for item in self.items]}

    @property
    def hash(self) -> str:
        """Of the content, 16 hexadecimal digits: results compare only where it is the same."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def labels(self) -> Int[np.ndarray, " n"] | None:
        """Of the items; None where there are no classes."""
        return np.array([item.label for item in self.items], np.int32) if self.num_classes else None

    @property
    def w(self) -> Float[np.ndarray, " n"]:
        """Of the items."""
        return np.array([item.w for item in self.items], np.float32)

    def noise(self, shape: tuple[int, ...], seed: int | None = None) -> np.ndarray:
        """[n, *shape], standard normal; another `seed` than the set's own asks the same of other noise."""
        return generate.noise(self.seed if seed is None else seed, np.array([item.seed for item in self.items]), shape)

    def where(self, name: str) -> Bool[np.ndarray, " n"]:
        """The items of a slice."""
        return np.array([item.slice == name for item in self.items])

    @property
    def shared(self) -> Bool[np.ndarray, " n"]:
        """The items that count at every number of steps."""
        return np.array([item.steps is None for item in self.items])

    @property
    def independent(self) -> Bool[np.ndarray, " n"]:
        """Of those, the first of every noise: what is measured against data."""
        seeds = [item.seed for item in self.items]
        return self.shared & np.array([seed not in seeds[:k] for k, seed in enumerate(seeds)])

    def slices(self, steps: int) -> list[str]:
        """The slices that count at `steps`, in order."""
        return list(dict.fromkeys(item.slice for item in self.items if item.steps in (None, steps)))


def freeze(
    num_classes: int,
    counts: Sequence[int] | None = None,
    w_range: tuple[float, float] = (0.0, W_MAX),
    num: int = SIZE,
    seed: int = 0,
    rungs: Sequence[float] | None = None,
    tolerances: Mapping[str, float] | None = None,
) -> Golden:
    """`num` items for a data set of `num_classes` (0: none) with `counts` examples in each, and w in `w_range`: a
    function of its arguments.

    `rungs`: the w that are asked of one noise (None: 0, a quarter, a half and all of the range). Raises `UserError` for
    rungs outside the range, and for too few items to fill the slices.
    """
    low, high = w_range
    rungs = sorted({float(w) for w in (rungs or [(1 - share) * low + share * high for share in RUNGS])})
    if rungs[0] < low or rungs[-1] > high:
        raise UserError(f"guidance {rungs[0]:g} .. {rungs[-1]:g} is outside the range of the runs: [{low:g}, {high:g}]")
    items = tuple(_items(num_classes, counts, (low, high), num, seed, rungs))
    return Golden(seed, num_classes, (float(low), float(high)), tuple(rungs), dict(tolerances or {}), items)


def _items(
    classes: int, counts: Sequence[int] | None, w_range: tuple[float, float], num: int, seed: int, rungs: list[float]
) -> list[Item]:
    """The slices, one after the other; items of one noise follow each other."""
    rng, indices, items = np.random.default_rng([2023, seed]), itertools.count(), []
    order = rng.permutation(classes).tolist() if classes else [None]
    turn, usual = lambda k: order[k % len(order)], rungs[min(1, len(rungs) - 1)]

    def add(
        name: str, members: Callable[[int], list[tuple[int | None, float]]], size: int = 1, steps: int | None = None
    ):
        for k in range(max(2, round(SHARES[name] * num / size)) if name in SHARES else num - len(items)):
            index = next(indices)
            items.extend(Item(label, float(w), index, name, steps) for label, w in members(k))

    if len(rungs) > 1:
        add(LADDER, lambda k: [(turn(k), w) for w in rungs], len(rungs))
        add(EDGES, lambda k: [(turn(k // 2), w_range[k % 2])])
        add(OFF_GRID, lambda k: [(turn(k), round(float(rng.uniform(*w_range)), 3))])
    if classes > 1:
        size = min(classes, CLASSES)
        add(CLASS_LADDER, lambda k: [(turn(k * size + j), usual) for j in range(size)], size)
        rare = int(np.argmin(counts)) if counts is not None else classes - 1
        add(RARE, lambda k: [(rare, usual)])
        add(SAME, lambda k: [(turn(0), usual)])
    add(ONE_STEP, lambda k: [(turn(k), rungs[k % len(rungs)])], steps=1)
    left = num - len(items)
    if left < num // 10:
        raise UserError(f"{num} items are too few for the slices of a golden set; 200 to 500 are meant")
    shuffled = rng.permutation(np.resize(rungs, left))
    add(ALL if classes else NO_CLASSES, lambda k: [(turn(k), shuffled[k])])
    return items


def read(path: str | Path) -> Golden:
    """The set in a file. Raises `UserError` where there is none, or it is not what was frozen."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no golden set at {path}; freeze one with: python -m guided_distill golden RUN --make")
    try:
        values = json.loads(path.read_text())
        told, items = values.pop("hash"), tuple(Item(**item) for item in values.pop("items"))
        if values.pop("format") != FORMAT:
            raise UserError(f"{path} has another format than {FORMAT}, which this version reads")
        values |= {"w_range": tuple(values["w_range"]), "rungs": tuple(values["rungs"])}
        golden = Golden(**values, items=items)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no golden set, or damaged: {error}") from error
    if golden.hash != told:
        raise UserError(
            f"{path} was changed after it was frozen ({told}, now {golden.hash}); freeze another with --set"
        )
    return golden


def write(path: str | Path, golden: Golden) -> None:
    """Freezes a set in a file, whole or not at all. Raises `UserError` where a file is, however new (a frozen set is
    never made anew), and where none can be."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
            whole = Path(place) / path.name
            write_json(whole, {"hash": golden.hash, **golden.content()})
            try:
                os.link(whole, path)  # Unlike a rename it is refused where another process was first.
            except FileExistsError:
                taken = f"{path} exists, and a frozen set is never made anew; give another --set, or remove it"
                raise UserError(taken) from None
    except OSError as error:
        raise UserError(
            f"no golden set can be frozen at {path}: {error}; freeze one elsewhere with --set=PATH, and give "
            "config.golden=PATH in training"
        ) from error
