"""Rows of numbers: what their columns mean, how a number is written, the table, and the summary in words."""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from guided_distill.report.chain import Node, read_json

Row = Mapping[str, Any]
Number = int | float
KEYS = ("method", "sampler", "steps", "evaluations", "guidance", "seed")
SPEED = {"seconds": "seconds", "images_per_second": "images/s"}
PUBLISHED = ("published", "published_source")
NOTED = ("num", "num_reference", "features", "weights")  # What a row may carry besides, which is no result.
FLOOR = "half of the data"
TEACHER = "teacher"

# Label, and which way is better. In the order in which they are shown; others follow, under their own names.
METRICS = {
    "frechet_distance": ("Fréchet distance", "lower is better"),
    "kernel_distance": ("kernel distance", "lower is better"),
    "distance": ("distance", "lower is better"),
    "energy_distance": ("energy distance", "lower is better"),
    "paired_distance": ("paired distance", "to the teacher’s sample from the same noise; lower is closer"),
    "inception_score": ("Inception Score", "higher is better"),
    "precision": ("precision", "higher is better"),
    "recall": ("recall", "higher is better"),
    "class_variance": ("class variance", "relative to the data’s: 1 is as varied"),
}


def label(metric: str) -> str:
    """For people."""
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def title(metric: str) -> str:
    """For a heading."""
    return label(metric)[:1].upper() + label(metric)[1:]


def is_number(value: Any) -> bool:
    """Whether it can be drawn: a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show(value: Any) -> str:
    """A cell: three digits, thousands apart, a dash for what is not there."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "yes" if value is True else str(value)
    if isinstance(value, int) or value == 0 or (math.isfinite(value) and abs(value) >= 999.5):
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".")


def metric_names(rows: Sequence[Row]) -> list[str]:
    """The metrics of these rows: every key that holds a number somewhere and is nothing else, the known ones first."""
    other = {*KEYS, *SPEED, *PUBLISHED, *NOTED}
    found = dict.fromkeys(k for row in rows for k, v in row.items() if k not in other and isinstance(v, int | float))
    return sorted(found, key=lambda name: list(METRICS).index(name) if name in METRICS else len(METRICS))


def measured(rows: Sequence[Row]) -> list[Row]:
    """Rows that were measured here: neither the data's own nor published ones."""
    return [row for row in rows if row.get("method") != FLOOR and row.get("published") is not True]


def series(rows: Sequence[Row]) -> list[Row]:
    """The rows with methods that are told apart by sampler: a method's first sampler keeps its plain name."""
    first: dict[Any, Any] = {}
    for row in rows:
        first.setdefault(row.get("method"), row.get("sampler"))
    own = lambda row: first[row.get("method")] == row.get("sampler")  # noqa: E731
    return [row if own(row) else {**row, "method": f"{row['method']}, {row.get('sampler')}"} for row in rows]


def means(rows: Sequence[Row], key: str, metric: str) -> list[tuple[Number, Number]]:
    """(key, mean of the metric over the rows that share it: seeds), rising."""
    groups: dict[Number, list[Number]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row[metric])
    return sorted((x, fmean(ys)) for x, ys in groups.items())


def guidance_of(rows: Sequence[Row]) -> list[float]:
    """The guidance strengths of measured rows, rising."""
    return sorted({float(row["guidance"]) for row in measured(rows) if is_number(row.get("guidance"))})


def spread(values: Sequence[Number], at_most: int = 3) -> list[Number]:
    """Some of the values: the first, the last, and evenly between."""
    if len(values) <= at_most:
        return list(values)
    return [values[round(k * (len(values) - 1) / (at_most - 1))] for k in range(at_most)]


ON = ("features", "num", "reference", "num_reference")
"""What evaluations have to share to stand in one table."""


def of_evaluations(nodes: Sequence[Node]) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """(rows, what they were measured on, notes) of the evaluation.json of each run that has one: of those that were
    measured as the last of them was; what is left out, or of other weights than a run has now, is noted."""
    rows, floors, notes = [], {}, []
    present = [node for node in nodes if node.manifest is not None]
    documents = {node.key: read_json(node.key / "evaluation.json") for node in present}
    documents = {key: of for key, of in documents.items() if isinstance(of, dict) and of.get("rows")}
    last = next(reversed(documents.values()), {})
    on = {k: v for k, v in last.items() if k not in ("rows", "run", "hash", "teacher", "floor")}
    for node in (node for node in present if node.key in documents):
        document = documents[node.key]
        others = [f"{key} {document.get(key)}, not {last.get(key)}" for key in ON if document.get(key) != last.get(key)]
        if others:
            notes.append(f"The evaluation of {node.name} is left out: it is of {'; '.join(others)}.")
            continue
        if "hash" in document and node.hash not in (None, document["hash"]):
            notes.append(f"The evaluation of {node.name} is of other weights than it has now: evaluate it again.")
        if "floor" in document:
            floors |= {json.dumps(document["floor"]): {"method": FLOOR, **document["floor"]}}
        alone = sum(other.method == node.method for other in present) == 1
        method = node.method if alone else f"{node.method} {node.name}"
        recommended = node.manifest["recommended"]["steps"]
        for row in document["rows"]:
            plain = node.role == "teacher" and (row["steps"], row["sampler"]) != (recommended, node.manifest["sampler"])
            name = f"{row['sampler'].upper()} on the {method}" if plain else method
            key = {"method": name, "evaluations": node.cost * row["steps"], "seed": document.get("seed", 0)}
            rows.append({**key, **row})
    return [*floors.values(), *rows], on, notes


