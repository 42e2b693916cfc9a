"""A stage on devices that are not there: what it keeps on each of them, what it sends between them, how long it takes.

What is compiled for them is the step that training runs. Neither data nor trained teachers are needed: a data set is
known by its shape, a teacher by its manifest (its run directory's, or else that of the config which makes it).
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from guided_distill import collectives, data, flops, hardware, launch, parallel, runs, stages, teachers, train_step
from guided_distill.errors import UserError
from guided_distill.state import TrainState

QUICKLY = {"exec_time_optimization_effort": -1.0}
"""For the TPU compiler: a quarter of the time, and about a tenth more temporaries (docs/scale.md)."""
SIZE = r"([\d.]+[KMGT]?)"
REFUSED = re.compile(f"(?i)used {SIZE} of {SIZE} hbm")
REFUSED_TEMPORARIES = re.compile(rf"temporaries \({SIZE}\) exceeds available HBM \({SIZE}\)")
Setting = dict[str, Any]  # Keys of the config -> values, such as {"compute.remat": "full"}.


class Untrained(runs.Run):
    """A run of which the manifest is known, and nothing else: enough for shapes."""

    hash = ""

    def __init__(self, run_dir: str | Path, manifest: Mapping[str, Any]):
        self.dir, self.manifest, self.step = Path(run_dir), dict(manifest), manifest["updates"]


def untrained(run_dir: str, other_dir: str, command: str) -> teachers.Teacher:
    """The teacher in `run_dir` where there is one, trained or not; else as the `command` that makes it would train it.
    Raises `UserError` where its config cannot be found."""
    if (Path(run_dir) / "manifest.json").is_file():
        manifest = runs.read_manifest(run_dir)
    else:
        found = re.search(r"--config=(\S+)", command)
        if found is None:
            raise UserError(f"no run in {run_dir}, and config.teacher_command {command!r} names no --config to make it")
        manifest = stages.build(launch.config_of(found[1]).to_dict(), untrained, data.empty).manifest
    other = Untrained(other_dir, runs.read_manifest(other_dir)) if other_dir else None
    return teachers.Teacher(Untrained(run_dir, manifest), other)


def build(config: Mapping[str, Any]) -> stages.Stage:
    """The stage of a config, whose teacher need not be trained, nor its data be there. Raises `UserError`."""
    if "stages" in config:
        parts = ", ".join(f"configs/{stage['name']}.py" for stage in config["stages"].values())
        raise UserError(f"config {config['name']} is a chain; plan its stages one by one: {parts}")
    stage = stages.build(config, untrained, data.empty)
    if not stage.manifest["trains"]:
        raise UserError(f"config {config['name']} trains nothing: there is nothing to plan")
    return stage


@dataclasses.dataclass(frozen=True)
class Program:
    """The step under one setting. Bytes are those of one device: `state` by kind, the compiler's `temporaries`, what
    each kind of collective takes part with (`sent`); `needed` in all, of `limit` (None: not known). `flops` are those
    of one update on all devices. Where `fits` is False nothing was made: `temporaries` is what it would have needed
    beside the state (None: the state alone is too much), and `sent` is empty."""

    setting: Setting
    fits: bool
    state: dict[str, int]
    temporaries: int | None
    needed: int
    limit: int | None
    flops: float
    sent: dict[str, int]
    seconds: float


def compile_step(
    config: Mapping[str, Any],
    setting: Setting,
    devices: Sequence[jax.Device],
    limit: int | None = None,
    thorough: bool = False,
) -> Program:
    """The config's step (the first round's: its teacher is the dearest) under a setting, compiled for the devices.
    `limit`: bytes of a device, if not what it has; `thorough`: with all of the compiler's effort. Raises `UserError`
    for what could not be trained."""
    stage = build(changed(config, setting))
    loop, layout = stage.loop, stage.layout(devices)
    parallel.check_batch_size(loop.batch_size, layout.mesh, loop.accumulate)
    state, batch = layout.place(stage.abstract()), abstract_batch(stage, layout.mesh)
    kept, known = by_kind(state, batch), hardware.of(devices[0].device_kind)
    total, bound = sum(kept.values()), limit or (known and known.memory)
    traced = train_step.trace(stage.steps[0], state, batch, loop.updates_per_call)
    cost = flops.of_jaxpr(traced.jaxpr.jaxpr) / loop.updates_per_call
    if bound and total > bound:
        return Program(setting, False, kept, None, total, bound, cost, {}, 0.0)
    options = QUICKLY if devices[0].platform == "tpu" and not thorough else {}
    clock = time.perf_counter()
    try:
        compiled = traced.lower().compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        refused = refusal(str(error), total)
        if refused is None:
            raise
        seconds, (needed, bound) = time.perf_counter() - clock, refused
        return Program(setting, False, kept, max(needed - total, 0), needed, bound, cost, {}, seconds)
    seconds, memory = time.perf_counter() - clock, compiled.memory_analysis()
    needed, temporaries = memory.peak_memory_in_bytes, memory.temp_size_in_bytes
    if needed < temporaries:  # CPUs tell no peak that deserves the name.
        needed = memory.argument_size_in_bytes + temporaries
    sent = {kind: bytes_ // loop.updates_per_call for kind, bytes_ in collectives.count(compiled.as_text()).items()}
    fits = limit is None or needed <= limit  # What the compiler took fits the device itself.
    return Program(setting, fits, kept, temporaries, needed, bound, cost, sent, seconds)


def abstract_batch(stage: stages.Stage, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of what the step is given: a batch [b, ...], or several [k, b, ...] for as many updates a call."""
    each, size = stage.loop.updates_per_call, stage.loop.batch_size
    first, spec = ((each, size), (None, parallel.BATCH)) if each > 1 else ((size,), (parallel.BATCH,))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return {
        name: jax.ShapeDtypeStruct((*first, *array.shape[1:]), array.dtype, sharding=sharding)
        for name, array in data.given(stage.source.arrays).items()
    }


