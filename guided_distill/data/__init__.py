"""Data sets, one a file: `make(split, **arguments) -> Source`, found by name; and the batches that training draws from
one.

A source is random access: `source[indices]` gathers a whole batch at once as a dict of arrays: "x" (uint8 images, or
float32), the entries of cond ("label" int32, "text" states, "image" as "x": what "x" was edited from) and what no
network is given ("caption"). Nothing is decoded on the way; normalising is the codec's work, on the device.

A data set that needs files also has `INFO`, `HOW` (what to download, and where it is looked for), `SPLITS` (split ->
number of examples) and `job(split, downloads, source, ...) -> shards.Job`, for `python -m guided_distill data prepare`;
its `make` is `prepared`.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np

from guided_distill import shards
from guided_distill.errors import UserError
from guided_distill.plugins import resolve

MEMORY_BYTES = 2**29  # Prepared data up to this size are read whole when opened.
GIVEN = ("x", "label", "text", "image")
TOLD = ("label", "text", "caption")
UNTOLD = {"num_classes": 0, "captions": False, "text": None}


@dataclasses.dataclass(frozen=True)
class Info:
    """What a data set is: `shape` of an example, `num_classes` (0: none), `flip` (mirroring keeps the meaning),
    `licence`, `homepage`, and a `note` where it is not what its name says; `captions`: whether there are any.

    Of a set that was encoded: the encoder of its `text` states and the `codec` of its codes (name and arguments), and
    the set of `images` that it was made of; `shape` is theirs."""

    shape: tuple[int, ...]
    num_classes: int
    licence: str
    flip: bool = False
    homepage: str = ""
    note: str = ""
    captions: bool = False
    text: Mapping[str, Any] | None = None
    codec: Mapping[str, Any] | None = None
    images: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Arrays in memory (or memory-mapped) that share their first axis, with their info."""

    arrays: Mapping[str, np.ndarray]
    info: Info

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def __getitem__(self, index: int | np.integer | np.ndarray | slice) -> dict[str, np.ndarray | np.generic]:
        return {name: array[index] for name, array in self.arrays.items()}

    def class_counts(self) -> np.ndarray:
        """Examples of each class, int [num_classes]."""
        return np.bincount(self.arrays["label"] if self.info.num_classes else [], minlength=self.info.num_classes)

    def captions(self, num: int) -> list[str]:
        """`num` captions at most, all different, spread over the set; [] where there are none."""
        if not self.info.captions or not len(self):
            return []
        spread = np.linspace(0, len(self) - 1, min(4 * num, len(self))).astype(int)
        found = list(dict.fromkeys(self.captions_at(spread)))
        return [found[k] for k in np.linspace(0, len(found) - 1, min(num, len(found))).astype(int)]

    def captions_at(self, index: np.ndarray) -> list[str]:
        """The captions of the examples `index`."""
        return [caption.decode() for caption in self[index]["caption"].tolist()]

    def unlabelled(self) -> "Source":
        """The same without labels and captions."""
        arrays = {name: array for name, array in self.arrays.items() if name not in TOLD}
        return Source(arrays, dataclasses.replace(self.info, **UNTOLD))


@dataclasses.dataclass(frozen=True)
class ShardSource(Source):
    """The same on disk: `arrays` are `Shards`, of which only what is asked for is read."""

    arrays: shards.Shards

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int | np.integer | np.ndarray | slice) -> dict[str, np.ndarray | np.generic]:
        return self.arrays[index]

    def class_counts(self) -> np.ndarray:
        """Examples of each class, int [num_classes], from the index."""
        counts = self.arrays.label_counts()
        return np.array([counts.get(label, 0) for label in range(self.info.num_classes)], int)

    def captions_at(self, index: np.ndarray) -> list[str]:
        """As of any source; nothing else is read."""
        return [caption.decode() for caption in self.arrays.only("caption")[index]["caption"].tolist()]

    def unlabelled(self) -> "ShardSource":
        """The same without labels and captions."""
        left = [name for name in self.arrays.fields if name not in TOLD]
        return ShardSource(self.arrays.only(*left), dataclasses.replace(self.info, **UNTOLD))


