"""What the method rests on: one part at a time changed or taken away, on the oracle and on digits.

    python -m experiments.ablations --on=mixture2d --workdir=DIR [--seeds=0,1,2] [--only=NAME,...] [--tiny]
    python -m experiments.ablations --on=digits --workdir=DIR [--rows=docs/results/ablations_digits.json]

Each row is a variant's student at 1, 4 or 16 steps. On `mixture2d` it has the mean `distance` to the end of the exact
guided flow from the same noise, over 2,048 samples; on digits the Fréchet distance to the data on raw pixels and the
paired distance to its own teacher's 64 steps, over 500. What a variant does not change is as in `the method`; rows that
stand are neither trained nor measured again.
"""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import guided_distill
from configs import (
    digits_stage1,
    digits_stage2,
    digits_teacher,
    mixture2d_stage1,
    mixture2d_stage2,
    mixture2d_teacher,
)
from experiments.measure import Measure
from experiments.mixture2d import Oracle, row_key
from experiments.results import Results, arguments
from guided_distill import launch
from guided_distill.cli import numbers
from guided_distill.errors import one_of
from guided_distill.runs import Run

STEPS, GUIDANCE = (1, 4, 16), (0.0, 1.0, 4.0)
Changes = Mapping[str, Any]
"""Keys of a config, with dots, and their values."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """What differs from the method: changes of each stage's config. `first` None: no stage one, the chain starts from
    the guided teacher. `w`: those that it can be asked for, of `GUIDANCE`. `order` "reversed": the steps are halved
    first, and the student of each number of steps is matched to its guided self then."""

    name: str
    question: str
    teacher: Changes = dataclasses.field(default_factory=dict)
    first: Changes | None = dataclasses.field(default_factory=dict)
    chain: Changes = dataclasses.field(default_factory=dict)
    w: tuple[float, ...] = GUIDANCE
    steps: tuple[int, ...] = STEPS
    order: str = "matching first"


def both(name: str, question: str, changes: Changes, **more: Any) -> Variant:
    """A variant of both stages."""
    return Variant(name, question, first=changes, chain=changes, **more)


def variants(updates: int, batch: int, fresh: Changes | None) -> list[Variant]:
    """All of them, for a chain of `updates` a round in batches of `batch`. `fresh`: the teacher's network without its
    weights, where the teacher, too, is trained (and has a prediction of its own)."""
    weighting, w_max = "objective.weighting.name", "objective.w_max"
    one_w = {"objective.w_min": 1.0, w_max: 1.0, "objective.w_min_share": 0.0}
    found = [Variant("the method", "")]
    found += [both(f"weighting {name}", "weighting", {weighting: name}) for name in ("snr", "uniform", "snr_plus_one")]
    for name in ("x", "eps"):
        changes = {"prediction": name}
        found.append(
            Variant(f"prediction {name}", "prediction", teacher=changes)
            if fresh
            else Variant(f"prediction {name}", "prediction", first=changes)
        )
    found += [both("single w = 1", "one network for all w", one_w, w=(1.0,))]
    found += [Variant("student from scratch", "start", first=fresh)] if fresh else []
    power = "objective.w_power"
    found += [both(f"losses over (1 + w)^{p}", "one network for all w", {power: float(p)}) for p in (1, 2)]
    found += [
        both(f"w up to {top:g}", "range of w", {w_max: top}, w=tuple(w for w in GUIDANCE if w <= top))
        for top in (1.0, 2.0, 8.0)
    ]
    found += [both("no share at w = 0", "range of w", {"objective.w_min_share": 0.0})]
    found += [
        Variant("no stage one", "order of the stages", first=None),
        Variant("steps before guidance", "order of the stages", order="reversed", steps=(1, 4)),
        Variant("quartering", "rounds", chain={"halving.factor": 4, "num_updates": 2 * updates}),
    ]
    found += [
        Variant(f"{factor:g} x updates a round", "rounds", chain={"num_updates": round(factor * updates)})
        for factor in (0.25, 0.5, 2.0)
    ]
    found += [Variant(f"from {start} steps", "rounds", chain={"halving.start_steps": start}) for start in (16, 32, 256)]
    found += [Variant("half of the draws at the last step", "rounds", chain={"objective.last_share": 0.5})]
    quarter = {"batch_size": batch // 4, "num_updates": 4 * updates}
    found += [Variant("a quarter of the batch and 4 x updates", "rounds", chain=quarter)]
    return found


@dataclasses.dataclass(frozen=True)
class Bed:
    """A test bed: its configs with their argument, the changes that make them short, the network of a student that
    cannot inherit its teacher's, and that of one that shall not."""

    teacher: ModuleType
    stage1: ModuleType
    stage2: ModuleType
    argument: str
    short: Mapping[str, Changes]
    own_network: Changes | None
    fresh: Changes | None


