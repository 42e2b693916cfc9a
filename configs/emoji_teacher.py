"""Emoji from captions ("red apple, noto"), in the latent space of an autoencoder trained here. All settings are ours.

    python main.py --config=configs/emoji_teacher.py          (about 0.5 A100 hours, estimated)
    python main.py --config=configs/emoji_teacher.py:cpu      (2 CPU cores, 19 minutes; faces at 32)

64 x 64 pixels are 16 x 16 x 4 codes; with cpu 32 x 32 are 8 x 8 x 8. Captions are read by MiniLM, which comes in a
package: it knows that a lemon is like an orange, and runs once, before training. The schedule is Stable Diffusion's,
brought to zero terminal SNR, for pictures on white. Autoencoder and encoded data come first (docs/text-to-image.md;
with cpu they are of data:emoji:size=32:faces=True, and the set is called emoji_faces32); `python -m experiments.emoji`
makes all of it in a directory of its own. Arguments: tiny (made-up codes), cpu.
"""

from configs import base

DEFAULTS = {"tiny": False, "cpu": False}


def get_config(arg: str = ""):
    """The emoji teacher."""
    a = base.parse(arg, **DEFAULTS)
    base.exclusive(arg, "tiny", "cpu")
    config = base.teacher("emoji_teacher", base.spell(DEFAULTS, vars(a)))
    config.data = {"name": "encoded", "of": "emoji_faces32" if a.cpu else "emoji64"}
    config.codec = {"name": "as_data"}
    config.schedule, config.time_input = {"name": "Discrete", "zero_terminal_snr": True}, "index"
    config.network = {
        "name": "latent_unet",
        "channels": 32 if a.cpu else 128,
        "channel_multipliers": (1, 2) if a.cpu else (1, 2, 3),
        "num_res_blocks": 1 if a.cpu else 2,
        "attention_downsampling": (1, 2) if a.cpu else (1, 2, 4),
        "head_dim": 16 if a.cpu else 32,
        "groups": 8 if a.cpu else 32,
        "dropout": 0.0 if a.cpu else 0.1,
    }
    config.batch_size = 64 if a.cpu else 256
    config.num_updates, config.save_every = (5_000, 1_000) if a.cpu else (40_000, 5_000)
    config.optim.lr, config.optim.warmup, config.optim.decay = 1e-3 if a.cpu else 3e-4, 200, "cosine"
    config.ema = 0.998 if a.cpu else 0.9995
    config.sampling.steps, config.sampling.guidance = 128 if a.cpu else 250, 2.0
    return base.tiny(base.tiny_latent_unet(base.stand_in_codes(config, (8, 8, 4), (8, 16))), 12) if a.tiny else config
