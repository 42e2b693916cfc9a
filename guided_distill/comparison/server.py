"""The raters' page: blind pairs, by keyboard, each rater under a secret link.

What is sent to a browser is the same for every pair: random ids, pictures that are not compressed (so equal sizes say
equal things), fixed headers. Which side is whose is looked up here, when a vote comes in.
"""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guided_distill.comparison import JUDGE, Comparison, Pair, load
from guided_distill.comparison.votes import Vote, Votes
from guided_distill.errors import UserError

HEADERS = {
    "Cache-Control": "no-store",  # A picture that comes from a cache would come at once, whatever its delay.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGE = {"": ("page.html", "text/html"), "page.css": ("page.css", "text/css"), "page.js": ("page.js", "text/javascript")}
LOCAL = ("127.0.0.1", "localhost")


def links(comparison: Comparison, raters: Sequence[str]) -> dict[str, str]:
    """rater -> the secret part of its link: that of raters.json, where it has one, so that links outlive the server.
    Raises `UserError` for names that are no names of people, and for a damaged file."""
    if not raters or len(set(raters)) < len(raters) or any(not name or name.startswith(JUDGE) for name in raters):
        raise UserError(f"--raters must be a number, or different names; got {', '.join(raters) or 'none'}")
    path = comparison.dir / "raters.json"
    known = _known(path) if path.is_file() else {}
    tokens = {name: known.get(name) or secrets.token_urlsafe(18) for name in raters}
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # Never anybody else's to read.
        file.write(json.dumps(known | tokens, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return tokens


def _known(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_text())
        if not isinstance(known, dict) or not all(isinstance(token, str) for token in known.values()):
            raise ValueError("not names and their secrets")
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; without it every rater gets a new link") from error
    return known


class Room:
    """What the page's requests do. `tokens`: rater -> secret; `delay`: a picture is kept back for as long as its system
    took to its first one; `sleep`: seconds -> awaitable."""

    def __init__(
        self,
        comparison: Comparison,
        tokens: Mapping[str, str],
        delay: bool = False,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ):
        self.comparison, self.votes, self.delay, self._sleep = comparison, Votes(comparison.dir), delay, sleep
        self._raters = {token: rater for rater, token in tokens.items()}
        self._plans = {rater: comparison.plan(rater) for rater in tokens}
        self._systems = {i: s for pair in comparison.pairs for i, s in zip(pair.images, pair.systems, strict=True)}
        if delay and (unknown := [name for name, told in comparison.systems.items() if told["seconds"] is None]):
            raise UserError(
                f"--delay: the time of {', '.join(unknown)} is not known; give `make` a --system NAME=...,seconds=1"
            )

    def _rater(self, request: Request) -> str:
        rater = self._raters.get(request.path_params["token"])
        if rater is None:
            raise HTTPException(404)
        return rater

    def state(self, rater: str) -> dict[str, Any]:
        """What a rater's page shows: how far it is, and the next pair by its random ids."""
        done = {vote.pair for vote in self.votes.read() if vote.rater == rater}
        out = {"done": len(done), "total": len(self._plans[rater]), "delay": self.delay}
        for pair, turned in self._plans[rater]:
            if pair.id not in done:
                left, right = pair.images[::-1] if turned else pair.images
                return out | {"pair": pair.id, "question": self.comparison.asked(pair), "left": left, "right": right}
        return out | {"pair": None}

    def file(self, request: Request) -> Response:
        """The page, its style, its script."""
        self._rater(request)
        name, kind = PAGE[request.url.path.rpartition("/")[2]]
        text = (files("guided_distill.comparison") / name).read_bytes()
        return Response(text, media_type=kind, headers=HEADERS)

    def read_state(self, request: Request) -> Response:
        """GET: the state."""
        return JSONResponse(self.state(self._rater(request)), headers=HEADERS)

    async def image(self, request: Request) -> Response:
        """GET: one picture, with `delay` not before its time."""
        self._rater(request)
        image = request.path_params["image"]
        if image not in self._systems:
            raise HTTPException(404)
        if self.delay:
            await self._sleep(self.comparison.systems[self._systems[image]]["seconds"])
        png = await run_in_threadpool(self.comparison.png, image)
        return Response(png, media_type="image/png", headers=HEADERS)

    async def vote(self, request: Request) -> Response:
        """POST {"pair", "choice": left | right | tie}: the next state, once the vote is on the disk."""
        rater, told = self._rater(request), await _json(request)
        pair, turned = next((p for p in self._plans[rater] if p[0].id == told.get("pair")), (None, False))
        if pair is None or told.get("choice") not in ("left", "right", "tie"):
            raise HTTPException(400, "a vote is a pair and one of left, right, tie")
        await run_in_threadpool(self.votes.cast, _as_vote(rater, pair, turned, told["choice"]))
        return JSONResponse(await run_in_threadpool(self.state, rater), headers=HEADERS)

    async def undo(self, request: Request) -> Response:
        """POST {}: the state before the rater's last vote."""
        rater, _ = self._rater(request), await _json(request)
        await run_in_threadpool(self.votes.take_back, rater)
        return JSONResponse(await run_in_threadpool(self.state, rater), headers=HEADERS)


def _as_vote(rater: str, pair: Pair, turned: bool, choice: str) -> Vote:
    left, right = pair.systems[::-1] if turned else pair.systems
    return Vote(rater, pair.id, left, right, {"left": left, "right": right, "tie": None}[choice])


async def _json(request: Request) -> dict:
    """The body. Only JSON: no form on another page can send it without asking first."""
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise HTTPException(415)
    try:
        told = await request.json()
    except ValueError:
        raise HTTPException(400, "no JSON") from None
    if not isinstance(told, dict):
        raise HTTPException(400, "no object")
    return told


def app(room: Room, hosts: Sequence[str] = LOCAL) -> Starlette:
    """The web application. `hosts`: the names by which it may be called; another page that was made to resolve to this
    address is not one."""
    here = "/r/{token}/"
    routes = [
        *(Route(here + name, room.file, name=name or "page") for name in PAGE),
        Route(here + "state", room.read_state),
        Route(here + "i/{image}", room.image),
        Route(here + "vote", room.vote, methods=["POST"]),
        Route(here + "undo", room.undo, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))])


def serve(out: str, raters: Sequence[str], host: str = "127.0.0.1", port: int = 8000, delay: bool = False) -> None:
    """Serves a comparison until it is interrupted; prints each rater's link. Raises `UserError` as `load`, `links` and
    `Room`."""
    comparison = load(out)
    tokens = links(comparison, raters)
    room = Room(comparison, tokens, delay)
    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve at {host}:{port}: {why}; take another --port (0: any)") from error
    if host not in LOCAL:
        print(f"{host} can be reached by others, and whoever has a link can vote by it", flush=True)
    for rater, token in tokens.items():
        print(f"{rater}: http://{host}:{listening.getsockname()[1]}/r/{token}/", flush=True)
    hosts = ("*",) if host == "0.0.0.0" else (*LOCAL, host)
    uvicorn.Server(uvicorn.Config(app(room, hosts), log_config=None, log_level="warning", server_header=False)).run(
        [listening]
    )
