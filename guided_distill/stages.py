"""The composition root: config (+ teacher runs) -> everything that a stage trains with. With `manifests` the only
reader of configs.

Everything that can be wrong is found here, before anything is written: unread keys, teachers that are missing or do not
fit, ranges.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from guided_distill import (
    codecs,
    data,
    manifests,
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

EXACT = "none"  # The objective of a network that is exact, and needs no training.


@dataclasses.dataclass(frozen=True)
class Loop:
    """What the trainer itself needs to know; all but the first two may differ when a run is continued."""

    seed: int
    batch_size: int
    save_every: int
    log_every: int
    sample_every: int
    eval_num: int


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage, ready to be trained: what `trainer.run` holds. `leaves` reads the frozen weights, `init` makes the state
    from them (for jit). `steps[min(round, 1)]` is a round's step function: one object, unless the first teacher is of
    another kind than the student."""

    config: dict[str, Any]
    manifest: dict[str, Any]
    loop: Loop
    source: data.Source
    rounds: rounds.Rounds
    leaves: Callable[[], dict[str, Any]]
    init: Callable[[dict[str, Any]], state.TrainState]
    promote: Callable[[state.TrainState], state.TrainState]
    steps: tuple[Callable, Callable]


def build(config: Mapping[str, Any]) -> Stage:
    """The stage that a config describes. Raises `UserError`, with the way out, for whatever could not work; writes
    nothing."""
    keys = Keys(config)
    objective = keys.part("objective")
    kind = objective.take("name")
    one_of("objective", kind, [EXACT, *names("objectives")])
    role = "exact" if kind == EXACT else resolve("objectives", kind).ROLE
    teacher = None
    if role in ("student", "chain"):
        teacher = teachers.load(*(keys.take(name) for name in ("teacher", "teacher_unconditional", "teacher_command")))
    plan = make_rounds(keys, objective, role)
    manifest = manifests.describe(keys, objective, kind, role, plan, teacher)
    if teacher:
        teachers.require_fit(manifest, teacher)
    guided = manifest["guidance"]["kind"] != "none"
    source, loop = data.load(**manifest["data"]), make_loop(keys)
    optim = keys.part("optim")
    rate = rounds.learning_rate(plan, *(optim.take(name) for name in ("lr", "warmup", "decay")))
    optimiser = optim.call(train_step.optimiser, but=("lr", "warmup", "decay"))
    ingredients = train_step.Ingredients(
        objective=make_objective(kind, objective, manifest) if role != "exact" else None,
        student=bind_student(manifest, role),
        teacher=teacher.bind(guided) if teacher else None,
        encode=codecs.load(**manifest["codec"]).encode,
        optimiser=optimiser,
        learning_rate=rate,
        rounds=plan,
        seed=loop.seed,
        ema_decay=manifest["ema"],
        dropout=role == "teacher",
        flip=source.info.flip,
    )
    if unread := keys.unread():
        raise UserError(f"config keys that nothing reads (objective {kind!r}): {', '.join(unread)}")
    try:
        runs.abstract_weights(manifest)
    except ValueError as error:
        raise UserError(f"config.network: {error}") from error
    return Stage(
        config=dict(config),
        manifest=manifest,
        loop=loop,
        source=source,
        rounds=plan,
        leaves=lambda: teacher.leaves(guided) if teacher else {},
        init=lambda leaves: initial_state(manifest, leaves, optimiser),
        promote=lambda current: state.promote(current, optimiser),
        steps=make_steps(ingredients, manifest, teacher),
    )


def make_loop(keys: Keys) -> Loop:
    """The trainer's own keys. Raises `UserError` for what is not positive."""
    loop = Loop(**{field.name: keys.take(field.name) for field in dataclasses.fields(Loop)})
    for name, least in {"batch_size": 1, "log_every": 1, "save_every": 0, "sample_every": 0, "eval_num": 0}.items():
        if getattr(loop, name) < least:
            raise UserError(f"config.{name} {getattr(loop, name)} is less than {least}")
    return loop


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
    return rounds.halving(part.take("start_steps"), part.take("end_steps"), updates, last, stochastic)


def make_objective(kind: str, part: Keys, manifest: Mapping[str, Any]) -> Objective:
    """The objective with the config's arguments."""
    make = resolve("objectives", kind).make
    own = {"schedule": schedules.make(**manifest["schedule"]), "weighting": part.part("weighting").call(weighting.make)}
    if "null" in inspect.signature(make).parameters:
        own["null"] = {"label": manifest["num_classes"]} if manifest["num_classes"] else {}
    return part.call(make, but=("name", "weighting", "guidance_interval"), **own)


def bind_student(manifest: Mapping[str, Any], role: str) -> Callable:
    """(params, dropout key) -> Denoiser. A teacher in training is plain: its guidance is outside."""
    if role == "teacher":
        return runs.parameterised(manifest).bind
    bind = runs.bind(manifest)
    return lambda params, dropout_key: bind(params)


def make_steps(
    ingredients: train_step.Ingredients, manifest: Mapping[str, Any], teacher: teachers.Teacher | None
) -> tuple[Callable, Callable]:
    """Step functions of the first round and of those after a promotion: one and the same if the teacher is what the
    student will be."""
    later = dataclasses.replace(ingredients, teacher=lambda leaves: ingredients.student(leaves["teacher"], None))
    keys = ("network", "prediction", "time_input")
    same = teacher and teacher.other is None and all(teacher.manifest[key] == manifest[key] for key in keys)
    same = same and (manifest["guidance"]["kind"] == "none" or teacher.manifest["guidance"]["kind"] != "external")
    if same:
        return (train_step.make(later),) * 2
    return train_step.make(ingredients), train_step.make(later)


def initial_state(
    manifest: Mapping[str, Any], leaves: dict[str, Any], optimiser: optax.GradientTransformation
) -> state.TrainState:
    """The state at step 0, for jit. A student that inherits its network starts from the (main) teacher's weights."""
    z = jnp.zeros((1, *manifest["code_shape"]), jnp.float32)
    params = runs.parameterised(manifest).init(streams.key(manifest["seed"], "init", 0), z, runs.example_cond(manifest))
    if manifest["starts_from_teacher"]:
        params, _ = state.graft(params, leaves["teacher"])
    return state.create({"student": params}, leaves, optimiser, manifest["ema"] > 0)
