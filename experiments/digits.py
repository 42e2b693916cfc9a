"""The digits chain by its longer budget: teacher, stage one, stage two, and plain DDIM on the teacher beside them.

    python -m experiments.digits --workdir=DIR [--seed=0] [--num=1000] [--tiny]        (2 CPU cores, about 45 minutes)

1,000 samples from the same noise for every row, against all 1,797 images, on raw pixels. Writes DIR/results.json, the
sheets and DIR/report.html. Expected Fréchet distance: teacher (64 steps) <= 0.25 / 0.75 at w = 0 / 1; at w = 1 and 4
the 4-step student <= 1.10 x the teacher's and the 1-step student <= 1.20 x; at w = 0 <= max(1.25 x, 0.30), about
the distance between two random halves of the data.
"""

import sys

import guided_distill
from configs import digits_stage1, digits_stage2, digits_teacher
from experiments.measure import Measure, sheet
from experiments.results import Results, arguments
from guided_distill import launch, report

GUIDANCE = (0.0, 1.0, 4.0)
TEACHER_STEPS = 64
END_ONLY = "teacher, clipped at its end only"  # The flow that stage two is trained on, where nothing is clipped.


def longer(config, num_updates: int):
    """A config with the longer budget of this experiment. The last two halvings, the hardest, get the most."""
    config.num_updates = num_updates
    config.save_every = 1000
    if "halving" in config:
        config.halving.last_updates_factor = 2.5
        config.optim.lr = 5e-4
    return config


def main() -> None:
    """Trains what is missing, writes results.json and the sheets."""
    parser = arguments(__doc__)
    parser.add_argument("--num", type=int, default=1000, help="samples a row (default 1000)")
    args = parser.parse_args()
    launch.prepare_process()
    num, seed, arg = 60 if args.tiny else args.num, args.seed, "tiny" if args.tiny else ""
    results = Results(args.workdir, num=num, seed=seed)

    def train(module, name: str, updates: int, above: str | None = None, extra: str = ""):
        config = module.get_config(",".join(filter(None, (arg, extra))))
        config = config if args.tiny else longer(config, updates)
        return guided_distill.load(results.train(config, name, seed, above and args.workdir / above))

    teacher = train(digits_teacher, "teacher", 3500)
    matched = train(digits_stage1, "matched", 4500, "teacher")
    student = train(digits_stage2, "student", 650, "matched")
    measure, steps = Measure(results, teacher, num, seed, TEACHER_STEPS), sorted(student.trained_steps)
    measure.floor()
    for w in GUIDANCE:
        measure.row("teacher", teacher, "ddim", TEACHER_STEPS, w, 2 * TEACHER_STEPS)
        measure.row(END_ONLY, teacher, "ddim", TEACHER_STEPS, w, 2 * TEACHER_STEPS, clip=False)
        measure.row("matched", matched, "ddim", TEACHER_STEPS, w, TEACHER_STEPS)
        for n in steps:
            measure.row("student", student, "ddim", n, w, n)
            measure.row("DDIM on the teacher", teacher, "ddim", n, w, 2 * n)
    for w in GUIDANCE:
        rows = {
            f"teacher {TEACHER_STEPS} x 2": (teacher, TEACHER_STEPS),
            f"stage one {TEACHER_STEPS}": (matched, TEACHER_STEPS),
        }
        rows |= {f"student {n}": (student, n) for n in reversed(steps) if n <= 8}
        rows |= {f"DDIM {n} x 2": (teacher, n) for n in (4, 1)}
        sheet(args.workdir / f"sheet_w{w:g}.png", rows, w, seed)
    print(f"-> {report.of_experiment(args.workdir, 'Digits: a teacher distilled to one step')}")


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
