"""Stage two on LAION at 512 x 512, in latent space: the student of stage one halved from 512 steps to 1.

    python main.py --config=configs/laion512_stage2.py          (about 395 A100 hours, estimated)

From secondary sources: batch 512, lr 5e-5. Assumed: 2,500 updates a round, 20,000 for N = 4, 2 and 1; linear anneal,
truncated SNR. Arguments: tiny, synthetic (made-up codes), w=2 (from the single-w student), stochastic, unguided (plain
progressive distillation of the teacher), encoding (towards noise, w = 0: after a stage one with
--config.objective.w_min=0).
"""

from configs import base, laion512_stage1, laion512_teacher

DEFAULTS = {**laion512_teacher.DEFAULTS, **base.STAGE2}


def get_config(arg: str = ""):
    """LAION at 512 x 512, Stable Diffusion's latent space: the halved student."""
    config, a = base.stage_two("laion512_stage2", arg, laion512_stage1, laion512_teacher, DEFAULTS)
    if config.objective.w_max > config.objective.w_min:
        config.objective.w_min, config.objective.w_max, config.sampling.guidance = 2.0, 14.0, 6.5
    if a.unguided and not (a.tiny or a.synthetic):  # An imported teacher knows no data.
        config.data, config.codec = {"name": "encoded", "of": "laion512"}, {"name": "as_data"}
    if a.unguided:
        config.prediction = "v"
    config.batch_size = 512
    config.num_updates, config.save_every = 2_500, 2_500
    config.halving.start_steps, config.halving.last_updates_factor, config.halving.last_from = 512, 8.0, 4
    config.optim.lr = 5e-5
    return base.tiny(config, 4) if a.tiny else config
