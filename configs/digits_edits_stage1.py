"""Stage one of editing digits: one student for both guidance strengths, each in [0, 2].

    python main.py --config=configs/digits_edits_stage1.py           (2 CPU cores, about 1 minute)

Its teacher needs three evaluations a step, the student one. Argument: tiny.
"""

from configs import base, digits_edits_teacher

DEFAULTS = digits_edits_teacher.DEFAULTS


def get_config(arg: str = ""):
    """The editing teacher's student."""
    a = base.parse(arg, **DEFAULTS)
    arguments = base.spell(DEFAULTS, vars(a))
    config = base.student("digits_edits_stage1", arguments, base.name_of(digits_edits_teacher), arguments)
    base.matching(config, 0.0, 2.0, w_min_share=0.2)
    config.objective.image_range, config.sampling.guidance = (0.0, 2.0), 0.0
    config.network.guidance_multiplier = 10.0  # As in configs/digits_stage1.py.
    config.batch_size, config.num_updates = 64, 300
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-4, 50, "cosine"
    config.ema = 0.99
    return base.tiny(config, 8) if a.tiny else config
