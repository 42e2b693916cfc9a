"""What a run writes while it trains: metrics.jsonl, TensorBoard, Weights & Biases where it is asked for, and a progress
bar. The loop never waits for a number: they are written when the device has got there."""

import collections
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import event_file_writer, proto, summary

from guided_distill.errors import UserError
from guided_distill.files import write_text

AHEAD = 2  # Calls that the device may have in hand: it never starves, and the host does not run away.


def require_tracker(project: str) -> None:
    """Raises `UserError` when a project of Weights & Biases is named and the package is not there."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(f"config.wandb {project!r} needs the package wandb: pip install wandb, or leave it empty")


class Log:
    """Scalars by step. Rows after `step` that a stopped run had written are dropped, so that every step stands there
    once. Only process 0 writes."""

    def __init__(self, run_dir: Path, step: int, wandb: str = ""):
        self._path, self._board, self._wandb = run_dir / "metrics.jsonl", None, None
        if jax.process_index():
            return
        kept = []
        if self._path.is_file():
            kept = [line for line in self._path.read_text().splitlines(True) if _step_of(line) <= step]
        write_text(self._path, "".join(kept))
        self._board = Board(run_dir / "tensorboard", step)
        if wandb:
            config = json.loads((run_dir / "config.json").read_text())
            self._wandb = importlib.import_module("wandb").init(
                project=wandb, name=run_dir.name, dir=str(run_dir), config=config, resume="allow", id=_identity(run_dir)
            )

    def write(self, step: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """One row: {"step", "kind": prefix, ...}."""
        if self._board is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": prefix, **values}) + "\n")
        named = {f"{prefix}/{name}": value for name, value in values.items()}
        self._board.write(step, named)
        if self._wandb is not None:
            self._wandb.log(named, step=step)

    def close(self) -> None:
        """Flushes."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class Board:
    """TensorBoard's file, written from the caller's thread, so that a full disk is the caller's to tell (tensorboardX
    does it in a thread of its own: when that dies, its queue fills, and training stands still for ever). Events after
    `step` of earlier files are hidden."""

    def __init__(self, directory: Path, step: int):
        directory.mkdir(parents=True, exist_ok=True)
        self._events = event_file_writer.EventsWriter(str(directory / "events"))
        start = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        self._events.write_event(proto.event_pb2.Event(step=step + 1, wall_time=time.time(), session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One event of these scalars; returns when they are on disk."""
        scalars = [value for name in values for value in summary.scalar(name, values[name]).value]
        of = proto.summary_pb2.Summary(value=scalars)
        self._events.write_event(proto.event_pb2.Event(step=step, wall_time=time.time(), summary=of))
        self._events.flush()

    def close(self) -> None:
        """Flushes."""
        self._events.close()


def _identity(run_dir: Path) -> str:
    """A run's id for Weights & Biases, kept with the run: what goes on is the same run there."""
    path = run_dir / "wandb_id"
    if not path.is_file():
        write_text(path, importlib.import_module("wandb").util.generate_id())
    return path.read_text()


def _step_of(line: str) -> int | float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # A line that a kill cut short.


@dataclasses.dataclass(frozen=True)
class Work:
    """What an update costs: `examples`, `flops` (counted), and the `peak` FLOPs a second of all devices (None where
    they are not known)."""

    examples: int
    flops: float = 0.0
    peak: float | None = None


class Meter:
    """Scalars, images/s, utilisation, share of time spent waiting for input, time left: to a log, and to a bar where a
    terminal watches. `summary`: the last row. `check(step, row)` is called with every row, written or not."""

    def __init__(
        self,
        run_dir: Path,
        total: int,
        done: int,
        work: Work,
        wandb: str = "",
        check: Callable[[int, Mapping[str, Any]], None] = lambda step, row: None,
    ):
        self.log, self.summary, self.work, self._check = Log(run_dir, done, wandb), "", work, check
        self._pending: collections.deque[tuple[int, Mapping[str, jax.Array], bool]] = collections.deque()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[summary]}"),
            TimeRemainingColumn(),
        )
        watched = sys.stderr.isatty() and not jax.process_index()
        self._bar = Progress(*columns, console=Console(file=sys.stderr), disable=not watched)
        self._task = self._bar.add_task(run_dir.name, total=total, completed=done, summary="")
        self.restart(done)

    def __enter__(self) -> "Meter":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        self.log.close()

    def restart(self, done: int) -> None:
        """Leaves the time since the last row out of the next rate: it went into compiling, saving or drawing."""
        self._clock, self._since, self._waited = time.perf_counter(), done, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here counts as waiting for input."""
        clock = time.perf_counter()
        yield
        self._waited += time.perf_counter() - clock

    def __call__(self, done: int, metrics: Mapping[str, jax.Array], write: bool) -> None:
        """Takes the metrics of the call that ended with update `done`, to be written if `write`; returns when at most
        `AHEAD` calls are in the device's hands."""
        for value in metrics.values():
            value.copy_to_host_async()
        self._pending.append((done, metrics, write))
        while len(self._pending) > AHEAD:
            self._take()

    def flush(self) -> None:
        """Returns when everything that was handed in is written."""
        while self._pending:
            self._take()

    def _take(self) -> None:
        done, metrics, write = self._pending.popleft()
        row = {name: value.item() for name, value in jax.device_get(dict(metrics)).items()}
        self._check(done, row)
        if not write:
            return
        seconds = max(time.perf_counter() - self._clock, 1e-9)
        rate = (done - self._since) / seconds
        row |= {"images_per_second": rate * self.work.examples, "input_wait": min(self._waited / seconds, 1.0)}
        if self.work.peak:
            row["flop_utilisation"] = rate * self.work.flops / self.work.peak
        self.summary = _summary(row)
        self.log.write(done, row)
        self._bar.update(self._task, completed=done, summary=self.summary)
        self.restart(done)


def _summary(row: Mapping[str, float]) -> str:
    parts = [f"loss {row['loss']:.3g}", f"{row['images_per_second']:.0f} examples/s"]
    if "flop_utilisation" in row:
        parts.append(f"{row['flop_utilisation']:.0%} of peak FLOPs")
    if row["input_wait"] >= 0.01:
        parts.append(f"{row['input_wait']:.0%} waiting for input")
    return ", ".join(parts + ([f"{row['skipped']:.0f} skipped"] if row.get("skipped") else []))