class Chains:
    """Trains the chains of one bed and seed, each network once: what variants share is found by its name."""

    def __init__(self, results: Results, bed: Bed, seed: int):
        self.results, self.bed, self.seed = results, bed, seed

    def train(self, module: ModuleType, stage: str, name: str, changes: Changes, above: str | None = None) -> Run:
        """The run of a stage's config with these changes, in DIR/seed<seed>/<name>."""
        config = module.get_config(self.bed.argument)
        with config.unlocked():
            config.update_from_flattened_dict({**self.bed.short.get(stage, {}), **changes})
        config.save_every = 10**9  # A run is minutes: it is saved at the end of its rounds.
        place = f"seed{self.seed}"
        above = above and self.results.workdir / place / above
        return guided_distill.load(self.results.train(config, f"{place}/{name}", self.seed, above))

    def teacher(self, variant: Variant) -> tuple[Run, str]:
        """(the teacher, its name)."""
        name = f"teacher of {variant.name}" if variant.teacher else "teacher"
        return self.train(self.bed.teacher, "teacher", name, variant.teacher), name

    def students(self, variant: Variant) -> dict[int, Run]:
        """Steps -> the student of a variant that takes them."""
        _, teacher = self.teacher(variant)
        if variant.order == "reversed":
            return {n: self.reversed(variant, teacher, n) for n in variant.steps}
        own, above = {}, teacher
        if variant.first is None:
            own = self.bed.own_network or {}
        else:
            above = f"matched of {variant.name}" if variant.first or variant.teacher else "matched"
            self.train(self.bed.stage1, "stage1", above, variant.first, teacher)
        run = self.train(self.bed.stage2, "stage2", f"student of {variant.name}", {**own, **variant.chain}, above)
        return {n: run for n in variant.steps if n in run.trained_steps}

    def reversed(self, variant: Variant, teacher: str, steps: int) -> Run:
        """A plain chain of all classes and the null class, guided from outside at the end, and a student of that."""
        plain = {"objective.w_max": 0.0, "objective.w_min_share": 0.0, "objective.dropout": 0.2}
        plain |= {"halving.end_steps": steps, "sampling.guidance": 0.0, **(self.bed.own_network or {})}
        name = f"plain {steps} of {variant.name}"
        self.train(self.bed.stage2, "stage2", name, plain, teacher)
        last = {"objective.grid": steps, "sampling.steps": steps, "network": {"name": "inherit"}}
        last |= {key: "inherit" for key in ("prediction", "time_input")}
        return self.train(self.bed.stage1, "stage1", f"matched {steps} of {variant.name}", last, name)


def mixture_bed(tiny: bool) -> tuple[Bed, int, int]:
    """(bed, updates a round, batch)."""
    updates = 10 if tiny else 750
    short = {} if tiny else {"stage1": {"num_updates": 3000}}
    short["stage2"] = {"num_updates": updates, "halving.last_updates_factor": 2.0, "halving.start_steps": 64}
    network = {"network": mixture2d_stage1.get_config("tiny" if tiny else "").network.to_dict()}
    network |= {"prediction": "v", "time_input": "u"}
    bed = Bed(mixture2d_teacher, mixture2d_stage1, mixture2d_stage2, "tiny" if tiny else "", short, network, None)
    return bed, updates, 64 if tiny else 512


