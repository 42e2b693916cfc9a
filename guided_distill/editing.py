"""Images in, images out, with few-step models: edit (SDEdit), instruct (networks that are shown the image), translate
(encode, then decode as another), inpaint.

run = guided_distill.load("runs/digits_stage2")
edited = editing.edit(run, images, strength=0.5, steps=4, labels=8)

Images are uint8, or float32 in [-1, 1], [n, *shape]; points are float32. Result k is a function of (image k, seed, k),
at any batch size. What it is to be is said as to `Run.sample`: `labels`, `prompts`, `negative_prompt`. Where the run
knows classes or captions it has to be said, since images that are given are not of all classes in turn.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy import ndimage

from guided_distill import channels, codecs, conditions, samplers, schedules
from guided_distill.errors import UserError
from guided_distill.generate import Paint
from guided_distill.runs import Run
from guided_distill.teachers import require_same

RESAMPLE = 4
"""How often each step of an inpainting is taken by a run that is shown no mask, unless it is said (docs/editing.md)."""


class Edited(NamedTuple):
    """`images` float32 [n, *shape]; the `strength` that was used and the `steps` that were run: for a halved chain they
    may differ from what was asked for."""

    images: np.ndarray
    strength: float
    steps: int


def edit(
    run: Run,
    images: np.ndarray,
    strength: float = 0.5,
    steps: int | None = None,
    guidance: float | np.ndarray | None = None,
    seed: int = 0,
    sampler: str | None = None,
    batch_size: int | None = None,
    **told: Any,
) -> Edited:
    """Noises images to t = `strength` in (0, 1] and denoises them as `told` (SDEdit: Meng et al. 2022; GD, editing).

    `steps` are run from there. A halved chain's student of N = `steps` knows only its own N + 1 times: the strength is
    rounded to k / N, and k steps are run. Raises `UserError` for what cannot be done, a strength that leaves no step,
    say.
    """
    told = _told(run, told)
    steps = run.default_steps() if steps is None else steps
    run.weights_for(steps)  # Whatever is wrong with them is told before the work.
    levels, strength = descent(run, strength, steps)
    codes = run.codes(codecs.checked(images, run.manifest["shape"], run.dir), batch_size)
    cond = run.cond(len(codes), guidance, **told)
    z = _noised(codes, run.noise(len(codes), seed), float(levels[0]))
    out = run.down(z, levels, steps, cond, seed, sampler, batch_size)
    return Edited(out, strength, len(levels) - 1)


def descent(run: Run, strength: float, steps: int) -> tuple[Array, float]:
    """(log-SNRs from t = `strength` to clean data, the strength that they begin at): `steps` equal steps, or of a
    halved chain the last ones of its student of `steps`. Raises `UserError` for a strength that leaves none."""
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength:g} is not in (0, 1]: 1 begins at noise, and less keeps more of the image")
    if run.trained_steps is None:
        times = jnp.linspace(strength, 0.0, steps + 1)
        return schedules.to_clean(run.schedule, times), float(strength)
    left = int(strength * steps + 0.5)
    if not left:
        raise UserError(
            f"strength {strength:g} leaves no step of the student of {steps} steps in {run.dir}: it knows multiples of "
            f"{1 / steps:g}; take a student of more steps, or a run that takes any number"
        )
    return schedules.grid(run.schedule, steps)[steps - left :], left / steps


def instruct(
    run: Run,
    images: np.ndarray,
    instruction: int | str | np.ndarray | Sequence[str] | None = None,
    steps: int | None = None,
    guidance: float | np.ndarray | None = None,
    guidance_image: float | np.ndarray | None = None,
    seed: int = 0,
    sampler: str | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """Images float32 [n, *shape]: from noise, beside the images, as `instruction` says, a caption or a class, one or n
    of them (InstructPix2Pix: Brooks et al. 2023).

    `guidance`: how strictly that is followed, w; `guidance_image`: how strictly the image is kept to, as w (None: as
    the run recommends, or the least that it knows). Raises `UserError` for a run that is shown no images, or does not
    know that.
    """
    shown = tuple(run.manifest.get("channels", ()))
    if shown != channels.EDITING:
        raise UserError(
            f"{run.dir} is not shown the image to edit (its channels are {shown}, not {channels.EDITING}); take a run "
            "that was trained with config.channels=('image',), or edit, which any run can do"
        )
    told = _told(run, _spoken(instruction))
    steps = run.default_steps() if steps is None else steps
    images = codecs.checked(images, run.manifest["shape"], run.dir)
    guidance_image = run.manifest["recommended"].get("guidance_image") if guidance_image is None else guidance_image
    cond = run.cond(len(images), guidance, **told)
    cond |= conditions.image_guidance(run.manifest, len(images), guidance_image, run.dir)
    run.weights_for(steps)  # Whatever is wrong with them is told before the work.
    cond["image"] = channels.to_edit(run.manifest, run.codes(images, batch_size))
    levels = schedules.grid(run.schedule, steps)
    return run.down(run.noise(len(images), seed), levels, steps, cond, seed, sampler, batch_size)


def translate(
    encoder: Run,
    decoder: Run,
    images: np.ndarray,
    source: int | str | np.ndarray | Sequence[str] | None = None,
    target: int | str | np.ndarray | Sequence[str] | None = None,
    encode_steps: int | None = None,
    steps: int | None = None,
    guidance: float | np.ndarray | None = None,
    encode_guidance: float = 0.0,
    batch_size: int | None = None,
) -> np.ndarray:
    """Images float32 [n, *shape]: taken to noise as what they are, `source` (a class or a caption, one or n of them),
    and from there to data as something else, `target` (GD, style transfer).

    `encoder` is a distilled encoder, or any run that takes any number of steps (DDIM upwards), at w = 0 unless it knows
    only others. `decoder`: any run whose sampler adds no noise. Raises `UserError` where the two do not fit.
    """
    check_fit(encoder, decoder)
    source, target = _told(encoder, _spoken(source), encodes=True), _told(decoder, _spoken(target))
    images = codecs.checked(images, encoder.manifest["shape"], encoder.dir)
    decoder.cond(len(images), guidance, **target)  # Whatever is wrong with it is told before the work.
    noise = encoder.encode(images, encode_steps, guidance=encode_guidance, batch_size=batch_size, **source)
    return decoder.sample(len(images), steps, guidance, noise=noise, batch_size=batch_size, **target)


def check_fit(encoder: Run, decoder: Run) -> None:
    """Raises `UserError` unless the noise that one run encodes to is what the other decodes: the same codes, schedule
    and codec, and no noise added."""
    for key in ("code_shape", "schedule", "codec"):
        where = f"{encoder.dir} does not encode for {decoder.dir}"
        require_same(key, encoder.manifest, decoder.manifest, where)
    if decoder.manifest["sampler"] in samplers.NOISY:
        raise UserError(
            f"{decoder.dir} samples with {decoder.manifest['sampler']!r}, which adds noise of its own: what was "
            "encoded would be lost; decode with a run for ddim"
        )


def inpaint(
    run: Run,
    images: np.ndarray,
    mask: np.ndarray,
    steps: int | None = None,
    resample: int | None = None,
    guidance: float | np.ndarray | None = None,
    seed: int = 0,
    sampler: str | None = None,
    batch_size: int | None = None,
    **told: Any,
) -> np.ndarray:
    """Images float32 [n, *shape], painted anew where `mask` is true, and elsewhere exactly what they were.

    `mask`: bool [h, w] or [n, h, w] (points: [d], [n, d]). A run that is shown the mask (its `channels`) just samples:
    `steps` evaluations, one is enough. Any other does it by `samplers.masked` (RePaint: Lugmayr et al. 2022): `steps` x
    `resample` evaluations (None: RESAMPLE). In latent space a code is painted if any of its pixels is, and what stood
    under the mask is not shown to the codec. Raises `UserError` for what cannot be done.
    """
    told = _told(run, told)
    steps = run.default_steps() if steps is None else steps
    run.weights_for(steps)  # Whatever is wrong with them is told before the work.
    levels = schedules.grid(run.schedule, steps)
    turns = _turns(run, steps, resample)
    images = codecs.checked(images, run.manifest["shape"], run.dir)
    pixels, codes = masks_of(run, mask, len(images))
    cond = run.cond(len(images), guidance, **told)
    shown = images if pixels.shape == codes.shape else covered(images, pixels)
    shown = np.where(pixels, np.float32(0), images) if channels.grey(run.manifest) else shown
    known, noise = run.codes(shown, batch_size), run.noise(len(images), seed)
    if turns is None:
        cond |= {"mask": codes[..., :1].astype(np.float32), "image": known}
        if not channels.grey(run.manifest):
            cond["image"] = np.where(codes, np.float32(0), known)
        out = run.down(noise, levels, steps, cond, seed, sampler, batch_size)
    else:
        z = np.where(codes, noise, _noised(known, noise, float(levels[0])))
        out = run.down(z, levels, steps, cond, seed, sampler, batch_size, Paint(known, codes, turns))
    return np.where(pixels, out, images)


def _turns(run: Run, steps: int, resample: int | None) -> int | None:
    """How often each step of an inpainting is taken; None for a run that is shown the mask."""
    if "mask" in run.manifest.get("channels", ()):
        if resample is not None:
            raise UserError(
                f"resample {resample}: {run.dir} is shown the mask, so each step is taken once; leave it out"
            )
        return None
    if steps < 2:
        raise UserError("steps 1: the one step from noise sees nothing of the image; inpaint in 2 steps or more")
    if resample is not None and resample < 1:
        raise UserError(f"resample {resample} is not positive: it is how often each step is taken")
    return RESAMPLE if resample is None else resample


def masks_of(run: Run, mask: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """(of pixels bool [num, *shape], of codes bool [num, *code shape]): a code is painted if any pixel of it is. Raises
    `UserError` for a mask of another size, or that is not bool."""
    shape, mask = tuple(run.manifest["shape"]), np.asarray(mask)
    places = shape[:2] if len(shape) == 3 else shape
    if mask.dtype != bool:
        raise UserError(f"mask is {mask.dtype}; expected bool, true where to paint")
    if mask.shape not in (places, (num, *places)):
        raise UserError(f"mask is {_size(mask.shape)}; {run.dir} takes {_size(places)}, one or one for each image")
    mask = np.broadcast_to(mask, (num, *places))
    if len(shape) != 3:
        return mask, mask
    (height, width), (rows, columns) = places, run.code_shape[:2]
    coarse = mask.reshape(num, rows, height // rows, columns, width // columns).any((2, 4))
    fill = lambda places, channels: np.repeat(places[..., None], channels, axis=-1)  # noqa: E731
    return fill(mask, shape[-1]), fill(coarse, run.code_shape[-1])


def half(shape: tuple[int, ...]) -> np.ndarray:
    """A mask that covers the right half of images [h, w, c], or the second half of a point's coordinates."""
    places = shape[:2] if len(shape) == 3 else shape
    return np.broadcast_to(np.arange(places[-1]) >= places[-1] // 2, places)


def centre(shape: tuple[int, ...]) -> np.ndarray:
    """A mask that covers the middle of images [h, w, c], half as high and wide. Raises `UserError` for points."""
    if len(shape) != 3:
        raise UserError("mask centre: points have no centre; take half")
    rows, columns = (np.abs(2 * np.arange(side) + 1 - side) < side // 2 for side in shape[:2])
    return rows[:, None] & columns[None]


MASKS = {"half": half, "centre": centre}


def covered(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`images` [n, h, w, c] with the nearest known pixel in place of each that `mask` covers; grey where all is. So no
    code beside the mask tells what stood under it, nor of an edge that is not there."""
    out = np.zeros_like(images)
    for k, (image, cover) in enumerate(zip(images, mask[..., 0], strict=True)):
        if not cover.all():
            nearest = ndimage.distance_transform_edt(cover, return_distances=False, return_indices=True)
            out[k] = image[tuple(nearest)]
    return out


def _noised(codes: np.ndarray, noise: np.ndarray, logsnr: float) -> np.ndarray:
    alpha, sigma = (np.asarray(value) for value in schedules.alpha_sigma(np.float32(logsnr)))
    return alpha * codes + sigma * noise


def _spoken(of: Any) -> dict[str, Any]:
    """A class or a caption, as `Run.sample` is told it."""
    if of is None:
        return {}
    if isinstance(of, str):
        return {"prompts": of}
    if np.size(of) == 0:
        raise UserError("no class and no caption is given: expected one, or one for each image")
    return {"prompts": [*of]} if all(isinstance(one, str) for one in np.ravel(of)) else {"labels": of}


def _told(run: Run, told: Mapping[str, Any], encodes: bool = False) -> dict[str, Any]:
    """`told`, complete. Raises `UserError` where something that the run knows is not said, and for an encoder unless
    one `encodes`."""
    if run.manifest["objective"] == "encoding" and not encodes:
        raise UserError(
            f"{run.dir} is an encoder: it goes towards noise; take a teacher or a student, which go to data"
        )
    kinds = {"labels": run.manifest["num_classes"], "prompts": run.manifest.get("text")}
    for name, known in kinds.items():
        if known and told.get(name) is None:
            of = f"classes 0 .. {known - 1}" if name == "labels" else "captions"
            raise UserError(f"{run.dir} knows {of}: give {name}, one or one for each image")
    return dict(told)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
