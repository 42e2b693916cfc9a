"""The paper's tables for one data set: what is trained, which rows are measured, what it costs.

A table is planned before anything runs, so `--dry-run` prints exactly what a run would do. Rows that stand in
results.json are skipped, trainings go on where they stopped, and the report is written at the end (and anew each time).
"""

import argparse
import dataclasses
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table as Printed

import guided_distill
from experiments import paper
from experiments.measure import Measure, sheet
from experiments.published import FIGURES, Figure
from experiments.results import Results, arguments
from guided_distill import data, flops, launch, report, rounds
from guided_distill.cli import numbers
from guided_distill.errors import one_of
from guided_distill.files import write_text
from guided_distill.hardware import ACCELERATORS, UTILISATION
from guided_distill.plugins import resolve

PARTS = ("core", "stochastic", "single_w", "unguided")
SHOWN = ("A100", "H100", "TPU v4", "TPU v5e", "TPU v5p")


@dataclasses.dataclass(frozen=True)
class Table:
    """`guidance`, `steps`: the table's axes; `single_w`: the strengths that get a student of their own; `num` samples a
    row, against `num_reference` images (None: all) of a `split`. `more`: (steps, samples, w) of two rows, of the
    teacher at more steps than it is otherwise sampled at and of as many samples at those, to see whether that helps."""

    name: str
    title: str
    teacher: ModuleType
    stage1: ModuleType
    stage2: ModuleType
    guidance: tuple[float, ...] = (0.0, 0.3, 1.0, 2.0, 4.0)
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    single_w: tuple[float, ...] = (0.3, 1.0)
    num: int = 50_000
    num_reference: int | None = None
    split: str = "train"
    more: tuple[int, int, float] | None = None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What the papers have for this table."""
        return FIGURES.get(self.name, ())


@dataclasses.dataclass(frozen=True)
class Training:
    """A run to be trained from `above`; `forwards`: network evaluations' worth of work for one example (a backward pass
    is two)."""

    part: str
    name: str
    config: ConfigDict
    above: str | None
    forwards: int

    @property
    def examples(self) -> int:
        """Seen in all rounds."""
        if "halving" not in self.config:
            return self.config.num_updates * self.config.batch_size
        halving, stochastic = self.config.halving, self.config.objective.get("stochastic", False)
        last = round(self.config.num_updates * halving.last_updates_factor)
        plan = rounds.halving(halving.start_steps, halving.end_steps, self.config.num_updates, last, stochastic)
        return plan.total * self.config.batch_size


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a run under a sampler."""

    part: str
    method: str
    run: str
    sampler: str
    steps: int
    guidance: float
    evaluations: int
    num: int | None = None
    """Of samples, if not the table's."""


def trainings(table: Table, argument: str) -> list[Training]:
    """All runs of a table, each after the one that it starts from. `argument`: "", "tiny" or "cpu"."""

    def config(module: ModuleType, extra: str = "") -> ConfigDict:
        return module.get_config(",".join(filter(None, (argument, extra))))

    planned = [
        Training("core", "teacher", config(table.teacher), None, 3),
        Training("core", "matched", config(table.stage1), "teacher", 5),
        Training("core", "student", config(table.stage2), "matched", 5),
        Training("stochastic", "stochastic", config(table.stage2, "stochastic"), "matched", 5),
    ]
    for w in table.single_w:
        extra, name = f"w={w:g}", f"single_w{w:g}"
        planned += [
            Training("single_w", f"matched_{name}", config(table.stage1, extra), "teacher", 5),
            Training("single_w", name, config(table.stage2, extra), f"matched_{name}", 5),
        ]
    return [*planned, Training("unguided", "unguided", config(table.stage2, "unguided"), "teacher", 5)]


