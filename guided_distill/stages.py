"""The composition root: config (+ teacher runs) -> everything that a stage trains with. With `manifests` the only
reader of configs.

Everything that can be wrong is found here, before anything is written: unread keys, teachers that are missing or do not
fit, ranges.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from guided_distill import (
    channels,
    codecs,
    conditions,
    data,
    evaluate,
    golden,
    logs,
    manifests,
    parallel,
    rounds,
    runs,
    schedules,
    state,
    streams,
    teachers,
    train_step,
    weighting,
)
from guided_distill.errors import UserError, one_of
from guided_distill.keys import Keys
from guided_distill.objectives import Objective
from guided_distill.plugins import names, resolve
from guided_distill.prediction import Denoiser

EXACT = "none"  # The objective of a network that is exact, and needs no training.


@dataclasses.dataclass(frozen=True)
class Loop:
    """What the trainer itself needs to know, the config's keys of these names. `keep` checkpoints, and the `best` by a
    metric ("": none); `max_skipped` updates in a row may be left out for not being finite; `accumulate` parts of a
    batch, `updates_per_call` of the device."""

    seed: int
    batch_size: int
    save_every: int
    log_every: int
    sample_every: int
    eval_num: int
    golden: str
    max_skipped: int
    wandb: str
    keep: int
    best: str
    accumulate: int
    updates_per_call: int


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage, ready to be trained: what `trainer.run` holds. `layout(devices)` is where it lives, `abstract()` the
    state's shapes, `leaves` reads the frozen weights to their places, `init` makes the state from them (for jit).
    `steps[min(round, 1)]` is a round's step function: one object, unless the first teacher is of another kind than the
    student."""

    config: dict[str, Any]
    manifest: dict[str, Any]
    loop: Loop
    source: data.Source
    rounds: rounds.Rounds
    layout: Callable[..., parallel.Layout]
    abstract: Callable[[], state.TrainState]
    leaves: Callable[[parallel.Layout], dict[str, Any]]
    init: Callable[[dict[str, Any]], state.TrainState]
    promote: Callable[[state.TrainState], state.TrainState]
    steps: tuple[Callable, Callable]


def build(
    config: Mapping[str, Any],
    load_teacher: Callable[..., teachers.Teacher] = teachers.load,
    load_data: Callable[..., data.Source] = data.load,
) -> Stage:
    """The stage that a config describes. Raises `UserError`, with the way out, for whatever could not work; writes
    nothing. A plan loads teachers that are not trained, and data that are not there: see `guided_distill.plans`."""
    keys = Keys(config)
    objective = keys.part("objective")
    kind = objective.take("name")
    one_of("objective", kind, [EXACT, *names("objectives")])
    role = "exact" if kind == EXACT else resolve("objectives", kind).ROLE
    teacher, start = load_above(keys, role, load_teacher)
    plan = make_rounds(keys, objective, role)
    manifest = manifests.describe(keys, objective, kind, role, plan, teacher or start, load_data)
    if start:
        manifests.require_start(manifest, start)
    if teacher:
        manifests.require_shown_alike(manifest, teacher)
        teachers.require_fit(manifest, teacher, objective.take("grid") if "grid" in objective else 0)
    guided = manifest["guidance"]["kind"] == "embedded"
    source, loop, layout = load_data(**manifest["data"]), make_loop(keys), make_layout(keys)
    bound = teacher.bind(guided, keys.part("compute").take("dtype")) if teacher else None
    code = codecs.load(**manifest["codec"])
    if source.info.codec:  # What is read has been encoded, so no weights are needed to.
        code = code._replace(encode=code.stored, weights=None, binder=None)
    ingredients = gather(keys, manifest, role, bound, plan, loop, source.info, code)
    optimiser = ingredients.optimiser
    require_calls_fit(loop, plan)
    require_golden(loop, kind, teacher)
    if unread := keys.unread():
        raise UserError(f"config keys that nothing reads (objective {kind!r}): {', '.join(unread)}")
    try:
        runs.abstract_weights(manifest)
    except ValueError as error:
        raise UserError(f"config.network: {error}") from error
    above, init = teacher or start, lambda leaves: initial_state(manifest, leaves, optimiser)
    return Stage(
        config=dict(config),
        manifest=manifest,
        loop=loop,
        source=source,
        rounds=plan,
        layout=layout,
        abstract=lambda: jax.eval_shape(init, (above.abstract(guided) if above else {}) | named(code)),
        leaves=lambda layout: (above.leaves(guided, layout) if above else {}) | codec_leaves(code, layout),
        init=init,
        promote=lambda current: state.promote(current, optimiser),
        steps=make_steps(ingredients, manifest, teacher, code),
    )


def load_above(
    keys: Keys, role: str, load_teacher: Callable[..., teachers.Teacher]
) -> tuple[teachers.Teacher | None, teachers.Teacher | None]:
    """(whom the stage learns from, the run that a teacher starts from: config.start), each None where there is none."""
    if role in ("student", "chain"):
        return load_teacher(*map(keys.take, ("teacher", "teacher_unconditional", "teacher_command"))), None
    if role == "teacher" and "start" in keys:
        return None, load_teacher(keys.take("start"), "", keys.take("start_command"))
    return None, None


