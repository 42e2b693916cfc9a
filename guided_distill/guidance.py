"""Guidance: Denoiser -> Denoiser. Nothing else in the package mentions it. w = 0 is no guidance.

Classifier-free guidance (Ho & Salimans 2022, eq. 6): x^w = (1 + w) x(z, c) - w x(z, null), and the same for eps.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from guided_distill import prediction
from guided_distill.prediction import Denoiser, Prediction, expand


def without(cond: Mapping[str, Array], name: str) -> dict[str, Array]:
    """`cond` less one entry."""
    return {key: value for key, value in cond.items() if key != name}


def replaced(cond: Mapping[str, Array], null: Mapping) -> dict[str, Array]:
    """`cond` with the entries of `null` (scalars or arrays without a batch axis) in place of its own."""
    return {**cond, **{k: jnp.broadcast_to(jnp.asarray(v, cond[k].dtype), cond[k].shape) for k, v in null.items()}}


def guided(denoise: Denoiser, null: Mapping, other: Denoiser | None = None) -> Denoiser:
    """Classifier-free guidance with strength cond["guidance"] = w [b].

    `null` are the entries of cond to replace for the unconditional half, {"label": num_classes} say. One forward of 2b;
    or two of b when `other` is given: a separate unconditional network, or a weaker one (autoguidance). x and eps are
    both combined: eps rebuilt from a combined x would be lost at high log-SNR.
    """

    def guided_denoise(z, logsnr, cond):
        w = expand(cond["guidance"], z)
        cond = without(cond, "guidance")
        if other is not None:
            conditional, unconditional = denoise(z, logsnr, cond), other(z, logsnr, replaced(cond, null))
        else:
            nulled = replaced(cond, null)
            both = {name: jnp.concatenate([cond[name], nulled[name]]) for name in cond}
            out = denoise(jnp.concatenate([z, z]), jnp.concatenate([logsnr, logsnr]), both)
            conditional, unconditional = (
                Prediction(*half) for half in zip(*(jnp.split(a, 2) for a in out), strict=True)
            )
        # c + w (c - u), not (1 + w) c - w u: exactly c at w = 0.
        return Prediction(*(c + w * (c - u) for c, u in zip(conditional, unconditional, strict=True)))

    return guided_denoise


def unguided(denoise: Denoiser) -> Denoiser:
    """For a network that knows no guidance: reads and drops cond["guidance"], which callers see to be 0."""
    return lambda z, logsnr, cond: denoise(z, logsnr, without(cond, "guidance"))


def interval(denoise: Denoiser, logsnr_min: float, logsnr_max: float) -> Denoiser:
    """w only where logsnr_min <= logsnr <= logsnr_max, 0 elsewhere (Kynkäänniemi et al. 2024)."""

    def limited(z, logsnr, cond):
        inside = (logsnr >= logsnr_min) & (logsnr <= logsnr_max)
        return denoise(z, logsnr, {**cond, "guidance": jnp.where(inside, cond["guidance"], 0.0)})

    return limited


def clipped(denoise: Denoiser) -> Denoiser:
    """x clipped to [-1, 1] and eps recomputed from it: for sampling in pixel space, never for training."""
    return lambda z, logsnr, cond: prediction.clip(denoise(z, logsnr, cond), z, logsnr)
