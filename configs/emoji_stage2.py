"""Stage two on emoji: the student of stage one halved to 1 step. All settings are our own.

    python main.py --config=configs/emoji_stage2.py          (about 0.7 A100 hours, estimated)
    python main.py --config=configs/emoji_stage2.py:cpu      (2 CPU cores beside other work, 32 minutes; faces at 32)

Half of the draws are at the last step of the student, where its errors are seen.

Arguments: tiny, cpu, w=1 (from the single-w student), stochastic, unguided (plain progressive distillation of the
teacher), encoding (towards noise, w = 0).
"""

from configs import base, emoji_stage1, emoji_teacher

DEFAULTS = {**emoji_teacher.DEFAULTS, **base.STAGE2}


def get_config(arg: str = ""):
    """The halved emoji student."""
    config, a = base.stage_two(
        "emoji_stage2", arg, emoji_stage1, emoji_teacher, DEFAULTS, w_share=0.2, w_power=1.0, last_share=0.5
    )
    if config.objective.w_max > config.objective.w_min:
        config.sampling.guidance = 2.0
    return rounds(config, a.tiny, a.cpu, 600 if a.cpu else 3_000)


def rounds(config, tiny: bool, cpu: bool, num_updates: int):
    """A halved student's config with its budget: `num_updates` a round, and more of them in the last ones."""
    config.batch_size = 64 if cpu else 256
    config.num_updates = config.save_every = num_updates
    config.halving.start_steps, config.halving.last_updates_factor = (64, 2.0) if cpu else (256, 3.0)
    config.halving.last_from = 8 if cpu else 2
    config.optim.lr, config.optim.warmup = 5e-4 if cpu else 1e-4, 50
    return base.tiny(config, 4) if tiny else config
