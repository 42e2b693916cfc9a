"""Points of a class-conditional Gaussian mixture on the unit circle, whose denoiser, guided score and probability flow
are exact."""

import math

import numpy as np

from guided_distill.data import Info, Source
from guided_distill.errors import one_of

LAYOUTS = ("RING", "ADJACENT")
NUM_CLASSES = 4
NUM_MODES = 8


def modes(layout: str) -> tuple[tuple[tuple[float, float], ...], ...]:
    """[class][mode](x, y): eight at equal angles from 0; mode j belongs to class j mod 4 (RING) or j // 2
    (ADJACENT)."""
    one_of("layout of modes", layout, LAYOUTS)
    points = [(math.cos(2 * math.pi * j / NUM_MODES), math.sin(2 * math.pi * j / NUM_MODES)) for j in range(NUM_MODES)]
    owner = [j % NUM_CLASSES if layout == "RING" else j // 2 for j in range(NUM_MODES)]
    return tuple(tuple(p for p, k in zip(points, owner, strict=True) if k == label) for label in range(NUM_CLASSES))


def make(split: str = "train", modes_layout: str = "RING", sigma: float = 0.12, num: int = 65_536) -> Source:
    """float32 [num, 2] points and labels; "train" and "test" are independent draws."""
    one_of("split of mixture2d", split, ("train", "test"))
    rng = np.random.default_rng([20230, ("train", "test").index(split)])
    centres = np.asarray(modes(modes_layout))
    label = rng.integers(NUM_CLASSES, size=num, dtype=np.int32)
    centre = centres[label, rng.integers(centres.shape[1], size=num)]
    points = centre + sigma * rng.standard_normal((num, 2))
    info = Info(shape=(2,), num_classes=NUM_CLASSES, licence="made here")
    return Source({"x": points.astype(np.float32), "label": label}, info)
