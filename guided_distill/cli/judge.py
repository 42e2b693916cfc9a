"""Let a vision-language model judge the pairs of a comparison, both ways round, under a ceiling of cost.

    python -m guided_distill judge OUT --model=MODEL --url=https://api.openai.com/v1 --max_cost=2
    --price_in=0.15 --price_out=0.6 --image_tokens=N --yes

The address is OpenAI-compatible; the key is read from an environment variable. Without --yes the cost is estimated and
nothing is sent. What was obtained is kept, what failed is asked again by the same command. Verdicts go to `compare
report`.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from guided_distill import comparison, files
from guided_distill.comparison.votes import Votes
from guided_distill.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `judge`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", metavar="OUT", help="a comparison, as `compare make` leaves it")
    parser.add_argument("--model", required=True, help="as the server calls it")
    parser.add_argument("--url", required=True, help="of the API, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--max_cost", type=float, required=True, help="US dollars that this command may spend")
    parser.add_argument("--price_in", type=float, required=True, help="US dollars for a million tokens in")
    parser.add_argument("--price_out", type=float, required=True, help="and out")
    parser.add_argument("--concurrency", type=int, default=4, help="requests at once (default 4)")
    parser.add_argument("--rubric", type=Path, help="a text to judge by (default: one of its own)")
    parser.add_argument("--max_tokens", type=int, default=200, help="of an answer (default 200)")
    parser.add_argument("--limit_field", default="max_tokens", choices=("max_tokens", "max_completion_tokens"))
    option = "the most that MODEL counts for one picture: look it up (default 1600)"
    parser.add_argument("--image_tokens", type=int, default=1600, help=option)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for an answer (default 60)")
    parser.add_argument("--key_env", default="OPENAI_API_KEY", help="variable of the key; empty: no key is sent")
    parser.add_argument("--yes", action="store_true", help="spend it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> None:
    """Asks, and prints what came of it."""
    comparison.need("httpx2")
    from guided_distill.comparison import asking, judging

    if min(args.max_cost, args.price_in, args.price_out) < 0:
        raise UserError("costs and prices must not be negative")
    if min(args.concurrency, args.max_tokens, args.image_tokens) < 1:
        raise UserError("--concurrency, --max_tokens and --image_tokens must be positive")
    url, prices = asking.check_url(args.url, bool(args.key_env)), asking.Prices(args.price_in, args.price_out)
    if args.rubric and not args.rubric.is_file():
        raise UserError(f"--rubric {args.rubric} is no file")
    rubric = args.rubric.read_text() if args.rubric else judging.RUBRIC
    judge = judging.Judge(args.model, prices, rubric, args.max_tokens, args.image_tokens, args.limit_field)
    pairs = comparison.load(args.out)
    with files.alone(pairs.dir, "judged"):  # Two at once would both pay for what neither has yet.
        _judge(args, pairs, judge, url)


def _judge(args: argparse.Namespace, pairs: comparison.Comparison, judge: Any, url: str) -> None:
    from guided_distill.comparison import asking, judging

    work = judging.plan(pairs, judge)
    say = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    say(
        f"{len(work.tasks)} requests to {args.model} ({work.done} done before, {len(work.cached)} in the cache): "
        f"about ${work.estimate(judge):.4f} if each request is answered once, at {judge.image_tokens} tokens a "
        f"picture; the ceiling is ${args.max_cost:g}"
    )
    outcome = judging.Outcome(0, 0, [], len(work.tasks), 0.0, "")
    if args.yes or not work.tasks:
        key = asking.read_key(args.key_env) if work.tasks else None
        more = {"say": say, "timeout": args.timeout}
        outcome = judging.judge_pairs(pairs, judge, work, url, key, args.max_cost, args.concurrency, **more)
    if args.json:
        told = {**dataclasses.asdict(outcome), "failed": len(outcome.failed), "estimate": work.estimate(judge)}
        print(json.dumps(told | {"votes": sum(vote.rater == judge.rater for vote in Votes(pairs.dir).read())}))
    elif work.tasks and not args.yes:
        print("nothing was sent; add --yes to spend it")
    else:
        tell(outcome)
    if outcome.stopped:
        raise UserError(f"stopped: {outcome.stopped}; the same command goes on from here")


def tell(outcome: Any) -> None:
    """What failed, and what it came to."""
    for which, why in outcome.failed:
        print(f"failed: {which}: {why}")
    rest = len(outcome.failed) + outcome.left
    print(f"{outcome.verdicts} verdicts ({outcome.cached} from the cache) for ${outcome.spent:.4f}; {rest} are missing")
