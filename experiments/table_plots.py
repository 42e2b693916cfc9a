"""A table's rows by method, steps and w, and the plots of them on its page."""

from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

QUALITY, PAIRED = "kernel_distance", "paired_distance"
DRAWN = {  # Methods in the plots, and how; the same in all panels, whatever is missing there.
    "student": {"fmt": "o-", "color": "C0"},
    "stochastic student": {"fmt": "s-", "color": "C1"},
    "single-w student": {"fmt": "D-", "color": "C2"},
    "unguided student": {"fmt": "D-", "color": "C6"},
    "DPM-Solver++ on the teacher": {"fmt": "^--", "color": "C3"},
    "DDIM on the teacher": {"fmt": "v--", "color": "C4"},
    "matched": {"fmt": "x", "color": "C5"},
    "teacher": {"fmt": "*", "color": "black"},
}


class Rows:
    """The rows of a directory, by method, steps and w: of each the mean over seeds."""

    def __init__(self, rows: list[dict]):
        self.seeds = sorted({row["seed"] for row in rows})
        self.all = averaged(rows)
        self.guidance = sorted({row["guidance"] for row in rows if row["method"] == "student"})
        self.teacher_steps = max(row["steps"] for row in rows if row["method"] == "teacher")

    def get(self, method: str, steps: int, w: float) -> dict | None:
        """The row."""
        key = (method, steps, w)
        return next((r for r in self.all if (r["method"], r["steps"], r["guidance"]) == key), None)

    def teacher(self, w: float) -> dict | None:
        """The teacher's at its many steps."""
        return self.get("teacher", self.teacher_steps, w)

    def of(self, method: str, w: float) -> list[dict]:
        """Rows of a method at one w, by steps."""
        return sorted((r for r in self.all if (r["method"], r["guidance"]) == (method, w)), key=lambda r: r["steps"])


def averaged(rows: list[dict]) -> list[dict]:
    """One row for each of several that differ in their seed: means of what was measured (so that errors are those of
    one seed's samples), the rest as in the first."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault((row["method"], row["sampler"], row["steps"], row["guidance"], row.get("num")), []).append(row)
    out = []
    for same in found.values():
        means = {
            name: fmean(row[name] for row in same)
            for name, value in same[0].items()
            if isinstance(value, float) and all(name in row for row in same)
        }
        out.append({**same[0], **means})
    return out


def quality(of: Rows, floor: dict, path: Path) -> None:
    """Kernel distance to the data against evaluations."""
    panels(of, QUALITY, "kernel distance to the data", path, floor[QUALITY])


def paired(of: Rows, floor: dict, path: Path) -> None:
    """Distance to the teacher's sample from the same noise against evaluations."""
    panels(of, PAIRED, "paired distance to the teacher", path, None)


def panels(of: Rows, metric: str, label: str, path: Path, floor: float | None) -> None:
    """A panel for each w, a line for each method."""
    figure = Figure(figsize=(3.1 * len(of.guidance), 3.4), dpi=100)
    axes = figure.subplots(1, len(of.guidance), sharey=True, squeeze=False)[0]
    for axis, w in zip(axes, of.guidance, strict=True):
        for method, style in DRAWN.items():
            found = [(row["evaluations"], row[metric]) for row in of.of(method, w) if row.get(metric)]
            if found:
                axis.plot(*zip(*found, strict=True), style["fmt"], color=style["color"], label=method, markersize=5)
        if floor is not None:
            axis.axhline(max(floor, 1e-4), color="grey", linestyle=":", label="the data's own")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set(title=f"w = {w:g}", xlabel="evaluations")
        axis.set_xticks([1, 2, 4, 8, 16, 32, 128, 256], [1, 2, 4, 8, 16, 32, 128, 256])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(label)
    handles = {name: line for axis in axes for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, facecolor="white")


def front(of: Rows, floor: dict, path: Path) -> None:
    """Kernel distance against recall, w rising along each line."""
    figure = Figure(figsize=(6.4, 4.2), dpi=100)
    axis = figure.subplots()
    lines = {f"teacher, {2 * of.teacher_steps} evaluations": [of.teacher(w) for w in of.guidance]}
    for n in sorted({row["steps"] for row in of.all if row["method"] == "student"}, reverse=True):
        lines[f"student, {n}"] = [of.get("student", n, w) for w in of.guidance]
    lines["DPM-Solver++ on the teacher, 8"] = [of.get("DPM-Solver++ on the teacher", 4, w) for w in of.guidance]
    for label, found in lines.items():
        points = [(row["recall"], row[QUALITY], row["guidance"]) for row in found if row]
        if points:
            style = {"teacher": "k*--", "DPM": "^--"}.get(label.split(",")[0].split("-")[0], "o-")
            axis.plot([x for x, _, _ in points], [y for _, y, _ in points], style, label=label, markersize=5)
            for x, y, w in points:
                axis.annotate(f"{w:g}", (x, y), (3, 3), textcoords="offset points", fontsize=7, color="grey")
    axis.set_yscale("log")
    axis.set(xlabel="recall", ylabel="kernel distance to the data")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, facecolor="white")
