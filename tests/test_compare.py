"""Comparisons: laws of the numbers, votes that are never lost, pages that tell nothing."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import shutil
import socket
import threading

import numpy as np
import pytest
from chromium import Chromium
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from guided_distill import comparison
from guided_distill.__main__ import main
from guided_distill.comparison import pairs, ranking, summary
from guided_distill.comparison.votes import Vote, Votes
from guided_distill.errors import UserError

server = pytest.importorskip("guided_distill.comparison.server", reason="requirements-compare.txt")
CHROMIUM = shutil.which("chromium")


def save_npz(path, low, num=40, side=8, labels=True):
    """Pictures of a level of brightness that tells whose they are."""
    images = np.random.default_rng(low).integers(low, low + 50, (num, side, side, 1), dtype=np.uint8)
    np.savez(path, images=images, **({"labels": np.arange(num) % 10} if labels else {}))
    return pairs.System(path.stem, path, seconds=low / 1000)


@pytest.fixture
def made(tmp_path):
    """Twelve pairs of two systems."""
    systems = [save_npz(tmp_path / "dusk.npz", 10), save_npz(tmp_path / "dawn.npz", 200)]
    return pairs.make(tmp_path / "out", systems, num=12, seed=3, question="Which is the better {label}?")


# Numbers.


@pytest.mark.parametrize(("wins", "num"), [(0, 7), (3, 10), (2.5, 9), (50, 100), (7, 7)])
def test_wilson_ends_where_the_share_is_z_deviations_away(wins, num):
    low, high = ranking.wilson(wins, num)
    for end in (low, high):  # The score interval's defining equation.
        assert (wins / num - end) ** 2 == pytest.approx(ranking.Z**2 * end * (1 - end) / num, abs=1e-12)
    assert low <= wins / num <= high and low < high
    assert ranking.wilson(0, 0) == (0, 1)


def test_cohens_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    one = rng.choice(["earlier", "later", "tie"], 60).tolist()
    two = [a if keep else b for a, b, keep in zip(one, rng.permutation(one).tolist(), rng.random(60) < 0.6)]
    assert ranking.cohen(one, two) == pytest.approx(cohen_kappa_score(one, two))
    assert ranking.cohen(one, one) == 1
    assert ranking.cohen(["tie"], ["tie"]) is None and ranking.cohen([], []) is None


def test_fleiss_kappa_of_the_textbook():
    rows = "0 0 0 0 14,0 2 6 4 2,0 0 3 5 6,0 3 9 2 0,2 2 8 1 1,7 7 0 0 0,3 2 6 3 0,2 5 3 2 2,6 5 2 1 0,0 2 2 3 7"
    counts = np.array([[int(n) for n in row.split()] for row in rows.split(",")])
    assert ranking.fleiss(counts) == pytest.approx(0.210, abs=5e-4)
    assert ranking.fleiss(np.diag([3, 3])) == 1
    assert ranking.fleiss(np.array([[2, 0], [2, 0]])) is None and ranking.fleiss(np.zeros((0, 3), int)) is None


def test_two_systems_differ_by_the_log_odds():
    found = ranking.bradley_terry(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert found.values[0] - found.values[1] == pytest.approx(np.log(3), abs=1e-7)
    step = np.array([1, -1])
    assert step @ found.covariance @ step == pytest.approx(1 / (40 * 0.75 * 0.25))  # Of a log odds, 1 / (n p q).
    assert not found.regularised and found.values.sum() == pytest.approx(0)


def test_strengths_are_recovered_from_what_they_predict():
    strengths = np.array([1.2, 0.1, -0.4, -0.9])
    odds = 1 / (1 + np.exp(strengths[None] - strengths[:, None]))
    found = ranking.bradley_terry(50 * odds)
    np.testing.assert_allclose(found.values, strengths, atol=1e-6)
    rng = np.random.default_rng(1)
    games, wins = 4000, np.zeros((4, 4))
    for i, j in itertools.combinations(range(4), 2):
        wins[i, j] = rng.binomial(games, odds[i, j])
        wins[j, i] = games - wins[i, j]
    votes = ranking.bradley_terry(wins)
    errors = (votes.values - strengths) / np.sqrt(np.diag(votes.covariance))
    assert np.abs(errors).max() < 3.5 and np.sqrt(np.diag(votes.covariance)).max() < 0.03


def test_one_that_always_wins_gets_half_a_win_against_it():
    found = ranking.bradley_terry(np.array([[0.0, 9.0], [0.0, 0.0]]))
    assert found.regularised
    assert found.values[0] - found.values[1] == pytest.approx(np.log(9.5 / 0.5), abs=1e-6)
    nothing = ranking.bradley_terry(np.zeros((3, 3)))
    np.testing.assert_allclose(nothing.values, 0, atol=1e-9)
    apart = ranking.bradley_terry(np.kron(np.eye(2), np.array([[0.0, 4.0], [2.0, 0.0]])))  # Never met: two and two.
    assert apart.regularised and np.isfinite(apart.covariance).all()


# Votes.


def a_vote(pair="p", rater="anna", winner="dusk", left="dusk", **more):
    return Vote(rater, pair, left, "dawn" if left == "dusk" else "dusk", winner, **more)


def test_a_vote_counts_once_and_can_be_taken_back(tmp_path):
    votes = Votes(tmp_path)
    assert votes.read() == [] and votes.take_back("anna") is None
    assert votes.cast(a_vote("p")) and votes.cast(a_vote("q", winner=None)) and not votes.cast(a_vote("p"))
    assert votes.cast(a_vote("q", rater="ben"))
    assert votes.take_back("anna").pair == "q"
    assert [(v.rater, v.pair) for v in Votes(tmp_path).read()] == [("anna", "p"), ("ben", "q")]
    assert votes.cast(a_vote("q", winner="dawn")) and votes.read()[-1].winner == "dawn"
    assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 5  # Nothing is ever erased.


def test_another_request_replaces_a_models_vote(tmp_path):
    votes = Votes(tmp_path)
    assert votes.cast(a_vote(request="a")) and not votes.cast(a_vote(request="a", winner=None))
    assert votes.cast(a_vote(request="a", left="dawn"))  # The other way round is a place of its own.
    assert votes.cast(a_vote(request="b", winner="dawn"))
    assert [(v.left, v.winner) for v in votes.read()] == [("dawn", "dusk"), ("dusk", "dawn")]


def test_a_person_may_think_better_of_it_in_another_tab(tmp_path):
    votes = Votes(tmp_path)
    assert votes.cast(a_vote("p", winner="dusk")) and votes.cast(a_vote("q"))
    assert votes.cast(a_vote("p", winner=None)) and not votes.cast(a_vote("p", winner=None))
    assert [(v.pair, v.winner) for v in votes.read()] == [("q", "dusk"), ("p", None)]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_kill_in_the_middle_of_a_line_costs_that_line_only(tmp_path, cut):
    votes = Votes(tmp_path)
    for pair in "pq":
        votes.cast(a_vote(pair))
    whole = votes.path.read_bytes()
    votes.path.write_bytes(whole[:-cut])
    assert [v.pair for v in votes.read()] == ["p"]
    votes.cast(a_vote("r"))
    assert [v.pair for v in votes.read()] == ["p", "r"]


def test_a_damaged_line_is_told(tmp_path):
    votes = Votes(tmp_path)
    votes.cast(a_vote())
    votes.path.write_bytes(b"{}\n" + votes.path.read_bytes())
    with pytest.raises(UserError, match="line 1 is not a vote"):
        votes.read()


def test_many_may_vote_at_once(tmp_path):
    raters, cast, together = ["anna", "ben"] * 4, [], threading.Barrier(8)

    def vote(rater):
        for pair in range(20):
            together.wait()
            cast.append(Votes(tmp_path).cast(a_vote(str(pair), rater)))

    threads = [threading.Thread(target=vote, args=(rater,)) for rater in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Votes(tmp_path).read()) == sum(cast) == 40  # Each rater had four pages open, and clicked in all.
    assert len(Votes(tmp_path).path.read_text().splitlines()) == 40


# Pairs.


def test_pictures_tell_nothing_but_themselves(tmp_path):
    save_npz(tmp_path / "dusk.npz", 10)
    folder = tmp_path / "dawn"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(30):  # Of another format, with more colours, easier to compress, and with a note of whose they are.
        picture = Image.fromarray(np.full((8, 8, 3), rng.integers(200, 250), np.uint8))
        picture.save(folder / f"{k:02d}.jpg", comment=b"by dawn")
    systems = [pairs.parse(f"dusk={tmp_path / 'dusk.npz'},seconds=2"), pairs.parse(f"dawn={folder}")]
    made = pairs.make(tmp_path / "out", systems, num=12)
    pngs = [made.png(image) for pair in made.pairs for image in pair.images]
    assert len({len(png) for png in pngs}) == 1 and len(list((made.dir / "images").iterdir())) == 24
    assert not any(b"dawn" in png for png in pngs)
    for pair in made.pairs:
        levels = [np.asarray(Image.open(io.BytesIO(made.png(image)))) for image in pair.images]
        assert levels[0].shape == (8, 8, 3) and levels[0].max() < 100 < levels[1].min()
        assert pair.systems == ("dusk", "dawn")
    assert [pair.label for pair in made.pairs] == [k % 10 for k in range(12)]
    assert made.systems["dusk"]["seconds"] == 2 and made.systems["dawn"]["seconds"] is None


def test_every_rater_has_an_order_and_sides_of_its_own(made):
    anna, ben = made.plan("anna"), made.plan("ben")
    assert comparison.load(made.dir).plan("anna") == anna != ben
    for plan in (anna, ben):
        assert {pair.id for pair, _ in plan} == {pair.id for pair in made.pairs}
        assert sum(turned for _, turned in plan) == 6


def test_sides_cannot_be_worked_out_from_what_is_public(made, tmp_path):
    """The same systems, seed and name, made anew."""
    systems = [pairs.System(name, tmp_path / f"{name}.npz") for name in ("dusk", "dawn")]
    again = pairs.make(tmp_path / "again", systems, num=12, seed=3)
    plans = [[(one.pairs.index(pair), turned) for pair, turned in one.plan("anna")] for one in (made, again)]
    assert plans[0] != plans[1] and len(again.salt) == 32
    assert dataclasses.replace(made, seed=4).plan("anna") == made.plan("anna")
    assert (tmp_path / "again").stat().st_mode & 0o077 == 0  # Who reads the salt can work them out.


@pytest.mark.parametrize(("count", "num"), [(3, 30), (4, 20)])
def test_matches_of_several_systems_are_alike_and_independent(tmp_path, count, num):
    names = "abcd"[:count]
    systems = [save_npz(tmp_path / f"{name}.npz", k) for k, name in enumerate(names)]
    made = pairs.make(tmp_path / "out", systems, num=num)
    plan = dict(made.plan("anna"))
    for match in itertools.combinations(names, 2):
        own = [pair for pair in made.pairs if pair.systems == match]
        assert count == 4 or sorted(pair.label for pair in own) == list(range(10))
        assert abs(sum(plan[pair] for pair in own) - len(own) / 2) <= 0.5
    assert len({made.png(image) for pair in made.pairs for image in pair.images}) == 2 * num  # None is in two pairs.


@pytest.mark.parametrize("systems", range(2, 9))
def test_no_system_shows_a_picture_twice(systems):
    starts, matches = pairs._starts(systems, 5), list(itertools.combinations(range(systems), 2))
    for system in range(systems):
        own = [start for start, match in zip(starts, matches, strict=True) if system in match]
        assert len(set(own)) == systems - 1 and all(start % 5 == 0 for start in own)
    assert min(starts) == 0 and max(starts) <= 5 * (systems - 1 if systems > 2 else 0)


@pytest.mark.slow
def test_runs_are_drawn_and_timed(digits, tmp_path):
    one, two = (pairs.parse(f"{name}={digits / 'teacher'},steps=2,w=1") for name in ("one", "two"))
    (pair,) = pairs.make(tmp_path / "same", [one, two], num=1, same_noise=True).pairs
    made = comparison.load(tmp_path / "same")
    assert made.png(pair.images[0]) == made.png(pair.images[1])
    told = {key: made.systems["one"][key] for key in ("run", "steps", "guidance", "sampler", "seed")}
    assert told == {"run": True, "steps": 2, "guidance": 1.0, "sampler": "ddim", "seed": 0}
    assert made.systems["one"]["seconds"] > 0
    student = pairs.parse(f"student={digits / 'stage1'},steps=1,seconds=0.25")
    other = pairs.make(tmp_path / "other", [one, student], num=1)
    assert len({other.png(image) for image in other.pairs[0].images}) == 2
    assert other.systems["student"]["seconds"] == 0.25 and other.systems["student"]["steps"] == 1
    presets = {"fast": {"steps": 3, "sampler": "heun", "guidance": 0.5}}
    document = {"format": 1, "presets": presets, "ranges": [], "settings": {"hash": ""}}
    chosen = pairs.parse(f"chosen={shutil.copytree(digits / 'teacher', tmp_path / 'run')},preset=fast,w=2,seconds=1")
    (tmp_path / "run" / "presets.json").write_text(json.dumps(document))
    told = pairs.draw(chosen, 1, 0, np.array([3])).told
    assert (told["steps"], told["sampler"], told["guidance"]) == (3, "heun", 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one, two: ([one], {}), "two systems or more"),
        (lambda one, two: ([one, one], {}), "two systems or more"),
        (lambda one, two: ([one, two], {"num": 0}), "not positive"),
        (lambda one, two: ([one, two], {"num": 41}), "has 40 pictures; 41 are needed"),
        (lambda one, two: ([one, pairs.System("x", one.source.parent / "absent")], {}), "no run, no folder"),
        (lambda one, two: ([one, pairs.System("x", two.source, steps=4)], {}), "takes no steps"),
        (lambda one, two: ([one, save_npz(one.source.with_name("big.npz"), 3, side=9)], {}), "differ in size"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, change, told):
    systems, options = change(save_npz(tmp_path / "one.npz", 1), save_npz(tmp_path / "two.npz", 2))
    with pytest.raises(UserError, match=told):
        pairs.make(tmp_path / "out", systems, **{"num": 4, **options})
    assert not (tmp_path / "out").exists()


def test_labels_have_to_be_the_same(tmp_path):
    one = save_npz(tmp_path / "one.npz", 1)
    with np.load(one.source) as file:
        np.savez(tmp_path / "two.npz", images=file["images"], labels=file["labels"][::-1])
    with pytest.raises(UserError, match="not of the same labels"):
        pairs.make(tmp_path / "out", [one, pairs.System("two", tmp_path / "two.npz")])


@pytest.mark.parametrize("labels", [np.arange(3), np.array(["cat"] * 40), np.array([None] * 40)])
def test_labels_that_are_none_are_told_before_anything_is_written(tmp_path, labels):
    one = save_npz(tmp_path / "one.npz", 1)
    with np.load(one.source) as file:
        np.savez(tmp_path / "two.npz", images=file["images"], labels=labels)
    with pytest.raises(UserError, match=r"labels in .*expected an integer a picture|cannot read images in"):
        pairs.make(tmp_path / "out", [one, pairs.System("two", tmp_path / "two.npz")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["runs/x", "=runs/x", "a b=runs/x", "a=", "a=runs/x,steps=two", "a=runs/x,colour=3"])
def test_a_system_that_cannot_be_read(text):
    with pytest.raises(UserError, match="--system"):
        pairs.parse(text)


def test_a_comparison_is_never_overwritten(made):
    with pytest.raises(UserError, match="there is a comparison"):
        pairs.make(made.dir, [pairs.System("a", made.dir), pairs.System("b", made.dir)])


# The page.


@pytest.fixture
def visit(made):
    """visit(**options of the room) -> (client, {rater: its address})."""
    from starlette.testclient import TestClient

    with contextlib.ExitStack() as stack:

        def open_(raters=("anna", "ben"), **options):
            tokens = server.links(made, raters)
            client = TestClient(server.app(server.Room(made, tokens, **options)), base_url="http://127.0.0.1:8000")
            return stack.enter_context(client), {rater: f"/r/{token}/" for rater, token in tokens.items()}

        yield open_


def best(made, state):
    """left or right: the side of dawn, as somebody sees it who only has the pictures."""
    sides = {side: made.png(state[side]) for side in ("left", "right")}
    return max(sides, key=lambda side: np.asarray(Image.open(io.BytesIO(sides[side]))).mean())


def test_a_round_on_the_page(made, visit):
    client, at = visit()
    state = client.get(at["anna"] + "state").json()
    for done in range(12):
        assert state["done"] == done and state["total"] == 12
        choice = "tie" if done == 5 else best(made, state)
        state = client.post(at["anna"] + "vote", json={"pair": state["pair"], "choice": choice}).json()
    assert state == {"done": 12, "total": 12, "delay": False, "pair": None}
    votes = Votes(made.dir).read()
    assert [vote.winner for vote in votes] == ["dawn"] * 5 + [None] + ["dawn"] * 6
    assert {vote.left for vote in votes} == {"dusk", "dawn"} and all(vote.at for vote in votes)


def test_undo_and_coming_back_another_day(made, visit):
    client, at = visit()
    first = client.get(at["anna"] + "state").json()
    second = client.post(at["anna"] + "vote", json={"pair": first["pair"], "choice": "left"}).json()
    assert second["pair"] != first["pair"]
    assert client.post(at["anna"] + "vote", json={"pair": first["pair"], "choice": "left"}).json() == second  # Twice.
    other, again = visit(raters=("anna", "ben", "carla"))  # The server was stopped, and started with one more.
    assert again["anna"] == at["anna"]
    assert other.get(at["anna"] + "state").json() == second
    assert other.get(at["ben"] + "state").json()["done"] == 0
    assert client.post(at["anna"] + "undo", json={}).json() == first
    assert client.post(at["anna"] + "undo", json={}).json() == first  # There is nothing more to take back.


def test_nothing_that_is_sent_tells_whose_a_picture_is(made, visit):
    client, at = visit()
    state = client.get(at["anna"] + "state")
    told = state.json()
    assert set(told) == {"done", "total", "delay", "pair", "question", "left", "right"}
    assert told["question"] in {f"Which is the better {k}?" for k in range(10)}
    sides = [client.get(f"{at['anna']}i/{told[side]}") for side in ("left", "right")]
    assert sides[0].headers == sides[1].headers and sides[0].content != sides[1].content
    assert "etag" not in sides[0].headers and sides[0].headers["cache-control"] == "no-store"
    after = client.post(at["anna"] + "vote", json={"pair": told["pair"], "choice": "left"})
    shown = [client.get(at["anna"] + name) for name in server.PAGE]
    for answer in (state, after, *sides, *shown):
        whole = answer.content + str(answer.headers).encode()
        assert answer.status_code == 200 and not any(name in whole for name in (b"dusk", b"dawn", b"npz"))
    assert all("http" not in answer.text.replace("http-equiv", "") for answer in shown)  # Nothing from elsewhere.


def test_who_has_no_link_has_no_page(made, visit):
    client, at = visit()
    state = client.get(at["anna"] + "state").json()
    vote = {"pair": state["pair"], "choice": "left"}
    for name in ("", "state", "page.js", f"i/{state['left']}"):
        assert client.get(f"/r/guessed/{name}").status_code == 404
    assert client.post("/r/guessed/vote", json=vote).status_code == 404
    assert client.get(at["anna"] + "i/../comparison").status_code == 404
    assert client.get(at["anna"] + "i/absent").status_code == 404
    assert client.get(at["anna"] + "state", headers={"host": "evil.example"}).status_code == 400
    assert client.post(at["anna"] + "vote", data=vote).status_code == 415  # As a form of another page would.
    for wrong in ({**vote, "choice": "dusk"}, {**vote, "pair": "absent"}, {}, []):
        assert client.post(at["anna"] + "vote", json=wrong).status_code == 400
    headers = {"content-type": "application/json"}
    assert client.post(at["anna"] + "vote", content="{", headers=headers).status_code == 400
    assert Votes(made.dir).read() == []
    assert len(set(at.values())) == 2 and (made.dir / "raters.json").stat().st_mode & 0o077 == 0


def test_each_picture_is_kept_back_for_its_systems_time(made, visit):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    client, at = visit(delay=True, sleep=sleep)
    state = client.get(at["anna"] + "state").json()
    assert state["delay"] is True
    for side in ("left", "right", "left"):
        assert client.get(f"{at['anna']}i/{state[side]}").status_code == 200
    dawn = best(made, state)
    assert waited == [0.2 if side == dawn else 0.01 for side in ("left", "right", "left")]


def test_a_delay_needs_times(tmp_path):
    systems = [save_npz(tmp_path / "a.npz", 1), pairs.System("b", save_npz(tmp_path / "b.npz", 2).source)]
    made = pairs.make(tmp_path / "out", systems, num=2)
    with pytest.raises(UserError, match="time of b is not known"):
        server.Room(made, server.links(made, ["anna"]), delay=True)


@pytest.mark.parametrize("raters", [[], ["anna", "anna"], [""], ["judge:x"]])
def test_raters_have_names(made, raters):
    with pytest.raises(UserError, match="--raters"):
        server.links(made, raters)


def test_links_are_never_anybody_elses_to_read(made, monkeypatch):
    written = []
    monkeypatch.setattr(os, "fsync", lambda file: written.append(os.fstat(file).st_mode & 0o777))
    for _ in range(2):
        server.links(made, ["anna"])
    assert written == [0o600, 0o600]


@pytest.mark.parametrize("text", ["", "[]", '{"anna": 1}', "{"])
def test_damaged_links_are_told(made, text):
    (made.dir / "raters.json").write_text(text)
    with pytest.raises(UserError, match=r"raters\.json is damaged"):
        server.links(made, ["anna"])


def test_serving_from_the_command_line(made, capsys, monkeypatch):
    served = []
    monkeypatch.setattr(server.uvicorn.Server, "run", lambda self, sockets: served.append((self.config, sockets)))
    assert main(["compare", "serve", str(made.dir), "--raters=anna, ben", "--port=0"]) == 0
    ((config, (listening,)),) = served
    host, port = listening.getsockname()
    assert host == "127.0.0.1" and not config.server_header
    tokens = json.loads((made.dir / "raters.json").read_text())
    assert list(tokens) == ["anna", "ben"]
    assert capsys.readouterr().out.splitlines() == [f"{r}: http://{host}:{port}/r/{t}/" for r, t in tokens.items()]
    assert main(["compare", "serve", str(made.dir), f"--port={port}"]) == 2  # Taken.
    assert "another --port" in capsys.readouterr().err
    listening.close()


def test_a_missing_package_is_told():
    with pytest.raises(UserError, match=r"needs not_there: pip install -r requirements-compare\.txt"):
        comparison.need("json", "not_there")


# What the votes say.


def vote_all(made, rater, winner, both=False):
    """winner(number, pair, left) -> a system or None."""
    for number, (pair, turned) in enumerate(made.plan(rater)):
        for flip in (turned, not turned) if both else (turned,):
            left, right = pair.systems[::-1] if flip else pair.systems
            Votes(made.dir).cast(Vote(rater, pair.id, left, right, winner(number, pair, left)))


def test_shares_agreement_and_habits(made):
    ids = [pair.id for pair in made.pairs]
    vote_all(made, "anna", lambda _, pair, left: "dawn" if ids.index(pair.id) < 9 else "dusk")
    vote_all(made, "ben", lambda _, pair, left: None if ids.index(pair.id) < 3 else "dawn")
    vote_all(made, "judge:left", lambda _, pair, left: left, both=True)
    vote_all(made, "judge:fair", lambda _, pair, left: "dawn", both=True)
    found = summary.summarise(made, Votes(made.dir).read())
    people = found["groups"]["people"]
    assert (people["votes"], people["pairs"], people["ties"]) == (24, 12, 3 / 24)
    dawn, dusk = people["systems"]
    # Three pairs at 3/4 (a win and a tie), six won by both, three at a half.
    assert dawn["system"] == "dawn" and dawn["share"] == pytest.approx((3 * 0.75 + 6 + 1.5) / 12)
    assert dusk["share"] == pytest.approx(1 - dawn["share"]) and dawn["num"] == 12
    assert (dawn["low"], dawn["high"]) == ranking.wilson(9.75, 12)
    assert dawn["strength"] - dusk["strength"] == pytest.approx(np.log(9.75 / 2.25))
    agreed = {row["raters"]: row for row in found["agreement"]}
    assert agreed["anna and ben"]["agreement"] == 0.5 and agreed["anna and ben"]["pairs"] == 12
    one = ["later"] * 9 + ["earlier"] * 3
    two = ["tie"] * 3 + ["later"] * 9
    assert agreed["anna and ben"]["kappa"] == pytest.approx(cohen_kappa_score(one, two))
    left, fair = found["groups"]["judge:left"], found["groups"]["judge:fair"]
    assert left["flips"]["share"] == 1 and left["left"]["share"] == 1
    assert fair["flips"]["share"] == 0 and fair["left"]["share"] == 0.5
    assert fair["left"]["num"] == people["left"]["num"] == 12  # Two votes on a pair are no two observations.
    assert left["systems"][0]["strength"] == pytest.approx(0)  # What depends on the order only is no preference.
    assert fair["systems"][0]["regularised"] and fair["systems"][0]["system"] == "dawn"
    assert found["fleiss_kappa"] == pytest.approx(
        ranking.fleiss(np.array([[0, 1, 1]] * 3 + [[0, 2, 0]] * 6 + [[1, 1, 0]] * 3))
    )


def test_a_pair_that_was_judged_one_way_round_only_does_not_count(made):
    vote_all(made, "judge:m", lambda _, pair, left: "dawn")
    group = summary.summarise(made, Votes(made.dir).read())["groups"]["judge:m"]
    assert group["pairs"] == 0 and group["flips"]["share"] is None and group["systems"][0]["share"] is None
    assert [row["strength"] for row in group["systems"]] == [None, None]


def test_a_system_without_votes_has_no_strength(tmp_path):
    made = pairs.make(tmp_path / "out", [save_npz(tmp_path / f"{n}.npz", k) for k, n in enumerate("abc")], num=30)
    votes = [Vote("anna", p.id, *p.systems, winner=p.systems[k % 3 > 0]) for k, p in enumerate(made.pairs[::3])]
    found = summary.summarise(made, votes)
    b, a, c = found["groups"]["people"]["systems"]
    assert [row["system"] for row in (b, a, c)] == ["b", "a", "c"]
    assert b["strength"] - a["strength"] == pytest.approx(np.log(6 / 4)) and not b["regularised"]
    assert (c["strength"], c["share"], c["num"]) == (None, None, 0)
    assert summary.tables(found)[0]["rows"][2] == ["c", "-", 0, "-"]


def test_pairs_judged_by_two_rubrics_are_left_out(made):
    vote_all(made, "judge:m", lambda _, pair, left: "dusk", both=True)
    for pair in made.pairs[:5]:
        for left, right in itertools.permutations(pair.systems):
            if (pair, left) != (made.pairs[4], "dawn"):  # The last one was asked one way round only.
                Votes(made.dir).cast(Vote("judge:m", pair.id, left, right, "dawn", request="new", rubric="new"))
    found = summary.summarise(made, Votes(made.dir).read())
    group = found["groups"]["judge:m"]
    assert (group["pairs"], group["outdated"]) == (4, 8) and group["systems"][0]["system"] == "dawn"
    assert group["systems"][0]["share"] == 1 and found["raters"] == {"judge:m": 4}
    assert "judge:m: 8 pairs are left out" in summary.notes(made, found)[-1]


def test_names_are_printed_as_they_are(made, capsys):
    names = ["[/bold]", "judge:[red]:x:", "anna"]
    for name in names:
        vote_all(made, name, lambda _, pair, left: left, both=name.startswith("judge:"))
    found = summary.summarise(made, Votes(made.dir).read())
    summary.show(found, ["[red]note"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*names, "[red]note"])


def test_report_from_the_command_line(made, tmp_path, capsys):
    assert main(["compare", "report", str(made.dir)]) == 2 and "nobody has voted" in capsys.readouterr().err
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    path = made.dir / "comparison.json"
    told = json.loads(path.read_text())
    told["systems"]["dawn"] |= {"source": str(run), "run": True, "steps": 4, "guidance": 1.0, "sampler": "ddim"}
    path.write_text(json.dumps(told))
    vote_all(made, "anna", lambda number, pair, left: "dawn" if number else None)
    assert main(["compare", "report", str(made.dir), "--json"]) == 0
    flat = json.loads(capsys.readouterr().out)
    assert flat["people/dawn/share"] == flat["people/dusk over dawn/share"] * -1 + 1 == pytest.approx(11.5 / 12)
    assert not any(isinstance(value, dict | list) for value in flat.values())
    section = json.loads((run / "sections" / "compare_out.json").read_text())
    assert section["title"] == "Judged side by side: dusk, dawn" and "half a win" in " ".join(section["notes"])
    assert section["tables"][0]["rows"][0][0] == "dawn" and "0.96 (" in section["tables"][0]["rows"][0][1]
    assert main(["compare", "report", str(made.dir)]) == 0
    printed = capsys.readouterr().out
    assert "dawn" in printed and "strength" in printed and "compare_out.json" in printed
    (run / "manifest.json").unlink()
    assert main(["compare", "report", str(made.dir)]) == 0
    assert f"no section for {run}" in capsys.readouterr().err


def test_making_from_the_command_line(tmp_path, capsys):
    for name in ("a", "b"):
        save_npz(tmp_path / f"{name}.npz", 1)
    systems = [f"--system={name}={tmp_path / name}.npz" for name in ("a", "b")]
    assert main(["compare", "make", str(tmp_path / "out"), *systems, "--num=4"]) == 0
    assert "4 pairs of a, b" in capsys.readouterr().out and len(comparison.load(tmp_path / "out").pairs) == 4


@pytest.mark.parametrize(("text", "told"), [(None, "no comparison"), ("{", "damaged"), ('{"format": 9}', "format 9")])
def test_a_directory_that_is_no_comparison(tmp_path, text, told):
    if text:
        (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(UserError, match=told):
        comparison.load(tmp_path)


# In a browser.


@contextlib.contextmanager
def serving(application):
    """Its address, while it is served."""
    listening = socket.create_server(("127.0.0.1", 0))
    running = server.uvicorn.Server(server.uvicorn.Config(application, log_config=None, log_level="warning"))
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


SENT_BY = """(() => {  // How many requests keys send that are pressed at once.
    const real = fetch;
    let sent = 0;
    fetch = (...told) => { sent += 1; return real(...told); };
    for (const key of %s) dispatchEvent(new KeyboardEvent("keydown", { key }));
    fetch = real;
    return sent;
})()"""
READY = "!document.querySelector('#left').disabled && document.querySelector('#count').textContent"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
def test_two_raters_in_a_browser(made, tmp_path):
    tokens = server.links(made, ["anna", "ben"])
    with serving(server.app(server.Room(made, tokens))) as url, Chromium(CHROMIUM, tmp_path / "profile") as browser:
        anna, ben = (browser.tab(f"{url}/r/{tokens[rater]}/") for rater in ("anna", "ben"))
        keys = {"anna": ["ArrowLeft", "ArrowRight", "t"] * 4, "ben": ["ArrowDown", "ArrowRight"] * 6}
        for done in range(12):
            for tab, rater in ((anna, "anna"), (ben, "ben")):
                tab.until(f"({READY}) === '{done} of 12'")
                shapes = tab.value("[...document.querySelectorAll('.frame img.there')].map((i) => i.naturalWidth)")
                assert shapes == [8, 8]
                if (rater, done) == ("anna", 4):  # One too far, back, and the page loaded anew.
                    tab.press("ArrowRight")
                    tab.until(f"({READY}) === '5 of 12'")
                    tab.press("z")
                    tab.until(f"({READY}) === '4 of 12'")
                    tab.reload()
                    tab.until(f"({READY}) === '4 of 12'")
                if (rater, done) == ("anna", 6):  # An undo while the vote is on its way.
                    assert tab.value(SENT_BY % json.dumps([keys[rater][done], "z"])) == 1
                    continue
                tab.press(keys[rater][done])
        for tab in (anna, ben):
            assert tab.until("!document.querySelector('#end').hidden") is True
        assert anna.value("document.querySelector('#pair').hidden && document.querySelector('#trouble').hidden") is True
    votes = Votes(made.dir).read()
    for rater, pressed in keys.items():
        own = [vote for vote in votes if vote.rater == rater]
        assert [vote.pair for vote in own] == [pair.id for pair, _ in made.plan(rater)]
        meant = {"ArrowLeft": "left", "ArrowRight": "right"}
        assert [v.winner for v in own] == [getattr(v, meant[k]) if k in meant else None for v, k in zip(own, pressed)]
