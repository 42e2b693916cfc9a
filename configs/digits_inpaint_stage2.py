"""Stage two of inpainting digits: from 64 steps to 1. One step, unlike RePaint's, sees what is around the mask.

    python main.py --config=configs/digits_inpaint_stage2.py         (2 CPU cores, about 2 minutes, estimated)

Arguments: start, tiny, w=1, stochastic, unguided, encoding, as those of configs/digits_stage2.py.
"""

from configs import base, digits_inpaint_stage1, digits_inpaint_teacher

DEFAULTS = {**digits_inpaint_teacher.DEFAULTS, **base.STAGE2}


def get_config(arg: str = ""):
    """The halved student of the inpainting teacher."""
    above = (digits_inpaint_stage1, digits_inpaint_teacher)
    config, a = base.stage_two("digits_inpaint_stage2", arg, *above, DEFAULTS, w_share=0.2)
    config.batch_size, config.num_updates, config.save_every = 64, 60, 500
    config.halving.last_updates_factor = 1.5
    config.optim.lr = 3e-4
    return base.tiny(config, 4) if a.tiny else config