def gather(
    keys: Keys,
    manifest: Mapping[str, Any],
    role: str,
    teacher: Callable[[Any], Denoiser] | None,
    plan: rounds.Rounds,
    loop: Loop,
    info: data.Info,
    code: codecs.Codec,
) -> train_step.Ingredients:
    """What the step is made of."""
    optim, kind = keys.part("optim"), manifest["objective"]
    return train_step.Ingredients(
        objective=make_objective(kind, keys, manifest) if role != "exact" else None,
        student=bind_student(manifest, role),
        teacher=teacher,
        encode=code.encode,
        learning_rate=rounds.learning_rate(plan, *(optim.take(name) for name in ("lr", "warmup", "decay"))),
        optimiser=optim.call(train_step.optimiser, but=("lr", "warmup", "decay")),
        rounds=plan,
        seed=loop.seed,
        ema_decay=manifest["ema"],
        dropout=role == "teacher",
        flip=info.flip,
        accumulate=loop.accumulate,
        draws=code.draws,
        show=make_show(keys, manifest),
    )


def make_loop(keys: Keys) -> Loop:
    """The trainer's own keys. Raises `UserError` for what is not positive."""
    parts = {"keep": "checkpoints", "best": "checkpoints", "accumulate": "compute", "updates_per_call": "compute"}
    values = {}
    for field in dataclasses.fields(Loop):
        part = parts.get(field.name)
        values[field.name] = (keys.part(part) if part else keys).take(field.name)
    loop = Loop(**values)
    # The earlier checkpoint is there until the later one is whole, checksums and all, and to go back to after damage.
    least = {"save_every": 0, "sample_every": 0, "eval_num": 0, "keep": 2}
    for name in ("batch_size", "log_every", "max_skipped", "accumulate", "updates_per_call", *least):
        if getattr(loop, name) < least.get(name, 1):
            where = f"config.{parts[name]}.{name}" if name in parts else f"config.{name}"
            raise UserError(f"{where} {getattr(loop, name)} is less than {least.get(name, 1)}")
    logs.require_tracker(loop.wandb)
    if loop.best:
        one_of("metric in config.checkpoints.best", loop.best, evaluate.TRACKED)
        if not loop.eval_num:
            raise UserError(f"config.checkpoints.best {loop.best!r} needs config.eval_num samples to be scored by")
    return loop


def require_calls_fit(loop: Loop, plan: rounds.Rounds) -> None:
    """Raises `UserError` where a call of `updates_per_call` would go past the end of a round, or a place to log, save
    or sample at."""
    each = loop.updates_per_call
    places = {name: getattr(loop, name) for name in ("log_every", "save_every", "sample_every")}
    for name, every in [*places.items(), *(("a round's updates", updates) for updates in plan.updates)]:
        if every % each:
            raise UserError(f"config.compute.updates_per_call {each} does not divide {name}, {every}")


def require_golden(loop: Loop, kind: str, teacher: teachers.Teacher | None) -> None:
    """Raises `UserError` where a golden set is asked for, and is not there or nobody can answer it."""
    if not loop.golden:
        return
    if teacher is None or teacher.other is not None or kind == "encoding":
        raise UserError(
            f"config.golden {loop.golden!r} is for students that make samples after one teacher, and not for objective "
            f"{kind!r}{' with two teachers' if teacher and teacher.other else ''}; leave it empty"
        )
    if loop.golden != golden.frozen.AUTO:
        golden.frozen.read(loop.golden)


def make_layout(keys: Keys) -> Callable[..., parallel.Layout]:
    """(devices or None for all) -> where the state lives, by config.mesh and config.sharding."""
    mesh, rules = keys.part("mesh"), tuple(tuple(rule) for rule in keys.take("sharding"))
    sizes = {axis: mesh.take(axis) for axis in parallel.AXES}
    for rule in rules:
        if len(rule) != 2 or not all(isinstance(part, str) for part in rule):
            raise UserError(f"config.sharding holds (pattern, rule) pairs, not {rule!r}")
        one_of("rule in config.sharding", rule[1], parallel.RULES)
    return lambda devices=None: parallel.Layout(parallel.make_mesh(devices, **sizes), rules)


def make_rounds(keys: Keys, objective: Keys, role: str) -> rounds.Rounds:
    """One round of `num_updates`, or a halving with `num_updates` a round."""
    updates = keys.take("num_updates")
    if updates < (role != "exact"):
        raise UserError(f"config.num_updates {updates} is not positive")
    if role != "chain":
        return rounds.Rounds((0,), (updates,))
    part = keys.part("halving")
    last = round(updates * part.take("last_updates_factor"))
    if last < 1:
        raise UserError(f"config.halving.last_updates_factor leaves {last} updates to the last rounds")
    stochastic = "stochastic" in objective and objective.take("stochastic")
    steps = [part.take(name) for name in ("start_steps", "end_steps")]
    return rounds.halving(*steps, updates, last, stochastic, part.take("factor"), part.take("last_from"))


