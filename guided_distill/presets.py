"""From a sweep's rows to settings that have names: fronts, the recommended range of w, and preview, fast, quality.

The rules, in words, stand in docs/presets.md. A row is one seed of one setting (sampler, steps, w); a cell is the mean
of a setting's rows. Everything here is a pure function of rows, but for `read` and `write` of RUN/presets.json.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from guided_distill.errors import UserError, one_of
from guided_distill.files import write_json

Row = Mapping[str, Any]
Number = int | float
FORMAT = 1
FILE = "presets.json"
KEY = ("sampler", "steps", "guidance")
QUALITY = "frechet_distance"
FACTORS = {"preview": 2.0, "fast": 1.25}
"""How many times the best quality a preset may have."""
TOLERANCE, SATURATION = 0.1, 0.05
"""Share of the best by which quality and recall may be worse; share of pixels beyond the data's that may be at the
ends of their range."""


def cells(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A cell for each setting, in the order of evaluations and w: means over seeds of all numbers, <name>_spread (their
    standard deviation; None of a single seed), `seeds`, how many they were, and `by_seed`, the quality of each.
    `seconds_per_image` is the median over all rows of a sampler and its steps on the newest `device` that was asked for
    them: w costs no time, and what disturbs a machine now and then should not either."""
    groups: dict[tuple, list[Row]] = {}
    newest = {(row["sampler"], row["steps"]): row.get("device", "") for row in rows}  # The last row stands.
    clocks: dict[tuple, list[Number]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY), []).append(row)
        asked = row["sampler"], row["steps"]
        if row.get("device", "") == newest[asked]:
            clocks.setdefault(asked, []).append(row["seconds_per_image"])
    out = []
    for key, group in groups.items():
        cell = dict(zip(KEY, key, strict=True)) | {"evaluations": group[0]["evaluations"], "seeds": len(group)}
        cell["by_seed"] = {row["seed"]: row[QUALITY] for row in group}
        cell["device"] = newest[cell["sampler"], cell["steps"]]
        cell["seconds_per_image"] = median(clocks[cell["sampler"], cell["steps"]])
        for name in group[0]:
            values = [row.get(name) for row in group]
            if name in (*cell, "seed") or not all(isinstance(value, int | float) for value in values):
                continue
            cell[name], cell[f"{name}_spread"] = fmean(values), stdev(values) if len(values) > 1 else None
        out.append(cell)
    return sorted(out, key=lambda cell: (cell["evaluations"], cell["sampler"], cell["guidance"]))


def front(found: Iterable[Row], x: str, y: str, *, more: Sequence[str] = ()) -> list[Row]:
    """The rows that no other row beats (as good in both, better in one), by rising x. Less is better, but of the names
    in `more`. Of equal rows the first stands."""
    cost = lambda row: tuple(-row[name] if name in more else row[name] for name in (x, y))  # noqa: E731
    best, out = math.inf, []
    for row in sorted((row for row in found if x in row and y in row), key=cost):
        if cost(row)[1] < best:
            best = cost(row)[1]
            out.append(row)
    return sorted(out, key=lambda row: row[x])


def ranges(found: Sequence[Row], tolerance: float = TOLERANCE, saturation: float = SATURATION) -> list[dict[str, Any]]:
    """For each sampler and number of steps: `w_best`; `w_range`, the measured w without a gap about it whose quality is
    within `tolerance` of the best's; `recall_falls_from`, the first w at which recall is less than (1 - tolerance) of
    the best recall; `saturates_from`, the first at which `saturation` is exceeded (None: not measured, or nowhere).

    Raises `UserError` for a tolerance outside [0, 1) and a saturation that is not positive.
    """
    if not 0 <= tolerance < 1:
        raise UserError(f"tolerance {tolerance:g} is not in [0, 1); 0.1 allows a quality 10 % worse than the best")
    if saturation <= 0:
        raise UserError(f"saturation {saturation:g} is not positive; 0.05 allows 5 % of the pixels beyond the data's")
    groups: dict[tuple, list[Row]] = {}
    for cell in found:
        groups.setdefault((cell["sampler"], cell["steps"]), []).append(cell)
    out = []
    for (sampler, steps), group in groups.items():
        group = sorted(group, key=lambda cell: cell["guidance"])
        best = min(range(len(group)), key=lambda k: group[k][QUALITY])
        good = [cell[QUALITY] <= (1 + tolerance) * group[best][QUALITY] for cell in group]
        low, high = best, best
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(group) and good[high + 1]:
            high += 1
        kept = (1 - tolerance) * max((cell["recall"] for cell in group if "recall" in cell), default=0.0)
        out.append(
            {
                "sampler": sampler,
                "steps": steps,
                "w_best": group[best]["guidance"],
                "w_range": [group[low]["guidance"], group[high]["guidance"]],
                "recall_falls_from": _first(c for c in group if c.get("recall", kept) < kept),
                "saturates_from": _first(c for c in group if c.get("saturation", saturation) > saturation),
            }
        )
    return out


