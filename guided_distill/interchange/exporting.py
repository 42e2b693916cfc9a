"""A run -> a folder of diffusers, with its card."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy

from guided_distill import channels, torch_weights
from guided_distill.checkpoint import fingerprint
from guided_distill.errors import UserError, one_of
from guided_distill.files import write_json, write_text
from guided_distill.interchange import card
from guided_distill.interchange import scheduler as schedulers
from guided_distill.interchange.describing import PIPELINES
from guided_distill.interchange.importing import SIDECAR, TOKENS, copy
from guided_distill.models import latent_unet
from guided_distill.plugins import resolve
from guided_distill.runs import Run

CODECS = {"kl_vae": "AutoencoderKL", "vq_vae": "VQModel"}
SCALED = ("_class_name", "scaling_factor", "shift_factor")
VERSION = "0.30.0"
"""Of diffusers, as whose files these are written: its formats have not changed since."""


def export_pipeline(run: Run, folder: str | Path, steps: int | None = None) -> list[str]:
    """Writes the student of `steps` (None: as the run recommends), or a teacher, as a folder that diffusers opens.
    Returns what is different there, a line each.

    Raises `UserError` for what diffusers has no word for; then nothing is written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; name a new folder")
    require_words(run.manifest)
    steps, checkpoint = chosen(run, steps)
    config = schedulers.config_of(run.schedule, run.manifest["prediction"], run.manifest["sampler"])
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        write_unet(run, checkpoint, part)
        write_codec(run.manifest["codec"], part, has_pipeline(run.manifest))
        write_text_encoder(run.manifest.get("text"), part)
        (part / "scheduler").mkdir()
        write_json(part / "scheduler" / schedulers.FILE, config | {"_diffusers_version": VERSION})
        if has_pipeline(run.manifest):
            write_json(part / "model_index.json", index_of(part, run.manifest))
        facts = facts_of(run, steps, checkpoint)
        write_json(part / SIDECAR, facts)
        write_text(part / "README.md", card.text(run.manifest, facts, has_pipeline(run.manifest), folder.name))
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return facts["notes"]


def require_words(manifest: Mapping[str, Any]) -> None:
    """Raises `UserError` for runs that diffusers cannot be told of."""
    name = manifest["network"]["name"]
    if name != "latent_unet":
        raise UserError(f"network {name!r} is none of diffusers'; what can be exported is a latent_unet")
    if manifest["time_input"] != "index" or manifest["schedule"]["name"] != "Discrete":
        raise UserError(
            "diffusers tells networks the index of a discrete schedule; this one is told "
            f"{manifest['time_input']!r} of {manifest['schedule']['name']}, and cannot be exported"
        )
    one_of("codec that diffusers has:", manifest["codec"]["name"], CODECS)
    if not manifest["codec"].get("quantize", True):
        raise UserError(
            "diffusers' VQModel rounds what it decodes to its codebook; codec.quantize=False cannot be told"
        )
    require_pipeline(manifest)
    if manifest["objective"] == "encoding":
        raise UserError("this run goes from images to noise, which is no pipeline of diffusers")
    if manifest["rounds"] is not None and manifest["sampler"] != "ddim":
        raise UserError(
            f"this student was trained for the sampler {manifest['sampler']!r}, which diffusers does not have"
        )
    if manifest["guidance"].get("interval"):
        raise UserError("this run is guided in an interval of log-SNR; diffusers' pipelines guide everywhere")
    if manifest.get("text"):
        one_of("text encoder that diffusers has:", manifest["text"]["name"], ("clip",))
        if manifest["text"].get("skip"):
            raise UserError(
                "the text encoder leaves out its last layers (skip), which a folder of diffusers does not tell"
            )


def require_pipeline(manifest: Mapping[str, Any]) -> None:
    """Raises `UserError` for a run that is shown an image in a way that no pipeline of diffusers shows it."""
    names = tuple(manifest.get("channels", ()))
    if not names:
        return
    if not manifest.get("shown") or not manifest.get("text") or manifest["codec"]["name"] != "kl_vae":
        raise UserError(
            "this network is shown an image in a way that diffusers' pipelines for that do not know; what began with "
            f"one of theirs can be exported: {', '.join(PIPELINES.values())}"
        )
    if names == channels.EDITING and manifest["guidance"]["kind"] != "external":
        raise UserError(f"{PIPELINES[names]} gives a U-Net no w, which this student reads or has built in")


def chosen(run: Run, steps: int | None) -> tuple[int | None, int]:
    """(the steps that a student is for, or None for any; the checkpoint). Raises `UserError` for a student that is not
    there."""
    if run.trained_steps is None:
        if steps is not None:
            raise UserError(f"{run.dir} takes any number of steps, so that there is none to choose; leave steps out")
        return None, run.step
    steps = run.default_steps() if steps is None else steps
    if steps not in run.trained_steps:
        known = ", ".join(map(str, run.trained_steps)) or "none yet"
        raise UserError(f"{run.dir} has no student of {steps} steps; trained: {known}")
    return steps, run.trained_steps[steps]


