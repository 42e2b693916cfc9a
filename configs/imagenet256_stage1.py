"""Stage one on ImageNet 256 x 256 in LDM's latent space: one student for all w in [0, 4].

    python main.py --config=configs/imagenet256_stage1.py          (about 68 A100 hours, estimated)

From secondary sources: batch 512, lr 5e-5, 50,000 updates, warm-up 500. Assumed: w drawn evenly from [0, 4], constant
rate, truncated SNR. The student predicts v, from the weights of a teacher that predicts eps: docs/interchange.md.
Arguments: tiny, synthetic (made-up codes), w=1 (single-w student).
"""

from configs import base, imagenet256_teacher

DEFAULTS = {**imagenet256_teacher.DEFAULTS, **base.STAGE1}


def get_config(arg: str = ""):
    """ImageNet 256 x 256 in LDM's latent space: the w-conditioned student."""
    config, a = base.stage_one("imagenet256_stage1", arg, imagenet256_teacher, DEFAULTS)
    config.prediction = "v"
    if not (a.tiny or a.synthetic):  # An imported teacher knows no data.
        config.data, config.codec = {"name": "encoded", "of": "imagenet256"}, {"name": "as_data"}
    config.batch_size = 512
    config.num_updates, config.save_every = 50_000, 2_500
    config.optim.lr, config.optim.warmup = 5e-5, 500
    config.sampling.steps = 512
    return base.tiny(config, 8) if a.tiny else config
