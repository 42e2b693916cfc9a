"""ImageNet 256 x 256, class-conditional, in the latent space of LDM: the paper's teacher of its latent experiments.

    python -m guided_distill import FOLDER runs/imagenet256_teacher --class-tokens=FILE          (the released weights)
    python main.py --config=configs/imagenet256_teacher.py                       (about 340 A100 hours, estimated)

Verified in print (LDM): VQ-f4 latents of 64 x 64 x 3, U-Net of 400.9 M parameters, 1,001 classes (the last is null),
eps-prediction, betas 0.0015 ... 0.0195, batch 1,200, 178,000 updates, lr 1e-4. Assumed: warm-up 10,000, EMA 0.9999,
label dropout 0.1. Expected: not run here. Data: latents, which `python -m guided_distill data encode
data:image_folder:path=FOLDER:size=256 --name=imagenet256 --codec=...` writes once.
Arguments: tiny (made-up codes), synthetic (made-up codes for the network as it is: for plans and benchmarks).
"""

from configs import base

DEFAULTS = {"tiny": False, "synthetic": False}


def get_config(arg: str = ""):
    """The ImageNet 256 teacher."""
    a = base.parse(arg, **DEFAULTS)
    base.exclusive(arg, "tiny", "synthetic")
    config = base.teacher("imagenet256_teacher", base.spell(DEFAULTS, vars(a)))
    config.data, config.codec = {"name": "encoded", "of": "imagenet256"}, {"name": "as_data"}
    config.schedule = {"name": "Discrete", "beta_start": 0.0015, "beta_end": 0.0195}
    config.prediction, config.time_input, config.objective.weighting = "eps", "index", {"name": "snr"}
    config.network = {"name": "latent_unet", "preset": "ldm_imagenet256"}
    config.batch_size = 1_200
    config.num_updates, config.save_every = 178_000, 5_000
    config.optim.lr, config.optim.warmup = 1e-4, 10_000
    config.ema = 0.9999
    config.sampling.steps = 250
    if a.synthetic:
        return base.stand_in_codes(config, (64, 64, 3))
    return base.tiny(base.tiny_latent_unet(base.stand_in_codes(config, (8, 8, 3))), 12) if a.tiny else config
