"""Write one HTML page about runs: the chain, samples from the same noise, metrics, training curves, the setting.

    python -m guided_distill report runs/digits_stage2 --guidance=0,1,4

Teachers are found by the runs' manifests; numbers are those that `evaluate` left in each run. The page needs no other
file.
"""

import argparse
from pathlib import Path

from guided_distill import report
from guided_distill.cli import natural, numbers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `report`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the last RUN)")
    parser.add_argument("--title", help="of the page (default: the last run's name)")
    parser.add_argument("--note", action="append", default=[], help="a caveat to show first; may be repeated")
    parser.add_argument("--num", type=int, default=16, help="samples a row (default 16)")
    parser.add_argument("--guidance", help="w of the samples, comma-separated (default: up to three of the measured)")
    parser.add_argument("--seed", type=natural, default=0, help="of the samples' noise (default 0)")
    parser.add_argument("--no_grids", action="store_true", help="draw no samples")


def main(args: argparse.Namespace) -> None:
    """Writes the page."""
    guidance = numbers(args.guidance) if args.guidance else None
    options = {"notes": args.note, "num": args.num, "seed": args.seed, "guidance": guidance, "grids": not args.no_grids}
    out = args.out or Path(args.runs[-1]) / "report.html"
    print(f"-> {report.of_runs(out, args.runs, args.title, **options)}")
