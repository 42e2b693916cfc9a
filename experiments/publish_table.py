"""docs/results/NAME.md of a table: its targets, costs, plots, rows and sheets, from the directories of its runs."""

import importlib
import itertools
import json
import math
import shutil
from pathlib import Path

from experiments import tables
from experiments.results import DOCS, devices, markdown, read, readme, spent, write_rows
from experiments.table_plots import PAIRED, QUALITY, Rows, front, paired, quality

FLOOR = "half of the data"
COLUMNS = (
    "method",
    "steps",
    "evaluations",
    "kernel_distance",
    "kernel_distance_error",
    "frechet_distance",
    "kernel_to_teacher",
    "frechet_to_teacher",
    "paired_distance",
    "precision",
    "recall",
    "class_variance",
)


def write(directories: list[Path]) -> None:
    """The page, its pictures, and DIR's rows as docs/results/DIR.json, from which others can go on."""
    name = read(directories[0])[1]["settings"]["table"]
    lines = [HEADER.format(name=name, stem=directories[0].name)]
    for directory in directories:
        lines += choice(directory) if "choice" in read(directory)[1]["settings"] else part(directory)
    lines += [CLOSING.get(name, "")]
    (DOCS / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n")


def part(directory: Path) -> list[str]:
    """One budget."""
    rows, hardware = read(directory)
    of, stem, settings = Rows(rows), directory.name, hardware["settings"]
    write_rows(directory, DOCS / f"{stem}.json")
    table, planned = plan(settings)
    floor = next(row for row in of.all if row["method"] == FLOOR)
    asked = markdown(targets(of), ("target", "asked", "measured", "met"))
    lines = [f"## {table.title}", "", about(directory, of, settings), "", f"Trained on {spent(hardware)}.", ""]
    lines += missing(of, tables.rows(table, planned))
    lines += ["### Asked beforehand", "", TARGETS, "", asked, ""]
    lines += ["### What training costs, and when it is paid back", "", COSTS, "", costs(planned, hardware, of), ""]
    lines += ["### Quality against evaluations", ""]
    for name, (draw, text) in PLOTS.items():
        draw(of, floor, DOCS / f"{stem}_{name}.png")
        lines += [f"![{name}]({stem}_{name}.png)", "", text, ""]
    headline(of, stem)
    return lines + all_rows(directory, of, floor)


def about(directory: Path, of: Rows, settings: dict) -> str:
    """What all rows share."""
    manifest = json.loads((directory / "teacher" / "manifest.json").read_text())
    return ABOUT.format(
        data=" ".join(f"{k}={v}" for k, v in manifest["data"].items()),
        commits=", ".join(sorted({str(row.get("commit"))[:12] for row in of.all})),
        devices=devices(of.all),
        steps=of.teacher_steps,
        reference=settings["num_reference"] or "all",
        half=settings["num"] // 2,
        seeds=", ".join(map(str, of.seeds)),
        **{key: settings[key] for key in ("num", "features", "split")},
    )


def missing(of: Rows, planned: list[tables.Row]) -> list[str]:
    """What is planned and not measured yet, if anything."""
    lacking: dict[str, set[float]] = {}
    for row in planned:
        if of.get(row.method, row.steps, row.guidance) is None:
            lacking.setdefault(row.method, set()).add(row.guidance)
    if not lacking:
        return []
    told = (f"{method} (w = {', '.join(f'{w:g}' for w in sorted(found))})" for method, found in lacking.items())
    return [f"Not measured yet: {'; '.join(told)}.", ""]


def all_rows(directory: Path, of: Rows, floor: dict) -> list[str]:
    """The floor, the teacher at more steps, then a table and a sheet for each w."""
    columns = ("method", "num", "num_reference", *COLUMNS[3:6], *COLUMNS[9:])
    lines = ["### All rows", "", "Floor:", "", markdown([floor], columns), ""]
    more = [row for row in of.all if row["method"].startswith("teacher, ")]
    if more:
        found = markdown(more, (*COLUMNS[:3], "guidance", *COLUMNS[3:]))
        lines += ["The teacher at more steps, on fewer samples:", "", found, ""]
    for w in of.guidance:
        here = [row for row in of.all if row["guidance"] == w and row is not floor and row not in more]
        here.sort(key=lambda row: (row["method"] != "teacher", row["method"], -row["steps"]))
        lines += [f"#### w = {w:g}", "", markdown(here, COLUMNS), ""]
        sheet = directory / f"sheet_w{w:g}.png"
        if sheet.is_file():
            shutil.copy(sheet, DOCS / f"{directory.name}_w{w:g}.png")
            lines += [f"![w = {w:g}]({directory.name}_w{w:g}.png)", ""]
    return lines


def choice(directory: Path) -> list[str]:
    """How the network was chosen."""
    rows, hardware = read(directory)
    settings = hardware["settings"]
    about = CHOICE.format(num=settings["num"], reference=settings["num_reference"])
    columns = ("network", "updates", "guidance", "kernel_distance", "kernel_distance_error", "frechet_distance")
    shown = [{**row, "network": row["method"]} for row in rows]
    return [
        "## How the teacher was chosen",
        "",
        about,
        "",
        markdown(shown, (*columns, "recall")),
        "",
        f"On {spent(hardware)}.",
        "",
    ]


def plan(settings: dict) -> tuple[tables.Table, list[tables.Training]]:
    """The table of a directory's settings, and its trainings."""
    module = importlib.import_module(f"experiments.{settings['table']}")
    table = module.CPU if settings["argument"] == "cpu" else module.TABLE
    return table, tables.trainings(table, settings["argument"])


def targets(of: Rows) -> list[dict]:
    """What was asked of the table before it was run, and what came out."""
    out = []

    def add(target: str, asked: str, measured: str, met: bool) -> None:
        out.append({"target": target, "asked": asked, "measured": measured, "met": "yes" if met else "no"})

    for w in of.guidance:
        values = [row[PAIRED] for row in of.of("student", w)]
        falls = all(a > b for a, b in itertools.pairwise(values))
        add(f"paired distance, w = {w:g}", "falls with steps", " > ".join(f"{v:.3g}" for v in values), falls)
    for w in of.guidance:
        teacher, row = of.teacher(w), of.get("student", 8, w)
        if teacher and row:
            ratio = row["frechet_to_teacher"] / teacher["frechet_to_teacher"]
            add(f"8 steps, FD to the teacher, w = {w:g}", "<= 1.5 x the floor", f"{ratio:.3g} x", ratio <= 1.5)
    for w in of.guidance:
        teacher, row = of.teacher(w), of.get("student", 4, w)
        if teacher and row:
            error = math.hypot(row["kernel_distance_error"], 1.25 * teacher["kernel_distance_error"])
            limit = 1.25 * teacher[QUALITY] + 2 * error
            asked = f"<= 1.25 x the teacher's + 2 errors, {limit:.3g}" if w else "reported"
            add(f"4 steps, KD to the data, w = {w:g}", asked, f"{row[QUALITY]:.3g}", row[QUALITY] <= limit)
    row, solver = of.get("student", 1, 1.0), of.get("DPM-Solver++ on the teacher", 4, 1.0)
    if row and solver:
        add(
            "1 step, paired distance, w = 1",
            f"< DPM-Solver++ with 8 evaluations, {solver[PAIRED]:.3g}",
            f"{row[PAIRED]:.3g}",
            row[PAIRED] < solver[PAIRED],
        )
    more = sorted((r for r in of.all if r["method"].startswith("teacher, ")), key=lambda r: r["steps"])
    if len(more) == 2:
        gain, error = more[0][QUALITY] - more[1][QUALITY], math.hypot(*(r["kernel_distance_error"] for r in more))
        asked = f"KD gains < 2 errors, {2 * error:.3g}"
        add(f"teacher, {more[1]['steps']} steps instead of {more[0]['steps']}", asked, f"{gain:.3g}", gain < 2 * error)
    return out


def costs(planned: list[tables.Training], hardware: dict, of: Rows) -> str:
    """A row for each training that was run, and for each number of steps when it is paid back."""
    there = {training.name: training for training in planned if training.name in hardware["seconds"]}
    work = {name: training.examples * training.forwards for name, training in there.items()}
    rows = [
        {
            "run": name,
            "examples": f"{training.examples:,}",
            "evaluations' worth": f"{work[name] / 1e6:.3g} M",
            "minutes": f"{hardware['seconds'][name] / 60:.1f}",
        }
        for name, training in there.items()
    ]
    lines = [markdown(rows, ("run", "examples", "evaluations' worth", "minutes")), ""]
    distilled, each = work.get("matched", 0) + work.get("student", 0), 2 * of.teacher_steps
    back = [
        {
            "steps": row["steps"],
            "instead of": f"{each} evaluations",
            "images": f"{math.ceil(distilled / (each - row['steps'])):,}",
        }
        for row in of.of("student", of.guidance[0])
    ]
    return "\n".join([*lines, markdown(back, ("steps", "instead of", "images"))])


def headline(of: Rows, stem: str) -> None:
    """The README's table: w = 1, few rows; and its grid."""
    w = 1.0
    asked = [("teacher", of.teacher_steps), ("matched", of.teacher_steps)]
    asked += [("student", n) for n in (16, 8, 4, 2, 1)]
    asked += [("DPM-Solver++ on the teacher", n) for n in (8, 4, 2)] + [("DDIM on the teacher", n) for n in (8, 4, 2)]
    found = [row for row in (of.get(*key, w) for key in asked) if row]
    columns = (
        "method",
        "steps",
        "evaluations",
        "kernel_distance",
        "kernel_distance_error",
        "recall",
        "paired_distance",
    )
    picture = f"\n\n![From the same noise, w = 1](docs/results/{stem}_w1.png)"
    readme(DOCS, "fashion_mnist", markdown(found, columns) + picture)


HEADER = """# {name}: the paper's table

Made by `python -m experiments.publish table` from the runs of its experiment; no number of its tables and plots is
typed by hand. The rows are also in `{stem}.json`, from which another machine can go on (`--rows`).
"""

ABOUT = """Data: {data}. {num} samples a row, all from the same noise (seeds {seeds}), classes in turn, against
{reference} images of the {split} split. Features: {features}, so distances are KD and FD of those features, not KID and
FID; with so few samples the Fréchet distance is mostly bias, and the kernel distance, which has none, comes first. "to
teacher" is the distance to the teacher's samples of {steps} steps from other noise: halves of {half}, crosswise, so
that the teacher's own row is the floor. `paired distance` is to the teacher's sample from the same noise. `class
variance` is relative to the data's. Sheets leave DPM-Solver++ of 2 steps and of 1 out, which are DDIM's. Commit
{commits}; rows made on {devices}. Times are as they came, on a machine with other work to do."""

CHOICE = """For the small budget: U-Nets of these channels and multipliers, one residual block a level, each trained
for as many updates as fit about the same minutes; {num} samples of 32 x 2 evaluations against {reference} test images.
The narrow one with the wide lowest level is nearer to the data than the broadest at w = 1, else within its error of
the others, and the cheapest to sample. (A fourth, on patches of 2 x 2 pixels, was worse; its code is gone.) How many
steps the teacher needs is in the rows above: what its 128 lack to 1,024."""

TARGETS = """Set before the run. With as few samples as here the kernel distance, its error beside it, stands in the
Fréchet distance's place; the error is over subsets of samples, not over trainings."""

COSTS = """Work in evaluations of the network for one example, a backward pass being two. Images: how many have to be
drawn until stage one and stage two together have been saved, by evaluations."""

PLOTS = {
    "quality": (quality, "Kernel distance to the test images against evaluations of the network, a panel for each w."),
    "paired": (paired, "Distance to the teacher's sample from the same noise, in the same units at all w."),
    "front": (front, "Kernel distance against recall; along each line w rises, as the small numbers say."),
}

CLOSING = {
    "fashion_mnist": """## What agrees with the paper, and what does not

It agrees that one network for all w stands in for the guided teacher at half its evaluations, that students of 16 and 8
steps are about as good as the teacher's 256 evaluations and those of 4 nearly so, and that at equal evaluations nothing
that a user would take instead comes near where steps are few or w is large. (At w = 0 and 0.3, DPM-Solver++ of 16
steps, 32 evaluations, is nearer to the data than teacher and deterministic students, though not to the teacher's
sample; at w = 0 so is that of 8 steps, at the 16 evaluations of the largest student.) In the paper students of 4 steps
are as good as the teacher; here that holds at w = 4, and else within the errors: without the two errors that the target
allows, 1.25 times the teacher's distance is passed at w = 0.3 and 1 (1.4 times), and just met at w = 2. With 2 steps
and 1 the kernel distance rises, most at w = 0 and 1.

What one network for all w costs: at w = 1 little, a student for that w alone being a little nearer to the teacher and
to the data at every number of steps. At w = 0, the edge of the range, more: the unguided teacher's own student, which
has no stage one behind it and all updates for one w, is nearer to the data at every number of steps and, with 16 and 8,
much nearer to the teacher's samples.

Stochastic students are nearer to the data than deterministic ones from 8 steps on at w = 0 and 0.3, and there nearer
than the teacher. With 4 steps and fewer, or larger w, they are further from it. They do not end in the teacher's sample
from the same noise, nor are they meant to.

The settings are not all the paper's: losses are divided by a power of 1 + w, and half of stage two's draws are at the
last step. Before, the 4-step student had 0.0170 at w = 1, and at w = 4 the Fréchet distance of 8 steps to the teacher
was 1.81 times the floor, so both targets were missed. What was found then: students lose what they lose in their last
step, whose x is the sample (in dark places it was noise of a few grey levels of 255 where the data have exactly 0); and
at w = 4 neither stage one (1,400 updates) nor the start of stage two (32 steps) was near enough to the teacher. How
that was seen, and what each remedy bought, is in [your data](../your-data.md).

## Is it the same again?

The teacher was trained twice from seed 0, on an Intel Xeon and, for the students above, on an AMD EPYC. Weights are not
equal bit for bit, but all rows of the teacher, DDIM and DPM-Solver++ that were measured again (w = 1 in 1, 2, 4 and 128
steps, w = 4 in 128) agree to five digits, so those of the first were kept. The whole chain of [digits](digits.md) was
trained on both from seed 0: of all rows of teacher, stage one and students, the largest difference is 0.7 % of the
Fréchet distance and 0.2 % of the paired distance, both in one step. Stage one and the students of this table were
trained again on the EPYC, from seed 0 and the same teacher: the rows of both that were measured again (w = 1 in 128,
1, 2 and 4 steps) agree to five digits in all distances, and to 0.0007 of themselves in precision and recall. From
another seed the chain has not been trained: errors are over subsets of samples, not over trainings.
"""
}
