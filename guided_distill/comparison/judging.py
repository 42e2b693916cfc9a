"""A vision-language model as a rater: every pair both ways round, verdicts in the same file as people's.

What was obtained stands, whatever happens after: a verdict is cached by the hash of its request and voted at once. What
failed is listed, and asked again the next time.
"""

import asyncio
import base64
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from guided_distill.comparison import JUDGE, Comparison, Pair
from guided_distill.comparison.asking import Budget, CeilingReached, Client, NoAnswer, Prices, Refused
from guided_distill.comparison.votes import Vote, Votes
from guided_distill.errors import UserError
from guided_distill.files import write_json

RUBRIC = """You compare two pictures that were made by different programs for the same request.
Prefer the one that is clearer, more natural and truer to the request; look for wrong shapes, smears, noise and missing
parts. How the two were enlarged does not matter, nor which of them comes first. Say tie only if you cannot tell."""
FORM = 'Answer with one JSON object and nothing else: {"verdict": "first" | "second" | "tie", "reason": "a few words"}'
SIDE = 256  # Pixels: smaller pictures are enlarged to this before they are sent.
IN_A_ROW = 5  # Requests without an answer, after which the rest is left for another time.


@dataclasses.dataclass(frozen=True)
class Judge:
    """A model, and how it is asked. `image_tokens`: the most that a server counts for one picture; `limit`: the
    request's name for the most tokens of an answer."""

    model: str
    prices: Prices
    rubric: str = RUBRIC
    max_tokens: int = 200
    image_tokens: int = 1600
    limit: str = "max_tokens"

    @property
    def rater(self) -> str:
        """Its name in votes.jsonl."""
        return JUDGE + self.model


@dataclasses.dataclass(frozen=True)
class Task:
    """One pair, one way round: `turned` shows its second picture first."""

    pair: Pair
    turned: bool
    body: dict[str, Any]
    hash: str
    tokens_in: int

    def vote(self, rater: str, verdict: str) -> Vote:
        """The vote that a verdict is."""
        left, right = self.pair.systems[::-1] if self.turned else self.pair.systems
        winner = {"first": left, "second": right, "tie": None}[verdict]
        rubric = hashlib.sha256(self.body["messages"][0]["content"].encode()).hexdigest()[:16]
        return Vote(rater, self.pair.id, left, right, winner, self.hash, rubric=rubric)

    def __str__(self) -> str:
        return f"pair {self.pair.id}, {'second' if self.turned else 'first'} picture first"


