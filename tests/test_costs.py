"""Costs: closed forms, counts against the step that trains, and a child process that starts with nothing."""

import json
import shutil
import subprocess

import jax
import numpy as np
import pytest

from configs import digits_stage1, digits_stage2, digits_teacher
from guided_distill import conditions, costs, flops, plans, runs, samplers, schedules, sweeps, train_step
from guided_distill.__main__ import main
from guided_distill.errors import UserError
from guided_distill.report import chain, parts


@pytest.fixture
def copied(digits, tmp_path):
    """A copy of the tiny digits chain."""
    return shutil.copytree(digits, tmp_path / "copy")


def test_paid_back_is_the_first_image_at_which_it_has_saved_its_cost():
    rng = np.random.default_rng(0)
    for cost, before, saved in rng.integers(1, 1000, (200, 3)):
        n = costs.payback(int(cost), int(before + saved), int(before))
        assert n * saved >= cost > (n - 1) * saved
    assert costs.payback(1.0, 2.0, 2.0) is None and costs.payback(1.0, 1.0, 2.0) is None


@pytest.mark.parametrize("module", [digits_teacher, digits_stage1, digits_stage2], ids=lambda m: m.__name__[15:])
def test_a_training_is_as_many_flops_as_its_traced_steps(module):
    config = module.get_config("tiny").to_dict()
    stage = plans.build(config)
    layout = stage.layout()
    state, batch = layout.place(stage.abstract()), plans.abstract_batch(stage, layout.mesh)
    above = []
    if config.get("teacher"):
        names = ("teacher", "teacher_unconditional", "teacher_command")
        above = [plans.untrained(*(config[name] for name in names)).manifest]
    manifest, counted = stage.manifest, 0.0
    for k, (begin, end) in enumerate(zip((0, *stage.rounds.ends), stage.rounds.ends)):
        traced = train_step.trace(stage.steps[min(k, 1)], state, batch, 1) if k < 2 else traced
        counted += (end - begin) * flops.of_jaxpr(traced.jaxpr.jaxpr)
    assert costs.training_flops(manifest, above, config["batch_size"]) == pytest.approx(counted, rel=0.02)
    assert costs.training_flops(manifest, above, config["batch_size"], 0) == 0


def test_evaluations_are_what_a_sampler_does(digits):
    for name, sampler in (("teacher", "ddim"), ("teacher", "heun"), ("stage1", "dpmpp_2m")):
        manifest = runs.read_manifest(digits / name)
        z = jax.ShapeDtypeStruct((1, *manifest["code_shape"]), np.float32)
        grid = schedules.grid(schedules.make(**manifest["schedule"]), 8)

        def whole(params, z, cond, manifest=manifest, sampler=sampler, grid=grid):
            return samplers.sample(jax.random.key(0), runs.bind(manifest)(params), samplers.get(sampler), z, cond, grid)

        counted = flops.count(whole, runs.abstract_weights(manifest), z, conditions.example(manifest))
        one = costs.step_flops(manifest, guided=False)
        assert counted / one == pytest.approx(sweeps.evaluations(manifest, sampler, 8), rel=0.05)