def rows(table: Table, planned: list[Training]) -> list[Row]:
    """All rows of a table, for the steps that its chains are trained for."""
    of = {training.name: training.config for training in planned}
    many = of["teacher"].sampling.steps
    steps = [n for n in table.steps if n < of["student"].halving.start_steps]
    out = []
    for w in table.guidance:
        out.append(Row("core", "teacher", "teacher", "ddim", many, w, 2 * many))
        out.append(Row("core", "matched", "matched", "ddim", many, w, many))
        for n in steps:
            out += [
                Row("core", "student", "student", "ddim", n, w, n),
                Row("core", "DDIM on the teacher", "teacher", "ddim", n, w, 2 * n),
                Row("core", "DPM-Solver++ on the teacher", "teacher", "dpmpp_2m", n, w, 2 * n),
                Row("stochastic", "stochastic student", "stochastic", "stochastic", n, w, n),
            ]
    for w in table.single_w:
        out += [Row("single_w", "single-w student", f"single_w{w:g}", "ddim", n, w, n) for n in steps]
    out += [Row("unguided", "unguided student", "unguided", "ddim", n, 0.0, n) for n in steps]
    if table.more:
        most, num, w = table.more
        out += [Row("core", f"teacher, {num} samples", "teacher", "ddim", n, w, 2 * n, num) for n in (many, most)]
    return out


def forward_flops(config: ConfigDict) -> float:
    """Of one evaluation of a teacher's network for one example, counted; the data need not be there."""
    arguments, source = dict(config.network), dict(config.data)
    info = getattr(resolve("data", source["name"]), "INFO", None) or data.load(**source).info
    size, channels = source.get("size", info.shape[0]), info.shape[-1]
    module = resolve("models", arguments.pop("name"))
    preset = module.PRESETS[arguments.pop("preset")] if "preset" in arguments else {}
    network = module.Network(out_channels=channels, num_classes=info.num_classes, **preset, **arguments)
    inputs = (jnp.zeros((1, size, size, channels)), jnp.zeros((1,)), {"label": jnp.zeros((1,), jnp.int32)})
    params = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return flops.count(network.apply, params, *inputs)


def dry_run(table: Table, planned: list[Training], measured: list[Row], num: int) -> None:
    """Prints trainings and rows with their evaluations, FLOPs and estimated hours."""
    forward = forward_flops(planned[0].config)
    console = Console(width=None if Console().is_terminal else 120)
    grouped: dict[tuple, list[float]] = {}
    for row in measured:
        grouped.setdefault((row.method, row.sampler, row.steps, row.evaluations), []).append(row.guidance)
    title = f"{table.title}: {len(measured)} rows of {num:,} samples"
    shown = Printed("method", "sampler", "steps", "evaluations", "PFLOP a row", "w", title=title, title_justify="left")
    for (*cells, evaluations), strengths in grouped.items():
        cost, w = num * evaluations * forward / 1e15, ", ".join(f"{w:g}" for w in strengths)
        shown.add_row(*map(str, cells), f"{evaluations:,}", f"{cost:,.3g}", w)
    console.print(shown)
    title = f"Hours on one chip, estimated: {UTILISATION:.0%} of the bfloat16 peak, metrics not counted"
    chips = [chip for chip in ACCELERATORS if chip.name in SHOWN]
    hours = Printed("", "PFLOP", *(chip.name for chip in chips), title=title, title_justify="left")
    costs = {f"train {training.name}": training.examples * training.forwards * forward for training in planned}
    costs["sample all rows"] = sum(num * row.evaluations * forward for row in measured)
    for name, cost in {**costs, "all": sum(costs.values())}.items():
        times = (cost / (chip.flops * UTILISATION) / 3600 for chip in chips)
        hours.add_row(name, *(f"{n:,.0f}" if n >= 10 else f"{n:.2g}" for n in (cost / 1e15, *times)))
    console.print(hours)
    console.print(f"One evaluation of the network for one example: {forward / 1e9:.4g} GFLOP, counted.")