def enlarged(png: bytes) -> str:
    """A picture as a data URI: a compressed PNG, squares of pixels at least `SIDE` wide in all."""
    with Image.open(io.BytesIO(png)) as picture:
        scale = max(1, -(-SIDE // max(picture.size)))
        large = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    large.save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def task(comparison: Comparison, judge: Judge, pair: Pair, turned: bool) -> Task:
    """The request about a pair. Every byte of its text is taken for a token: there are fewer."""
    texts = (f"{judge.rubric.strip()}\n{FORM}", comparison.asked(pair), "First picture:", "Second picture:")
    images = [{"type": "image_url", "image_url": {"url": enlarged(comparison.png(image))}} for image in pair.images]
    first, second = images[::-1] if turned else images
    asked, one, two = ({"type": "text", "text": text} for text in texts[1:])
    body = {
        "model": judge.model,
        "messages": [
            {"role": "system", "content": texts[0]},
            {"role": "user", "content": [asked, one, first, two, second]},
        ],
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    body[judge.limit] = judge.max_tokens  # Not hashed: a longer answer would say the same.
    tokens = sum(len(text.encode()) for text in texts) + 64 + 2 * judge.image_tokens
    return Task(pair, turned, body, digest, tokens)


def verdict(text: str) -> str | None:
    """first, second or tie, from the JSON object in an answer, whatever is around it; None where there is none, one
    that says something else, or several that differ."""
    found, decoder, start = set(), json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            told, end = decoder.raw_decode(text, start)
            if "verdict" in told:
                found.add(str(told["verdict"]).strip().lower())
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    said = found.pop() if len(found) == 1 else None
    return said if said in ("first", "second", "tie") else None


@dataclasses.dataclass(frozen=True)
class Work:
    """What a comparison still needs of a judge. `cached`: verdicts that were paid and not voted."""

    tasks: list[Task]
    cached: list[tuple[Task, str]]
    done: int

    def estimate(self, judge: Judge) -> int | float:
        """US dollars, if every request is answered once, and no picture has more tokens than the judge says."""
        return sum(judge.prices.of(task.tokens_in, judge.max_tokens) for task in self.tasks)


def plan(comparison: Comparison, judge: Judge) -> Work:
    """What to ask: every pair both ways round, less what stands already under the same request."""
    standing = {vote.request for vote in Votes(comparison.dir).read() if vote.rater == judge.rater}
    every = [task(comparison, judge, pair, turned) for pair in comparison.pairs for turned in (False, True)]
    todo = [one for one in every if one.hash not in standing]
    cached = [(one, said) for one in todo if (said := _cached(comparison, one))]
    kept = {one.hash for one, _ in cached}
    return Work([one for one in todo if one.hash not in kept], cached, len(every) - len(todo))


def _cache(comparison: Comparison, one: Task) -> Path:
    return comparison.dir / "judge_cache" / f"{one.hash}.json"


def _cached(comparison: Comparison, one: Task) -> str | None:
    try:
        return verdict(json.loads(_cache(comparison, one).read_text())["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`verdicts` obtained now, of which `cached` came from the disk; `failed`: (request, why); `left`: not asked;
    `spent`: US dollars; `stopped`: why before the end, or ""."""

    verdicts: int
    cached: int
    failed: list[tuple[str, str]]
    left: int
    spent: int | float
    stopped: str


async def run(
    comparison: Comparison,
    judge: Judge,
    work: Work,
    url: str,
    key: str | None,
    ceiling: int | float,
    concurrency: int = 4,
    say: Callable[[str], None] = print,
    **options: Any,
) -> Outcome:
    """Asks for all of `work` that the ceiling (US dollars) lets, `concurrency` at once. `options` as of `Client`."""
    votes, budget = Votes(comparison.dir), Budget(ceiling)
    for one, said in work.cached:
        votes.cast(one.vote(judge.rater, said))
    queue, failed, obtained, stopped, row = list(reversed(work.tasks)), [], 0, "", 0
    (comparison.dir / "judge_cache").mkdir(exist_ok=True)

    async def worker(client: Client) -> None:
        nonlocal obtained, stopped, row
        while queue and not stopped:
            one = queue.pop()
            try:
                said = _keep(comparison, one, await client.ask(one.body, one.tokens_in, judge.max_tokens))
                votes.cast(one.vote(judge.rater, said))
                obtained, row = obtained + 1, 0
                if obtained % 10 == 0:
                    say(f"{obtained} verdicts for ${budget.spent:.4f}")
            except CeilingReached:
                queue.append(one)
                stopped = stopped or f"the ceiling of ${ceiling:g} leaves no room for another request"
            except Refused as error:
                queue.append(one)
                stopped = f"the server refuses: {error}"
            except NoAnswer as error:
                failed.append((str(one), str(error)))
                row += 1
                if row >= IN_A_ROW:
                    stopped = f"{IN_A_ROW} requests in a row had no answer"
                    budget.close()
            except (OSError, UserError) as error:  # Not let out: that would cancel the others, which are paid.
                queue.append(one)
                stopped = stopped or f"cannot keep a verdict: {error}"
                budget.close()

    async with Client(url, key, budget, judge.prices, **options) as client, asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(queue))):
            group.create_task(worker(client))
    return Outcome(obtained + len(work.cached), len(work.cached), failed, len(queue), budget.spent, stopped)


def _keep(comparison: Comparison, one: Task, answer: dict[str, Any]) -> str:
    """The verdict of an answer, cached. Raises `NoAnswer` where there is none."""
    said = verdict(answer["text"])
    if said is None:
        raise NoAnswer("cut short before a verdict" if answer["finish"] == "length" else "no verdict in the answer")
    write_json(_cache(comparison, one), {"model": one.body["model"], **answer})
    return said


def judge_pairs(comparison: Comparison, judge: Judge, work: Work, *args: Any, **options: Any) -> Outcome:
    """As `run`, from code that is not asynchronous."""
    return asyncio.run(run(comparison, judge, work, *args, **options))
