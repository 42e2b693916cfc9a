"""What runs cost: FLOPs, seconds, memory and money of an image, hours of training, and when a distillation pays back.

    python -m guided_distill costs runs/digits_stage2
    python -m guided_distill costs runs/digits_stage2 --price=2.5 --json

Teachers are found by the runs' manifests. Each run is measured in a process of its own, in which nothing is compiled
yet. Prints tables and leaves a part of the report in the last RUN. The price is that of one device for an hour, in any
currency; all devices of this machine are counted, in sampling and in training.
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from guided_distill import costs
from guided_distill.cli import numbers
from guided_distill.report.rows import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `costs`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--price", type=float, help="of a device for an hour")
    parser.add_argument("--batch", type=int, default=64, help="images at a time for the rate (default 64)")
    parser.add_argument("--out", type=Path, help="directory whose report gets the part (default: the last RUN)")
    parser.add_argument("--json", action="store_true", help="print one flat JSON object")
    parser.add_argument("--clock", help=argparse.SUPPRESS)  # What the process of a run's own is told: its steps.


def main(args: argparse.Namespace) -> None:
    """Measures, prints, writes the section."""
    if args.clock is not None:
        print(json.dumps(costs.clocked(args.runs[-1], numbers(args.clock, int), args.batch)))
        return
    found = costs.of_runs(args.runs, price=args.price, batch_size=args.batch)
    path = costs.section(args.out or args.runs[-1], found)
    if args.json:
        print(json.dumps(costs.flat(found)))
        return
    console = Console(width=None if Console().is_terminal else 140)
    for title, rows in found.items():
        if rows:
            columns = [name for name in rows[0] if name != "peak_of"]
            table = Table(*(name.replace("_", " ") for name in columns), title=title, title_justify="left")
            for row in rows:
                table.add_row(*(show(row.get(name)) for name in columns))
            console.print(table)
    print(f"-> {path}")