def key_of(row: Row, seed: int) -> dict:
    """What a row is known by."""
    key = {name: getattr(row, name) for name in ("method", "sampler", "steps", "guidance")}
    return key | {"seed": seed}


def to_train(planned: list[Training], rows: list[Row]) -> list[Training]:
    """The runs that these rows need: those that are sampled, the teacher of the partners, and all above them."""
    above = {training.name: training.above for training in planned}
    needed, found = {row.run for row in rows} | ({"teacher"} if rows else set()), set()
    for name in needed:
        while name and name not in found:
            found.add(name)
            name = above[name]
    return [training for training in planned if training.name in found]


def measure(table: Table, results: Results, loaded: dict, planned: list[Row], args: argparse.Namespace) -> None:
    """Computes the rows that do not stand yet, for each seed of the noise."""
    many = next(row.steps for row in planned if row.method == "teacher")
    in_print = {(f.method, f.steps, f.guidance): f for f in table.figures if f.verified and f.metric == "FID"}
    for seed in args.seeds:
        missing = [row for row in planned if not results.taken(key_of(row, seed))]
        if not missing:
            continue
        m = Measure(results, loaded["teacher"], args.num, seed, many, args.features, args.num_reference, args.split)
        if seed == args.seeds[0]:
            m.floor()
        for row in missing:
            figure = in_print.get((row.method, row.steps, row.guidance))
            more = {"published": f"{figure.value:g}", "published_source": f"FID; {figure.source}"} if figure else {}
            more = {} if args.tiny else more
            told = (row.method, loaded[row.run], row.sampler, row.steps, row.guidance, row.evaluations)
            m.row(*told, num=row.num, **more)


def compare(table: Table, rows_there: list[dict], every: list[Row], planned: list[Row], args: argparse.Namespace):
    """The papers' figures with what `rows_there` (of results.json) has for them, and why there is nothing."""
    keys = lambda of: {(row.method, row.steps, row.guidance) for row in of}  # noqa: E731
    known, left = keys(every), keys(planned)

    def why_not(figure: Figure) -> str:
        key = (figure.method, figure.steps, figure.guidance)
        if key not in known:
            return f"no row of {figure.steps} steps at w = {figure.guidance:g} in this table"
        return "" if key in left else "left out by --only"

    on = paper.On(args.features, args.num, args.num_reference, args.tiny)
    return paper.beside(table.figures, rows_there, why_not, on)


def sheets(workdir: Path, table: Table, loaded: dict, seed: int) -> None:
    """DIR/sheet_w*.png: all methods from the same noise, those of the runs that are there."""
    teacher = loaded["teacher"]
    many = teacher.default_steps()
    for w in table.guidance:
        lines = {f"teacher {many} x 2": (teacher, many)}
        if "matched" in loaded:
            lines[f"stage one {many}"] = (loaded["matched"], many)
        for name, run in (("student", "student"), ("stochastic", "stochastic"), ("single w", f"single_w{w:g}")):
            steps = sorted(set(loaded[run].trained_steps) & {16, 8, 4, 2, 1}, reverse=True) if run in loaded else ()
            lines |= {f"{name} {n}": (loaded[run], n) for n in steps}
        lines |= {f"DPM-Solver++ {n} x 2": (teacher, n, "dpmpp_2m") for n in (8, 4)}
        lines |= {f"DDIM {n} x 2": (teacher, n) for n in (8, 4, 1)}
        sheet(workdir / f"sheet_w{w:g}.png", lines, w, seed)


