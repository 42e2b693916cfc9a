"""docs/results/bench.md from the results of `experiments.bench`. No number is typed by hand, and no explanation is
given that the rows do not bear out."""

import json
from pathlib import Path
from typing import Any

from experiments.results import markdown
from guided_distill import launch
from guided_distill.errors import UserError

DOCS = Path(__file__).parents[1] / "docs" / "results"
LIMIT_FLOPS, LIMIT_TIME = 1.02, 1.05
Row = dict[str, Any]


def publish(workdir: Path) -> Path:
    """Writes bench.md and returns its path. Raises `UserError` where nothing was measured."""
    if not (workdir / "results.json").is_file():
        raise UserError(f"no results.json in {workdir}; measure first: python -m experiments.bench --workdir={workdir}")
    rows, hardware, machine = (
        json.loads((workdir / f"{name}.json").read_text()) for name in ("results", "hardware", "machine")
    )
    of = lambda part: [row for row in rows if row["part"] == part]  # noqa: E731
    versions = ", ".join(f"{name} {version}" for name, version in machine.items())
    load = max(row["load"] for row in rows)
    header = HEADER.format(device=hardware["device"], versions=versions, load=load)
    made = [f(of(name)) for name, f in (("sampling", sampling), ("update", update), ("torch", peers), ("flags", flags))]
    sections = [header, *made, startup(of("startup"))]
    DOCS.mkdir(parents=True, exist_ok=True)
    path = DOCS / "bench.md"
    path.write_text("\n".join(filter(None, sections)))
    return path


def judged(row: Row, limit: float) -> Row:
    """`row` with the limit of its ratio and whether it is met, and times in ms."""
    milliseconds = {name: 1e3 * row[name] for name in ("median", "against") if name in row}
    return {**row, **milliseconds, "at most": limit, "met": "yes" if row["ratio"] <= limit else "no"}


def sampling(rows: list[Row]) -> str:
    """N steps against N forwards."""
    if not rows:
        return ""
    counted = [judged(row, LIMIT_FLOPS) for row in rows if "gflops" in row]
    timed = [renamed(judged(row, LIMIT_TIME), "sampler_ms", "forwards_ms") for row in rows if "median" in row]
    return SAMPLING.format(
        counted=markdown(counted, ("case", "what", "forwards", "gflops", "ratio", "at most", "met")),
        timed=markdown(timed, ("case", "forwards", "sampler_ms", "forwards_ms", "ratio", "range", "at most", "met")),
    )


def update(rows: list[Row]) -> str:
    """A stage-two update against its parts."""
    if not rows:
        return ""
    whole = [renamed(judged(row, LIMIT_TIME), "update_ms", "parts_ms") for row in rows if "ratio" in row]
    parts = [{**row, "ms": 1e3 * row["median"]} for row in rows if "ratio" not in row]
    return UPDATE.format(
        whole=markdown(whole, ("case", "what", "gflops", "update_ms", "parts_ms", "ratio", "range", "at most", "met")),
        parts=markdown(parts, ("case", "what", "ms")),
    )


def peers(rows: list[Row]) -> str:
    """PyTorch."""
    if not rows:
        return NO_TORCH
    networks = [row for row in rows if row["what"] == "network"]
    speeds = [ranged(row) for row in rows if "images_per_second" in row]
    failed = [f"{row['who']} ({row['case']}, {row['what']}): {row['failed']}" for row in rows if "failed" in row]
    probes = [renamed(judged(row, 1.0), "xla_ms", "pytorch_ms") for row in rows if row["case"] == "probes"]
    return TORCH.format(
        networks=markdown(networks, ("case", "who", "parameters", "gflops")),
        speeds=markdown(speeds, ("case", "what", "who", "images_per_second", "ratio", "range")),
        verdict=" ".join(verdicts(rows)),
        failed="Did not run: " + "; ".join(failed) + ".\n\n" if failed else "",
        probes=markdown(probes, ("what", "xla_ms", "pytorch_ms", "ratio", "range", "layout")),
        summary=summary(probes),
    )


def verdicts(rows: list[Row]) -> list[str]:
    """A sentence a case and kind: how we compare with the fastest of PyTorch's variants."""
    out = []
    for case, kind in dict.fromkeys((row["case"], row["what"]) for row in rows if "images_per_second" in row):
        others = [r for r in rows if (r["case"], r["what"]) == (case, kind) and "ratio" in r]
        if others:
            best = min(others, key=lambda row: row["ratio"])
            out.append(f"{case}, {kind}: {best['ratio']:.2f} x the images a second of the fastest ({best['who']}).")
    return out


