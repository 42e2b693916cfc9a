"""Teacher, stage one and stage two on emoji, in order; autoencoder and encoded data have to be there
(docs/text-to-image.md).

    python main.py --config=configs/emoji_chain.py         (about 1.4 A100 hours, estimated)
    python main.py --config=configs/emoji_chain.py:cpu     (2 CPU cores beside other work, 66 minutes; faces at 32)

Arguments as stage two's; they reach the stages that know them.
"""

from configs import base, emoji_stage1, emoji_stage2, emoji_teacher


def get_config(arg: str = ""):
    """The chain."""
    stages = {"teacher": emoji_teacher, "stage1": emoji_stage1, "stage2": emoji_stage2}
    return base.chain_of("emoji_chain", arg, stages)
