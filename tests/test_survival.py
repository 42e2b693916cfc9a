"""A chain that is killed again and again ends where an undisturbed one does: every array of its checkpoints, bit for
bit, and the examples that it has seen."""

import random
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import soak

from configs import mixture2d_stage1, mixture2d_stage2, mixture2d_teacher
from guided_distill import data, parallel, preemption, trainer

CHAIN = (
    "--config=configs/mixture2d_chain.py:tiny",
    *(f"--config.stages.{stage}.{key}" for stage in soak.STAGES for key in ("log_every=1", "save_every=10", "ema=0.9")),
    "--config.stages.stage1.num_updates=40",
    "--config.stages.stage2.num_updates=30",
)


def kills():
    """(stage, moment, signal): the moment is an update that has been logged, or a save that is half written."""
    draw = random.Random(20).randint
    return [
        ("stage1", draw(11, 19), signal.SIGKILL),
        ("stage1", "saving", signal.SIGKILL),
        ("stage2", draw(12, 24), signal.SIGTERM),  # In round 1 of 3.
        ("stage2", draw(31, 33), signal.SIGKILL),  # Promoted, and its first updates made: across the boundary.
        ("stage2", draw(71, 85), signal.SIGKILL),  # In round 3.
    ]


@pytest.mark.slow
def test_five_kills_of_a_real_chain_leave_no_trace(tmp_path):
    status, _, err = soak.end(soak.start(tmp_path / "whole", *CHAIN))
    assert status == 0, err
    run = tmp_path / "killed"
    todo = list(reversed(kills()))
    while todo:
        stage, moment, signum = todo.pop()
        watch = soak.Watch(run / stage)
        process = soak.start(run, *CHAIN)
        happened = soak.wait_for(
            process, watch.saving if moment == "saving" else lambda watch=watch, moment=moment: watch.update() >= moment
        )
        status, out, err = soak.end(process, signum)
        assert happened and status == (-signum if signum == signal.SIGKILL else preemption.STATUS), (stage, moment, err)
        if moment == "saving" and not watch.saving():  # It came to its end before the signal: once more.
            todo.append((stage, moment, signum))
        if signum == signal.SIGTERM:
            last = soak.rows(run / stage)[-1]["step"]
            assert f"asked to stop; saved after update {last}." in out.splitlines()[-1] and err == ""
            assert (run / stage / f"checkpoints/{last}.sha256.json").is_file()
    status, out, err = soak.end(soak.start(run, *CHAIN))
    assert status == 0, err
    assert "update 0 of" not in out.split("stage2: ")[-1]
    for stage in soak.STAGES:
        assert {f"{step}" for step in ((30, 40) if stage == "stage1" else (30, 60, 80, 90))} == {
            name.split("/")[0] for name in soak.arrays(run / stage)
        }
        assert soak.differences(tmp_path / "whole" / stage, run / stage) == []


def test_differences_are_seen(mixture, tmp_path):
    """The comparison that the others rest on: one bit of one array, one row."""
    run = shutil.copytree(mixture / "stage1", tmp_path / "run")
    assert soak.differences(mixture / "stage1", run) == []
    lines = (run / "metrics.jsonl").read_text().splitlines(True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert soak.differences(mixture / "stage1", run) == ["metrics.jsonl"] and len(lines) > 0
    with ocp.StandardCheckpointer() as writer:
        tree = jax.tree.map(np.array, writer.restore(run.absolute() / "checkpoints/20/params"))
        leaf = jax.tree.leaves(tree)[3].reshape(-1)
        leaf[:1].view(np.uint32)[0] ^= 1
        writer.save(run.absolute() / "checkpoints/20/params", tree, force=True)
    assert len(soak.differences(mixture / "stage1", run)) == 2


class Stopped(BaseException):
    """Like a kill: nothing catches it."""


@pytest.mark.parametrize("module, each", [(mixture2d_stage1, 1), (mixture2d_stage2, 1), (mixture2d_stage1, 2)])
def test_a_run_that_goes_on_draws_the_examples_that_come_next(module, each, mixture, tmp_path, monkeypatch):
    """What reaches the devices, in order, is what `data.order` says for every update; what was drawn after the last
    save before a stop is drawn again."""
    config = module.get_config("tiny")
    config.teacher = str(mixture / ("teacher" if module is mixture2d_stage1 else "stage1"))
    config.save_every, config.compute.updates_per_call = 6 if each == 2 else 5, each
    config.log_every = config.compute.updates_per_call
    config, total = config.to_dict(), 20 if module is mixture2d_stage1 else 30
    source = data.load(**mixture2d_teacher.get_config().to_dict()["data"])
    ids = {point.tobytes(): index for index, point in enumerate(source.arrays["x"])}
    assert len(ids) == len(source)
    put, drawn, stops = parallel.put_batch, [], [8, 14]

    def recorded(batch, *rest):
        if "x" not in batch:  # Noise, for sample sheets.
            return put(batch, *rest)
        if stops and len(drawn) * each >= stops[0]:
            stops.pop(0)
            raise Stopped
        drawn.append([[ids[point.tobytes()] for point in rows] for rows in batch["x"].reshape(each, -1, 2)])
        return put(batch, *rest)

    monkeypatch.setattr(parallel, "put_batch", recorded)
    if each == 2:
        config["num_updates"], total = 24, 24
    seen, start = {}, 0
    for stop in (8, 14, None):
        drawn.clear()
        stops[:] = [stop - start] if stop else []
        if stop:
            with pytest.raises(Stopped):
                trainer.run(config, tmp_path / "run", say=str)
        else:
            trainer.run(config, tmp_path / "run", say=str)
        updates = [batch for call in drawn for batch in call]
        assert len(updates) == (stop or total) - start
        for k, batch in enumerate(updates, start):
            assert seen.setdefault(k, batch) == batch
        start = max(step for step in saved_steps(tmp_path / "run") if step <= (stop or total))
    order = data.order(source, config["batch_size"], config["seed"])
    assert [seen[k] for k in range(total)] == [order[k].tolist() for k in range(total)]


def saved_steps(run):
    return [int(path.name.split(".")[0]) for path in (run / "checkpoints").glob("*.sha256.json")]
