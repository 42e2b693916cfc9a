"""The paper's text-to-image comparison: Stable Diffusion, one student for all w in [2, 14], halved to 8, 4, 2 and 1
steps, and DDIM and DPM-Solver++ on the teacher. A step of the teacher is two evaluations, so its rows of half the steps
cost as much as the student's.

    python -m experiments.laion512 --dry-run                                     rows, evaluations, estimated hours
    python -m experiments.laion512 --workdir=DIR --teacher=runs/laion512_teacher --clip=CLIP \\
        --reference=data:captioned_folder:path=COCO:size=512
    python -m experiments.laion512 --tiny                                        minutes, on made-up codes

--teacher is the imported Stable Diffusion (configs/laion512_teacher.py has the command); without it one is trained.
Students are trained on the encoded set `laion512` (docs/text-to-image.md). Rows are 5,000 samples for the captions of
the pictures of --reference, in their order, against those pictures: the paper's are COCO-2017's validation set, one
caption a picture (docs/captions.md has the formats of a folder). FID is that of --features=inception, the default here,
with its standard weights; the CLIP score needs --clip, the folder of a CLIP, and is of that network (docs/clip.md). The
strengths w are assumed. With --tiny codes are shown and measured as if they were pictures, and CLIP sees none.
"""

import sys

from configs import laion512_stage1, laion512_stage2, laion512_teacher
from experiments import tables
from guided_distill import launch

TABLE = tables.Table(
    name="laion512",
    title="Stable Diffusion: text to image, distilled to one step",
    teacher=laion512_teacher,
    stage1=laion512_stage1,
    stage2=laion512_stage2,
    guidance=(2.0, 4.0, 6.5, 8.0, 14.0),
    steps=(1, 2, 4, 8),
    num=5_000,
    parts=("core",),
    tiny_guidance=(2.0, 6.5),
    stand_in="synthetic",
    captioned=True,
)


def main() -> None:
    """Trains what is missing, writes results.json, sheets and the report."""
    tables.main(TABLE, __doc__, features="inception")


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
