"""Turns results.json of finished experiments into docs/results: tables, plots and pictures. No number in a table is
typed by hand.

python -m experiments.publish mixture2d DIR [DIR ...]
python -m experiments.publish digits DIR
python -m experiments.publish table DIR [DIR ...]             a directory for each budget, of one data set
python -m experiments.publish ablations DIR [DIR ...]         a directory for each test bed
python -m experiments.publish emoji DIR
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from matplotlib.figure import Figure

from experiments import publish_ablations, publish_emoji, publish_table
from experiments.digits import END_ONLY
from experiments.results import DOCS, markdown, read, readme, spent
from guided_distill import launch


def settings(directory: Path) -> dict:
    """Modes and sigma of a mixture2d directory, from its teacher's manifest."""
    return json.loads((directory / "teacher" / "manifest.json").read_text())["data"]


def mixture2d(directories: list[Path]) -> None:
    """docs/results/mixture2d.md and its plot."""
    lines = [MIXTURE_HEADER]
    lines += ["## Deterministic students, all variants", ""]
    summary = []
    for directory in directories:
        rows, _ = read(directory)
        of = settings(directory)
        for row in rows:
            if row["method"] == "student" and row["steps"] in (1, 4):
                ratio = row["distance"] / row["ddim_distance"]
                variant = {"modes": of["modes_layout"], "sigma": of["sigma"]}
                summary.append({**variant, **row, "distance / ddim": ratio})
    columns = ("modes", "sigma", "seed", "guidance", "steps", "distance", "ddim_distance", "distance / ddim")
    lines += [
        markdown(
            sorted(summary, key=lambda r: (r["modes"], r["sigma"], r["seed"], r["guidance"], r["steps"])), columns
        ),
        "",
    ]
    for directory in directories:
        rows, hardware = read(directory)
        of, seed = settings(directory), rows[0]["seed"]
        lines += [
            f"## {of['modes_layout']}, sigma {of['sigma']}, seed {seed}: every row",
            "",
            f"On {spent(hardware)}.",
            "",
        ]
        shown = [row for row in rows if row["method"] != "exact"]
        names = ("method", "sampler", "steps", "evaluations", "guidance", "distance", "ddim_distance")
        lines += [markdown([row for row in shown if "distance" in row], names), ""]
        if any("energy_distance" in row for row in shown):
            names = (
                "method",
                "sampler",
                "steps",
                "evaluations",
                "guidance",
                "energy_distance",
                "exact_energy_distance",
            )
            lines += [markdown([row for row in shown if "energy_distance" in row], names), ""]
    (DOCS / "mixture2d.md").write_text("\n".join(lines))
    rows, _ = read(directories[0])
    plot_mixture(rows, DOCS / "mixture2d.png")
    shown = [row for row in rows if row["method"] == "student" and row["steps"] in (1, 4)]
    readme(DOCS, "mixture2d", markdown(shown, ("steps", "guidance", "distance", "ddim_distance")))


def plot_mixture(rows: list[dict], path: Path) -> None:
    """Distance to the exact flow against steps, students and DDIM, one panel a w."""
    strengths = sorted({row["guidance"] for row in rows if row["method"] == "student"})
    figure = Figure(figsize=(3.6 * len(strengths), 3.2), dpi=110)
    axes = figure.subplots(1, len(strengths), sharey=True, squeeze=False)[0]
    for axis, w in zip(axes, strengths, strict=True):
        for method, label, style in (("exact", "DDIM, exact denoiser", "o--"), ("student", "student", "o-")):
            found = sorted(
                (r["steps"], r["distance"])
                for r in rows
                if r["method"] == method and r["guidance"] == w and "distance" in r
            )
            axis.loglog(*zip(*found, strict=True), style, label=label)
        axis.set(title=f"w = {w:g}", xlabel="steps")
        axis.set_xticks([1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 8, 16, 32, 64])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean distance to the exact guided flow")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, facecolor="white")


