"""Stage two of editing digits: from 64 steps to 1, for both guidance strengths.

    python main.py --config=configs/digits_edits_stage2.py           (2 CPU cores, about 2 minutes, estimated)

Arguments: tiny, stochastic.
"""

from configs import base, digits_edits_stage1

DEFAULTS = {**digits_edits_stage1.DEFAULTS, "stochastic": False}


def get_config(arg: str = ""):
    """The halved student of the editing teacher."""
    a = base.parse(arg, **DEFAULTS)
    above = (base.name_of(digits_edits_stage1), base.spell(digits_edits_stage1.DEFAULTS, vars(a)))
    config = base.student("digits_edits_stage2", base.spell(DEFAULTS, vars(a)), *above)
    base.progressive(config, 0.0, 2.0, 0.2, stochastic=a.stochastic)
    config.objective.image_range, config.sampling.guidance = (0.0, 2.0), 0.0
    config.batch_size, config.num_updates, config.save_every = 64, 60, 500
    config.halving.last_updates_factor = 1.5
    config.optim.lr = 3e-4
    return base.tiny(config, 4) if a.tiny else config
