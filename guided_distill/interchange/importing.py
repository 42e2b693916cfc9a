"""A folder of diffusers -> a run."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guided_distill import channels, checkpoint, codecs, manifests, runs, state, text, torch_weights
from guided_distill.errors import UserError, one_of
from guided_distill.files import write_json
from guided_distill.interchange import card, describing
from guided_distill.models import latent_unet

SIDECAR = "guided_distill.json"
"""What an exported folder says of its student that no file of diffusers has a word for."""
TOKENS = "class_tokens.safetensors"
"""LDM's table of classes, {"weight": [n, d]}: diffusers has no file for it."""
UNREAD = ("safety_checker", "feature_extractor", "image_encoder")
READ = ("unet", "vae", "vqvae", "text_encoder", "tokenizer", "scheduler")
TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Where the parts of a pipeline are; None: there is no such part. `table`: of the class tokens."""

    unet: Path
    vae: Path
    scheduler: Path
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    table: Path | None = None


def import_pipeline(
    source: str | Path,
    run_dir: str | Path,
    *,
    vae: str | Path | None = None,
    text_encoder: str | Path | None = None,
    tokenizer: str | Path | None = None,
    scheduler: str | Path | None = None,
    class_tokens: str | Path | None = None,
    preset: str | None = None,
    prediction: str | None = None,
    scale: float | None = None,
    resolution: int | None = None,
    w_range: tuple[float, float] | None = None,
    data: str = "unknown",
) -> list[str]:
    """Makes the run `run_dir` of a folder of diffusers, or of a .safetensors file of its U-Net, which needs a `preset`.
    Returns what is different here, a line each.

    `vae`, `text_encoder`, `tokenizer`, `scheduler` (or its json), `class_tokens` (.safetensors): parts from elsewhere.
    `prediction` ("eps", "v", "x"): where the scheduler does not say; `scale` of latents: where the autoencoder does
    not. `resolution`: side of the images in pixels, by default what the U-Net says. `w_range`: the w that a U-Net with
    an input for it was trained for. `data`: a data set to measure it by. Raises `UserError` for whatever is missing,
    or has no meaning here.
    """
    given = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
    source, run_dir = Path(source), Path(run_dir)
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise UserError(f"{run_dir} is not empty; name a new directory for the run")
    if resolution is not None and resolution < 1:
        raise UserError(f"resolution={resolution} of images is not positive")
    parts = found(source, given | {"table": class_tokens})
    told, meant = describing.read_schedule(parts.scheduler, prediction)
    table = describing.read_table(parts.table)
    network = latent_unet.load(parts.unet, preset, class_tokens=table)
    pipeline = index(source).get("_class_name")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        codec = copy_codec(parts.vae, run_dir, scale)
        reads = copy_text(parts, run_dir) if table is None else None
        shapes = describing.describe_shapes(network, codec, resolution, parts.unet, pipeline)
        edits = shapes["channels"] == [*channels.EDITING]
        manifest = {
            "name": run_dir.name,
            "data": {"name": data},
            "schedule": told.schedule,
            "prediction": meant,
            "codec": codec,
            **shapes,
            **describing.describe_text(network.network, reads),
            **describing.describe_guidance(network.network, told.sampler, sidecar(source), w_range, edits),
            "imported": {"source": source.name, "unet": network.sha256, "licence": card.licence_in(source)},
        }
        write(run_dir, manifest, network)
    except BaseException:
        shutil.rmtree(run_dir, ignore_errors=True)  # A run that is not whole is none.
        raise
    return told.notes


def found(source: Path, given: Mapping[str, str | Path | None]) -> Parts:
    """The parts of a pipeline: those that are `given`, and else those of the folder `source`. Raises `UserError` where
    one is missing that there has to be, or there is one that is not read."""
    inside = {name: source / name for name in READ if (source / name).is_dir()}
    parts = index(source)
    others = [
        name for name, value in parts.items() if isinstance(value, list) and value[0] and name not in READ + UNREAD
    ]
    if others:
        kind = parts.get("_class_name")
        raise UserError(f"{source} is a {kind} with {', '.join(others)}; read are pipelines of {', '.join(READ)} only")
    if not source.exists():
        raise UserError(f"there is no {source}")
    if source.is_dir() and "unet" not in inside:
        raise UserError(f"no unet in {source}; expected a folder that diffusers wrote, or a .safetensors file of one")
    places = {name: Path(path) for name, path in given.items() if path is not None}
    if missing := [str(path) for path in places.values() if not path.exists()]:
        raise UserError(f"there is no {missing[0]}")
    if "vqvae" in inside:
        inside["vae"] = inside.pop("vqvae")
    if (source / TOKENS).is_file():
        inside["table"] = source / TOKENS
    inside["unet"] = inside.get("unet", source)
    places = inside | places
    if missing := [name for name in ("vae", "scheduler") if name not in places]:
        raise UserError(f"{source} has no {' and no '.join(missing)}; give the path of each: {missing[0]}=PATH")
    return Parts(**places)


def index(source: Path) -> dict[str, Any]:
    """model_index.json, which names a pipeline and its parts; {} where there is none."""
    path = source / "model_index.json"
    return torch_weights.read_json(path) if path.is_file() else {}


def copy_codec(path: Path, run_dir: Path, scale: float | None) -> dict[str, Any]:
    """The autoencoder, copied into the run, as manifests have it. Raises `UserError` for another kind, and where its
    scale is not said, or said twice."""
    weights = torch_weights.file_of(path, latent_unet.FILE) if path.is_dir() else path
    beside = weights.with_name("config.json")
    config = torch_weights.read_json(beside) if beside.is_file() else {}
    book = torch_weights.pretrained(weights, lambda name: name.startswith("quantize.")).arrays
    name = {"AutoencoderKL": "kl_vae", "VQModel": "vq_vae"}.get(
        config.get("_class_name"), "vq_vae" if book else "kl_vae"
    )
    own = config.get("scaling_factor")
    if scale is not None and own is not None and not math.isclose(scale, own):
        raise UserError(f"{beside} says scaling_factor {own:g}, and scale={scale:g} is asked for: one of them is wrong")
    if scale is None and own is None and (name == "vq_vae" or not config):
        raise UserError(
            f"{path} does not say how latents are scaled; give scale=1 for LDM's, 0.18215 for Stable Diffusion's"
        )
    folder = run_dir / "vae"
    copy([weights, *([beside] if config else [])], folder, {weights.name: latent_unet.FILE})
    codec = {"name": name, "weights": str(folder), **({} if scale is None else {"scale": float(scale)})}
    return codec | dict(codecs.load(**codec).pin)


def copy_text(parts: Parts, run_dir: Path) -> dict[str, Any] | None:
    """Text encoder and tokenizer, copied into the run, as manifests have them; None where there are none. Raises
    `UserError` for an encoder of another kind."""
    if parts.text_encoder is None:
        return None
    kind = torch_weights.read_json(parts.text_encoder / "config.json").get("architectures") or [TEXT_ENCODERS[0]]
    one_of(f"architecture in {parts.text_encoder}:", kind[0], TEXT_ENCODERS)
    tokens = parts.tokenizer or parts.text_encoder
    if not tokens.is_dir():
        raise UserError(f"{tokens} is no directory of a tokenizer")
    weights, vocabulary = run_dir / "text_encoder", run_dir / "tokenizer"
    index = sorted(parts.text_encoder.glob("model.safetensors.index.json"))
    pieces = sorted(parts.text_encoder.glob("model-?????-of-?????.safetensors")) if index else []
    whole = [] if index else [torch_weights.file_of(parts.text_encoder, "model.safetensors")]
    if whole and not whole[0].is_file():
        raise UserError(f"there is no model.safetensors in {parts.text_encoder}; pickled weights are not read")
    names = {path.name: "model.safetensors" for path in whole}
    copy([parts.text_encoder / "config.json", *index, *pieces, *whole], weights, names)
    copy(sorted(path for path in tokens.iterdir() if path.suffix in (".json", ".txt")), vocabulary)
    reads = {"name": "clip", "weights": str(weights), "vocabulary": str(vocabulary)}
    return reads | dict(text.load(**reads).pin)


def copy(files: list[Path], folder: Path, names: Mapping[str, str] | None = None) -> None:
    """Files into a new folder, some of them by other names."""
    folder.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, folder / (names or {}).get(path.name, path.name))


def sidecar(source: Path) -> dict[str, Any]:
    """What an exported folder says of its student; {} for other folders."""
    path = source / SIDECAR
    return torch_weights.read_json(path) if path.is_file() else {}


def write(run_dir: Path, manifest: Mapping[str, Any], loaded: latent_unet.Loaded) -> None:
    """The checkpoint, and then the manifest, as training leaves them: it has had no update."""
    network = {field.name: getattr(loaded.network, field.name) for field in dataclasses.fields(loaded.network)}
    network = {name: value for name, value in network.items() if name not in ("parent", "name")}
    manifest = {
        "format": runs.FORMAT,
        "arguments": "",
        "data_note": "",
        "seed": 0,
        "ema": 0.0,
        "weights": "params",
        "trains": True,
        "updates": 0,
        "teacher": [],
        "network": {"name": "latent_unet", "args": network},
        "starts_from_teacher": False,
        "time_input": "index",
        **manifest,
        **manifests.provenance(),
    }
    manifest = json.loads(json.dumps(manifest))
    counts = {"step": np.zeros((), np.int32), "skipped": np.zeros((2,), np.int32)}
    saved = checkpoint.Checkpoints(run_dir)
    saved.save(state.TrainState(params={"student": loaded.params}, ema=None, opt_state=(), teacher={}, **counts), 0)
    saved.close()
    write_json(run_dir / "manifest.json", manifest)
