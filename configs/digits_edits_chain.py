"""Teacher, stage one and stage two of editing digits, in order.

    python main.py --config=configs/digits_edits_chain.py            (2 CPU cores, about 7 minutes, estimated)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, digits_edits_stage1, digits_edits_stage2, digits_edits_teacher


def get_config(arg: str = ""):
    """The chain."""
    given = vars(base.parse(arg, **digits_edits_stage2.DEFAULTS))
    stages = {"teacher": digits_edits_teacher, "stage1": digits_edits_stage1, "stage2": digits_edits_stage2}
    configs = {stage: module.get_config(base.spell(module.DEFAULTS, given)) for stage, module in stages.items()}
    return base.chain("digits_edits_chain", base.spell(digits_edits_stage2.DEFAULTS, given), configs)
