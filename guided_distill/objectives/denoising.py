"""The teacher: denoising with label dropout, for classifier-free guidance (Ho & Salimans 2022, algorithm 1)."""

from collections.abc import Mapping

import jax

from guided_distill.objectives import Objective, conditions, diffuse, dropped, require_probability, uniform_times
from guided_distill.prediction import Prediction
from guided_distill.schedules import Schedule
from guided_distill.weighting import Weighting, weighted_error

ROLE = "teacher"


def make(schedule: Schedule, weighting: Weighting, null: Mapping, dropout: float = 0.1) -> Objective:
    """E over x, c, t ~ U[0, 1] of weight(logsnr) ||x(z_t, c) - x||²; c becomes `null` ({} = unconditional) with
    probability `dropout`."""

    require_probability("dropout", dropout)

    def objective(key, nets, batch, num_steps):
        x = batch["x"]
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        logsnr = schedule(uniform_times(time_key, x.shape[0]))
        z, eps = diffuse(noise_key, x, logsnr)
        cond = dropped(drop_key, conditions(batch), null, dropout)
        loss = weighted_error(nets.student(z, logsnr, cond), Prediction(x, eps), logsnr, weighting)
        return {"student": loss}, {}

    return objective
