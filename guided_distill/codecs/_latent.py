"""What codecs that are autoencoders share: their files, which are diffusers', and latents that are scaled for
diffusion: code = (latent - shift) scale."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Array, Float

from guided_distill import files, torch_weights
from guided_distill.codecs import Codec
from guided_distill.errors import UserError, one_of
from guided_distill.layers.autoencoder import Autoencoder, CodebookAutoencoder, GaussianAutoencoder, Moments
from guided_distill.layers.tiles import LEAST, tiled

FILE = "diffusion_pytorch_model.safetensors"
SCALE = 0.18215  # Of Stable Diffusion 1; diffusers' default for all.
CLASSES = {GaussianAutoencoder: "AutoencoderKL", CodebookAutoencoder: "VQModel"}
CODECS = {"AutoencoderKL": "kl_vae", "VQModel": "vq_vae"}
KNOWN = {
    "act_fn": {"silu", "swish"},
    "down_block_types": {"DownEncoderBlock2D"},
    "up_block_types": {"UpDecoderBlock2D"},
    "norm_type": {"group"},
}
"""Of config.json: the values that are built here."""
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention's layers in files of before 2023, and since."""


@dataclasses.dataclass(frozen=True, eq=False)
class Latents:
    """An autoencoder with its weights (as read: in the host's memory; or bound), and the scale of its codes. `tile`: of
    what is decoded at a time, in latent pixels; 0: the whole. `sha256`: of the file."""

    network: Autoencoder
    params: Any
    scale: float
    shift: float
    tile: int = 0
    sha256: str = ""

    @functools.cached_property
    def _placed(self) -> Any:
        """The weights on the device, brought there once."""
        if not all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(self.params)):
            return self.params
        with jax.ensure_compile_time_eval():  # Else a program that is being traced would own them.
            return jax.device_put(self.params)

    def moments(self, images: Float[Array, "b h w c"]) -> Moments:
        """The Gaussians of the latents before `scaled`, for whoever stores them: [b, h / factor, w / factor, d] each.
        Raises `UserError` for images of the wrong shape, and where there is a codebook instead."""
        self.shape(images.shape[1:])
        if not isinstance(self.network, GaussianAutoencoder):
            raise UserError("an autoencoder with a codebook has no moments; store what it encodes")
        return _program(self.network, "moments", self._placed, images)

    def scaled(self, latents: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """Of about unit variance, to be diffused."""
        return (latents - self.shift) * self.scale

    def encode(self, images: Float[Array, "b h w c"], *key: Array) -> Float[Array, "b h2 w2 d"]:
        """Images in [-1, 1] -> codes; a Gaussian's means, or with a key draws. Raises `UserError` for images of the
        wrong shape."""
        self.shape(images.shape[1:])
        return self.scaled(_program(self.network, "encode", self._placed, images, *key))

    def store(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d2"]:
        """What is worth keeping of images: mean and logarithm of the variance of their latents, one after the other, or
        the latents of a codebook; not scaled."""
        if isinstance(self.network, GaussianAutoencoder):
            return jnp.concatenate(self.moments(images), axis=-1)
        self.shape(images.shape[1:])
        return _program(self.network, "encode", self._placed, images)

    def stored(self, kept: Float[Array, "b h w d2"], *key: Array) -> Float[Array, "b h w d"]:
        """`encode`, from what `store` has made."""
        if not isinstance(self.network, GaussianAutoencoder):
            return self.scaled(kept)
        moments = Moments(*jnp.split(kept, 2, axis=-1))
        return self.scaled(moments.sample(*key) if key else moments.mean)

    def decode(self, codes: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 c"]:
        """Codes -> images, clipped to [-1, 1]."""
        latents = codes / self.scale + self.shift
        return jnp.clip(_decoded(self.network, self.tile, self._placed, latents), -1, 1)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of an image -> of its code: (512, 512, 3) -> (64, 64, 4). Raises `UserError` for what is no image of its
        channels, or does not divide."""
        factor, channels = self.network.factor, self.network.in_channels
        if len(shape) != 3 or shape[2] != channels:
            raise UserError(f"this autoencoder takes images [h, w, {channels}], not {list(shape)}")
        if shape[0] % factor or shape[1] % factor or 0 in shape:
            raise UserError(f"images of {shape[0]} x {shape[1]} do not divide by {factor}, as they have to")
        return shape[0] // factor, shape[1] // factor, self.network.code_channels

    def codec(self, draws: bool = False) -> Codec:
        """The codec. Codes have no bounds, so samplers must not clip to any."""
        return Codec(
            encode=self.encode,
            decode=self.decode,
            shape=self.shape,
            clip=False,
            weights=self.params,
            binder=lambda weights: dataclasses.replace(self, params=weights).codec(draws),
            draws=draws,
            pin=(("sha256", self.sha256),),
            store=self.store,
            stored=self.stored,
        )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _program(network: Autoencoder, method: str, params: Any, *arrays: Array) -> Any:
    return network.apply({"params": params}, *arrays, method=method)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decoded(network: Autoencoder, tile: int, params: Any, z: Array) -> Array:
    decode = lambda part: network.apply({"params": params}, part, method="decode")  # noqa: E731
    return tiled(decode, z, tile) if tile else decode(z)


# Files.


def read(
    kind: type[Autoencoder],
    weights: str | Path,
    scale: float | None = None,
    shift: float | None = None,
    tile: int = 0,
    sha256: str = "",
    **fields: Any,
) -> Latents:
    """The autoencoder in a folder (config.json, FILE) or a .safetensors file; `scale` and `shift` None: as it says
    itself. `sha256`: what the file must have, if not "". `fields`: of the network, over the file's. Raises `UserError`
    for what cannot be read, or is of another kind."""
    if tile and tile < LEAST:
        raise UserError(f"tile {tile} is not 0 (decode whole) or at least {LEAST} latent pixels")
    path = _file(Path(weights)).resolve()
    stats = [file.stat() for file in (path, path.with_name("config.json")) if file.is_file()]
    state = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
    network, params, config, found = _read(kind, path, state)
    if sha256 not in ("", found):
        raise UserError(f"{path} has sha256 {found}, not {sha256}: these are not the weights that were trained with")
    if {"latents_mean", "latents_std"} & {key for key, value in config.items() if value} and None in (scale, shift):
        raise UserError(f"{path} scales every channel by itself, which is not built; give one scale and shift for all")
    scale = config.get("scaling_factor", SCALE) if scale is None else scale
    shift = (config.get("shift_factor") or 0.0) if shift is None else shift
    if not (np.isfinite([scale, shift]).all() and scale > 0):
        raise UserError(f"scale {scale:g} and shift {shift:g} are not a positive number and a number")
    return Latents(network.clone(**fields), params, float(scale), float(shift), tile, found)


@functools.lru_cache(maxsize=2)  # A run asks for its codec several times. `state` tells files that changed.
def _read(
    kind: type[Autoencoder], path: Path, state: tuple[tuple[int, int], ...]
) -> tuple[Autoencoder, Any, dict[str, Any], str]:
    given = torch_weights.pretrained(path)
    arrays, config = renamed(given.arrays), given.config
    network = kind(**(measured(kind, arrays, path) if config is None else described(kind, config, path)))
    side = network.factor
    images = jax.ShapeDtypeStruct((1, side, side, network.in_channels), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    params = torch_weights.to_flax(arrays, shapes, f"this {CLASSES[kind]} ({path})")
    return network, params, config or {}, given.sha256


def _file(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise UserError(f"no weights at {path}: expected a folder with config.json and {FILE}, or a .safetensors")
        return path
    if (path / FILE).is_file():
        return path / FILE
    inner = [path / name for name in ("vae", "vqvae") if (path / name / FILE).is_file()]
    raise UserError(f"there is no {FILE} in {path}" + (f"; did you mean {inner[0]}?" if inner else ""))


def described(kind: type[Autoencoder], config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of a network in a config.json; what it leaves out has diffusers' defaults. Raises `UserError` for
    another class, and for blocks that are not built."""
    found = config.get("_class_name", CLASSES[kind])
    if found != CLASSES[kind]:
        advice = f"; take codec {CODECS[found]!r}" if found in CODECS else ""
        raise UserError(f"{path} is a {found}, not a {CLASSES[kind]}{advice}")
    for key, valid in KNOWN.items():
        values = config.get(key, [])
        for value in [values] if isinstance(values, str) else values:
            one_of(f"{key} in the config.json of {path}", value, sorted(valid))
    names = {field.name for field in dataclasses.fields(kind)} - {"parent", "name", "dtype", "round_off"}
    fields = {name: config[name] for name in names if config.get(name) is not None}
    # JSON has lists; modules have to be hashable.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def measured(kind: type[Autoencoder], arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """As `described`, from the arrays where there is no config.json. Nothing in them tells the groups of norms, which
    are taken to be 32. Raises `UserError` for arrays of something else."""
    ends = [arrays.get(f"{tower}.conv_{way}.weight") for tower in ("encoder", "decoder") for way in ("in", "out")]
    if any(end is None or end.ndim != 4 for end in ends):
        raise UserError(f"no {CLASSES[kind]} in {path}: there are no encoder and decoder in it")
    widths, blocks = {}, set()
    for name, array in arrays.items():
        if found := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight", name):
            level, block = map(int, found.groups())
            widths[level] = array.shape[0]
            blocks.add(block)
    fields = {
        "in_channels": ends[0].shape[1],
        "out_channels": ends[3].shape[0],
        "latent_channels": ends[2].shape[1],
        "block_out_channels": tuple(widths[level] for level in sorted(widths)),
        "layers_per_block": len(blocks),
        "mid_block_add_attention": any(".attentions." in name for name in arrays),
    }
    if kind is GaussianAutoencoder:
        return fields | {f"use_{name}": f"{name}.weight" in arrays for name in ("quant_conv", "post_quant_conv")}
    if "quantize.embedding.weight" not in arrays:
        raise UserError(f"no codebook in {path}; take codec 'kl_vae' for a Gaussian autoencoder")
    size, channels = arrays["quantize.embedding.weight"].shape
    return fields | {"num_vq_embeddings": size, "vq_embed_dim": channels}


def renamed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by their names of today; of attention in old files, 1 x 1 convolutions become matrices."""
    out = {}
    for name, array in arrays.items():
        name = re.sub(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda at: f"{at[1]}{OLD[at[2]]}.", name)
        flat = ".attentions." in name and array.ndim == 4 and array.shape[2:] == (1, 1)
        out[name] = array[:, :, 0, 0] if flat else array
    return out


def to_diffusers(
    network: Autoencoder, params: Any, scale: float, shift: float = 0.0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(config.json, {name: array}) of diffusers' class, of float32 weights bit for bit. Raises `UserError` for a shift
    of a VQModel, which has none in its config."""
    kind, levels = CLASSES[type(network)], len(network.block_out_channels)
    if shift and kind == "VQModel":
        raise UserError(f"a VQModel has no shift_factor in its config.json, so shift {shift:g} cannot be written")
    left_out = {"parent", "name", "dtype", "round_off"}
    config = {field.name: getattr(network, field.name) for field in dataclasses.fields(network)}
    config = {name: value for name, value in config.items() if name not in left_out}
    config |= {"_class_name": kind, "act_fn": "silu", "scaling_factor": float(scale)}
    config |= {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    config |= {} if kind == "VQModel" else {"shift_factor": float(shift)}
    return json.loads(json.dumps(config)), torch_weights.to_torch(params)


def save(folder: str | Path, network: Autoencoder, params: Any, scale: float = SCALE, shift: float = 0.0) -> None:
    """Writes a folder that `make` and diffusers read. Raises `UserError` as `to_diffusers`."""
    config, arrays = to_diffusers(network, params, scale, shift)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{FILE}.part"
    safetensors.numpy.save_file(arrays, part, metadata={"format": "pt"})
    part.replace(folder / FILE)
    files.write_json(folder / "config.json", config)
