"""The loop: data -> step -> log -> save -> evaluate -> promote. Run again, it goes on where it stopped."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh

from guided_distill import codecs, data, evaluate, files, logs, parallel, pictures, runs, schedules, stages
from guided_distill.checkpoint import Checkpoints
from guided_distill.errors import UserError
from guided_distill.generate import Generator, noise
from guided_distill.state import TrainState

# When a run is continued. Its teacher may have moved, and is known by its hash.
MAY_CHANGE = (
    "save_every",
    "log_every",
    "sample_every",
    "eval_num",
    "teacher",
    "teacher_unconditional",
    "teacher_command",
)


def run(config: Mapping[str, Any], workdir: str | Path, say: Callable[[str], Any] = print) -> Path:
    """Trains the stage of a config in `workdir`, from where it stopped if it was begun there. Returns `workdir`.

    Raises `UserError`, before anything is written, for whatever could not work.
    """
    workdir = Path(workdir)
    stage = stages.build(config)
    require_own(workdir, stage)
    mesh = parallel.make_mesh()
    if stage.manifest["trains"]:
        parallel.check_batch_size(stage.loop.batch_size, mesh)
        data.batches(stage.source, stage.loop.batch_size, stage.loop.seed)  # Fails here if it is too small.
        checkpoints = Checkpoints(workdir, stage.rounds.ends)
        state, start = begin(stage, checkpoints, mesh)
    write_description(workdir, stage)
    if stage.manifest["trains"]:
        train(stage, workdir, state, start, checkpoints, mesh, say)
    return workdir


def begin(stage: stages.Stage, checkpoints: Checkpoints, mesh: Mesh) -> tuple[TrainState, int]:
    """(state, step): the newest checkpoint's, or a new one, made under jit where it will live."""
    leaves = stage.leaves()
    leaves = jax.device_put(leaves, parallel.shardings(leaves, mesh))
    abstract = jax.eval_shape(stage.init, leaves)
    shardings = parallel.shardings(abstract, mesh)
    newest = checkpoints.latest()
    if newest is None:
        return jax.jit(stage.init, out_shardings=shardings)(leaves), 0
    placed = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
    if newest > stage.rounds.ends[0]:  # Promoted since: the teacher is a student of this run.
        placed = placed.replace(teacher={"teacher": placed.params["student"]})
    state, position = checkpoints.restore(placed, newest)
    if position != newest:
        raise UserError(f"checkpoint {newest} of {checkpoints.dir} is at batch {position}: it is not from this trainer")
    return state, newest


