"""The composition root: config (+ teacher runs) -> everything that a stage trains with. The only reader of configs.

Everything that can be wrong is found here, before anything is written: unread keys, teachers that are missing or do not
fit, ranges.
"""

import dataclasses
import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import guided_distill
from guided_distill import (
    codecs,
    data,
    rounds,
    runs,
    samplers,
    schedules,
    state,
    streams,
    teachers,
    train_step,
    weighting,
)
from guided_distill.errors import UserError, one_of
from guided_distill.keys import Keys
from guided_distill.plugins import names, resolve

INHERIT = "inherit"  # The value that says: as the teacher has it.
CHAINS = ("progressive", "encoding")  # Objectives that halve.


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
    objective_keys = keys.part("objective")
    kind = objective_keys.take("name")
    one_of("objective", kind, ["none", *names("objectives")])  # "none": an exact network, which needs no training.
    taught = kind not in ("none", "denoising")
    teacher = None
    if taught:
        teacher = teachers.load(keys.take("teacher"), keys.take("teacher_unconditional"), keys.take("teacher_command"))
    manifest = describe(keys, objective_keys, kind, teacher)
    guided = manifest["guidance"]["kind"] != "none"
    if teacher:
        teachers.require_fit(manifest, teacher)
    plan = make_rounds(keys, objective_keys, kind, teacher)
    manifest["rounds"] = (
        [list(pair) for pair in zip(plan.num_steps, plan.ends, strict=True)] if kind in CHAINS else None
    )
    source = data.load(**manifest["data"])
    loop = Loop(**{field.name: keys.take(field.name) for field in dataclasses.fields(Loop)})
    optim = keys.part("optim")
    rate = rounds.learning_rate(plan, *(optim.take(name) for name in ("lr", "warmup", "decay")))
    optimiser = optim.call(train_step.optimiser)
    ingredients = train_step.Ingredients(
        objective=make_objective(kind, objective_keys, manifest),
        student=bind_student(manifest, kind),
        teacher=teacher.bind(guided) if teacher else None,
        encode=codecs.load(**manifest["codec"]).encode,
        optimiser=optimiser,
        learning_rate=rate,
        rounds=plan,
        seed=loop.seed,
        ema_decay=manifest["ema"],
        dropout=kind == "denoising",
        flip=source.info.flip,
    )
    if unread := keys.unread():
        raise UserError(f"config keys that nothing reads (objective {kind!r}): {', '.join(unread)}")
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


def describe(keys: Keys, objective: Keys, kind: str, teacher: teachers.Teacher | None) -> dict[str, Any]:
    """The manifest: all that is needed to use the run without its config."""
    above = teacher.manifest if teacher else {}

    def own_or_inherited(name: str) -> dict[str, Any]:
        part = keys.part(name)
        if part.take("name") != INHERIT:
            return {"name": part.take("name"), **part.rest()}
        if name not in above:
            raise UserError(f"config.{name}.name is {INHERIT!r}, and there is no teacher to inherit from")
        return {**above[name], **part.rest()}

    data_set, schedule, codec = (own_or_inherited(name) for name in ("data", "schedule", "codec"))
    schedule = {"name": schedule["name"], **dataclasses.asdict(schedules.make(**schedule))}
    info = data.load(**data_set).info
    code = codecs.load(**codec)
    manifest = {
        "format": runs.FORMAT,
        "name": keys.take("name"),
        "arguments": keys.take("arguments"),
        "objective": kind,
        "data": data_set,
        "schedule": schedule,
        "codec": codec,
        "shape": list(info.shape),
        "code_shape": list(code.shape(info.shape)),
        "num_classes": info.num_classes,
        "clip": code.clip,
        "seed": keys.take("seed"),
        "ema": keys.take("ema"),
        "trains": kind != "none",
        "teacher": teacher.lineage() if teacher else [],
    }
    manifest["weights"] = "ema" if manifest["ema"] else "params"
    manifest["guidance"] = describe_guidance(objective, kind, info.num_classes)
    manifest |= describe_network(keys, manifest, above)
    if manifest["guidance"].get("range") == [0.0, 0.0] and not manifest["network"]["args"].get("embed_guidance"):
        manifest["guidance"] = {"kind": "none"}
    manifest |= describe_sampling(keys.part("sampling"), objective, kind, manifest)
    return json.loads(json.dumps(manifest | provenance()))


def describe_guidance(objective: Keys, kind: str, num_classes: int) -> dict[str, Any]:
    """{"kind": "none" | "external" | "embedded", "range": [w_min, w_max]}."""
    if kind in ("none", "denoising"):
        external = num_classes and (kind == "none" or objective.take("dropout") > 0)
        return {"kind": "external" if external else "none"}
    w_min, w_max = objective.take("w_min"), objective.take("w_max")
    if not 0 <= w_min <= w_max:
        raise UserError(f"config.objective: 0 <= w_min <= w_max does not hold for w_min {w_min:g}, w_max {w_max:g}")
    return {"kind": "embedded", "range": [float(w_min), float(w_max)]}


