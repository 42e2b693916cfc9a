"""Config (+ teacher) -> manifest: all that is needed to use a run without its config."""

import dataclasses
import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import guided_distill
from guided_distill import codecs, data, runs, samplers, schedules
from guided_distill.errors import UserError, one_of
from guided_distill.keys import Keys
from guided_distill.plugins import resolve
from guided_distill.rounds import Rounds
from guided_distill.teachers import Teacher

INHERIT = "inherit"  # The value that says: as the teacher has it.


def describe(
    keys: Keys,
    objective: Keys,
    kind: str,
    role: str,
    plan: Rounds,
    teacher: Teacher | None,
    load_data: Callable[..., data.Source] = data.load,
) -> dict[str, Any]:
    """The manifest. `role` is the objective's: "exact", "teacher", "student" or "chain". Raises `UserError`."""
    above = teacher.manifest if teacher else {}
    data_set, schedule, codec = (
        own_or_inherited(keys.part(name), name, above) for name in ("data", "schedule", "codec")
    )
    info, code = load_data(**data_set).info, codecs.load(**codec)
    manifest = {
        "format": runs.FORMAT,
        "name": keys.take("name"),
        "arguments": keys.take("arguments"),
        "objective": kind,
        "data": data_set,
        "data_note": info.note,
        "schedule": {"name": schedule["name"], **dataclasses.asdict(schedules.make(**schedule))},
        "codec": codec | dict(code.pin),
        "shape": list(info.shape),
        "code_shape": list(code.shape(info.shape)),
        "num_classes": info.num_classes,
        "clip": code.clip,
        "seed": keys.take("seed"),
        "ema": keys.take("ema"),
        "trains": role != "exact",
        "updates": plan.total,
        "rounds": [list(pair) for pair in zip(plan.num_steps, plan.ends, strict=True)] if role == "chain" else None,
        "factor": keys.part("halving").take("factor") if role == "chain" else None,
        "teacher": teacher.lineage() if teacher else [],
    }
    if not 0 <= manifest["ema"] < 1:
        raise UserError(f"config.ema {manifest['ema']} is not in [0, 1)")
    manifest["weights"] = "ema" if manifest["ema"] else "params"
    manifest["guidance"] = describe_guidance(objective, info.num_classes)
    manifest |= describe_network(keys, manifest, above)
    if manifest["guidance"].get("range") == [0.0, 0.0] and not manifest["network"]["args"].get("embed_guidance"):
        manifest["guidance"] = {"kind": "none"}
    manifest |= describe_sampling(keys.part("sampling"), objective, role, manifest["guidance"])
    return json.loads(json.dumps(manifest | provenance()))


def own_or_inherited(part: Keys, name: str, above: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", its arguments}: the config's own, or the teacher's with the config's arguments over them."""
    own = part.take("name")
    if own != INHERIT:
        return {"name": own, **part.rest()}
    if name not in above:
        raise UserError(f"config.{name}.name is {INHERIT!r}, and there is no teacher to inherit from")
    return {**above[name], **part.rest()}


def describe_guidance(objective: Keys, num_classes: int) -> dict[str, Any]:
    """{"kind": "none" | "external" | "embedded", "range": [w_min, w_max], "interval": [logsnr_min, logsnr_max]}.

    Embedded where the objective draws w; external where there is a null class: it was trained with label dropout, or is
    exact.
    """
    dropped = "dropout" in objective and objective.take("dropout") > 0
    if "w_min" not in objective:
        external = num_classes > 0 and ("dropout" not in objective or dropped)
        interval = list(objective.take("guidance_interval"))
        if interval and not (len(interval) == 2 and interval[0] < interval[1]):
            raise UserError(f"config.objective.guidance_interval {interval} is not (logsnr_min, logsnr_max)")
        return {"kind": "external", "interval": interval or None} if external else {"kind": "none"}
    w_min, w_max = objective.take("w_min"), objective.take("w_max")
    if not 0 <= w_min <= w_max:
        raise UserError(f"config.objective: 0 <= w_min <= w_max does not hold for w_min {w_min:g}, w_max {w_max:g}")
    if dropped and (w_max > 0 or not num_classes):
        raise UserError("config.objective.dropout is for chains of classes that know no w, to be guided afterwards")
    return (
        {"kind": "external", "interval": None}
        if dropped
        else {"kind": "embedded", "range": [float(w_min), float(w_max)]}
    )


def describe_network(keys: Keys, manifest: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """network, prediction and time input: the config's own, or the teacher's with a w embedding where there is a range
    of w."""
    part, own = keys.part("network"), {key: keys.take(key) for key in ("prediction", "time_input")}
    inherits = part.take("name") == INHERIT
    if inherits and not above:
        raise UserError(f"config.network.name is {INHERIT!r}, and there is no teacher to inherit from")
    name = above["network"]["name"] if inherits else part.take("name")
    own = {key: above.get(key) if value == INHERIT else value for key, value in own.items()}
    if inherits and any(own[key] != above[key] for key in own):
        raise UserError(f"config.network inherits weights of another meaning than {own}; name a network of its own")
    network, fields = resolve("models", name), runs.network_fields(name)
    arguments = dict(above["network"]["args"]) if inherits else {}
    if "preset" in part:
        one_of("config.network.preset", part.take("preset"), getattr(network, "PRESETS", {}))
        arguments |= network.PRESETS[part.take("preset")]
    arguments |= part.rest()
    compute = {key: keys.part("compute").take(key) for key in ("dtype", "remat")}
    for key, value in compute.items():
        if value and key not in fields:
            raise UserError(f"config.compute.{key}: network {name!r} has no {key}")
    arguments |= {key: value for key, value in compute.items() if value}
    for key in arguments:
        one_of(f"key in config.network ({name}):", key, sorted(fields))
    if manifest["trains"] and "embed_guidance" not in fields:
        raise UserError(f"network {name!r} has nothing to train: name another in config.network.name")
    low, high = manifest["guidance"].get("range", (0.0, 0.0))
    structure = {
        "out_channels": manifest["code_shape"][-1] * (2 if own["prediction"] == "both" else 1),
        "num_classes": manifest["num_classes"],
        "embed_guidance": low < high or arguments.get("embed_guidance", False),
    }
    arguments |= {key: value for key, value in structure.items() if key in fields}
    return {"network": {"name": name, "args": arguments}, "starts_from_teacher": inherits, **own}


def describe_sampling(part: Keys, objective: Keys, role: str, guidance: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler (a halved chain's is the one that it is trained for), and what is recommended to users."""
    if role == "chain":
        sampler = "stochastic" if "stochastic" in objective and objective.take("stochastic") else "ddim"
    else:
        sampler = part.take("sampler")
    one_of("sampler", sampler, samplers.names())
    steps, w = part.take("steps"), part.take("guidance")
    if steps < 1:
        raise UserError(f"config.sampling.steps {steps} is not positive")
    low, high = guidance.get("range", (0.0, 0.0 if guidance["kind"] == "none" else float("inf")))
    if not low <= w <= high:
        raise UserError(f"config.sampling.guidance {w:g} is outside the range of w, [{low:g}, {high:g}]")
    return {"sampler": sampler, "recommended": {"steps": steps, "guidance": w}}


def provenance() -> dict[str, Any]:
    """Versions and the git commit ("-dirty" where the tree was changed; None where there is no git), for the
    manifest."""
    root = Path(guided_distill.__file__).parents[1]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        commit = None
    packages = {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "numpy")}
    versions = {"python": platform.python_version(), "guided_distill": guided_distill.__version__, **packages}
    return {"versions": versions, "git_commit": commit}