def by_kind(state: TrainState, batch: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of a device by kind, from shapes and shardings."""
    kinds = {"params": state.params, "ema": state.ema, "teacher": state.teacher}
    kinds |= {"optimiser": (state.opt_state, state.step, state.skipped), "batch": dict(batch)}
    share = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize  # noqa: E731
    return {kind: sum(map(share, jax.tree.leaves(tree))) for kind, tree in kinds.items()}


def refusal(message: str, state: int) -> tuple[int, int] | None:
    """(bytes needed, bytes there are) of a compiler that ran out of memory, None for what else it says. `state` bytes
    are beside the temporaries, where it tells of those alone."""
    found, alone = REFUSED.search(message), REFUSED_TEMPORARIES.search(message)
    if not (found or alone):
        return None
    needed, limit = map(_bytes, (found or alone).groups())
    return needed + (state if alone else 0), limit


def _bytes(text: str) -> int:
    """ "34.49G" -> bytes."""
    power = " KMGT".find(text[-1])
    return int(float(text.rstrip("KMGT")) * 2 ** (10 * max(power, 0)))


def changed(config: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """The config with the setting's keys, such as "compute.remat", set."""
    out = dict(config)
    for key, value in setting.items():
        part, _, name = key.partition(".")
        out[part] = {**out[part], name: value}
    return out


def settings(config: Mapping[str, Any], devices: int, state_fits: bool = True) -> Iterator[Setting]:
    """What to try: recomputing in the backward pass (the same results), a batch in parts (other random draws), both,
    and a state that is split; one that does not fit alone is split from the beginning."""
    compute, mesh = config["compute"], config["mesh"]
    more = {"none": ("dots", "full"), "dots": ("full",), "full": ()}[compute["remat"] or "none"]
    recomputed = [{"compute.remat": remat} for remat in more]
    parts = [{"compute.accumulate": compute["accumulate"] * number} for number in (2, 4, 8)]
    both = [recomputed[-1] | setting for setting in parts] if recomputed else []
    if state_fits:
        yield from (*recomputed, *parts, *both)
    if mesh["fsdp"] == 1 and devices > 1:
        split = {"mesh.data": 1, "mesh.fsdp": -1}
        yield from (split | setting for setting in ({}, *recomputed, *parts, *both))


def hopeless(config: Mapping[str, Any], setting: Setting, tried: Sequence[Program]) -> bool:
    """Whether one that was refused says that this one does not fit: in k parts of the same batch, temporaries are not
    less than a k-th."""
    accumulate = lambda of: of.get("compute.accumulate", config["compute"]["accumulate"])  # noqa: E731
    others = lambda of: {key: value for key, value in of.items() if key != "compute.accumulate"}  # noqa: E731
    for program in tried:
        if program.fits or others(program.setting) != others(setting):
            continue
        state = sum(program.state.values())
        parts = accumulate(setting) / accumulate(program.setting)
        if program.temporaries is None or state + program.temporaries / parts > program.limit:
            return True
    return False


def search(
    config: Mapping[str, Any],
    devices: Sequence[jax.Device],
    limit: int | None = None,
    once: bool = False,
    thorough: bool = False,
) -> Iterator[Program]:
    """The config as it is and, until one fits, under the settings to try. `once`: only as it is."""
    tried = [compile_step(config, {}, devices, limit, thorough)]
    yield tried[-1]
    for setting in settings(config, len(devices), tried[0].temporaries is not None):
        if tried[-1].fits or once:
            return
        if hopeless(config, setting, tried):
            continue
        try:
            tried.append(compile_step(config, setting, devices, limit, thorough))
        except UserError:  # A batch that cannot be divided so.
            continue
        yield tried[-1]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of one update on an accelerator: of its products at `hardware.UTILISATION` of the peak, of its memory
    when state and temporaries are read and written once, of its links. The longest of them is the update's."""

    name: str
    compute: float
    memory: float
    links: float

    @property
    def step(self) -> float:
        """Seconds of an update, the three overlapping."""
        return max(self.compute, self.memory, self.links)


def estimates(program: Program, devices: int, chips: int) -> list[Estimate]:
    """Of the program on as many chips of each kind. Where a chip is several devices, it does the work of all."""
    out, each = [], devices / chips
    moved = 2 * (sum(program.state.values()) + (program.temporaries or 0)) * each
    sent = collectives.link_bytes(program.sent) * each
    for of in hardware.ACCELERATORS:
        compute = program.flops / chips / (of.flops * hardware.UTILISATION)
        out.append(Estimate(of.name, compute, moved / of.bandwidth, sent / of.links if chips > 1 else 0.0))
    return out
