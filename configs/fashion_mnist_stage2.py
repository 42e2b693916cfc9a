"""Stage two on Fashion-MNIST: the student of stage one halved to 1 step. All settings are our own.

    python main.py --config=configs/fashion_mnist_stage2.py         (about 0.07 A100 hours, estimated)
    python main.py --config=configs/fashion_mnist_stage2.py:cpu     (2 CPU cores, 21 minutes)

Half of the draws are at the last step of the student, where its errors are seen.

Arguments: tiny, cpu (16 x 16, from 64 steps), w=1 (from the single-w student), stochastic, unguided (plain progressive
distillation of the teacher), encoding (towards noise, w = 0).
"""

from configs import base, fashion_mnist_stage1, fashion_mnist_teacher

DEFAULTS = {**fashion_mnist_teacher.DEFAULTS, **base.STAGE2}


def get_config(arg: str = ""):
    """Fashion-MNIST's halved student."""
    config, a = base.stage_two(
        "fashion_mnist_stage2",
        arg,
        fashion_mnist_stage1,
        fashion_mnist_teacher,
        DEFAULTS,
        w_share=0.2,
        w_power=1.5,
        last_share=0.5,
    )
    config.batch_size = 64 if a.cpu else 128
    config.num_updates, config.save_every = (850, 850) if a.cpu else (3_000, 5_000)
    config.halving.start_steps, config.halving.last_updates_factor = (64, 1.55) if a.cpu else (256, 3.0)
    config.halving.last_from = 4
    config.optim.lr, config.optim.warmup = (5e-4, 50) if a.cpu else (1e-4, 0)
    return base.tiny(config, 4) if a.tiny else config
