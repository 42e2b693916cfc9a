"""The oracle: students of an exact guided denoiser, measured against its exact probability flow.

    python -m experiments.mixture2d --workdir=DIR [--seed=0] [--modes=RING|ADJACENT] [--sigma=0.12] [--only=student]
    [--tiny]

`distance` is the mean Euclidean distance to the end of the exact guided flow (Heun, 2,048 steps) from the same noise;
`ddim_distance` that of DDIM with the exact guided denoiser at equal steps. Stochastic students end elsewhere by nature,
and have the `energy_distance` to exact guided samples instead, beside that of the exact denoiser's stochastic sampler.
The encoder's distances are to where the exact flow takes the same data. Expected, at w = 0, 1 and 4: distance <= 0.2 x
ddim_distance at 4 steps, and <= 0.05 x at 1 step, or 0.03 absolute.
"""

import functools
import sys

import numpy as np

import guided_distill
from configs import mixture2d_stage1, mixture2d_stage2, mixture2d_teacher
from experiments.results import Results, arguments
from guided_distill import data, launch
from guided_distill.metrics import FeatureSet, energy

GUIDANCE = (0.0, 1.0, 4.0)


class Oracle:
    """The exact teacher, with noise, labels and exact end points shared by all rows."""

    def __init__(self, teacher, num: int, flow_steps: int, seed: int):
        self.teacher, self.num, self.flow_steps, self.seed = teacher, num, flow_steps, seed
        self.noise = teacher.noise(num, seed)
        self.labels = np.arange(num) % 4

    @functools.cache  # noqa: B019 - lives as long as the process
    def flow(self, w: float, fresh: bool = False) -> np.ndarray:
        """Ends of the exact guided flow, [num, 2]; from other noise if `fresh`."""
        noise = self.teacher.noise(self.num, self.seed + 1_000_003) if fresh else self.noise
        return self.sample(self.teacher, self.flow_steps, w, "heun", noise)

    def sample(self, run, steps: int, w: float, sampler: str, noise: np.ndarray | None = None) -> np.ndarray:
        """A run's samples from the shared noise."""
        noise = self.noise if noise is None else noise
        return run.sample(self.num, steps, w, self.labels, self.seed, sampler, noise, batch_size=self.num)

    def distance(self, samples: np.ndarray, w: float) -> float:
        """Mean Euclidean distance to the exact ends."""
        return mean_distance(samples, self.flow(w))

    def energy(self, samples: np.ndarray, w: float) -> float:
        """Energy distance to exact guided samples of other noise."""
        return energy.compute(FeatureSet(samples), FeatureSet(self.flow(w, fresh=True)))["energy_distance"]


def mean_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows of the Euclidean distance."""
    return float(np.linalg.norm(a - b, axis=1).mean())


def row_key(method: str, sampler: str, steps: int, w: float, seed: int) -> dict:
    """What a row is known by."""
    return {"method": method, "sampler": sampler, "steps": steps, "guidance": w, "seed": seed}


def deterministic_rows(results: Results, oracle: Oracle, method: str, run, steps, guidance, seed: int) -> None:
    """Rows of a network under DDIM, and of DDIM with the exact denoiser beside them."""
    for w in guidance:
        for n in steps:
            exact = results.row(
                row_key("exact", "ddim", n, w, seed),
                2 * n,
                lambda n=n, w=w: {"distance": oracle.distance(oracle.sample(oracle.teacher, n, w, "ddim"), w)},
            )
            results.row(
                row_key(method, "ddim", n, w, seed),
                n,
                lambda n=n, w=w, exact=exact: {
                    "distance": oracle.distance(oracle.sample(run, n, w, "ddim"), w),
                    "ddim_distance": exact["distance"],
                },
            )


def stochastic_rows(results: Results, oracle: Oracle, run, steps, seed: int) -> None:
    """Rows of the stochastic student, by energy distance, and of the exact denoiser's stochastic sampler."""
    for w in GUIDANCE:
        for n in steps:
            exact = results.row(
                row_key("exact", "stochastic", n, w, seed),
                2 * n,
                lambda n=n, w=w: {
                    "energy_distance": oracle.energy(oracle.sample(oracle.teacher, n, w, "stochastic"), w)
                },
            )
            results.row(
                row_key("stochastic student", "stochastic", n, w, seed),
                n,
                lambda n=n, w=w, exact=exact: {
                    "energy_distance": oracle.energy(oracle.sample(run, n, w, "stochastic"), w),
                    "exact_energy_distance": exact["energy_distance"],
                },
            )


