"""docs/results/emoji.md: the text-to-image chain's targets, cost, rows and sheets, from the directory of its run."""

import json
import math
import shutil
from pathlib import Path

from experiments.emoji import SCALES, Scale
from experiments.results import DOCS, markdown, read, readme, spent, write_rows
from guided_distill.errors import UserError

COLUMNS = (
    "method",
    "steps",
    "evaluations",
    "kernel_distance",
    "kernel_distance_error",
    "r_precision",
    "held_out_r_precision",
    "frechet_distance",
    "held_out_kernel_distance",
    "held_out_frechet_distance",
    "kernel_to_teacher",
    "paired_distance",
)
METHODS = ("teacher", "matched", "student", "DPM-Solver++ on the teacher", "DDIM on the teacher")
FEW = 4
TWO_CORES = "emoji_faces32"  # The scale that was to be trained in HOUR minutes.
HOUR = 60


def write(directories: list[Path]) -> None:
    """The page, its pictures, and the README's table."""
    if len(directories) != 1:
        raise UserError(f"emoji is published from one directory, not {len(directories)}")
    (directory,) = directories
    rows, hardware = read(directory)
    if (name := hardware["settings"].get("scale")) not in SCALES:
        raise UserError(f"{directory} is of another experiment than emoji")
    scale = SCALES[name]
    write_rows(directory, DOCS / "emoji.json")
    of = {(row["method"], row["steps"], row["guidance"]): row for row in rows}
    real = next(row for row in rows if row["method"] == "real pictures")
    strengths = sorted({row["guidance"] for row in rows if row["method"] == "teacher"})
    lines = [HEADER, about(directory, hardware, rows), "", f"On {spent(hardware)}.", ""]
    lines += missing(of, scale)
    lines += ["## Asked beforehand", "", TARGETS, ""]
    asked = targets(of, strengths, scale.teacher_steps) + in_time(hardware)
    lines += [markdown(asked, ("target", "asked", "measured", "met")), ""]
    lines += [SPEED.format(**row, many=row["steps"]) for row in rows if row["method"] == "speed"] + [""]
    lines += autoencoder(directory)
    columns = ("r_precision", "held_out_r_precision", "kernel_distance", "frechet_distance")
    lines += ["## Real pictures", "", REAL, "", markdown([real], columns), ""]
    for kind in ("seen", "held_out"):
        lines += sheet(directory, kind, scale.guidance[0])
    for w in strengths:
        here = [row for row in rows if row["guidance"] == w and row["method"] in METHODS]
        here.sort(key=lambda row: (METHODS.index(row["method"]), -row["steps"]))
        lines += [f"## w = {w:g}", "", markdown(here, COLUMNS), ""]
    (DOCS / "emoji.md").write_text("\n".join([*lines, CLOSING]).rstrip() + "\n")
    headline(of, scale)


def about(directory: Path, hardware: dict, rows: list[dict]) -> str:
    """What all rows share."""
    settings, scale = hardware["settings"], SCALES[hardware["settings"]["scale"]]
    manifest = json.loads((directory / "teacher" / "manifest.json").read_text())
    return ABOUT.format(
        **settings,
        seen=scale.seen,
        repeats=scale.repeats,
        steps=scale.teacher_steps,
        shape="x".join(map(str, manifest["shape"])),
        code="x".join(map(str, manifest["code_shape"])),
        commits=", ".join(sorted({str(row.get("commit"))[:12] for row in rows})),
    )


