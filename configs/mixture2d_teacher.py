"""The exact denoiser of the 2-D mixture as a teacher: trains nothing, writes a manifest.

    python main.py --config=configs/mixture2d_teacher.py        (seconds)

Four classes of two modes each on the unit circle, sigma 0.12. Arguments: modes=RING|ADJACENT, sigma=0.12, tiny (has no
effect here).
"""

from configs import base

DEFAULTS = {"tiny": False, "modes": "RING", "sigma": 0.12}


def get_config(arg: str = ""):
    """The teacher of the oracle."""
    from guided_distill.data.mixture2d import modes

    a = base.parse(arg, **DEFAULTS)
    config = base.teacher("mixture2d_teacher", base.spell(DEFAULTS, vars(a)))
    config.data = {"name": "mixture2d", "modes_layout": a.modes, "sigma": a.sigma}
    config.codec.name = "identity"
    config.network = {"name": "mixture", "modes": modes(a.modes), "sigma": a.sigma}
    config.time_input = "logsnr"
    config.objective = {"name": "none", "guidance_interval": ()}
    config.num_updates = 0
    config.sampling.steps = 256
    return config
