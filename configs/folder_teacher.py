"""Pictures of your own, a folder for each class: a teacher to begin with. All settings are our own.

    python main.py --config=configs/folder_teacher.py --config.data.path=FOLDER         (about 10 A100 hours, estimated)
    python main.py --config=configs/folder_teacher.py:size=32 --config.data.path=FOLDER (about 2, estimated)

FOLDER/train/CLASS/*.jpg; docs/your-data.md says what to change, and when. Flip: --config.data.flip=False where the
mirror image is another thing. Expected: not run here. Arguments: tiny (stand-in pictures), size (64, 32, 16).
"""

from configs import base

DEFAULTS = {"tiny": False, "size": 64}


def get_config(arg: str = ""):
    """The teacher of a folder."""
    a = base.parse(arg, **DEFAULTS)
    config = base.teacher("folder_teacher", base.spell(DEFAULTS, vars(a)))
    config.data = {"name": "image_folder", "path": "", "size": a.size, "flip": True}
    config.network = {
        "name": "unet",
        "channels": 128,
        "channel_multipliers": (1, 2, 3, 4) if a.size > 32 else (1, 2, 2),
        "num_res_blocks": 2,
        "attention_resolutions": (16, 8),
        "num_heads": 4,
        "dropout": 0.1,
    }
    config.batch_size = 128
    config.num_updates = 150_000
    config.save_every, config.sample_every = 5_000, 10_000
    config.optim.lr, config.optim.warmup = 2e-4, 1_000
    config.ema = 0.9999
    config.sampling.steps = 256
    return base.tiny(base.stand_in(config, (16, 16, 3)), 12) if a.tiny else config
