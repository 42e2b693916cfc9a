"""Guidance: Denoiser -> Denoiser. Nothing else in the package mentions it. w = 0 is no guidance.

Classifier-free guidance (Ho & Salimans 2022, eq. 6): x^w = (1 + w) x(z, c) - w x(z, null), and the same for eps.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_distill import prediction
from guided_distill.prediction import Denoiser, Prediction, expand

NULL = "null_"
"""Before the name of an entry of cond: what stands for it in the unconditional half."""
STRENGTHS = ("guidance", "guidance_image")
"""The entries of cond that are guidance strengths."""


def without(cond: Mapping[str, Array], name: str) -> dict[str, Array]:
    """`cond` less one entry."""
    return {key: value for key, value in cond.items() if key != name}


def replaced(cond: Mapping[str, Array], null: Mapping) -> dict[str, Array]:
    """`cond` with the entries of `null` (scalars or arrays without a batch axis) in place of its own."""
    return {**cond, **{k: jnp.broadcast_to(jnp.asarray(v, cond[k].dtype), cond[k].shape) for k, v in null.items()}}


def halves(cond: Mapping[str, Array], null: Mapping) -> tuple[dict[str, Array], dict[str, Array]]:
    """(what the conditional half is told, and the other): `cond`, and that with the entries of `null`, or with those of
    its own that are called NULL + their names."""
    own = {name: value for name, value in cond.items() if name.startswith(NULL)}
    told = {name: value for name, value in cond.items() if name not in own}
    return told, replaced(told, null) | {name.removeprefix(NULL): value for name, value in own.items()}


def together(
    denoise: Denoiser, z: Float[Array, "b *s"], logsnr: Float[Array, " b"], conds: Sequence[Mapping[str, Array]]
) -> list[Prediction]:
    """The predictions for n conds with the same entries, from one forward of n b."""
    num = len(conds)
    joined = {name: jnp.concatenate([cond[name] for cond in conds]) for name in conds[0]}
    out = denoise(jnp.concatenate([z] * num), jnp.concatenate([logsnr] * num), joined)
    return [Prediction(*part) for part in zip(*(jnp.split(a, num) for a in out), strict=True)]


def guided(denoise: Denoiser, null: Mapping, other: Denoiser | None = None) -> Denoiser:
    """Classifier-free guidance with strength cond["guidance"] = w [b].

    `null` are the entries of cond to replace for the unconditional half, {"label": num_classes} say; an entry of cond
    that is called NULL + its name goes before it (a negative prompt). One forward of 2b; or two of b when `other` is
    given: a separate unconditional network, or with a `null` of {} a weaker one that is told the same (autoguidance:
    Karras et al. 2024). x and eps are both combined: eps rebuilt from a combined x would be lost at high log-SNR.
    """

    def guided_denoise(z, logsnr, cond):
        w = expand(cond["guidance"], z)
        told, untold = halves(without(cond, "guidance"), null)
        if other is not None:
            conditional, unconditional = denoise(z, logsnr, told), other(z, logsnr, untold)
        else:
            conditional, unconditional = together(denoise, z, logsnr, (told, untold))
        # c + w (c - u), not (1 + w) c - w u: exactly c at w = 0.
        return Prediction(*(c + w * (c - u) for c, u in zip(conditional, unconditional, strict=True)))

    return guided_denoise


def guided_by_both(denoise: Denoiser, null: Mapping, null_image: Mapping) -> Denoiser:
    """Guidance of two strengths: cond["guidance"] = w by what is told, cond["guidance_image"] = w_image by the image
    that is shown, each [b] (InstructPix2Pix: Brooks et al. 2023, eq. 3, with s = 1 + w of both):

    x = x(image, told) + w (x(image, told) - x(image, null)) + w_image (x(image, null) - x(null, null)), and for eps.

    One forward of 3b; without cond["guidance_image"], or without an image, it is `guided` by what is told.
    """
    by_told = guided(denoise, null)

    def guided_denoise(z, logsnr, cond):
        if not {"guidance_image", *null_image} <= set(cond):
            return by_told(z, logsnr, without(cond, "guidance_image"))
        w, w_image = (expand(cond[name], z) for name in STRENGTHS)
        told, untold = halves({name: value for name, value in cond.items() if name not in STRENGTHS}, null)
        parts = together(denoise, z, logsnr, (told, untold, replaced(untold, null_image)))
        return Prediction(*(c + w * (c - i) + w_image * (i - u) for c, i, u in zip(*parts, strict=True)))

    return guided_denoise


def unguided(denoise: Denoiser) -> Denoiser:
    """For a network that knows no guidance: reads and drops cond["guidance"], which callers see to be 0."""
    return lambda z, logsnr, cond: denoise(z, logsnr, without(cond, "guidance"))


def interval(denoise: Denoiser, bounds: Sequence[float] | None) -> Denoiser:
    """w (and w_image) only where logsnr_min <= logsnr <= logsnr_max, the `bounds`, 0 elsewhere (Kynkäänniemi et al.
    2024); everywhere where there are none."""
    if not bounds:
        return denoise
    logsnr_min, logsnr_max = bounds

    def limited(z, logsnr, cond):
        inside = (logsnr >= logsnr_min) & (logsnr <= logsnr_max)
        strengths = {name: jnp.where(inside, cond[name], 0.0) for name in STRENGTHS if name in cond}
        return denoise(z, logsnr, {**cond, **strengths})

    return limited


def clipped(denoise: Denoiser) -> Denoiser:
    """x clipped to [-1, 1] and eps recomputed from it: for sampling in pixel space, never for training."""
    return lambda z, logsnr, cond: prediction.clip(denoise(z, logsnr, cond), z, logsnr)