def main(table: Table, description: str, features: str = "efficientnet_lite0", cpu: Table | None = None) -> None:
    """An experiment's command line. `cpu`: the smaller table of `--cpu`, where a data set has one."""
    parser = arguments(description, Path("runs") / "tables" / table.name)
    parser.add_argument("--num", type=int, help=f"samples a row (default {table.num:,})")
    parser.add_argument("--num_reference", type=int, help="images to measure against (default: as the table says)")
    parser.add_argument("--seeds", help="of the noise, comma-separated, for intervals (default: --seed)")
    parser.add_argument("--features", default=features, help=f"feature function (default {features})")
    parser.add_argument("--only", help=f"parts, comma-separated, of {','.join(PARTS)} (default: all)")
    parser.add_argument("--rows", type=Path, help="published rows to go on from; only what they lack is trained for")
    parser.add_argument("--dry-run", action="store_true", help="print rows, evaluations and estimated hours, and stop")
    if cpu:
        parser.add_argument("--cpu", action="store_true", help="the small version, for two CPU cores")
    args = parser.parse_args()
    argument = "tiny" if args.tiny else ""
    if cpu and args.cpu and not args.tiny:
        table, argument = cpu, "cpu"
    if args.tiny:
        table = dataclasses.replace(
            table, guidance=(0.0, 1.0), steps=(1, 2, 4), single_w=(1.0,), num=64, num_reference=None
        )
        table = dataclasses.replace(table, more=table.more and (16, 32, 1.0))
        args.features = "pixels"
    parts = args.only.split(",") if args.only else PARTS
    for part in parts:
        one_of("part", part, PARTS)
    args.seeds = numbers(args.seeds, int) if args.seeds else [args.seed]
    args.num, args.num_reference = args.num or table.num, args.num_reference or table.num_reference
    args.split, args.table = table.split, table.name
    run(table, args, argument, parts)


def run(table: Table, args: argparse.Namespace, argument: str, parts: tuple[str, ...]) -> None:
    """Plans; then prints the plan, or trains, measures, draws and reports."""
    needed = {"core", *parts}  # The other chains start from the core's.
    planned = [training for training in trainings(table, argument) if training.part in needed]
    every = rows(table, trainings(table, argument))
    measured = [row for row in every if row.part in needed]
    if args.dry_run:
        dry_run(table, planned, measured, args.num)
        there, settings = existing(args.workdir)
        args = argparse.Namespace(**{**vars(args), **settings})  # As those rows were made, not as was asked now.
        args.tiny = "tiny" in (argument, settings.get("argument"))
        return show(table, compare(table, there, every, measured, args))
    launch.prepare_process()
    shared = ("table", "num", "num_reference", "split", "seed", "features")
    settings = {name: getattr(args, name) for name in shared}
    results = Results(args.workdir, args.rows, **settings, argument=argument)
    loaded, missing = {}, [r for r in measured if not all(results.taken(key_of(r, seed)) for seed in args.seeds)]
    for training in to_train(planned, missing):
        above = training.above and args.workdir / training.above
        loaded[training.name] = guided_distill.load(results.train(training.config, training.name, args.seed, above))
    measure(table, results, loaded, measured, args)
    if loaded:
        sheets(args.workdir, table, loaded, args.seed)
    notes = []
    if args.tiny:
        notes.append(
            f"Made with --tiny: synthetic stand-in pictures instead of {table.name}, networks trained for seconds. "
            "It shows that everything runs; its numbers say nothing about the method."
        )
    cells = compare(table, results.rows, every, measured, args)
    show(table, cells)
    if cells:
        write_text(args.workdir / "paper.md", paper.markdown(cells, table.title))
        print(f"-> {args.workdir / 'paper.md'}")
    print(f"-> {report.of_experiment(args.workdir, table.title, notes, features=args.features)}")


def show(table: Table, cells: list[paper.Cell]) -> None:
    """Prints the paper's table beside ours, where there is one."""
    if cells:
        Console(width=None if Console().is_terminal else 200).print(paper.printed(cells, table.title))


def existing(workdir: Path) -> tuple[list[dict], dict]:
    """(the rows that stand, the settings that they were made with), if any."""
    rows, hardware = (report.chain.read_json(workdir / name) for name in ("results.json", "hardware.json"))
    return rows or [], (hardware or {}).get("settings", {})
