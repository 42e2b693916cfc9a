"""Stage one: one network for all guidance strengths, by matching the guided teacher's output (GD, stage one)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from guided_distill.objectives import (
    Objective,
    by_strength,
    conditions,
    diffuse,
    draw_strengths,
    require_probability,
    uniform_times,
)
from guided_distill.schedules import Schedule
from guided_distill.weighting import Weighting, weighted_error

ROLE = "student"


def make(
    schedule: Schedule,
    weighting: Weighting,
    w_min: float,
    w_max: float,
    w_min_share: float = 0.0,
    w_power: float = 0.0,
    grid: int = 0,
    image_range: Sequence[float] = (),
) -> Objective:
    """E over x, c, w ~ U[w_min, w_max], t of weight(logsnr) ||x_student(z_t, w, c) - x_teacher^w(z_t, c)||².

    The teacher is a Denoiser that reads cond["guidance"]; that it is *guided* is nobody's business here. w_min = w_max
    is the paper's single-w student. t is uniform on [0, 1], or on {1/grid, ..., 1} for a teacher that knows only those
    (grid > 0). `w_power`: the loss is divided by (1 + w)^w_power (`objectives.by_strength`). `image_range`: of a second
    strength, cond["guidance_image"], where the teacher reads that, too.
    """
    require_probability("w_min_share", w_min_share)

    def objective(key, nets, batch, num_steps):
        x = batch["x"]
        time_key, noise_key, guidance_key = jax.random.split(key, 3)
        t = uniform_times(time_key, x.shape[0])
        logsnr = schedule((jnp.floor(t * grid) + 1) / grid if grid else t)
        z, _ = diffuse(noise_key, x, logsnr)
        strengths = draw_strengths(guidance_key, x.shape[0], w_min, w_max, w_min_share, image_range)
        cond = {**conditions(batch), **strengths}
        target = jax.lax.stop_gradient(nets.teacher(z, logsnr, cond))
        error = weighted_error(nets.student(z, logsnr, cond), target, logsnr, weighting)
        return {"student": by_strength(error, cond["guidance"], w_power)}, {}

    return objective
