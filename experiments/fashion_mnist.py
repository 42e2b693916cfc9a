"""Fashion-MNIST, the benchmark that anyone can run: the paper's table on it. All settings are our own.

    python -m experiments.fashion_mnist --dry-run                 rows, evaluations, estimated hours
    python -m experiments.fashion_mnist --workdir=DIR [--only=core]           (an accelerator)
    python -m experiments.fashion_mnist --workdir=DIR --cpu --only=core       (16 x 16 pixels, two CPU cores, 3 hours)
    python -m experiments.fashion_mnist --tiny                    minutes, on stand-in pictures

Needs `python -m guided_distill data prepare fashion_mnist` and `make .venv/features`.
"""

import dataclasses
import sys

from configs import fashion_mnist_stage1, fashion_mnist_stage2, fashion_mnist_teacher
from experiments import tables
from guided_distill import launch

TABLE = tables.Table(
    name="fashion_mnist",
    title="Fashion-MNIST: a guided teacher distilled to one step",
    teacher=fashion_mnist_teacher,
    stage1=fashion_mnist_stage1,
    stage2=fashion_mnist_stage2,
    guidance=(1.0, 0.0, 4.0, 0.3, 2.0),  # In the order of measuring: a table that is stopped has the most telling rows.
    num=10_000,
    single_w=(1.0,),
    split="test",
)
CPU = dataclasses.replace(
    TABLE,
    title="Fashion-MNIST at 16 x 16 on two CPU cores: a guided teacher distilled to one step",
    num=2_000,
    more=(1_024, 200, 1.0),
)


def main() -> None:
    """Trains what is missing, writes results.json, sheets and the report."""
    tables.main(TABLE, __doc__, cpu=CPU)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
