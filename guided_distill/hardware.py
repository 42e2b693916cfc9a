"""What accelerators can do, in print: for utilisation, and for plans on machines that are not there.

TPUs: Google's pages "TPU v4", "v5e", "v5p" and "v6e" (docs.cloud.google.com/tpu/docs), whose interconnect bandwidth is
that of both directions; v4's links are those of Jouppi et al. 2023 (arXiv:2304.01433), six of 50 GB/s. GPUs: NVIDIA's
data sheets of the SXM boards (A100 80 GB, H100, H200), whose NVLink bandwidth is that of both directions, too.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One chip (or GPU): `flops` a second of dense 16-bit products at the peak, `memory` in bytes, its `bandwidth` and
    that of all `links` to other chips together, one way, in bytes a second."""

    name: str
    flops: float
    memory: int
    bandwidth: float
    links: float


ACCELERATORS = (
    Accelerator("TPU v4", 275e12, 32 * 2**30, 1200e9, 300e9),
    Accelerator("TPU v5e", 197e12, 16 * 2**30, 819e9, 200e9),
    Accelerator("TPU v5p", 459e12, 95 * 2**30, 2765e9, 600e9),
    Accelerator("TPU v6e", 918e12, 32 * 2**30, 1638e9, 400e9),
    Accelerator("A100", 312e12, 80 * 2**30, 2039e9, 300e9),
    Accelerator("H100", 989e12, 80 * 2**30, 3350e9, 450e9),
    Accelerator("H200", 989e12, 141 * 2**30, 4800e9, 450e9),
)
UTILISATION = 0.35
"""Of the peak in `flops`: what a U-Net gets, assumed, not measured."""
KINDS = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e"}
"""JAX's name of a device -> ours, where the one does not hold the other."""


def of(device_kind: str) -> Accelerator | None:
    """The accelerator that JAX calls `device_kind`; None for one that is not listed, such as a CPU."""
    known = {accelerator.name: accelerator for accelerator in ACCELERATORS}
    if device_kind in KINDS:
        return known[KINDS[device_kind]]
    return next((found for name, found in known.items() if name in device_kind), None)
