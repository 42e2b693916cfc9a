"""Stage two on pictures of your own: the student of stage one halved from 256 steps to 1. All settings are our own.

    python main.py --config=configs/folder_stage2.py           (about 8 A100 hours, estimated; 1.7 with size=32)

Half of the draws are at the last step of the student, where its errors are seen. Expected: not run here.

Arguments: tiny, size (as the teacher's), w=1 (from the single-w student), stochastic, unguided
(plain progressive distillation of the teacher), encoding (towards noise, w = 0).
"""

from configs import base, folder_stage1, folder_teacher

DEFAULTS = {**folder_teacher.DEFAULTS, **base.STAGE2}


def get_config(arg: str = ""):
    """The halved student of a folder."""
    config, a = base.stage_two(
        "folder_stage2", arg, folder_stage1, folder_teacher, DEFAULTS, w_share=0.2, last_share=0.5
    )
    config.batch_size = 128
    config.num_updates, config.save_every = 6_000, 6_000
    config.halving.start_steps, config.halving.last_updates_factor = 256, 3.0
    config.optim.lr = 1e-4
    return base.tiny(config, 4) if a.tiny else config
