"""Fashion-MNIST, class-conditional: a teacher for a benchmark that anyone can run. All settings are our own.

    python main.py --config=configs/fashion_mnist_teacher.py        (about 0.04 A100 hours, estimated)
    python main.py --config=configs/fashion_mnist_teacher.py:cpu    (2 CPU cores, 15 minutes)

28 x 28 padded to 32; with cpu shrunk to 16. Data: `python -m guided_distill data prepare fashion_mnist`. Arguments:
tiny (stand-in pictures), cpu.
"""

from configs import base

DEFAULTS = {"tiny": False, "cpu": False}


def get_config(arg: str = ""):
    """The Fashion-MNIST teacher."""
    a = base.parse(arg, **DEFAULTS)
    base.exclusive(arg, "tiny", "cpu")
    config = base.teacher("fashion_mnist_teacher", base.spell(DEFAULTS, vars(a)))
    config.data = {"name": "fashion_mnist", "size": 16 if a.cpu else 32}
    config.network = {
        "name": "unet",
        "channels": 16 if a.cpu else 32,
        "channel_multipliers": (1, 2, 4),
        "num_res_blocks": 1 if a.cpu else 2,
        "attention_resolutions": (4,) if a.cpu else (8,),
        "num_heads": 2,
        "dropout": 0.0 if a.cpu else 0.1,
    }
    config.batch_size = 64 if a.cpu else 128
    config.num_updates, config.save_every = (5_600, 700) if a.cpu else (30_000, 5_000)
    config.optim.lr, config.optim.warmup, config.optim.decay = 1e-3 if a.cpu else 4e-4, 100, "cosine"
    config.ema = 0.998 if a.cpu else 0.9993
    config.sampling.steps = 128 if a.cpu else 256
    return base.tiny(base.stand_in(config, (16, 16, 1)), 12) if a.tiny else config