def describe_network(keys: Keys, manifest: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """network, prediction and time input: the config's own, or the teacher's with a w embedding where there is a range
    of w."""
    part = keys.part("network")
    name = part.take("name")
    inherits = name == INHERIT
    if inherits and not above:
        raise UserError(f"config.network.name is {INHERIT!r}, and there is no teacher to inherit from")
    low, high = manifest["guidance"].get("range", (0.0, 0.0))
    embedded = bool(above) and above["network"]["args"].get("embed_guidance", False)
    structure = {
        "out_channels": manifest["code_shape"][-1],
        "num_classes": manifest["num_classes"],
        "embed_guidance": low < high or (embedded and inherits),
    }
    found = {key: keys.take(key) for key in ("prediction", "time_input")}
    if inherits:
        name = above["network"]["name"]
        found = {key: above[key] if value == INHERIT else value for key, value in found.items()}
    structure["out_channels"] *= 2 if found["prediction"] == "both" else 1
    fields = {field.name for field in dataclasses.fields(resolve("models", name).Network)}
    arguments = (above["network"]["args"] if inherits else {}) | part.rest()
    for key in arguments:
        one_of(
            f"key in config.network ({name}):",
            key,
            sorted(fields - {"parent", "name"} - set(structure)) + list(structure),
        )
    if manifest["trains"] and "embed_guidance" not in fields:
        raise UserError(f"network {name!r} has nothing to train: name another in config.network.name")
    arguments |= {key: value for key, value in structure.items() if key in fields}
    same = inherits and all(found[key] == above[key] for key in found)
    return {"network": {"name": name, "args": arguments}, "starts_from_teacher": same, **found}


def describe_sampling(part: Keys, objective: Keys, kind: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler (a halved chain's is the one that it is trained for), and what is recommended to users."""
    if kind in CHAINS:
        sampler = "stochastic" if kind == "progressive" and objective.take("stochastic") else "ddim"
    else:
        sampler = part.take("sampler")
    one_of("sampler", sampler, samplers.names())
    low, high = manifest["guidance"].get(
        "range", (0.0, 0.0 if manifest["guidance"]["kind"] == "none" else float("inf"))
    )
    recommended = {"steps": part.take("steps"), "guidance": min(max(part.take("guidance"), low), high)}
    return {"sampler": sampler, "recommended": recommended}


def provenance() -> dict[str, Any]:
    """Versions and the git commit, for the manifest."""
    root = Path(guided_distill.__file__).parents[1]
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    packages = {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "numpy")}
    versions = {"python": platform.python_version(), "guided_distill": guided_distill.__version__, **packages}
    return {"versions": versions, "git_commit": git.stdout.strip() or None}


def make_rounds(keys: Keys, objective: Keys, kind: str, teacher: teachers.Teacher | None) -> rounds.Rounds:
    """One round of `num_updates`, or a halving with `num_updates` a round."""
    updates = keys.take("num_updates")
    if updates < (kind != "none"):
        raise UserError(f"config.num_updates {updates} is not positive")
    if teacher and teacher.manifest["rounds"] is not None:
        raise UserError(f"the teacher {teacher.main.dir} is a halved chain; take a stage-one student or a teacher")
    if kind not in CHAINS:
        return rounds.Rounds((0,), (updates,))
    part = keys.part("halving")
    stochastic = kind == "progressive" and objective.take("stochastic")
    last = round(updates * part.take("last_updates_factor"))
    return rounds.halving(part.take("start_steps"), part.take("end_steps"), updates, last, stochastic)


def make_objective(kind: str, part: Keys, manifest: Mapping[str, Any]) -> Any:
    """The objective with the config's arguments."""
    if kind == "none":
        return None
    weights = part.part("weighting").call(weighting.make)
    make = resolve("objectives", kind).make
    others = {"schedule": schedules.make(**manifest["schedule"]), "weighting": weights}
    taken = {"denoising": ("dropout",), "progressive": ("w_min", "w_max", "stochastic")}.get(kind, ("w_min", "w_max"))
    others |= {name: part.take(name) for name in taken}
    if kind == "denoising":
        others["null"] = {"label": manifest["num_classes"]} if manifest["num_classes"] else {}
    return part.call(make, **others)


def bind_student(manifest: Mapping[str, Any], kind: str) -> Callable:
    """(params, dropout key) -> Denoiser. A teacher in training is plain: its guidance is outside."""
    if kind == "denoising":
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


def initial_state(manifest: Mapping[str, Any], leaves: dict[str, Any], optimiser) -> state.TrainState:
    """The state at step 0, for jit. A student that inherits its network starts from the (main) teacher's weights."""
    z = jnp.zeros((1, *manifest["code_shape"]), jnp.float32)
    params = runs.parameterised(manifest).init(streams.key(manifest["seed"], "init", 0), z, runs.example_cond(manifest))
    if manifest["starts_from_teacher"]:
        params, _ = state.graft(params, leaves["teacher"])
    return state.create({"student": params}, leaves, optimiser, manifest["ema"] > 0)
