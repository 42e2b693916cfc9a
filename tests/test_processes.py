"""Two real processes on this machine: they train as one does, one's death ends both, and started again they go on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import digits_chain, mixture2d_stage1, mixture2d_stage2
from guided_distill import checkpoint, launch, preemption, stages, trainer
from guided_distill.errors import UserError

ROOT = Path(__file__).parents[1]
PEER_TIMEOUT = 10  # Seconds.
CHAIN = {"num_updates": 20, "save_every": 20}
LONG = {"num_updates": 200, "save_every": 100, "log_every": 1}


def flags(values, prefix="config"):
    """--config.a.b=value for a nested dict."""
    out = []
    for name, value in values.items():
        path = f"{prefix}.{name}"
        out += flags(value, path) if isinstance(value, dict) else [f"--{path}={value}"]
    return out


def launched(config, workdir, changes, process=None, port=None, devices=1):
    """One process of main.py, one of two where `process` is given; what it says is in its stdout."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    if devices > 1:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "main.py", f"--config=configs/{config}", f"--workdir={workdir}", *flags(changes)]
    if process is not None:
        command += [f"--coordinator_address=localhost:{port}", "--num_processes=2", f"--process_id={process}"]
        command += [f"--peer_timeout={PEER_TIMEOUT}"]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture
def pair():
    """(config, workdir, changes) -> two processes, which do not outlive the test."""
    running = []

    def start(config, workdir, changes):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        both = [launched(config, workdir, changes, process, port) for process in (0, 1)]
        running.extend(both)
        return both

    yield start
    for process in running:
        process.kill()
        process.wait()


def ended(processes, statuses):
    """Waits for both, and returns what they said."""
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == statuses, "\n".join(text[-3000:] for text in said)
    return said


def until(process, text):
    """Returns when the process has said it."""
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            return
    raise AssertionError(f"ended before {text!r}: {''.join(said)[-3000:]}")


def rows(run_dir):
    """{step: loss}; every step stands there once."""
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in found if row["kind"] == "train"]
    assert [row["step"] for row in found] == sorted({row["step"] for row in found})
    return {row["step"]: row["loss"] for row in found}


def require_same_losses(found, wanted, updates=20):
    """To 1e-5, over the first `updates` of each round of both runs."""
    assert found.keys() == wanted.keys() and len(wanted) >= updates
    first = sorted(wanted)[:updates]
    np.testing.assert_allclose([found[k] for k in first], [wanted[k] for k in first], rtol=1e-5)


def quiet(text):
    """Says nothing."""


def final_state(run_dir, config):
    """Every array of the newest checkpoint, on one device, and its step."""
    stage = stages.build(config)
    state, step = trainer.begin(stage, checkpoint.Checkpoints(run_dir), stage.layout())
    return jax.device_get(state), step


def test_two_processes_train_as_one_does(pair, mixture, tmp_path):
    changes = {"log_every": 1, "teacher": str(mixture / "teacher")}
    both = pair("mixture2d_stage1.py:tiny", tmp_path / "two", changes)
    config = mixture2d_stage1.get_config("tiny")
    config.update(changes)
    trainer.run(config.to_dict(), tmp_path / "one", say=quiet)
    said = ended(both, [0, 0])
    require_same_losses(rows(tmp_path / "two"), rows(tmp_path / "one"))
    names = [sorted(p.name for p in (tmp_path / of).rglob("*.png")) for of in ("one", "two")]
    assert names[0] == names[1] == ["00000020.png"]
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert "2 x cpu" in said[0] and "update 0 of 20" not in said[1]  # Only process 0 speaks.
    states = [final_state(tmp_path / of, config.to_dict())[0] for of in ("one", "two")]
    for one, two in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.long
def test_two_processes_train_the_whole_chain_as_one_does(pair, tmp_path):
    changes = CHAIN | {"stages": {name: {"log_every": 1} for name in ("teacher", "stage1", "stage2")}}
    both = pair("digits_chain.py:tiny", tmp_path / "two", changes)
    config = digits_chain.get_config("tiny")
    config.update(changes)
    launch.train(config.to_dict(), str(tmp_path / "one"))
    ended(both, [0, 0])
    for name in ("teacher", "stage1", "stage2"):
        found, wanted = rows(tmp_path / "two" / name), rows(tmp_path / "one" / name)
        assert len(wanted) == (80 if name == "stage2" else 20)
        np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=1e-5)


@pytest.fixture(scope="module")
def halved(mixture):
    """The config of three rounds of 200 updates."""
    config = mixture2d_stage2.get_config("tiny")
    config.update(LONG | {"teacher": str(mixture / "stage1")})
    return config.to_dict()


def changes_of(config):
    """Flags that make it from the tiny one."""
    return LONG | {"teacher": config["teacher"]}


@pytest.mark.long
def test_after_kills_and_a_warning_two_processes_end_where_undisturbed_ones_do(pair, halved, tmp_path):
    """Bit for bit."""
    name, changes, run_dir = "mixture2d_stage2.py:tiny", changes_of(halved), tmp_path / "disturbed"
    ended(pair(name, tmp_path / "whole", changes), [0, 0])
    for victim, after in ((1, "round 1 of 3"), (0, "update ")):
        both = pair(name, run_dir, changes)
        until(both[0], after)
        both[victim].kill()
        survivor = both[1 - victim]
        survivor.communicate(timeout=20 * PEER_TIMEOUT)
        assert survivor.returncode not in (0, 2, preemption.STATUS)
    both = pair(name, run_dir, changes)
    until(both[0], "round 2 of 3")
    both[1].send_signal(signal.SIGTERM)
    said = ended(both, [preemption.STATUS] * 2)
    _, step = final_state(run_dir, halved)
    assert 400 <= step < 600 and f"saved after update {step}" in said[0]
    ended(pair(name, run_dir, changes), [0, 0])
    (found, end), (wanted, total) = (final_state(of, halved) for of in (run_dir, tmp_path / "whole"))
    assert end == total == 600
    assert jax.tree.all(jax.tree.map(np.array_equal, found, wanted))
    assert rows(run_dir) == rows(tmp_path / "whole")


@pytest.mark.long
def test_two_processes_go_on_from_a_checkpoint_of_eight_devices(pair, halved, tmp_path):
    name, changes, run_dir = "mixture2d_stage2.py:tiny", changes_of(halved), tmp_path / "eight"
    eight = launched(name, run_dir, changes | {"mesh": {"data": 1, "fsdp": 8}}, devices=8)
    until(eight, "round 1 of 3")
    eight.send_signal(signal.SIGTERM)
    ended([eight], [preemption.STATUS])
    start = final_state(run_dir, halved)[1]
    assert 200 <= start < 600
    shutil.copytree(run_dir, tmp_path / "one")
    both = pair(name, run_dir, changes | {"mesh": {"data": 1, "fsdp": 2}})
    trainer.run(halved, tmp_path / "one", say=quiet)
    ended(both, [0, 0])
    found, wanted = rows(run_dir), rows(tmp_path / "one")
    following = [step for step in wanted if start < step <= start + 20]
    np.testing.assert_allclose([found[k] for k in following], [wanted[k] for k in following], rtol=1e-5)


def test_half_of_the_flags_is_a_mistake():
    with pytest.raises(UserError, match="--num_processes and --process_id missing: give all of") as caught:
        launch.join_processes("localhost:1", None, None)
    assert "\n" not in str(caught.value)
