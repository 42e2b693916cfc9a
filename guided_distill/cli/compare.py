"""Judge systems side by side, blindly: make pairs, serve them to raters, report what the votes say.

    python -m guided_distill compare make OUT --system teacher=runs/digits_teacher,w=1
    --system student=runs/digits_stage2,steps=4,w=1 --num=100 --question="Which is the better {label}?"
    python -m guided_distill compare serve OUT --raters=2
    python -m guided_distill compare report OUT

A system is a run, a folder of pictures, or an npz of `sample`. Serving needs: pip install -r requirements-compare.txt
"""

import argparse
import json
import sys

from guided_distill.cli import natural
from guided_distill.comparison import load, need, pairs, summary
from guided_distill.comparison.votes import Votes
from guided_distill.errors import UserError
from guided_distill.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `compare`: make, serve, report."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parts = parser.add_subparsers(dest="part", required=True, metavar="make|serve|report")
    make = parts.add_parser("make", help="draw the pairs")
    make.add_argument("out", metavar="OUT", help="a directory for the comparison")
    option = "NAME=RUN_OR_FOLDER[,steps=..,w=..,sampler=..,preset=..,seconds=..]; twice or more often"
    make.add_argument("--system", action="append", default=[], help=option)
    make.add_argument("--num", type=int, default=100, help="pairs, in all (default 100)")
    make.add_argument("--seed", type=natural, default=0, help="of noise (default 0)")
    make.add_argument("--same_noise", action="store_true", help="both pictures of a pair start from the same noise")
    make.add_argument(
        "--question",
        default=pairs.QUESTION,
        help=f'"{{label}}" is the class, "{{caption}}" the caption (default: {pairs.QUESTION})',
    )
    serve = parts.add_parser("serve", help="a page for raters, on this machine")
    serve.add_argument("out", metavar="OUT")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000, help="0: any (default 8000)")
    serve.add_argument("--raters", default="2", help="how many, or their names: anna,ben (default 2)")
    serve.add_argument(
        "--delay", action="store_true", help="a picture appears after its system's time to the first one"
    )
    report = parts.add_parser("report", help="what the votes say")
    report.add_argument("out", metavar="OUT")
    report.add_argument("--json", action="store_true", help="print one flat JSON object")


def main(args: argparse.Namespace) -> None:
    """Does one of the three."""
    {"make": _make, "serve": _serve, "report": _report}[args.part](args)


def _make(args: argparse.Namespace) -> None:
    systems = [pairs.parse(text) for text in args.system]
    made = pairs.make(args.out, systems, args.num, args.seed, args.same_noise, args.question)
    print(f"{len(made.pairs)} pairs of {', '.join(made.systems)} -> {args.out}")


def _serve(args: argparse.Namespace) -> None:
    need("starlette", "uvicorn")
    from guided_distill.comparison import server

    raters = [f"rater{k + 1}" for k in range(int(args.raters))] if args.raters.isdigit() else _names(args.raters)
    server.serve(args.out, raters, args.host, args.port, args.delay)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _report(args: argparse.Namespace) -> None:
    comparison = load(args.out)
    votes = Votes(args.out).read()
    if not votes:
        raise UserError(f"nobody has voted in {args.out} yet")
    found = summary.summarise(comparison, votes)
    write_json(comparison.dir / "results.json", found)
    left = summary.leave(comparison, found)
    if absent := summary.absent(comparison):
        print(f"no section for {', '.join(absent)}: not to be found from this directory", file=sys.stderr)
    if args.json:
        print(json.dumps(summary.flat(found)))
        return
    summary.show(found, summary.notes(comparison, found))
    for path in left:
        print(f"-> {path}")
