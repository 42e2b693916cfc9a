"""The card (README.md) of an exported folder: what it is, whose student, and how to run it as it was trained."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guided_distill import runs
from guided_distill.channels import EDITING, INPAINTING
from guided_distill.errors import UserError
from guided_distill.interchange.describing import PIPELINES
from guided_distill.interchange.scheduler import class_of

UNKNOWN = "unknown, ask"
"""The licence of weights whose files say nothing of it."""

PIPELINE = """```python
from diffusers import {kind}

pipeline = {kind}.from_pretrained("{folder}")
image = pipeline({shown}, num_inference_steps={steps}, guidance_scale={scale:g}).images[0]
```
"""
SHOWN = {
    (): '"a caption"',
    INPAINTING: '"a caption", image=picture, mask_image=white_where_to_paint, strength=1.0',
    EDITING: '"an instruction", image=picture, image_guidance_scale={image:g}',
}
PARTS = """diffusers has no pipeline of these parts; it opens each, and this is the loop:

```python
import torch
from diffusers import {codec}, {scheduler}, UNet2DConditionModel, LatentConsistencyModelPipeline
from safetensors.torch import load_file

unet = UNet2DConditionModel.from_pretrained("{folder}", subfolder="unet")
vae = {codec}.from_pretrained("{folder}", subfolder="{vae}")
scheduler = {scheduler}.from_pretrained("{folder}", subfolder="scheduler")
scheduler.set_timesteps({steps})
labels, w = torch.tensor([3, 4]), torch.tensor([{w:g}, {w:g}])
{prepared}
z = torch.randn(2, {channels}, {height}, {width})
for t in scheduler.timesteps:
    {evaluated}
    z = scheduler.step(out, t, z).prev_sample
images = vae.decode(z / vae.config.scaling_factor{shift}).sample  # in [-1, 1]
```
"""
SAMPLER = {
    "ddim": "DDIM, eta 0, trailing spacing; with steps that divide the timesteps, the last returns x",
    "consistency": "LCM: to x, and back up with new noise; the last step returns x",
}
TABLE = 'table = load_file("{folder}/class_tokens.safetensors")["weight"]'
FEATURES = "embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding\nfeatures = embed(None, w, {size})"
GUIDED = "out = told + w[:, None, None, None] * (told - untold)"


def text(manifest: Mapping[str, Any], facts: Mapping[str, Any], pipeline: bool, folder: str) -> str:
    """The whole card. `facts`: of the folder's guided_distill.json; `pipeline`: whether diffusers has one for it."""
    size, licence = " x ".join(map(str, manifest["shape"][:2])), facts["licence"]
    teachers = "; ".join(f"`{of['run']}`, hash {of['hash']}" for of in facts["teacher"]) or "none"
    steps = facts["steps"]
    rows = {
        "images": f"{size}, {'from captions' if manifest.get('text') else 'of classes'}",
        "predicts": manifest["prediction"],
        "steps": f"{steps}, and no others" if steps else "any",
        "w": told(manifest["guidance"]),
        "sampler": SAMPLER.get(manifest["sampler"], SAMPLER["ddim"]),
        "teacher": teachers,
        "this checkpoint": f"hash {facts['hash']}",
        "licence of the weights it comes from": licence,
    }
    head = ["---", f"license: {'unknown' if licence == UNKNOWN else licence}", "library_name: diffusers", "---", ""]
    kind = f"A student of {steps} steps" if steps else "A student" if facts["teacher"] else "A teacher"
    what = f"{kind}, by guided distillation (Meng et al. 2023, arXiv:2210.03142)." if facts["teacher"] else f"{kind}."
    lines = [*head, f"# {manifest['name']}", "", what, "", "| | |", "|---|---|"]
    lines += [*(f"| {name} | {value} |" for name, value in rows.items()), "", "## Run it", ""]
    lines += [code(manifest, facts, pipeline, folder), convention(manifest), ""]
    return "\n".join([*lines, *(f"- {note}" for note in facts["notes"])]).rstrip() + "\n"


def told(guidance: Mapping[str, Any]) -> str:
    """Which w there are."""
    if guidance["kind"] != "embedded":
        third = ", three where the image guides, too" if guidance.get("image") else ""
        return f"0 and more, by two evaluations a step{third}" if guidance["kind"] == "external" else "0"
    low, high = guidance["range"]
    return f"{low:g} to {high:g}, by one evaluation a step" if low < high else f"{low:g}, built in"


