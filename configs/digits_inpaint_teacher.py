"""An inpainting teacher on 8x8 digits: it is shown a mask, and the digit with what is under it left out.

    python main.py --config=configs/digits_inpaint_teacher.py        (2 CPU cores, about 4 minutes, estimated)
    python main.py --config=configs/digits_inpaint_teacher.py:start  (half of that, from runs/digits_teacher)

Masks are drawn in the step: rectangles, sides, strokes, or all of the picture. Arguments: start, tiny (seconds).
"""

from configs import base, digits_teacher

DEFAULTS = {"tiny": False, "start": False}


def get_config(arg: str = ""):
    """The digits' teacher, shown two channels more."""
    a = base.parse(arg, **DEFAULTS)
    config = digits_teacher.get_config("tiny" if a.tiny else "")
    config.name, config.arguments = "digits_inpaint_teacher", base.spell(DEFAULTS, vars(a))
    config.channels = ("mask", "image")
    if a.start:
        above = "tiny" if a.tiny else ""
        config.start = base.run_dir("digits_teacher", above)
        config.start_command = f"python main.py --config=configs/digits_teacher.py{above and ':'}{above}"
        for part in ("codec", "schedule", "network"):
            config[part] = {"name": "inherit"}
        config.prediction = config.time_input = "inherit"
        config.num_updates = config.num_updates if a.tiny else 500
    return config
