"""The digits chain swept over steps and w: fronts, recommended w, presets, and what it all costs.

    python -m experiments.digits_sweep --workdir=DIR [--out=DIR/sweep] [--publish]    (2 CPU cores, about half an hour)

DIR is that of `python -m experiments.digits`: its students of 1 to 16 steps, and stage one in 64 steps as what they are
held against; 1,000 samples a row, seeds 0, 1, 2, raw pixels, all 1,797 images. Run again, it goes on where it stopped.
--publish writes docs/results/digits_sweep.md and its plots. --tiny: seconds, 24 samples at two w.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guided_distill import costs, files, launch, presets, sweeps
from guided_distill.checkpoint import Checkpoints, fingerprint
from guided_distill.report import chain, fronts
from guided_distill.report.rows import show

DOCS = Path(__file__).parents[1] / "docs" / "results"
GUIDANCE = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
STEPS = {"student": (1, 2, 4, 8, 16), "matched": (64,)}
SEEDS = {"student": (0, 1, 2), "matched": (0,)}
HEADER = """# Digits: a sweep over steps and w

Made by `python -m experiments.digits_sweep --publish` from the chain of `python -m experiments.digits`; no number is
typed by hand. The rules behind presets and ranges are in [presets.md](../presets.md).

{num:,} samples a row from seeds {seeds}, classes in turn, against {num_reference:,} of {num_available:,} images of
{reference}; FD-{features}, not FID. Numbers are means over seeds, ± their standard deviation. Images of the data score
{floor:.3g} ({floor_num} against {floor_rest} others: fewer, so more), and {saturation:.1%} of their pixels are at an
end of the range.
{words}

On {device}, beside other work: milliseconds are medians over seeds and w, and rough.
"""
WORDS = """64 steps are stage one's, of seed 0 alone; all others are students. On raw pixels the Fréchet distance is
best without guidance, and so are the presets: it sees the diversity that w costs, and not the clarity that w buys.
Whoever wants guided samples sweeps the w that they mean: the second table is what that gives."""


def main() -> None:
    """Sweeps what does not stand yet; with --publish, writes the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="of experiments.digits; it is only read")
    parser.add_argument("--out", type=Path, help="where sweeps and costs go (default: WORKDIR/sweep)")
    parser.add_argument("--publish", action="store_true", help="write docs/results/digits_sweep.md and its plots")
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes: shows that everything runs")
    args = parser.parse_args()
    launch.prepare_process()
    out = args.out or args.workdir / "sweep"
    # Before anything else opens the accelerator: costs are measured in processes of their own.
    spent = cost(args.workdir / "student", out, batch_size=4 if args.tiny else 256)
    documents = {}
    for name, steps in STEPS.items():
        options = {"steps": steps, "guidance": GUIDANCE, "num": 1000, "seeds": SEEDS[name]}
        if args.tiny:
            options = {"steps": steps[:1] if name == "student" else (4,), "guidance": (0.0, 1.0), "num": 24}
        documents[name] = sweeps.run(args.workdir / name, out / name, say=launch.say, **options)
    if args.publish:
        print(f"-> {publish(out, documents, spent)}")


def cost(student: Path, out: Path, batch_size: int) -> Mapping[str, list]:
    """What `costs.of_runs` finds, kept in `out`/costs.json as long as the student's checkpoint is the same."""
    path, hash_ = out / "costs.json", fingerprint(student, Checkpoints(student).latest() or 0)
    known = chain.read_json(path) or {}
    if known.get("hash") != hash_:
        known = {"hash": hash_, "costs": costs.of_runs([student], batch_size=batch_size)}
        (out / student.name).mkdir(parents=True, exist_ok=True)
        costs.section(out / student.name, known["costs"])
        files.write_json(path, known)
    return known["costs"]


def publish(out: Path, documents: Mapping[str, Mapping[str, Any]], spent: Mapping[str, list]) -> Path:
    """Writes the document and its plots."""
    swept = {name: json.loads((out / name / "sweep.json").read_text()) for name in documents}
    found = [cell for name in swept for cell in presets.cells(swept[name]["rows"])]
    floor, settings = swept["student"]["floor"], documents["student"]["settings"]
    seeds = sorted({row["seed"] for row in swept["student"]["rows"]})
    about = {key: settings[key] for key in ("num", "num_reference", "num_available", "reference", "features")}
    about |= {"floor": floor[presets.QUALITY], "floor_num": floor["num"], "floor_rest": floor["num_reference"]}
    about |= {"saturation": floor["data_saturation"], "device": fronts.devices(found), "words": WORDS}
    lines = [HEADER.format(seeds=", ".join(map(str, seeds)), **about)]
    both = {**documents["student"], "ranges": [r for document in documents.values() for r in document["ranges"]]}
    of_presets, ranges, cells = fronts.tables(found, both)
    own = [cell for cell in found if cell["steps"] in STEPS["student"] and cell["guidance"] >= 1]
    guided, *_ = fronts.tables(own, presets.describe(own, settings, ()))
    lines += [section(of_presets), section({**guided, "title": "Presets among w of 1 and more"}), section(ranges)]
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, (heading, drawn, options) in fronts.plots(found).items():
        fronts.save(DOCS / f"digits_sweep_{name}.png", drawn, **options)
        lines += [f"## {heading}\n", f"![{heading}](digits_sweep_{name}.png)\n"]
    lines += [section(cells), "## What it costs\n", COSTS]
    for title, rows in spent.items():
        if rows:
            table = {"title": title.capitalize(), "columns": list(rows[0]), "rows": [*map(dict.values, rows)]}
            lines.append(section(table, "###"))
    path = DOCS / "digits_sweep.md"
    path.write_text("\n".join(lines))
    return path


COSTS = """`python -m guided_distill costs` of the student: FLOPs are counted; seconds an image in batches of 256;
first: to the first image of these steps, their weights read and their program compiled; a run's first row is also the
first image of a new process, the others follow it there; next: one image more. Paybacks: after so many images the
distillation up to these steps has cost less than it saved against the teacher in 64 steps.
"""


def section(table: Mapping[str, Any], level: str = "##") -> str:
    """A heading and a table in Markdown."""
    rows = [[name.replace("_", " ") for name in table["columns"]], ["---"] * len(table["columns"])]
    rows += [[show(cell) for cell in row] for row in table["rows"]]
    return "\n".join([f"{level} {table['title']}\n", *("| " + " | ".join(row) + " |" for row in rows), ""])


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
