"""CIFAR-10, class-conditional: the classifier-free-guided teacher of the paper's CIFAR-10 tables.

    python main.py --config=configs/cifar10_teacher.py          (about 28 A100 hours, estimated)

Verified in print (PD, table of hyper-parameters): U-Net of 60.0 M parameters, dropout 0.2, batch 128, Adam, lr 2e-4,
warm-up 1,000, EMA 0.9999, clip 1, weight decay 1e-3, cosine schedule; flips. Assumed: v-prediction with SNR + 1
weighting, label dropout 0.1, 800,000 updates. Expected: not run here yet; published numbers stand in
`experiments/cifar10.py`. Data: `python -m guided_distill data prepare cifar10`. Argument: tiny (stand-in pictures).
"""

from configs import base

DEFAULTS = {"tiny": False}


def get_config(arg: str = ""):
    """The CIFAR-10 teacher."""
    a = base.parse(arg, **DEFAULTS)
    config = base.teacher("cifar10_teacher", base.spell(DEFAULTS, vars(a)))
    config.data = {"name": "cifar10"}
    config.network = {"name": "unet", "preset": "cifar10", "dropout": 0.2}
    config.batch_size = 128
    config.num_updates = 800_000
    config.save_every, config.log_every, config.sample_every = 10_000, 100, 50_000
    config.optim.name, config.optim.weight_decay = "adamw", 1e-3
    config.optim.lr, config.optim.warmup = 2e-4, 1000
    config.ema = 0.9999
    config.sampling.steps = 1024
    return base.tiny(base.stand_in(config, (16, 16, 3)), 12) if a.tiny else config