def digits(directories: list[Path]) -> None:
    """docs/results/digits.md and its sheets."""
    (directory,) = directories
    rows, hardware = read(directory)
    teacher = {row["guidance"]: row["frechet_distance"] for row in rows if row["method"] == "teacher"}
    for row in rows:
        if row["method"] not in ("teacher", "half of the data"):
            row["x teacher"] = row["frechet_distance"] / teacher[row["guidance"]]
    names = (
        "method",
        "steps",
        "evaluations",
        "frechet_distance",
        "x teacher",
        "precision",
        "recall",
        "class_variance",
        "paired_distance",
    )
    lines = [DIGITS_HEADER.format(seed=rows[0]["seed"]), f"On {spent(hardware)}.", ""]
    lines += ["Floor:", "", markdown([row for row in rows if row["method"] == "half of the data"], names), ""]
    lines += ["## Targets", "", TARGETS, "", markdown(targets(rows), ("target", "at most", "measured", "met")), ""]
    order = ["teacher", END_ONLY, "matched", "student", "DDIM on the teacher"]
    for w in sorted(teacher):
        here = [row for row in rows if row["guidance"] == w and row["method"] in order]
        here.sort(key=lambda r: (order.index(r["method"]), -r["steps"]))
        shutil.copy(directory / f"sheet_w{w:g}.png", DOCS / f"digits_w{w:g}.png")
        lines += [f"## w = {w:g}", "", markdown(here, names), "", f"![w = {w:g}](digits_w{w:g}.png)", ""]
    (DOCS / "digits.md").write_text("\n".join(lines))
    order.remove(END_ONLY)
    shown = [row for row in rows if row["method"] in order and row["guidance"] == 1 and row["steps"] in (1, 4, 64)]
    shown.sort(key=lambda r: (order.index(r["method"]), -r["steps"]))
    readme(
        DOCS,
        "digits",
        markdown(shown, ("method", "steps", "evaluations", "frechet_distance", "recall", "paired_distance")),
    )


def targets(rows: list[dict]) -> list[dict]:
    """What was asked of the chain before it was run, and what came out."""
    of = {(row["method"], row["steps"], row["guidance"]): row for row in rows}
    teacher = {w: of["teacher", 64, w] for w in (0.0, 1.0, 4.0)}
    asked = [(f"teacher, w = {w:g}", limit, teacher[w]["frechet_distance"]) for w, limit in ((0.0, 0.25), (1.0, 0.75))]
    for n, factor in ((4, 1.10), (1, 1.20)):
        for w in (0.0, 1.0, 4.0):
            row, best = of["student", n, w], teacher[w]["frechet_distance"]
            limit = factor * best if w else max(1.25 * best, 0.30)
            asked.append((f"{n}-step student, w = {w:g}", limit, row["frechet_distance"]))
            for name in ("recall", "class_variance"):
                gap = abs(row[name] / teacher[w][name] - 1)
                asked.append((f"{n}-step student, w = {w:g}: {name} against the teacher's", 0.10, gap))
    names = ("target", "at most", "measured", "met")
    return [dict(zip(names, (*item, "yes" if item[2] <= item[1] else "no"), strict=True)) for item in asked]


TARGETS = """Set before the run; for recall and class variance the measured number is the relative gap. At w = 4
the teacher's samples depend on clipping its prediction at every step, and stage two is trained without clipping, as
the paper does: "teacher, clipped at its end only" is the flow that it can learn, and what its 1-step student is to be
held against there."""

MIXTURE_HEADER = """# The oracle: a 2-D mixture whose guided flow is exact

Made by `python -m experiments.publish mixture2d` from the `results.json` of `python -m experiments.mixture2d`; no
number is typed by hand.

Eight modes on the unit circle, four classes. The teacher is the exact denoiser of the mixture, guided with w.
`distance` is the mean Euclidean distance, over 4,096 samples, from a network's sample to the end of the exact
guided probability flow (Heun, 2,048 steps) from the same noise; `ddim distance` is that of DDIM with the exact
guided denoiser, which costs two evaluations a step, at equal steps. "matched" is the network of stage one;
"student" the w-conditioned chain of stage two, each with its own round's weights. Stochastic students do not end
where the flow does: their `energy distance` to exact guided samples of other noise stands beside that of the exact
denoiser's stochastic sampler. The encoder's distances are to where the exact flow takes the same data. Spread:
single runs, as they came; the energy distance of equal distributions is 0 on average.

![Distance to the exact flow](mixture2d.png)
"""

DIGITS_HEADER = """# Digits: a teacher distilled to one step

Made by `python -m experiments.publish digits` from the `results.json` of `python -m experiments.digits`; no number
is typed by hand.

1,000 samples a row, all from the same noise (seed {seed}), classes in turn, against all 1,797 images of
scikit-learn's digits, which are also the training data; raw pixels in [-1, 1]. `frechet distance` is FD-pixels,
not FID. `class variance` is relative to the data's. `paired distance` is to the teacher's 64-step sample from the
same noise. Images are clipped to [-1, 1] at every step.
"""


PAGES = {
    "mixture2d": mixture2d,
    "digits": digits,
    "table": publish_table.write,
    "ablations": publish_ablations.write,
    "emoji": publish_emoji.write,
}


def main() -> None:
    """Writes docs/results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=PAGES)
    parser.add_argument("directories", type=Path, nargs="+")
    args = parser.parse_args()
    DOCS.mkdir(parents=True, exist_ok=True)
    PAGES[args.experiment](args.directories)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
