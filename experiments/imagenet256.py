"""The paper's ImageNet 256 x 256 comparison, in LDM's latent space: a teacher, one student for all w, halved to 8, 4, 2
and 1 steps, and DDIM and DPM-Solver++ on the teacher. A step of the teacher is two evaluations, so its rows of half the
steps cost as much as the student's.

    python -m experiments.imagenet256 --dry-run                                  rows, evaluations, estimated hours
    python -m experiments.imagenet256 --workdir=DIR --teacher=runs/imagenet256_teacher
    python -m experiments.imagenet256 --tiny                                     minutes, on made-up codes

--teacher is the imported LDM (configs/imagenet256_teacher.py has the command); without it one is trained. Needs the
encoded set `imagenet256` (docs/text-to-image.md) and the images that it was made of, which samples are held against.
FID and Inception Score are those of --features=inception, the default here, with its standard weights. The paper shows
curves over steps: no figure of theirs was found in print, and the strengths w are assumed. With --tiny codes are shown
and measured as if they were pictures.
"""

import sys

from configs import imagenet256_stage1, imagenet256_stage2, imagenet256_teacher
from experiments import tables
from guided_distill import launch

TABLE = tables.Table(
    name="imagenet256",
    title="ImageNet 256 x 256: a latent teacher distilled to one step",
    teacher=imagenet256_teacher,
    stage1=imagenet256_stage1,
    stage2=imagenet256_stage2,
    guidance=(0.0, 0.5, 1.0, 2.0),
    steps=(1, 2, 4, 8),
    parts=("core",),
    stand_in="synthetic",
)


def main() -> None:
    """Trains what is missing, writes results.json, sheets and the report."""
    tables.main(TABLE, __doc__, features="inception")


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
