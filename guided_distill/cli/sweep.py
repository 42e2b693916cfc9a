"""Sweep a run over steps, w and samplers: its fronts, the recommended range of w, and presets for `sample`.

    python -m guided_distill sweep runs/digits_stage2 --guidance=0,0.5,1,2,4 --seeds=0,1,2
    python -m guided_distill sample runs/digits_stage2 --preset=fast

Run again, it goes on where it stopped: a row that stands in sweep.json is not computed again, and rows of other
settings (samples, features, reference, weights, teacher) are refused; they go to another --out. Writes sweep.json,
presets.json and a part of the run's report. The rules are in docs/presets.md.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from guided_distill import presets, sweeps
from guided_distill.cli import numbers
from guided_distill.launch import say
from guided_distill.plugins import names
from guided_distill.report import fronts
from guided_distill.report.rows import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `sweep`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", help="run directory")
    parser.add_argument("--steps", help="comma-separated (default: all that a halved chain has, else powers of two)")
    parser.add_argument("--guidance", help="w, comma-separated (default: 0,0.5,1,2,3,4 within the run's range)")
    parser.add_argument("--samplers", help="comma-separated (default: the run's own)")
    parser.add_argument("--num", type=int, default=1000, help="samples a row (default 1000)")
    parser.add_argument("--seeds", default="0", help="of the noise, a row each, comma-separated (default 0)")
    parser.add_argument("--features", default="pixels", help=f"{', '.join(names('features'))} (default pixels)")
    parser.add_argument("--weights", help="file of the feature network's weights (default: in the installed package)")
    parser.add_argument("--split", default="train", help="of the run's data set, to measure against (default train)")
    parser.add_argument("--num_reference", type=int, help="images of the split, drawn once (default: all)")
    parser.add_argument("--teacher", help="run directory of a teacher, for the paired distance")
    better = "share of the best by which quality and recall may be worse"
    parser.add_argument("--tolerance", type=float, default=presets.TOLERANCE, help=f"{better} (default 0.1)")
    beyond = "share of the pixels beyond the data's that may be at an end of their range"
    parser.add_argument("--saturation", type=float, default=presets.SATURATION, help=f"{beyond} (default 0.05)")
    parser.add_argument("--out", type=Path, help="directory for what it writes (default: RUN)")


def main(args: argparse.Namespace) -> None:
    """Sweeps, and prints the presets."""
    document = sweeps.run(
        args.run,
        args.out,
        steps=numbers(args.steps, int) if args.steps else None,
        guidance=numbers(args.guidance) if args.guidance else None,
        samplers=args.samplers.split(",") if args.samplers else None,
        seeds=numbers(args.seeds, int),
        say=say,
        **{
            name: getattr(args, name)
            for name in ("num", "features", "weights", "split", "num_reference", "teacher", "tolerance", "saturation")
        },
    )
    settings = document["settings"]
    table = Table(title=f"{args.run}: FD-{settings['features']}, {settings['num']} samples", title_justify="left")
    for name in ("preset", "steps", "sampler", "w", "range of w", "evaluations", "quality", "ms an image"):
        table.add_column(name)
    for name, preset in document["presets"].items():
        of = preset["quality"]
        cells = [preset["steps"], preset["sampler"], preset["guidance"], fronts.between(preset["w_range"])]
        cells += [preset["evaluations"], fronts.with_spread(of["value"], of["spread"])]
        table.add_row(name, *map(show, cells), f"{1e3 * preset['seconds_per_image']:.3g}")
    Console(width=None if Console().is_terminal else 120).print(table)
    print(f"-> {args.out or Path(args.run)}: sweep.json, presets.json, sections/sweep.json")
