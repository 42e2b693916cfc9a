"""How the teacher of Fashion-MNIST's small budget was chosen: networks trained for the same few minutes.

    python -m experiments.fashion_mnist_choice --workdir=DIR [--seed=0] [--tiny]        (2 CPU cores, about 15 minutes)

Each network gets as many updates as two idle cores make in 3 to 4.5 minutes; 500 samples of 32 x 2 evaluations at w =
0 and 1 against 2,000 test images. Writes DIR/results.json, which `publish table` puts on the data set's page.
"""

import sys

import guided_distill
from configs import fashion_mnist_teacher
from experiments.measure import Measure
from experiments.results import Results, arguments
from guided_distill import launch

STEPS, GUIDANCE = 32, (0.0, 1.0)
NETWORKS = {  # (channels, multipliers): updates
    (32, (1, 2, 2)): 650,
    (24, (1, 2, 2)): 1_000,
    (16, (1, 2, 4)): 1_500,
}


def main() -> None:
    """Trains and measures what is missing."""
    args = arguments(__doc__).parse_args()
    launch.prepare_process()
    num, num_reference, features = (32, 100, "pixels") if args.tiny else (500, 2_000, "efficientnet_lite0")
    results = Results(args.workdir, table="fashion_mnist", choice=True, num=num, num_reference=num_reference)
    for (channels, multipliers), updates in NETWORKS.items():
        config = fashion_mnist_teacher.get_config("tiny" if args.tiny else "cpu")
        if not args.tiny:
            config.num_updates, config.sampling.steps, config.save_every = updates, STEPS, updates
        config.network.channels, config.network.channel_multipliers = channels, multipliers
        name = f"{channels} x {', '.join(map(str, multipliers))}"
        run = guided_distill.load(results.train(config, name, args.seed))
        measure = Measure(results, run, num, args.seed, STEPS, features, num_reference, "test")
        for w in GUIDANCE:
            measure.row(name, run, "ddim", STEPS, w, 2 * STEPS, updates=config.num_updates)


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
