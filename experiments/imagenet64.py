"""The paper's ImageNet 64 x 64 table: w x steps, deterministic and stochastic students, single-w students, plain
progressive distillation, and DDIM and DPM-Solver++ on the teacher at equal evaluations.

    python -m experiments.imagenet64 --dry-run                    rows, evaluations, estimated hours
    python -m experiments.imagenet64 --workdir=DIR [--only=core] [--features=...]
    python -m experiments.imagenet64 --tiny                       minutes, on stand-in pictures

Needs `python -m guided_distill data prepare imagenet64`. Published numbers are FIDs (Inception-v3) and stand beside
measured ones for orientation only: those here are Fréchet distances on other features, named in the report.
"""

import sys

from configs import imagenet64_stage1, imagenet64_stage2, imagenet64_teacher
from experiments import tables
from guided_distill import launch

GD = "FID; Meng et al. 2023, as tabulated by Heek et al. 2024 (Multistep Consistency Models)"
BOARD = "FID; Meng et al. 2023, as a public leaderboard lists it"
PD = "FID, progressive distillation, as tabulated by Song et al. 2023 (Consistency Models)"
CFG = "FID; Ho & Salimans 2022"
TABLE = tables.Table(
    name="imagenet64",
    title="ImageNet 64 x 64: a guided teacher distilled to one step",
    teacher=imagenet64_teacher,
    stage1=imagenet64_stage1,
    stage2=imagenet64_stage2,
    published={
        **{
            ("stochastic student", n, 0.3): (fid, GD) for n, fid in ((1, "18.5"), (2, "5.81"), (4, "2.24"), (8, "2.31"))
        },
        ("student", 1, 1.0): ("7.54", BOARD),
        **{("unguided student", n, 0.0): (fid, PD) for n, fid in ((1, "15.39"), (2, "8.95"), (4, "6.77"))},
        **{("teacher", 1024, w): (fid, CFG) for w, fid in ((0.0, "1.80"), (0.3, "3.03"), (1.0, "12.6"), (4.0, "26.2"))},
    },
)


def main() -> None:
    """Trains what is missing, writes results.json, sheets and the report."""
    tables.main(TABLE, __doc__)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
