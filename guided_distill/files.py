"""Small files, whole or not at all: a kill between two bytes leaves what was there before."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guided_distill.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes a file beside `path`, to the disk, then puts it in its place."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """As `write_text`, JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone(directory: Path, what: str) -> Iterator[None]:
    """Holds `directory`/lock, which the system lets go when the process ends, however it ends. Raises `UserError`, "...
    is being <what> by another process", when it is held."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{directory} is being {what} by another process") from None
        yield
