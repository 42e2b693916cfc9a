"""The loop: data -> step -> log -> save -> evaluate -> promote. Run again, it goes on where it stopped."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from clu import parameter_overview

from guided_distill import data, files, flops, hardware, logs, parallel, runs, stages, train_step
from guided_distill.checkpoint import Checkpoints
from guided_distill.errors import UserError
from guided_distill.preemption import Preempted, Preemption
from guided_distill.previews import Preview
from guided_distill.state import TrainState

# When a run is continued. Its teacher may have moved, and is known by its hash; its machines may be others.
MAY_CHANGE = (
    "save_every",
    "log_every",
    "sample_every",
    "eval_num",
    "golden",
    "max_skipped",
    "checkpoints",
    "wandb",
    "mesh",
    "sharding",
    "compute.remat",
    "compute.accumulate",
    "compute.updates_per_call",
    "teacher",
    "teacher_unconditional",
    "teacher_command",
)
PROFILED = 5  # Calls.


def run(
    config: Mapping[str, Any], workdir: str | Path, say: Callable[[str], Any] = print, profile: bool = False
) -> Path:
    """Trains the stage of a config in `workdir`, from where it stopped if it was begun there. Returns `workdir`.
    `profile`: leaves a trace of some updates in `workdir`/profile.

    Raises `UserError`, before anything is written, for whatever could not work, and `Preempted` after SIGTERM.
    """
    workdir = Path(workdir)
    say = say if jax.process_index() == 0 else lambda text: None
    stage = stages.build(config)
    require_own(workdir, stage)
    if not stage.manifest["trains"]:
        return write_description(workdir, stage)
    layout = stage.layout()
    parallel.check_batch_size(stage.loop.batch_size, layout.mesh, stage.loop.accumulate)
    data.order(stage.source, stage.loop.batch_size, stage.loop.seed)  # Fails here if it is too small.
    best = stage.loop.best
    checkpoints = Checkpoints(
        workdir, stage.rounds.ends, stage.loop.keep, bool(best), best.startswith(("precision", "recall"))
    )
    with told(workdir, checkpoints), alone(workdir), Preemption() as preemption:
        with contextlib.closing(checkpoints):  # However it ends, a save that has begun comes to its end.
            state, start = begin(stage, checkpoints, layout, say)
            training = None
            if start < stage.rounds.total:  # Made first: it is refused where its golden set cannot be answered.
                training = Training(stage, workdir, layout, checkpoints, preemption, say)
            write_description(workdir, stage)
            if training is None:
                say(f"{workdir}: update {start} of {start}: trained")
            else:
                training.run(state, start, profile)
        parallel.wait_for_all(f"end of {workdir}")
        if preemption.due():  # During the last save: in a chain, the next stage must not begin.
            raise Preempted(f"{workdir}: asked to stop, and done")
    return workdir


@contextlib.contextmanager
def told(workdir: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """What the system refuses, such as a file on a full disk, in one line."""
    try:
        yield
    except OSError as error:
        last = checkpoints.latest()
        kept = "nothing is saved" if last is None else f"the newest checkpoint is that of update {last}"
        raise UserError(f"{workdir}: {error}; {kept}. Run again, it goes on there") from error


@contextlib.contextmanager
def alone(workdir: Path) -> Iterator[None]:
    """One training at a time in a directory: process 0 holds its lock, on behalf of all."""
    with contextlib.ExitStack() as stack:
        refused = None
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            try:
                stack.enter_context(files.alone(workdir, "trained"))
            except UserError as error:
                refused = error
        if parallel.same_everywhere(int(refused is not None)):
            raise refused or UserError(f"{workdir} is being trained by another process")
        yield


def begin(
    stage: stages.Stage, checkpoints: Checkpoints, layout: parallel.Layout, say: Callable[[str], Any] = print
) -> tuple[TrainState, int]:
    """(state, step): the newest sound checkpoint's, or a new one, made under jit where it will live: no device or
    host ever holds more of it than its share."""
    abstract = stage.abstract()
    newest = checkpoints.latest_sound(say)
    if newest is None:
        shardings = layout.shardings(abstract)
        return jax.jit(stage.init, out_shardings=shardings, donate_argnums=0)(stage.leaves(layout)), 0
    if newest > stage.rounds.ends[0]:  # Promoted since: the teacher is a student of this run.
        abstract = abstract.replace(teacher=abstract.teacher_of({"teacher": abstract.params["student"]}))
    state, position = checkpoints.restore(layout.place(abstract), newest)
    if position != newest:
        raise UserError(f"checkpoint {newest} of {checkpoints.dir} is at batch {position}: it is not from this trainer")
    return state, newest


class Training:
    """The loop and what it holds: data, the compiled step of either kind, logs, checkpoints."""

    def __init__(
        self,
        stage: stages.Stage,
        workdir: Path,
        layout: parallel.Layout,
        checkpoints: Checkpoints,
        preemption: Preemption,
        say: Callable[[str], Any],
    ):
        self.stage, self.workdir, self.layout, self.say = stage, workdir, layout, say
        self.checkpoints, self.preemption = checkpoints, preemption
        self.preview = Preview(stage, workdir, layout.mesh)
        self._programs: dict[Callable, jax.stages.Compiled] = {}
        self._saved = 0

    def run(self, state: TrainState, start: int, profile: bool) -> None:
        """From update `start` to the end of the last round."""
        stage, loop, mesh, say = self.stage, self.stage.loop, self.layout.mesh, self.say
        total, each = stage.rounds.total, loop.updates_per_call
        if start % each:
            told = f"config.compute.updates_per_call {each} does not divide {start}, where {self.workdir} stopped"
            raise UserError(f"{told}; go on with {math.gcd(start, each)} until a save that it divides")
        self._saved = start
        if start == 0:
            say(parameter_overview.get_parameter_overview(state.params, include_stats=False))
        say(f"{self.workdir}: update {start} of {total}, {mesh.size} x {mesh.devices.flat[0].device_kind}")
        rows, stacked = parallel.local_rows(loop.batch_size, mesh), each > 1
        batches = data.batches(stage.source, loop.batch_size, loop.seed, start, rows, each if stacked else 0)
        due = lambda done, every: every and done % every == 0  # noqa: E731
        work = logs.Work(loop.batch_size)
        with (
            logs.Meter(self.workdir, total, start, work, loop.wandb, self.require_finite) as meter,
            profiling(self.workdir / "profile" if profile else None, start + each) as profiler,
        ):
            for step in range(start, total, each):
                if stage.rounds.starts_round(step):
                    state = self.promote(state)
                index, done = stage.rounds.round_of(step), step + each
                with meter.waiting():
                    batch = next(batches)
                batch = parallel.put_batch(batch, mesh, loop.batch_size, stacked)
                program = self.program(stage.steps[min(index, 1)], state, batch, meter, step)
                state, metrics = program(state, batch)
                ends = done in stage.rounds.ends
                meter(done, metrics, write=ends or due(done, loop.log_every))
                self.checkpoints.check()
                profiler(done)
                scores = {}
                if ends or due(done, loop.sample_every):
                    meter.flush()
                    if scores := self.preview(state, index, done):
                        meter.log.write(done, scores, "eval")
                    meter.restart(done)
                if ends or due(done, loop.save_every) or loop.best in scores:
                    self.save(state, done, meter, scores.get(loop.best))
                if ends and (answers := self.preview.golden(state, index)):  # After the save, which they must not cost.
                    meter.log.write(done, answers, "golden")
                    meter.restart(done)
                if ends:
                    say(f"{self.workdir}: {stage.rounds.describe(index)} done, {meter.summary}")
                if self.preemption.due():
                    self.stop(state, done, meter)

    def program(
        self, step: Callable, state: TrainState, batch: Mapping[str, Any], meter: logs.Meter, start: int
    ) -> jax.stages.Compiled:
        """The compiled step: compiled once for all rounds, or once more after the first if its teacher was another kind
        of network."""
        if step not in self._programs:
            clock, each = time.perf_counter(), self.stage.loop.updates_per_call
            traced = train_step.trace(step, state, batch, each)
            cost = flops.of_jaxpr(traced.jaxpr.jaxpr) / each
            self._programs[step] = traced.lower().compile()
            seconds = time.perf_counter() - clock
            self.say(f"{self.workdir}: compiled in {seconds:.1f} s; an update is {cost / 1e9:,.1f} GFLOPs")
            device = hardware.of(self.layout.mesh.devices.flat[0].device_kind)
            meter.work = logs.Work(meter.work.examples, cost, device.flops * self.layout.mesh.size if device else None)
            meter.restart(start)
        return self._programs[step]

    def promote(self, state: TrainState) -> TrainState:
        """The student becomes the teacher, where the rules put teachers."""
        shardings = self.layout.shardings(jax.eval_shape(self.stage.promote, state))
        return jax.jit(self.stage.promote, donate_argnums=0, out_shardings=shardings)(state)

    def save(self, state: TrainState, done: int, meter: logs.Meter, score: float | None = None) -> None:
        """A checkpoint, after the rows that it stands for; written while training goes on."""
        meter.flush()
        self.checkpoints.save(state, done, score)
        self._saved = done
        meter.restart(done)

    def stop(self, state: TrainState, done: int, meter: logs.Meter) -> None:
        """Saves, and raises `Preempted`."""
        if self._saved != done:
            self.save(state, done, meter)
        self.checkpoints.close()
        raise Preempted(f"{self.workdir}: asked to stop; saved after update {done}. Run again, it goes on there")

    def require_finite(self, done: int, row: Mapping[str, Any]) -> None:
        """Raises `UserError` when too many updates in a row had a loss or gradient that was not finite; fault.json then
        says where it began, and with which examples."""
        in_row, loop, plan = row["skipped_in_row"], self.stage.loop, self.stage.rounds
        if in_row < loop.max_skipped:
            return
        first = done - in_row
        examples = data.order(self.stage.source, loop.batch_size, loop.seed)[first].tolist()
        where = f"update {first + 1}, {plan.describe(plan.round_of(first))}"
        fault = {"update": first + 1, "round": plan.round_of(first) + 1, "skipped": in_row, "examples": examples}
        if jax.process_index() == 0:
            files.write_json(self.workdir / "fault.json", fault)
        self.checkpoints.wait()
        last = self.checkpoints.latest()
        kept = "there is no checkpoint" if last is None else f"the newest checkpoint is that of update {last}"
        raise UserError(
            f"{self.workdir}: {in_row} updates in a row were not finite, from {where}, on; its examples are in "
            f"{self.workdir / 'fault.json'}; {kept}. "
            "Lower config.optim.lr, or compute in float32"
        )


@contextlib.contextmanager
def profiling(directory: Path | None, after: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to call after each call of the step: it has JAX trace some of them from update `after` on, when
    everything is compiled, into `directory` (None: not)."""
    left, running = PROFILED if directory else 0, False

    def watch(done: int) -> None:
        nonlocal left, running
        if left and done >= after:
            if not running:
                jax.profiler.start_trace(str(directory))
                running = True
                return
            left -= 1
            if not left:
                jax.profiler.stop_trace()
                running = False

    try:
        yield watch
    finally:
        if running:
            jax.profiler.stop_trace()