def targets(of: dict[tuple, dict], strengths: list[float], many: int) -> list[dict]:
    """What was asked of the chain before it was run, and what came out."""
    out = []

    def add(target: str, asked: str, measured: float, met: bool) -> None:
        out.append({"target": target, "asked": asked, "measured": f"{measured:.3g}", "met": "yes" if met else "no"})

    for w in strengths:
        teacher, student = of.get(("teacher", many, w)), of.get(("student", FEW, w))
        if not (teacher and student):
            continue
        error = math.hypot(student["kernel_distance_error"], 1.15 * teacher["kernel_distance_error"])
        limit = 1.15 * teacher["kernel_distance"] + 2 * error
        value = student["kernel_distance"]
        asked = f"<= 1.15 x the teacher's {teacher['kernel_distance']:.3g} + 2 errors, {limit:.3g}"
        add(f"{FEW} steps, KD on seen pairs, w = {w:g}", asked, value, value <= limit)
    for w in strengths:
        teacher, student = of.get(("teacher", many, w)), of.get(("student", FEW, w))
        if teacher and student:
            asked, value = teacher["held_out_r_precision"], student["held_out_r_precision"]
            target = f"{FEW} steps, R-precision on held-out pairs, w = {w:g}"
            add(target, f"the teacher's, {asked:.3g}", value, value >= asked)
    for (method, *_), row in of.items():
        if method == "speed":
            limit = 0.8 * row["speed_up_of_evaluations"]
            target = f"{row['few_steps']} steps, how much faster than {many} x 2"
            asked = f">= 0.8 x ({2 * many} f + d) / ({row['few_steps']} f + d), {limit:.3g}"
            add(target, asked, row["speed_up"], row["speed_up"] >= limit)
    return out


def in_time(hardware: dict) -> list[dict]:
    """What was asked of the time that training takes on two cores."""
    if hardware["settings"]["scale"] != TWO_CORES:
        return []
    minutes = sum(hardware["seconds"].values()) / 60
    met = "yes" if minutes <= HOUR else "no"
    return [{"target": "minutes of training", "asked": f"<= {HOUR}", "measured": f"{minutes:.0f}", "met": met}]


def missing(of: dict[tuple, dict], scale: Scale) -> list[str]:
    """What is planned and not measured yet, if anything."""
    planned = [(method, scale.teacher_steps) for method in METHODS[:2]]
    planned += [(method, n) for method in METHODS[2:] for n in scale.steps]
    lacking: dict[str, set[float]] = {}
    for w in scale.guidance:
        for method, n in planned:
            if (method, n, w) not in of:
                lacking.setdefault(method, set()).add(w)
    told = (f"{method} (w = {', '.join(f'{w:g}' for w in sorted(found))})" for method, found in lacking.items())
    return [f"Not measured yet, or not for all steps: {'; '.join(told)}.", ""] if lacking else []


def autoencoder(directory: Path) -> list[str]:
    """How well it restores."""
    found = json.loads((directory / "autoencoder" / "measured.json").read_text())
    shutil.copy(directory / "autoencoder" / "restored.png", DOCS / "emoji_restored.png")
    return ["## The autoencoder", "", AUTOENCODER.format(**found), "", "![restored](emoji_restored.png)", ""]


def sheet(directory: Path, kind: str, w: float) -> list[str]:
    """Pictures of all methods from the same noise, and their captions."""
    path = directory / f"sheet_{kind}_w{w:g}.png"
    if not path.is_file():
        return []
    shutil.copy(path, DOCS / f"emoji_{kind}.png")
    captions = "; ".join(path.with_suffix(".txt").read_text().split("\n")).strip("; ")
    name = kind.replace("_", "-")
    return [f"## The same noise, {name} pairs, w = {w:g}", "", f"![{name}](emoji_{kind}.png)", "", f"{captions}.", ""]


def headline(of: dict[tuple, dict], scale: Scale) -> None:
    """The README's table, and its grid of pairs that were trained on."""
    w = scale.guidance[0]
    asked = [("teacher", scale.teacher_steps), ("matched", scale.teacher_steps)]
    asked += [("student", n) for n in scale.steps]
    asked += [("DPM-Solver++ on the teacher", n) for n in (8, FEW, 2)]
    found = [row for key in asked if (row := of.get((*key, w)))]
    picture = f"\n\n![Pairs that were trained on, from the same noise, w = {w:g}](docs/results/emoji_seen.png)"
    readme(DOCS, "emoji", markdown(found, COLUMNS[:7]) + picture)


