"""Images that a network is shown beside z, as further channels of its input: one to be edited, or painted anew.

- ("image",): the codes of a source image, for editing as one is told (InstructPix2Pix: Brooks et al. 2023).
- ("mask", "image"): 1 where to paint, and the codes of the image with those places blank (the inpainting networks of
  Rombach et al. 2022; GD, inpainting).

The names stand in a run's manifest, "channels", in the order in which they follow z. They are entries of cond: "image"
[b, h, w, c] as z, "mask" [b, h, w, 1]; `denoiser` puts them beside z. Here is what training makes them of.

Networks that were trained elsewhere are shown the same in their own way. Their manifests, and their students', say so:
"shown" is {"blank": "grey"} where an image is blanked before it is encoded, by grey pixels (Stable Diffusion's
inpainting networks), and {"scale": s} where its codes are s times those that z is made of (InstructPix2Pix's).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from guided_distill import codecs
from guided_distill.guidance import replaced

EDITING, INPAINTING = ("image",), ("mask", "image")
KNOWN = ((), EDITING, INPAINTING)
NULL_IMAGE = {"image": 0.0}
STROKE = 4  # Straight parts of a stroke.

Show = Callable[[Key[Array, ""], Mapping[str, Any]], dict[str, Any]]
"""(key, a batch with codes "x" and, where the data have them, "image") -> the batch with what is shown."""


def grey(manifest: Mapping[str, Any]) -> bool:
    """Whether images are blanked by grey pixels, and not in their codes."""
    return manifest.get("shown", {}).get("blank") == "grey"


def blank(manifest: Mapping[str, Any]) -> np.ndarray | float:
    """The code that stands where nothing is shown: 0, or that of a grey image, float32 [h, w, c]."""
    return _grey(tuple(sorted(manifest["codec"].items())), tuple(manifest["shape"])) if grey(manifest) else 0.0


@functools.lru_cache(maxsize=2)
def _grey(codec: tuple[tuple[str, Any], ...], shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(codecs.load(**dict(codec)).encode(jnp.zeros((1, *shape), jnp.float32)))[0]


def nothing(manifest: Mapping[str, Any], num: int) -> dict[str, np.ndarray]:
    """The entries of cond for `num` samples that are shown nothing; {} where what is left out means that."""
    if not grey(manifest):
        return {}
    image = np.broadcast_to(blank(manifest), (num, *manifest["code_shape"]))
    return {"mask": np.ones((*image.shape[:-1], 1), np.float32), "image": image.copy()}


def to_edit(manifest: Mapping[str, Any], codes: np.ndarray) -> np.ndarray:
    """Codes of images as a network is shown them that is to edit them."""
    return np.float32(manifest.get("shown", {}).get("scale", 1.0)) * codes


def blanked(
    codes: Float[Array, "b h w c"], mask: Float[Array, "b h w 1"], blank: Float[np.ndarray, "h w c"] | float = 0.0
) -> dict[str, Array]:
    """The entries of cond for codes that are to be painted where `mask` is 1: nothing of what is there is shown."""
    return {"mask": mask, "image": jnp.where(mask > 0, blank, codes)}


def inpainting(blank: Float[np.ndarray, "h w c"] | float = 0.0) -> Show:
    """The batch with masks that are drawn, and its own "x" as the image. A grey `blank` differs from grey pixels that
    are encoded where a code sees across the mask's edge: what training sees are codes, most often stored ones."""

    def show(key, batch):
        return {**batch, **blanked(batch["x"], masks(key, *batch["x"].shape[:3]), blank)}

    return show


def editing(dropout: float, null: Mapping[str, Any], scale: float = 1.0) -> Show:
    """The batch with its "image", times `scale`, which is not shown for a share `dropout`. Half of those are not told
    the entries of `null` either: guidance by both needs to know what there is without both (Brooks et al. 2023, section
    3.2.1)."""

    def show(key, batch):
        batch = {**batch, "image": scale * batch["image"]}
        image_key, all_key = jax.random.split(key)
        without = jax.random.bernoulli(image_key, dropout, batch["x"].shape[:1])
        of_nothing = without & jax.random.bernoulli(all_key, 0.5, without.shape)
        nulled = replaced(batch, {**null, **NULL_IMAGE})
        share = {**dict.fromkeys(null, of_nothing), "image": without}
        where = lambda rows, entry: rows.reshape(rows.shape + (1,) * (entry.ndim - 1))  # noqa: E731
        out = {name: jnp.where(where(of, batch[name]), nulled[name], batch[name]) for name, of in share.items()}
        return {**batch, **out}

    return show


def masks(key: Key[Array, ""], num: int, height: int, width: int) -> Float[Array, "{num} {height} {width} 1"]:
    """Random masks, 1 where to paint: a rectangle, all beyond a line, a stroke or everything, each for a quarter.

    Sizes are shares of the image's own, so that codes of any resolution are covered alike.
    """
    y, x = jnp.meshgrid(*((jnp.arange(side) + 0.5) / side for side in (height, width)), indexing="ij")
    places = jnp.stack([y, x], axis=-1)

    def mask(key: Array) -> Array:
        kind_key, side_key, place_key, line_key, stroke_key, width_key = jax.random.split(key, 6)
        sides = jax.random.uniform(side_key, (2,), minval=0.2, maxval=0.8)
        low = jax.random.uniform(place_key, (2,)) * (1 - sides)
        kinds = jnp.stack(
            [
                rectangle(places, low, low + sides),
                beyond(places, line_key),
                stroke(places, jax.random.uniform(stroke_key, (STROKE + 1, 2)), jax.random.uniform(width_key)),
                jnp.ones((height, width), bool),
            ]
        )
        drawn = kinds[jax.random.randint(kind_key, (), 0, len(kinds))]
        return drawn | ~drawn.any()  # Nothing to paint is nothing to learn.

    return jax.vmap(mask)(jax.random.split(key, num))[..., None].astype(jnp.float32)


def rectangle(places: Float[Array, "h w 2"], low: Float[Array, " 2"], high: Float[Array, " 2"]) -> Array:
    """bool [h, w]: the places (y, x) in [0, 1] between two opposite corners."""
    return ((places >= low[None, None]) & (places <= high[None, None])).all(-1)


def beyond(places: Float[Array, "h w 2"], key: Key[Array, ""]) -> Array:
    """bool [h, w]: the upper, lower, left or right part, from a quarter of the image to three."""
    side_key, share_key = jax.random.split(key)
    sides = jnp.concatenate([places, 1 - places], axis=-1)  # Distances from the four edges.
    return sides[..., jax.random.randint(side_key, (), 0, 4)] < jax.random.uniform(share_key, minval=0.25, maxval=0.75)


def stroke(places: Float[Array, "h w 2"], points: Float[Array, "p 2"], width: Float[Array, ""]) -> Array:
    """bool [h, w]: what is near a line through the points; `width` in [0, 1], of a tenth to a third of the image."""
    start, way = points[:-1], jnp.diff(points, axis=0)
    apart = places[:, :, None] - start[None, None]  # [h, w, p - 1, 2]
    along = (apart * way[None, None]).sum(-1) / jnp.maximum((way**2).sum(-1), 1e-6)[None, None]
    nearest = jnp.clip(along, 0, 1)[..., None] * way[None, None]
    return (jnp.linalg.norm(apart - nearest, axis=-1) < 0.05 + 0.12 * width).any(-1)
