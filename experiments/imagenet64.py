"""The paper's ImageNet 64 x 64 table: w x steps, deterministic and stochastic students, single-w students, plain
progressive distillation, and DDIM and DPM-Solver++ on the teacher at equal evaluations.

    python -m experiments.imagenet64 --dry-run                    rows, evaluations, estimated hours
    python -m experiments.imagenet64 --workdir=DIR [--only=core] [--features=...]
    python -m experiments.imagenet64 --tiny                       minutes, on stand-in pictures

Needs `python -m guided_distill data prepare imagenet64`. With --features=inception, given its weights, DIR/paper.md
has the published figures, ours and their differences; with other features it says what is missing.
"""

import sys

from configs import imagenet64_stage1, imagenet64_stage2, imagenet64_teacher
from experiments import tables
from guided_distill import launch

TABLE = tables.Table(
    name="imagenet64",
    title="ImageNet 64 x 64: a guided teacher distilled to one step",
    teacher=imagenet64_teacher,
    stage1=imagenet64_stage1,
    stage2=imagenet64_stage2,
)


def main() -> None:
    """Trains what is missing, writes results.json, sheets and the report."""
    tables.main(TABLE, __doc__)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
