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
from guided_distill import channels, codecs, conditions, data, runs, samplers, schedules
from guided_distill.errors import UserError, one_of
from guided_distill.guidance import STRENGTHS
from guided_distill.keys import Keys
from guided_distill.plugins import resolve
from guided_distill.rounds import Rounds
from guided_distill.teachers import Teacher, require_same

INHERIT = "inherit"  # The value that says: as the teacher has it.
AS_DATA = "as_data"  # The codec that the data were encoded by.
PROMPTS = 20  # Captions that a run recommends.


def describe(
    keys: Keys,
    objective: Keys,
    kind: str,
    role: str,
    plan: Rounds,
    teacher: Teacher | None,
    load_data: Callable[..., data.Source] = data.load,
) -> dict[str, Any]:
    """The manifest. `role` is the objective's: "exact", "teacher", "student" or "chain"; for a "teacher" `teacher` is
    the run whose weights it starts from, if any. Raises `UserError`."""
    above = teacher.manifest if teacher else {}
    data_set, schedule, codec = (
        own_or_inherited(keys.part(name), name, above) for name in ("data", "schedule", "codec")
    )
    source = load_data(**data_set)
    info, codec = source.info, stored_codec(codec, source.info)
    code = codecs.load(**codec)
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
        **describe_text(source),
        **describe_channels(keys, source, above),
        "clip": code.clip,
        "seed": keys.take("seed"),
        "ema": keys.take("ema"),
        "trains": role != "exact",
        "updates": plan.total,
        "rounds": [list(pair) for pair in zip(plan.num_steps, plan.ends, strict=True)] if role == "chain" else None,
        "factor": keys.part("halving").take("factor") if role == "chain" else None,
        "teacher": teacher.lineage() if teacher and role != "teacher" else [],
        "start": teacher.lineage() if teacher and role == "teacher" else [],
    }
    if not 0 <= manifest["ema"] < 1:
        raise UserError(f"config.ema {manifest['ema']} is not in [0, 1)")
    manifest["weights"] = "ema" if manifest["ema"] else "params"
    manifest["guidance"] = describe_guidance(objective, conditions.known(manifest))
    manifest["guidance"] |= describe_image_guidance(keys, objective, manifest)
    manifest |= describe_network(keys, manifest, above)
    embeds = any(manifest["network"]["args"].get(f"embed_{name}") for name in STRENGTHS)
    if manifest["guidance"].get("range") == [0.0, 0.0] and not embeds:
        manifest["guidance"] = {"kind": "none"}
    manifest |= describe_sampling(keys.part("sampling"), objective, role, manifest["guidance"])
    if manifest["text"]:
        manifest["recommended"]["prompts"] = source.captions(PROMPTS)
    return json.loads(json.dumps(manifest | provenance()))


def stored_codec(codec: dict[str, Any], info: data.Info) -> dict[str, Any]:
    """The codec of a set that was encoded: the one that it was encoded by, AS_DATA in a config. Raises `UserError` for
    another one, and for AS_DATA where there are images."""
    if codec["name"] == AS_DATA:
        if info.codec is None:
            raise UserError(f"config.codec.name is {AS_DATA!r}, and these data are not encoded (see `data encode`)")
        return {**info.codec, **{key: value for key, value in codec.items() if key != "name"}}
    if info.codec is None:
        return codec
    own = {**codec, **dict(codecs.load(**codec).pin)}
    if any(own.get(key) != info.codec.get(key) for key in ("name", "sha256", "scale", "shift")):
        raise UserError(f"config.codec is {own}, and the data were encoded by {dict(info.codec)}; name it {AS_DATA!r}")
    return codec


