"""Stage two: a student whose one step does what two steps of its teacher do (PD, algorithm 2; GD, stage two).

Deterministic: the student's step is 1/N. Stochastic (GD's sampler): it makes one deterministic step of
twice the length and one back with noise, so here the step that is learned is 2/N, the teacher's two are 1/N each, and
near t = 0 there is room for one only.
"""

import jax
import jax.numpy as jnp

from guided_distill.objectives import Objective, conditions, diffuse, draw_guidance
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
    stochastic: bool = False,
) -> Objective:
    """E over x, c, w, t = (i + 1)/N of weight(logsnr_t) ||x_student(z_t, w, c) - x_target||²; N = `num_steps`, i ~ U{0
    .. N-1}.

    The target is the x with which one DDIM step lands where the teacher's two do: t -> mid -> s, s = t - 1/N (2/N if
    stochastic). The teacher is a Denoiser that reads cond["guidance"] (w_min = w_max: single-w; both 0: plain,
    unguided) and is not clipped.
    """
    stride = 2 if stochastic else 1

    def objective(key, nets, batch, num_steps):
        x = batch["x"]
        index_key, noise_key, guidance_key = jax.random.split(key, 3)
        index = jax.random.randint(index_key, x.shape[:1], 0, num_steps) + 1
        # In half steps, as integers, so that t = 0 is met exactly.
        t, mid, s = (schedule_at(2 * index - back, num_steps) for back in (0, stride, 2 * stride))
        z, _ = diffuse(noise_key, x, t)
        cond = {**conditions(batch), "guidance": draw_guidance(guidance_key, x.shape[0], w_min, w_max, w_min_share)}
        z_mid = recombine(nets.teacher(z, t, cond), mid)
        z_end = recombine(nets.teacher(z_mid, jnp.where(jnp.isinf(mid), t, mid), cond), s)
        already_clean = jnp.isinf(mid).reshape((-1,) + (1,) * (x.ndim - 1))
        target = from_step(z, jnp.where(already_clean, z_mid, z_end), t, s)
        target = jax.lax.stop_gradient(target)
        return {"student": weighted_error(nets.student(z, t, cond), target, t, weighting)}, {}

    def schedule_at(half_steps, num_steps):
        return to_clean(schedule, jnp.maximum(half_steps, 0) / (2 * num_steps))

    return objective
