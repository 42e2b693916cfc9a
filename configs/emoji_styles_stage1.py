"""Stage one of redrawing emoji: one student for both guidance strengths, each in [0, 2]. All settings are ours.

    python main.py --config=configs/emoji_styles_stage1.py:cpu       (one CPU core, 10 minutes; faces at 32)

Its teacher needs three evaluations a step, the student one. Arguments: tiny, cpu.
"""

from configs import base, emoji_styles_teacher

DEFAULTS = emoji_styles_teacher.DEFAULTS


def get_config(arg: str = ""):
    """The redrawing teacher's student."""
    a = base.parse(arg, **DEFAULTS)
    arguments = base.spell(DEFAULTS, vars(a))
    config = base.student("emoji_styles_stage1", arguments, base.name_of(emoji_styles_teacher), arguments)
    base.matching(config, 0.0, 2.0, w_min_share=0.2, w_power=1.0)
    config.objective.image_range, config.sampling.guidance = (0.0, 2.0), 0.0
    config.batch_size = 64 if a.cpu else 256
    config.num_updates, config.save_every = (1_500, 500) if a.cpu else (5_000, 5_000)
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-4 if a.cpu else 1e-4, 100, "cosine"
    config.ema = 0.995 if a.cpu else 0.999
    return base.tiny(config, 8) if a.tiny else config
