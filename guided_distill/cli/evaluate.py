"""Measure a run: metrics for each number of steps, w and sampler against a reference split.

    python -m guided_distill evaluate runs/digits_stage2 --steps=1,4 --guidance=0,1,4 --num=1000
    --teacher=runs/digits_teacher
    python -m guided_distill evaluate runs/fashion_mnist_stage2 --features=efficientnet_lite0 --num=2000
    --num_reference=2000
    python -m guided_distill evaluate runs/fashion_mnist_stage2 --features=squeezenet --weights=squeezenet_weights.pkl

Prints a table and writes JSON. With --teacher its samples from the same noise are the partners of the paired distance.
The floor is what images of the data score. Numbers compare at equal numbers of samples only. Features of a reference by
a network are kept in ~/.cache/guided_distill.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import guided_distill
from guided_distill import data, evaluate, sweeps
from guided_distill.cli import natural, numbers
from guided_distill.errors import UserError, one_of
from guided_distill.features import Features
from guided_distill.files import write_json
from guided_distill.metrics import FeatureSet, NotFinite
from guided_distill.plugins import names
from guided_distill.runs import Run

OF_PAIRS = {
    "paired": "it is to a teacher's samples: name it with --teacher, and leave the metric out",
    "clip_score": "it is of samples and their captions: experiments.laion512 measures it (docs/clip.md)",
}
"""Metrics that are not against data, and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `evaluate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", help="run directory")
    parser.add_argument("--num", type=int, default=1000, help="samples a row (default 1000)")
    parser.add_argument("--steps", help="comma-separated (default: all that a halved chain has, else the recommended)")
    parser.add_argument("--guidance", help="w, comma-separated (default: the recommended)")
    parser.add_argument("--samplers", help="comma-separated (default: the run's own)")
    parser.add_argument("--split", default="train", help="of the run's data set, to measure against (default train)")
    parser.add_argument(
        "--num_reference", type=int, help="images of the split, drawn without replacement (default: all)"
    )
    parser.add_argument("--features", default="pixels", help=f"{', '.join(names('features'))} (default pixels)")
    parser.add_argument("--weights", help="file of the feature network's weights (default: in the installed package)")
    default = f"default {','.join(evaluate.AGAINST_DATA)}; of a network kernel before them"
    of_images = ", ".join(name for name in names("metrics") if name not in OF_PAIRS)
    parser.add_argument("--metrics", help=f"comma-separated of {of_images} ({default})")
    floor = "measure images of the data against others, too (default)"
    parser.add_argument("--floor", action=argparse.BooleanOptionalAction, default=True, help=floor)
    parser.add_argument("--teacher", help="run directory of a teacher, for the paired distance")
    parser.add_argument("--teacher_steps", type=int, help="its steps (default: its recommended)")
    parser.add_argument("--seed", type=natural, default=0)
    parser.add_argument("--json", type=Path, help="where the rows go (default: RUN/evaluation.json)")


def main(args: argparse.Namespace) -> None:
    """Prints the table, writes the JSON."""
    run = guided_distill.load(args.run)
    teacher = guided_distill.load(args.teacher) if args.teacher else None
    trained = sorted(run.trained_steps) if run.trained_steps is not None else [run.default_steps()]
    steps = numbers(args.steps, int) if args.steps else trained
    strengths = numbers(args.guidance) if args.guidance else [run.manifest["recommended"]["guidance"]]
    samplers = args.samplers.split(",") if args.samplers else [run.manifest["sampler"]]
    check(run, steps, strengths, samplers, args)
    teacher_steps = None
    if teacher is not None:
        teacher_steps = args.teacher_steps or teacher.default_steps()
        check(teacher, [teacher_steps], strengths, [teacher.manifest["sampler"]], args)
        if teacher.code_shape != run.code_shape:
            raise UserError(f"{args.teacher} makes {teacher.code_shape} and {args.run} {run.code_shape}: no partners")
    feature_name, features = evaluate.load_features(args.features, args.weights)
    metrics = args.metrics.split(",") if args.metrics else evaluate.default_metrics(args.features)
    real, on, told = against(run, features, metrics, args)
    on = {"run": args.run, "hash": run.hash, "features": feature_name, "num": args.num, **on, "seed": args.seed}
    on |= {"teacher": args.teacher, "teacher_steps": teacher_steps} if teacher else {}
    path = args.json or Path(args.run) / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)

    def drawn(of: Run, n: int, w: float, sampler: str | None) -> FeatureSet:
        noise = run.noise(args.num, args.seed)
        images = of.sample(args.num, n, w, seed=args.seed, sampler=sampler, noise=noise, **told)
        return evaluate.feature_set(images, told.get("labels"), features, logits="inception_score" in metrics)

    rows = []
    for w in strengths:
        partner = drawn(teacher, teacher_steps, w, None) if teacher else None
        for sampler, n in itertools.product(samplers, steps):
            try:
                values = evaluate.score(drawn(run, n, w, sampler), real, partner, metrics)
            except NotFinite as error:
                print(f"{sampler}, {n} steps, w = {w:g}: left out, {error}", flush=True)
                continue
            rows.append({"sampler": sampler, "steps": n, "guidance": w, **values})
            write_json(path, {**on, "rows": rows})
    if not rows:
        raise UserError(f"{args.run}: no samples that are numbers, at any of these settings")
    show(rows, on)
    print(f"-> {path}")


def against(
    run: Run, features: Features, metrics: Sequence[str], args: argparse.Namespace
) -> tuple[FeatureSet, dict[str, Any], dict[str, Any]]:
    """(the reference, what of it is shown: its name and size, how many images there are, and the floor; what runs are
    asked for, to be held against it)."""
    source = data.images(**{**run.manifest["data"], "split": args.split})
    name, num = f"{run.manifest['data']['name']}:{args.split}", args.num_reference
    print(f"reference: {num or len(source)} of {len(source)} images of {name}", flush=True)
    real = evaluate.reference(source, features, num, args.seed, evaluate.CACHE, "inception_score" in metrics)
    on = {"reference": name, "num_reference": len(real.features), "num_available": len(source)}
    if args.floor:
        on["floor"] = evaluate.floor(source, features, real, args.num, metrics, args.seed, evaluate.CACHE)
    return real, on, evaluate.told(run.manifest, source, args.num)


def check(run: Run, steps: list[int], strengths: list[float], samplers: list[str], args: argparse.Namespace) -> None:
    """Everything that could fail in the middle fails here: rows are dear. Raises `UserError`."""
    for sampler in samplers:
        run.check_sampler(sampler)
    run.check_guidance(np.asarray(strengths))
    sweeps.check_steps(run, steps)
    if run.manifest["objective"] == "encoding":
        raise UserError(f"{run.dir} is an encoder; there are no samples of it to measure")
    for name in args.metrics.split(",") if args.metrics else ():
        if name in OF_PAIRS:
            raise UserError(f"--metrics={name}: {OF_PAIRS[name]}")
        one_of("metric", name, sorted(set(names("metrics")) - set(OF_PAIRS)))
    if args.num < 4:
        raise UserError(f"--num {args.num} is too few for metrics")


def show(rows: list[dict], on: dict) -> None:
    """The table, with what it was measured on as its title."""
    reference = f"{on['num_reference']} of {on['num_available']} images of {on['reference']}"
    title = f"{on['run']}: {on['num']} samples against {reference}, FD-{on['features']}, seed {on['seed']}"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    if floor := on.get("floor"):
        table.caption = f"data: the floor, {floor['num']} images of the data against {floor['num_reference']} others"
        rows = [{"sampler": "data", **floor}, *rows]
    for row in rows:
        cells = [row.get(column.header, "") for column in table.columns]
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in cells))
    Console(width=None if Console().is_terminal else 140).print(table)
