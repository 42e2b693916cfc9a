"""Instruction editing on 8x8 digits, the test bed: shown a digit, and told to keep, invert, mirror or turn it.

    python main.py --config=configs/digits_edits_teacher.py          (2 CPU cores, about 4 minutes, estimated)

Left out are: the image alone, the instruction alone, and both, 5 % each (Brooks et al. 2023, section 3.2.1), so that it
is guided by either. Argument: tiny (seconds).
"""

from configs import base, digits_teacher

DEFAULTS = {"tiny": False}


def get_config(arg: str = ""):
    """The digits' teacher, shown what to edit."""
    a = base.parse(arg, **DEFAULTS)
    config = digits_teacher.get_config("tiny" if a.tiny else "")
    config.name, config.arguments = "digits_edits_teacher", base.spell(DEFAULTS, vars(a))
    config.data = {"name": "digits_edits"}
    config.channels, config.image_dropout, config.objective.dropout = ("image",), 0.1, 0.05
    config.sampling.guidance = 0.0
    return config
