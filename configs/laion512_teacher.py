"""LAION at 512 x 512 from captions: Stable Diffusion 1.x, the paper's teacher of its text-to-image experiments.

    python -m guided_distill import FOLDER runs/laion512_teacher          (the released weights, a diffusers folder)
    python main.py --config=configs/laion512_teacher.py                   (about 3,160 A100 hours, estimated)

Verified in print (Stable Diffusion): latents of 64 x 64 x 4 scaled by 0.18215, U-Net of 859.5 M parameters, CLIP
ViT-L/14's text states [77, 768], eps-prediction, betas 0.00085 ... 0.012, batch 2,048, lr 1e-4, captions dropped with
probability 0.1. Assumed: EMA 0.9999, 250,000 updates. Expected: not run here. Data: latents and text states, which
`python -m guided_distill data encode` writes once. Arguments: tiny (made-up codes), synthetic (made-up codes for the
network as it is: for plans and benchmarks).
"""

from configs import base

DEFAULTS = {"tiny": False, "synthetic": False}


def get_config(arg: str = ""):
    """The LAION teacher."""
    a = base.parse(arg, **DEFAULTS)
    base.exclusive(arg, "tiny", "synthetic")
    config = base.teacher("laion512_teacher", base.spell(DEFAULTS, vars(a)))
    config.data, config.codec = {"name": "encoded", "of": "laion512"}, {"name": "as_data"}
    config.schedule = {"name": "Discrete"}
    config.prediction, config.time_input, config.objective.weighting = "eps", "index", {"name": "snr"}
    config.network = {"name": "latent_unet", "preset": "sd1"}
    config.batch_size = 2_048
    config.num_updates, config.save_every = 250_000, 5_000
    config.optim.lr, config.optim.warmup = 1e-4, 10_000
    config.ema = 0.9999
    config.sampling.steps, config.sampling.guidance = 50, 6.5
    if a.synthetic:
        return base.stand_in_codes(config, (64, 64, 4), (77, 768))
    return base.tiny(base.tiny_latent_unet(base.stand_in_codes(config, (8, 8, 4), (8, 16))), 12) if a.tiny else config
