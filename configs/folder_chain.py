"""Teacher, stage one and stage two on pictures of your own, in order.

    python main.py --config=configs/folder_chain.py --config.stages.teacher.data.path=FOLDER (21 A100 hours, estimated)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, folder_stage1, folder_stage2, folder_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": folder_teacher, "stage1": folder_stage1, "stage2": folder_stage2}
    return base.chain_of("folder_chain", arg, stages)
