"""Distillation of guided diffusion models (Meng et al., CVPR 2023) in JAX.

`load(run_dir)` is what a user of trained runs needs; everything else is reached by its module.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from guided_distill.runs import Run

__version__ = "0.1.0"


def load(run_dir: "str | Path", step: int | None = None) -> "Run":
    """The trained run in `run_dir`: see `guided_distill.runs.load`."""
    from guided_distill.runs import load as load_run

    return load_run(run_dir, step)
