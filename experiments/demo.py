"""The whole digits chain in minutes: trains teacher, stage one and stage two, draws them from the same noise, and
measures them.

    python -m experiments.demo --workdir=DIR [--tiny]           (2 CPU cores, about 6 minutes; `make demo`)

Leaves DIR/sheet.png, DIR/results.json and a printed table in which the 4-step student is closer to the teacher than
4-step DDIM is.
"""

import sys

import guided_distill
from configs import digits_chain
from experiments.measure import Measure, sheet
from experiments.results import Results, arguments
from guided_distill import launch

GUIDANCE = 1.0
TEACHER_STEPS = 32


def main() -> None:
    """Trains, draws, measures."""
    args = arguments(__doc__).parse_args()
    launch.prepare_process()
    num = 60 if args.tiny else 500
    results = Results(args.workdir, num=num, seed=args.seed)
    config = digits_chain.get_config("tiny" if args.tiny else "").to_dict()
    for stage in config["stages"].values():
        stage["seed"] = args.seed
    launch.train(config, str(args.workdir))
    teacher, student = (guided_distill.load(args.workdir / name) for name in ("teacher", "stage2"))
    measure = Measure(results, teacher, num, args.seed, TEACHER_STEPS)
    measure.row("teacher", teacher, "ddim", TEACHER_STEPS, GUIDANCE, 2 * TEACHER_STEPS)
    for n in (4, 1):
        measure.row("student", student, "ddim", n, GUIDANCE, n)
        measure.row("DDIM on the teacher", teacher, "ddim", n, GUIDANCE, 2 * n)
    rows = {f"teacher, {2 * TEACHER_STEPS} evaluations": (teacher, TEACHER_STEPS)}
    rows |= {f"student, {n}": (student, n) for n in (4, 2, 1)}
    rows |= {f"DDIM on the teacher, {2 * n}": (teacher, n) for n in (4, 1)}
    sheet(args.workdir / "sheet.png", rows, GUIDANCE, args.seed)
    print(
        measure.results.table(
            ("method", "steps", "evaluations", "guidance", "frechet_distance", "recall", "paired_distance")
        )
    )
    print(f"-> {args.workdir / 'sheet.png'}")


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
