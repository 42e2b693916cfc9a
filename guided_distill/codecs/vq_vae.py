"""Latents of an autoencoder with a codebook: LDM's (Rombach et al. 2022, arXiv:2112.10752), diffusers' VQModel, such as
f4, which has latents of 64 x 64 x 3 and 8192 codes.

What is diffused are the latents before they are rounded; `decode` rounds them to the codebook first, as diffusers and
LDM do unless told otherwise.
"""

from pathlib import Path

from guided_distill.codecs import Codec, _latent
from guided_distill.codecs._latent import Latents, save, to_diffusers
from guided_distill.errors import UserError
from guided_distill.layers.autoencoder import CodebookAutoencoder

__all__ = ["load", "make", "save", "to_diffusers"]


def make(
    weights: str = "",
    scale: float | None = None,
    shift: float | None = None,
    tile: int = 0,
    quantize: bool = True,
    dtype: str = "float32",
    sha256: str = "",
) -> Codec:
    """Images [b, h, w, c] in [-1, 1] <-> (latents - shift) scale, by the folder or .safetensors file `weights`.

    `scale` None: the file's own, which diffusers takes for 0.18215 where it has none; LDM's own models have 1.
    `quantize` False: `decode` does not round to the codebook. `tile`, `dtype` and `sha256` as of `kl_vae`. Raises
    `UserError` for weights that cannot be read.
    """
    return load(weights, scale, shift, tile, quantize, dtype, sha256).codec()


def load(
    weights: str | Path,
    scale: float | None = None,
    shift: float | None = None,
    tile: int = 0,
    quantize: bool = True,
    dtype: str = "float32",
    sha256: str = "",
) -> Latents:
    """As `make`, with the network and `scaled`."""
    if not weights:
        raise UserError("codec vq_vae has no weights; give the folder of a VQModel (config.json, its weights)")
    return _latent.read(CodebookAutoencoder, weights, scale, shift, tile, sha256, round_off=quantize, dtype=dtype)
