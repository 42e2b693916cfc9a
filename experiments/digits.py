"""The digits chain by its longer budget: teacher, stage one, stage two, and plain DDIM on the teacher beside them.

    python -m experiments.digits --workdir=DIR [--seed=0] [--num=1000] [--tiny]        (2 CPU cores, about 40 minutes)

1,000 samples from the same noise for every row, against all 1,797 images, on raw pixels. Writes DIR/results.json and
DIR/sheet.png. Expected Fréchet distance: teacher (64 steps) <= 0.25 / 0.75 at w = 0 / 1; at w = 1 and 4 the 4-step
student <= 1.10 x the teacher's and the 1-step student <= 1.20 x; at w = 0 <= max(1.25 x, 0.30), 0.28 being the distance
between two random halves of the data.
"""

import sys

import numpy as np

import guided_distill
from configs import digits_stage1, digits_stage2, digits_teacher
from experiments.results import Results, arguments
from guided_distill import data, evaluate, launch, pictures

GUIDANCE = (0.0, 1.0, 4.0)
TEACHER_STEPS = 64


def longer(config, num_updates: int):
    """A config with the longer budget of this experiment. The last two halvings, the hardest, get the most."""
    config.num_updates = num_updates
    config.save_every = 1000
    if "halving" in config:
        config.halving.last_updates_factor = 2.5
        config.optim.lr = 5e-4
    return config


class Measure:
    """Rows of networks on the same noise and labels."""

    def __init__(self, results: Results, teacher, num: int, seed: int, teacher_steps: int = TEACHER_STEPS):
        self.results, self.teacher, self.num, self.seed, self.teacher_steps = results, teacher, num, seed, teacher_steps
        _, self.features = evaluate.load_features("pixels")
        self.real = evaluate.reference(data.load("digits"), self.features)
        self.labels = np.arange(num) % 10
        self.partners: dict[float, evaluate.FeatureSet] = {}

    def samples(self, run, steps: int, w: float, sampler: str) -> evaluate.FeatureSet:
        """The features of a run's samples."""
        images = run.sample(self.num, steps, w, self.labels, self.seed, sampler)
        return evaluate.feature_set(images, self.labels, self.features)

    def partner(self, w: float) -> evaluate.FeatureSet:
        """The teacher's samples from the same noise."""
        if w not in self.partners:
            self.partners[w] = self.samples(self.teacher, self.teacher_steps, w, "ddim")
        return self.partners[w]

    def row(self, method: str, run, sampler: str, steps: int, w: float, evaluations: int) -> None:
        """One row: Fréchet distance, precision, recall, variance within a class, and the distance to the teacher's
        partner."""
        key = {"method": method, "sampler": sampler, "steps": steps, "guidance": w, "seed": self.seed}
        self.results.row(
            key, evaluations, lambda: evaluate.score(self.samples(run, steps, w, sampler), self.real, self.partner(w))
        )


def halves(measure: Measure) -> None:
    """The floor: one half of the data against the other."""
    order = np.random.default_rng(measure.seed).permutation(len(measure.real.labels))
    sets = [
        evaluate.FeatureSet(measure.real.features[part], measure.real.labels[part]) for part in np.array_split(order, 2)
    ]
    key = {"method": "half of the data", "sampler": "none", "steps": 0, "guidance": 0.0, "seed": measure.seed}
    measure.results.row(key, 0, lambda: evaluate.score(*sets))


def sheet(path, rows: dict[str, tuple], w: float, seed: int) -> None:
    """A row of twenty samples from the same noise for each of {name: (run, steps)}, at one w."""
    labels = np.arange(20) % 10
    pictures.save_sheet(path, {name: run.sample(20, steps, w, labels, seed) for name, (run, steps) in rows.items()})


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
    measure, steps = Measure(results, teacher, num, seed), sorted(student.trained_steps)
    halves(measure)
    for w in GUIDANCE:
        measure.row("teacher", teacher, "ddim", TEACHER_STEPS, w, 2 * TEACHER_STEPS)
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


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