def require_own(workdir: Path, stage: stages.Stage) -> None:
    """Raises `UserError` when `workdir` holds something else than this config's run, or its teacher has changed
    since."""
    path = workdir / "config.json"
    if not path.is_file():
        there = workdir.iterdir() if workdir.is_dir() else ()
        others = [path.name for path in there if path.suffix != ".part" and path.name != "lock"]
        if others:
            raise UserError(f"{workdir} holds {others[0]} and no run; choose another --workdir")
        return
    try:
        before, now = _flat(json.loads(path.read_text())), _flat(json.loads(json.dumps(stage.config)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    differ = [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{free}.") for free in MAY_CHANGE)
    ]
    if differ:
        told = lambda key, there: repr(there[key]) if key in there else "not there"  # noqa: E731
        shown = "; ".join(f"{key} was {told(key, before)}, is {told(key, now)}" for key in differ[:4])
        hint = "" if all(key in before and key in now for key in differ) else ", or go on with the code that began it"
        raise UserError(f"{workdir} belongs to another config ({shown}); choose another --workdir or remove it{hint}")
    if (workdir / "manifest.json").is_file():
        hashes = [[of["hash"] for of in m["teacher"]] for m in (runs.read_manifest(workdir), stage.manifest)]
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{workdir} was begun with another teacher than {stage.manifest['teacher'][0]['run']} is now"
            )


def write_description(workdir: Path, stage: stages.Stage) -> Path:
    """config.json, then manifest.json, by process 0; a run that goes on keeps its own. Returns `workdir`."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name, value in (("config", stage.config), ("manifest", stage.manifest)):
        if jax.process_index() == 0 and not (workdir / f"{name}.json").is_file():
            files.write_json(workdir / f"{name}.json", value)
    parallel.wait_for_all(f"description of {workdir}")
    return workdir


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    out = {}
    for name, value in values.items():
        out |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return out
