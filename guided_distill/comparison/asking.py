"""Requests to a chat model that cost money: a ceiling that holds, retries, and a key that is written nowhere.

The address is OpenAI-compatible: POST URL/chat/completions.
"""

import asyncio
import dataclasses
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2

from guided_distill.errors import UserError

ATTEMPTS = 4
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # Seconds; doubled from one attempt to the next.
AGAIN = {408, 409, 425, 429, *range(500, 600)}  # Statuses that may pass.
WRONG = {401, 402, 403, 404}  # Those that every other request would meet, too.
Sleep = Callable[[float], Awaitable[Any]]


class CeilingReached(Exception):
    """The next request could cost more than is left, or none may go out any more."""


class NoAnswer(Exception):
    """This request got nothing of use; the message says why."""


class Refused(Exception):
    """No request will be answered: a wrong key, no money, an unknown model. The message is the server's."""


@dataclasses.dataclass(frozen=True)
class Prices:
    """US dollars for a million tokens in and out."""

    into: int | float
    out: int | float

    def of(self, tokens_in: int, tokens_out: int) -> int | float:
        """US dollars."""
        return (tokens_in * self.into + tokens_out * self.out) / 1e6


class Budget:
    """A request goes out only when the worst that all requests in flight can cost still fits under `ceiling`, in US
    dollars. So `spent` passes it only by what answers cost beyond that worst.

    The worst of a request is what its caller estimates, or the worst that an answer has shown to be possible. Until
    there is an answer requests go out one by one, so that an estimate that is too low is known before there are many.
    """

    def __init__(self, ceiling: int | float):
        self.ceiling, self.spent, self.worst = ceiling, 0.0, 0.0
        self._held: list[float] = []
        self._answered, self._closed = False, False
        self._changed = asyncio.Condition()

    async def reserve(self, worst: int | float) -> int | float:
        """Waits until a request may go out; returns what is held for it. Raises `CeilingReached` if it never may."""
        async with self._changed:
            while True:
                amount = max(worst, self.worst)
                fits = not self._closed and self.spent + sum(self._held) + amount <= self.ceiling
                if fits and (self._answered or not self._held):
                    self._held.append(amount)
                    return amount
                if not self._held:
                    raise CeilingReached
                await self._changed.wait()

    def close(self) -> None:
        """No further request goes out, nor those that wait."""
        self._closed = True

    async def settle(self, held: int | float, cost: int | float, worst: int | float | None = None) -> None:
        """A request came back, and cost this much; `worst`: what it could have cost, if it was answered."""
        async with self._changed:
            self._held.remove(held)
            self.spent += cost
            self.worst = max(self.worst, worst or 0.0)
            self._answered |= worst is not None
            self._changed.notify_all()


def read_key(variable: str) -> str | None:
    """The key in an environment variable; None for the empty name. Raises `UserError` when it is missing, or could not
    be sent: a library's own complaint would show it."""
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(
            f"{variable} is not set: export the key there, name another with --key_env, or --key_env= for none"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"what is in {variable} is not a key: it has blanks or signs that no header can carry")
    return key