def test_hours_are_those_of_the_experiment_or_of_the_logged_rates(copied):
    (node,) = [node for node in chain.gather([copied / "stage2"]) if node.name == "stage2"]
    size, ends = node.config["batch_size"], [r["end"] for r in node.rounds]
    rates = [(step, 10.0 * k) for k, step in enumerate(ends, 1)]
    lines = [{"step": step, "kind": "train", "images_per_second": rate} for step, rate in rates]
    (node.key / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = sum((b - a) * size / (10.0 * k) for k, (a, b) in enumerate(zip((0, *ends), ends), 1))
    assert costs.training_seconds(node) == (pytest.approx(wanted), "logged rates")
    (copied / "hardware.json").write_text(json.dumps({"seconds": {"stage2": wanted / 2}}))  # It was killed on the way.
    assert costs.training_seconds(node) == (pytest.approx(wanted), "logged rates")
    (copied / "hardware.json").unlink()
    (node.key / "metrics.jsonl").unlink()
    assert costs.training_seconds(node) == (None, "not known")
    (copied / "hardware.json").write_text(json.dumps({"seconds": {"stage2": 77.0}}))
    assert costs.training_seconds(node) == (77.0, "hardware.json")
    assert [costs.share(node, r["steps"]) for r in node.rounds] == [end / ends[-1] for end in ends]


def test_a_chain_is_priced_and_paid_back_against_its_teacher(copied, capsys, monkeypatch):
    calls, counted = [], costs.step_flops
    monkeypatch.setattr(costs, "step_flops", lambda *of, **how: calls.append("here") or counted(*of, **how))
    monkeypatch.setattr(runs, "load", None)  # It opens the accelerator, which the children need.

    def measured(run_dir, steps, batch_size):
        calls.append((run_dir.name, batch_size))
        row = {"images_per_second": 9.0, "first_seconds": 3.0, "next_seconds": 1.0}
        return {"rows": [{"seconds": 0.5 * n, **row} for n in steps], "peak_mib": 5.0, "peak_of": "a device"}

    monkeypatch.setattr(costs, "in_fresh_process", measured)
    whole = {"teacher": 1000.0, "stage1": 7200.0, "stage2": 3600.0}
    (copied / "hardware.json").write_text(json.dumps({"seconds": whole}))
    assert main(["costs", str(copied / "stage2"), "--price=4", "--batch=8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert calls[:3] == [(name, 8) for name in whole] and set(calls[3:]) == {"here"}
    devices = jax.device_count()
    nodes = {node.name: node for node in chain.gather([copied / "stage2"])}
    recommended = nodes["teacher"].manifest["recommended"]["steps"]
    assert found[f"teacher_{recommended}_evaluations"] == 2 * recommended
    assert found["stage2_training_money"] == pytest.approx(4.0 * devices)
    assert found[f"teacher_{recommended}_money_per_1000"] == pytest.approx(500 * recommended / 900 * devices)
    for r in nodes["stage2"].rounds:
        n = r["steps"]
        spent = 7200 + 3600 * r["end"] / nodes["stage2"].rounds[-1]["end"]
        wanted = costs.payback(spent, 0.5 * recommended, 0.5 * n)
        assert found[f"stage2_{n}_payback_images_by_seconds"] == wanted
        each = [found[f"{name}_gflops"] for name in (f"teacher_{recommended}", f"stage2_{n}")]
        spent = 1e6 * found[f"stage2_{n}_payback_pflops"]
        assert found[f"stage2_{n}_payback_images_by_flops"] == costs.payback(spent, *each)
    (part,) = parts.of_runs(list(nodes.values()))
    assert [len(table["rows"]) for table in part["tables"]] == [
        2 + len(nodes["stage2"].rounds),
        3,
        1 + len(nodes["stage2"].rounds),
    ]
    assert main(["costs", str(copied / "stage2")]) == 0 and "paybacks" in capsys.readouterr().out
    for wrong in ("--price=0", "--price=-1", "--batch=0"):
        assert main(["costs", str(copied / "stage2"), wrong]) == 2
    capsys.readouterr()


def test_what_is_not_known_is_not_nothing(copied, monkeypatch):
    row = {"images_per_second": 9.0, "first_seconds": 3.0, "next_seconds": 1.0}
    clock = lambda _, steps, __: {  # noqa: E731
        "rows": [{"seconds": 0.5 * n, **row} for n in steps],
        "peak_mib": 5.0,
        "peak_of": "a device",
    }
    monkeypatch.setattr(costs, "in_fresh_process", clock)
    (copied / "stage1" / "config.json").unlink()
    found = costs.of_runs([copied / "stage2"])
    known = {row["run"]: row["pflops"] for row in found["trainings"]}
    assert known["stage1"] is None and known["teacher"] > 0 and known["stage2"] > 0
    assert {row["images_by_flops"] for row in found["paybacks"]} == {None}


def test_steps_are_those_that_can_be_drawn(copied):
    nodes = {node.name: node for node in chain.gather([copied / "stage2"])}
    for name, node in nodes.items():
        run = runs.load(copied / name)
        wanted = [run.default_steps()] if run.trained_steps is None else sorted(run.trained_steps, reverse=True)
        assert costs.steps_of(node) == wanted
    node, ends = nodes["stage2"], dict(nodes["stage2"].manifest["rounds"])
    node.manifest |= {"sampler": "stochastic"}
    assert costs.steps_of(node) == sorted({*ends, *([1] if 2 in ends else [])}, reverse=True)
    shutil.rmtree(node.key / "checkpoints")
    assert costs.steps_of(node) == []


@pytest.mark.slow
def test_a_run_is_measured_in_a_process_of_its_own(digits):
    steps = [min(n for n, _ in runs.read_manifest(digits / "stage2")["rounds"])]
    found = costs.in_fresh_process(digits / "stage2", steps, batch_size=2)
    (row,) = found["rows"]
    assert min(row["first_seconds"], row["next_seconds"]) > 0 and found["peak_mib"] > 10
    assert row["seconds"] * row["images_per_second"] == pytest.approx(1)


def test_a_process_that_fails_is_told_in_a_line(tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], 2, "", "more\nerror: no run in x\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UserError, match="status 2: error: no run in x"):
        costs.in_fresh_process(tmp_path, [1], batch_size=2)
