"""A sweep as a part of a report: plots that are files of their own, in the page's colours on light and on dark, and
tables of presets, ranges of w and cells."""

import functools
import io
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from guided_distill import presets, sections
from guided_distill.files import write_text
from guided_distill.report import charts
from guided_distill.report.charts import Line
from guided_distill.report.rows import Number, label

Cell = Mapping[str, Any]
TITLE = "Quality, latency and w: a sweep"
RULES = (
    "w_range: the measured w without a gap about the best one, at which the distance is within {tolerance:.0%} of the "
    "best of these steps. Recall falls where it is less than {kept:.0%} of the best of these steps; images saturate "
    "where {saturation:.0%} more of their pixels than of the data's are at an end of their range.",
    "Presets are of the cells that none beats in evaluations and distance. fast and preview: the fewest evaluations "
    "within {fast:g} and {preview:g} times the best distance; quality: the fewest within {fast:g} times that are "
    "within the noise of the seeds of the best, too.",
)


def section(run_dir: str | Path, found: Sequence[Cell], document: Mapping[str, Any], floor: Cell) -> Path:
    """Leaves the section `sweep` in a run: `found`, cells of `presets.cells`; `document`, what presets.json holds;
    `floor`, what the data score. Returns its path."""
    settings, rules = document["settings"], document["rules"]
    words = {"tolerance": rules["tolerance"], "kept": 1 - rules["tolerance"], "saturation": rules["saturation"]}
    on = f"{settings['num']:,} samples a row against {settings['num_reference']:,} of {settings['num_available']:,}"
    notes = [
        f"{on} images of {settings['reference']}, FD-{settings['features']}. Numbers are means over seeds, ± their "
        f"standard deviation. Images of the data score {floor[presets.QUALITY]:.3g}, {floor['num']:,} of them against "
        f"{floor['num_reference']:,}.",
        *(text.format(**words, **rules["factors"]) for text in RULES),
        f"Milliseconds are of {devices(found)}.",
    ]
    folder, shown = Path(run_dir) / "sections", []
    folder.mkdir(parents=True, exist_ok=True)
    for name, (heading, lines, options) in plots(found).items():
        save(folder / f"sweep_{name}.svg", lines, **options)
        shown.append({"title": heading, "file": f"sweep_{name}.svg"})
    return sections.write(run_dir, "sweep", TITLE, notes=notes, tables=tables(found, document), pictures=shown)