def check_url(url: str, secret: bool = False) -> str:
    """The address without a slash at its end. Raises `UserError` for what is none, or carries a secret itself, and
    where a `secret` that goes with it could be read on the way."""
    try:
        parts, _ = urlsplit(url), urlsplit(url).port
    except ValueError as error:
        raise UserError(f"--url: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("--url must be such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError("--url must not carry a name, a password, a query or a #: keys go into an environment variable")
    if secret and parts.scheme == "http" and not _loopback(parts.hostname):
        raise UserError(f"--url: a key would go to {parts.hostname} unencrypted; use https, or --key_env= for no key")
    return url.rstrip("/")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Client:
    """Sends requests, at most what the budget lets. `key` stands in the header of a request and nowhere else: whatever
    comes back has it blotted out. `transport` and `sleep` are for tests."""

    def __init__(
        self,
        url: str,
        key: str | None,
        budget: Budget,
        prices: Prices,
        *,
        timeout: int | float = 60.0,
        sleep: Sleep = asyncio.sleep,
        transport: Any = None,
    ):
        self._key, self._budget, self._prices, self._sleep = key, budget, prices, sleep
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = check_url(url, bool(key)) + "/chat/completions"
        self._http = httpx2.AsyncClient(headers=headers, timeout=timeout, transport=transport)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._http.aclose()

    async def ask(self, body: dict[str, Any], tokens_in: int, tokens_out: int) -> dict[str, Any]:
        """{"text", "finish", "tokens_in", "tokens_out", "cost" in US dollars} of a request that is estimated to have at
        most these tokens.

        Waits and tries again where that may help. Raises `NoAnswer`, `CeilingReached` and `Refused`.
        """
        wait, why, worst = FIRST_WAIT, "", self._prices.of(tokens_in, tokens_out)
        for attempt in range(ATTEMPTS):
            if attempt:
                await self._sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            held = cost = await self._budget.reserve(worst)  # It counts in full where nobody says what was billed.
            shown = None
            try:
                reply = await self._http.post(self._url, json=body)
                if reply.status_code == 200:
                    answer, shown = self._read(reply.text), worst
                    if answer["tokens_in"] is not None:
                        cost = self._prices.of(answer["tokens_in"], answer["tokens_out"])
                        shown = self._prices.of(answer["tokens_in"], max(answer["tokens_out"], tokens_out))
                    return {**answer, "cost": cost}
                why = self._complaint(reply)
                if 400 <= reply.status_code < 500 and reply.status_code != 408:
                    cost = 0.0  # What is refused is not billed; a gateway that failed, or waited, may have been.
                if reply.status_code in WRONG:
                    self._budget.close()  # Before those that wait hear that there is room.
                    raise Refused(why)
                if reply.status_code not in AGAIN:
                    raise NoAnswer(why)
                wait = max(wait, _told_wait(reply))
            except httpx2.ConnectError as error:
                why, cost = self._blot(f"no connection: {error}"), 0.0
            except httpx2.TimeoutException:
                why = "no answer in time"  # It may have been billed.
            except httpx2.HTTPError as error:
                why = self._blot(f"broken off: {error}")
            except json.JSONDecodeError:
                why = "an answer that is no JSON"
            finally:
                await self._budget.settle(held, cost, shown)
        raise NoAnswer(f"{why}, {ATTEMPTS} times")

    def _read(self, text: str) -> dict[str, Any]:
        """What is of use in a completion. Raises `NoAnswer` for one of another form, which is not asked for again: it
        was paid."""
        reply = json.loads(text)
        try:
            usage = reply.get("usage") or {}
            into, out, total = (usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
            known = all(isinstance(n, int) and n >= 0 for n in (into, out))
            if known and isinstance(total, int):
                out = max(out, total - into)  # Some servers count what a model thought in the total only.
            choice = reply["choices"][0]
            return {
                "text": self._blot(str(choice["message"].get("content") or "")),
                "finish": self._blot(str(choice.get("finish_reason"))),
                "tokens_in": into if known else None,
                "tokens_out": out if known else None,
            }
        except (AttributeError, KeyError, IndexError, TypeError):
            raise NoAnswer("an answer that is no completion") from None

    def _complaint(self, reply: httpx2.Response) -> str:
        try:
            told = reply.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            told = reply.text
        whole = self._blot(" ".join(str(told).split()))  # Before it is cut: half a key is not found any more.
        return f"{reply.status_code} {whole[:200]}".strip()

    def _blot(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _told_wait(reply: httpx2.Response) -> int | float:
    """Seconds that the server asks for."""
    try:
        return min(float(reply.headers.get("retry-after", "0")), LONGEST_WAIT)
    except ValueError:
        return 0.0
