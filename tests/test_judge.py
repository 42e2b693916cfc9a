"""A model as a judge: both orders, a ceiling that holds, servers that misbehave, and a key that is nowhere."""

import asyncio
import base64
import contextlib
import dataclasses
import io
import itertools
import json
import logging
import socket
import threading

import numpy as np
import pytest
from PIL import Image

httpx2 = pytest.importorskip("httpx2", reason="requirements-compare.txt")

from guided_distill.__main__ import main  # noqa: E402
from guided_distill.comparison import asking, judging, pairs, summary  # noqa: E402
from guided_distill.comparison.votes import Votes  # noqa: E402
from guided_distill.errors import UserError  # noqa: E402
from guided_distill.files import alone  # noqa: E402

KEY = "sk-not-to-be-seen-0123456789"
URL = "http://127.0.0.1:9/v1"
PRICES = asking.Prices(2.0, 8.0)
JUDGE = judging.Judge("m/x", PRICES)
USAGE = {"prompt_tokens": 1000, "completion_tokens": 50}
COST = PRICES.of(1000, 50)


@pytest.fixture
def made(tmp_path):
    """Eight pairs of a dark and a bright system: sixteen requests."""
    systems = []
    for name, low in (("dusk", 10), ("dawn", 200)):
        images = np.random.default_rng(low).integers(low, low + 50, (8, 8, 8, 1), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images)
        systems.append(pairs.System(name, tmp_path / f"{name}.npz"))
    return pairs.make(tmp_path / "out", systems, num=8)


