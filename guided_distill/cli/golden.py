"""Hold runs against a frozen set of questions, and against the teacher's answers from the same noise.

    python -m guided_distill golden runs/digits_stage2 --make          # freezes runs/digits_teacher/golden_set.json
    python -m guided_distill golden runs/digits_stage2 --steps=4,1 --tolerance recall_loss=0.1

Teachers and stage one are found by the run's manifest and measured with it. Writes RUN/golden.json and a section for
RUN's report. Exit status: 0 when all is within tolerance, 1 when something is not (a table says what), 2 after a
mistake. A set that is frozen is never made anew. See docs/golden.md.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from guided_distill.cli import natural, numbers
from guided_distill.errors import UserError
from guided_distill.golden import checks, frozen, measure, verdict
from guided_distill.plugins import names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `golden`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--set", help=f"the frozen set (default: {frozen.FILE} in the first teacher's directory)")
    parser.add_argument("--make", action="store_true", help="freeze the set if there is none yet")
    parser.add_argument("--num", type=int, help=f"items of a set that is made (default {frozen.SIZE}; 200 to 500)")
    parser.add_argument("--steps", help="of the students, comma-separated (default: all that are trained)")
    rungs = "w of a set that is made, asked of one noise, comma-separated (default: 0, 1/4, 1/2 and all of the range)"
    parser.add_argument("--guidance", help=rungs)
    parser.add_argument("--seed", type=natural, help="of the noise (default: the set's own)")
    parser.add_argument("--features", default="pixels", help=f"{', '.join(names('features'))} (default pixels)")
    parser.add_argument("--weights", help="file of the feature network's weights (default: in the installed package)")
    limits = f"a limit in place of the derived one, may be repeated; of {', '.join(checks.NAMES)}"
    parser.add_argument("--tolerance", action="append", default=[], metavar="NAME=VALUE", help=limits)
    parser.add_argument("--json", action="store_true", help="print one flat JSON object instead of tables")


def main(args: argparse.Namespace) -> None:
    """Prints the tables; raises SystemExit(1) when a tolerance is exceeded."""
    tolerances = checks.parse(args.tolerance)
    steps = numbers(args.steps, int) if args.steps else None
    guidance = numbers(args.guidance) if args.guidance else None
    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    lines = [measure.lineage(run) for run in args.runs]
    for line in lines:
        measure.stages(line, steps)  # Fails before anything is drawn.
    if args.set and len({line[0].dir for line in lines}) > 1:
        raise UserError("--set is of one teacher, and the runs have several; give one run at a time")
    found, exceeded = {}, 0
    for line, name in zip(lines, distinct([line[-1].dir for line in lines]), strict=True):
        golden = verdict.open_set(line, args.set, args.make, args.num, guidance, tolerances, say=say)
        options = {"features": args.features, "weights": args.weights, "tolerances": tolerances, "say": say}
        one = verdict.hold(line, golden, steps, args.seed, **options)
        values = verdict.flat(one.results)
        found |= values if len(lines) == 1 else {f"{name}_{key}": value for key, value in values.items()}
        exceeded += len(one.exceeded)
        if not args.json:
            show(verdict.tables(one))
            print(f"-> {line[-1].dir / verdict.RESULTS}: {len(one.exceeded)} of {len(one.checks)} tolerances exceeded")
    if args.json:
        print(json.dumps(found))
    if exceeded:
        raise SystemExit(1)


def distinct(dirs: Sequence[Path]) -> list[str]:
    """Names of runs: their folders', with those above them as far as it takes to tell them apart."""
    dirs = [path.resolve() for path in dirs]
    depth = next(n for n in itertools.count(1) if len({path.parts[-n:] for path in dirs}) == len(set(dirs)))
    return ["/".join(path.parts[-depth:]) for path in dirs]


def show(tables: Sequence[dict[str, Any]]) -> None:
    """Tables on the terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    for given in tables:
        shown = Table(title=given["title"], title_justify="left")
        for name in given["columns"]:
            shown.add_column(name.replace("_", " "), justify="right")
        for row in given["rows"]:
            shown.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
        console.print(shown)