def encoder_rows(results: Results, oracle: Oracle, run, steps, source: data.Source, seed: int) -> None:
    """Rows of the distilled encoder at w = 0: distance to where the exact flow takes the same data."""
    part = source[: oracle.num]
    exact = oracle.teacher.encode(part["x"], oracle.flow_steps, part["label"], 0.0, batch_size=oracle.num)
    for n in steps:
        results.row(
            row_key("encoder", "ddim", n, 0.0, seed),
            n,
            lambda n=n: {
                "distance": mean_distance(run.encode(part["x"], n, part["label"], 0.0, batch_size=oracle.num), exact),
                "ddim_distance": mean_distance(
                    oracle.teacher.encode(part["x"], n, part["label"], 0.0, batch_size=oracle.num), exact
                ),
            },
        )


def main() -> None:
    """Trains what is missing and writes results.json."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--modes", choices=("RING", "ADJACENT"), default="RING", help="mode j belongs to class j mod 4, or j // 2"
    )
    parser.add_argument("--sigma", type=float, default=0.12, help="of every mode (default 0.12)")
    parser.add_argument("--only", choices=("student",), help="just the w-conditioned deterministic chain")
    args = parser.parse_args()
    launch.prepare_process()
    num, flow_steps = (256, 64) if args.tiny else (4096, 2048)
    results, seed = Results(args.workdir, num=num, modes=args.modes, sigma=args.sigma, seed=args.seed), args.seed
    shared = f"modes={args.modes},sigma={args.sigma}" + (",tiny" if args.tiny else "")

    def train(module, name: str, teacher: str | None = None, extra: str = ""):
        config = module.get_config(f"{shared},{extra}" if extra else shared)
        return guided_distill.load(results.train(config, name, seed, teacher and args.workdir / teacher))

    oracle = Oracle(train(mixture2d_teacher, "teacher"), num, flow_steps, seed)
    matched = train(mixture2d_stage1, "matched", "teacher")
    student = train(mixture2d_stage2, "student", "matched")
    steps = sorted(student.trained_steps)
    deterministic_rows(results, oracle, "student", student, steps, GUIDANCE, seed)
    deterministic_rows(results, oracle, "matched", matched, [steps[-1] * 2], GUIDANCE, seed)
    if args.only:
        return
    train(mixture2d_stage1, "matched_single_w", "teacher", "w=1")
    single = train(mixture2d_stage2, "single_w", "matched_single_w", "w=1")
    deterministic_rows(results, oracle, "single-w student", single, steps, [1.0], seed)
    train(mixture2d_stage1, "matched_unguided", "teacher", "unguided")
    unguided = train(mixture2d_stage2, "unguided", "matched_unguided", "unguided")
    deterministic_rows(results, oracle, "unguided student", unguided, steps, [0.0], seed)
    stochastic = train(mixture2d_stage2, "stochastic", "matched", "stochastic")
    stochastic_rows(results, oracle, stochastic, sorted(stochastic.trained_steps), seed)
    encoder = train(mixture2d_stage2, "encoder", "matched", "encoding")
    test = data.load("mixture2d", "test", modes_layout=args.modes, sigma=args.sigma)
    encoder_rows(results, oracle, encoder, steps, test, seed)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
