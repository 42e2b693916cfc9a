"""Stage one on LAION at 512 x 512, Stable Diffusion's latent space: one student for all w in [2, 14].

    python main.py --config=configs/laion512_stage1.py          (about 263 A100 hours, estimated)

From secondary sources: batch 512, lr 5e-5, 50,000 updates, warm-up 500. Assumed: w drawn evenly from [2, 14] (the
paper's range of guidance strengths, read as w, where 0 is no guidance; it may have meant 1 + w), constant rate,
truncated SNR. The student predicts v, from the weights of a teacher that predicts eps: docs/interchange.md.
Arguments: tiny, synthetic (made-up codes), w=1 (single-w student).
"""

from configs import base, laion512_teacher

DEFAULTS = {**laion512_teacher.DEFAULTS, **base.STAGE1}


def get_config(arg: str = ""):
    """LAION at 512 x 512, Stable Diffusion's latent space: the w-conditioned student."""
    config, a = base.stage_one("laion512_stage1", arg, laion512_teacher, DEFAULTS)
    if a.w < 0:
        config.objective.w_min, config.objective.w_max = 2.0, 14.0
    config.sampling.guidance = a.w if a.w >= 0 else 6.5
    config.prediction = "v"
    if not (a.tiny or a.synthetic):  # An imported teacher knows no data.
        config.data, config.codec = {"name": "encoded", "of": "laion512"}, {"name": "as_data"}
    config.batch_size = 512
    config.num_updates, config.save_every = 50_000, 2_500
    config.optim.lr, config.optim.warmup = 5e-5, 500
    config.sampling.steps = 512
    return base.tiny(config, 8) if a.tiny else config
