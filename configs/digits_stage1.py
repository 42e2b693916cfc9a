"""Stage one on digits: the teacher's network with a w embedding, for all w in [0, 4].

    python main.py --config=configs/digits_stage1.py            (2 CPU cores, about 1 minute)

A fifth of the draws is at w = 0, the edge of the range and otherwise the student's weak point. Arguments: tiny, w=1
(single-w student).
"""

from configs import base, digits_teacher

DEFAULTS = {"tiny": False, "w": -1.0}


def get_config(arg: str = ""):
    """The digits' w-conditioned student."""
    a = base.parse(arg, **DEFAULTS)
    given = vars(a)
    above = base.spell(digits_teacher.DEFAULTS, given)
    config = base.student("digits_stage1", base.spell(DEFAULTS, given), "digits_teacher", above)
    base.matching(config, *((a.w, a.w) if a.w >= 0 else (0.0, 4.0, 0.2)))
    config.network.guidance_multiplier = 10.0  # w changes the picture slowly; the paper's 1000 needs longer training.
    config.batch_size = 64
    config.num_updates = 300
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-4, 50, "cosine"
    config.ema = 0.99
    if a.tiny:
        config.batch_size, config.num_updates, config.save_every, config.log_every = 16, 8, 4, 4
        config.sampling.steps = 8
    return config