def table(rows: Sequence[Row]) -> dict[str, Any]:
    """{"columns": [(name, whether its cells are numbers)], "groups": [(title, [(whether published, cells)])]}: the
    data's own rows and published ones first, then a group for each w."""
    names = [k for k in KEYS if k != "guidance" and any(k in row for row in rows)]
    names = [k for k in names if k not in ("sampler", "seed") or len({row.get(k) for row in measured(rows)}) > 1]
    extra = [*SPEED, *PUBLISHED]
    known = {*KEYS, *extra, *NOTED, *metric_names(rows)}
    words = dict.fromkeys(k for row in rows for k in row if k not in known)
    names += [*metric_names(rows), *(k for k in extra if any(_cell(row, k) for row in rows)), *words]
    order = list(dict.fromkeys(row.get("method") for row in rows))
    ranked = sorted(rows, key=lambda row: (order.index(row.get("method")), -(row.get("steps") or 0)))
    groups: dict[str, list] = {"": [row for row in ranked if row.get("method") == FLOOR]}
    for row in sorted((r for r in ranked if r.get("method") != FLOOR), key=lambda r: _w(r)):
        groups.setdefault(f"w = {_w(row):g}" if is_number(row.get("guidance")) else "any w", []).append(row)
    shown = {"method": "method", "evaluations": "evaluations", "published_source": "source", **SPEED}
    numeric = {*metric_names(rows), "steps", "evaluations", "seed", *SPEED, "published"}
    return {
        "columns": [(shown.get(name, label(name)), name in numeric) for name in names],
        "groups": [
            (title, [(row.get("published") is True, [show(_cell(row, name)) for name in names]) for row in group])
            for title, group in groups.items()
            if group
        ],
    }


def summary(rows: Sequence[Row], features: str) -> list[Markup]:
    """Sentences, one a guidance strength, on the first metric: the students of a few steps and of the fewest, against
    the teacher and against as many steps without distillation."""
    own = [row for row in series(measured(rows)) if is_number(row.get("guidance")) and row.get("steps")]
    names = [name for name in metric_names(rows) if name in METRICS] or metric_names(rows)
    students = [row for row in own if not _undistilled(row) and any(is_number(row.get(name)) for name in names)]
    if not students:
        return []
    counts = {m: len({r["steps"] for r in students if r["method"] == m}) for m in [r["method"] for r in students]}
    method = "student" if "student" in counts else max(counts, key=counts.get)
    students = [row for row in students if row["method"] == method]
    metric = next(name for name in names if any(is_number(row.get(name)) for row in students))
    name = f"FD-{features}" if metric == "frechet_distance" else f"a {label(metric)} of"
    sentences: list[Markup] = []
    for w in spread(guidance_of([row for row in students if is_number(row.get(metric))])):
        here = [row for row in own if row["guidance"] == w and is_number(row.get(metric))]
        sentences.append(_sentence(w, method, here, metric, name if not sentences else ""))
    return sentences


def _sentence(w: float, method: str, here: Sequence[Row], metric: str, name: str) -> Markup:
    """Of one w; the one that has a `name` of the metric says what is compared."""
    of = {m: [r for r in here if r["method"] == m] for m in dict.fromkeys(r["method"] for r in here)}
    values = {m: dict(means(found, "steps", metric)) for m, found in of.items()}
    cost = {(r["method"], r["steps"]): r.get("evaluations") for r in here}
    steps, bold = values[method], lambda m, n: Markup("<b>{}</b>").format(show(values[m][n]))
    few, fewest = max((n for n in steps if n <= 4), default=min(steps)), min(steps)
    subject = f"the {few}\u2011step {method} has {name}" if name else "it is"
    text = Markup("At w\u00a0=\u00a0{} {} {}").format(f"{w:g}", subject, bold(method, few))
    if TEACHER in values:
        most = max(values[TEACHER])
        whose = f"the {most}\u2011step teacher’s " if name else ""
        text += Markup(" against {}{}").format(whose, bold(TEACHER, most))
        if name and cost[TEACHER, most] and cost[method, few]:
            text += f", with {cost[TEACHER, most] / cost[method, few]:.3g}× fewer evaluations"
    if fewest != few:
        text += Markup("; {} in {}").format(bold(method, fewest), _steps(fewest))
    plain = next((r["method"] for r in here if _undistilled(r) and r["method"] != TEACHER and r["steps"] == few), None)
    if plain is not None:
        text += Markup("; {}{} {}").format(plain, f" in {_steps(few)}:" if name else ":", bold(plain, few))
    return text + "."


def _undistilled(row: Row) -> bool:
    """Whether a row is of the teacher's own network: the teacher, plain samplers on it, the exact denoiser."""
    method = str(row.get("method"))
    return method in (TEACHER, "exact", FLOOR) or " on the " in method


def _steps(n: int) -> str:
    return "1\u00a0step" if n == 1 else f"{n}\u00a0steps"


def _w(row: Row) -> float:
    return float(row["guidance"]) if is_number(row.get("guidance")) else math.inf


def _cell(row: Row, name: str) -> Any:
    """What stands in a row's column; a row that is published as a whole is marked, and has no number of its own."""
    value = row.get(name)
    return None if name == "published" and value is True else value
