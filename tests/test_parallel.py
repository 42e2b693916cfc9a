"""Where arrays live: the rules in closed form, batches over processes, accumulation, and that no result depends on the
mesh."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from configs import digits_teacher, mixture2d_stage1
from guided_distill import data, launch, parallel, stages, train_step, trainer
from guided_distill.errors import UserError

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Device:
    """Enough of one for a mesh that nothing is computed on."""

    id: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"
    client: None = None


def mesh_of(data=1, fsdp=1, tensor=1, processes=1):
    """A mesh of devices that are not there, shared evenly by some processes."""
    count = data * fsdp * tensor
    devices = np.array([Device(k, k * processes // count) for k in range(count)]).reshape(data, fsdp, tensor)
    return Mesh(devices, parallel.AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    "rule, shape, expected",
    [
        ("fsdp", (3, 3, 128, 256), P(None, None, None, "fsdp")),
        ("fsdp", (3, 3, 256, 128), P(None, None, "fsdp", None)),
        ("fsdp", (256, 256), P(None, "fsdp")),  # The last of equals.
        ("fsdp", (1001, 64), P(None, "fsdp")),  # The longest axis that 4 divides, not the longest.
        ("fsdp", (1001, 63), P(None, None)),
        ("fsdp", (parallel.SMALL,), P("fsdp")),
        ("fsdp", (parallel.SMALL - 4,), P(None)),
        ("fsdp", (), P()),
        ("replicate", (256, 256), P()),
        ("columns", (128, 256), P("fsdp", "tensor")),
        ("columns", (3, 3, 128, 256), P(None, None, "fsdp", "tensor")),
        ("columns", (256,), P("tensor")),
        ("columns", (512, 3), P("fsdp", None)),
        ("rows", (128, 256), P("tensor", "fsdp")),
        ("rows", (3, 3, 128, 256), P(None, None, "tensor", "fsdp")),
        ("rows", (256,), P(None)),  # A bias of the second product is added once, by all.
        ("rows", (), P()),
    ],
)
def test_rules_in_closed_form(rule, shape, expected):
    assert parallel.RULES[rule](shape, mesh_of(data=2, fsdp=4, tensor=2)) == expected


def test_rules_split_nothing_over_axes_of_one_device():
    for rule in parallel.RULES.values():
        assert set(rule((256, 256), mesh_of(data=8))) <= {None}
        assert "tensor" not in rule((256, 256), mesh_of(fsdp=8))


def test_a_leaf_takes_the_first_rule_that_is_found_in_its_path():
    tree = {"a": {"kernel": jnp.zeros((64, 64)), "bias": jnp.zeros((64,))}, "b": [jnp.zeros((64, 64))]}
    mesh = mesh_of(fsdp=2, tensor=2)
    rules = (("a/k", "columns"), ("kernel", "replicate"), ("^b/0$", "rows"), ("", "fsdp"))
    specs = jax.tree.map(lambda sharding: sharding.spec, parallel.Layout(mesh, rules).shardings(tree))
    assert specs == {"a": {"kernel": P("fsdp", "tensor"), "bias": P(None)}, "b": [P("tensor", "fsdp")]}
    later = parallel.Layout(mesh, (("kernel", "replicate"), *rules)).shardings(tree)
    assert later["a"]["kernel"].spec == P()
    with pytest.raises(UserError, match=r"no rule of config\.sharding matches b/0"):
        parallel.Layout(mesh, (("a/", "fsdp"),)).shardings(tree)
    with pytest.raises(UserError, match=r"rule in config\.sharding"):
        parallel.Layout(mesh, (("", "stripes"),)).shardings(tree)


def test_moments_average_and_teacher_lie_where_their_weights_do():
    config = digits_teacher.get_config()
    abstract = stages.build(config.to_dict()).abstract()
    shardings = parallel.Layout(mesh_of(fsdp=8)).shardings(abstract)
    moments = shardings.opt_state[1]
    for like in (shardings.ema, moments.mu, moments.nu):
        assert like == shardings.params
    specs = [sharding.spec for sharding in jax.tree.leaves(shardings.params)]
    assert any("fsdp" in spec for spec in specs) and shardings.step.spec == P()


@pytest.mark.parametrize(
    "sizes", [{"data": 3}, {"data": -1, "fsdp": 3}, {"data": -1, "fsdp": -1}, {"data": 0}, {"data": -1, "tensor": 16}]
)
def test_a_mesh_that_is_not_the_devices_is_refused(sizes):
    with pytest.raises(UserError, match="does not make up the 8 devices") as caught:
        parallel.make_mesh(jax.devices()[:1] * 8, **sizes)
    assert "\n" not in str(caught.value) and "-1 is what is left" in str(caught.value)


def test_minus_one_is_what_is_left():
    one = jax.devices()[:1]
    for sizes in ({}, {"data": 1, "fsdp": -1}, {"data": 1, "tensor": -1}):
        assert dict(parallel.make_mesh(one, **sizes).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sharding": (("", "stripes"),)}, "rule in config.sharding.*stripes.*columns"),
        ({"sharding": (("kernel",),)}, r"\(pattern, rule\) pairs"),
        ({"sharding": (("kernel", "fsdp"),)}, "no rule of config.sharding matches .*end it with"),
        ({"mesh": {"data": 1, "fsdp": 3}}, r"config.mesh \(data 1, fsdp 3, tensor 1\)"),
        ({"compute": {"updates_per_call": 3}}, r"updates_per_call 3 does not divide log_every, 4"),
        ({"compute": {"updates_per_call": 0}}, "config.compute.updates_per_call 0 is less than 1"),
        ({"compute": {"accumulate": 5}}, "batch_size 16 is not divisible by config.compute.accumulate 5"),
    ],
)
def test_mistakes_are_told_in_one_line_before_anything_is_trained(changes, message, tmp_path):
    config = digits_teacher.get_config("tiny")
    config.update(changes)
    with pytest.raises(UserError, match=message) as caught:
        trainer.run(config.to_dict(), tmp_path / "run", say=lambda text: None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_batch_is_divided_by_the_devices_that_share_it():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)  # Devices along "tensor" have the same rows.
    parallel.check_batch_size(8, mesh, accumulate=2)
    with pytest.raises(UserError, match="batch_size 6 is not divisible by the 4 devices"):
        parallel.check_batch_size(6, mesh)
    with pytest.raises(UserError, match="batch_size 8 / accumulate 4 is not divisible by the 4 devices"):
        parallel.check_batch_size(8, mesh, accumulate=4)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 4}, {"data": 4, "tensor": 2}])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_read_each_row_once(sizes, processes, monkeypatch):
    mesh, rows = mesh_of(**sizes, processes=processes), []
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        rows.append(parallel.local_rows(16, mesh))
    assert [len(part) for part in rows] == [16 // processes] * processes
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(16))


def test_processes_along_tensor_read_the_same_rows(monkeypatch):
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        np.testing.assert_array_equal(parallel.local_rows(16, mesh_of(tensor=2, processes=2)), np.arange(16))


def test_over_an_epoch_processes_see_every_example_once(monkeypatch):
    """And together they see the batches that one process would, in order."""
    source, size, mesh = data.load("digits"), 64, mesh_of(data=4, processes=2)
    of_all, parts = data.batches(source, size, 0), []
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        rows = parallel.local_rows(size, mesh)
        parts.append((rows, data.batches(source, size, 0, 0, rows)))
    seen = []
    for _ in range(-(-len(source) // size)):
        whole, joined = next(of_all)["x"], np.empty((size, 8, 8, 1), np.uint8)
        for rows, of_process in parts:
            joined[rows] = next(of_process)["x"]
        np.testing.assert_array_equal(joined, whole)
        seen.append(joined.reshape(size, -1))
    seen = np.concatenate(seen)[: len(source)]
    assert sorted(map(bytes, seen)) == sorted(map(bytes, source.arrays["x"].reshape(len(source), -1)))


@pytest.fixture
def step_of(mixture, monkeypatch):
    """(ingredients, state, batch of 64) of the tiny stage one on the mixture."""
    config = mixture2d_stage1.get_config("tiny")
    config.teacher = str(mixture / "teacher")
    made, make = [], train_step.make
    monkeypatch.setattr(train_step, "make", lambda of: made.append(of) or make(of))
    stage, of = stages.build(config.to_dict()), made[0]
    state = jax.jit(stage.init)(stage.leaves(stage.layout())).replace(step=jnp.int32(3))
    return of, state, jax.tree.map(jnp.asarray, next(data.batches(stage.source, 64, 0)))


def test_accumulation_is_the_mean_of_its_parts(step_of):
    of, state, batch = step_of
    steps = of.rounds.num_steps_at(state.step)
    found = jax.jit(lambda: train_step.gradient_of(dataclasses.replace(of, accumulate=4), state, batch, steps))()

    def part(params, rows, draw):
        return train_step.total_loss(of, params, state, train_step.prepare(of, rows, draw), steps, draw)[0]

    value = jax.jit(jax.value_and_grad(part))  # Part k: rows k, k + 4, ...; draws are numbered on over all parts.
    rows = [{name: value[k::4] for name, value in batch.items()} for k in range(4)]
    parts = [value(state.params, rows[k], jnp.int32(4 * 3 + k)) for k in range(4)]
    wanted = jax.tree.map(lambda *values: np.mean(values, axis=0), *parts)
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-6)
    assert relative(found[2], wanted[1]) < 1e-6
    assert np.ptp([float(loss) for loss, _ in parts]) > 1e-3  # Or it would not matter which rows and draws.


def relative(found, wanted):
    """The norm of the difference over that of what is wanted."""
    found, wanted = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (found, wanted))
    return float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))


def test_without_random_draws_accumulation_changes_nothing(step_of):
    of, state, batch = step_of

    def objective(key, nets, batch, num_steps):
        size = len(batch["x"])
        cond = {"label": batch["label"], "guidance": jnp.ones(size)}
        found = nets.student(batch["x"], jnp.zeros(size), cond).x
        return {"student": jnp.mean((found - batch["x"] ** 2) ** 2, axis=-1)}, {}

    of, gradients = dataclasses.replace(of, objective=objective), {}
    for parts in (1, 4):
        part = dataclasses.replace(of, accumulate=parts)
        gradients[parts] = jax.jit(lambda part=part: train_step.gradient_of(part, state, batch, jnp.int32(0))[2])()
    assert relative(gradients[4], gradients[1]) < 1e-6


def test_several_updates_a_call_are_those_updates(step_of):
    of, state, batch = step_of
    step = jax.jit(train_step.make(of))
    batches = [{name: jnp.roll(value, k, axis=0) for name, value in batch.items()} for k in range(4)]
    single = state
    for each in batches:
        single, metrics = step(single, each)
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *batches)
    together, last = jax.jit(train_step.repeat(train_step.make(of)))(state, stacked)
    assert int(together.step) == 7
    assert relative(together.params, single.params) < 1e-6
    assert relative(together.opt_state, single.opt_state) < 1e-6
    assert set(last) == set(metrics)
    for name, value in last.items():
        assert float(value) == pytest.approx(float(metrics[name]), rel=1e-5), name


@pytest.fixture(scope="module")
def meshes(mixture):
    """What tests/meshes.py found with eight devices."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {launch.CPU_FLAG}",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
    }
    command = [sys.executable, str(ROOT / "tests" / "meshes.py"), str(mixture / "stage1")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 8
    return found


@pytest.mark.parametrize("network", ["mlp", "unet"])
def test_every_mesh_computes_what_one_device_does(meshes, network):
    """The first gradient, and outputs after ten updates. Single weights may differ by more: Adam makes rounding errors
    of gradients that are truly zero as large as any."""
    found = meshes[network]
    assert found["1"]["moved"] > 1e-3
    assert len(found) > 1
    for label, of_mesh in found.items():
        assert of_mesh["gradient"] < 1e-6, label
        assert of_mesh["outputs"] < 1e-5, label


def test_accumulation_on_eight_devices_moves_no_rows(meshes):
    """It is what one device computes, and the devices send each other sums of gradients and nothing else."""
    assert meshes["accumulated"]["gradient"] < 1e-6
    assert set(meshes["accumulated"]["sent"]) == {"all-reduce"}


def test_fsdp_divides_the_state(meshes):
    assert 1 / 8 < meshes["share"] < 1 / 7
    assert meshes["held"][0] == pytest.approx(meshes["held"][1])


def test_a_checkpoint_of_eight_devices_restores_on_fewer(meshes):
    assert meshes["restored"] == {"1": True, "fsdp 2": True}


def test_samples_do_not_depend_on_the_mesh(meshes):
    assert meshes["samples"] < 1e-5
