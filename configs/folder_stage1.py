"""Stage one on pictures of your own: one student for all w in [0, 4]. All settings are our own.

    python main.py --config=configs/folder_stage1.py           (about 2.3 A100 hours, estimated; 0.5 with size=32)

The data are the teacher's. Expected: not run here. Arguments: tiny, size (as the teacher's), w=1 (single-w student).
"""

from configs import base, folder_teacher

DEFAULTS = {**folder_teacher.DEFAULTS, **base.STAGE1}


def get_config(arg: str = ""):
    """The w-conditioned student of a folder."""
    config, a = base.stage_one("folder_stage1", arg, folder_teacher, DEFAULTS, w_min_share=0.2)
    config.network.guidance_multiplier = 10.0
    config.batch_size = 128
    config.num_updates, config.save_every, config.sample_every = 20_000, 5_000, 5_000
    config.optim.lr, config.optim.warmup, config.optim.decay = 1e-4, 500, "cosine"
    config.ema = 0.999
    config.sampling.steps = 256
    return base.tiny(config, 8) if a.tiny else config
