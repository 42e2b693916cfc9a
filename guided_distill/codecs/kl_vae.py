"""Latents of a Gaussian autoencoder: Stable Diffusion's (Rombach et al. 2022, arXiv:2112.10752), diffusers'
AutoencoderKL, or one that was trained here."""

from pathlib import Path

from guided_distill.codecs import Codec, _latent
from guided_distill.codecs._latent import Latents, save, to_diffusers
from guided_distill.errors import UserError
from guided_distill.layers.autoencoder import GaussianAutoencoder

__all__ = ["load", "make", "save", "to_diffusers"]


def make(
    weights: str = "",
    scale: float | None = None,
    shift: float | None = None,
    sample: bool = False,
    tile: int = 0,
    dtype: str = "float32",
    sha256: str = "",
) -> Codec:
    """Images [b, h, w, c] in [-1, 1] <-> (latents - shift) scale, by the folder or .safetensors file `weights`.

    `scale`, `shift`: None for the file's own, 0.18215 and 0 for Stable Diffusion 1. Codes are the latents' means; with
    `sample` training draws them. `tile`: latent pixels of a side of what is decoded at a time, 0 for the whole. `dtype`
    of the computation: "float32" or "bfloat16". `sha256`: what the file must have, if not "". Raises `UserError` for
    weights that cannot be read.
    """
    return load(weights, scale, shift, tile, dtype, sha256).codec(draws=sample)


def load(
    weights: str | Path,
    scale: float | None = None,
    shift: float | None = None,
    tile: int = 0,
    dtype: str = "float32",
    sha256: str = "",
) -> Latents:
    """As `make`, with the network, its `moments`, and `scaled`, for whoever stores latents."""
    if not weights:
        raise UserError("codec kl_vae has no weights; give the folder of an AutoencoderKL (config.json, its weights)")
    return _latent.read(GaussianAutoencoder, weights, scale, shift, tile, sha256, dtype=dtype)
