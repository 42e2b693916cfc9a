"""From the command line to a trained run: config files and their flags, chains, and mistakes told in one line."""

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging
from ml_collections import ConfigDict

from guided_distill import preemption, trainer
from guided_distill.errors import UserError
from guided_distill.preemption import Preempted

CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
"""What XLA hands to YNNPACK on CPUs: products. Its default has convolutions and sums, too, and is slower for U-Nets; so
are elementwise operations there, most of all in transformers (docs/results/bench.md)."""
FLAG_SINCE, FLAG_UNTIL = (0, 10), (0, 12)  # XLA ends the process over a flag that it does not know.


def config_of(path_and_arg: str) -> ConfigDict:
    """ "configs/x.py[:arguments]" -> its config. Raises `UserError` for a file that is not there, or arguments that it
    does not know."""
    path, _, argument = path_and_arg.partition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        found = sorted(str(p) for p in Path(path).parent.glob("*.py") if p.stem not in ("__init__", "base"))
        raise UserError(
            f"no config {path!r}"
            + (f"; there are {', '.join(found)}" if found else "; give a path such as configs/x.py")
        )
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's parser, for `app.run`; unknown or ill-typed keys end in one line that names the valid ones, and status
    2."""
    try:
        check_keys(argv)
        return flags.FLAGS(list(argv))
    except (UserError, flags.Error, TypeError, ValueError, AttributeError, KeyError) as error:
        raise SystemExit(tell(error)) from None


def check_keys(argv: Sequence[str]) -> None:
    """Raises `UserError` for a `--config` that does not load, or a `--config.key` that it does not have."""
    values = {}
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = flag.lstrip("-").partition("=")
        if flag.startswith("--") and name.split(".")[0] == "config":
            values[name] = value if equals else following
    if "config" not in values:
        if {"--help", "--helpshort", "--helpfull", "-h"} & set(argv):
            return
        raise UserError("--config is missing; for example --config=configs/digits_chain.py")
    config = config_of(values.pop("config"))
    for name in values:
        node, path = config, name.split(".")[1:]
        for depth, key in enumerate(path):
            if not hasattr(node, "keys") or key not in node:
                valid = ", ".join(sorted(node.keys())) if hasattr(node, "keys") else "none"
                raise UserError(f"unknown config key {'.'.join(['config', *path[: depth + 1]])}; valid here: {valid}")
            node = node[key]


def tell(error: BaseException) -> int:
    """One line on standard error; the exit status for it."""
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
    return 2


@contextlib.contextmanager
def warning_in_a_line() -> Iterator[None]:
    """What users are warned of, such as a prompt that is too long, without the place in the code; other kinds of
    warnings are for programmers."""
    whole = warnings.formatwarning

    def line(message: Warning | str, category: type[Warning], *where: Any) -> str:
        users = category is UserWarning
        return f"warning: {' '.join(str(message).split())}\n" if users else whole(message, category, *where)

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = whole


@warning_in_a_line()
def guarded(function: Callable, *args: Any) -> int:
    """function(*args) with a user's mistakes told in one line. Returns the exit status: 0, 2 after a mistake,
    `preemption.STATUS` when it was asked to stop and has saved, 130 after Ctrl-C."""
    try:
        function(*args)
    except (UserError, OSError) as error:  # The latter: a path that cannot be written, a disk that is full.
        return tell(error)
    except Preempted as stopped:
        say(str(stopped))
        return preemption.STATUS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def train(config: Mapping[str, Any], workdir: str | None, profile: bool = False) -> None:
    """Trains the config's stage, or its stages in order, in `workdir` or under runs/. `profile`: with a trace of some
    updates of each."""
    if "stages" not in config:
        trainer.run(config, workdir or default_dir(config), say, profile)
        return
    stages = {name: dict(config["stages"][name]) for name in config["order"]}
    directories = {name: Path(workdir) / name if workdir else default_dir(stage) for name, stage in stages.items()}
    where = {str(default_dir(stage)): str(directories[name]) for name, stage in stages.items()}
    for name, stage in stages.items():
        stage |= {key: config[key] for key in ("num_updates", "save_every") if config[key] and stage["num_updates"]}
        if "teacher" in stage:
            stage["teacher"] = where.get(stage["teacher"], stage["teacher"])
        trainer.run(stage, directories[name], say, profile)


def default_dir(config: Mapping[str, Any]) -> Path:
    """runs/<config>[-<arguments>]."""
    return Path("runs") / (config["name"] + (f"-{config['arguments']}" if config["arguments"] else ""))


def say(text: str) -> None:
    """To standard output, at once: logs are often pipes."""
    print(text, flush=True)


def join_processes(
    address: str | None, num_processes: int | None, process_id: int | None, peer_timeout: int = 100
) -> None:
    """Makes this process one of several: those named by the flags, or those that JAX finds by itself on Slurm, TPU
    pods, Kubernetes and Open MPI; alone where there is neither. To be called before JAX computes anything.

    JAX ends all processes when one has died, has not been heard of for `peer_timeout` seconds, or has ended that much
    earlier than the others. `num_processes` 1 and nothing else: alone, whatever JAX would find. Raises `UserError` when
    some of the flags are missing.
    """
    if num_processes == 1 and address is None and process_id is None:
        return
    given = {"--coordinator_address": address, "--num_processes": num_processes, "--process_id": process_id}
    missing = [flag for flag, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise UserError(f"{' and '.join(missing)} missing: give all of {', '.join(given)}, or none")
    timeouts = {"heartbeat_timeout_seconds": peer_timeout, "shutdown_timeout_seconds": peer_timeout}
    try:
        jax.distributed.initialize(address, num_processes, process_id, **timeouts)
    except ValueError as error:
        if missing and "coordinator_address" in str(error):  # Nothing was found: this process is alone.
            return
        raise UserError(f"cannot join the other processes: {error}") from error
    except RuntimeError as error:
        raise UserError(f"cannot join the other processes at {address or 'the address found'}: {error}") from error


def prepare_process() -> None:
    """Orbax's chatter is silenced. Compiled programs are kept between runs, the small ones too, of which there are
    many, unless JAX_COMPILATION_CACHE_DIR says where (or that it is off, when empty). On CPUs, convolutions and
    elementwise operations are left to XLA's own kernels, unless XLA_FLAGS says otherwise: see `CPU_FLAG`. To be called
    before JAX computes anything."""
    logging.set_verbosity(logging.FATAL)  # Its errors come back as exceptions, and are told once.
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "guided_distill" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    flags_of_xla = os.environ.get("XLA_FLAGS", "")
    known = FLAG_SINCE <= jax.__version_info__[:2] <= FLAG_UNTIL
    if known and CPU_FLAG.split("=")[0] not in flags_of_xla:
        os.environ["XLA_FLAGS"] = f"{flags_of_xla} {CPU_FLAG}".strip()
