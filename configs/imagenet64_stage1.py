"""Stage one on ImageNet 64 x 64: one student for all w in [0, 4].

    python main.py --config=configs/imagenet64_stage1.py        (about 290 A100 hours, estimated)

Verified in print: batch 2048, no dropout, lr 1e-4 (PD's for distilling). From secondary sources: w drawn evenly from
[0, 4]. Assumed: 50,000 updates, warm-up 500, linear anneal, truncated SNR. Arguments: tiny, w=1 (single-w student, the
paper's baseline).
"""

from configs import base, imagenet64_teacher

DEFAULTS = base.STAGE1


def get_config(arg: str = ""):
    """ImageNet 64's w-conditioned student."""
    config, a = base.stage_one("imagenet64_stage1", arg, imagenet64_teacher, DEFAULTS)
    config.batch_size = 2048
    config.num_updates, config.save_every, config.sample_every = 50_000, 2_500, 10_000
    config.optim.lr, config.optim.warmup, config.optim.decay = 1e-4, 500, "linear"
    config.sampling.steps = 1024
    return base.tiny(config, 8) if a.tiny else config