def tables(found: Sequence[Cell], document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Presets, ranges of w, and all cells, as `sections.write` takes them."""
    columns = ["preset", "steps", "sampler", "w", "range of w", "evaluations", "FD", "ms an image"]
    of_presets = []
    for name, p in document["presets"].items():
        quality = with_spread(p["quality"]["value"], p["quality"]["spread"])
        cells = [p["steps"], p["sampler"], _w(p["guidance"]), between(p["w_range"]), p["evaluations"], quality]
        of_presets.append([name, *cells, 1e3 * p["seconds_per_image"]])
    of_w = ["sampler", "steps", "best w", "range of w", "recall falls from w", "saturates from w"]
    ranges = [
        [r["sampler"], r["steps"], _w(r["w_best"]), between(r["w_range"])]
        + [_w(r[name]) for name in ("recall_falls_from", "saturates_from")]
        for r in document["ranges"]
    ]
    spreads = dict.fromkeys(name for cell in found for name in cell if name.endswith("_spread"))
    names = [name.removesuffix("_spread") for name in spreads]
    cells = [
        [cell["sampler"], cell["steps"], _w(cell["guidance"]), cell["evaluations"], cell["seeds"]]
        + [with_spread(cell.get(name), cell.get(f"{name}_spread")) for name in names]
        + [1e3 * cell["seconds_per_image"]]
        for cell in found
    ]
    heads = ["sampler", "steps", "w", "evaluations", "seeds", *map(label, names), "ms an image"]
    return [
        {"title": "Presets", "columns": columns, "rows": of_presets},
        {"title": "w for each number of steps", "columns": of_w, "rows": ranges},
        {"title": "All settings", "columns": heads, "rows": cells},
    ]


def devices(found: Sequence[Cell]) -> str:
    """Where the latencies were measured; with the steps, where it was not all on one machine."""
    steps: dict[str, dict[int, None]] = {}
    for cell in found:
        steps.setdefault(cell["device"], {})[cell["steps"]] = None
    if len(steps) == 1:
        return next(iter(steps))
    return "; ".join(f"{device} ({', '.join(map(str, of))} steps)" for device, of in steps.items())


def between(w_range: Sequence[Number]) -> str:
    """ "0 to 1", or "0" alone."""
    low, high = w_range
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _w(value: Number | None) -> str | None:
    return None if value is None else f"{value:g}"


def with_spread(value: Number | None, spread: Number | None) -> str | Number | None:
    """ "0.172 ± 0.003"; the number alone where there is one seed."""
    return value if value is None or spread is None else f"{value:.3g} ± {spread:.1g}"


def plots(found: Sequence[Cell]) -> dict[str, tuple[str, list[Line], dict[str, Any]]]:
    """{name: (title, lines, options of `save`)}: quality against latency, against recall (or the inception score, where
    it was measured), and against w; saturation against w."""
    quality, lines = presets.QUALITY, _groups(found)
    name = label(quality)
    scored = "inception_score" if all("inception_score" in cell for cell in found) else "recall"
    timed = [{**cell, "ms": 1e3 * cell["seconds_per_image"]} for cell in found]
    best = presets.front(timed, "ms", quality)
    _, log_y = charts.scale([cell[quality] for cell in found])
    of = lambda x, y, style="-": [  # noqa: E731
        Line(words, [c[x] for c in group], [c[y] for c in group], colour, "o", style) for words, colour, group in lines
    ]
    lines_of_time = [Line("front", [c["ms"] for c in best], [c[quality] for c in best], "ink", "", "--")]
    for words, colour, group in _groups(timed):
        lines_of_time.append(Line(words, [c["ms"] for c in group], [c[quality] for c in group], colour, "o", ""))
    options = {"y_label": name, "log_y": log_y}
    shortest, longest = (math.log2(side(cell["ms"] for cell in timed)) for side in (min, max))
    ms = [2.0**k for k in range(math.floor(shortest), math.ceil(longest) + 1)]
    out = {
        "latency": (
            "Quality against latency: every setting, and those that none beats",
            lines_of_time,
            {**options, "x_label": "milliseconds an image", "log_x": True, "ticks": ms},
        )
    }
    if all(scored in cell for cell in found):
        heading = f"Quality against {label(scored)}: along a line w rises"
        out["trade"] = heading, of(scored, quality), {**options, "x_label": label(scored), "ticks": nice(found, scored)}
    strengths = sorted({cell["guidance"] for cell in found})
    if len(strengths) > 1:
        over_w = {"x_label": "w", "ticks": strengths}
        out["guidance"] = "Quality against w", of("guidance", quality), {**options, **over_w}
        if all("saturation" in cell for cell in found):
            heading = "Pixels at an end of their range beyond the data's share, against w"
            out["saturation"] = heading, of("guidance", "saturation"), {**over_w, "y_label": "saturation"}
    return out


def nice(found: Sequence[Cell], name: str) -> list[Number]:
    """Ticks for the range of a number."""
    low, high = (side(cell[name] for cell in found) for side in (min, max))
    ticks = MaxNLocator(6, steps=charts.NICE).tick_values(low, high)
    return [tick for tick in ticks if low <= tick <= high]


def save(
    path: Path,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    size: tuple[Number, Number] = (5.6, 3.3),
    **options: Any,
) -> None:
    """A plot with its legend as a file: .svg, right on light and on dark, or .png on light. `options` as
    `charts.draw`."""
    light, dark = palettes()
    colours = charts.STAND_INS if path.suffix == ".svg" else light
    with rc_context(charts.style(colours)):
        figure = Figure(figsize=size, layout="constrained")
        axis = figure.add_subplot()
        charts.draw(axis, lines, colours, **options)
        axis.set(xlabel=x_label, ylabel=y_label, facecolor="none")
        figure.legend(loc="outside right upper", frameon=False, labelcolor=colours["quiet"])
        if path.suffix != ".svg":
            return figure.savefig(path, dpi=130, facecolor=light["paper"])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    for variable, colour in charts.STAND_INS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    sets = ["".join(f"--{name}:{of[name]};" for name in charts.STAND_INS) for of in (light, dark)]
    rules = f"svg{{{sets[0]}}}@media(prefers-color-scheme:dark){{svg{{{sets[1]}}}}}"
    write_text(path, re.sub(r"(<svg[^>]*>)", rf"\1<style>{rules}</style>", svg, count=1))


@functools.cache
def palettes() -> tuple[dict[str, str], dict[str, str]]:
    """(light, dark): the page's colours by name, from its style sheet."""
    text = (resources("guided_distill.report") / "style.css").read_text()
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)
    )
    return light, dark


def _groups(found: Sequence[Cell]) -> list[tuple[str, str, list[Cell]]]:
    """(words, colour, cells by rising w) for each number of steps and sampler."""
    samplers = list(dict.fromkeys(cell["sampler"] for cell in found))
    steps = sorted({cell["steps"] for cell in found})
    out = []
    for sampler in samplers:
        for n in steps:
            group = [cell for cell in found if (cell["sampler"], cell["steps"]) == (sampler, n)]
            words = ("1 step" if n == 1 else f"{n} steps") + (f", {sampler}" if len(samplers) > 1 else "")
            colour = f"s{round(steps.index(n) * (charts.RAMP - 1) / max(len(steps) - 1, 1))}"
            out.append((words, colour, sorted(group, key=lambda cell: cell["guidance"])))
    return [entry for entry in out if entry[2]]