def train(
    stage: stages.Stage,
    workdir: Path,
    state: TrainState,
    start: int,
    checkpoints: Checkpoints,
    mesh: Mesh,
    say: Callable[[str], Any],
) -> None:
    """The loop itself, from `start` to the end of the last round."""
    total, loop = stage.rounds.total, stage.loop
    if start == 0:
        say(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    say(f"{workdir}: update {start} of {total}, {len(jax.devices())} x {jax.devices()[0].device_kind}")
    batches = data.batches(stage.source, loop.batch_size, loop.seed, start)
    compiled = {step: jax.jit(step, donate_argnums=0) for step in set(stage.steps)}
    promote = jax.jit(stage.promote, donate_argnums=0)
    show, due = Show(stage, workdir, mesh), lambda done, every: every and done % every == 0
    with logs.Meter(workdir, total, start, loop.batch_size) as meter:
        for step in range(start, total):
            if stage.rounds.starts_round(step):
                state = promote(state)
            index, done = stage.rounds.round_of(step), step + 1
            state, metrics = compiled[stage.steps[min(index, 1)]](state, parallel.put_batch(next(batches), mesh))
            ends = done in stage.rounds.ends
            if ends or due(done, loop.log_every):
                meter(done, metrics)
            if ends or due(done, loop.sample_every):
                show(state, index, done, meter.log)
                meter.restart(done)
            if ends or due(done, loop.save_every):
                checkpoints.save(state, done)
                meter.restart(done)
            if ends:
                say(f"{workdir}: {stage.rounds.describe(index)} done, {meter.summary}")


class Show:
    """Sample sheets from the same noise all along, and scores where the config asks for them."""

    def __init__(self, stage: stages.Stage, workdir: Path, mesh: Mesh):
        self.stage, self.workdir, self.manifest = stage, workdir, stage.manifest
        codec = codecs.load(**self.manifest["codec"])
        self.generator = Generator(runs.bind(self.manifest), codec, self.manifest["clip"], mesh)

    def __call__(self, state: TrainState, index: int, step: int, log: logs.Log) -> None:
        """Writes samples/<step>.png, and a row of scores against the training data when `eval_num` asks for it."""
        if self.manifest["objective"] == "encoding":
            return
        images, labels = self.generate(
            state, index, max(self.stage.loop.eval_num, 40 if len(self.manifest["shape"]) > 1 else 1000)
        )
        shown = 40 if images.ndim == 4 else 1000
        pictures.save_grid(
            self.workdir / "samples" / f"{step:08d}.png", images[:shown], 10, None if labels is None else labels[:shown]
        )
        if self.stage.loop.eval_num:
            name, features = evaluate.load_features("pixels")
            fake, real = evaluate.feature_set(images, labels, features), evaluate.reference(self.stage.source, features)
            log.write(step, {f"{metric}_{name}": value for metric, value in evaluate.score(fake, real).items()}, "eval")

    def generate(self, state: TrainState, index: int, num: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(samples [num, ...], labels or None) as the manifest recommends, with the round's steps where it has
        rounds."""
        weights = (state.params if state.ema is None else state.ema)["student"]
        steps = self.stage.rounds.num_steps[index] or self.manifest["recommended"]["steps"]
        cond = {"guidance": np.full((num,), self.manifest["recommended"]["guidance"], np.float32)}
        labels = None
        if self.manifest["num_classes"]:
            labels = cond["label"] = (np.arange(num) % self.manifest["num_classes"]).astype(np.int32)
        z = noise(0, np.arange(num), tuple(self.manifest["code_shape"]))
        grid = schedules.grid(schedules.make(**self.manifest["schedule"]), steps)
        images = self.generator(weights, self.manifest["sampler"], z, cond, grid, seed=0, indices=np.arange(num))
        return images, labels


def require_own(workdir: Path, stage: stages.Stage) -> None:
    """Raises `UserError` when `workdir` holds something else than this config's run, or its teacher has changed
    since."""
    path = workdir / "config.json"
    if not path.is_file():
        others = [p.name for p in workdir.iterdir() if p.suffix != ".part"] if workdir.is_dir() else []
        if others:
            raise UserError(f"{workdir} holds {others[0]} and no run; choose another --workdir")
        return
    try:
        before, now = _flat(json.loads(path.read_text())), _flat(json.loads(json.dumps(stage.config)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    differ = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and k not in MAY_CHANGE]
    if differ:
        shown = "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in differ[:4])
        raise UserError(f"{workdir} belongs to another config ({shown}); choose another --workdir or remove it")
    if (workdir / "manifest.json").is_file():
        hashes = [[of["hash"] for of in m["teacher"]] for m in (runs.read_manifest(workdir), stage.manifest)]
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{workdir} was begun with another teacher than {stage.manifest['teacher'][0]['run']} is now"
            )


def write_description(workdir: Path, stage: stages.Stage) -> None:
    """config.json, then manifest.json; a run that goes on keeps its own."""
    workdir.mkdir(parents=True, exist_ok=True)
    for name, value in (("config", stage.config), ("manifest", stage.manifest)):
        if not (workdir / f"{name}.json").is_file():
            files.write_json(workdir / f"{name}.json", value)


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    out = {}
    for name, value in values.items():
        out |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return out
