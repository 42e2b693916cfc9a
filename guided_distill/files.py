"""Small files, whole or not at all: a kill between two bytes leaves what was there before."""

import json
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a file beside `path`, then puts it in its place."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """As `write_text`, JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")
