"""Stage two on CIFAR-10: the student of stage one halved from 1,024 steps to 1.

    python main.py --config=configs/cifar10_stage2.py           (about 35 A100 hours, estimated)

Verified in print (PD): batch 128, lr 5e-5 annealed to 0 in each round, 50,000 updates a round, truncated SNR, no EMA.
Assumed: twice as many updates for N = 2 and 1. Arguments: tiny, w=1 (from the single-w student), stochastic, unguided
(plain progressive distillation of the teacher), encoding (towards noise, w = 0).
"""

from configs import base, cifar10_stage1, cifar10_teacher

DEFAULTS = base.STAGE2


def get_config(arg: str = ""):
    """CIFAR-10's halved student."""
    config, a = base.stage_two("cifar10_stage2", arg, cifar10_stage1, cifar10_teacher, DEFAULTS)
    config.batch_size = 128
    config.num_updates, config.save_every = 50_000, 10_000
    config.halving.start_steps, config.halving.last_updates_factor = 1024, 2.0
    config.optim.lr = 5e-5
    return base.tiny(config, 4) if a.tiny else config
