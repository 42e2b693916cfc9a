"""Images and captions, encoded once: what `data encode` does, so that training never runs an encoder."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_distill import codecs, conditions, shards, text
from guided_distill.codecs import to_float
from guided_distill.data import Info, Source, encoded
from guided_distill.errors import UserError
from guided_distill.text import Encoder

FAR = (0.3, 3.0)
"""Standard deviations of codes beyond which they are not scaled for diffusion, which takes 1 for granted."""
CHECKED = 64  # Images whose codes are looked at before any is written.
AT_A_TIME = 16  # Images.
IMAGES = ("x", "image")  # What is encoded of an example: itself, and the image that it is an edit of.


@dataclasses.dataclass(frozen=True)
class Encoders:
    """A codec and a text encoder (None for sets without captions), each {"name", its arguments}."""

    codec: Mapping[str, Any]
    text: Mapping[str, Any] | None = None

    @functools.cached_property
    def loaded(self) -> tuple[codecs.Codec, Encoder | None]:
        """Both. Raises `UserError` for a codec that keeps nothing but the images."""
        codec = codecs.load(**self.codec)
        if codec.store is None:
            raise UserError(f"codec {self.codec['name']!r} makes nothing that is worth being kept")
        return codec, text.load(**self.text) if self.text else None


def info_of(source: Source, spec: Mapping[str, Any], encoders: Encoders, mirrored: bool = False) -> Info:
    """Of the encoded set of the data set that is called `spec`. Raises `UserError` for captions without an encoder, an
    encoder without captions, and mirror images of what is not to be mirrored."""
    if source.info.captions != (encoders.text is not None):
        told = "captions, and needs --text" if source.info.captions else "no captions, so it takes no --text"
        raise UserError(f"data set {spec['name']} has {told}")
    if mirrored and not source.info.flip:
        raise UserError(f"data set {spec['name']} is not to be mirrored: its images would mean something else")
    codec, reads = encoders.loaded
    drawn = {"sample": True} if encoders.codec["name"] == "kl_vae" else {}
    known = {"text": {**encoders.text, **dict(reads.pin)}} if reads else {}
    return dataclasses.replace(
        source.info,
        flip=False,
        codec={**encoders.codec, **drawn, **dict(codec.pin)},
        images={key: value for key, value in spec.items() if key != "split"},
        **known,
    )


def job(
    source: Source,
    spec: Mapping[str, Any],
    encoders: Encoders,
    per_shard: int = 2048,
    mirrored: bool = False,
) -> shards.Job:
    """How a data set, called `spec`, becomes shards of `per_shard` images; with `mirrored` every image is followed by
    its mirror image. Raises `UserError` as `info_of`, and where codes are far from unit deviation."""
    info, (codec, reads) = info_of(source, spec, encoders, mirrored), encoders.loaded
    some = np.linspace(0, len(source) - 1, min(CHECKED, len(source))).astype(int)
    encoded_alone = [codec.encode(jnp.asarray(to_float(source[k : k + 1]["x"]))) for k in some]
    require_scale(np.concatenate(jax.device_get(encoded_alone)))
    first = keep(codec, reads, source[:1], mirrored)
    dtype = np.dtype([(name, array.dtype, array.shape[1:]) for name, array in first.items()])
    spans = [(start, min(start + per_shard, len(source))) for start in range(0, len(source), per_shard)]
    origin = {"source": f"data set {spec['name']}", "info": json.loads(json.dumps(dataclasses.asdict(info)))}

    def read(span: tuple[int, int]) -> dict[str, np.ndarray]:
        starts = range(*span, AT_A_TIME)
        parts = [keep(codec, reads, source[np.arange(k, min(k + AT_A_TIME, span[1]))], mirrored) for k in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in dtype.names}

    return shards.Job(read, spans, dtype, len(source) * (1 + mirrored), origin)


def keep(
    codec: codecs.Codec, reads: Encoder | None, examples: Mapping[str, np.ndarray], mirrored: bool
) -> dict[str, np.ndarray]:
    """What is kept of examples [n, ...]: codes and states in float16, the rest as it is."""
    rest = {name: value for name, value in examples.items() if name not in IMAGES}
    if reads:
        captions = [caption.decode() for caption in examples["caption"].tolist()]
        rest["text"] = conditions.states(reads, captions).astype(np.float16)
    if mirrored:
        rest = {name: np.repeat(value, 2, axis=0) for name, value in rest.items()}
    return {name: _kept(codec, examples[name], mirrored) for name in IMAGES if name in examples} | rest


def _kept(codec: codecs.Codec, images: np.ndarray, mirrored: bool) -> np.ndarray:
    images = np.asarray(to_float(images))
    if mirrored:
        images = np.stack([images, images[:, :, ::-1]], 1).reshape(-1, *images.shape[1:])
    filled = np.resize(images, (AT_A_TIME * (1 + mirrored), *images.shape[1:]))  # One shape is compiled.
    return np.asarray(codec.store(jnp.asarray(filled)), np.float16)[: len(images)]


def require_scale(codes: np.ndarray) -> None:
    """Raises `UserError` where codes are far from unit deviation, FAR."""
    deviation = float(np.std(np.asarray(codes, np.float64)))
    if not FAR[0] <= deviation <= FAR[1]:
        way_out = f"take a scale {1 / deviation:.4g} times as large" if 0 < deviation < np.inf else "they are broken"
        told = f"codes have a standard deviation of {deviation:.3g}, and diffusion takes 1 for granted"
        raise UserError(f"{told}; {way_out}")


def write(
    source: Source,
    spec: Mapping[str, Any],
    encoders: Encoders,
    name: str,
    directory: str | None = None,
    per_shard: int = 2048,
    mirrored: bool = False,
    share: tuple[int, int] = (0, 1),
) -> shards.Shards | None:
    """Encodes a split of a data set into the set `name`, going on where it was stopped; `share` as `shards.write`."""
    place: Path = shards.root(directory) / encoded.FOLDER / name / spec.get("split", "train")
    return shards.write(place, job(source, spec, encoders, per_shard, mirrored), share=share)
