"""Stage two on digits: the student of stage one halved from 64 steps to 1.

    python main.py --config=configs/digits_stage2.py            (2 CPU cores, about 2 minutes)

Arguments: tiny, w=1 (from the single-w student), stochastic, unguided (plain progressive distillation of the teacher),
encoding (towards noise, w = 0).
"""

from configs import base, digits_stage1, digits_teacher

DEFAULTS = {"tiny": False, "w": -1.0, "stochastic": False, "unguided": False, "encoding": False}


def get_config(arg: str = ""):
    """The digits' halved student."""
    a = base.parse(arg, **DEFAULTS)
    base.exclusive(arg, "w", "unguided", "encoding")
    base.exclusive(arg, "stochastic", "encoding")
    given = vars(a)
    module, above = (digits_teacher, "digits_teacher") if a.unguided else (digits_stage1, "digits_stage1")
    config = base.student("digits_stage2", base.spell(DEFAULTS, given), above, base.spell(module.DEFAULTS, given))
    w_range = (0.0, 0.0) if a.unguided else (a.w, a.w) if a.w >= 0 else (0.0, 4.0, 0.2)
    base.progressive(config, *w_range, stochastic=a.stochastic)
    config.batch_size = 64
    config.num_updates = 60
    config.save_every = 500
    config.halving.last_updates_factor = 1.5
    config.optim.lr = 3e-4
    if a.encoding:
        base.encoding(config)
    if a.tiny:
        config.batch_size, config.num_updates, config.save_every, config.halving.start_steps = 16, 4, 2, 8
        config.log_every = 2
    return config
