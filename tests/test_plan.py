"""Plans on devices that are not there: memory, collectives, what is tried; and mistakes in one line."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from guided_distill import collectives, data, hardware, launch, plans, runs, stages, topologies
from guided_distill.__main__ import main
from guided_distill.errors import UserError

ROOT = Path(__file__).parents[1]
TEACHER = "--config=configs/digits_teacher.py:tiny"
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
PROGRAMS = """
import functools, json, jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 8)
from jax.sharding import AxisType, PartitionSpec as P
from guided_distill import collectives
mesh = jax.make_mesh((8,), ("i",), axis_types=(AxisType.Auto,))
def counted(body, out=P()):
    wrapped = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P("i"), out_specs=out, check_vma=False))
    return collectives.count(wrapped.lower(jnp.zeros((8 * 16, 24))).compile().as_text())
psum = lambda x, _: (jax.lax.psum(x, "i") * 0.5, None)
def scan(body, length):
    return lambda x, _=None: (jax.lax.scan(body, x, None, length=length)[0], None)
print(json.dumps({
    "none": counted(lambda x: x + 1, P("i")),
    "psum": counted(lambda x: psum(x, None)[0]),
    "scan": counted(lambda x: scan(psum, 5)(x)[0]),
    "nested": counted(lambda x: scan(scan(psum, 5), 3)(x)[0]),
    "all_gather": counted(lambda x: jax.lax.all_gather(x, "i")),
    "psum_scatter": counted(lambda x: jax.lax.psum_scatter(x, "i", tiled=True), P("i")),
    "all_to_all": counted(lambda x: jax.lax.all_to_all(x, "i", 0, 0, tiled=True), P("i")),
    "ppermute": counted(lambda x: jax.lax.ppermute(x, "i", [(k, (k + 1) % 8) for k in range(8)]), P("i")),
}))
"""


def python(*arguments: str) -> str:
    """Standard output of a process of its own: JAX may not have begun before the number of devices is set."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax-tests")}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plan(*arguments: str) -> dict:
    return json.loads(python("-m", "guided_distill", "plan", "--json", *arguments))


@pytest.fixture(scope="module")
def counted():
    return json.loads(python("-c", PROGRAMS))


def test_bytes_of_each_collective(counted):
    block = 16 * 24 * 4  # What a device holds.
    assert counted["none"] == {}
    assert counted["psum"] == {"all-reduce": block}
    assert counted["all_gather"] == {"all-gather": 8 * block}
    assert counted["psum_scatter"] == {"reduce-scatter": block}
    assert counted["all_to_all"] == {"all-to-all": block}
    assert counted["ppermute"] == {"collective-permute": block}


def test_a_loop_sends_as_often_as_it_runs(counted):
    block = 16 * 24 * 4
    assert counted["scan"] == {"all-reduce": 5 * block}
    assert counted["nested"] == {"all-reduce": 15 * block}


def test_collectives_that_are_begun_and_done_count_once():
    hlo = """HloModule m

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%wrapped (p: bf16[4,8]) -> bf16[4,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %r = bf16[4,8]{1,0:T(8,128)(2,1)} all-reduce(%p), replica_groups={}, to_apply=%sum
}

ENTRY %main (x: f32[2,8], y: bf16[4,8]) -> f32[16,8] {
  %x = f32[2,8]{1,0} parameter(0)
  %y = bf16[4,8]{1,0} parameter(1)
  %f = bf16[4,8]{1,0} fusion(%y), kind=kCustom, calls=%wrapped
  %start = (f32[2,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%x), dimensions={0}
  %moved = (f32[2,8]{1,0}, f32[2,8]{1,0}, u32[], u32[]) collective-permute-start(f32[2,8]{1,0} %x)
  %there = f32[2,8]{1,0} collective-permute-done(%moved)
  ROOT %out = f32[16,8]{1,0} all-gather-done(%start)
}
"""
    expected = {"all-reduce": 4 * 8 * 2, "all-gather": 16 * 8 * 4, "collective-permute": 2 * 8 * 4}
    assert collectives.count(hlo) == expected
    assert collectives.link_bytes(expected) == 2 * 64 + 512 + 64


