"""Where the time of training goes: the data pipeline alone, a step's split, and what a checkpoint costs.

    python -m experiments.bench_training --workdir=DIR [--parts=pipeline,split,saving] [--dtype=bfloat16] [--tiny]
    python -m experiments.bench_training --workdir=DIR --publish       # docs/results/training.md, from DIR alone

Needs no data set: pictures of noise, as array_record shards as `data prepare` writes them. Run it on a machine that
does nothing else. On an accelerator the U-Net of ImageNet 64 takes the batch that `--batch` says (default 2 on CPUs,
64 else) and stage one and two are timed too; there the peak of memory is read from the device.
"""

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import digits_teacher, imagenet64_stage1, imagenet64_stage2, imagenet64_teacher
from experiments.publish import DOCS
from experiments.results import Results, arguments, markdown
from experiments.timing import load
from guided_distill import data, flops, hardware, launch, parallel, plans, shards, stages, train_step
from guided_distill.checkpoint import Checkpoints
from guided_distill.files import write_json

PARTS = ("pipeline", "split", "saving")
SHAPE, IMAGES, SHARDS, PIPELINE_BATCH, ROUNDS = (64, 64, 3), 40_000, 4, 256, 5
UPDATES, LEAD = 4, 2  # Timed one by one, and then on their way together, as training has them.
SPLIT = ("input_ms", "host_ms", "device_ms", "together_ms", "images_per_second", "gflops", "gflops_per_second")
Row = dict[str, Any]


