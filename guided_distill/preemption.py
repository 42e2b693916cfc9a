"""SIGTERM, by which clusters announce that a machine is taken away: the run saves at the next update and ends with a
status of its own, so that whoever supervises it knows to start it again."""

import itertools
import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

STATUS = 75  # EX_TEMPFAIL of sysexits.h: not a failure of the program; try again.

_CALLS = itertools.count()  # The number that processes agree by; it must never fall, not from stage to stage either.


class Preempted(Exception):
    """The run was asked to stop, and has saved."""


class Preemption:
    """Within it, SIGTERM is kept for `due`. Several processes agree on the update at which they stop, for the
    checkpoint is all of theirs: JAX's own service listens for the signal there, and tells the others."""

    def __init__(self):
        self._told = False
        self._before = None

    def __enter__(self) -> "Preemption":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._told = True

    def due(self) -> bool:
        """Whether to stop here: the same answer on every process, all of which must ask, equally often."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_CALLS))
        return self._told
