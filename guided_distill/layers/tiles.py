"""A large picture made a tile at a time: overlapping tiles, whose seams are blended."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from guided_distill.errors import UserError

LEAST = 4  # Latent pixels of a tile's side, a quarter of which overlaps the next.


def tiled(
    decode: Callable[[Float[Array, "b h w c"]], Float[Array, "b h2 w2 d"]], z: Float[Array, "b h w c"], tile: int
) -> Float[Array, "b h2 w2 d"]:
    """`decode(z)`, in tiles of `tile` x `tile` of z, one after another, so that memory is that of one tile and the
    picture.

    Neighbours share a quarter of a tile or more, in which one fades linearly into the other. So the result is that of
    `decode` outside of shared regions, where `decode` looks no further than a quarter of a tile, and changes gradually
    within them. Raises `UserError` for a tile under LEAST.
    """
    if tile < LEAST:
        raise UserError(f"tile {tile} is under {LEAST} latent pixels; 0 decodes pictures whole")
    batch, height, width, channels = z.shape
    sides = min(tile, height), min(tile, width)
    if sides == (height, width):
        return decode(z)
    part = jax.eval_shape(decode, jax.ShapeDtypeStruct((batch, *sides, channels), z.dtype))
    factor = part.shape[1] // sides[0]
    tops, lefts = (starts(length, side) for length, side in zip((height, width), sides))
    down, across = (fading(side, factor, tile // 4) for side in sides)
    weight = jnp.asarray(down[:, None] * across[None])[None, :, :, None]
    total = np.zeros((height * factor, width * factor), np.float32)
    places = np.array([(top, left) for top in tops for left in lefts], np.int32)
    for top, left in places * factor:
        total[top : top + len(down), left : left + len(across)] += down[:, None] * across[None]

    def add(whole: Array, place: Array) -> tuple[Array, None]:
        piece = decode(jax.lax.dynamic_slice(z, (0, place[0], place[1], 0), (batch, *sides, channels))) * weight
        corner = (0, place[0] * factor, place[1] * factor, 0)
        there = jax.lax.dynamic_slice(whole, corner, piece.shape)
        return jax.lax.dynamic_update_slice(whole, there + piece, corner), None

    empty = jnp.zeros((batch, *total.shape, part.shape[-1]), part.dtype)
    return jax.lax.scan(add, empty, jnp.asarray(places))[0] / jnp.asarray(total)[None, :, :, None]


def starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` begin that cover `length`: evenly, so that neighbours share a quarter at least."""
    step = side - side // 4
    num = 1 + max(0, -(-(length - side) // step))
    return [round(start) for start in np.linspace(0, length - side, num)]


def fading(side: int, factor: int, overlap: int) -> np.ndarray:
    """Weights [side * factor] of a tile's pixels along one axis: up over `overlap` latent pixels, 1, and down again.

    Never 0, so that a picture's own edge, which only one tile has, is whole."""
    ramp = (np.arange(side * factor) + 0.5) / (overlap * factor)
    return np.minimum(1, np.minimum(ramp, ramp[::-1])).astype(np.float32)