def digits_bed(tiny: bool) -> tuple[Bed, int, int]:
    """(bed, updates a round, batch)."""
    updates = 4 if tiny else 120
    short = {} if tiny else {"teacher": {"num_updates": 1500}, "stage1": {"num_updates": 600}}
    short["stage2"] = {"num_updates": updates, "halving.last_updates_factor": 2.0, "halving.start_steps": 64}
    argument = "tiny" if tiny else ""
    teacher, inherited = digits_teacher.get_config(argument), digits_stage1.get_config(argument).network.to_dict()
    fresh = {"network": {**inherited, **teacher.network.to_dict()}}
    fresh |= {key: teacher[key] for key in ("prediction", "time_input")}
    bed = Bed(digits_teacher, digits_stage1, digits_stage2, argument, short, None, fresh)
    return bed, updates, 16 if tiny else 64


def measure_mixture(results: Results, chains: Chains, variant: Variant, tiny: bool, oracles: dict) -> None:
    """Rows of a variant: distances to the exact flow."""
    runs, seed = chains.students(variant), chains.seed
    if seed not in oracles:
        oracles[seed] = Oracle(chains.teacher(variant)[0], *((256, 64) if tiny else (2048, 1024)), seed)
    oracle = oracles[seed]
    for n, run in runs.items():
        for w in variant.w:
            key = row_key(variant.name, "ddim", n, w, seed) | {"question": variant.question}
            results.row(
                key, n, lambda n=n, w=w, run=run: {"distance": oracle.distance(oracle.sample(run, n, w, "ddim"), w)}
            )


def measure_digits(results: Results, chains: Chains, variant: Variant, tiny: bool, oracles: dict) -> None:
    """Rows of a variant: distances to the data and to the teacher."""
    runs, (teacher, name) = chains.students(variant), chains.teacher(variant)
    if (name, chains.seed) not in oracles:
        oracles[name, chains.seed] = Measure(results, teacher, 60 if tiny else 500, chains.seed, 64)
    for n, run in runs.items():
        for w in variant.w:
            oracles[name, chains.seed].row(variant.name, run, "ddim", n, w, n, question=variant.question)


BEDS = {"mixture2d": (mixture_bed, measure_mixture), "digits": (digits_bed, measure_digits)}


def main() -> None:
    """Trains and measures what is missing."""
    parser = arguments(__doc__)
    parser.add_argument("--on", choices=BEDS, required=True, help="the test bed")
    parser.add_argument("--seeds", default="0,1,2", help="of training and of the noise (default 0,1,2)")
    parser.add_argument("--only", help="names of variants, comma-separated (default: all)")
    parser.add_argument("--rows", type=Path, help="published rows to go on from")
    args = parser.parse_args()
    launch.prepare_process()
    make, measure = BEDS[args.on]
    bed, updates, batch = make(args.tiny)
    planned = variants(updates, batch, bed.fresh)
    if args.only:
        for name in args.only.split(","):
            one_of("variant", name, [variant.name for variant in planned])
        planned = [variant for variant in planned if variant.name in args.only.split(",")]
    results, oracles = Results(args.workdir, args.rows, on=args.on, tiny=args.tiny), {}
    for seed in numbers(args.seeds, int):
        for variant in planned:
            keys = [row_key(variant.name, "ddim", n, w, seed) for n in variant.steps for w in variant.w]
            if not all(results.standing(key) for key in keys if key["steps"] < start_of(variant)):
                measure(results, Chains(results, bed, seed), variant, args.tiny, oracles)
    print(f"-> {Path(args.workdir) / 'results.json'}")


def start_of(variant: Variant) -> int:
    """Steps that the chain of a variant starts from: its students take fewer."""
    return variant.chain.get("halving.start_steps", 64)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
