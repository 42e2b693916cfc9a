"""What is written while training goes on, and when."""

import json
import types

import jax.numpy as jnp
import pytest

from configs import mixture2d_stage1
from guided_distill import hardware, logs, trainer


class Clock:
    """Stands in for `time`: moves only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(logs, "time", found)
    return found


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_rates_shares_and_utilisation(tmp_path, clock):
    work = logs.Work(examples=8, flops=3e9, peak=60e9)
    seen = []
    with logs.Meter(tmp_path, 10, 0, work, check=lambda step, row: seen.append((step, row["loss"]))) as meter:
        for done in (1, 2, 3, 4):
            with meter.waiting():
                clock.now += 0.1
            clock.now += 0.4
            meter(done, {"loss": jnp.float32(done)}, write=done % 2 == 0)
            assert len(seen) == max(0, done - logs.AHEAD)  # The device may be so far ahead of what is read.
        meter.flush()
    assert seen == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]  # Those that are not written are looked at, too.
    first, second = rows(tmp_path)
    assert [first["step"], second["step"]] == [2, 4] and second["loss"] == 4.0
    # Row 2 was taken at 2 s: two updates of 8 in 2 s, of which 0.4 s were spent waiting.
    assert first["images_per_second"] == pytest.approx(8.0) and first["input_wait"] == pytest.approx(0.2)
    assert first["flop_utilisation"] == pytest.approx(1 * 3e9 / 60e9)
    assert meter.summary.startswith("loss 4, ") and "of peak FLOPs" in meter.summary


def test_saving_and_drawing_are_no_part_of_a_rate(tmp_path, clock):
    with logs.Meter(tmp_path, 10, 0, logs.Work(4)) as meter:
        clock.now += 100.0
        meter.restart(0)
        clock.now += 2.0
        meter(1, {"loss": jnp.float32(0)}, write=True)
        meter.flush()
    (row,) = rows(tmp_path)
    assert row["images_per_second"] == pytest.approx(2.0)
    assert row["input_wait"] == 0 and "flop_utilisation" not in row


def test_accelerators_by_the_names_that_jax_gives_them():
    assert hardware.of("TPU v5 lite").name == "TPU v5e" and hardware.of("TPU v5").name == "TPU v5p"
    assert hardware.of("NVIDIA H100 80GB HBM3").name == "H100" and hardware.of("NVIDIA H200").name == "H200"
    assert hardware.of("cpu") is None


def test_a_profile_and_the_cost_of_an_update(mixture, tmp_path):
    config = mixture2d_stage1.get_config("tiny")
    config.teacher = str(mixture / "teacher")
    said = []
    run = trainer.run(config.to_dict(), tmp_path / "run", say=said.append, profile=True)
    assert list((run / "profile").rglob("*.xplane.pb"))
    assert any("compiled in" in line and "GFLOPs" in line for line in said)
    assert all(0 <= row["input_wait"] <= 1 for row in rows(run) if row["kind"] == "train")


def test_attention_takes_the_fused_kernel_where_there_is_one(monkeypatch):
    from guided_distill.layers import blocks

    asked = []
    fake = types.SimpleNamespace(
        default_backend=lambda: "gpu",
        nn=types.SimpleNamespace(dot_product_attention=lambda q, k, v, implementation: asked.append(implementation)),
    )
    monkeypatch.setattr(blocks, "jax", fake)
    attend = getattr(blocks.attend, "__wrapped__", blocks.attend)  # Without the check of what it returns.
    for dtype, dim in ((jnp.bfloat16, 64), (jnp.float32, 64), (jnp.bfloat16, 256), (jnp.bfloat16, 4)):
        attend(*(jnp.zeros((1, 4, 1, dim), dtype),) * 3)
    fake.default_backend = lambda: "cpu"
    attend(*(jnp.zeros((1, 4, 1, 64), jnp.bfloat16),) * 3)
    assert asked == ["cudnn", "xla", "xla", "xla", "xla"]
