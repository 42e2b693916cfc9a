"""Stage two: a student whose one step does what two steps of its teacher do (PD, algorithm 2; GD, stage two).

Deterministic: the student's step is 1/N. Stochastic (GD's sampler): it makes one deterministic step of
twice the length and one back with noise, so here the step that is learned is 2/N, the teacher's two are 1/N each, and
near t = 0 there is room for one only. A `factor` of 4 is quartering: four steps of the teacher into one.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from guided_distill.objectives import (
    Objective,
    by_strength,
    conditions,
    diffuse,
    draw_strengths,
    dropped,
    require_probability,
)
from guided_distill.prediction import from_step
from guided_distill.samplers import recombine
from guided_distill.schedules import Schedule, to_clean
from guided_distill.weighting import Weighting, weighted_error

ROLE = "chain"


def make(
    schedule: Schedule,
    weighting: Weighting,
    w_min: float,
    w_max: float,
    w_min_share: float = 0.0,
    w_power: float = 0.0,
    stochastic: bool = False,
    null: Mapping[str, Any] | None = None,
    dropout: float = 0.0,
    factor: int = 2,
    image_range: Sequence[float] = (),
    last_share: float = 0.0,
) -> Objective:
    """E over x, c, w, t = i/N of weight(logsnr_t) ||x_student(z_t, w, c) - x_target||²; N = `num_steps`, i ~ U{1 .. N},
    and exactly 1 for `last_share` of the draws: that step's x is the sample, so its error is seen as it is, where the
    steps after an earlier one wash it out.

    The target is the x with which one DDIM step lands where the teacher's `factor` do, t -> ... -> s, s = t - 1/N (2/N
    if stochastic). The teacher is a Denoiser that reads cond["guidance"] (w_min = w_max: single-w; both 0: plain,
    unguided) and is not clipped. c becomes `null` with probability `dropout`: for a chain that is to be guided
    afterwards. `w_power`: the loss is divided by (1 + w)^w_power (`objectives.by_strength`). `image_range`: of a second
    strength, cond["guidance_image"], where the teacher reads that, too.
    """
    require_probability("dropout", dropout)
    require_probability("w_min_share", w_min_share)
    require_probability("last_share", last_share)
    stride = 2 if stochastic else 1

    def objective(key, nets, batch, num_steps):
        x = batch["x"]
        index_key, noise_key, guidance_key = jax.random.split(key, 3)
        index = jax.random.randint(index_key, x.shape[:1], 0, num_steps) + 1
        if last_share:
            last = jax.random.bernoulli(jax.random.fold_in(key, 4), last_share, index.shape)
            index = jnp.where(last, 1, index)
        # In parts of a step, as integers, so that t = 0 is met exactly.
        edges = [schedule_at(factor * index - stride * back, num_steps) for back in range(factor + 1)]
        t, s = edges[0], edges[-1]
        start, _ = diffuse(noise_key, x, t)
        cond = conditions(batch)
        if dropout:
            cond = dropped(jax.random.fold_in(key, 3), cond, null or {}, dropout)
        cond |= draw_strengths(guidance_key, x.shape[0], w_min, w_max, w_min_share, image_range)
        z = start
        for now, then in itertools.pairwise(edges):
            clean = jnp.isinf(now)
            moved = recombine(nets.teacher(z, jnp.where(clean, t, now), cond), then)
            z = jnp.where(clean.reshape((-1,) + (1,) * (x.ndim - 1)), z, moved)
        target = jax.lax.stop_gradient(from_step(start, z, t, s))
        error = weighted_error(nets.student(start, t, cond), target, t, weighting)
        return {"student": by_strength(error, cond["guidance"], w_power)}, {}

    def schedule_at(parts, num_steps):
        return to_clean(schedule, jnp.maximum(parts, 0) / (factor * num_steps))

    return objective
