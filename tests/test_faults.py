"""What goes wrong while training: damage, a full disk, numbers that are not finite, a second process, Ctrl-C. What is
left on disk, and what is said."""

import contextlib
import errno
import importlib.machinery
import json
import os
import shutil
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soak
from absl import logging

from configs import mixture2d_stage1, mixture2d_stage2, mixture2d_teacher
from guided_distill import checkpoint, data, files, launch, pictures, rounds, train_step, trainer
from guided_distill.data import mixture2d
from guided_distill.errors import UserError

POINTS = 2000  # One epoch is longer than any run here: every batch has examples of its own.


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """As `launch.prepare_process`: Orbax does not log what it raises."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    yield
    logging.set_verbosity(before)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The exact teacher's run directory."""
    where = tmp_path_factory.mktemp("faults") / "teacher"
    config = mixture2d_teacher.get_config().to_dict()
    config["data"]["num"] = POINTS
    return trainer.run(config, where, say=str)


def student(teacher, module=mixture2d_stage1, **changes):
    """A tiny student of it, of 20 updates, which keeps every fifth."""
    config = module.get_config("tiny")
    config.update({"teacher": str(teacher), "ema": 0.9, "log_every": 1, "save_every": 5})
    config.checkpoints.keep = 4
    config.update_from_flattened_dict(changes)
    return config.to_dict()


@pytest.fixture(scope="module")
def whole(teacher):
    """Its run, undisturbed."""
    return trainer.run(student(teacher), teacher.parent / "whole", say=str)


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(whole, tmp_path / "run")


def contents(directory):
    """Every file's bytes."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def names(run):
    """What lies in checkpoints/."""
    return {path.name for path in (run / "checkpoints").iterdir()}


def saved(*steps):
    return {f"{step}{end}" for step in steps for end in ("", ".sha256.json")}


def cut(run, after):
    """The run as a kill right after the save of an update leaves it."""
    for step in checkpoint.Checkpoints(run).steps():
        if step > after:
            shutil.rmtree(run / "checkpoints" / str(step))
            (run / "checkpoints" / f"{step}.sha256.json").unlink()


def damage(run, step, how):
    """One file of a checkpoint, the largest of the weights, or its record."""
    record = run / "checkpoints" / f"{step}.sha256.json"
    held = [path for path in (run / f"checkpoints/{step}/params").rglob("*") if path.is_file()]
    largest = max(held, key=lambda path: (path.stat().st_size, str(path)))
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flip": lambda: largest.write_bytes(content),
        "truncate": lambda: largest.write_bytes(content[:9]),
        "remove": largest.unlink,
        "record": lambda: record.write_bytes(b"\xff" + record.read_bytes()[1:]),
    }[how]()


def status_of(config, workdir, capsys):
    """(exit status, its one line on standard error) of training."""
    capsys.readouterr()
    status = launch.guarded(trainer.run, config, workdir, str)
    (line,) = capsys.readouterr().err.splitlines()
    return status, line


@pytest.mark.parametrize(
    "how, message",
    [
        ("flip", "differs from its checksum"),
        ("truncate", "differs from its checksum"),
        ("remove", "is missing"),
        ("record", "20.sha256.json is no JSON"),
    ],
)
def test_a_damaged_newest_checkpoint_is_put_aside_and_the_one_before_it_used(how, message, whole, copy, teacher):
    damage(copy, 20, how)
    said = []
    trainer.run(student(teacher), copy, say=said.append)
    assert "checkpoints/20 is damaged" in said[0] and message in said[0] and "\n" not in said[0]
    assert said[0].endswith("put aside as 20.damaged, going back to update 15")
    assert f"{copy}: update 15 of 20" in said[1]
    assert names(copy) == saved(5, 10, 15, 20) | {"20.damaged"}
    assert soak.differences(whole, copy) == []


def test_two_damaged_checkpoints_and_one_put_aside_before(whole, copy, teacher):
    (copy / "checkpoints/20.damaged").mkdir()
    damage(copy, 20, "flip")
    damage(copy, 15, "remove")
    said = []
    trainer.run(student(teacher), copy, say=said.append)
    assert [line.split("put aside as ")[1] for line in said[:2]] == [
        f"{step}.damaged, going back to update 10" for step in (20, 15)
    ]
    assert names(copy) == saved(5, 10, 15, 20) | {"20.damaged", "15.damaged"}
    assert soak.differences(whole, copy) == []


def test_when_all_are_damaged_nothing_is_touched(copy, teacher, capsys):
    for step in (5, 10, 15, 20):
        damage(copy, step, "flip")
    before = contents(copy)
    for _ in range(2):  # A second try must not begin anew either.
        status, line = status_of(student(teacher), copy, capsys)
        assert status == 2 and "every checkpoint" in line and str(copy / "checkpoints") in line
        assert contents(copy) == before


def test_an_unfinished_save_is_swept_away(whole, copy, teacher):
    """Kills inside a save leave Orbax's directory, or one without checksums."""
    cut(copy, 10)
    shutil.copytree(copy / "checkpoints/10", copy / "checkpoints/15")
    shutil.copytree(copy / "checkpoints/10/rest", copy / "checkpoints/20.orbax-checkpoint-tmp-7/rest")
    (copy / "checkpoints/15.sha256.json.part").write_text("{")
    trainer.run(student(teacher), copy, say=str)
    assert names(copy) == saved(5, 10, 15, 20)
    assert soak.differences(whole, copy) == []


