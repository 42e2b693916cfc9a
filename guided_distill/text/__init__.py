"""Text encoders, one a file, found by name: captions -> tokens -> states of all tokens, and an embedding.

`encoder(**arguments) -> Encoder` is what conditions a network; `make(**arguments)` gives one embedding a caption, for
scores and retrieval, where a file has it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from guided_distill.errors import UserError
from guided_distill.plugins import resolve


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """Frozen: `encode` takes captions to states, float32 [n, l, d], and `shape` is (l, d). `pin`: arguments of its
    maker that tell its weights from all others, which manifests add to those that they have."""

    shape: tuple[int, int]
    encode: Callable[[Sequence[str]], np.ndarray]
    pin: tuple[tuple[str, Any], ...] = ()

    @functools.cached_property
    def null(self) -> np.ndarray:
        """The states of nothing said, [l, d]: what guidance leads away from."""
        return self.encode([""])[0]


def load(name: str, **arguments: Any) -> Encoder:
    """The named encoder. Raises `UserError` for an unknown name or argument, and for weights that are missing or
    others."""
    make = getattr(resolve("text", name), "encoder", None)
    if make is None:
        raise UserError(f"text encoder {name!r} conditions no network: it has no states")
    try:
        return _made(make, tuple(sorted(arguments.items())))
    except TypeError as error:
        raise UserError(f"text encoder {name}: {error}") from error


@functools.lru_cache(maxsize=4)  # A run asks for its encoder several times.
def _made(make: Callable[..., Encoder], arguments: tuple[tuple[str, Any], ...]) -> Encoder:
    return make(**dict(arguments))
