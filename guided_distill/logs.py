"""What a run writes while it trains: metrics.jsonl, TensorBoard, and a progress bar."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter


class Log:
    """Scalars by step. Rows after `step` that a stopped run had written are dropped, so that every step stands there once."""

    def __init__(self, run_dir: Path, step: int):
        self._path = run_dir / "metrics.jsonl"
        kept = []
        if self._path.is_file():
            kept = [line for line in self._path.read_text().splitlines(True) if _step_of(line) <= step]
        self._path.write_text("".join(kept))
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """One row: {"step", "kind": prefix, ...}."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": prefix, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{prefix}/{name}", value, step)

    def close(self) -> None:
        """Flushes."""
        self._board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # A line that a kill cut short.


def progress(description: str, total: int, done: int) -> tuple[Progress, int]:
    """A bar with images/s and time left, quiet where no terminal watches."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    bar = Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty())
    return bar, bar.add_task(description, total=total, completed=done, rate="", loss="")
