"""Stage two of redrawing emoji: from 64 steps to 1, for both guidance strengths. All settings are ours.

    python main.py --config=configs/emoji_styles_stage2.py:cpu       (one CPU core, 19 minutes; faces at 32)

Half of the draws are at the last step of the student. Arguments: tiny, cpu, stochastic.
"""

from configs import base, emoji_stage2, emoji_styles_stage1

DEFAULTS = {**emoji_styles_stage1.DEFAULTS, "stochastic": False}


def get_config(arg: str = ""):
    """The halved student of the redrawing teacher."""
    a = base.parse(arg, **DEFAULTS)
    above = (base.name_of(emoji_styles_stage1), base.spell(emoji_styles_stage1.DEFAULTS, vars(a)))
    config = base.student("emoji_styles_stage2", base.spell(DEFAULTS, vars(a)), *above)
    base.progressive(config, 0.0, 2.0, 0.2, 1.0, last_share=0.5, stochastic=a.stochastic)
    config.objective.image_range, config.sampling.guidance = (0.0, 2.0), 0.0
    return emoji_stage2.rounds(config, a.tiny, a.cpu, 300 if a.cpu else 1_500)
