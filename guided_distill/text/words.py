"""Every word a fixed random vector: an encoder without weights, which knows which words there are, and in which order,
but not what they mean. For generated data, tests and benchmarks."""

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Sequence

import numpy as np

from guided_distill.errors import UserError
from guided_distill.text import Encoder


def encoder(length: int = 8, width: int = 32) -> Encoder:
    """Captions -> float32 [n, length, width]: a start, then a vector of unit deviation for each word of lower case,
    then zeros. Words beyond `length` - 1 are cut off, with a warning. Raises `UserError` for no room."""
    if length < 2 or width < 1:
        raise UserError(f"text encoder words: length {length} and width {width} leave no room for a word")

    def encode(captions: Sequence[str]) -> np.ndarray:
        states = np.zeros((len(captions), length, width), np.float32)
        found = [["", *re.findall(r"\w+", unicodedata.normalize("NFC", caption.lower()))] for caption in captions]
        if cut := sum(len(words) > length for words in found):
            warnings.warn(f"{cut} of {len(found)} captions have more than {length - 1} words: cut off", stacklevel=2)
        for state, words in zip(states, found, strict=True):
            for row, word in zip(state, words, strict=False):
                row[:] = _vector(word, width)
        return states

    return Encoder((length, width), encode)


def _vector(word: str, width: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(width, np.float32)