def choose(found: Sequence[Row]) -> dict[str, Row]:
    """{name: cell}, of the cells that none beats in evaluations and quality, so that what costs more is better. preview
    and fast: the fewest evaluations whose quality is within their factor of the best; quality: the fewest within the
    factor of fast that tie with the best within the noise of seeds. Raises `UserError` where there are no cells."""
    if not found:
        raise UserError("no rows to choose presets from; sweep at least one number of steps and one w")
    standing = front(found, "evaluations", QUALITY)
    best = standing[-1]
    near = {name: [c for c in standing if c[QUALITY] <= factor * best[QUALITY]] for name, factor in FACTORS.items()}
    # A noisy cell ties with nearly anything: hence the bound.
    tied = [cell for cell in near["fast"] if ties(cell, best)]
    return {name: cells[0] for name, cells in near.items()} | {"quality": tied[0]}


def ties(cell: Row, best: Row) -> bool:
    """Whether a cell is as good as the best within the noise of seeds: the mean over their common seeds of the
    difference in quality is no more than twice its standard error. With one seed, only an equal one is."""
    apart = [cell["by_seed"][seed] - best["by_seed"][seed] for seed in best["by_seed"] if seed in cell["by_seed"]]
    if not apart:
        return False
    return fmean(apart) <= (2 * stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0)


def describe(
    found: Sequence[Row],
    settings: Mapping[str, Any],
    resolution: Sequence[int],
    tolerance: float = TOLERANCE,
    saturation: float = SATURATION,
) -> dict[str, Any]:
    """What presets.json holds: {"format", "settings", "rules", "ranges", "presets": {name: preset}}, a preset being
    {"steps", "sampler", "guidance", "w_range", "evaluations", "resolution", "quality", "seconds_per_image", "device"}.
    `settings`: what all rows share: features, num, reference, num_reference, hash, ..."""
    measured = ranges(found, tolerance, saturation)
    named = {}
    for name, cell in choose(found).items():
        (of,) = (r for r in measured if (r["sampler"], r["steps"]) == (cell["sampler"], cell["steps"]))
        quality = {"metric": f"FD-{settings['features']}", "value": cell[QUALITY]}
        quality |= {"spread": cell[f"{QUALITY}_spread"], "seeds": cell["seeds"]}
        quality |= {key: settings[key] for key in ("num", "reference", "num_reference")}
        named[name] = {
            **{key: cell[key] for key in ("steps", "sampler", "guidance", "evaluations")},
            "w_range": of["w_range"],  # Holds its w: of equal evaluations the best one stands.
            "resolution": list(resolution),
            "quality": quality,
            "seconds_per_image": cell["seconds_per_image"],
            "device": cell["device"],
        }
    rules = {"tolerance": tolerance, "saturation": saturation, "factors": FACTORS}
    return {"format": FORMAT, "settings": dict(settings), "rules": rules, "ranges": measured, "presets": named}


def write(run_dir: str | Path, document: Mapping[str, Any]) -> Path:
    """Writes presets.json into a run; returns its path."""
    path = Path(run_dir) / FILE
    write_json(path, document)
    return path


def read(run_dir: str | Path) -> dict[str, Any]:
    """presets.json of a run. Raises `UserError`, with the way out, where it is missing, damaged, empty or of another
    format."""
    path, command = Path(run_dir) / FILE, f"make it with: python -m guided_distill sweep {run_dir}"
    try:
        document = json.loads(path.read_text())
        if document["format"] != FORMAT:
            raise UserError(f"{path} has format {document['format']}, not {FORMAT}; {command}")
        if not document["presets"]:
            raise UserError(f"{path} holds no presets; {command}")
        needed = ((KEY, document["presets"].values()), (("sampler", "steps", "w_range"), document["ranges"]))
        for names, parts in (*needed, (("hash",), [document["settings"]])):
            for part in parts:
                tuple(part[name] for name in names)
        return document
    except FileNotFoundError:
        raise UserError(f"no presets in {run_dir}: {path} is missing; {command}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); {command}") from error


def named(run_dir: str | Path, name: str) -> dict[str, Any]:
    """A preset of a run. Raises `UserError` as `read`, and for an unknown name, with the valid ones."""
    found = read(run_dir)["presets"]
    one_of(f"preset of {run_dir}:", name, found)
    return found[name]


def doubt(document: Mapping[str, Any], steps: int, sampler: str, w: float, hash_: str | None = None) -> str:
    """One line on what speaks against a use of presets, "" where nothing does: a w outside the range that was measured
    for these steps, or weights of another `hash_` than the sweep's."""
    if hash_ is not None and hash_ != document["settings"]["hash"]:
        return f"the presets were measured on other weights ({document['settings']['hash']}, these are {hash_})"
    for measured in document["ranges"]:
        low, high = measured["w_range"]
        if (measured["steps"], measured["sampler"]) == (steps, sampler) and not low <= w <= high:
            return f"w = {w:g} is outside [{low:g}, {high:g}], where the sweep found {sampler} of {steps} steps good"
    return ""


def _first(group: Iterable[Row]) -> Number | None:
    return next((cell["guidance"] for cell in group), None)
