"""Measure a run: metrics for each number of steps, w and sampler against a reference split.

    python -m guided_distill evaluate runs/digits_stage2 --steps=1,4 --guidance=0,1,4 --num=1000
    --teacher=runs/digits_teacher

Prints a table and writes JSON. With --teacher its samples from the same noise are the partners of the paired distance.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import guided_distill
from guided_distill import data, evaluate
from guided_distill.cli import numbers
from guided_distill.errors import UserError
from guided_distill.files import write_json
from guided_distill.metrics import FeatureSet
from guided_distill.plugins import resolve
from guided_distill.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `evaluate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", help="run directory")
    parser.add_argument("--num", type=int, default=1000, help="samples a row (default 1000)")
    parser.add_argument("--steps", help="comma-separated (default: all that a halved chain has, else the recommended)")
    parser.add_argument("--guidance", help="w, comma-separated (default: the recommended)")
    parser.add_argument("--samplers", help="comma-separated (default: the run's own)")
    parser.add_argument("--split", default="train", help="of the run's data set, to measure against (default train)")
    parser.add_argument("--features", default="pixels", help="feature function (default pixels)")
    parser.add_argument("--metrics", default=",".join(evaluate.AGAINST_DATA), help="comma-separated")
    parser.add_argument("--teacher", help="run directory of a teacher, for the paired distance")
    parser.add_argument("--teacher_steps", type=int, help="its steps (default: its recommended)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the rows go (default: RUN/evaluation.json)")


def main(args: argparse.Namespace) -> None:
    """Prints the table, writes the JSON."""
    run = guided_distill.load(args.run)
    teacher = guided_distill.load(args.teacher) if args.teacher else None
    trained = sorted(run.trained_steps) if run.trained_steps is not None else [run.default_steps()]
    steps = numbers(args.steps, int) if args.steps else trained
    strengths = numbers(args.guidance) if args.guidance else [run.manifest["recommended"]["guidance"]]
    names = args.samplers.split(",") if args.samplers else [run.manifest["sampler"]]
    check(run, steps, strengths, names, args)
    teacher_steps = None
    if teacher is not None:
        teacher_steps = args.teacher_steps or teacher.default_steps()
        check(teacher, [teacher_steps], strengths, [teacher.manifest["sampler"]], args)
        if teacher.code_shape != run.code_shape:
            raise UserError(f"{args.teacher} makes {teacher.code_shape} and {args.run} {run.code_shape}: no partners")
    feature_name, features = evaluate.load_features(args.features)
    source = data.load(**{**run.manifest["data"], "split": args.split})
    real = evaluate.reference(source, features)
    classes = run.manifest["num_classes"]
    labels = np.arange(args.num) % classes if classes else None
    path = args.json or Path(args.run) / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)

    def drawn(of: Run, n: int, w: float, sampler: str | None) -> FeatureSet:
        images = of.sample(args.num, n, w, labels, args.seed, sampler, run.noise(args.num, args.seed))
        return evaluate.feature_set(images, labels, features)

    rows = []
    for w in strengths:
        partner = drawn(teacher, teacher_steps, w, None) if teacher else None
        for sampler, n in itertools.product(names, steps):
            values = evaluate.score(drawn(run, n, w, sampler), real, partner, args.metrics.split(","))
            rows.append({"sampler": sampler, "steps": n, "guidance": w, **values})
    on = {
        "run": args.run,
        "features": feature_name,
        "num": args.num,
        "reference": f"{run.manifest['data']['name']}:{args.split}",
    }
    on |= {"num_reference": len(source), "seed": args.seed}
    on |= {"teacher": args.teacher, "teacher_steps": teacher_steps} if teacher else {}
    show(rows, on)
    write_json(path, {**on, "rows": rows})
    print(f"-> {path}")


def check(run: Run, steps: list[int], strengths: list[float], samplers: list[str], args: argparse.Namespace) -> None:
    """Everything that could fail in the middle fails here: rows are dear. Raises `UserError`."""
    for sampler in samplers:
        run.check_sampler(sampler)
    run.check_guidance(np.asarray(strengths))
    trained = run.trained_steps
    for n in steps:
        if n < 1 or (trained is not None and n not in trained):
            raise UserError(
                f"{run.dir} has no student of {n} steps; trained: {', '.join(map(str, sorted(trained or [])))}"
            )
    if run.manifest["objective"] == "encoding":
        raise UserError(f"{run.dir} is an encoder; there are no samples of it to measure")
    for name in args.metrics.split(","):
        resolve("metrics", name)
    if args.num < 4:
        raise UserError(f"--num {args.num} is too few for metrics")


def show(rows: list[dict], on: dict) -> None:
    """The table, with what it was measured on as its title."""
    against = f"{on['reference']} ({on['num_reference']})"
    title = f"{on['run']}: {on['num']} samples, features {on['features']}, against {against}, seed {on['seed']}"
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=None if Console().is_terminal else 140).print(table)