def noise(task: tuple[int, int, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A shard's pictures of noise, and labels."""
    seed, num, shape = task
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(0, 256, (num, *shape), dtype=np.uint8),
        "label": rng.integers(0, 10, num, dtype=np.int32),
    }


def shard_source(directory: Path, images: int, shape: tuple[int, int, int] = SHAPE) -> data.ShardSource:
    """`images` pictures of noise on disk, with ten classes."""
    tasks = [(k, images // SHARDS, shape) for k in range(SHARDS)]
    job = shards.Job(noise, tasks, shards.labelled(shape), images // SHARDS * SHARDS, {"source": "noise"})
    info = data.Info(shape, 10, "none", flip=True)
    return data.ShardSource(shards.write(directory / "noise" / "train", job, workers=2), info)


def pipeline(workdir: Path, tiny: bool, **_) -> Iterator[Row]:
    """Batches a second of 64 x 64 x 3 as training draws them: shuffled over all shards, gathered by record. From the
    page cache, and after the system was told to forget the files."""
    source = shard_source(workdir, 64 if tiny else IMAGES)
    size = 8 if tiny else PIPELINE_BATCH
    num = len(source) // size
    for where in ("page cache", "disk"):
        rates = []
        for index in range(-1, 2 if tiny else ROUNDS):
            if where == "disk":
                forget(workdir / "noise" / "train")
            batches = data.batches(source, size, seed=index + 1)
            clock = time.perf_counter()
            for _ in range(num):
                next(batches)
            if index >= 0:
                rates.append(num * size / (time.perf_counter() - clock))
        yield {
            "what": where,
            "images_per_second": statistics.median(rates),
            "least": min(rates),
            "most": max(rates),
            "images": num * size,
        }
    shutil.rmtree(workdir / "noise")


def forget(directory: Path) -> None:
    """Asks the system to drop the files of `directory` from its page cache."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def configs(tiny: bool, batch: int | None, dtype: str) -> dict[str, dict]:
    """Name -> config of what is timed."""
    argument, accelerated = "tiny" if tiny else "", jax.default_backend() != "cpu"
    large = {"imagenet64, teacher": imagenet64_teacher}
    if accelerated or tiny:
        large |= {"imagenet64, stage one": imagenet64_stage1, "imagenet64, stage two": imagenet64_stage2}
    found = {"digits, teacher": digits_teacher.get_config(argument)}
    for name, module in large.items():
        found[name] = module.get_config(argument)
        if not tiny:
            found[name].batch_size = batch or (64 if accelerated else 2)
    for config in found.values():
        config.compute.dtype = dtype
    return {name: config.to_dict() for name, config in found.items()}


class Started:
    """A stage with a state on the devices, its teacher untrained, its step compiled, and batches of its shape: its own
    data where they are there."""

    def __init__(self, name: str, config: dict, workdir: Path):
        digits = name.startswith("digits")
        self.stage = stage = stages.build(config) if digits else plans.build(config)
        loop, layout = stage.loop, stage.layout()
        source = stage.source if len(stage.source) else shard_source(workdir / name, 256, stage.source.info.shape)
        self.mesh, self.batch_size = layout.mesh, loop.batch_size
        shardings = layout.shardings(stage.abstract())
        teacher = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), stage.abstract().teacher)
        self.state = jax.jit(stage.init, out_shardings=shardings)(teacher)
        self.batches = data.batches(source, loop.batch_size, 0)
        traced = train_step.trace(stage.steps[0], self.state, self.put(next(self.batches)))
        self.flops = flops.of_jaxpr(traced.jaxpr.jaxpr)
        clock = time.perf_counter()
        self.program = traced.lower().compile()
        self.compile_seconds = time.perf_counter() - clock

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """On the devices."""
        return parallel.put_batch(batch, self.mesh, self.batch_size)


def split(workdir: Path, tiny: bool, batch: int | None, dtype: str) -> Iterator[Row]:
    """Seconds of an update: waiting for input, the host's (moving the batch, starting the program), the device's; and
    of an update on its way with others."""
    for name, config in configs(tiny, batch, dtype).items():
        of = Started(name, config, workdir)
        parts: dict[str, list[float]] = {"input": [], "host": [], "device": []}
        for index in range(-1, UPDATES):
            marks = [time.perf_counter()]
            rows = next(of.batches)
            marks.append(time.perf_counter())
            of.state, metrics = of.program(of.state, of.put(rows))
            marks.append(time.perf_counter())
            jax.block_until_ready((of.state, metrics))
            marks.append(time.perf_counter())
            if index >= 0:
                for part, begin, end in zip(parts, marks, marks[1:], strict=False):
                    parts[part].append(end - begin)
        clock, seen = time.perf_counter(), []
        for _ in range(UPDATES):
            of.state, metrics = of.program(of.state, of.put(next(of.batches)))
            seen = [*seen, metrics][-LEAD:]
            jax.block_until_ready(seen[0])
        jax.block_until_ready(of.state)
        together = (time.perf_counter() - clock) / UPDATES
        device = jax.devices()[0]
        known, memory = hardware.of(device.device_kind), device.memory_stats() or {}
        row = {f"{part}_ms": 1e3 * statistics.median(seconds) for part, seconds in parts.items()}
        row |= {"together_ms": 1e3 * together, "images_per_second": of.batch_size / together}
        row |= {"gflops": of.flops / 1e9, "gflops_per_second": of.flops / together / 1e9}
        row |= {"compile_s": of.compile_seconds, "batch": of.batch_size, "dtype": dtype or "float32"}
        if known:
            row["utilisation"] = of.flops / together / known.flops / of.mesh.size
        if "peak_bytes_in_use" in memory:
            row["peak_gb"] = memory["peak_bytes_in_use"] / 1e9
        yield {"what": name, **row}


def saving(workdir: Path, tiny: bool, batch: int | None, dtype: str) -> Iterator[Row]:
    """What a save holds training up for, and when it is whole on disk, checksums included."""
    for name, config in configs(tiny, batch, dtype).items():
        of = Started(name, config, workdir)
        blocked, whole = [], []
        for _ in range(3):
            checkpoints = Checkpoints(workdir / "saved", keep=1)
            of.state, _metrics = of.program(of.state, of.put(next(of.batches)))
            jax.block_until_ready(of.state)
            clock = time.perf_counter()
            checkpoints.save(of.state, int(of.state.step))
            blocked.append(time.perf_counter() - clock)
            checkpoints.wait()
            whole.append(time.perf_counter() - clock)
            step = checkpoints.dir / str(checkpoints.latest())
            size = sum(path.stat().st_size for path in step.rglob("*") if path.is_file())
            checkpoints.close()
        state = sum(leaf.nbytes for leaf in jax.tree.leaves(of.state))
        shutil.rmtree(workdir / "saved")
        yield {
            "what": name,
            "state_mb": state / 1e6,
            "disk_mb": size / 1e6,
            "blocked_s": statistics.median(blocked),
            "whole_s": statistics.median(whole),
        }


def publish(workdir: Path) -> None:
    """docs/results/training.md."""
    rows, hardware_of = (json.loads((workdir / f"{name}.json").read_text()) for name in ("results", "hardware"))
    of = lambda part: [row for row in rows if row["part"] == part]  # noqa: E731
    columns = {
        "pipeline": ("what", "images", "images_per_second", "least", "most"),
        "split": ("what", "dtype", "batch", *SPLIT, "utilisation", "peak_gb", "compile_s"),
        "saving": ("what", "state_mb", "disk_mb", "blocked_s", "whole_s"),
    }
    shown = {part: [name for name in names if any(name in row for row in of(part))] for part, names in columns.items()}
    tables = {part: markdown(of(part), tuple(shown[part])) for part in PARTS}
    text = PAGE.format(
        device=hardware_of["device"], jax=hardware_of["jax"], load=max(row["load"] for row in rows), **tables
    )
    (DOCS / "training.md").write_text(text)


PAGE = """# Where training's time goes

Made by `python -m experiments.bench_training --publish`; no number is typed by hand. On {device}, jax {jax}; the load
of the machine before a part, per core and earlier parts included, was at most {load}.

## The data pipeline alone

Shuffled batches of 256 pictures of 64 x 64 x 3 from array_record shards, as training draws them, no step behind them.
One H100 at 45 % utilisation trains about 680 a second; asked for are 5,000. "disk": after the system was told to forget
the files.

{pipeline}

## A step's split

An update at a time: waiting for the next batch, the host's work (moving the batch, starting the program), and what is
left until the device has finished. `together`: updates on their way as training has them, where the host is two
ahead.

{split}

## What a checkpoint costs

Params, moving average, moments and teacher. Training waits for the copy from the devices, `blocked`; writing and
checksums, until `whole`, go on beside it.

{saving}
"""


def main() -> None:
    """Measures what does not stand yet; or writes the page."""
    parser = arguments(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated (default: all)")
    parser.add_argument("--batch", type=int, help="of the U-Net of ImageNet 64")
    parser.add_argument("--dtype", default="", help="float32 or bfloat16")
    parser.add_argument("--publish", action="store_true", help="write docs/results/training.md from DIR")
    args = parser.parse_args()
    launch.prepare_process()
    if args.publish:
        return publish(args.workdir)
    results = Results(args.workdir, tiny=args.tiny)
    makers = {"pipeline": pipeline, "split": split, "saving": saving}
    for part in args.parts.split(","):
        if any(row["part"] == part for row in results.rows):
            continue
        before = load()
        for row in makers[part](args.workdir, tiny=args.tiny, batch=args.batch, dtype=args.dtype):
            results.rows.append({"part": part, **row, "load": before})
            print(results.rows[-1], flush=True)
        write_json(args.workdir / "results.json", results.rows)
    results.spent("all", 0.0)
    return None


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
