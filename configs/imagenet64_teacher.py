"""ImageNet 64 x 64, class-conditional: the classifier-free-guided teacher of the paper's main table.

    python main.py --config=configs/imagenet64_teacher.py       (about 1,890 A100 hours, estimated)

Verified in print (PD, table of hyper-parameters): U-Net of 295.9 M parameters, dropout 0.1, batch 2048, Adam, lr 3e-4,
warm-up 1,000, EMA 0.9999, clip 1, cosine schedule; centre crop, area resize, flips. Assumed: v-prediction with SNR + 1
weighting, label dropout 0.1, 550,000 updates. Expected: not run here; published numbers stand in
`experiments/imagenet64.py`. Data: `python -m guided_distill data prepare imagenet64`. Argument: tiny (stand-in
pictures). Memory: `--config.compute.remat=full --config.compute.dtype=bfloat16` for smaller accelerators.
"""

from configs import base

DEFAULTS = {"tiny": False}


def get_config(arg: str = ""):
    """The ImageNet 64 teacher."""
    a = base.parse(arg, **DEFAULTS)
    config = base.teacher("imagenet64_teacher", base.spell(DEFAULTS, vars(a)))
    config.data = {"name": "imagenet64"}
    config.network = {"name": "unet", "preset": "imagenet64", "dropout": 0.1}
    config.batch_size = 2048
    config.num_updates = 550_000
    config.save_every, config.log_every, config.sample_every = 5_000, 100, 25_000
    config.optim.lr, config.optim.warmup = 3e-4, 1000
    config.ema = 0.9999
    config.sampling.steps = 1024
    return base.tiny(base.stand_in(config, (16, 16, 3)), 12) if a.tiny else config