def convention(manifest: Mapping[str, Any]) -> str:
    """How w is told."""
    network, kind = manifest["network"]["args"], manifest["guidance"]["kind"]
    out = "w = 0 is no guidance; the `guidance_scale` of diffusers is 1 + w."
    if network.get("embed_guidance"):
        out += (
            " The U-Net reads w itself: `timestep_cond` is `get_guidance_scale_embedding(guidance_scale - 1, "
            f"embedding_dim={network['guidance_dim']})`, which pipelines of diffusers give it where it has a "
            "`time_cond_proj_dim`. Guidance scales beyond the range above were never trained."
        )
    elif kind == "embedded":
        out += " Here w is built in: give `guidance_scale=1`, or it is guided twice."
    return out


def code(manifest: Mapping[str, Any], facts: Mapping[str, Any], pipeline: bool, folder: str) -> str:
    """A few lines of Python that sample as this package does."""
    network, w, steps = manifest["network"]["args"], facts["recommended"]["guidance"], facts["recommended"]["steps"]
    reads = network.get("embed_guidance")
    if pipeline:
        external = manifest["guidance"]["kind"] == "external"
        names = tuple(manifest.get("channels", ()))
        shown = SHOWN[names].format(image=1 + facts["recommended"].get("guidance_image", 0.0))
        kind = PIPELINES.get(names, "StableDiffusionPipeline")
        return PIPELINE.format(
            kind=kind, folder=folder, shown=shown, steps=steps, scale=1 + w if external or reads else 1
        )
    height, width, channels = manifest["code_shape"]
    kl = manifest["codec"]["name"] == "kl_vae"
    prepared, evaluated = loop(manifest, folder)
    return PARTS.format(
        folder=folder,
        codec="AutoencoderKL" if kl else "VQModel",
        vae="vae" if kl else "vqvae",
        scheduler=class_of(manifest["sampler"]),
        steps=steps,
        w=w,
        prepared="\n".join(prepared),
        channels=channels,
        height=height,
        width=width,
        evaluated="\n    ".join(evaluated),
        shift=" + vae.config.shift_factor" if kl else "",
    )


def loop(manifest: Mapping[str, Any], folder: str) -> tuple[list[str], list[str]]:
    """Lines of PARTS: what the U-Net is told, and how `out` comes of it, guided where guidance is external."""
    network, guided = manifest["network"]["args"], manifest["guidance"]["kind"] == "external"
    classes, reads = network["num_classes"], network.get("embed_guidance")
    tokens = classes and network["label_as"] == "token"
    prepared = [f"null = torch.full_like(labels, {classes})"] if guided and classes else []
    if tokens:
        prepared += [TABLE.format(folder=folder), "states = table[labels][:, None]"]
        prepared += ["null_states = table[null][:, None]"] if guided else []
    elif manifest.get("text"):
        prepared += ["states = ...  # of the captions, [2, l, d]"]
        prepared += ["null_states = ...  # of empty captions"] if guided else []
    prepared += [FEATURES.format(size=network["guidance_dim"])] if reads else []
    known = tokens or manifest.get("text")

    def call(states: str, labels: str) -> str:
        given = ["z", "t", states if known else "None"]
        given += [f"class_labels={labels}"] if classes and not tokens else []
        return f"unet({', '.join(given + (['timestep_cond=features'] if reads else []))}).sample"

    if not guided:
        return prepared, [f"out = {call('states', 'labels')}"]
    return prepared, [f"told = {call('states', 'labels')}", f"untold = {call('null_states', 'null')}", GUIDED]


def licence(manifest: Mapping[str, Any]) -> str:
    """Of the weights that the first of the teachers was imported from; UNKNOWN where nothing is said."""
    if "imported" in manifest:
        return manifest["imported"]["licence"]
    for of in manifest["teacher"]:
        try:
            return licence(runs.read_manifest(of["run"]))
        except UserError:  # It is not on this machine any more.
            continue
    return UNKNOWN


def licence_in(folder: Path) -> str:
    """What the README.md of a folder says of its licence, at its top."""
    path = folder / "README.md"
    lines = path.read_text(encoding="utf-8", errors="replace").split("---")[1:2] if path.is_file() else []
    found = re.search(r"^licen[cs]e: *(\S.*)$", lines[0], re.MULTILINE) if lines else None
    licence = found[1].strip().strip("\"'") if found else "unknown"
    return UNKNOWN if licence == "unknown" else licence
