"""A paper's table with our numbers beside it: DIR/paper.md, and the same on the screen.

A difference is taken only of like with like: FID is Inception-v3 with its standard weights, on the data set itself, as
many samples, the same w.
Where a cell is empty, it says what is missing.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Printed
from scipy import stats

from experiments.published import Figure

KEYS = {"FID": "frechet_distance", "IS": "inception_score", "CLIP": "clip_score"}
UNITS = {"CLIP": 0.01}  # Papers print the cosine; our score is of a hundred.
FID_FEATURES = "inception"
NUM = 50_000
OWN = 0  # Steps of a figure whose sampler and steps are its source's own.
COLUMNS = ("method", "steps", "w", "metric", "published", "measured", "difference", "source", "missing")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure and what was measured for it over the seeds of the noise; `missing`: why there is nothing, or why it
    does not compare."""

    figure: Figure
    values: tuple[float, ...] = ()
    missing: str = ""

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval of the mean over seeds (Student's t); None for a single one."""
        n = len(self.values)
        return float(stats.t.ppf(0.975, n - 1)) * stdev(self.values) / math.sqrt(n) if n > 1 else None

    @property
    def difference(self) -> float | None:
        """Measured less published; None where that is not like with like."""
        return fmean(self.values) - self.figure.value if self.values and not self.missing else None

    def text(self) -> list[str]:
        """The first of COLUMNS."""
        f, half = self.figure, self.half_width
        within = "" if half is None else f" ± {half:.2g}"
        seeds = f" ({len(self.values)} seed{'s' if len(self.values) > 1 else ''})"
        measured = f"{fmean(self.values):.4g}{within}{seeds}" if self.values else ""
        difference = "" if self.difference is None else f"{self.difference:+.3g}{within}"
        w = "?" if f.guidance is None else f"{f.guidance:g}"
        return [f.method, str(f.steps or "own"), w, f.metric, str(f), measured, difference]


class On(NamedTuple):
    """What rows were measured on: `num` samples against `num_reference` images (None: all of them); `stand_in`: not of
    the data set; `clip`: whether CLIP scored their captions."""

    features: str
    num: int
    num_reference: int | None = None
    stand_in: bool = False
    clip: bool = False


def beside(
    figures: Sequence[Figure], rows: Sequence[Mapping[str, Any]], why_not: Callable[[Figure], str], on: On
) -> list[Cell]:
    """A cell for each figure. `rows`: results.json's; `why_not`: why a row is not among the planned ones, "" if it
    is."""
    found: dict[tuple, list[Mapping]] = {}
    for row in rows:
        found.setdefault((row["method"], row["steps"], row["guidance"]), []).append(row)
    return [_cell(f, found.get((f.method, f.steps, f.guidance), []), why_not, on) for f in figures]


def _cell(figure: Figure, rows: list, why_not: Callable, on: On) -> Cell:
    key = KEYS[figure.metric]
    if figure.steps == OWN:
        return Cell(figure, missing="of a sampler and a number of steps of its source's own: no row here has them")
    if on.stand_in:
        return Cell(figure, missing="stand-in pictures: run it without --tiny")
    if figure.guidance is None:
        return Cell(figure, missing="of a w that was not found in print: compare it with the rows of all w")
    if figure.metric == "CLIP" and not on.clip:
        return Cell(figure, missing="no CLIP: --clip=FOLDER, with its weights")
    if figure.metric != "CLIP" and on.features != FID_FEATURES:
        return Cell(figure, missing=f"{on.features} is not Inception-v3: --features={FID_FEATURES}, with its weights")
    values = tuple(row[key] * UNITS.get(figure.metric, 1) for row in rows if key in row)
    if values:
        few = "" if on.num == figure.num else f"{on.num:,} samples instead of {figure.num:,}"
        part = f"against {on.num_reference:,} images instead of all" if on.num_reference else ""
        return Cell(figure, values, ", ".join(filter(None, (few, part))))
    if rows:
        return Cell(figure, missing=f"the row has no {key}: measured by an earlier version; remove it and run again")
    return Cell(figure, missing=why_not(figure) or "not measured yet: run on")


def markdown(cells: Sequence[Cell], title: str) -> str:
    """The table as a page."""
    rows, legend = _lines(cells)
    lines = [
        f"# {title}: the paper's figures and ours",
        "",
        "Published: as found in print, in the source named. In brackets: recalled, not verified, not to be quoted as",
        "published. Intervals are 95 % of the mean over seeds of the noise.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join(["---"] * len(COLUMNS)) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"- {line}" for line in legend),
        "",
    ]
    return "\n".join(lines)


def printed(cells: Sequence[Cell], title: str) -> Printed:
    """The table for a console."""
    rows, legend = _lines(cells)
    table = Printed(*COLUMNS, title=f"{title}: the paper's figures and ours", title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    table.caption, table.caption_justify = escape("\n".join(legend)), "left"
    return table


def show(cells: Sequence[Cell], title: str) -> None:
    """Prints the table, where there is one."""
    if cells:
        Console(width=None if Console().is_terminal else 200).print(printed(cells, title))


def _lines(cells: Sequence[Cell]) -> tuple[list[list[str]], list[str]]:
    """(rows by COLUMNS, legend): sources are numbered, and what is missing has letters."""
    sources = list(dict.fromkeys(cell.figure.source for cell in cells))
    missing = [text for text in dict.fromkeys(cell.missing for cell in cells) if text]
    letter = lambda text: chr(ord("a") + missing.index(text)) if text else ""  # noqa: E731
    rows = [[*cell.text(), str(sources.index(cell.figure.source) + 1), letter(cell.missing)] for cell in cells]
    legend = [f"source {k}: {text}" for k, text in enumerate(sources, 1)]
    return rows, [*legend, *(f"missing {letter(text)}: {text}" for text in missing)]
