"""What text encoders share: texts -> tokens of one length, and a tower run on many of them."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Array, Int

from guided_distill.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Texts -> tokens [n, length]: `start`, what `core` makes of the text, `end`, and `pad` from there on."""

    core: tokenizers.Tokenizer
    start: int
    end: int
    pad: int
    length: int

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "n {self.length}"]:
        """int32. Texts that are too long lose their last tokens, but not the end, and a warning says how many did.
        Raises `UserError` for what is no list of texts."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"a tokenizer reads a list of texts, not {type(texts).__name__} {str(texts)[:40]!r}")
        if broken := [text for text in texts if any("\ud800" <= letter <= "\udfff" for letter in text)]:
            raise UserError(f"{broken[0][:60]!r} is no text: it has bytes that are not UTF-8")
        room = self.length - 2
        found = [line.ids for line in self.core.encode_batch(list(texts), add_special_tokens=False)]
        if cut := [text for text, ids in zip(texts, found, strict=True) if len(ids) > room]:
            told = f"{len(cut)} of {len(found)} texts have more than {room} tokens and lose their ends"
            warnings.warn(f"{told}; the first: {cut[0][:60]!r}...", stacklevel=2)
        tokens = np.full((len(found), self.length), self.pad, np.int32)
        for row, ids in zip(tokens, found, strict=True):
            line = [self.start, *ids[:room], self.end]
            row[: len(line)] = line
        return tokens


def in_batches(
    apply: Callable[[Int[np.ndarray, "b l"]], Array], tokens: Int[np.ndarray, "n l"], batch_size: int
) -> np.ndarray:
    """`apply`, whose rows do not know each other, on `batch_size` rows at a time; fewer are filled up to a power of two
    by the first ones, so that few shapes are compiled. Raises `UserError` for no row."""
    num = len(tokens)
    if not num:
        raise UserError("a text encoder reads captions; got none")
    size = min(batch_size, 1 << (num - 1).bit_length())
    parts = [np.asarray(apply(tokens[np.arange(k, k + size) % num])) for k in range(0, num, size)]
    return np.concatenate(parts)[:num]


def require_sha256(path: str | Path, found: str, expected: str) -> None:
    """Raises `UserError` unless the weights at `path` have the `expected` sha256, or none is expected ("")."""
    if expected not in ("", found):
        raise UserError(f"{path} has sha256 {found}, not {expected}: these are not the weights that were trained with")
