"""Teacher, stage one and stage two on CIFAR-10, in order.

    python main.py --config=configs/cifar10_chain.py               (about 66 A100 hours, estimated)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, cifar10_stage1, cifar10_stage2, cifar10_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": cifar10_teacher, "stage1": cifar10_stage1, "stage2": cifar10_stage2}
    return base.chain_of("cifar10_chain", arg, stages)
