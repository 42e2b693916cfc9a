"""A classifier-free-guided teacher on 8x8 digits, the test bed.

    python main.py --config=configs/digits_teacher.py           (2 CPU cores, about 3 minutes)

Argument: tiny (seconds; for tests).
"""

from configs import base

DEFAULTS = {"tiny": False}


def get_config(arg: str = ""):
    """The digits' teacher."""
    a = base.parse(arg, **DEFAULTS)
    config = base.teacher("digits_teacher", base.spell(DEFAULTS, vars(a)))
    config.data = {"name": "digits", "classes": True}  # False: an unconditional network, with sampling.guidance=0
    config.network = {
        "name": "unet",
        "channels": 32,
        "channel_multipliers": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (4,),
        "num_heads": 2,
        "dropout": 0.05,
    }
    config.batch_size = 64
    config.num_updates = 1000
    config.save_every = 1000
    config.optim.lr, config.optim.warmup, config.optim.decay = 1e-3, 100, "cosine"
    config.ema = 0.998
    return base.tiny(base.tiny_unet(config), 12) if a.tiny else config