def load(name: str, split: str = "train", classes: bool = True, **arguments) -> Source:
    """The named data set's split; without its labels and captions if not `classes`, for an unconditional network.
    Raises `UserError` for an unknown name, split or argument, naming the valid ones."""
    make = resolve("data", name).make
    try:
        inspect.signature(make).bind(split, **arguments)
        source = make(split, **arguments)
    except TypeError as error:
        valid = ", ".join([*inspect.signature(make).parameters][1:]) or "none"
        raise UserError(f"data set {name}: {error}; its arguments: {valid}") from error
    return source if classes else source.unlabelled()


def empty(name: str, split: str = "train", classes: bool = True, **arguments) -> Source:
    """The named data set with no examples in it, for plans: its files need not be there. Raises `UserError` as `load`
    does."""
    module = resolve("data", name)
    if not hasattr(module, "INFO"):
        source = load(name, split, classes, **arguments)
        return Source(source[:0], source.info)
    try:
        given = inspect.signature(module.make).bind(split, **arguments).arguments
    except TypeError as error:
        raise UserError(f"data set {name}: {error}") from error
    size, info = given.get("size", module.INFO.shape[0]), module.INFO
    info = dataclasses.replace(info, shape=(size, size, info.shape[-1]))
    arrays = {"x": np.zeros((0, *info.shape), np.uint8)}
    arrays |= {"label": np.zeros((0,), np.int32)} if info.num_classes else {}
    arrays |= {"caption": np.zeros((0,), "S1")} if info.captions else {}
    return Source(arrays, info) if classes else Source(arrays, info).unlabelled()


def images(name: str, split: str = "train", **arguments: Any) -> Source:
    """As `load`, but of a set that was encoded the images that it was made of, of the same split: for whoever measures
    or shows them."""
    made_of = getattr(resolve("data", name), "made_of", None)
    return load(**{**made_of(**arguments), "split": split}) if made_of else load(name, split, **arguments)


def given(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those that a step is given: what is diffused, and what conditions it. Captions, say, stay where they are."""
    return {name: array for name, array in arrays.items() if name in GIVEN}


def downloads(name: str, directory: str | None = None) -> Path:
    """Where the raw files of a data set are looked for."""
    return shards.root(directory) / "downloads" / name


def prepared(name: str, split: str, info: Info, how: str, directory: str | None = None) -> Source:
    """A split that `data prepare` made: in memory if it is small, on disk else. Raises `NotPrepared` with the command
    and `how`, and `UserError` where a shard is damaged."""
    try:
        found = shards.Shards(shards.root(directory) / name / split)
    except shards.NotPrepared as error:
        raise shards.NotPrepared(f"{error} ({how.format(downloads=downloads(name, directory))})") from error
    info = dataclasses.replace(info, note=found.origin.get("note", info.note))
    return Source(found[:], info) if found.nbytes <= MEMORY_BYTES else ShardSource(found, info)


def order(source: Source, batch_size: int, seed: int) -> grain.MapDataset:
    """[k] -> which examples the k-th batch is made of, int [batch_size]: shuffled anew in every epoch, endless, a
    function of (seed, k), so that a position is one number, on any number of processes.

    Raises `UserError` when the data set is smaller than one batch.
    """
    if len(source) < batch_size:
        raise UserError(f"batch_size {batch_size} is larger than the data set ({len(source)} examples)")
    return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().batch(batch_size)


def batches(
    source: Source, batch_size: int, seed: int, start: int = 0, rows: np.ndarray | None = None, stack: int = 0
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of `order` from the `start`-th on, [b, ...]; of each only `rows` (None: all) are gathered. `stack`:
    so many at a time, [stack, b, ...]."""
    indices = order(source, batch_size, seed)[start:]
    if stack:
        indices = indices.batch(stack)
    wanted = slice(None) if rows is None else rows
    # Two threads gather, a few batches ahead: as many as grain's default would be gigabytes of large images.
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    return iter(indices.map(lambda index: given(source[index[..., wanted]])).to_iter_dataset(options))