def make_objective(kind: str, keys: Keys, manifest: Mapping[str, Any]) -> Objective:
    """The objective with the config's arguments."""
    make, part = resolve("objectives", kind).make, keys.part("objective")
    own = {"schedule": schedules.make(**manifest["schedule"]), "weighting": part.part("weighting").call(weighting.make)}
    known = inspect.signature(make).parameters
    if "factor" in known:
        own["factor"] = keys.part("halving").take("factor")
    if "null" in known:
        own["null"] = conditions.null(manifest) if manifest["guidance"]["kind"] == "external" else {}
    return part.call(make, but=("name", "weighting", "guidance_interval"), **own)


def make_show(keys: Keys, manifest: Mapping[str, Any]) -> channels.Show | None:
    """What a batch is given for what the network is shown; None where that is nothing."""
    if tuple(manifest["channels"]) != channels.EDITING:
        return channels.inpainting(channels.blank(manifest)) if manifest["channels"] else None
    dropped = (
        (keys.take("image_dropout"), conditions.null(manifest)) if manifest["guidance"].get("image") else (0.0, {})
    )
    return channels.editing(*dropped, manifest["shown"].get("scale", 1.0))


def bind_student(manifest: Mapping[str, Any], role: str) -> Callable:
    """(params, dropout key) -> Denoiser. What is to be guided from outside is plain in training."""
    if role == "teacher":
        return runs.parameterised(manifest).bind
    plain = manifest["guidance"]["kind"] == "external"
    bind = runs.parameterised(manifest).bind if plain else runs.bind(manifest)
    return lambda params, dropout_key: bind(params)


def named(code: codecs.Codec) -> dict[str, Any]:
    """The codec's weights as they are among the frozen ones, if it has any."""
    return {} if code.weights is None else {state.CODEC: code.weights}


def codec_leaves(code: codecs.Codec, layout: parallel.Layout) -> dict[str, Any]:
    """The same, brought to where the state holds them; copies, since the state is donated."""
    weights = named(code)
    shardings = layout.shardings({"teacher": weights})["teacher"]  # By the paths that they have in a state.
    put = lambda leaf, at: jax.make_array_from_callback(leaf.shape, at, lambda part: np.array(leaf[part]))  # noqa: E731
    return jax.tree.map(put, weights, shardings)


def make_step(ingredients: train_step.Ingredients, code: codecs.Codec) -> Callable:
    """The step function; the codec's weights are those that the state holds."""
    if code.weights is None:
        return train_step.make(ingredients)

    def step(current: state.TrainState, batch: Mapping[str, Any]) -> tuple[state.TrainState, dict[str, jax.Array]]:
        encode = code.bind(current.teacher[state.CODEC]).encode
        return train_step.make(dataclasses.replace(ingredients, encode=encode))(current, batch)

    return step


def make_steps(
    ingredients: train_step.Ingredients,
    manifest: Mapping[str, Any],
    teacher: teachers.Teacher | None,
    code: codecs.Codec,
) -> tuple[Callable, Callable]:
    """Step functions of the first round and of those after a promotion: one and the same if the teacher is what the
    student will be."""
    later = dataclasses.replace(ingredients, teacher=lambda leaves: ingredients.student(leaves["teacher"], None))
    same = teacher and teacher.other is None and meaning(teacher.manifest) == meaning(manifest)
    same = same and (manifest["guidance"]["kind"] != "embedded" or teacher.manifest["guidance"]["kind"] != "external")
    if same:
        return (make_step(later, code),) * 2
    return make_step(ingredients, code), make_step(later, code)


def meaning(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a network's weights mean, whatever it computes them in: its dtype and rematerialisation left out."""
    arguments = {k: v for k, v in manifest["network"]["args"].items() if k not in ("dtype", "remat", "dropout")}
    return manifest["network"]["name"], arguments, manifest["prediction"], manifest["time_input"]


def initial_state(
    manifest: Mapping[str, Any], leaves: dict[str, Any], optimiser: optax.GradientTransformation
) -> state.TrainState:
    """The state at step 0, for jit. A student that inherits its network starts from the (main) teacher's weights; a
    teacher does from those of another run, which are no part of its state."""
    z = jnp.zeros((1, *manifest["code_shape"]), jnp.float32)
    cond = conditions.example(manifest)
    params = runs.parameterised(manifest).init(streams.key(manifest["seed"], "init", 0), z, cond)
    if manifest["starts_from_teacher"]:
        params, _ = state.graft(params, leaves["teacher"])
    if not manifest["teacher"]:
        leaves = {name: leaf for name, leaf in leaves.items() if name != "teacher"}
    return state.create({"student": params}, leaves, optimiser, manifest["ema"] > 0)
