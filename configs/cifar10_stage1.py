"""Stage one on CIFAR-10: one student for all w in [0, 4].

    python main.py --config=configs/cifar10_stage1.py           (about 3 A100 hours, estimated)

Verified in print: batch 128, no dropout, lr 5e-5 (PD's for distilling). From secondary sources: w drawn evenly from
[0, 4]. Assumed: 50,000 updates, warm-up 500, linear anneal, truncated SNR. Arguments: tiny, w=1 (single-w student, the
paper's baseline).
"""

from configs import base, cifar10_teacher

DEFAULTS = base.STAGE1


def get_config(arg: str = ""):
    """CIFAR-10's w-conditioned student."""
    config, a = base.stage_one("cifar10_stage1", arg, cifar10_teacher, DEFAULTS)
    config.batch_size = 128
    config.num_updates, config.save_every, config.sample_every = 50_000, 5_000, 10_000
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-5, 500, "linear"
    config.sampling.steps = 1024
    return base.tiny(config, 8) if a.tiny else config
