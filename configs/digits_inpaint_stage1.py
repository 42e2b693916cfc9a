"""Stage one of inpainting digits: the teacher's network with a w embedding, for all w in [0, 4].

    python main.py --config=configs/digits_inpaint_stage1.py         (2 CPU cores, about 1 minute)

What it is shown, it is shown as its teacher is. Arguments: start, tiny, w=1 (single-w student).
"""

from configs import base, digits_inpaint_teacher

DEFAULTS = {**digits_inpaint_teacher.DEFAULTS, **base.STAGE1}


def get_config(arg: str = ""):
    """The w-conditioned student of the inpainting teacher."""
    config, a = base.stage_one("digits_inpaint_stage1", arg, digits_inpaint_teacher, DEFAULTS, w_min_share=0.2)
    config.network.guidance_multiplier = 10.0  # As in configs/digits_stage1.py.
    config.batch_size, config.num_updates = 64, 300
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-4, 50, "cosine"
    config.ema = 0.99
    return base.tiny(config, 8) if a.tiny else config
