"""Plots as inline SVG: drawn by matplotlib in stand-in colours, which become the page's CSS variables, so that one
drawing is right on dark and on light. Numbers are its only text; titles and legends are the page's."""

import dataclasses
import io
import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from guided_distill.report.rows import FLOOR, TEACHER, Number, Row, guidance_of, is_number, means, measured, series

SERIES, RAMP = 6, 8  # Colours of the style sheet: --c0.. for methods, --s0.. from the fewest steps to the most.
STAND_INS = {
    "ink": "#010100",
    "quiet": "#010101",
    "line": "#010102",
    **{f"c{k}": f"#0102{k:02x}" for k in range(SERIES)},
    **{f"s{k}": f"#0103{k:02x}" for k in range(RAMP)},
}
MARKERS = "os^Dvp"
MOST_POINTS = 300
NICE = (1, 2, 2.5, 5, 10)  # Distances of ticks, times a power of ten.


@dataclasses.dataclass(frozen=True)
class Line:
    """A series: `colour` of the style sheet; `marker` "" for a bare line; `style` "-", "--" (a level), ":", or ""
    (markers alone)."""

    label: str
    xs: Sequence[Number]
    ys: Sequence[Number]
    colour: str
    marker: str = "o"
    style: str = "-"


def panel(name: str, lines: Sequence[Line], *, title: str, **options: Any) -> Markup:
    """One plot as <svg>. `name`: unique in the page; `title`: for screen readers; `options` as `draw`."""
    with rc_context(style(STAND_INS)):
        figure = Figure(figsize=(3.7, 2.35))
        draw(figure.add_axes((0.115, 0.11, 0.87, 0.83)), lines, STAND_INS, **options)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    return _inline(buffer.getvalue(), name, title)


def style(colours: Mapping[str, str]) -> dict[str, Any]:
    """Matplotlib's settings for a plot in these colours."""
    line, quiet = colours["line"], colours["quiet"]
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "guided_distill",
        "font.size": 8.5,
        **{f"axes.spines.{side}": False for side in ("top", "right", "left")},
        "axes.edgecolor": line,
        "axes.labelcolor": quiet,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": line,
        "grid.linewidth": 0.6,
        **{"xtick.color": line, "ytick.color": line, "xtick.labelcolor": quiet, "ytick.labelcolor": quiet},
        "ytick.major.size": 0,
        "xtick.major.size": 3,
    }


def draw(
    axis: Axes,
    lines: Sequence[Line],
    colours: Mapping[str, str],
    *,
    ticks: Sequence[Number] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    y_range: tuple[Number, Number] | None = None,
    marks: Sequence[tuple[Number, str]] = (),
) -> None:
    """Fills an axis. `ticks` of x; `marks`: (x, text) where something begins."""
    for line in lines:
        colour = colours[line.colour]
        if line.style in ("--", ":") and len(line.xs) == 0:
            axis.axhline(line.ys[0], color=colour, linestyle=line.style, linewidth=1.1, zorder=1.5, label=line.label)
        else:
            looks = {"linestyle": line.style, "marker": line.marker, "markersize": 4, "color": colour}
            axis.plot(line.xs, line.ys, linewidth=1.6 if line.marker else 1.2, label=line.label, **looks)
    axis.margins(x=0.04)
    if log_x:
        axis.set_xscale("log", base=2)
    if y_range:
        axis.set_ylim(*y_range)
    _y_axis(axis, log_y)
    for x, text in marks:
        axis.axvline(x, color=colours["line"], linewidth=0.8, zorder=0.5)
        axis.annotate(text, (x, 1), (3, 1), ("data", "axes fraction"), "offset points", color=colours["quiet"])
    _x_axis(axis, ticks)


