"""Score one set of images against another: Fréchet and kernel distances, Inception Score, precision and recall, copies.

    python -m guided_distill score samples/ data:fashion_mnist:test --features=efficientnet_lite0
    python -m guided_distill score runs/digits_stage2 data:digits --steps=4 --num=1797 --seeds=0,1,2
    python -m guided_distill score fake.npz real.npz --metrics=fd,kid --json

FAKE and REAL: a folder of images; an npz with `images` (uint8 [n, h, w, c]), or with `features` [n, d] and `logits`
[n, k]; a run directory; data:NAME[:SPLIT][:KEY=VALUE]. Prints a table, or with --json one flat object. Features and
statistics of REAL are kept in ~/.cache/guided_distill. FID is said of Inception-v3 with its standard weights only.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from guided_distill import evaluate, scoring, sections
from guided_distill.cli import numbers
from guided_distill.plugins import names
from guided_distill.scoring.measures import MEASURES
from guided_distill.scoring.sets import NUM, Draw

ROWS = (
    *("fd", "kid", "inception_score", "precision", "recall"),
    *("nearest_median", "nearest_percentile", "nearest_limit", "nearest_share"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `score`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("fake", metavar="FAKE", help="what is scored")
    parser.add_argument("real", metavar="REAL", help="what it is scored against")
    parser.add_argument("--features", help=f"{', '.join(names('features'))} (default pixels)")
    parser.add_argument("--weights", help="file of the feature network's weights (default: in the installed package)")
    parser.add_argument("--preprocessing", help="how Inception-v3 sees images: torch-fidelity (default), pytorch-fid")
    parser.add_argument("--metrics", default=",".join(MEASURES), help=f"comma-separated (default {','.join(MEASURES)})")
    parser.add_argument("--num", type=int, help=f"samples of a run (default {NUM})")
    parser.add_argument("--steps", type=int, help="of a run (default: the recommended)")
    parser.add_argument("--guidance", type=float, help="w of a run, 0 is no guidance (default: the recommended)")
    parser.add_argument("--sampler", help="of a run (default: its own)")
    parser.add_argument("--seeds", default="0", help="of a run, comma-separated; several give the spread (default 0)")
    floor = "score real images against other real ones, too (default)"
    parser.add_argument("--floor", action=argparse.BooleanOptionalAction, default=True, help=floor)
    parser.add_argument("--json", action="store_true", help="print one flat JSON object")


def main(args: argparse.Namespace) -> None:
    """Prints the table or the object; a run keeps the table for its report."""
    found = scoring.score(
        args.fake,
        args.real,
        features=args.features,
        weights=args.weights,
        preprocessing=args.preprocessing,
        metrics=args.metrics.split(","),
        draw=Draw(args.num, args.steps, args.guidance, args.sampler),
        seeds=numbers(args.seeds, int),
        floor=args.floor,
        cache=evaluate.CACHE,
    )
    if args.json:
        print(json.dumps(found))
    title, rows, notes = told(found, args.fake, args.real)
    if not args.json:
        show(title, rows, notes)
    if (Path(args.fake) / "manifest.json").is_file():
        columns = ["metric", "value", "over seeds"]
        sections.write(args.fake, "score", title, notes=notes, tables=[{"title": "", "columns": columns, "rows": rows}])


def told(found: dict[str, Any], fake: str, real: str) -> tuple[str, list[list[str]], list[str]]:
    """(title, rows of metric, value and spread, notes) of what `scoring.score` returns."""
    how = f" of {found['steps']} steps, w = {found['guidance']:g}, {found['sampler']}" if found["steps"] else ""
    title = f"{fake}: {found['num_fake']}{how} against {found['num_real']} of {real}, features {found['features']}"
    known = found["fd_name"] == "FID"
    names_of = {"fd": found["fd_name"], "kid": "KID" if known else f"KD-{found['features']}"}
    names_of["inception_score"] = "Inception Score" if known else f"IS-{found['features']}"
    rows = []
    for key in ROWS:
        if found[key] is None:
            continue
        error = found.get(f"{key}_std")
        value = f"{found[key]:.5g}" + (f" (std over parts {error:.2g})" if error is not None else "")
        spread = found.get(f"{key}_spread")
        rows.append([names_of.get(key, key.replace("_", " ")), value, "" if spread is None else f"± {spread:.2g}"])
    if found["floor"] is not None:
        rows.append([f"{found['fd_name']}, the floor: real images against others", f"{found['floor']:.5g}", ""])
    more = [f"{key}: {found[key]}" for key in ("preprocessing", "seeds", "hash", "fingerprint") if found[key]]
    return title, rows, [*(found["notes"].split("; ") if found["notes"] else []), *more]


def show(title: str, rows: list[list[str]], notes: list[str]) -> None:
    """The table, notes below it."""
    table = Table(title=title, title_justify="left", caption="\n".join(notes), caption_justify="left")
    for column in ("metric", "value", "over seeds"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 140).print(table)
