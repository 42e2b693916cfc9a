"""The paper's CIFAR-10 table: w x steps, deterministic and stochastic students, single-w students, plain progressive
distillation, and DDIM and DPM-Solver++ on the teacher at equal evaluations.

    python -m experiments.cifar10 --dry-run                       rows, evaluations, estimated hours
    python -m experiments.cifar10 --workdir=DIR [--only=core] [--features=...]
    python -m experiments.cifar10 --tiny                          minutes, on stand-in pictures

Needs `python -m guided_distill data prepare cifar10`. With --features=inception, given its weights, DIR/paper.md
has the published figures, ours and their differences; with other features it says what is missing.
"""

import sys

from configs import cifar10_stage1, cifar10_stage2, cifar10_teacher
from experiments import tables
from guided_distill import launch

TABLE = tables.Table(
    name="cifar10",
    title="CIFAR-10: a guided teacher distilled to one step",
    teacher=cifar10_teacher,
    stage1=cifar10_stage1,
    stage2=cifar10_stage2,
)


def main() -> None:
    """Trains what is missing, writes results.json, sheets and the report."""
    tables.main(TABLE, __doc__)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
