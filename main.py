"""Trains the stage, or the chain of stages, that a config names.

    python main.py --config=configs/digits_stage2.py[:arguments] [--workdir=DIR] [--config.key=value ...]

Run again, it goes on where it stopped.
"""

from absl import app, flags
from ml_collections import config_flags

from guided_distill import launch

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/<data>_<stage>.py[:arguments]", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "run directory; runs/<config>[-<arguments>] by default")


def main(argv: list[str]) -> int:
    """Returns the exit status: 0, or 2 after a mistake, told in one line."""
    if len(argv) > 1:
        return launch.tell(ValueError(f"unexpected argument {argv[1]!r}; flags look like --config=configs/x.py"))
    launch.prepare_process()
    return launch.guarded(launch.train, CONFIG.value.to_dict(), WORKDIR.value)


if __name__ == "__main__":
    app.run(main, flags_parser=launch.parse_flags)
