"""Handwritten digits, 1,797 grey images of 8 x 8, embedded in scikit-learn (UCI, Alpaydin & Kaynak 1998)."""

import numpy as np

from guided_distill.data import Info, Source
from guided_distill.errors import one_of


def make(split: str = "train") -> Source:
    """uint8 [n, 8, 8, 1] and labels. "train" is all 1,797 images, which is also the reference; "even" and "odd" are its
    halves."""
    from sklearn.datasets import load_digits

    one_of("split of digits", split, ("train", "even", "odd"))
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    part = {"train": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[split]
    arrays = {"x": images[part], "label": digits.target.astype(np.int32)[part]}
    return Source(arrays, Info(shape=(8, 8, 1), num_classes=10, licence="BSD-3-Clause"))
