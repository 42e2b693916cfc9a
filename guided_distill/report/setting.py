"""The parts of the page that say what was run: boxes of the chain, and the setting."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guided_distill import data
from guided_distill.errors import UserError
from guided_distill.report.chain import Node
from guided_distill.report.rows import Row, show
from guided_distill.report.samples import cost


def boxes(nodes: Sequence[Node]) -> list[list[dict[str, Any]]]:
    """The chain as columns of boxes, teachers first: {"role", "name", "facts", "from", "rounds", "trouble"}."""
    names = {node.key: node.name for node in nodes}
    columns: dict[int, list] = {}
    for node in nodes:
        box = {"role": node.role, "name": node.name, "facts": facts(node), "trouble": node.trouble}
        box["from"] = [names[key] for key in node.parents]
        box["rounds"] = node.rounds if node.manifest is not None else []
        columns.setdefault(node.depth, []).append(box)
    return [columns[depth] for depth in sorted(columns)]


def facts(node: Node) -> list[tuple[str, str]]:
    """(what, value) of a run, a line each."""
    if node.manifest is None:
        return []
    manifest, (done, total) = node.manifest, node.progress
    network, steps = manifest["network"]["name"], manifest["recommended"]["steps"]
    count = node.parameters
    out = [("objective", manifest["objective"])] if manifest["trains"] else []
    out += [("network", network)]
    out += [("parameters", f"{count:,}" if count else "none: it is exact")]
    if manifest["trains"]:
        out += [("updates", f"{total:,}" if done >= total else f"{done:,} of {total:,}")]
    if manifest["rounds"] is None:
        out += [("steps", cost(steps, node.cost))]
    elif manifest["sampler"] != "ddim":
        out += [("sampler", manifest["sampler"])]
    return [*out, ("guidance", strength(manifest["guidance"]))]


def strength(guidance: Mapping[str, Any]) -> str:
    """The w of a manifest's guidance, in words."""
    if guidance["kind"] == "none":
        return "none (w = 0)"
    interval = guidance.get("interval")
    where = f" for log-SNR in [{interval[0]:g}, {interval[1]:g}]" if interval else ""
    if guidance["kind"] == "external":
        return f"any w, external{where}"
    low, high = guidance["range"]
    return (f"w = {low:g}" if low == high else f"w in [{low:g}, {high:g}]") + where


def describe(
    nodes: Sequence[Node], rows: Sequence[Row], features: str, settings: Mapping[str, Any], hardware: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """(term, words) of what was run on what."""
    present = [node for node in nodes if node.manifest is not None]
    out = [("data", text) for text in dict.fromkeys(data_set(node.manifest["data"]) for node in present)]
    seeds = sorted({row["seed"] for row in rows if "seed" in row})
    if rows:
        out += [("features", features), ("seeds of the samples", ", ".join(map(str, seeds)))]
    out += [("training seeds", _by_run(present, lambda node: str(node.manifest["seed"])))] if present else []
    known = {"num": "samples a row", "num_reference": "reference samples"}
    out += [(known.get(k, k.replace("_", " ")), show(v)) for k, v in settings.items() if k not in ("features", "seed")]
    seconds = hardware.get("seconds") or {}
    out += [(k.replace("_", " "), show(v)) for k, v in hardware.items() if not isinstance(v, Mapping)]
    if seconds:
        out += [
            ("time", ", ".join(f"{name} {duration(value)}" for name, value in seconds.items() if value >= 1) or "–")
        ]
    if present:
        out += [("versions", _by_run(present, _versions)), ("commit", _by_run(present, _commit))]
    return out


def data_set(arguments: Mapping[str, Any]) -> str:
    """A data set in words: its name and arguments, counts, shape, classes and licence, as far as it is here."""
    given = ", ".join(f"{k}={v}" for k, v in arguments.items() if k != "name")
    name = arguments["name"] + (f" ({given})" if given else "")
    try:
        source = data.load(**arguments)
    except (UserError, OSError, ImportError) as error:
        return f"{name}; not on this machine ({error})"
    shape, classes = " × ".join(map(str, source.info.shape)), source.info.num_classes
    kinds = f"{classes} classes" if classes else "no classes"
    return f"{name}; {len(source):,} examples of {shape}, {kinds}; licence: {source.info.licence}"


def duration(seconds: int | float) -> str:
    """ "45 s", "12 min" or "3.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def configs(nodes: Sequence[Node], home: Path) -> list[tuple[str, str]]:
    """(run, its config as JSON); paths below `home` are written from there."""
    found = [(node.name, node.config) for node in nodes if node.manifest is not None and node.config]
    return [(name, json.dumps(config, indent=1).replace(f"{home.resolve()}/", "")) for name, config in found]


def _by_run(nodes: Sequence[Node], of: Any) -> str:
    """One value for all runs, or each with the runs that it holds for."""
    values: dict[str, list[str]] = {}
    for node in nodes:
        values.setdefault(of(node), []).append(node.name)
    return next(iter(values)) if len(values) == 1 else "; ".join(f"{v} ({', '.join(n)})" for v, n in values.items())


def _versions(node: Node) -> str:
    return ", ".join(f"{name} {version}" for name, version in node.manifest.get("versions", {}).items()) or "–"


def _commit(node: Node) -> str:
    commit, _, dirty = (node.manifest.get("git_commit") or "–").partition("-")
    return commit[:12] + (f"-{dirty}" if dirty else "")