def reply(text, usage=USAGE, finish="stop"):
    """A completion."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return httpx2.Response(200, json={"choices": [choice], **({"usage": usage} if usage else {})})


def says(verdict):
    return reply(json.dumps({"verdict": verdict, "reason": "so"}))


def brighter(body):
    """first or second, as somebody sees it who only has the request."""
    content = body["messages"][1]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    assert len(pictures) == 2 and all(picture.size == (256, 256) for picture in pictures)
    return max(("first", "second"), key=lambda side: np.asarray(pictures[side == "second"]).mean())


class Server:
    """Answers by `handle(number, body)`, after others had their turn; counts."""

    def __init__(self, handle):
        self.handle, self.bodies, self.headers, self.waits = handle, [], [], []
        self.at_once, self.most_at_once = 0, 0

    async def __call__(self, request):
        self.headers.append(request.headers)
        self.bodies.append(json.loads(request.content))
        number, body = len(self.bodies), self.bodies[-1]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(50):
            await asyncio.sleep(0)
        self.at_once -= 1
        answer = self.handle(number, body)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds):
        self.waits.append(seconds)


def run(made, handle, ceiling=1.0, judge=JUDGE, key=KEY, concurrency=3):
    """(outcome, server) of one go at the pairs."""
    server = handle if isinstance(handle, Server) else Server(handle)
    options = {"say": lambda text: None, "transport": httpx2.MockTransport(server), "sleep": server.sleep}
    work = judging.plan(made, judge)
    return judging.judge_pairs(made, judge, work, URL, key, ceiling, concurrency, **options), server


def of_judge(made):
    return summary.summarise(made, Votes(made.dir).read())["groups"]["judge:m/x"]


def test_a_judge_that_looks_at_the_pictures(made):
    outcome, server = run(made, lambda _, body: says(brighter(body)))
    assert (outcome.verdicts, outcome.failed, outcome.left, outcome.stopped) == (16, [], 0, "")
    assert outcome.spent == pytest.approx(16 * COST)
    group = of_judge(made)
    assert group["pairs"] == 8 and group["flips"]["share"] == 0 and group["left"]["share"] == 0.5
    assert group["systems"][0]["system"] == "dawn" and group["systems"][0]["share"] == 1
    assert server.most_at_once == 3
    body = server.bodies[0]
    assert body["model"] == "m/x" and body["max_tokens"] == 200 and judging.FORM in body["messages"][0]["content"]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert not any(name in json.dumps(server.bodies) for name in ("dusk", "dawn"))


@pytest.mark.parametrize(("verdict", "left"), [("first", 1), ("second", 0)])
def test_a_judge_that_only_looks_at_the_order_is_found_out(made, verdict, left):
    run(made, lambda *_: says(verdict))
    group = of_judge(made)
    assert group["flips"]["share"] == 1 and group["left"]["share"] == left
    assert [row["share"] for row in group["systems"]] == [0.5, 0.5]


def test_what_was_judged_is_not_asked_again(made):
    run(made, lambda *_: says("tie"))
    outcome, server = run(made, lambda *_: says("tie"))
    assert outcome.verdicts == 0 and server.bodies == []
    (made.dir / "votes.jsonl").unlink()  # Killed between the answer and the vote: the answer is paid, and on the disk.
    outcome, server = run(made, lambda *_: says("first"))
    assert (outcome.verdicts, outcome.cached, outcome.spent) == (16, 16, 0.0) and server.bodies == []
    assert of_judge(made)["ties"] == 1
    longer = dataclasses.replace(JUDGE, max_tokens=900)
    assert judging.plan(made, longer).done == 16
    other = dataclasses.replace(JUDGE, rubric="Prefer the brighter.")
    run(made, lambda _, body: says(brighter(body)), judge=other)
    assert len(Votes(made.dir).read()) == 16 and of_judge(made)["flips"]["share"] == 0  # In place of the old ones.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"verdict": "first", "reason": "sharper"}', "first"),
        ('Well.\n```json\n{"verdict": " Second "}\n```', "second"),
        ('{"verdict": "tie"} {"verdict": "tie"}', "tie"),
        ('{"verdict": "first"} or rather {"verdict": "second"}', None),
        ('{"verdict": "both"}', None),
        ('{"verdict": "first", "reason": "the {blob} is odd"}', "first"),
        ('{"why": {"verdict": "second"}, "verdict": "first"} {oddly}', "first"),
        ('Draft {"verdict":"second"} ... final {"verdict":"first","reason":"set {a} wins"}', None),
        ('{"verdict": "first"} {"verdict": "neither"}', None),
        ('{"a":' * 3000, None),
        ('{"verdict": "fir', None),
        ("The first one.", None),
        ('{"verdict": ["first"]} [1] {} {"verdict": null}', None),
        ("", None),
    ],
)
def test_verdicts_are_read_out_of_babble(text, said):
    assert judging.verdict(text) == said


def test_a_babbling_server_loses_no_verdict(made):
    """Every second answer is of no use, each in another way; in the end all are there, and each was obtained once."""
    bad = [
        reply("I like both of them."),
        reply('{"verdict": "fi', finish="length"),
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, json={"choices": []}),
        httpx2.Response(200, json=[1]),
        httpx2.Response(503, text="busy"),
        httpx2.Response(400, json={"error": {"message": "this picture is not allowed"}}),
        httpx2.ReadTimeout("late"),
        httpx2.ReadError("reset"),
        httpx2.ConnectError("refused"),
    ]
    faults = itertools.cycle(bad)

    def handle(number, body):
        return next(faults) if number % 2 else says(brighter(body))

    obtained, reasons = 0, set()
    for _ in range(12):
        outcome, _ = run(made, Server(handle))
        obtained += outcome.verdicts
        reasons |= {why for _, why in outcome.failed}
        assert outcome.verdicts + len(outcome.failed) + outcome.left == 16 - (obtained - outcome.verdicts)
        assert len(Votes(made.dir).read()) == obtained
        if obtained == 16:
            break
    assert obtained == 16 and of_judge(made)["flips"]["share"] == 0
    told = " ".join(reasons)
    for why in ("no verdict in the answer", "cut short", "no completion", "400 this picture is not allowed"):
        assert why in told


def test_waits_double_and_heed_the_server(made):
    def handle(number, body):
        return httpx2.Response(429, headers={"retry-after": "7"} if number == 2 else {}) if number < 4 else says("tie")

    outcome, server = run(made, handle, concurrency=1)
    assert server.waits == [1, 7, 14] and outcome.verdicts == 16


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_is_down_is_left_alone(made, concurrency):
    outcome, server = run(made, lambda *_: httpx2.Response(500), concurrency=concurrency)
    assert len(outcome.failed) == judging.IN_A_ROW and outcome.left == 16 - judging.IN_A_ROW
    assert "in a row" in outcome.stopped
    assert len(server.bodies) < (judging.IN_A_ROW + concurrency) * asking.ATTEMPTS


@pytest.mark.parametrize("broken", ["write_json", "cast"])
def test_what_cannot_be_kept_stops_it(made, monkeypatch, broken):
    """The answers on their way come in, and nothing is asked after them."""

    def full(*args):
        raise OSError("no space left")

    work = judging.plan(made, JUDGE)
    monkeypatch.setattr(judging if broken == "write_json" else Votes, broken, full)
    outcome, server = run(made, lambda *_: says("tie"))
    assert outcome.stopped == "cannot keep a verdict: no space left" and outcome.failed == []
    assert outcome.left == len(work.tasks) and outcome.spent == pytest.approx(COST * len(server.bodies))


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_ends_it_at_once(made, status):
    told = {"error": {"message": f"no such thing for {KEY}"}}
    outcome, server = run(made, lambda *_: httpx2.Response(status, json=told))
    assert outcome.stopped == f"the server refuses: {status} no such thing for [key]"
    assert len(server.bodies) == 1 and outcome.left == 16 and Votes(made.dir).read() == []


# Cost.


@pytest.mark.parametrize("concurrency", [1, 4, 16])
@pytest.mark.parametrize("tokens", [USAGE, {"prompt_tokens": 40_000, "completion_tokens": 200}, None])
def test_the_ceiling_holds(made, concurrency, tokens):
    """With what was estimated, with ten times as much, and where nobody says what it was."""
    worst = JUDGE.prices.of(judging.plan(made, JUDGE).tasks[0].tokens_in, JUDGE.max_tokens)
    cost = PRICES.of(*tokens.values()) if tokens else worst
    ceiling = 3.5 * max(cost, worst)
    outcome, server = run(made, lambda *_: reply('{"verdict": "tie"}', tokens), ceiling, concurrency=concurrency)
    assert outcome.spent == pytest.approx(cost * len(server.bodies)) and outcome.spent <= ceiling
    assert 3 <= outcome.verdicts == len(Votes(made.dir).read()) < 16
    assert "ceiling" in outcome.stopped and outcome.left == 16 - outcome.verdicts and not outcome.failed
    again, _ = run(made, lambda *_: says("tie"), 10.0)
    assert again.verdicts == outcome.left and again.stopped == ""


def test_what_may_have_been_billed_counts_in_full(made):
    worst = JUDGE.prices.of(judging.plan(made, JUDGE).tasks[0].tokens_in, JUDGE.max_tokens)
    outcome, server = run(made, lambda *_: httpx2.ReadTimeout("late"), ceiling=6.5 * worst)
    assert outcome.spent == pytest.approx(6 * worst) and len(server.bodies) == 6 and outcome.verdicts == 0


@pytest.mark.parametrize(("status", "billed"), [(400, 0), (429, 0), (408, 1), (500, 1), (503, 1), (204, 1), (302, 1)])
def test_only_what_is_refused_costs_nothing(made, status, billed):
    worst = JUDGE.prices.of(judging.plan(made, JUDGE).tasks[0].tokens_in, JUDGE.max_tokens)
    outcome, server = run(made, lambda *_: httpx2.Response(status))
    assert outcome.verdicts == 0 and outcome.spent == pytest.approx(billed * worst * len(server.bodies))


@pytest.mark.parametrize(("total", "out"), [(1050, 50), (1700, 700), (10, 50), (None, 50), ("many", 50)])
def test_hidden_thoughts_are_paid(made, total, out):
    outcome, _ = run(made, lambda *_: reply('{"verdict": "tie"}', {**USAGE, "total_tokens": total}))
    assert outcome.spent == pytest.approx(16 * PRICES.of(1000, out))


def test_nothing_is_sent_where_one_request_could_cost_too_much(made):
    outcome, server = run(made, lambda *_: says("tie"), ceiling=1e-9)
    assert server.bodies == [] and outcome.left == 16


def test_the_estimate_is_the_most_it_can_be(made):
    work = judging.plan(made, JUDGE)
    text = len(json.dumps(work.tasks[0].body["messages"][0]))
    assert all(task.tokens_in >= text + 2 * JUDGE.image_tokens for task in work.tasks)
    assert work.estimate(JUDGE) == pytest.approx(sum(PRICES.of(task.tokens_in, 200) for task in work.tasks))


def test_requests_in_flight_never_hold_more_than_the_ceiling():
    async def spend():
        budget, seen = asking.Budget(10), []

        async def one(cost):
            held = await budget.reserve(2)
            seen.append(budget.spent + 2 * len(budget._held))
            await asyncio.sleep(0)
            await budget.settle(held, cost, worst=2)

        results = await asyncio.gather(*(one(k % 3) for k in range(30)), return_exceptions=True)
        return budget, seen, results

    budget, seen, results = asyncio.run(spend())
    assert max(seen) <= 10 and budget.spent <= 10 and budget._held == []
    assert budget.spent > 8 and any(isinstance(error, asking.CeilingReached) for error in results)


# Keys and addresses.


def test_the_key_is_nowhere_even_if_the_server_repeats_it(made, capsys, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    spelt = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    echo = '{"choices": [{"message": {"content": "{\\"verdict\\": \\"tie\\"} KEY"}}], "usage": {}}'.replace(
        "KEY", spelt
    )

    def handle(number, body):
        if number % 3:
            return httpx2.Response(200, text=echo)
        return httpx2.Response(400, text=f"who is {KEY}?") if number % 2 else httpx2.ReadError(f"with {KEY}")

    outcome, server = run(made, handle, key=asking.read_key("OPENAI_API_KEY"))
    assert outcome.verdicts and outcome.failed and server.headers[0]["authorization"].endswith(KEY)
    everywhere = [path.read_bytes() for path in made.dir.rglob("*") if path.is_file()]
    assert len(everywhere) > 16 and not any(KEY.encode() in content for content in everywhere)
    assert any(b"[key]" in content for content in everywhere)
    captured = capsys.readouterr()
    assert KEY not in captured.out + captured.err + caplog.text + repr(outcome)


def test_a_key_that_is_cut_short_is_not_shown(made):
    key = "k" * 80 + "x" * 80
    outcome, _ = run(made, lambda *_: httpx2.Response(401, text=f"{'no such key ' * 5}{key}"), key=key)
    assert "[key]" in outcome.stopped and "kkk" not in outcome.stopped


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nbreak", "ключ"])
def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch, key):
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(UserError, match="SOME_KEY") as error:
        asking.read_key("SOME_KEY")
    assert not key.strip() or key not in str(error.value)


def test_no_key_is_sent_where_none_is_wanted(made):
    assert asking.read_key("") is None
    _, server = run(made, lambda *_: says("tie"), key=None)
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "url",
    ["ftp://x/v1", "x", "http://me:secret@x/v1", "https://x/v1?key=secret", "https://x/v1#secret", "http://x:99999"],
)
def test_addresses_that_are_none_or_carry_a_secret(url):
    with pytest.raises(UserError, match="--url") as error:
        asking.check_url(url)
    assert "secret" not in str(error.value)


def test_a_key_goes_over_no_open_wire():
    for url in ("http://x.example/v1", "http://10.0.0.1/v1", "http://127.0.0.1.x.example/v1"):
        assert asking.check_url(url) == url
        with pytest.raises(UserError, match="unencrypted"):
            asking.check_url(url, secret=True)
        with pytest.raises(UserError, match="unencrypted"):
            asking.Client(url, KEY, asking.Budget(1), PRICES)
    for url in ("https://x.example/v1", "http://localhost:8/v1", "http://127.0.0.1:8/v1", "http://[::1]:8/v1"):
        assert asking.check_url(url, secret=True) == url


# The command line, over a socket.


@contextlib.contextmanager
def serving(handle):
    """The address of a server that speaks the protocol."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def complete(request):
        answer = handle(request.headers, await request.json())
        return Response(answer.content, answer.status_code, media_type="application/json")

    application = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(application, log_config=None, log_level="warning"))
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        running.should_exit = True
        thread.join()


