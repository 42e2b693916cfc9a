"""What the files of a pipeline mean, in the words of a manifest."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_distill import schedules, text, torch_weights
from guided_distill.channels import EDITING, INPAINTING
from guided_distill.errors import UserError, one_of
from guided_distill.interchange import scheduler as schedulers
from guided_distill.models import latent_unet
from guided_distill.plugins import resolve

USUAL_TEXT, USUAL_CLASS, USUAL_IMAGE = 6.5, 0.5, 0.5
"""w that are recommended where nobody says: guidance scales of 7.5 (Stable Diffusion), 1.5 (LDM), and by the image 1.5
(InstructPix2Pix)."""
USUAL_STEPS = {"ddim": 50, "consistency": 4}
"""Steps that are, by sampler."""
PIPELINES = {INPAINTING: "StableDiffusionInpaintPipeline", EDITING: "StableDiffusionInstructPix2PixPipeline"}
"""Of networks that are shown an image beside z."""


def read_schedule(path: Path, prediction: str | None) -> tuple[schedulers.Told, str]:
    """What the scheduler says, and what the network predicts. Raises `UserError` where nobody says what, or two say
    different things."""
    path = path / schedulers.FILE if path.is_dir() else path
    told = schedulers.described(torch_weights.read_json(path), str(path))
    if prediction is not None:
        one_of("prediction", prediction, schedulers.PREDICTIONS.values())
        if told.prediction not in (None, prediction):
            raise UserError(
                f"{path} says that {told.prediction} is predicted, and prediction={prediction!r} is asked for"
            )
    meant = prediction or told.prediction or "eps"  # Files of before there was a choice do not say it.
    schedule = schedules.make("Discrete", **told.schedule)
    if meant == "eps" and schedule.zero_terminal_snr:
        raise UserError(
            f"{path} has zero terminal SNR (rescale_betas_zero_snr), where a network that predicts eps says nothing "
            "of x; give prediction='v' if that is what it predicts"
        )
    described = {"name": "Discrete", **dataclasses.asdict(schedule)}
    return told._replace(schedule=described), meant


def read_table(path: Path | None) -> np.ndarray | None:
    """LDM's table of classes, [n, d]. Raises `UserError` for a file of something else."""
    if path is None:
        return None
    arrays = torch_weights.pretrained(path).arrays
    if len(arrays) != 1 or (array := next(iter(arrays.values()))).ndim != 2:
        raise UserError(
            f"{path} is no table of classes: expected one array [n, d], found {torch_weights.some([*arrays])}"
        )
    return array


def describe_shapes(
    loaded: latent_unet.Loaded, codec: Mapping[str, Any], resolution: int | None, unet: Path, pipeline: str | None
) -> dict[str, Any]:
    """The shape of images and of their codes, and what the network is shown beside them. Raises `UserError` where
    network and autoencoder do not go together."""
    name, arguments = codec["name"], {key: value for key, value in codec.items() if key != "name"}
    held = resolve("codecs", name).load(**arguments)
    config = unet / "config.json" if unet.is_dir() else unet.with_name("config.json")
    said = torch_weights.read_json(config).get("sample_size") if config.is_file() else None
    if not (resolution or said):
        raise UserError(f"{unet} does not say for which size it was trained; give resolution=512 or the like")
    codes = said if isinstance(said, list) else [said, said]
    sides = [resolution, resolution] if resolution else [held.network.factor * side for side in codes]
    shape = (*sides, held.network.in_channels)
    code, reads = held.shape(shape), loaded.params["conv_in"]["kernel"].shape[2]
    if loaded.network.out_channels != code[-1]:
        raise UserError(f"{unet} puts out {loaded.network.out_channels} channels, and latents have {code[-1]}")
    names = {0: (), code[-1] + 1: INPAINTING, code[-1]: EDITING}.get(reads - code[-1])
    if names is None or (names and pipeline not in (None, PIPELINES[names])):
        raise UserError(
            f"{unet} reads {reads} channels, and latents have {code[-1]}; known are latents, those with a mask and the "
            f"latents of an image ({PIPELINES[INPAINTING]}), and those with an image's ({PIPELINES[EDITING]})"
        )
    if names == EDITING and held.shift:
        raise UserError(f"{unet} is shown latents as they are, and this autoencoder's are shifted by {held.shift:g}")
    shown = {(): {}, INPAINTING: {"blank": "grey"}, EDITING: {"scale": 1 / held.scale}}[names]
    described = {"shape": list(shape), "code_shape": list(code), "clip": held.codec().clip}
    return described | {"channels": list(names), "shown": shown}


def describe_text(network: latent_unet.Network, reads: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the network is told beside w. Raises `UserError` where it reads what there is no encoder for."""
    classes = {"num_classes": network.num_classes}
    if network.label_as == "token" and network.num_classes:
        return classes | {"text": None}
    if reads is None:
        raise UserError(
            "this U-Net reads text, and there is no text encoder; give text_encoder=PATH and tokenizer=PATH, "
            "or class_tokens=PATH if it reads classes as LDM does"
        )
    shape = text.load(**reads).shape
    if shape[1] != network.cross_attention_dim:
        raise UserError(
            f"this U-Net reads states of width {network.cross_attention_dim}, and the text encoder's have {shape[1]}"
        )
    return classes | {"text": dict(reads), "text_shape": list(shape)}


def describe_guidance(
    network: latent_unet.Network,
    sampler: str,
    said: Mapping[str, Any],
    w_range: tuple[float, float] | None,
    edits: bool = False,
) -> dict[str, Any]:
    """Guidance, and what there is of steps: a student of N steps knows no others. `sampler`: by its scheduler; `said`:
    by an exported folder; `edits`: the network is shown an image, and is guided by that, too. Raises `UserError` for a
    network with an input for w of which nobody says what it was trained for."""
    if w_range is not None and not (network.embed_guidance and 0 <= w_range[0] <= w_range[1]):
        raise UserError(
            f"w_range={tuple(w_range)}: expected 0 <= low <= high, for a U-Net with an input for w (time_cond_proj_dim)"
        )
    if w_range is not None:
        guidance = {"kind": "embedded", "range": [float(w) for w in w_range]}
    elif said.get("guidance"):
        guidance = said["guidance"]
    elif network.embed_guidance:
        raise UserError("this U-Net has an input for w and does not say its range; give w_range=(0, 13) or the like")
    else:
        guidance = {"kind": "external", "interval": None} | ({"image": True} if edits else {})
    steps = said.get("steps")
    objective = {"embedded": "matching"}.get(guidance["kind"], "denoising")
    low, high = guidance.get("range", (0.0, 0.0 if guidance["kind"] == "none" else np.inf))
    usual = USUAL_TEXT if not network.num_classes else USUAL_CLASS
    recommended = {"steps": steps or USUAL_STEPS[sampler], "guidance": usual}
    recommended |= {"guidance_image": USUAL_IMAGE} if guidance.get("image") else {}
    recommended |= said.get("recommended", {})
    recommended["guidance"] = float(min(max(recommended["guidance"], low), high))
    return {
        "objective": "progressive" if steps else objective,
        "guidance": guidance,
        "rounds": [[steps, 0]] if steps else None,
        "factor": 2 if steps else None,
        "sampler": said.get("sampler", sampler),
        "recommended": recommended,
        "taught_by": said.get("teacher", []),
    }
