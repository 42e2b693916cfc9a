"""Stage one on emoji: one student for all w in [0, 4]. All settings are our own.

    python main.py --config=configs/emoji_stage1.py          (about 0.2 A100 hours, estimated)
    python main.py --config=configs/emoji_stage1.py:cpu      (2 CPU cores, 15 minutes; faces at 32)

A fifth of the draws is at w = 0, the edge of the range, and losses are divided by 1 + w, so that small w count, too.
Arguments: tiny, cpu, w=1 (single-w student).
"""

from configs import base, emoji_teacher

DEFAULTS = {**emoji_teacher.DEFAULTS, **base.STAGE1}


def get_config(arg: str = ""):
    """The emoji teacher's w-conditioned student."""
    config, a = base.stage_one("emoji_stage1", arg, emoji_teacher, DEFAULTS, w_min_share=0.2, w_power=1.0)
    config.batch_size = 64 if a.cpu else 256
    config.num_updates, config.save_every = (4_000, 500) if a.cpu else (10_000, 5_000)
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-4 if a.cpu else 1e-4, 100, "cosine"
    config.ema = 0.995 if a.cpu else 0.999
    config.sampling.steps = 128 if a.cpu else 250
    config.sampling.guidance = a.w if a.w >= 0 else 2.0
    return base.tiny(config, 8) if a.tiny else config