def test_judging_from_the_command_line(made, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", KEY)
    asked = []

    def handle(headers, body):
        asked.append(headers["authorization"])
        return says(brighter(body)) if len(asked) != 5 else reply("no idea")

    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Prefer the brighter one.")
    with serving(handle) as url:
        command = ["judge", str(made.dir), "--model=m/x", f"--url={url}", "--price_in=2", "--price_out=8"]
        command += ["--max_cost=1", "--key_env=MY_KEY", f"--rubric={rubric}"]
        assert main(command) == 0 and asked == []
        told = capsys.readouterr().out
        assert "16 requests to m/x" in told and "the ceiling is $1" in told and "nothing was sent" in told
        assert "if each request is answered once, at 1600 tokens a picture" in told
        with alone(made.dir, "judged"):  # By another command, which would pay for the same.
            assert main([*command, "--yes"]) == 2 and asked == []
        assert "is being judged by another process" in capsys.readouterr().err
        assert main([*command, "--yes"]) == 0
        told = capsys.readouterr().out
        assert "15 verdicts" in told and "1 are missing" in told and told.count("failed: pair") == 1
        assert main([*command, "--yes", "--json"]) == 0
        numbers = json.loads(capsys.readouterr().out)
        assert (numbers["verdicts"], numbers["failed"], numbers["votes"]) == (1, 0, 16) and len(asked) == 17
        monkeypatch.delenv("MY_KEY")  # Nothing is left to ask: no key is needed.
        assert main([*command, "--yes"]) == 0 and len(asked) == 17
        assert "0 verdicts" in capsys.readouterr().out
    assert set(asked) == {f"Bearer {KEY}"}
    assert main(["compare", "report", str(made.dir)]) == 0
    assert "judge:m/x" in capsys.readouterr().out


def test_mistakes_on_the_command_line(made, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = ["judge", str(made.dir), "--model=m", f"--url={URL}", "--price_in=2", "--price_out=8"]
    for more, told in (
        (["--max_cost=1", "--yes"], "OPENAI_API_KEY is not set"),
        (["--max_cost=-1"], "must not be negative"),
        (["--max_cost=1", "--concurrency=0"], "must be positive"),
        (["--max_cost=1", "--image_tokens=-5"], "must be positive"),
        (["--max_cost=1", "--rubric=absent.txt"], "absent.txt is no file"),
        (["--max_cost=0", "--yes", "--key_env="], "leaves no room"),
    ):
        assert main([*command, *more]) == 2
        assert told in capsys.readouterr().err
