"""Teacher, stage one and stage two on ImageNet 64 x 64, in order.

    python main.py --config=configs/imagenet64_chain.py            (about 5,600 A100 hours, estimated)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, imagenet64_stage1, imagenet64_stage2, imagenet64_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": imagenet64_teacher, "stage1": imagenet64_stage1, "stage2": imagenet64_stage2}
    return base.chain_of("imagenet64_chain", arg, stages)
