"""Data sets, one a file: `make(split, **arguments) -> Source`, found by name; and the batches that training draws from
one.

A source is random access: `source[indices]` gathers a whole batch at once as a dict of arrays with "x" (uint8 images,
or float32) and the entries of cond ("label" int32). Nothing is decoded on the way; normalising is the codec's work, on
the device.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import grain
import numpy as np

from guided_distill.errors import UserError
from guided_distill.plugins import resolve


@dataclasses.dataclass(frozen=True)
class Info:
    """What a data set is: `shape` of an example, `num_classes` (0: none), `flip` (mirroring keeps the meaning),
    `licence`."""

    shape: tuple[int, ...]
    num_classes: int
    licence: str
    flip: bool = False


@dataclasses.dataclass(frozen=True)
class Source:
    """Arrays in memory (or memory-mapped) that share their first axis, with their info."""

    arrays: Mapping[str, np.ndarray]
    info: Info

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def __getitem__(self, index: int | np.ndarray | slice) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}


def load(name: str, split: str = "train", classes: bool = True, **arguments) -> Source:
    """The named data set's split; without its labels if not `classes`, for an unconditional network. Raises `UserError`
    for an unknown name, split or argument, naming the valid ones."""
    make = resolve("data", name).make
    try:
        source = make(split, **arguments)
    except TypeError as error:
        raise UserError(f"data set {name}: {error}") from error
    if classes:
        return source
    arrays = {key: value for key, value in source.arrays.items() if key != "label"}
    return Source(arrays, dataclasses.replace(source.info, num_classes=0))


def batches(source: Source, batch_size: int, seed: int, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled batches from the `start`-th on; batch k is a function of (seed, k), so a position is one number.

    Raises `UserError` when the data set is smaller than one batch.
    """
    if len(source) < batch_size:
        raise UserError(f"batch_size {batch_size} is larger than the data set ({len(source)} examples)")
    indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().batch(batch_size)[start:]
    return iter(indices.map(lambda index: source[index]).to_iter_dataset(grain.ReadOptions(num_threads=1)))