HEADER = """# Emoji: captions to pictures, distilled to one step

Made by `python -m experiments.publish emoji` from the run of `python -m experiments.emoji`; no number of its
tables is typed by hand. All rows are in `emoji.json`.
"""

ABOUT = """Pictures of {shape}, codes of {code}, captions "name, style". Scale {scale}, seed {seed}; every row is of
samples from the same noise: {seen} captions that were trained on (or all there are), and those that were held out,
{repeats} times each. Features: {features}, so `kernel distance` is KD of those features, not KID; it is to all pictures
that were trained on, or were held out. `r precision`: how often a matcher, fitted on the real pairs that were trained
on, finds a picture's own caption among a hundred. `kernel to teacher` is to the teacher's samples of {steps} steps from
other noise, `paired distance` to its samples from the same noise. Commit {commits}. Times are as they came, on a
machine with other work to do."""

TARGETS = """Set before the run. The error is over subsets of samples, not over trainings; so few pictures are held out
that a share of them is known to a few hundredths only, and that Fréchet distances are mostly bias. f: seconds of one
evaluation, d: of one decoding; the speed is of whole images, caption to pixels, in batches."""

SPEED = """{num} pictures of {num_captions} captions, caption to pixels, take the teacher {teacher_seconds:.3g} seconds
in {many} steps and the student {student_seconds:.3g} in {few_steps}, of which reading captions takes
{reading_seconds:.2g} (which the speed asked for leaves out), an evaluation {evaluation_seconds:.2g} and decoding
{decoding_seconds:.2g}."""

AUTOENCODER = """Trained first, on the same pictures: mean absolute error {error:.3g} of pixels in [-1, 1], PSNR
{psnr:.1f} dB. Above the pictures, below what their codes are decoded to: the best that any row here can be."""

REAL = """What real pictures get: `r precision` of those that were trained on, by a matcher fitted on others of them (so
that samples, for which it knows all, may do better); of the held-out ones by the matcher that judges samples; distances
of one half of the former to the other."""

CLOSING = """## What came out

On pairs that were trained on, teacher and students down to one step draw the same pictures; with fewer steps fine lines
fray a little. At w = 1, 2 and 4 students of 4 steps and of 1 are far better than either solver on the teacher at twice
their evaluations. At w = 0 it is the other way round: plain DDIM on the teacher in 4 steps is as good as in
250, and better than any student. A caption has one drawing here, so without guidance there is little to choose between
on the way and hardly a curve to follow, and what is left of a student's error is its training's.

At w = 0 and 1 the student of 4 steps meets what was asked of its kernel distance, at w = 2 and 4 it misses it by 6
and 2 %. At w = 2 about a quarter of what is lost from the teacher to 4 steps is lost in stage one; the rest, in
about equal parts, in the rounds from 64 to 16 steps and from there to 4. At w = 0 nearly all is lost in stage one.

What was tried: with a quarter fewer updates of stage one and half of them in the rounds for 8 steps and below, kernel
distances of 4 steps were 3 to 6 % larger (w = 2: 0.0999 instead of what the table has). In the round from 32 to
16 steps alone, by distance to stage one's samples, twice the learning rate, half of the batch with twice the updates,
and fewer draws at the last step make no difference that can be told from none (2 %), and half of the updates are 9 %
worse. So these losses want several times the updates, or a larger network, and not another setting. From 32 steps
instead of 64 the rounds begin with an error as large as what a round costs: DDIM in 32 steps of stage one is 0.023 (w =
2) from that in 64, as a root mean square.

The speed falls short of what evaluations and decoding alone would give by what reading captions takes, and by the
teacher's two halves of guidance in one batch, which cost less than two evaluations.

On held-out pairs the thing is often right, in colours that fit, and often coarse, or a mixture of what stands near it:
already the teacher's, so it is not distilling that loses them. The matcher finds one in ten. 463 drawings that are
known by heart teach little about what a style does to a name; the full set, with six times as many, was not run.
"""
