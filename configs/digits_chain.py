"""Teacher, stage one and stage two on digits, in order.

    python main.py --config=configs/digits_chain.py             (2 CPU cores, about 6 minutes)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, digits_stage1, digits_stage2, digits_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": digits_teacher, "stage1": digits_stage1, "stage2": digits_stage2}
    return base.chain_of("digits_chain", arg, stages)
