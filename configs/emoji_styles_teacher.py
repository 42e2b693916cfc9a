"""Emoji redrawn as one is told: shown a drawing, and told "in noto style". All settings are ours.

    python main.py --config=configs/emoji_styles_teacher.py:cpu      (one CPU core, 7 minutes; faces at 32)

Starts from the teacher of captions (configs/emoji_teacher.py), new channels at zero, and has its autoencoder. The data
are pairs of one name in two styles, encoded beforehand: `python -m guided_distill data encode data:emoji_styles:size=64
--name=emoji_styles64` with that autoencoder (docs/text-to-image.md; with cpu data:emoji_styles:size=32:faces=True, as
emoji_styles_faces32); `python -m experiments.emoji_styles` makes all of it. Dropped are the image alone, what is told
alone, and both, 5 % each. Arguments: tiny (made-up codes), cpu.
"""

from configs import base, emoji_teacher

DEFAULTS = emoji_teacher.DEFAULTS


def get_config(arg: str = ""):
    """The emoji teacher, shown what to redraw."""
    a = base.parse(arg, **DEFAULTS)
    config = emoji_teacher.get_config(arg)
    arguments = base.spell(DEFAULTS, vars(a))
    config.name, config.arguments = "emoji_styles_teacher", arguments
    config.channels, config.image_dropout, config.objective.dropout = ("image",), 0.1, 0.05
    config.sampling.guidance = 0.0
    if a.tiny:
        config.data.shown = True
        return config
    config.data.of = "emoji_styles_faces32" if a.cpu else "emoji_styles64"
    config.start = base.run_dir("emoji_teacher", arguments)
    config.start_command = f"python main.py --config=configs/emoji_teacher.py{arguments and ':'}{arguments}"
    for part in ("codec", "schedule", "network"):
        config[part] = {"name": "inherit"}
    config.prediction = config.time_input = "inherit"
    config.num_updates, config.save_every = (1_500, 500) if a.cpu else (10_000, 5_000)
    return config
