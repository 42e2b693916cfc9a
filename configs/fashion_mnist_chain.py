"""Teacher, stage one and stage two on Fashion-MNIST, in order.

    python main.py --config=configs/fashion_mnist_chain.py         (about 0.13 A100 hours, estimated)
    python main.py --config=configs/fashion_mnist_chain.py:cpu  (2 CPU cores, 45 minutes)

Arguments as stage two's (and cpu, for 16 x 16); they reach the stages that know them.
"""

from configs import base, fashion_mnist_stage1, fashion_mnist_stage2, fashion_mnist_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": fashion_mnist_teacher, "stage1": fashion_mnist_stage1, "stage2": fashion_mnist_stage2}
    return base.chain_of("fashion_mnist_chain", arg, stages)
