"""Teacher, stage one and stage two on the 2-D mixture, in order.

    python main.py --config=configs/mixture2d_chain.py          (2 CPU cores, about 5 minutes)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, mixture2d_stage1, mixture2d_stage2, mixture2d_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": mixture2d_teacher, "stage1": mixture2d_stage1, "stage2": mixture2d_stage2}
    return base.chain_of("mixture2d_chain", arg, stages)