def summary(probes: list[Row]) -> str:
    """Which operations are slower and faster."""
    names = lambda rows: ", ".join(f"{row['what']} ({row['ratio']:.2f})" for row in rows) or "none"  # noqa: E731
    slower, faster = ([row for row in probes if row["ratio"] > 1.1], [row for row in probes if row["ratio"] < 0.9])
    slower.sort(key=lambda row: -row["ratio"])
    return f"More than 10 % slower under XLA: {names(slower)}. More than 10 % faster: {names(faster)}."


def flags(rows: list[Row]) -> str:
    """The flag that is set on CPUs."""
    if not rows:
        return ""
    table = [renamed(judged(row, 1.0), "with_it_ms", "other_ms") for row in rows]
    return FLAGS.format(
        flag=launch.CPU_FLAG,
        table=markdown(table, ("case", "what", "other", "with_it_ms", "other_ms", "ratio", "range")),
    )


def startup(rows: list[Row]) -> str:
    """Cold and warm, side by side."""
    if not rows:
        return ""
    times = {(row["what"], row["cache"]): row for row in rows}
    table = []
    for what in dict.fromkeys(row["what"] for row in rows):
        row = {"what": what}
        for kind in ("cold", "warm"):
            of = times[what, kind]
            row |= {f"{kind}_s": of["median"], f"{kind}_range": f"{of['least']:.2f}–{of['most']:.2f}"}
        table.append(row)
    return STARTUP.format(table=markdown(table, ("what", "cold_s", "cold_range", "warm_s", "warm_range")))


def ranged(row: Row) -> Row:
    """`row` with the range of its ratio as text."""
    return {**row, "range": f"{row['low']:.2f}–{row['high']:.2f}"} if "low" in row else row


def renamed(row: Row, median: str, against: str) -> Row:
    """`row` with names for what is compared."""
    return ranged({**row, median: row["median"], against: row["against"]})


HEADER = """# Speed

Made by `python -m experiments.bench --publish` from the results of `python -m experiments.bench`; no number is typed by
hand. Everything is float32. What is compared is compiled, warmed up, and run in turn in one process; a ratio is one of
medians, its range that of the ratio round by round. The machine's load before a part, per core and the
bench's own earlier parts included, was at most {load}.

On {device}; {versions}.
"""

SAMPLING = """## N steps are N forwards

FLOPs counted from the jaxpr (`guided_distill.flops`), of the whole sampler against its forwards (heun makes two a
step):

{counted}

Time of DDIM as `Run.sample` runs it, one scan in one program, images back on the host, against as many separately
jitted forwards of the same network, each fed with the last one's output:

{timed}
"""

UPDATE = """## A stage-two update is the sum of its parts

Two forwards of the frozen teacher, one forward and backward pass of the student, and the optimiser (clipping, Adam, the
moving average where it is on), each jitted by itself, against the update that the trainer runs:

{whole}

{parts}
"""

TORCH = """## Beside PyTorch

diffusers' `UNet2DModel` with our widths, blocks, attention, resampling blocks and modulation; its norms have equally
many groups at every width, and it knows neither classes nor w here, nor does ours. PyTorch's FLOPs leave elementwise
operations out, and attention on CPUs.

{networks}

Sampling is DDIM, and an image of it one step of one image; training is a forward and backward pass, clipping and Adam
(fused, in PyTorch); ours draws its noise and times as well. `ratio`: PyTorch's time over ours; below 1 it is faster.

{speeds}

{verdict}

{failed}Where the time goes, by operation, batch of eight; PyTorch in the faster of its two layouts; `ratio` is XLA's
time over PyTorch's:

{probes}

{summary}
"""

NO_TORCH = """## Beside PyTorch

Not measured: PyTorch and diffusers were not installed.
"""

FLAGS = """## The flag that is set on CPUs

`launch.prepare_process` passes `{flag}` to XLA: products go to YNNPACK, and nothing else. Forward pass and gradient
compiled with it, against XLA's default, which hands over convolutions and sums as well, and against one that hands over
sums and what is elementwise:

{table}
"""

STARTUP = """## The first image of a new process

Seconds in a fresh process, of a run of the digits teacher's size: with an empty compilation cache, and with the one
that this left. "first image" is 4 steps of DDIM for one image, compilation and all; the second call is what remains.

{table}
"""
