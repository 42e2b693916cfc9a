"""Where arrays live: a mesh of all devices of all processes, rules for the state, batches split over them. jit +
shardings; pmap is legacy.

Under jit a step is written for the global batch, and the compiler places the collectives: the gradient is that of the
global mean before anything clips it, whatever the number of devices.

The mesh has three axes. "data" and "fsdp" both split the batch; "fsdp" splits the state too (params, moving average,
moments, the frozen teacher), whose parts are gathered where they are needed; "tensor" splits the matrix products
themselves.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from guided_distill.errors import UserError, one_of

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
SMALL = 2**10
"""Leaves of fewer elements are everywhere: splitting them saves nothing, and costs a message each."""

Rules = Sequence[tuple[str, str]]
"""(pattern, name of a rule): a leaf takes the first whose pattern is found in its path, such as
"params/student/down_0_0/conv_in/kernel"."""
DEFAULT: Rules = (("", "fsdp"),)
EVERYWHERE: Rules = (("", "replicate"),)


def make_mesh(devices: Sequence[jax.Device] | None = None, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Axes "data", "fsdp", "tensor" over `devices` (all of them by default); one size may be -1: what is left.

    Raises `UserError` unless the sizes multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) == 1 and known > 0 and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
        asked = ", ".join(f"{name} {size}" for name, size in (("data", data), ("fsdp", fsdp), ("tensor", tensor)))
        raise UserError(f"config.mesh ({asked}) does not make up the {len(devices)} devices; -1 is what is left")
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh, and the rules by which the leaves of a state are laid out over it."""

    mesh: Mesh
    rules: Rules = DEFAULT

    def shardings(self, tree: Any) -> Any:
        """A sharding for each leaf (array or `jax.ShapeDtypeStruct`). Raises `UserError` where no rule matches, or for
        an unknown one."""

        def sharding(path, leaf) -> NamedSharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found = next((rule for pattern, rule in self.rules if re.search(pattern, name)), None)
            if found is None:
                raise UserError(f"no rule of config.sharding matches {name}; end it with ('', 'fsdp')")
            one_of("rule in config.sharding", found, RULES)
            return NamedSharding(self.mesh, RULES[found](tuple(leaf.shape), self.mesh))

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def place(self, tree: Any) -> Any:
        """The same leaves as `jax.ShapeDtypeStruct`s that say where they live: what a checkpoint is restored into."""
        struct = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
        return jax.tree.map(struct, tree, self.shardings(tree))


def replicate(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Every device has the whole leaf."""
    return PartitionSpec()


def split_fsdp(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The longest axis that "fsdp" divides (the last of equals) is split over it."""
    return PartitionSpec(*_split(shape, mesh, [None] * len(shape)))


def split_columns(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Output features, the last axis, over "tensor"; of the others, one over "fsdp"."""
    return _tensor(shape, mesh, -1)


def split_rows(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Input features, the last axis but one, over "tensor"; of the others, one over "fsdp"."""
    return _tensor(shape, mesh, -2)


RULES: Mapping[str, Callable[[tuple[int, ...], Mesh], PartitionSpec]] = {
    "replicate": replicate,
    "fsdp": split_fsdp,
    "columns": split_columns,
    "rows": split_rows,
}


def _tensor(shape: tuple[int, ...], mesh: Mesh, axis: int) -> PartitionSpec:
    spec: list[str | None] = [None] * len(shape)
    if len(shape) >= -axis and shape[axis] % mesh.shape["tensor"] == 0 and mesh.shape["tensor"] > 1:
        spec[axis] = "tensor"
    return PartitionSpec(*_split(shape, mesh, spec))


def _split(shape: tuple[int, ...], mesh: Mesh, spec: list[str | None]) -> list[str | None]:
    size = mesh.shape["fsdp"]
    fitting = [k for k, length in enumerate(shape) if spec[k] is None and length % size == 0]
    if size > 1 and fitting and math.prod(shape) >= SMALL:
        spec[max(fitting, key=lambda k: (shape[k], k))] = "fsdp"
    return spec


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over "data" and "fsdp"."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_shards(mesh: Mesh) -> int:
    """The number of parts of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises `UserError` unless the devices divide each of the `accumulate` parts of a batch."""
    if batch_size % accumulate:
        raise UserError(f"batch_size {batch_size} is not divisible by config.compute.accumulate {accumulate}")
    if batch_size // accumulate % batch_shards(mesh):
        part = f"batch_size {batch_size}" + (f" / accumulate {accumulate}" if accumulate > 1 else "")
        raise UserError(f"{part} is not divisible by the {batch_shards(mesh)} devices that share it")


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch this process's devices hold, rising."""
    places = batch_sharding(mesh).devices_indices_map((batch_size,)).items()
    held = [index for device, index in places if device.process_index == jax.process_index()]
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def put_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, batch_size: int | None = None, stacked: bool = False
) -> dict[str, jax.Array]:
    """A batch as global arrays, split over the devices. The arrays hold this process's `local_rows` of `batch_size`, or
    when it is None the whole batch, of which every process takes its own. `stacked`: [k, b, ...], k batches."""
    spec = PartitionSpec(None, BATCH) if stacked else PartitionSpec(BATCH)
    sharding, axis = NamedSharding(mesh, spec), int(stacked)

    def put(value: np.ndarray) -> jax.Array:
        if batch_size is None:
            return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
        shape = (*value.shape[:axis], batch_size, *value.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, value, shape)

    return {name: put(value) for name, value in batch.items()}


def same_everywhere(value: int) -> int:
    """Process 0's value, on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_all(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