def test_a_loop_without_a_known_count_goes_by_its_bound():
    hlo = """
%below (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %bound = s32[]{:T(128)} constant(4)
  %k = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%k, %bound), direction=LT
}

%body (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%q), index=1
  %y = f32[8]{0} all-reduce(%x), channel_id=1, to_apply=%sum, backend_config={"known_trip_count":{"n":"9"}}
  ROOT %r = (s32[], f32[8]{0}) tuple(%k, %y)
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[], f32[8]{0}) parameter(0)
  ROOT %w = (s32[], f32[8]{0}) while(%a), condition=%below, body=%body
}
"""
    assert collectives.count(hlo) == {"all-reduce": 4 * 8 * 4}
    known = hlo.replace("body=%body\n", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}\n')
    assert collectives.count(known) == {"all-reduce": 3 * 8 * 4}


@pytest.mark.parametrize(
    ("text", "size"),
    [("f32[8,3]{1,0:T(8,128)}", 96), ("(bf16[5], s8[3]{0}, pred[])", 14), ("f32[]", 4), ("token[]", 0), ("s4[3]", 2)],
)
def test_bytes_of_a_type(text, size):
    assert collectives.bytes_of(text) == size


@pytest.fixture(scope="module")
def whole_and_split():
    """Plans of a teacher whose leaves are mostly large enough to be split, on eight devices."""
    more = [TEACHER, "--devices=8", "--config.network.channels=64"]
    return plan(*more), plan(*more, "--config.mesh.data=1", "--config.mesh.fsdp=8")


def test_memory_by_kind_is_that_of_the_shapes(whole_and_split):
    whole, _ = whole_and_split
    config = launch.config_of("configs/digits_teacher.py:tiny").to_dict()
    config["network"]["channels"] = 64
    weights = jax.tree.leaves(runs.abstract_weights(plans.build(config).manifest))
    params = 4 * sum(math.prod(leaf.shape) for leaf in weights)
    assert whole["params_gib"] == whole["ema_gib"] == params / 2**30
    assert whole["optimiser_gib"] == (2 * params + 4 + 4 + 8) / 2**30  # moments; their count, step, skipped
    assert whole["teacher_gib"] == 0
    assert whole["batch_gib"] == 2 * (8 * 8 * 1 + 4) / 2**30  # two pictures of 16, and their labels
    state = sum(whole[f"{kind}_gib"] for kind in ("params", "ema", "teacher", "optimiser", "batch"))
    assert state < whole["needed_gib"] and whole["temporaries_gib"] > 0
    assert whole["fits"] and whole["limit_gib"] is None
    assert whole["mesh_data"] == 8 and (whole["dtype"], whole["remat"]) == ("float32", "none")


def test_gradients_are_reduced_once(whole_and_split):
    whole, split = whole_and_split
    params = whole["params_gib"] * 2**30 / 1e6
    assert params <= whole["all_reduce_mb"] <= 1.05 * params + 0.01  # and a few scalars
    assert whole["all_gather_mb"] < 0.1 * params
    assert split["all_gather_mb"] > 0.9 * params  # what is split is gathered where it is needed


def test_fsdp_leaves_an_eighth_of_the_state(whole_and_split):
    whole, split = whole_and_split
    for kind in ("params", "ema", "optimiser"):
        assert 1 / 8 <= split[f"{kind}_gib"] / whole[f"{kind}_gib"] < 1 / 8 + 0.03
    assert split["batch_gib"] == whole["batch_gib"]
    assert split["gflops"] == whole["gflops"] > 0


