"""Trains the stage, or the chain of stages, that a config names.

    python main.py --config=configs/digits_stage2.py[:arguments] [--workdir=DIR] [--config.key=value ...]

Run again, it goes on where it stopped. On several machines the same command runs on each (docs/scale.md).
"""

from absl import app, flags
from ml_collections import config_flags

from guided_distill import launch

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/<data>_<stage>.py[:arguments]", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "run directory; runs/<config>[-<arguments>] by default")
PROFILE = flags.DEFINE_bool("profile", False, "leave a trace of some updates in the run directory's profile/")
ADDRESS = flags.DEFINE_string("coordinator_address", None, "host:port of process 0, where JAX does not find it itself")
PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "how many processes there are, with --coordinator_address; 1: this one alone"
)
PROCESS = flags.DEFINE_integer("process_id", None, "which of them this is, from 0 on, with --coordinator_address")
TIMEOUT = flags.DEFINE_integer("peer_timeout", 100, "seconds without a sign of one process, after which JAX ends all")


def train() -> None:
    """What the flags say."""
    launch.join_processes(ADDRESS.value, PROCESSES.value, PROCESS.value, TIMEOUT.value)
    launch.train(CONFIG.value.to_dict(), WORKDIR.value, PROFILE.value)


def main(argv: list[str]) -> int:
    """Returns the exit status: 0, 2 after a mistake, told in one line, or 75 after SIGTERM, when the run has saved."""
    if len(argv) > 1:
        return launch.tell(ValueError(f"unexpected argument {argv[1]!r}; flags look like --config=configs/x.py"))
    launch.prepare_process()
    return launch.guarded(train)


if __name__ == "__main__":
    app.run(main, flags_parser=launch.parse_flags)
