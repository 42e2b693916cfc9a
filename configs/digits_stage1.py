"""Stage one on digits: the teacher's network with a w embedding, for all w in [0, 4].

    python main.py --config=configs/digits_stage1.py            (2 CPU cores, about 1 minute)

A fifth of the draws is at w = 0, the edge of the range and otherwise the student's weak point. Arguments: tiny, w=1
(single-w student).
"""

from configs import base, digits_teacher

DEFAULTS = base.STAGE1


def get_config(arg: str = ""):
    """The digits' w-conditioned student."""
    config, a = base.stage_one("digits_stage1", arg, digits_teacher, DEFAULTS, w_min_share=0.2)
    config.network.guidance_multiplier = 10.0  # w changes the picture slowly; the paper's 1000 needs longer training.
    config.batch_size = 64
    config.num_updates = 300
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-4, 50, "cosine"
    config.ema = 0.99
    return base.tiny(config, 8) if a.tiny else config
