"""Votes, in one file that is only ever added to: a vote that was acknowledged is on the disk."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from guided_distill.errors import UserError


@dataclasses.dataclass(frozen=True)
class Vote:
    """A rater's verdict on a pair as it was shown. `winner`: a system, or None for a tie; `request`: what a model was
    asked, as a hash; `at`: when, UTC; `rubric`: by what a model judged, as a hash."""

    rater: str
    pair: str
    left: str
    right: str
    winner: str | None
    request: str = ""
    at: str = ""
    rubric: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """A rater has one vote on a pair shown one way round; a later one replaces it."""
        return self.rater, self.pair, self.left


class Votes:
    """votes.jsonl of a comparison. Threads and processes may cast at once."""

    def __init__(self, out: str | Path):
        self.path = Path(out) / "votes.jsonl"

    def read(self) -> list[Vote]:
        """The votes that stand, oldest first: not those taken back or replaced. Raises `UserError` for a damaged file;
        a last line that a kill cut short was never acknowledged, and is not one."""
        return _standing(self.path, self.path.read_bytes()) if self.path.exists() else []

    def cast(self, vote: Vote) -> bool:
        """Adds a vote, to the disk. False, and nothing added, where it stands already: a request that was sent twice
        counts once. A person who now says something else means it; a model has one answer to a request."""
        with self._alone() as file:
            known = {v.place: v for v in _standing(self.path, file.read())}.get(vote.place)
            if known and known.request == vote.request and (vote.request or known.winner == vote.winner):
                return False
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            _append(file, {**dataclasses.asdict(vote), "at": vote.at or now})
        return True

    def take_back(self, rater: str) -> Vote | None:
        """Takes back the rater's last vote that stands, and returns it; None where there is none."""
        with self._alone() as file:
            own = [vote for vote in _standing(self.path, file.read()) if vote.rater == rater]
            if own:
                _append(file, {"undo": True, "rater": rater, "pair": own[-1].pair, "left": own[-1].left})
        return own[-1] if own else None

    @contextlib.contextmanager
    def _alone(self) -> Iterator:
        """The file, nobody else's for now, what a kill left of a last line cut off."""
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
            file.seek(0)
            yield file


def _append(file, record: dict) -> None:
    file.write(json.dumps(record).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _standing(path: Path, text: bytes) -> list[Vote]:
    found: dict[tuple, Vote] = {}
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            if record.pop("undo", False):
                found.pop((record["rater"], record["pair"], record["left"]), None)
                continue
            vote = Vote(**record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}, line {number} is not a vote: {error}") from error
        found.pop(vote.place, None)
        found[vote.place] = vote
    return list(found.values())
