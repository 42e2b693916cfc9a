"""A run as rounds of updates: one for a teacher or stage one, one a halving for stage two. Step -> round, number of
steps, learning rate.

The learning rate comes from the step within the round, never from the optimiser's own count, so that resuming cannot
shift it.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from guided_distill.errors import UserError, one_of


@dataclasses.dataclass(frozen=True)
class Rounds:
    """`num_steps[r]`: sampling steps of round r's student (0 where the method has none); `updates[r]`: its length."""

    num_steps: tuple[int, ...]
    updates: tuple[int, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        """The step after each round's last update."""
        return tuple(itertools.accumulate(self.updates))

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return sum(self.updates)

    def starts_round(self, step: int) -> bool:
        """Whether a round after the first begins at `step`: the moment to promote."""
        return step in self.ends[:-1]

    def round_of(self, step: int) -> int:
        """The round that update `step` belongs to."""
        return sum(end <= step for end in self.ends[:-1])

    def describe(self, index: int) -> str:
        """For people: "round 2 of 6 (16 steps)"."""
        steps = f" ({self.num_steps[index]} steps)" if self.num_steps[index] else ""
        return f"round {index + 1} of {len(self.updates)}{steps}"

    def _index(self, step: Array) -> Array:
        past = jnp.asarray(self.ends) <= step
        return jnp.minimum(jnp.sum(past), len(self.ends) - 1)

    def num_steps_at(self, step: Array) -> Array:
        """Traced: the student's number of steps at `step`."""
        return jnp.asarray(self.num_steps)[self._index(step)]

    def within(self, step: Array) -> tuple[Array, Array]:
        """Traced: (updates done in the round of `step`, its length)."""
        index = self._index(step)
        ends, updates = jnp.asarray(self.ends), jnp.asarray(self.updates)
        return step - (ends[index] - updates[index]), updates[index]


def halving(
    start_steps: int,
    end_steps: int,
    updates: int,
    updates_last: int,
    stochastic: bool,
    factor: int = 2,
    last_from: int = 2,
) -> Rounds:
    """Rounds from a teacher of `start_steps` steps down to a student of `end_steps`, `factor` times fewer each; those
    of N <= `last_from` take `updates_last` updates.

    Deterministic: N = start/2 ... end. Stochastic: N = start ... 2, since there a student's step is 2/N, and an N = 1
    round would learn its teacher's own x; the one-step student is that of N = 2 asked at t = 1. Raises `UserError`
    unless all are powers of two, and `factor` one that leads from start to end.
    """
    for name, value in (("start_steps", start_steps), ("end_steps", end_steps), ("factor", factor)):
        if value < 1 + (name == "factor") or value & (value - 1):
            raise UserError(f"{name} {value} is not a power of two")
    if end_steps >= start_steps:
        raise UserError(f"end_steps {end_steps} is not below start_steps {start_steps}")
    if stochastic and factor != 2:
        raise UserError(f"factor {factor}: the steps of a stochastic student can only be halved")
    num_steps, n = [], start_steps if stochastic else start_steps // factor
    while n >= max(end_steps, 1 + stochastic):
        num_steps.append(n)
        n //= factor
    if not stochastic and num_steps[-1:] != [end_steps]:
        raise UserError(f"{start_steps} steps divided by {factor} again and again miss end_steps {end_steps}")
    return Rounds(tuple(num_steps), tuple(updates_last if n <= last_from else updates for n in num_steps))


def learning_rate(rounds: Rounds, lr: float, warmup: int, decay: str) -> Callable[[Array], Array]:
    """step -> learning rate: linear warm-up over `warmup` updates of the round, times "constant", "linear" or "cosine"
    (both to 0 at its end). Raises `UserError` for no such decay, and no such rate."""
    one_of("optim.decay", decay, ("constant", "linear", "cosine"))
    if not lr > 0:
        raise UserError(f"config.optim.lr {lr} is not positive")

    def rate(step: Array) -> Array:
        done, updates = rounds.within(step)
        left = 1 - done / jnp.maximum(updates, 1)
        factor = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - jnp.cos(jnp.pi * left))}[decay]
        return lr * factor * jnp.minimum(1.0, (done + 1) / max(warmup, 1))

    return rate
