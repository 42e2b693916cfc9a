"""Encoder distillation: DDIM run towards noise, two steps of the teacher (or `factor`) into one (GD, encoding)."""

import itertools

import jax

from guided_distill.objectives import Objective, conditions, diffuse, draw_guidance, require_probability
from guided_distill.prediction import from_step
from guided_distill.samplers import recombine
from guided_distill.schedules import Schedule
from guided_distill.weighting import Weighting, weighted_error

ROLE = "chain"


def make(
    schedule: Schedule,
    weighting: Weighting,
    w_min: float = 0.0,
    w_max: float = 0.0,
    w_min_share: float = 0.0,
    factor: int = 2,
) -> Objective:
    """E over x, c, w, t = i/N of weight(logsnr_t) ||x_student(z_t, w, c) - x_target||²; N = `num_steps`, i ~ U{0 ..
    N-1}.

    The target is the prediction with which one upward DDIM step lands where the teacher's `factor` do: t -> ... -> t +
    1/N. It is accurate in eps, eps = (z_u - (alpha_u/alpha_t) z_t) / (sigma_u - (alpha_u/alpha_t) sigma_t), also at t =
    0 (see `from_step`).
    """
    require_probability("w_min_share", w_min_share)

    def objective(key, nets, batch, num_steps):
        x = batch["x"]
        index_key, noise_key, guidance_key = jax.random.split(key, 3)
        index = jax.random.randint(index_key, x.shape[:1], 0, num_steps)
        edges = [schedule((factor * index + ahead) / (factor * num_steps)) for ahead in range(factor + 1)]
        start, _ = diffuse(noise_key, x, edges[0])
        cond = {**conditions(batch), "guidance": draw_guidance(guidance_key, x.shape[0], w_min, w_max, w_min_share)}
        z = start
        for now, then in itertools.pairwise(edges):
            z = recombine(nets.teacher(z, now, cond), then)
        target = jax.lax.stop_gradient(from_step(start, z, edges[0], edges[-1]))
        return {"student": weighted_error(nets.student(start, edges[0], cond), target, edges[0], weighting)}, {}

    return objective
