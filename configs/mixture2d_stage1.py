"""Stage one on the 2-D mixture: an MLP learns the exact guided denoiser for all w in [0, 4].

    python main.py --config=configs/mixture2d_stage1.py         (2 CPU cores, about 1 minute)

Arguments: tiny, w=1 (single-w student), unguided (w = 0 only), modes=RING|ADJACENT, sigma=0.12.
"""

from configs import base, mixture2d_teacher

DEFAULTS = {"tiny": False, "w": -1.0, "unguided": False, "modes": "RING", "sigma": 0.12}


def get_config(arg: str = ""):
    """A student of the oracle."""
    a = base.parse(arg, **DEFAULTS)
    base.exclusive(arg, "w", "unguided")
    given = vars(a)
    above = base.spell(mixture2d_teacher.DEFAULTS, given)
    config = base.student("mixture2d_stage1", base.spell(DEFAULTS, given), "mixture2d_teacher", above)
    w_min, w_max = (0.0, 0.0) if a.unguided else (a.w, a.w) if a.w >= 0 else (0.0, 4.0)
    base.matching(config, w_min, w_max, 0.1 if w_max > w_min else 0.0)
    config.objective.weighting.max_logsnr = 8.0
    config.network = {"name": "mlp", "width": 128, "depth": 3}
    config.prediction, config.time_input = "v", "u"
    config.batch_size = 512
    config.num_updates = 8000
    config.optim.lr, config.optim.decay, config.optim.warmup = 2e-3, "cosine", 100
    config.save_every = 2000
    if a.tiny:
        config.network.width, config.batch_size, config.num_updates, config.save_every = 32, 64, 20, 10
    return config