FLAGS = [  # As `student`.
    "--config=configs/mixture2d_stage1.py:tiny",
    "--config.ema=0.9",
    "--config.log_every=1",
    "--config.save_every=5",
    "--config.checkpoints.keep=4",
]


def limited(command, kib):
    """The same in a shell that lets no file grow beyond a size (in blocks of 512 bytes, by POSIX)."""
    return ["sh", "-c", f'ulimit -f {2 * kib} && exec "$@"', "sh", *command]


def test_a_file_that_may_not_grow_stops_a_real_run(whole, copy, teacher):
    """Orbax writes in the background: the process must end all the same, with one line and what was whole before."""
    cut(copy, 10)
    before = contents(copy / "checkpoints")
    # The arrays' own files are cut otherwise every time; this one always has the same size.
    size = (copy / "checkpoints/10/rest/_METADATA").stat().st_size
    command = [sys.executable, "main.py", *FLAGS, f"--workdir={copy}", f"--config.teacher={teacher}"]
    # What is compiled is not kept: those files, too, would have to grow, and Python would leave half ones for others.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    kib = size // 1024 - 1
    assert kib > (copy / "metrics.jsonl").stat().st_size // 1024
    done = subprocess.run(
        limited(command, kib), cwd=soak.ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    # Before it, TensorStore may print what came back to an event loop that its failure had closed.
    line = done.stderr.splitlines()[-1]
    assert done.stderr.count("error: ") == 1
    assert line.startswith(f"error: could not save checkpoint 15 in {copy / 'checkpoints'}")
    assert "the newest that is whole is that of update 10" in line
    assert contents(copy / "checkpoints") == before
    trainer.run(student(teacher), copy, say=str)
    assert soak.differences(whole, copy) == []


@pytest.fixture
def small_disk(tmp_path):
    """(directory, function that makes it larger): a real disk of two megabytes, where one may be mounted."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = lambda options: subprocess.run(  # noqa: E731
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], capture_output=True, check=False
    )
    if not shutil.which("mount") or mount("size=2m").returncode:
        pytest.skip("no tmpfs may be mounted here")
    yield where, lambda: mount("remount,size=64m")
    subprocess.run(["umount", str(where)], check=True)


def test_a_disk_that_fills_up_stops_a_run_which_goes_on_when_there_is_space(
    small_disk, teacher, whole, capsys, tmp_path
):
    directory, grow = small_disk
    config = student(teacher, **{"save_every": 1, "checkpoints.keep": 20})
    run = directory / "run"
    status, line = status_of(config, run, capsys)
    assert status == 2 and line.startswith("error: ") and str(run) in line
    last = checkpoint.Checkpoints(run).latest()
    assert last is not None and f"update {last}" in line
    checkpoint.verify(run / "checkpoints", last)
    assert names(run) == saved(*range(1, last + 1))
    grow()
    trainer.run(config, run, say=str)
    left = {name: value for name, value in soak.arrays(run).items() if name.split("/")[0] in ("5", "10", "15", "20")}
    want = soak.arrays(whole)
    assert left.keys() == want.keys() and all(left[name].tobytes() == want[name].tobytes() for name in want)
    assert [row["loss"] for row in soak.rows(run)] == [row["loss"] for row in soak.rows(whole)]


@pytest.mark.parametrize("where", ["Orbax", "record", "rows", "sheet"])
def test_no_space_wherever_it_lacks(where, teacher, whole, tmp_path, monkeypatch, capsys):
    """The save of update 10, or a file beside it: one line, status 2, the earlier checkpoint whole, and it goes on."""
    config, run = student(teacher), tmp_path / "run"

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def failing(function, when):
        return lambda *args, **named: full(args[0]) if when(*args) else function(*args, **named)

    with monkeypatch.context() as patch:
        targets = {
            "Orbax": (checkpoint.ocp.CheckpointManager, "_finalize_checkpoint", lambda manager, step: step == 10),
            "record": (checkpoint, "write_json", lambda path, value: path.name == "10.sha256.json"),
            "rows": (trainer.logs.Log, "write", lambda log, step, *_: step == 8),
            "sheet": (pictures, "save_grid", lambda path, *_: True),
        }
        owner, name, when = targets[where]
        patch.setattr(owner, name, failing(getattr(owner, name), when))
        status, line = status_of(config, run, capsys)
    last = {"sheet": 15}.get(where, 5)
    assert status == 2 and "No space left on device" in line and f"update {last}" in line
    assert names(run) == saved(*range(5, last + 1, 5))
    trainer.run(config, run, say=str)
    assert soak.differences(whole, run) == []


def spoilt(monkeypatch, config, which, value=np.nan):
    """The data set with `value` in the examples of some batches; [k] -> ids of the k-th batch."""
    make = mixture2d.make
    order = data.order(data.load("mixture2d", num=POINTS), config["batch_size"], config["seed"])

    def with_faults(*args, **named):
        source = make(*args, **named)
        x = source.arrays["x"].copy()
        for batch in which:
            x[order[batch][::7]] = value
        return data.Source({**source.arrays, "x": x}, source.info)

    monkeypatch.setattr(mixture2d, "make", with_faults)
    return order


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_an_update_that_is_not_finite_is_left_out_and_counted(value, teacher, tmp_path, monkeypatch):
    config = student(teacher, save_every=1, **{"checkpoints.keep": 20})
    spoilt(monkeypatch, config, (3, 7, 8), value)
    run = trainer.run(config, tmp_path / "run", say=str)
    counted = [(row["skipped"], row["skipped_in_row"]) for row in soak.rows(run)]
    assert counted[:10] == [(0, 0)] * 3 + [(1, 1)] + [(1, 0)] * 3 + [(2, 1), (3, 2), (3, 0)]
    assert not np.isfinite(soak.rows(run)[3]["loss"]) and np.isfinite(soak.rows(run)[4]["loss"])
    found = soak.arrays(run)
    for before, after, same in ((3, 4, True), (7, 8, True), (8, 9, True), (4, 5, False)):
        kept = [n for n in found if n.startswith(f"{before}/") and "skipped" not in n and "'step'" not in n]
        assert any("ema" in name for name in kept) and any("opt_state" in name for name in kept)
        equal = [found[n].tobytes() == found[n.replace(f"{before}/", f"{after}/", 1)].tobytes() for n in kept]
        assert all(equal) == same
        assert found[f"{after}/rest['step']"] == after
    assert not (run / "fault.json").exists()


def test_a_finite_loss_with_a_gradient_that_is_not():
    """sqrt(w²) at 0: the loss is 0, its gradient is not a number."""
    loss = lambda key, nets, batch, num_steps: ({"student": jnp.sqrt(nets.student["w"] ** 2) + batch["x"]}, {})  # noqa: E731
    of = train_step.Ingredients(
        loss, lambda params, key: params, None, lambda x: x, train_step.optimiser(), lambda step: 0.1,
        rounds.Rounds((0,), (5,)), 0, ema_decay=0.9,
    )  # fmt: skip
    before = trainer.TrainState(
        jnp.int32(2), {"student": {"w": jnp.zeros(3)}}, {"student": {"w": jnp.ones(3)}},
        of.optimiser.init({"student": {"w": jnp.zeros(3)}}), {}, jnp.array([4, 0], jnp.int32),
    )  # fmt: skip
    after, metrics = jax.jit(train_step.make(of))(before, {"x": jnp.zeros(3)})
    assert float(metrics["loss"]) == 0 and not np.isfinite(float(metrics["grad_norm"]))
    assert int(after.step) == 3 and after.skipped.tolist() == [5, 1]
    unchanged = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    assert jax.tree.all((unchanged.params, unchanged.ema, unchanged.opt_state))


@pytest.mark.parametrize("each", [1, 2])
def test_too_many_in_a_row_stop_the_run_and_say_where_it_began(each, teacher, whole, tmp_path, monkeypatch, capsys):
    config = student(teacher, max_skipped=3, **{"compute.updates_per_call": each, "log_every": 2, "save_every": 4})
    order = spoilt(monkeypatch, config, [2, *range(6, 20)])
    run = tmp_path / "run"
    status, line = status_of(config, run, capsys)
    count = 3 if each == 1 else 4
    assert status == 2 and f"{count} updates in a row were not finite, from update 7, round 1 of 1" in line
    assert str(run / "fault.json") in line and "the newest checkpoint is that of update" in line
    fault = json.loads((run / "fault.json").read_text())
    assert fault == {"update": 7, "round": 1, "skipped": count, "examples": order[6].tolist()}
    last = checkpoint.Checkpoints(run).latest()
    assert names(run) == saved(*range(4, last + 1, 4)) and f"update {last}." in line
    monkeypatch.undo()  # The data are mended.
    trainer.run(config, run, say=str)
    assert checkpoint.Checkpoints(run).latest() == 20 and soak.rows(run)[-1]["skipped_in_row"] == 0


def test_a_fault_in_a_later_round_says_which(teacher, whole, tmp_path, monkeypatch, capsys):
    config = student(teacher, mixture2d_stage2, max_skipped=2)
    config["teacher"] = str(whole)
    order = spoilt(monkeypatch, config, range(13, 30))
    status, line = status_of(config, tmp_path / "run", capsys)
    assert status == 2 and "from update 14, round 2 of 3 (2 steps), on" in line and "update 10." in line
    fault = json.loads((tmp_path / "run/fault.json").read_text())
    assert fault == {"update": 14, "round": 2, "skipped": 2, "examples": order[13].tolist()}


def test_nothing_saved_yet_is_said_so(teacher, tmp_path, monkeypatch, capsys):
    config = student(teacher, max_skipped=2)
    spoilt(monkeypatch, config, range(20))
    status, line = status_of(config, tmp_path / "run", capsys)
    assert status == 2 and "there is no checkpoint" in line and "from update 1," in line


def test_one_process_in_a_directory_a_lock_that_dies_with_it_and_ctrl_c(teacher, tmp_path, capsys):
    run = tmp_path / "run"
    flags = (*FLAGS, f"--config.teacher={teacher}", "--config.num_updates=100000")
    first, watch = soak.start(run, *flags), soak.Watch(run)
    try:
        assert soak.wait_for(first, lambda: watch.update() >= 12)
        config = student(teacher, num_updates=100_000)
        status, line = status_of(config, run, capsys)
        assert (status, line) == (2, f"error: {run} is being trained by another process")
        assert first.poll() is None
    finally:
        status, _, _ = soak.end(first, signal.SIGKILL)
    assert status == -signal.SIGKILL
    with files.alone(run, "trained"):
        last = checkpoint.Checkpoints(run).latest()
    # A job in the background ignores Ctrl-C, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    second, watch = soak.start(run, *flags), soak.Watch(run)
    signal.signal(signal.SIGINT, before)
    assert soak.wait_for(second, lambda: watch.update() > last)
    status, out, err = soak.end(second, signal.SIGINT)
    assert (status, err.splitlines()) == (130, ["interrupted"]) and f"update {last} of 100000" in out
    steps = checkpoint.Checkpoints(run).steps()
    for step in steps:
        checkpoint.verify(run / "checkpoints", step)
    # A save that Ctrl-C fell into may have left a step without checksums, which does not count.
    unfinished = names(run) - saved(*steps)
    assert steps[-1] >= last and saved(*steps) <= names(run)
    assert all(name.isdigit() and int(name) > steps[-1] for name in unfinished) and len(unfinished) <= 1


def test_the_newest_and_every_rounds_last_are_kept(teacher, whole, tmp_path):
    config = student(teacher, mixture2d_stage2, save_every=2, **{"checkpoints.keep": 3})
    config["teacher"] = str(whole)
    run = trainer.run(config, tmp_path / "run", say=str)
    assert names(run) == saved(10, 20, 26, 28, 30)


class Stopped(BaseException):
    """Like a kill: nothing catches it."""


@pytest.mark.parametrize("best, better", [("frechet_distance_pixels", min), ("recall_pixels", max)])
def test_the_best_by_a_score_is_kept_across_a_stop(best, better, teacher, tmp_path, monkeypatch):
    config = student(teacher, eval_num=200, sample_every=2, **{"checkpoints.best": best, "checkpoints.keep": 2})
    scores = {2: 5, 4: 3, 6: 8, 8: 4, 10: 6, 12: 5, 14: 7, 16: 6, 18: 7, 20: 6}
    run, stop = tmp_path / "run", [12]

    def scored(self, state, index, step):
        if stop and step > stop[0]:
            raise Stopped
        return {best: float(scores[step])}

    monkeypatch.setattr(trainer.Preview, "__call__", scored)
    with pytest.raises(Stopped):
        trainer.run(config, run, say=str)
    stop.clear()
    trainer.run(config, run, say=str)
    first = better(scores, key=scores.get)
    assert names(run) == saved(first, 18, 20)
    assert [row[best] for row in soak.rows(run) if row["kind"] == "eval"] == list(map(float, scores.values()))


def test_scores_of_a_run_are_what_best_goes_by(teacher, tmp_path):
    changes = {"checkpoints.best": "frechet_distance_pixels", "checkpoints.keep": 2}
    run = trainer.run(student(teacher, eval_num=200, sample_every=4, **changes), tmp_path / "run", say=str)
    scores = {row["step"]: row["frechet_distance_pixels"] for row in soak.rows(run) if row["kind"] == "eval"}
    assert set(scores) == {4, 8, 12, 16, 20} and len(set(scores.values())) == 5
    assert set(checkpoint.Checkpoints(run).steps()) == {min(scores, key=scores.get), 16, 20}


def test_samples_that_are_no_numbers_cost_no_update(teacher, tmp_path, monkeypatch, caplog):
    """They are not scored, and training goes on and is saved."""
    nothing = lambda self, state, index, num: (np.full((num, 2), np.nan, np.float32), None)  # noqa: E731
    monkeypatch.setattr(trainer.Preview, "_generate", nothing)
    run = trainer.run(student(teacher, eval_num=200, sample_every=4), tmp_path / "run", say=str)
    assert checkpoint.Checkpoints(run).latest_sound(str) == 20 and "not scored, 1000 of 1000" in caplog.text
    assert not [row for row in soak.rows(run) if row["kind"] == "eval"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"checkpoints.keep": 0}, "config.checkpoints.keep 0 is less than 2"),
        ({"checkpoints.keep": 1}, "config.checkpoints.keep 1 is less than 2"),
        ({"checkpoints.best": "fid", "eval_num": 100}, "'fid'; valid: frechet_distance_pixels, precision_pixels"),
        ({"checkpoints.best": "recall_pixels"}, "config.checkpoints.best 'recall_pixels' needs config.eval_num"),
        ({"max_skipped": 0}, "config.max_skipped 0 is less than 1"),
        ({"wandb": "mine"}, "config.wandb 'mine' needs the package wandb: pip install wandb"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(changes, message, teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    status, line = status_of(student(teacher, **changes), tmp_path / "run", capsys)
    assert status == 2 and message in line
    assert not (tmp_path / "run").exists()


class Wandb(types.ModuleType):
    """What is used of the package, kept in lists."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.runs, self.util = [], types.SimpleNamespace(generate_id=lambda: f"id{len(self.runs)}")

    def init(self, **named):
        run = types.SimpleNamespace(named=named, rows=[], finished=False)
        run.log = lambda values, step: run.rows.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        return run


def test_a_tracker_gets_the_rows_and_knows_the_run_again(teacher, tmp_path, monkeypatch):
    wandb, run = Wandb(), tmp_path / "run"
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = student(teacher, wandb="mine")
    save = checkpoint.Checkpoints.save

    def save_and_stop(self, state, position, score=None):
        save(self, state, position, score)
        if position == 10:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", save_and_stop)
        with pytest.raises(Stopped):
            trainer.run(config, run, say=str)
    trainer.run(config, run, say=str)
    first, second = wandb.runs
    assert first.finished and second.finished
    assert first.named["id"] == second.named["id"] == (run / "wandb_id").read_text() == "id0"
    assert first.named["project"] == "mine" and first.named["resume"] == "allow"
    assert first.named["config"] == json.loads((run / "config.json").read_text())
    assert [step for step, _ in first.rows + second.rows] == list(range(1, 21))
    logged = {row["step"]: row["loss"] for row in soak.rows(run)}
    assert {step: values["train/loss"] for step, values in first.rows + second.rows} == logged


def test_a_stop_asked_for_during_the_last_save_is_heard(teacher, tmp_path, monkeypatch, capsys):
    """In a chain, the next stage must not begin; run again, the stage is done."""
    close = checkpoint.Checkpoints.close

    def close_when_told(self):
        os.kill(os.getpid(), signal.SIGTERM)
        close(self)

    config, run = student(teacher), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "close", close_when_told)
        assert launch.guarded(trainer.run, config, run, str) == 75
    assert "asked to stop" in capsys.readouterr().out
    assert launch.guarded(trainer.run, config, run, str) == 0
    assert checkpoint.Checkpoints(run).latest() == 20


