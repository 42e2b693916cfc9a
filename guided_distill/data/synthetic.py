"""Seeded pictures of any shape and number of classes, for tests and benchmarks: a soft blob whose place tells the
class. With captions, too, and their states.
"""

from collections.abc import Sequence

import numpy as np

from guided_distill.data import Info, Source
from guided_distill.errors import one_of
from guided_distill.text import words


def make(
    split: str = "train",
    shape: Sequence[int] = (16, 16, 3),
    num_classes: int = 10,
    num: int = 1024,
    flip: bool = False,
    captions: bool = False,
    text: Sequence[int] = (),
    shown: bool = False,
) -> Source:
    """uint8 [num, h, w, c]; class k's blob sits at angle 2 pi k / num_classes; "train" and "test" are independent
    draws. `captions` take the place of labels; `text` (l, d): they are there as states of the encoder `words`, too;
    `shown`: with "image", its mirror image."""
    one_of("split of synthetic", split, ("train", "test"))
    height, width, channels = shape
    rng = np.random.default_rng([7, ("train", "test").index(split)])
    label = rng.integers(max(num_classes, 1), size=num, dtype=np.int32)
    angle = 2 * np.pi * label / max(num_classes, 1)
    centre = 0.5 + 0.3 * np.stack([np.sin(angle), np.cos(angle)], 1) + 0.03 * rng.standard_normal((num, 2))
    y, x = (np.arange(n) / n for n in (height, width))
    distance = (y[:, None] - centre[:, :1, None]) ** 2 + (x[None, :] - centre[:, 1:, None]) ** 2
    colour = rng.uniform(0.4, 1.0, size=(num, 1, 1, channels))
    images = np.round(255 * np.exp(-distance / 0.02)[..., None] * colour).astype(np.uint8)
    beside = {"image": images[:, :, ::-1]} if shown else {}
    if not (captions or text):
        arrays = {"x": images, **beside, **({"label": label} if num_classes else {})}
        return Source(arrays, Info(tuple(shape), num_classes, "made here", flip))
    told = [f"a blob, place {k}" for k in range(max(num_classes, 1))]
    arrays, reads = {"x": images, **beside, "caption": np.array([t.encode() for t in told])[label]}, None
    if text:
        reads = {"name": "words", "length": text[0], "width": text[1]}
        arrays["text"] = words.encoder(*text).encode(told)[label]
    return Source(arrays, Info(tuple(shape), 0, "made here", flip, captions=True, text=reads))
