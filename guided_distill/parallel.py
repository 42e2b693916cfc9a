"""Where arrays live: a mesh of all devices, rules for the state, batches split over them. jit + shardings; pmap is
legacy.

Under jit a step is written for the global batch, and the compiler places the reductions: the gradient is that of the
global mean before anything clips it, whatever the number of devices.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from guided_distill.errors import UserError

Rules = Sequence[tuple[str, PartitionSpec]]
REPLICATE: Rules = ((".*", PartitionSpec()),)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One axis, "data", over `devices` (all of them by default)."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def shardings(tree: Any, mesh: Mesh, rules: Rules = REPLICATE) -> Any:
    """A sharding for each leaf of `tree`: the first rule whose pattern is found in the leaf's path. Raises ValueError
    if none is."""

    def sharding(path, _):
        name = jax.tree_util.keystr(path)
        for pattern, spec in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, spec)
        raise ValueError(f"no sharding rule matches {name}")

    return jax.tree_util.tree_map_with_path(sharding, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over "data"."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` unless the devices divide the batch."""
    if batch_size % mesh.size:
        raise UserError(f"batch_size {batch_size} is not divisible by the {mesh.size} devices")


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A host batch as global arrays, split over the devices."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
