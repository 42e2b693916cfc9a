"""What a network is told beside the noise level and w: a class ("label"), the states of a caption ("text").

Both are entries of cond, and both have a null: the class after the last, the states of an empty caption. What a run
knows stands in its manifest: `num_classes`, `text` (its encoder: name and arguments, or None) and `text_shape`. What
it is shown is another matter (`channels`), but for how strictly it keeps to it, a second w.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_distill import channels, text
from guided_distill.errors import UserError
from guided_distill.guidance import NULL


def known(manifest: Mapping[str, Any]) -> bool:
    """Whether there is anything that could be told."""
    return bool(manifest["num_classes"] or manifest.get("text"))


def encoder(manifest: Mapping[str, Any]) -> text.Encoder | None:
    """A run's text encoder. Raises `UserError` where its weights are not to be found."""
    return text.load(**manifest["text"]) if manifest.get("text") else None


def null(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of cond of which nothing is told, without a batch axis; {} for a run that is told nothing."""
    out = {"label": manifest["num_classes"]} if manifest["num_classes"] else {}
    reads = encoder(manifest)
    return out | ({"text": reads.null} if reads else {})


def example(manifest: Mapping[str, Any]) -> dict[str, jax.Array]:
    """One example's cond, zeros; nothing is read."""
    cond = {"guidance": jnp.zeros((1,), jnp.float32)}
    cond |= {"guidance_image": jnp.zeros((1,), jnp.float32)} if "image_range" in manifest["guidance"] else {}
    cond |= {"label": jnp.zeros((1,), jnp.int32)} if manifest["num_classes"] else {}
    return cond | ({"text": jnp.zeros((1, *manifest["text_shape"]), jnp.float32)} if manifest.get("text") else {})


def labels_of(
    manifest: Mapping[str, Any], num: int, labels: int | np.ndarray | None, name: object
) -> np.ndarray | None:
    """int32 [num] for `labels` (one, or `num` of them; None: all classes in turn); None where there are no classes.
    Raises `UserError` for what `name`, the run, does not know."""
    classes = manifest["num_classes"]
    if not classes:
        if labels is not None:
            raise UserError(f"{name} has no classes, so it takes no labels")
        return None
    label = np.arange(num) % classes if labels is None else np.asarray(labels)
    if label.dtype.kind not in "iu" or label.ndim > 1 or (label.ndim == 1 and len(label) != num):
        raise UserError(f"labels must be one integer or {num} of them")
    if label.min() < 0 or label.max() >= classes:
        raise UserError(f"labels must be in 0 .. {classes - 1}; got {label.min()} .. {label.max()}")
    return np.broadcast_to(label, (num,)).astype(np.int32)


def prompts_of(
    manifest: Mapping[str, Any], num: int, prompts: str | Sequence[str] | None, name: object
) -> list[str] | None:
    """`num` captions for `prompts` (one, or `num` of them; None: those that the run recommends, in turn); None where
    there is no text. Raises `UserError` for what `name`, the run, cannot be asked."""
    if not manifest.get("text"):
        if prompts is not None:
            raise UserError(f"{name} reads no text, so it takes no prompts")
        return None
    given = manifest["recommended"].get("prompts") or [""] if prompts is None else prompts
    given = [given] * num if isinstance(given, str) else list(given)
    if prompts is None:
        given = [given[k % len(given)] for k in range(num)]
    if len(given) != num or not all(isinstance(prompt, str) for prompt in given):
        raise UserError(f"prompts must be one text or {num} of them; got {len(given)}")
    return given


def of(
    manifest: Mapping[str, Any],
    num: int,
    labels: int | np.ndarray | None = None,
    prompts: str | Sequence[str] | None = None,
    negative: str | None = None,
    name: object = "this run",
) -> dict[str, np.ndarray]:
    """The entries of cond for `num` samples, but w. `negative`: a caption to lead away from, instead of the empty one.
    Raises `UserError` for what the run, `name`, does not know, and for a `negative` caption where nothing is guided by
    it."""
    label, captions = labels_of(manifest, num, labels, name), prompts_of(manifest, num, prompts, name)
    cond = channels.nothing(manifest, num) | image_guidance(manifest, num) | ({} if label is None else {"label": label})
    if negative and manifest["guidance"]["kind"] != "external":
        raise UserError(
            f"{name} takes no negative prompt: it has learned what guidance leads to, away from the empty caption, in "
            "one evaluation, and there is no second half to replace; ask its teacher"
        )
    if captions is None:
        if negative:
            raise UserError(f"{name} reads no text, so it takes no negative prompt")
        return cond
    cond["text"] = states(encoder(manifest), captions)
    if negative:
        cond[NULL + "text"] = states(encoder(manifest), [negative] * num)
    return cond


def image_range(manifest: Mapping[str, Any]) -> tuple[float, float]:
    """The strengths of guidance by the image that is shown that a run can be asked for."""
    kind = manifest["guidance"]
    return tuple(kind.get("image_range", (0.0, float("inf") if kind.get("image") else 0.0)))


def image_guidance(
    manifest: Mapping[str, Any], num: int, w: float | np.ndarray | None = None, name: object = "this run"
) -> dict[str, np.ndarray]:
    """{"guidance_image": [num]}, or {} where it is 0 anyway; None is the least that the run knows. Raises `UserError`
    for what `name`, the run, does not know."""
    low, high = image_range(manifest)
    if w is None and "image_range" not in manifest["guidance"]:
        return {}
    w = np.asarray(low if w is None else w, np.float32)
    if w.shape not in ((), (num,)):
        raise UserError(f"guidance_image must be one number or {num} of them; got shape {w.shape}")
    if not np.all(np.isfinite(w) & (w >= low - 1e-6) & (w <= high + 1e-6)):
        shown = ", ".join(f"{x:g}" for x in np.unique(w)[:4])
        raise UserError(f"guidance_image {shown} is outside the range of {name}: [{low:g}, {high:g}] (0 is none)")
    return {"guidance_image": np.broadcast_to(w, (num,)).copy()} if high > 0 else {}


def states(reads: text.Encoder, captions: Sequence[str]) -> np.ndarray:
    """float32 [n, l, d], every caption being read once."""
    different = list(dict.fromkeys(captions))
    found = dict(zip(different, reads.encode(different), strict=True))
    return np.stack([found[caption] for caption in captions])
