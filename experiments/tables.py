"""The paper's tables for one data set: what is trained, which rows are measured, what it costs.

A table is planned before anything runs, so `--dry-run` prints exactly what a run would do. Rows that stand in
results.json are skipped, trainings go on where they stopped, and the report is written at the end (and anew each time).
"""

import argparse
import dataclasses
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table as Printed

import guided_distill
from experiments import paper
from experiments.measure import Measure, clip_of, sheets, standing
from experiments.published import FIGURES, Figure
from experiments.results import Results, arguments
from guided_distill import costs, data, evaluate, launch, plugins, report, rounds, stages
from guided_distill.cli import numbers
from guided_distill.errors import UserError, one_of
from guided_distill.files import write_text
from guided_distill.hardware import ACCELERATORS, UTILISATION

PARTS = ("core", "stochastic", "single_w", "unguided")
SHOWN = ("A100", "H100", "TPU v4", "TPU v5e", "TPU v5p")


@dataclasses.dataclass(frozen=True)
class Table:
    """`guidance`, `steps`: the table's axes; `single_w`: the strengths that get a student of their own; `num` samples a
    row, against `num_reference` images (None: all) of a `split`. `more`: (steps, samples, w) of two rows, of the
    teacher at more steps than it is otherwise sampled at and of as many samples at those, to see whether that helps.

    `parts` that there are; `tiny_guidance`: the strengths of --tiny. In latent space: `stand_in`, the argument of the
    teacher's config by which FLOPs are counted without data; `captioned`: samples are of the captions of pictures that
    --reference names."""

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
    parts: tuple[str, ...] = PARTS
    tiny_guidance: tuple[float, ...] = (0.0, 1.0)
    stand_in: str = ""
    captioned: bool = False

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
        ends, updates = (halving.start_steps, halving.end_steps), self.config.num_updates
        plan = rounds.halving(*ends, updates, last, stochastic, halving.factor, halving.get("last_from", 2))
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
    """All runs of a table, each after the one that it starts from. `argument`: "", "tiny" or "cpu". Made-up codes have
    three channels, whatever the codec's have, so that they can be shown."""

    def config(module: ModuleType, extra: str = "") -> ConfigDict:
        return module.get_config(",".join(filter(None, (argument, extra))))

    teacher = config(table.teacher)
    if teacher.data.name == "synthetic":
        teacher.data.shape = (*teacher.data.shape[:2], min(teacher.data.shape[2], 3))
    planned = [
        Training("core", "teacher", teacher, None, 3),
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
    planned.append(Training("unguided", "unguided", config(table.stage2, "unguided"), "teacher", 5))
    return [training for training in planned if training.part in table.parts]


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
    return [row for row in out if row.part in table.parts]


def forward_flops(config: ConfigDict) -> float:
    """Of one evaluation of a teacher's network for one example, counted; the data need not be there, unless they were
    encoded."""
    return costs.step_flops(stages.build(config.to_dict(), load_data=data.empty).manifest, guided=False)


def dry_run(table: Table, forward: float, planned: list[Training], measured: list[Row], num: int) -> None:
    """Prints trainings and rows with their evaluations, FLOPs and estimated hours; `forward`: of one evaluation."""
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
    title = f"Hours on one chip, estimated: {UTILISATION:.0%} of the bfloat16 peak, metrics and decoders not counted"
    chips = [chip for chip in ACCELERATORS if chip.name in SHOWN]
    hours = Printed("", "PFLOP", *(chip.name for chip in chips), title=title, title_justify="left")
    work = {f"train {training.name}": training.examples * training.forwards * forward for training in planned}
    work["sample all rows"] = sum(num * row.evaluations * forward for row in measured)
    for name, cost in {**work, "all": sum(work.values())}.items():
        times = (cost / (chip.flops * UTILISATION) / 3600 for chip in chips)
        hours.add_row(name, *(f"{n:,.0f}" if n >= 10 else f"{n:.2g}" for n in (cost / 1e15, *times)))
    console.print(hours)
    console.print(f"One evaluation of the network for one example: {forward / 1e9:.4g} GFLOP, counted.")


def key_of(row: Row, seed: int) -> dict:
    """What a row is known by."""
    key = {name: getattr(row, name) for name in ("method", "sampler", "steps", "guidance")}
    return key | {"seed": seed}


def to_train(planned: list[Training], rows: list[Row]) -> list[Training]:
    """The runs that these rows need: those that are sampled, the teacher of the partners, and all above them; of those
    that are planned, since a teacher may have been given."""
    above = {training.name: training.above for training in planned}
    needed, found = {row.run for row in rows} | ({"teacher"} if rows else set()), set()
    for name in needed:
        while name and name not in found:
            found.add(name)
            name = above.get(name)
    return [training for training in planned if training.name in found]


def measure(table: Table, results: Results, loaded: dict, planned: list[Row], args: argparse.Namespace) -> None:
    """Computes the rows that do not stand yet, for each seed of the noise."""
    many = next(row.steps for row in planned if row.method == "teacher")
    own = {"reference": reference(table, args), "towers": clip_of(args.clip) if args.clip else None}
    in_print = {(f.method, f.steps, f.guidance): f for f in table.figures if f.verified and f.metric == "FID"}
    for seed in args.seeds:
        missing = [row for row in planned if not results.taken(key_of(row, seed))]
        if not missing:
            continue
        on = (args.features, args.num_reference, args.split)
        m = Measure(results, loaded["teacher"], args.num, seed, many, *on, **own)
        if seed == args.seeds[0]:
            m.floor()
        for row in missing:
            figure = in_print.get((row.method, row.steps, row.guidance))
            more = {"published": f"{figure.value:g}", "published_source": f"FID; {figure.source}"} if figure else {}
            more = {} if args.tiny else more
            told = (row.method, loaded[row.run], row.sampler, row.steps, row.guidance, row.evaluations)
            m.row(*told, num=row.num, **more)


def reference(table: Table, args: argparse.Namespace) -> dict | None:
    """The data set to hold samples against: the one that was asked for, or what a student is trained on where its
    teacher was given, which may know none; None: the teacher's."""
    if args.reference:
        return plugins.spec(args.reference, "data", "name", "split")
    own = table.stage1.get_config("tiny" if args.tiny else "").data.to_dict() if args.teacher else {"name": "inherit"}
    return None if own["name"] == "inherit" else own


def compare(table: Table, rows_there: list[dict], every: list[Row], planned: list[Row], args: argparse.Namespace):
    """The papers' figures with what `rows_there` (of results.json) has for them, and why there is nothing."""
    keys = lambda of: {(row.method, row.steps, row.guidance) for row in of}  # noqa: E731
    known, left = keys(every), keys(planned)

    def why_not(figure: Figure) -> str:
        key = (figure.method, figure.steps, figure.guidance)
        if key not in known:
            return f"no row of {figure.steps} steps at w = {figure.guidance:g} in this table"
        return "" if key in left else "left out by --only"

    on = paper.On(args.features, args.num, args.num_reference, args.tiny, bool(args.clip))
    return paper.beside(table.figures, rows_there, why_not, on)


def main(table: Table, description: str, features: str = "efficientnet_lite0", cpu: Table | None = None) -> None:
    """An experiment's command line. `cpu`: the smaller table of `--cpu`, where a data set has one."""
    parser = arguments(description, Path("runs") / "tables" / table.name)
    parser.add_argument("--num", type=int, help=f"samples a row (default {table.num:,})")
    parser.add_argument("--num_reference", type=int, help="images to measure against (default: as the table says)")
    parser.add_argument("--seeds", help="of the noise, comma-separated, for intervals (default: --seed)")
    parser.add_argument("--features", default=features, help=f"feature function (default {features})")
    parser.add_argument("--only", help=f"parts, comma-separated, of {','.join(table.parts)} (default: all)")
    parser.add_argument("--teacher", type=Path, help="run directory of a teacher that is there, an imported one, say")
    parser.set_defaults(reference=None, clip=None)
    if table.captioned:
        parser.add_argument("--reference", help="captioned pictures to measure on: data:NAME[:SPLIT][:KEY=VALUE...]")
        parser.add_argument("--clip", type=Path, help="folder of a CLIP, for its score (docs/clip.md; default: none)")
    parser.add_argument("--rows", type=Path, help="published rows to go on from; only what they lack is trained for")
    parser.add_argument("--dry-run", action="store_true", help="print rows, evaluations and estimated hours, and stop")
    if cpu:
        parser.add_argument("--cpu", action="store_true", help="the small version, for two CPU cores")
    args = parser.parse_args()
    argument = "tiny" if args.tiny else ""
    if cpu and args.cpu and not args.tiny:
        table, argument = cpu, "cpu"
    if args.tiny:
        table, args.features, args.reference, args.clip = tiny(table), "pixels", None, None
    parts = tuple(args.only.split(",")) if args.only else table.parts
    for part in parts:
        one_of("part", part, table.parts)
    args.seeds = numbers(args.seeds, int) if args.seeds else [args.seed]
    args.num, args.num_reference = args.num or table.num, args.num_reference or table.num_reference
    args.split, args.table = (reference(table, args) or {}).get("split", table.split), table.name
    run(table, args, argument, parts)


def tiny(table: Table) -> Table:
    """Of few rows and few samples."""
    fewer = {"guidance": table.tiny_guidance, "single_w": (1.0,), "more": table.more and (16, 32, 1.0)}
    return dataclasses.replace(table, **fewer, steps=(1, 2, 4), num=64, num_reference=None)


def run(table: Table, args: argparse.Namespace, argument: str, parts: tuple[str, ...]) -> None:
    """Plans; then prints the plan, or trains, measures, draws and reports."""
    needed = {"core", *parts}  # The other chains start from the core's.
    planned, given = trainings(table, argument), {"teacher": args.teacher} if args.teacher else {}
    every = rows(table, planned)
    planned = [training for training in planned if training.part in needed and training.name not in given]
    measured = [row for row in every if row.part in needed]
    if args.dry_run:
        forward = forward_flops(table.teacher.get_config(argument or table.stand_in))
        dry_run(table, forward, planned, measured, args.num)
        there, settings = existing(args.workdir)
        # As those rows were made, not as was asked now.
        args = argparse.Namespace(**{**vars(args), **({"clip": None} if settings else {}), **settings})
        args.tiny = "tiny" in (argument, settings.get("argument"))
        return paper.show(compare(table, there, every, measured, args), table.title)
    launch.prepare_process()
    require(table, args)
    shared = ("table", "num", "num_reference", "split", "seed", "features")
    settings = {name: getattr(args, name) for name in shared}
    settings |= {name: str(found) for name in ("teacher", "reference", "clip") if (found := getattr(args, name))}
    results = Results(args.workdir, args.rows, **settings, argument=argument)
    missing = [r for r in measured if not all(results.taken(key_of(r, seed)) for seed in args.seeds)]
    loaded = {name: guided_distill.load(place) for name, place in given.items() if missing}
    for training in to_train(planned, missing):
        above = training.above and given.get(training.above, args.workdir / training.above)
        loaded[training.name] = guided_distill.load(results.train(training.config, training.name, args.seed, above))
    measure(table, results, loaded, measured, args)
    if loaded:  # With those that have all their rows, too.
        every_run = standing(args.workdir, (training.name for training in trainings(table, argument)))
        sheets(args.workdir, table.guidance, every_run | loaded, args.seed)
    notes = []
    if args.tiny:
        notes.append(
            f"Made with --tiny: synthetic stand-in pictures instead of {table.name}, networks trained for seconds. "
            "It shows that everything runs; its numbers say nothing about the method."
        )
    cells = compare(table, results.rows, every, measured, args)
    paper.show(cells, table.title)
    if cells:
        write_text(args.workdir / "paper.md", paper.markdown(cells, table.title))
        print(f"-> {args.workdir / 'paper.md'}")
    print(f"-> {report.of_experiment(args.workdir, table.title, notes, features=args.features)}")


def require(table: Table, args: argparse.Namespace) -> None:
    """Raises `UserError`, before anything is trained, where what it is to be measured by is not there."""
    if table.captioned and not (args.tiny or args.reference):
        told = "--reference=data:captioned_folder:path=FOLDER:size=512"
        raise UserError(f"{table.name} is measured on pictures with captions, and none are named: give {told}")
    if not args.rows:  # Those may be all that there is to be.
        evaluate.load_features(args.features)
    if args.reference:
        data.load(**plugins.spec(args.reference, "data", "name", "split"))
    if args.clip:
        clip_of(args.clip)


def existing(workdir: Path) -> tuple[list[dict], dict]:
    """(the rows that stand, the settings that they were made with), if any."""
    rows, hardware = (report.chain.read_json(workdir / name) for name in ("results.json", "hardware.json"))
    return rows or [], (hardware or {}).get("settings", {})
