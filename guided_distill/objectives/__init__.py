"""Training methods, one a file, found by name: `make(...) -> Objective`, and `ROLE`, what a run of it is: a "teacher"
(it has none itself), a "student" of one, or a "chain" of students that halve their steps. An argument `w_min` of `make`
says that it draws w.

Objective = (key, nets, batch, num_steps) -> ({network: loss [b]}, metrics). `nets` are Denoisers: what is trained
("student", always), the frozen "teacher" and, where kept, the "ema". `batch` has "x" [b, ...] and the entries of cond;
`num_steps` is a traced int, the number of steps of the student in this round (0 where the method has none), so that
halving never recompiles.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from guided_distill.prediction import Denoiser, coefficients


class Nets(NamedTuple):
    """The Denoisers that an objective may compare; `teacher` and `ema` are None where there is none."""

    student: Denoiser
    teacher: Denoiser | None = None
    ema: Denoiser | None = None


Losses = dict[str, Float[Array, " b"]]
Objective = Callable[[Key[Array, ""], Nets, Mapping[str, Array], Array], tuple[Losses, dict[str, Array]]]


def conditions(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The entries of a batch that condition the network: all but the data."""
    return {name: value for name, value in batch.items() if name != "x"}


def require_probability(name: str, value: float) -> None:
    """Raises `ValueError` for what is no probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} is no probability")


def dropped(
    key: Key[Array, ""], cond: Mapping[str, Array], null: Mapping[str, Any], probability: float
) -> dict[str, Array]:
    """cond with the entries of `null` in the place of its own for a share of the examples ({}: for none)."""
    out = dict(cond)
    for name, value in null.items():
        entry = cond[name]
        mask = jax.random.bernoulli(key, probability, entry.shape[:1])
        mask = mask.reshape(mask.shape + (1,) * (entry.ndim - 1))
        out[name] = jnp.where(mask, jnp.broadcast_to(jnp.asarray(value, entry.dtype), entry.shape), entry)
    return out


def diffuse(
    key: Key[Array, ""], x: Float[Array, "b *s"], logsnr: Float[Array, " b"]
) -> tuple[Float[Array, "b *s"], Float[Array, "b *s"]]:
    """(z, eps) with z = alpha x + sigma eps, eps standard normal."""
    alpha, sigma = coefficients(logsnr, x)
    eps = jax.random.normal(key, x.shape, x.dtype)
    return alpha * x + sigma * eps, eps


def uniform_times(key: Key[Array, ""], batch: int) -> Float[Array, " b"]:
    """t ~ U[0, 1), each of them, and evenly spread together: (u + k / b) mod 1 (Kingma et al. 2021, appendix I.1)."""
    return (jax.random.uniform(key) + jnp.arange(batch) / batch) % 1.0


def draw_guidance(
    key: Key[Array, ""], batch: int, w_min: float, w_max: float, w_min_share: float
) -> Float[Array, " b"]:
    """w ~ U[w_min, w_max], and exactly w_min for a share of the draws (the edge of the range is otherwise the student's
    weak point)."""
    value_key, edge_key = jax.random.split(key)
    w = jax.random.uniform(value_key, (batch,), minval=w_min, maxval=max(w_max, w_min))
    return jnp.where(jax.random.uniform(edge_key, (batch,)) < w_min_share, w_min, w)


def by_strength(error: Float[Array, " b"], w: Float[Array, " b"], power: float) -> Float[Array, " b"]:
    """error / (1 + w)^power, [b]. What guidance adds to x grows with 1 + w, and a student's error with it: with a
    power of 0 (the paper) the loss is mostly of the largest w, with 2 all w count about alike."""
    return error / (1 + w) ** power if power else error


def draw_strengths(
    key: Key[Array, ""],
    batch: int,
    w_min: float,
    w_max: float,
    w_min_share: float = 0.0,
    image_range: Sequence[float] = (),
) -> dict[str, Float[Array, " b"]]:
    """{"guidance": w} by `draw_guidance`; with an `image_range`, (low, high), "guidance_image" is drawn alike."""
    drawn = {"guidance": draw_guidance(key, batch, w_min, w_max, w_min_share)}
    if image_range:
        image_key = jax.random.fold_in(key, 2)  # Not 0 or 1, which `draw_guidance` splits into.
        drawn["guidance_image"] = draw_guidance(image_key, batch, *image_range, w_min_share)
    return drawn