def write_unet(run: Run, checkpoint: int, folder: Path) -> None:
    """unet/, and the table of class tokens where there is one."""
    network = latent_unet.Network(**run.manifest["network"]["args"])
    params, (height, width, _) = run.weights(checkpoint), run.code_shape
    config, arrays = latent_unet.to_diffusers(network, params, height if height == width else None)
    unet = folder / "unet"
    unet.mkdir()
    write_json(unet / "config.json", config | {"_diffusers_version": VERSION})
    safetensors.numpy.save_file(arrays, unet / latent_unet.FILE, metadata={"format": "pt"})
    if "class_tokens" in params:
        table = torch_weights.to_torch(params["class_tokens"])
        safetensors.numpy.save_file(table, folder / TOKENS, metadata={"format": "pt"})


def write_codec(codec: Mapping[str, Any], folder: Path, pipeline: bool) -> None:
    """vae/ or vqvae/: the files that the run reads, with the scale and shift that it has used. Raises `UserError` for a
    shift where a `pipeline` is to read them."""
    module = resolve("codecs", codec["name"])
    known = {name: codec[name] for name in ("weights", "scale", "shift", "sha256") if name in codec}
    held, weights = module.load(**known), Path(codec["weights"])
    if held.shift and pipeline:
        raise UserError(f"diffusers' pipelines shift no latents; this codec shifts them by {held.shift:g}")
    target = folder / ("vae" if codec["name"] == "kl_vae" else "vqvae")
    if not (weights / "config.json").is_file():
        module.save(target, held.network, held.params, held.scale, held.shift)
        return
    config, _ = module.to_diffusers(held.network, {}, held.scale, held.shift)
    copy([weights / latent_unet.FILE, weights / "config.json"], target)
    own = torch_weights.read_json(target / "config.json")
    write_json(target / "config.json", config | own | {key: config[key] for key in SCALED if key in config})


def write_text_encoder(reads: Mapping[str, Any] | None, folder: Path) -> None:
    """text_encoder/ and tokenizer/: the files that the run reads."""
    if not reads:
        return
    weights = Path(reads["weights"])
    beside = weights.parent / "tokenizer"
    tokens = Path(reads.get("vocabulary") or (beside if beside.is_dir() else weights))
    for source, name, kinds in (
        (weights, "text_encoder", (".json", ".safetensors")),
        (tokens, "tokenizer", (".json", ".txt")),
    ):
        if not source.is_dir():
            raise UserError(f"{source} is no folder that diffusers could open; expected one of a {name}")
        copy(sorted(path for path in source.iterdir() if path.suffix in kinds), folder / name)


def has_pipeline(manifest: Mapping[str, Any]) -> bool:
    """Whether diffusers has a pipeline of such parts."""
    return bool(manifest.get("text") and not manifest["num_classes"] and manifest["codec"]["name"] == "kl_vae")


def index_of(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """model_index.json of its pipeline."""
    shown = tuple(manifest.get("channels", ()))
    said = torch_weights.read_json(folder / "text_encoder" / "config.json").get("architectures")
    return {
        "_class_name": PIPELINES.get(shown, "StableDiffusionPipeline"),
        "_diffusers_version": VERSION,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", schedulers.class_of(manifest["sampler"])],
        "text_encoder": ["transformers", (said or ["CLIPTextModel"])[0]],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }


def facts_of(run: Run, steps: int | None, checkpoint: int) -> dict[str, Any]:
    """What SIDECAR holds."""
    manifest = run.manifest
    notes = []
    if steps and not schedulers.exact(run.schedule, steps):
        notes.append(
            f"{run.schedule.num_timesteps} timesteps do not divide by {steps}: diffusers rounds its times, up to half "
            "an index beside those that this student was trained at, and steps to up to one more before the next"
            + ("" if schedulers.ends_in_x(run.schedule, steps) else "; its last step leaves the noise of index 0 in")
        )
    if manifest["sampler"] == "consistency":
        notes.append("its LCMScheduler draws noise of its own, and takes its times from a list of 50, not equal in t")
    if manifest["code_shape"][0] != manifest["code_shape"][1]:
        height, width = manifest["shape"][:2]
        notes.append(f"images are not square: give height={height} and width={width}")
    if manifest.get("channels") == [*channels.INPAINTING]:
        notes.append(
            "its pipeline returns what it decodes, known places too, and reads a mask at one pixel for each latent: "
            "give masks of whole blocks, and put the image back around what was painted"
        )
    return {
        "steps": steps,
        "guidance": manifest["guidance"],
        "sampler": manifest["sampler"],
        "recommended": manifest["recommended"] | ({"steps": steps} if steps else {}),
        "hash": fingerprint(run.dir, checkpoint),
        "teacher": [of | {"run": Path(of["run"]).name} for of in manifest["teacher"] or manifest.get("taught_by", [])],
        "licence": card.licence(manifest),
        "notes": notes,
    }
