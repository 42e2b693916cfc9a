"""Stage one on Fashion-MNIST: one student for all w in [0, 4]. All settings are our own.

    python main.py --config=configs/fashion_mnist_stage1.py         (about 0.02 A100 hours, estimated)
    python main.py --config=configs/fashion_mnist_stage1.py:cpu     (2 CPU cores, 9 minutes)

A fifth of the draws is at w = 0, the edge of the range, and losses are divided by 1 + w, so that small w count, too.
Arguments: tiny, cpu (16 x 16), w=1 (single-w student).
"""

from configs import base, fashion_mnist_teacher

DEFAULTS = {**fashion_mnist_teacher.DEFAULTS, **base.STAGE1}


def get_config(arg: str = ""):
    """Fashion-MNIST's w-conditioned student."""
    config, a = base.stage_one(
        "fashion_mnist_stage1", arg, fashion_mnist_teacher, DEFAULTS, w_min_share=0.2, w_power=1.0
    )
    config.network.guidance_multiplier = 10.0
    config.batch_size = 64 if a.cpu else 128
    config.num_updates, config.save_every = (2_800, 700) if a.cpu else (10_000, 5_000)
    config.optim.lr, config.optim.warmup, config.optim.decay = 5e-4 if a.cpu else 2e-4, 50, "cosine"
    config.ema = 0.995 if a.cpu else 0.999
    config.sampling.steps = 128 if a.cpu else 256
    return base.tiny(config, 8) if a.tiny else config
