"""JAX is strict here: rank promotion raises, public signatures are checked by jaxtyping. Everything runs offline on the
CPU."""

import fcntl
import importlib
import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time goes into compiling tiny programs: half of it, where they are not made fast. Children inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# The same tiny programs are compiled by several tests and workers.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax-tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jaxtyping.install_import_hook("guided_distill", "beartype.beartype")

LONGEST = (
    "training",
    "parallel",
    "faults",
    "configs",
    "text_to_image",
    "image_conditions",
    "runs",
    "report",
    "processes",
)


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that the workers end at about the same time."""
    place = {f"test_{name}": k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def oracle():
    """The exact denoiser of an off-centre Gaussian N((0.6, -0.3), 0.25² I), one class: its flow is known in closed
    form."""
    from guided_distill import schedules
    from guided_distill.denoiser import Parameterised
    from guided_distill.models.mixture import Mixture

    network = Mixture(modes=(((0.6, -0.3),),), sigma=0.25)
    return Parameterised(network, "v", "logsnr", schedules.Cosine()).bind({})


@pytest.fixture(scope="session")
def ring():
    """The exact denoiser of four classes with two modes each on the unit circle."""
    from guided_distill import schedules
    from guided_distill.data.mixture2d import modes
    from guided_distill.denoiser import Parameterised
    from guided_distill.models.mixture import Mixture

    return Parameterised(Mixture(modes("RING"), 0.12), "v", "logsnr", schedules.Cosine()).bind({})


def trained_once(tmp_path_factory, name: str) -> Path:
    """A directory with the tiny chain of a config, trained by the first worker that asks; the others wait for it."""
    from guided_distill import launch

    base = tmp_path_factory.getbasetemp()
    workdir = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with workdir.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workdir / "whole").exists():
            chain = importlib.import_module(f"configs.{name}_chain").get_config("tiny")
            launch.train(chain.to_dict(), str(workdir))
            (workdir / "whole").touch()
    return workdir


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A directory with a tiny chain on digits: teacher, stage1, stage2. To be read only."""
    return trained_once(tmp_path_factory, "digits")


@pytest.fixture(scope="session")
def mixture(tmp_path_factory):
    """A directory with a tiny chain on the mixture. To be read only."""
    return trained_once(tmp_path_factory, "mixture2d")