def test_a_plan_is_of_what_training_would_do(digits, tmp_path, monkeypatch):
    """Where nothing is trained, teachers are known by the configs that make them."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    config = launch.config_of("configs/digits_stage2.py:tiny").to_dict()
    planned = plans.build(config)
    trained = stages.build(config | {"teacher": str(digits / "stage1")})
    differ = {key for key, value in trained.manifest.items() if planned.manifest[key] != value}
    assert differ == {"teacher"}
    assert planned.manifest["teacher"] == [{"run": config["teacher"], "step": 8, "hash": ""}]
    shapes = lambda stage: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), stage.abstract())  # noqa: E731
    assert shapes(planned) == shapes(trained)
    assert planned.rounds == trained.rounds and not any(tmp_path.glob("runs/*"))


def test_a_teacher_may_be_exact(monkeypatch):
    monkeypatch.chdir(ROOT)
    stage = plans.build(launch.config_of("configs/mixture2d_stage1.py:tiny").to_dict())
    assert plans.by_kind(stage.layout(jax.devices()[:1]).place(stage.abstract()), {})["teacher"] == 0


def test_data_need_not_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("GUIDED_DISTILL_DATA", str(tmp_path))
    stage = plans.build(launch.config_of("configs/imagenet64_teacher.py").to_dict())
    mesh = stage.layout(jax.devices()[:1]).mesh
    batch = plans.abstract_batch(stage, mesh)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
        "x": ((2048, 64, 64, 3), np.uint8),
        "label": ((2048,), np.int32),
    }
    assert data.empty("fashion_mnist", size=16).info.shape == (16, 16, 1)
    assert data.empty("imagenet64", classes=False).info.num_classes == 0
    assert len(data.empty("digits")) == 0 and data.empty("digits").info == data.load("digits").info
    with pytest.raises(UserError, match="colour"):
        data.empty("cifar10", colour=True)


def program(setting, fits, temporaries, state=4, limit=10) -> plans.Program:
    needed = state + (temporaries or 0)
    return plans.Program(setting, fits, {"params": state}, temporaries, needed, limit, 1.0, {}, 0.0)


def config_with(**compute) -> dict:
    return {"compute": {"remat": "", "accumulate": 1, **compute}, "mesh": {"data": -1, "fsdp": 1, "tensor": 1}}


def searched(monkeypatch, state: float, temporaries: dict, split: int = 8, **compute) -> list[dict]:
    """Settings that are compiled where temporaries are those of their remat, by k in k parts, and the limit is 10."""

    def compile_step(config, setting, devices, limit, thorough):
        kept = math.ceil(state / (split if setting.get("mesh.fsdp") else 1))
        if kept > 10:
            return program(setting, False, None, kept)
        needs = temporaries[setting.get("compute.remat", compute.get("remat", ""))]
        needs = math.ceil(needs / setting.get("compute.accumulate", 1))
        return program(setting, kept + needs <= 10, needs, kept)

    monkeypatch.setattr(plans, "compile_step", compile_step)
    return [found.setting for found in plans.search(config_with(**compute), jax.devices()[:1] * 8)]


def test_settings_are_tried_in_order_until_one_fits(monkeypatch):
    dots, full = {"compute.remat": "dots"}, {"compute.remat": "full"}
    assert searched(monkeypatch, 4, {"": 6}) == [{}]
    assert searched(monkeypatch, 4, {"": 40, "dots": 5}) == [{}, dots]
    parts = [{"compute.accumulate": number} for number in (2, 4, 8)]
    assert searched(monkeypatch, 4, {"": 11, "dots": 9, "full": 8}) == [{}, dots, full, parts[0]]
    assert searched(monkeypatch, 4, {"": 99, "dots": 90, "full": 40}) == [{}, dots, full, full | parts[2]]
    assert searched(monkeypatch, 4, {"full": 11}, remat="full") == [{}, parts[0]]


def test_what_cannot_fit_is_not_compiled(monkeypatch):
    found = searched(monkeypatch, 4, {"": 20, "dots": 20, "full": 20})
    assert found[-2:] == [{"compute.remat": "full"}, {"compute.accumulate": 4}]  # Not two parts: they leave 10.


def test_a_state_that_does_not_fit_is_split(monkeypatch):
    split = {"mesh.data": 1, "mesh.fsdp": -1}
    assert searched(monkeypatch, 40, {"": 5}) == [{}, split]


def test_a_setting_that_fits_nowhere_ends(monkeypatch):
    found = searched(monkeypatch, 4, {"": 1e6, "dots": 1e6, "full": 1e6})
    assert len(found) == len({str(setting) for setting in found}) > 3


@pytest.mark.parametrize(
    ("message", "state", "needed", "limit"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
            "Used 18.40G of 15.75G hbm. Exceeded hbm capacity by 2.65G.",
            2**30,
            18.4 * 2**30,
            15.75 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (34.49G) "
            "exceeds available HBM (15.75G).",
            2**30,
            35.49 * 2**30,
            15.75 * 2**30,
        ),
        ("Used 512.0M of 256.5K hbm", 7, 2**29, 256.5 * 2**10),
    ],
)
def test_refusals_are_read(message, state, needed, limit):
    assert plans.refusal(message, state) == (int(needed), int(limit))


def test_other_failures_are_no_refusals():
    assert plans.refusal("INTERNAL: out of luck", 0) is None


def test_estimates_are_the_longest_of_three():
    sent = {"all-reduce": 10**9, "all-gather": 10**9}
    of = plans.Program({}, True, {"params": 10**9}, 10**9, 2 * 10**9, None, 8e15, sent, 0.0)
    v5e = next(e for e in plans.estimates(of, 8, 8) if e.name == "TPU v5e")
    assert v5e.compute == pytest.approx(1e15 / (197e12 * hardware.UTILISATION))
    assert v5e.memory == pytest.approx(4e9 / 819e9)
    assert v5e.links == pytest.approx(3e9 / 200e9)
    assert v5e.step == v5e.compute
    halves = next(e for e in plans.estimates(of, 16, 8) if e.name == "TPU v5e")
    assert halves.links == pytest.approx(2 * v5e.links)  # A chip of two devices sends what both do.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((TEACHER, "--topology=v5e"), "no topology 'v5e'"),
        ((TEACHER, "--devices=0"), "--devices 0 is not positive"),
        ((TEACHER, "--devices=1", "--config.mesh.fsdp=3"), "fsdp 3"),
        ((TEACHER, "--devices=1", "--config.mesh.fdsp=3"), "unknown config key config.mesh.fdsp"),
        ((TEACHER, "--devices=1", "--config.batch_size=many"), "many"),
        (("--config=configs/digits_chain.py:tiny", "--devices=1"), "configs/digits_stage1.py"),
        (("--config=configs/none.py", "--devices=1"), "no config 'configs/none.py'"),
        (("--config=configs/mixture2d_teacher.py", "--devices=1"), "trains nothing"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["plan", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


def test_too_many_devices_for_a_process_that_has_begun():
    with pytest.raises(UserError, match="process of its own"):
        topologies.of_cpu(len(jax.devices()) + 1)


def test_a_missing_libtpu_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu.*requirements-tpu-plan\.txt.*--devices"):
        topologies.of_tpu("v5e:2x4")


def test_flags_of_other_verbs_are_refused_as_before(capsys):
    with pytest.raises(SystemExit) as end:
        main(["sample", "runs/none", "--config.x=1"])
    assert end.value.code == 2 and "unrecognized" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed (requirements-tpu-plan.txt)")
@pytest.mark.peers
def test_a_tpu_slice():
    found = plan(TEACHER, "--topology=v5e:2x4")
    assert found["devices"] == found["chips"] == 8 and found["fits"]
    with pytest.raises(UserError, match="v99"):
        topologies.of_tpu("v99:2x2")
