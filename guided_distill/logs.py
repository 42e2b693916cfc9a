"""What a run writes while it trains: metrics.jsonl, TensorBoard, and a progress bar."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from guided_distill.files import write_text


class Log:
    """Scalars by step. Rows after `step` that a stopped run had written are dropped, so that every step stands there
    once."""

    def __init__(self, run_dir: Path, step: int):
        self._path = run_dir / "metrics.jsonl"
        kept = []
        if self._path.is_file():
            kept = [line for line in self._path.read_text().splitlines(True) if _step_of(line) <= step]
        write_text(self._path, "".join(kept))
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


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # A line that a kill cut short.


class Meter:
    """Scalars, images/s and time left: to a log, and to a bar where a terminal watches. `summary`: the last row."""

    def __init__(self, run_dir: Path, total: int, done: int, batch_size: int):
        self.log, self.summary, self._batch_size = Log(run_dir, done), "", batch_size
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(run_dir.name, total=total, completed=done, summary="")
        self.restart(done)

    def __enter__(self) -> "Meter":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        self.log.close()

    def restart(self, done: int) -> None:
        """Leaves the time since the last row out of the next rate: it went into saving or drawing."""
        self._clock, self._since = time.perf_counter(), done

    def __call__(self, done: int, metrics: Mapping[str, jax.Array]) -> None:
        """Waits for the device, writes a row."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        values["images_per_second"] = (done - self._since) * self._batch_size / seconds
        self.summary = f"loss {values['loss']:.3g}, {values['images_per_second']:.0f} examples/s"
        self.log.write(done, values)
        self._bar.update(self._task, completed=done, summary=self.summary)
        self.restart(done)
