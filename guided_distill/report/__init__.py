"""A chain of runs and its numbers as one HTML page that needs nothing else: no script, no request.

    report.write(Path("report.html"), "Digits", ["runs/digits_stage2"], rows)

The page: a summary in words, the chain drawn, samples of every network from the same noise, metrics against steps and
against w, training curves, the table of all rows, what other commands measured of its runs, and the setting. It is
complete for any subset of these.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from guided_distill.errors import UserError
from guided_distill.files import write_text
from guided_distill.report import chain, charts, parts, samples, setting
from guided_distill.report import rows as tables

GUIDANCE = (0.0, 1.0, 4.0)
IN_THE_OPEN = 2  # Metrics that are drawn without being asked for; the others can be unfolded.


def write(
    out: str | Path,
    title: str,
    runs: Sequence[str | Path],
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    notes: Sequence[str] = (),
    hardware: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    features: str = "pixels",
    grids: bool = True,
    num: int = 16,
    guidance: Sequence[int | float] | None = None,
    seed: int = 0,
) -> Path:
    """Writes the page to `out`, and returns it. Ancestors of the `runs` are found by their manifests.

    `rows`: {method, sampler, steps, evaluations, guidance, seed, any metrics, seconds, images_per_second}, each key
    optional but the first; "half of the data" is the floor, "teacher" the level to reach. `published` is a number from
    elsewhere beside the row's own, or True for a row of nothing else, which is not drawn; `published_source` says where
    from. `settings`: what all rows share; `hardware`: {"device", "seconds": {part: seconds}, ...}; `num` samples a row
    of pictures at each w of `guidance` (None: up to three of the rows'). Raises `UserError` for a directory without a
    run, or num < 1.
    """
    out = Path(out)
    if num < 1:
        raise UserError(f"num {num} is not positive")
    nodes, rows, hardware = chain.gather(runs), list(rows), dict(hardware or {})
    page = {
        "title": title,
        "lead": lead(nodes),
        "summary": tables.summary(rows, features),
        "notes": list(notes),
        "columns": setting.boxes(nodes),
        "sheets": [],
        "sheet_troubles": [],
        "metrics": _metrics(rows, features),
        "curves": _curves(nodes),
        "table": tables.table(rows) if rows else None,
        "parts": parts.of_runs(nodes),
        "setting": setting.describe(nodes, rows, features, settings or {}, hardware),
        "configs": setting.configs(nodes, out.parent),
    }
    if grids and nodes:
        page["sheets"], page["sheet_troubles"] = _sheets(nodes, rows, guidance, num, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render(page))
    return out


def of_experiment(workdir: str | Path, title: str, notes: Sequence[str] = (), **options: Any) -> Path:
    """The page of an experiment's directory, WORKDIR/report.html: its results.json, its hardware.json, and all runs in
    it. `options` as `write`. Raises `UserError` when there is none of them."""
    workdir = Path(workdir)
    runs = sorted(path.parent for path in workdir.glob("*/manifest.json"))
    rows = chain.read_json(workdir / "results.json")
    if not runs and rows is None:
        raise UserError(f"no experiment in {workdir}: neither results.json nor a run is there")
    hardware = chain.read_json(workdir / "hardware.json") or {}
    options = {"settings": hardware.pop("settings", None), "hardware": hardware, **options}
    return write(workdir / "report.html", title, runs, rows or [], notes=notes, **options)


def of_runs(out: str | Path, runs: Sequence[str | Path], title: str | None = None, **options: Any) -> Path:
    """The page of runs and their ancestors with what `python -m guided_distill evaluate` measured of each. `options` as
    `write`. Raises `UserError` for a directory without a run."""
    nodes = chain.gather(runs)
    rows, on, notes = tables.of_evaluations(nodes)
    options = {"features": on.pop("features", "pixels"), "settings": on, "notes": notes, **options}
    return write(out, title or Path(runs[-1]).resolve().name, runs, rows, **options)


def render(page: Mapping[str, Any]) -> str:
    """The template filled in; whatever is not markup is escaped."""
    loader = PackageLoader("guided_distill", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    return environment.get_template("page.html.j2").render(page)


def lead(nodes: Sequence[chain.Node]) -> str:
    """What was distilled to what, in a sentence; "" where there is no chain yet."""
    chains = [node for node in nodes if node.role == "stage two"]
    roots = [node for node in nodes if node.role == "teacher"]
    if not chains or not roots:
        return ""
    root, best = roots[0], max(chains, key=lambda node: len(node.rounds))
    done = [r["steps"] for r in best.rounds if r["done"] == 1]
    before = samples.cost(root.manifest["recommended"]["steps"], root.cost).replace("×", "of")
    text = f"On {root.manifest['data']['name']}, a teacher of {before}{' evaluations' if root.cost > 1 else ''}"
    if not done:
        return f"{text}; no halving is finished yet."
    text += f", distilled to {samples.cost(min(done), 1)} of one."
    return text if len(done) == len(best.rounds) else f"{text} {len(done)} of {len(best.rounds)} halvings are finished."


def _metrics(rows: Sequence[Mapping[str, Any]], features: str) -> list[dict[str, Any]]:
    """What the sections on metrics show of each, in order; metrics without a plot are left to the table."""
    found = []
    for name in tables.metric_names(rows):
        plots = {"steps": charts.against_steps(rows, name), "guidance": charts.against_guidance(rows, name)}
        if plots["steps"]["panels"]:
            suffix = f"FD-{features}; " if name == "frechet_distance" else ""
            hint = suffix + tables.METRICS[name][1] if name in tables.METRICS else ""
            found.append({"label": tables.title(name), "hint": hint, "open": len(found) < IN_THE_OPEN, **plots})
    return found


def _curves(nodes: Sequence[chain.Node]) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """(run, its panels) for runs that logged something."""
    out = []
    for index, node in enumerate(nodes):
        if node.manifest is not None and (logged := node.metrics):
            out.append((node.name, charts.curves(f"run{index}", logged, node.rounds)))
    return out


def _sheets(nodes, rows, guidance, num, seed):
    """Samples at the asked-for w; else at those of the rows, else at the usual ones."""
    wished = guidance if guidance is not None else tables.spread(tables.guidance_of(rows)) or GUIDANCE
    return samples.sheets(nodes, samples.strengths(nodes, wished), num, seed)
