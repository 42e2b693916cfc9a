"""Teacher, stage one and stage two of inpainting digits, in order.

    python main.py --config=configs/digits_inpaint_chain.py          (2 CPU cores, about 7 minutes, estimated)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, digits_inpaint_stage1, digits_inpaint_stage2, digits_inpaint_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": digits_inpaint_teacher, "stage1": digits_inpaint_stage1, "stage2": digits_inpaint_stage2}
    return base.chain_of("digits_inpaint_chain", arg, stages)
