"""Stage two on ImageNet 64 x 64: the student of stage one halved from 1,024 steps to 1.

    python main.py --config=configs/imagenet64_stage2.py        (about 3,440 A100 hours, estimated)

Verified in print (PD): batch 2048, lr 1e-4 annealed to 0 in each round, 50,000 updates a round, truncated SNR, no EMA.
Assumed: twice as many updates for N = 2 and 1. Arguments: tiny, w=1 (from the single-w student), stochastic, unguided
(plain progressive distillation of the teacher), encoding (towards noise, w = 0).
"""

from configs import base, imagenet64_stage1, imagenet64_teacher

DEFAULTS = base.STAGE2


def get_config(arg: str = ""):
    """ImageNet 64's halved student."""
    config, a = base.stage_two("imagenet64_stage2", arg, imagenet64_stage1, imagenet64_teacher, DEFAULTS)
    config.batch_size = 2048
    config.num_updates, config.save_every = 50_000, 5_000
    config.halving.start_steps, config.halving.last_updates_factor = 1024, 2.0
    config.optim.lr = 1e-4
    return base.tiny(config, 4) if a.tiny else config
