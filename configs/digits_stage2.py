"""Stage two on digits: the student of stage one halved from 64 steps to 1.

    python main.py --config=configs/digits_stage2.py            (2 CPU cores, about 2 minutes)

Arguments: tiny, w=1 (from the single-w student), stochastic, unguided (plain progressive distillation of the teacher),
encoding (towards noise, w = 0).
"""

from configs import base, digits_stage1, digits_teacher

DEFAULTS = base.STAGE2


def get_config(arg: str = ""):
    """The digits' halved student."""
    config, a = base.stage_two("digits_stage2", arg, digits_stage1, digits_teacher, DEFAULTS, w_share=0.2)
    config.batch_size = 64
    config.num_updates = 60
    config.save_every = 500
    config.halving.last_updates_factor = 1.5
    config.optim.lr = 3e-4
    return base.tiny(config, 4) if a.tiny else config