def test_a_save_that_has_begun_is_brought_to_its_end(teacher, tmp_path, monkeypatch):
    """Whatever ends the run: Ctrl-C here, right after a save has begun."""
    save = checkpoint.Checkpoints.save

    def save_and_interrupt(self, state, position, score=None):
        save(self, state, position, score)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_and_interrupt)
    with contextlib.suppress(KeyboardInterrupt):
        trainer.run(student(teacher), tmp_path / "run", say=str)
    assert checkpoint.Checkpoints(tmp_path / "run").steps() == [5]
    checkpoint.verify(tmp_path / "run/checkpoints", 5)


def test_events_are_on_disk_as_soon_as_rows_are(tmp_path):
    """A kill loses no row of TensorBoard that metrics.jsonl has."""
    log = trainer.logs.Log(tmp_path, 0)
    log.write(3, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
    log.close()


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_record_tells_damage_and_absence(tmp_path):
    (tmp_path / "3").mkdir()
    (tmp_path / "3/data").write_text("x")
    files.write_json(tmp_path / "3.sha256.json", {"data": files.sha256(tmp_path / "3/data")})
    checkpoint.verify(tmp_path, 3)
    (tmp_path / "3/data").write_text("y")
    with pytest.raises(UserError, match="differs from its checksum"):
        checkpoint.verify(tmp_path, 3)
    with pytest.raises(UserError, match="no checkpoint of step 4"):
        checkpoint.verify(tmp_path, 4)
