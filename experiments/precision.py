"""Does bfloat16 cost quality? The digits chain at three seeds in either precision; parameters are float32 in both.

    python -m experiments.precision --workdir=DIR [--tiny]         (2 CPU cores, about 45 minutes)
    python -m experiments.precision --workdir=DIR --publish        (docs/results/precision.md from its results)

Half of the demo's updates. 1,000 samples a row at w = 1 against all 1,797 images, on raw pixels. Expected: the means of
the Fréchet distance differ by less than two pooled standard errors.
"""

import math
import statistics
import sys
from pathlib import Path

import guided_distill
from configs import digits_stage1, digits_stage2, digits_teacher
from experiments.measure import Measure
from experiments.results import Results, arguments, markdown
from guided_distill import launch

DTYPES, SEEDS, GUIDANCE, TEACHER_STEPS = ("float32", "bfloat16"), (0, 1, 2), 1.0, 32
UPDATES = {"teacher": 500, "stage1": 150, "stage2": 30}
ROWS = (("teacher", TEACHER_STEPS), ("student", 4), ("student", 1))
PAGE = """# bfloat16 against float32

Made by `python -m experiments.precision --publish`; no number is typed by hand. The digits chain ({updates}) at seeds
{seeds} in either precision: convolutions, matrix products and attention in it, parameters, norms, maths and optimiser
in float32. Fréchet distance (raw pixels, {num} samples against all 1,797 images, w = 1). `difference`: of the means,
in pooled standard errors; expected within 2. With three seeds a side a standard error is itself rough. Both precisions
have the same noise, labels and examples at a seed, hence rows so alike; and XLA may keep more digits between two
operations than bfloat16 has, on CPUs more often than elsewhere, so an accelerator may find larger differences.

On {hardware}.
"""


def main() -> None:
    """Trains what is missing, measures; or writes the page."""
    parser = arguments(__doc__)
    parser.add_argument("--publish", action="store_true", help="write docs/results/precision.md from DIR")
    args = parser.parse_args()
    launch.prepare_process()
    num = 60 if args.tiny else 1000
    results = Results(args.workdir, num=num)
    if args.publish:
        return publish(results, num)
    for seed in SEEDS:
        for dtype in DTYPES:
            chain(results, dtype, seed, num, "tiny" if args.tiny else "")
    print(markdown(summary(results.rows), COLUMNS))
    return None


def chain(results: Results, dtype: str, seed: int, num: int, argument: str) -> None:
    """Teacher, stage one and two in one precision, and their rows."""
    above = None
    for name, module in (("teacher", digits_teacher), ("stage1", digits_stage1), ("stage2", digits_stage2)):
        config = module.get_config(argument)
        config.compute.dtype = dtype
        if not argument:
            config.num_updates = UPDATES[name]
        above = results.train(config, f"{dtype}-seed{seed}/{name}", seed, above)
    teacher, student = (guided_distill.load(above.parent / name) for name in ("teacher", "stage2"))
    measure = Measure(results, teacher, num, seed, TEACHER_STEPS)
    for (method, n), run in zip(ROWS, (teacher, student, student), strict=True):
        evaluations = 2 * n if method == "teacher" else n
        measure.row(f"{method}, {dtype}", run, "ddim", n, GUIDANCE, evaluations, dtype=dtype)


COLUMNS = ("method", "steps", *(f"{dtype}, {what}" for dtype in DTYPES for what in ("mean", "sd")), "difference", "met")


def summary(rows: list[dict]) -> list[dict]:
    """A row for each method and number of steps: mean and deviation in either precision, and how far they are
    apart."""
    out = []
    for method, n in ROWS:
        found = {
            dtype: [r["frechet_distance"] for r in rows if r["method"] == f"{method}, {dtype}" and r["steps"] == n]
            for dtype in DTYPES
        }
        means = {dtype: statistics.mean(values) for dtype, values in found.items()}
        spreads = {dtype: statistics.stdev(values) for dtype, values in found.items()}
        error = math.sqrt(sum(spreads[dtype] ** 2 / len(found[dtype]) for dtype in DTYPES))
        apart = (means["bfloat16"] - means["float32"]) / error
        row = {"method": method, "steps": n, "difference": apart, "met": "yes" if abs(apart) <= 2 else "no"}
        for dtype in DTYPES:
            row |= {f"{dtype}, mean": means[dtype], f"{dtype}, sd": spreads[dtype]}
        out.append(row)
    return out


def publish(results: Results, num: int) -> None:
    """docs/results/precision.md."""
    from experiments.publish import DOCS, read, spent

    rows, hardware = read(results.workdir)
    total = {"in all": sum(hardware["seconds"].values())}
    text = PAGE.format(
        updates=", ".join(f"{name} {updates}" for name, updates in UPDATES.items()) + " a round",
        seeds=", ".join(map(str, SEEDS)),
        num=num,
        hardware=spent({**hardware, "seconds": total}),
    )
    each = ("method", "steps", "seed", "frechet_distance", "recall", "paired_distance")
    tables = [markdown(summary(rows), COLUMNS), "", "## Every row", "", markdown(rows, each), ""]
    Path(DOCS / "precision.md").write_text("\n".join([text, *tables]))


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
