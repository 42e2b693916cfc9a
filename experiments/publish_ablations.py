"""docs/results/ablations.md: means over seeds of every variant, from the directories of `experiments.ablations`, and
their rows as ablations_<bed>.json, from which others can go on."""

from pathlib import Path
from statistics import fmean, stdev

from experiments.results import DOCS, devices, markdown, read, write_rows

METHOD = "the method"
METRICS = {"mixture2d": ("distance",), "digits": ("paired_distance", "frechet_distance")}


def write(directories: list[Path]) -> None:
    """The page, a part for each directory."""
    lines = [HEADER]
    for directory in directories:
        rows, hardware = read(directory)
        bed = hardware["settings"]["on"]
        write_rows(directory, DOCS / f"ablations_{bed}.json")
        seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
        commits = ", ".join(sorted({str(row.get("commit"))[:12] for row in rows}))
        lines += [f"## On {bed}", "", f"{ABOUT[bed]} Seeds {seeds}; commit {commits}. On {total(rows, hardware)}.", ""]
        for metric in METRICS[bed]:
            lines += [f"### {metric.replace('_', ' ')}", ""]
            for steps in sorted({row["steps"] for row in rows}):
                found = table([row for row in rows if row["steps"] == steps], metric)
                lines += [f"{steps} step{'s' if steps > 1 else ''}:", "", found, ""]
    (DOCS / "ablations.md").write_text("\n".join(lines).rstrip() + "\n")


def total(rows: list[dict], hardware: dict) -> str:
    """Where, and hours of training altogether, if all of it was here."""
    if any(row.get("taken") for row in rows):
        return devices(rows)
    return f"{devices(rows)}; {sum(hardware['seconds'].values()) / 3600:.1f} hours of training"


def table(rows: list[dict], metric: str) -> str:
    """Variants down, w across: mean ± deviation over seeds, and times the method's mean."""
    strengths = sorted({row["guidance"] for row in rows})
    cells: dict[tuple, dict[int, float]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["guidance"]), {})[row["seed"]] = row[metric]
    most = max(len(of) for of in cells.values())
    questions = {row["method"]: row["question"] for row in rows}
    names = sorted(
        questions, key=lambda name: (name != METHOD, list(dict.fromkeys(questions.values())).index(questions[name]))
    )
    out = []
    for name in names:
        line = {"question": questions[name], "variant": name}
        for w in strengths:
            if (name, w) in cells:
                line[f"w = {w:g}"] = cell(cells[name, w], cells.get((METHOD, w), {}) if name != METHOD else {}, most)
        out.append(line)
    return markdown(out, ("question", "variant", *(f"w = {w:g}" for w in strengths)))


def cell(values: dict[int, float], own: dict[int, float], most: int) -> str:
    """mean ± deviation over seeds (and their number where others have the `most`), and times the method's `own` mean
    of the same seeds."""
    shared = [seed for seed in values if seed in own]
    out = f"{fmean(values.values()):.3g}"
    out += f" ± {stdev(values.values()):.2g}" if len(values) > 1 else ""
    out += f", {len(values)} of {most} seeds" if len(values) < most else ""
    if not shared:
        return out
    ratio = fmean(values[seed] for seed in shared) / fmean(own[seed] for seed in shared)
    return out + (f" ({ratio:.0f} x)" if ratio >= 100 else f" ({ratio:.2g} x)")


HEADER = """# What the method rests on

Made by `python -m experiments.publish ablations` from the `results.json` of `python -m experiments.ablations`; no
number is typed by hand; the rows are also in `ablations_<bed>.json`, from which another machine can go on (`--rows`).
One part at a time is changed or taken away; all the rest is as in "the method". Means over seeds ± their standard
deviation, and in brackets how many times the method's own mean. The mixture's teacher is its exact denoiser: a student
starts from scratch there. What follows from it for a data set of your own is in [your data](../your-data.md).
"""

ABOUT = {
    "mixture2d": "Mean distance to the end of the exact guided flow from the same noise, over 2,048 samples.",
    "digits": "500 samples: the distance to the (variant's own) teacher's 64-step sample from the same noise, and the "
    "Fréchet distance to the 1,797 images on raw pixels.",
}
