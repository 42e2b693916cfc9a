"""Devices that are not there, to compile for: a TPU slice as libtpu describes it, or virtual CPU devices."""

import contextlib
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies

from guided_distill.errors import UserError

EXAMPLES = "v5e:2x4, v5e:16x16, v6e:8x8, v4:4x4x4, v5p:4x4x8"
ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
"""For libtpu on a machine without a TPU: it asks nobody what machine this is, and says little."""


def of_tpu(name: str) -> tuple[list[jax.Device], int]:
    """(devices, chips) of a slice such as "v5e:16x16". A chip is one device, or two where its cores are apart (tpu7x).

    Raises `UserError` for a name that libtpu does not know, and where there is no libtpu.
    """
    if not re.fullmatch(r"\w+:\d+x\d+(x\d+)?", name):
        raise UserError(f"no topology {name!r}: give generation and chips along each axis, such as {EXAMPLES}")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs the package libtpu, which compiles for TPUs that are not there: "
            "pip install --no-deps -r requirements-tpu-plan.txt; --devices=N plans for N virtual CPU devices without it"
        )
    family, _, axes = name.partition(":")
    chips = math.prod(int(length) for length in axes.split("x"))
    jax.config.update("jax_platforms", "cpu")  # JAX's own devices: those of the slice are no one's to compute on.
    jax.config.update("jax_enable_compilation_cache", False)  # Without a TPU its programs cannot be read again.
    for key, value in (ENVIRONMENT | {"TPU_ACCELERATOR_TYPE": f"{family}-{chips}"}).items():
        os.environ.setdefault(key, value)
    try:
        cores = {"chip_config_name": "megacore"} if family == "v4" else {}  # JAX's meshes take both as one device.
        devices = topologies.get_topology_desc(topology_name=name, platform="tpu", **cores).devices
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"no topology {name!r} ({reason}); there are such as {EXAMPLES}") from error
    return list(devices), chips


def of_cpu(number: int) -> tuple[list[jax.Device], int]:
    """`number` virtual CPU devices. Raises `UserError` where JAX has begun to compute with another number."""
    if number < 1:
        raise UserError(f"--devices {number} is not positive")
    jax.config.update("jax_platforms", "cpu")
    with contextlib.suppress(RuntimeError):  # JAX has begun already; what it has may do.
        jax.config.update("jax_num_cpu_devices", number)
    if len(jax.devices()) < number:
        raise UserError(f"JAX has begun with {len(jax.devices())} devices, not {number}: plan in a process of its own")
    return jax.devices()[:number], number
