"""The bench at its smallest: it runs, skips what stands, and is turned into a document."""

import json
import sys

import jax.numpy as jnp
import pytest

from experiments import bench, bench_report, timing
from guided_distill import samplers
from guided_distill.errors import UserError


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    bench.main()


def test_rounds_are_interleaved_and_compared_one_by_one():
    ran = []
    programs = {name: lambda name=name: ran.append(name) for name in "ab"}
    seconds = timing.interleave(programs, repeats=3, warmups=1)
    assert "".join(ran) == "abbaabba"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
    assert timing.combined({"a": [1.0, 2.0], "b": [10.0, 20.0]}, {"a": 2, "b": 1}) == [12.0, 24.0]
    compared = timing.compared([2.0, 6.0, 4.0], [1.0, 2.0, 4.0])
    assert compared == {"median": 4.0, "against": 2.0, "ratio": 2.0, "low": 1.0, "high": 3.0}


def test_a_stateful_program_goes_on_from_its_own_state():
    program = timing.stateful(lambda state, by: (state + by, None), jnp.float32(1), 2)
    program()
    assert program() == 5


@pytest.mark.long
def test_bench(tmp_path, monkeypatch, capsys):
    run(monkeypatch, f"--workdir={tmp_path}", "--tiny", "--parts=flags,sampling,update")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["part"] for row in rows} == {"flags", "sampling", "update"}
    counted = [row["ratio"] for row in rows if "forwards" in row and "gflops" in row]
    assert len(counted) == len(samplers.names()) and all(1 <= ratio <= 1.02 for ratio in counted)
    capsys.readouterr()
    run(monkeypatch, f"--workdir={tmp_path}", "--tiny", "--parts=flags,sampling,update")  # again: everything stands
    assert "part=" not in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    monkeypatch.setattr(bench_report, "DOCS", tmp_path / "docs")
    run(monkeypatch, f"--workdir={tmp_path}", "--publish")
    text = (tmp_path / "docs" / "bench.md").read_text()
    assert "| tiny, batch 2 | ddim | 2 |" in text and "were not installed" in text


def test_mistakes_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="flags, sampling, update, torch, startup"):
        run(monkeypatch, f"--workdir={tmp_path}", "--parts=speed")
    with pytest.raises(UserError, match="measure first"):
        run(monkeypatch, f"--workdir={tmp_path}", "--publish")
