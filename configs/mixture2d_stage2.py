"""Stage two on the 2-D mixture: the student of stage one halved from 64 steps to 1.

    python main.py --config=configs/mixture2d_stage2.py         (2 CPU cores, about 3 minutes)

Arguments: tiny, w=1 (from the single-w student), stochastic, unguided (plain progressive distillation), encoding
(towards noise, w = 0), modes=RING|ADJACENT, sigma=0.12.
"""

from configs import base, mixture2d_stage1

DEFAULTS = mixture2d_stage1.DEFAULTS | {"stochastic": False, "encoding": False}


def get_config(arg: str = ""):
    """A halved student of the oracle."""
    a = base.parse(arg, **DEFAULTS)
    base.exclusive(arg, "w", "unguided", "encoding")
    base.exclusive(arg, "stochastic", "encoding")
    given = vars(a)
    above = base.spell(mixture2d_stage1.DEFAULTS, given)
    config = base.student("mixture2d_stage2", base.spell(DEFAULTS, given), "mixture2d_stage1", above)
    w_min, w_max = (0.0, 0.0) if a.unguided else (a.w, a.w) if a.w >= 0 else (0.0, 4.0)
    base.progressive(config, w_min, w_max, 0.1 if w_max > w_min else 0.0, stochastic=a.stochastic)
    config.objective.weighting.max_logsnr = 8.0
    config.batch_size = 512
    config.num_updates = 3000
    config.optim.lr = 1e-3
    config.save_every = 3000
    if a.encoding:
        base.encoding(config)
    if a.tiny:
        config.batch_size, config.num_updates, config.save_every, config.halving.start_steps = 64, 10, 5, 8
    return config
