"""Images -> features and logits: one pass, on all devices of all processes, straight into files on disk."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.progress import Progress

from guided_distill import mapped, parallel
from guided_distill.codecs import to_float
from guided_distill.errors import UserError
from guided_distill.features import Features, Net, seen
from guided_distill.image_sets import ImageSet

Part = tuple[np.ndarray, np.ndarray | None]  # Features and logits of some images.


def parts(features: Features, images: ImageSet, logits: bool = False, mesh: Mesh | None = None) -> Iterator[Part]:
    """(features, logits or None), float32, of some images at a time, in order. A network runs on `mesh` (None: all
    devices), and every process gets all of it. Raises `UserError` without logits, and for what it cannot see."""
    if not len(images):
        raise UserError("no images: there is nothing to take features of")
    if not isinstance(features, Net):
        if logits:
            raise UserError(f"features {name_of(features)} have no logits")
        for part in images.parts():
            yield np.asarray(features(to_float(part)), np.float32), None
        return
    features.check((len(images), *images.shape))
    if logits and features.both is None:
        raise UserError(f"features {features.name} have no logits")
    for found, num in _sharded(features, images, logits, parallel.make_mesh() if mesh is None else mesh):
        found = [np.asarray(array)[:num] for array in (found if logits else (found,))]
        yield found[0], found[1] if logits else None


def name_of(features: Features) -> str:
    """What a feature function is called."""
    return getattr(features, "name", "pixels")


def _sharded(net: Net, images: ImageSet, logits: bool, mesh: Mesh) -> Iterator[tuple[Any, int]]:
    """(what the network says of a batch, how many of its rows count), one batch behind the devices."""
    shards = parallel.batch_shards(mesh)
    size = -(-min(net.batch_size, len(images)) // shards) * shards
    program = _program(net.both if logits else net.apply, net.size, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    put = lambda leaf: jax.make_array_from_callback(leaf.shape, everywhere, lambda index: leaf[index])  # noqa: E731
    params = jax.tree.map(lambda leaf: put(np.asarray(leaf)), net.params)
    waiting = None
    for part in images.parts(size):
        num = len(part)
        # The last batch is filled up with its own images, so that one shape is compiled.
        batch = np.asarray(to_float(part[np.arange(size) % num]), np.float32)
        running = program(params, parallel.put_batch({"x": batch}, mesh)["x"]), num
        if waiting:
            yield waiting
        waiting = running
    if waiting:
        yield waiting


@functools.cache
def _program(apply: Callable, size: int | None, mesh: Mesh) -> Callable:
    return jax.jit(functools.partial(seen, apply, size), out_shardings=NamedSharding(mesh, PartitionSpec()))


def extract(
    features: Features, images: ImageSet, stem: Path, logits: bool = False, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """As `parts`, all of them: memory-mapped from STEM.npy and STEM.logits.npy, which are written if they are not
    whole. So the memory that it takes does not depend on the number of images."""
    found = _found(stem, len(images), logits)
    if _everywhere(found is not None):
        return found
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(mapped.writer(path, len(images))) for path in _paths(stem)[: 1 + logits]]
        for part in _shown(parts(features, images, logits, mesh), len(images)):
            for add, array in zip(writers, part, strict=False):
                add(array)
    return _found(stem, len(images), logits)


def in_memory(features: Features, images: ImageSet, logits: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """As `extract`, of few images."""
    found = list(parts(features, images, logits))
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found]) if logits else None


def _paths(stem: Path) -> tuple[Path, Path]:
    return stem.with_name(f"{stem.name}.npy"), stem.with_name(f"{stem.name}.logits.npy")


def _found(stem: Path, num: int, logits: bool) -> tuple[np.ndarray, np.ndarray | None] | None:
    """What is there of `num` images; None unless it is all that is asked for."""
    arrays = [mapped.load(path) for path in _paths(stem)[: 1 + logits]]
    if any(array is None or len(array) != num for array in arrays):
        return None
    return arrays[0], arrays[1] if logits else None


def _everywhere(here: bool) -> bool:
    """Whether it is so on all processes: they have to take part in the same programs."""
    return here if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.int32(here))))


def _shown(made: Iterable[Part], total: int) -> Iterator[Part]:
    """With a bar of progress on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from made
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("features", total=total)
        for part in made:
            progress.advance(task, len(part[0]))
            yield part
