"""Digits and what they are to become: the test bed of instruction editing, in which every answer is known exactly.

"image" is one of the `digits`, "label" what is to be done with it, of EDITS, and "x" that done. Every digit is there
with every edit, one edit after another.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from guided_distill.data import Source, digits

EDITS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "keep": lambda images: images,
    "invert": lambda images: 255 - images,
    "mirror": lambda images: images[:, :, ::-1],
    "turn": lambda images: images[:, ::-1, ::-1],
}


def make(split: str = "train") -> Source:
    """uint8 "x" and "image" [n, 8, 8, 1], and labels, places in EDITS; splits as `digits` has them."""
    source = digits.make(split)
    images = source.arrays["x"]
    arrays = {
        "x": np.concatenate([edit(images) for edit in EDITS.values()]),
        "image": np.concatenate([images] * len(EDITS)),
        "label": np.repeat(np.arange(len(EDITS), dtype=np.int32), len(images)),
    }
    return Source(arrays, dataclasses.replace(source.info, num_classes=len(EDITS)))