def against_steps(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """A panel for each w: `metric` over the number of steps, a line a method, the teacher's best as a dashed level and
    the data's own as a dotted one."""
    (own, y_range, log_y), floor = _drawn(rows, metric), _floor(rows, metric)
    methods = [m for m in dict.fromkeys(r["method"] for r in own) if m != TEACHER]
    steps, panels, used = sorted({row["steps"] for row in own}), [], {}
    for index, w in enumerate(guidance_of(own)):
        here, lines = [row for row in own if row.get("guidance") == w], []
        for k, method in enumerate(methods):
            points = means([row for row in here if row["method"] == method], "steps", metric)
            if points:
                lines.append(Line(method, *zip(*points, strict=True), f"c{k % SERIES}", MARKERS[k % len(MARKERS)]))
        teacher = means([row for row in here if row["method"] == TEACHER], "steps", metric)
        if teacher:
            lines.append(Line(f"teacher, {teacher[-1][0]} steps", (), teacher[-1][1:], "ink", "", "--"))
        if floor:
            lines.append(Line(FLOOR, (), (fmean(floor),), "quiet", "", ":"))
        used |= {line.label: line for line in lines}
        options = {"ticks": steps, "log_x": True, "log_y": log_y, "y_range": y_range}
        svg = panel(f"{metric}-steps-{index}", lines, title=f"{metric} against steps at w = {w:g}", **options)
        panels.append((f"w = {w:g}", svg))
    return {"panels": panels, "legend": list(used.values())}


def against_guidance(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """A panel for each method that was measured at several w: `metric` over w, a line a number of steps."""
    own, y_range, log_y = _drawn(rows, metric)
    several = [m for m in dict.fromkeys(r["method"] for r in own) if m != TEACHER]
    several = [m for m in several if len({r["guidance"] for r in own if r["method"] == m}) > 1]
    several = [m for m in several if len({r["steps"] for r in own if r["method"] == m}) > 1]
    shown = [row for row in own if row["method"] in (*several, TEACHER)]
    best = max((row["steps"] for row in shown if row["method"] == TEACHER), default=0)
    teacher = means([r for r in shown if (r["method"], r["steps"]) == (TEACHER, best)], "guidance", metric)
    steps, panels, used = sorted({row["steps"] for row in shown if row["method"] in several}), [], {}
    for index, method in enumerate(several):
        lines = [Line(TEACHER, *zip(*teacher, strict=True), "ink", "", "--")] if teacher else []
        for n in steps:
            points = means([r for r in shown if (r["method"], r["steps"]) == (method, n)], "guidance", metric)
            if points:
                colour = f"s{round(steps.index(n) * (RAMP - 1) / max(len(steps) - 1, 1))}"
                lines.append(Line("1 step" if n == 1 else f"{n} steps", *zip(*points, strict=True), colour))
        used |= {line.label: line for line in lines}
        options = {"ticks": guidance_of(shown), "log_y": log_y, "y_range": y_range}
        svg = panel(f"{metric}-guidance-{index}", lines, title=f"{metric} of {method} against w", **options)
        panels.append((method, svg))
    return {"panels": panels, "legend": list(used.values())}


def curves(name: str, logged: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]) -> list:
    """[(title, svg)]: loss, learning rate and gradient norm over updates, rounds marked by their steps."""
    panels = []
    for key, colour in (("loss", "c0"), ("learning_rate", "c1"), ("grad_norm", "c2")):
        points = [(row["step"], row[key]) for row in logged if is_number(row.get(key)) and is_number(row["step"])]
        if not points:
            continue
        values = [y for _, y in points if y > 0]
        log_y = key != "learning_rate" and len(values) == len(points) and max(values) > 10 * min(values)
        ends, last = [r["end"] for r in rounds], points[-1][0]
        parts: dict[int, list] = {}
        for x, y in points:
            parts.setdefault(sum(end < x for end in ends), []).append((x, y))
        lines = [Line("", *zip(*_thin(part, len(parts)), strict=True), colour, "") for part in parts.values()]
        begins, marks = [0, *ends[:-1]], []
        for begin, r in zip(begins, rounds, strict=bool(rounds)):
            if begin < last:
                marks.append((begin, f"{r['steps']}" if r["end"] - begin > 0.07 * last else ""))
        title = {"grad_norm": "gradient norm"}.get(key, key.replace("_", " "))
        panels.append((title, panel(f"{name}-{key}", lines, title=f"{title} over updates", log_y=log_y, marks=marks)))
    return panels


def _drawn(rows: Sequence[Row], metric: str) -> tuple[list[Row], tuple[Number, Number] | None, bool]:
    """(measured rows with a number of this metric and steps, range of y with the data's own, whether logarithmic); a
    log axis has no place for zero."""
    own = [row for row in measured(rows) if is_number(row.get(metric)) and is_number(row.get("guidance"))]
    own = series([row for row in own if (row.get("steps") or 0) > 0])
    y_range, log_y = scale([row[metric] for row in own] + _floor(rows, metric))
    return [row for row in own if row[metric] > 0 or not log_y], y_range, log_y


def _floor(rows: Sequence[Row], metric: str) -> list[Number]:
    return [row[metric] for row in rows if row.get("method") == FLOOR and is_number(row.get(metric))]


def _thin(points: list[tuple[Number, Number]], parts: int) -> list[tuple[Number, Number]]:
    """At most about `MOST_POINTS` for all parts of a curve together: means of neighbours."""
    size = math.ceil(len(points) * parts / MOST_POINTS)
    chunks = [points[k : k + size] for k in range(0, len(points), size)]
    return [(chunk[-1][0], fmean(y for _, y in chunk)) for chunk in chunks]


def scale(values: Sequence[Number]) -> tuple[tuple[Number, Number] | None, bool]:
    """((low, high), whether logarithmic) that all panels of a metric share."""
    positive = [v for v in values if v > 0]
    if not values:
        return None, False
    if positive and min(values) >= 0 and max(positive) > 8 * min(positive):
        return (min(positive) / 1.25, max(positive) * 1.25), True
    pad = 0.08 * (max(values) - min(values)) or 0.05 * abs(max(values)) or 1.0
    return (min(values) - pad, max(values) + pad), False


def _y_axis(axis: Axes, log: bool) -> None:
    if log:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        decades = math.log10(high / low)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.2 else (1,), numticks=12))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.yaxis.set_major_locator(MaxNLocator(5, steps=NICE))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y)))


def _tick(y: Number) -> str:
    """Short: 0.25, 2,000, 7.5e-4."""
    if 0 < abs(y) < 0.01 - 1e-9:
        mantissa, _, exponent = f"{y:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{y:,.0f}" if abs(y) >= 1000 else f"{y:.4g}"


def _x_axis(axis: Axes, ticks: Sequence[Number] | None) -> None:
    if ticks:
        axis.xaxis.set_major_locator(FixedLocator(list(ticks)))
        axis.xaxis.set_major_formatter(FixedFormatter([f"{x:g}" for x in ticks]))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=NICE, integer=True))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())


def _inline(svg: str, name: str, title: str) -> Markup:
    """A whole SVG file as an element of the page: its colours the page's, its ids its own, no links outwards; and no
    style sheet, which would be the whole page's."""
    svg, name = svg[svg.index("<svg") :], re.sub(r"\W", "_", name)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\n\s*", " ", svg)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    for variable, colour in STAND_INS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--sans)", svg)
    svg = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" @label@>', svg, count=1)
    return Markup(svg.strip().replace("@label@", str(Markup('aria-label="{}"').format(title))))
