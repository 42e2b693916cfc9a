"""scheduler_config.json <-> our schedule, and what its network predicts.

A scheduler of diffusers is two things: the noise levels that a network was trained on, which every class of them
describes in the same words, and one way to step through them. The levels are read; the steps here are always those of
`schedules.grid`, which diffusers calls trailing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from guided_distill.errors import UserError, one_of
from guided_distill.schedules import BETAS, Discrete

FILE = "scheduler_config.json"
KNOWN = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
"""Classes whose networks are told the index of a discrete schedule. Flow matching and EDM are others."""
SAMPLERS = {"LCMScheduler": "consistency"}
"""Classes whose networks are not for DDIM, and our sampler for them."""
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
OURS = {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": True, "clip_sample": False}
"""How a DDIMScheduler has to step so that it does what `samplers.ddim` does: its last step returns x. Trailing steps
have no offset, but pipelines warn of one that is not 1."""


class Told(NamedTuple):
    """Arguments of a `schedules.Discrete`; what the network predicts, None where nothing is said of it; our sampler for
    it; and where their sampling differs from ours."""

    schedule: dict[str, Any]
    prediction: str | None
    sampler: str
    notes: list[str]


def described(config: Mapping[str, Any], what: str) -> Told:
    """What a scheduler_config.json says of a network's training. `what`: the file, for messages. Raises `UserError` for
    a scheduler of another kind, betas that are not given, and values that are unknown."""
    kind = config.get("_class_name")
    if kind not in KNOWN:
        raise UserError(f"{what} is of a {kind}, whose noise levels are not those of a list of betas; read: {KNOWN}")
    trained = config.get("trained_betas") or ()
    for key in () if trained else ("beta_schedule", "beta_start", "beta_end"):
        if key not in config:
            raise UserError(f"{what} has no {key}, and diffusers' default depends on the class; write it there")
    schedule = {
        "num_timesteps": len(trained) or config.get("num_train_timesteps", 1000),
        "trained_betas": list(trained),
        "zero_terminal_snr": bool(config.get("rescale_betas_zero_snr")),
    }
    if not trained:
        one_of(f"beta_schedule in {what}:", config["beta_schedule"], BETAS)
        schedule |= {"betas": config["beta_schedule"]}
        schedule |= {key: _number(config, key, what) for key in ("beta_start", "beta_end")}
    prediction = config.get("prediction_type")
    if prediction is not None:
        one_of(f"prediction_type in {what}:", prediction, PREDICTIONS)
    return Told(schedule, PREDICTIONS.get(prediction), SAMPLERS.get(kind, "ddim"), _differences(config, kind))


def _number(config: Mapping[str, Any], key: str, what: str) -> float:
    """An entry as a number. Raises `UserError` for one that is none."""
    try:
        return float(config[key])
    except (TypeError, ValueError):
        raise UserError(f"{key} in {what} is {config[key]!r}, no number") from None


def _differences(config: Mapping[str, Any], kind: str) -> list[str]:
    if kind == "LCMScheduler":
        steps = config.get("original_inference_steps", 50)
        out = [f"its {kind} takes its times from a list of {steps}; here they are equal in t, and go back up alike"]
        return out + _clipping(config, kind)
    spacing, offset = config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)
    theirs = {"timestep_spacing": spacing, "steps_offset": offset if spacing == "leading" else OURS["steps_offset"]}
    theirs["set_alpha_to_one"] = config.get("set_alpha_to_one", True)
    told = [f"{key}={value!r}" for key, value in theirs.items() if value != OURS[key]]
    out = [f"its {kind} steps with {', '.join(told)}; here steps are trailing, and the last returns x"] if told else []
    out += [f"its {kind} draws new noise after every x; DDIM, here, does not"] if kind == "TCDScheduler" else []
    spaced = [key for key in config if key.startswith("use_") and key.endswith("_sigmas") and config[key]]
    out += [f"its {kind} asks for {', '.join(spaced)}; here steps are equal in t"] if spaced else []
    return out + _clipping(config, kind)


def _clipping(config: Mapping[str, Any], kind: str) -> list[str]:
    clips = [key for key in ("clip_sample", "thresholding") if config.get(key)]
    return [f"its {kind} asks for {', '.join(clips)}; latents are not clipped here"] if clips else []


def config_of(schedule: Discrete, prediction: str, sampler: str = "ddim") -> dict[str, Any]:
    """The scheduler_config.json of a DDIMScheduler that steps as `samplers.ddim` does, or of the scheduler for a
    network of another of `SAMPLERS`. Raises `UserError` for what diffusers has no word for."""
    if schedule.logsnr_max != Discrete.logsnr_max:
        raise UserError(
            f"diffusers has no word for logsnr_max {schedule.logsnr_max:g}; expected {Discrete.logsnr_max:g}"
        )
    names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    one_of("prediction that diffusers has a word for:", prediction, names)
    return {
        "_class_name": class_of(sampler),
        "num_train_timesteps": schedule.num_timesteps,
        "beta_schedule": schedule.betas,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "trained_betas": list(schedule.trained_betas) or None,
        "prediction_type": names[prediction],
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "thresholding": False,
        **OURS,
    }


def class_of(sampler: str) -> str:
    """The class of diffusers that steps as a sampler does."""
    return next((theirs for theirs, ours in SAMPLERS.items() if ours == sampler), "DDIMScheduler")


def ends_in_x(schedule: Discrete, steps: int) -> bool:
    """Whether diffusers' last trailing step of DDIM goes beyond index 0, where x is returned: it goes down by
    floor(T / N), from where round(T / N) - 1 is."""
    return round(schedule.num_timesteps / steps) - 1 < schedule.num_timesteps // steps


def exact(schedule: Discrete, steps: int) -> bool:
    """Whether trailing steps are at whole indices: else diffusers rounds them, and ours are in between."""
    return schedule.num_timesteps % steps == 0