def describe_text(source: data.Source) -> dict[str, Any]:
    """{"text": the encoder that the data's captions were read by, "text_shape": that of its states}; text None where
    there are no captions. Raises `UserError` for captions that were not read."""
    if source.info.text is None:
        if source.info.captions:
            raise UserError(
                "these data have captions, which no network reads as they are: encode them first (python -m "
                "guided_distill data encode), or leave them out with config.data.classes=False"
            )
        return {"text": None}
    return {"text": dict(source.info.text), "text_shape": list(source[:0]["text"].shape[1:])}


def own_or_inherited(part: Keys, name: str, above: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", its arguments}: the config's own, or the teacher's with the config's arguments over them."""
    own = part.take("name")
    if own != INHERIT:
        return {"name": own, **part.rest()}
    if name not in above:
        raise UserError(f"config.{name}.name is {INHERIT!r}, and there is no teacher to inherit from")
    return {**above[name], **part.rest()}


def describe_guidance(objective: Keys, told: bool) -> dict[str, Any]:
    """{"kind": "none" | "external" | "embedded", "range": [w_min, w_max], "interval": [logsnr_min, logsnr_max]}.

    Embedded where the objective draws w; external where the network is `told` something that it may also not be told:
    it was trained with dropout of that, or is exact.
    """
    dropped = "dropout" in objective and objective.take("dropout") > 0
    if "w_min" not in objective:
        external = told and ("dropout" not in objective or dropped)
        interval = list(objective.take("guidance_interval"))
        if interval and not (len(interval) == 2 and interval[0] < interval[1]):
            raise UserError(f"config.objective.guidance_interval {interval} is not (logsnr_min, logsnr_max)")
        kind = {"kind": "external" if external else "none"}  # Without guidance of its own, a second run may guide it.
        return kind | ({"interval": interval or None} if external or interval else {})
    w_min, w_max = objective.take("w_min"), objective.take("w_max")
    if not 0 <= w_min <= w_max:
        raise UserError(f"config.objective: 0 <= w_min <= w_max does not hold for w_min {w_min:g}, w_max {w_max:g}")
    if dropped and (w_max > 0 or not told):
        raise UserError(
            "config.objective.dropout is for chains that know no w, to be guided afterwards by what is dropped"
        )
    return (
        {"kind": "external", "interval": None}
        if dropped
        else {"kind": "embedded", "range": [float(w_min), float(w_max)]}
    )


def describe_channels(keys: Keys, source: data.Source, above: Mapping[str, Any]) -> dict[str, Any]:
    """What the network is shown beside z, and in which way (see `channels`): config.channels, or as the teacher is
    shown. Raises `UserError` for what is not built, and where the data have no images to be edited, or are points."""
    names = tuple(keys.take("channels") if "channels" in keys else above.get("channels", ()))
    one_of("config.channels", names, channels.KNOWN)
    if names == channels.EDITING and "image" not in source[:0]:
        raise UserError(f"config.channels is {names}, and these data have no images to be edited; digits_edits has")
    if names and len(source.info.shape) != 3:
        raise UserError(f"config.channels is {names}, and these data are points, which have no channels")
    alike = list(names) == list(above.get("channels", ()))
    return {"channels": list(names), "shown": above.get("shown", {}) if alike else {}}


def describe_image_guidance(keys: Keys, objective: Keys, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """{"image": True} where the image that is shown was dropped, too, so that there is a second strength, or
    {"image_range": [low, high]} where that is embedded; {} where it is always 0."""
    dropout = keys.take("image_dropout") if "image_dropout" in keys else 0.0
    between, kind = tuple(objective.take("image_range") if "image_range" in objective else ()), manifest["guidance"]
    if not 0 <= dropout <= 1:
        raise UserError(f"config.image_dropout {dropout:g} is no probability")
    if between and not (len(between) == 2 and 0 <= between[0] <= between[1]):
        raise UserError(f"config.objective.image_range {between} is not (low, high) with 0 <= low <= high")
    if (dropout or between) and tuple(manifest["channels"]) != channels.EDITING:
        raise UserError("config.image_dropout and image_range are for networks with channels ('image',), which edit")
    if dropout and kind["kind"] != "external":
        raise UserError("config.image_dropout needs labels or captions that are dropped, too: config.objective.dropout")
    if between and kind["kind"] != "embedded":
        raise UserError("config.objective.image_range is for students that embed guidance: config.objective.w_max")
    return ({"image": True} if dropout else {}) | ({"image_range": [*map(float, between)]} if between else {})


def require_shown_alike(manifest: Mapping[str, Any], teacher: Teacher) -> None:
    """Raises `UserError` unless a student is shown what its teacher is, and asks for strengths of guidance by it that
    the teacher knows."""
    theirs, where = teacher.manifest, f"the teacher {teacher.main.dir} does not fit"
    require_same("channels", {"channels": theirs.get("channels", [])}, manifest, where)
    (low, high), own = conditions.image_range(theirs), conditions.image_range(manifest)
    if teacher.other is not None and own[1] > 0:
        raise UserError(
            f"{where}: guided by a second network, it knows no guidance_image; name no teacher_unconditional"
        )
    if own[0] < low or own[1] > high:
        raise UserError(f"{where}: it knows guidance_image in [{low:g}, {high:g}], and {list(own)} is asked for")
    if "image_range" in theirs["guidance"] and "image_range" not in manifest["guidance"]:
        raise UserError(f"{where}: it embeds guidance_image in [{low:g}, {high:g}]; give config.objective.image_range")


def require_start(manifest: Mapping[str, Any], start: Teacher) -> None:
    """Raises `UserError` unless a teacher can start from the weights of that run, which may be shown less."""
    theirs, where = start.manifest, f"config.start {start.main.dir} does not fit"
    for key in ("code_shape", "schedule", "codec", "num_classes", "text"):
        require_same(key, theirs, manifest, where)
    if theirs["guidance"]["kind"] == "embedded" or theirs["rounds"] is not None:
        raise UserError(f"{where}: it is a student, with its guidance built in; start from a teacher")
    if theirs.get("channels") not in (None, [], manifest["channels"]):
        raise UserError(f"{where}: it is shown {theirs['channels']}, and its weights mean nothing else")
    if not manifest["starts_from_teacher"]:
        raise UserError("config.start needs config.network.name='inherit': it is that run's network that starts")


def describe_network(keys: Keys, manifest: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """network, prediction and time input: the config's own, or the teacher's with a w embedding where there is a range
    of w."""
    part, own = keys.part("network"), {key: keys.take(key) for key in ("prediction", "time_input")}
    inherits = part.take("name") == INHERIT
    if inherits and not above:
        raise UserError(f"config.network.name is {INHERIT!r}, and there is no teacher to inherit from")
    name = above["network"]["name"] if inherits else part.take("name")
    own = {key: above.get(key) if value == INHERIT else value for key, value in own.items()}
    meant = {key: above.get(key) for key in own}
    if inherits and own != meant and (meant["prediction"], own) != ("eps", {**meant, "prediction": "v"}):
        raise UserError(
            f"config.network inherits weights of another meaning than {own}; name a network of its own (only eps may "
            "become v: docs/interchange.md)"
        )
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
    if manifest["text"] and "cross_attention_dim" not in fields:
        raise UserError(f"network {name!r} reads no captions, which these data have; latent_unet does")
    if "image_range" in manifest["guidance"] and "embed_guidance_image" not in fields:
        raise UserError(f"network {name!r} reads no guidance_image; unet and latent_unet do")
    low, high = manifest["guidance"].get("range", (0.0, 0.0))
    structure = {
        "out_channels": manifest["code_shape"][-1] * (2 if own["prediction"] == "both" else 1),
        "num_classes": manifest["num_classes"],
        "embed_guidance": low < high or arguments.get("embed_guidance", False),
        "embed_guidance_image": "image_range" in manifest["guidance"],
    } | ({"cross_attention_dim": manifest["text_shape"][-1]} if manifest["text"] else {})
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
