"""What runs cost: an image in evaluations, FLOPs, seconds, memory and money, a training in hours, and after how many
images a distillation has paid for itself.

FLOPs are counted on the networks (`guided_distill.flops`); seconds and memory are measured, each run in a process of
its own that starts with nothing compiled.
"""

import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import guided_distill
from guided_distill import conditions, flops, runs, sections, sweeps
from guided_distill.checkpoint import Checkpoints
from guided_distill.errors import UserError
from guided_distill.plugins import resolve
from guided_distill.report import chain

Number = int | float
TEACHER_CALLS = {"teacher": 0, "student": 1, "chain": 2}
"""Evaluations of a teacher for one example of a training, by the objective's role (of a chain that is halved); the
student's own are a forward and a backward pass, which is worth two."""


def of_runs(
    run_dirs: Sequence[str | Path], *, price: Number | None = None, batch_size: int = 64
) -> dict[str, list[dict[str, Any]]]:
    """{"images", "trainings", "paybacks"}: rows of the runs and all their ancestors that are here.

    `price`: of one device for an hour. `batch_size`: of the images whose rate is measured. Raises `UserError` for a
    directory without a run, and for a price or batch size that is not positive.
    """
    if price is not None and price <= 0:
        raise UserError(f"price {price:g} is not positive; say what a device costs in an hour, such as 2.5")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is not positive")
    nodes = [node for node in chain.gather(run_dirs) if node.manifest is not None]
    # This process must not open the accelerator before the last of its children is done with it.
    clocks = [in_fresh_process(node.key, steps, batch_size) if (steps := steps_of(node)) else None for node in nodes]
    images = [row for node, clock in zip(nodes, clocks, strict=True) if clock for row in of_images(node, clock, price)]
    trainings = [of_training(node, nodes, price) for node in nodes]
    return {"images": images, "trainings": trainings, "paybacks": paybacks(nodes, images, trainings)}


def steps_of(node: chain.Node) -> list[int]:
    """The numbers of steps that a run is measured at, falling: the recommended one, or all that a halved chain has got
    to; none of an encoder. It reads files alone, where `runs.load` would open the accelerator."""
    if node.role == "encoder":
        return []
    if node.manifest["rounds"] is None:
        return [node.manifest["recommended"]["steps"]]
    saved = Checkpoints(node.key).steps()
    found = {n for n, end in node.manifest["rounds"] if end in saved}
    if node.manifest["sampler"] == "stochastic" and 2 in found:
        found.add(1)  # Its student of two steps is asked for it.
    return sorted(found, reverse=True)


def of_images(node: chain.Node, clock: Mapping[str, Any], price: Number | None = None) -> list[dict[str, Any]]:
    """A row for each of `steps_of` a run: {"run", "steps", "sampler", "evaluations", "gflops", "seconds" (an image, in
    batches), "images_per_second", "first_seconds" (to the first image of these steps: their weights read, their program
    compiled), "next_seconds" (to one more image), "peak_mib", "peak_of"}, and "money_per_1000" images. `clock`: what
    `in_fresh_process` found."""
    each, sampler, out = step_flops(node.manifest), node.manifest["sampler"], []
    for n, row in zip(steps_of(node), clock["rows"], strict=True):
        calls = n * (2 if sampler == "heun" else 1)
        row = {"evaluations": sweeps.evaluations(node.manifest, sampler, n), "gflops": calls * each / 1e9, **row}
        row |= {key: clock[key] for key in ("peak_mib", "peak_of")}
        if price is not None:
            row["money_per_1000"] = 1000 * row["seconds"] / 3600 * price * jax.device_count()
        out.append({"run": node.name, "steps": n, "sampler": sampler, **row})
    return out


def clocked(run_dir: str | Path, steps: Sequence[int], batch_size: int) -> dict[str, Any]:
    """{"rows": [{"seconds", "images_per_second", "first_seconds", "next_seconds"}] by steps, "peak_mib", "peak_of"},
    measured in this process. The peak is the device's where it tells of it, else the process's, with all of Python."""
    run, rows = runs.load(run_dir), []
    num = 2 * max(batch_size, jax.device_count())
    for n in steps:
        times = []
        for _ in range(2):
            clock = time.perf_counter()
            run.sample(1, n)
            times.append(time.perf_counter() - clock)
        run.sample(num, n, batch_size=batch_size)
        rate = run.images_per_second
        row = {"seconds": 1 / rate, "images_per_second": rate}
        rows.append(row | dict(zip(("first_seconds", "next_seconds"), times, strict=True)))
    peak = max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())
    if peak:
        return {"rows": rows, "peak_mib": peak / 2**20, "peak_of": "a device"}
    scale = 1 if sys.platform == "darwin" else 1024  # Bytes there, KiB elsewhere.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return {"rows": rows, "peak_mib": peak / 2**20, "peak_of": "the process"}


def in_fresh_process(run_dir: str | Path, steps: Sequence[int], batch_size: int) -> dict[str, Any]:
    """`clocked` in a new process without a cache of compiled programs, so that what is to be compiled is. Raises
    `UserError` with its last words where it fails."""
    command = [sys.executable, "-m", "guided_distill", "costs", str(Path(run_dir).resolve())]
    command += [f"--clock={','.join(map(str, steps))}", f"--batch={batch_size}"]
    root = str(Path(guided_distill.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"measuring {run_dir} ended with status {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def step_flops(manifest: Mapping[str, Any], guided: bool = True) -> float:
    """FLOPs of one sampling step for one sample, counted: of the Denoiser that a run is sampled with, external
    guidance and all; not `guided`: of the network alone."""
    bind = runs.bind(manifest) if guided else runs.parameterised(manifest).bind
    shape = jax.ShapeDtypeStruct
    arguments = shape((1, *manifest["code_shape"]), jnp.float32), shape((1,), jnp.float32), conditions.example(manifest)
    return flops.count(lambda w, *given: bind(w)(*given), runs.abstract_weights(manifest), *arguments)


def training_flops(
    manifest: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]], batch_size: int, until: int | None = None
) -> float:
    """FLOPs of a training, up to the update `until`: for an example three times the network's (forward, and backward
    as two) and the evaluations of its teacher, in later rounds itself. `teachers`: manifests, one or two; the work of
    the optimiser is left out. It is within some percent of the step that training traces."""
    if not manifest["trains"]:
        return 0.0
    calls = manifest.get("factor") or TEACHER_CALLS[resolve("objectives", manifest["objective"]).ROLE]
    guided, total = manifest["guidance"]["kind"] == "embedded", manifest["updates"]
    first = 0.0
    if calls and not teachers:
        raise UserError("its teacher is not here, and its FLOPs cannot be counted")
    if calls:
        alone = len(teachers) == 1 or not guided
        first = step_flops(teachers[0], guided) if alone else sum(step_flops(of, guided=False) for of in teachers)
    until = total if until is None else min(until, total)
    begin = min(manifest["rounds"][0][1], until) if manifest["rounds"] else until
    later = step_flops(manifest) if begin < until else 0.0
    own = 3 * step_flops(manifest, guided=False)
    return batch_size * (begin * (own + calls * first) + (until - begin) * (own + calls * later))


def of_training(node: chain.Node, nodes: Sequence[chain.Node], price: Number | None = None) -> dict[str, Any]:
    """{"run", "role", "updates", "pflops", "hours", "hours_from"} and "money" of a run's training; None for what is not
    known."""
    by_key, manifest = {other.key: other for other in nodes}, node.manifest
    (done, _), size, work = node.progress, node.config.get("batch_size"), None
    teachers = [by_key[key].manifest for key in node.parents if key in by_key]
    if size or not manifest["trains"]:
        with contextlib.suppress(UserError):
            work = training_flops(manifest, teachers, size or 0, done) / 1e15
    seconds, source = training_seconds(node)
    row = {"run": node.name, "role": node.role, "updates": done, "pflops": work}
    row |= {"hours": None if seconds is None else seconds / 3600, "hours_from": source}
    if price is not None:
        row["money"] = None if seconds is None else row["hours"] * price * jax.device_count()
    return row


def training_seconds(node: chain.Node) -> tuple[float | None, str]:
    """(seconds, where they are from), the larger of: an experiment's hardware.json, which has all that it took, unless
    it was killed on the way; the rates in metrics.jsonl, without compiling, saving and drawing."""
    if not node.manifest["trains"]:
        return 0.0, "it is exact"
    whole = ((chain.read_json(node.key.parent / "hardware.json") or {}).get("seconds") or {}).get(node.key.name)
    known = [] if whole is None else [(float(whole), "hardware.json")]
    logged = logged_seconds(node)
    if logged is not None:
        known.append((logged, "logged rates"))
    return max(known, default=(None, "not known"))


def logged_seconds(node: chain.Node) -> float | None:
    """Of a training by the rates in metrics.jsonl; None where one is missing, or the batch size."""
    size, before, total = node.config.get("batch_size"), 0, 0.0
    for row in node.metrics:
        if not row.get("images_per_second") or not size:
            return None
        total += (row["step"] - before) * size / row["images_per_second"]
        before = row["step"]
    return total if before else None


def payback(cost: Number, before: Number, after: Number) -> int | None:
    """After how many images `cost` is less than what they save, `before` - `after` each; None where they save
    nothing."""
    return math.ceil(cost / (before - after)) if after < before else None


def paybacks(
    nodes: Sequence[chain.Node], images: Sequence[Mapping[str, Any]], trainings: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """{"run", "steps", "pflops", "hours" (of the distillation up to these steps: teachers are there anyway), "teacher",
    "images_by_flops", "images_by_seconds"} of each student, against its first teacher at its recommended steps."""
    by_key, spent = {node.key: node for node in nodes}, {row["run"]: row for row in trainings}
    out = []
    for row in images:
        node = next(node for node in nodes if node.name == row["run"])
        above = ancestors(node, by_key)
        roots = [image for image in images for a in above if a.role == "teacher" and a.name == image["run"]]
        if node.role == "teacher" or not roots:
            continue
        cost = {}
        for name in ("pflops", "hours"):
            parts = [spent[a.name][name] for a in above if a.role != "teacher"]
            own = spent[node.name][name]
            parts.append(None if own is None else own * share(node, row["steps"]))
            cost[name] = None if None in parts else math.fsum(parts)
        root, known = roots[0], {"run": row["run"], "steps": row["steps"], **cost, "teacher": roots[0]["run"]}
        for kind, name, unit in (("flops", "gflops", 1e6), ("seconds", "seconds", 3600)):
            of = cost["pflops" if kind == "flops" else "hours"]
            known[f"images_by_{kind}"] = None if of is None else payback(of * unit, root[name], row[name])
        out.append(known)
    return out


def ancestors(node: chain.Node, by_key: Mapping[Path, chain.Node]) -> list[chain.Node]:
    """Those of a run that are here, first teachers first, each once."""
    found: dict[Path, chain.Node] = {}
    for key in node.parents:
        if key in by_key:
            found |= {a.key: a for a in (*ancestors(by_key[key], by_key), by_key[key])}
    return list(found.values())


def share(node: chain.Node, steps: int) -> float:
    """The part of a halved chain's updates after which its student of `steps` is there; 1 for other runs."""
    ends = dict(map(tuple, node.manifest["rounds"] or ()))
    # The stochastic chain's student of one step is that of two.
    end = ends.get(steps, max(ends.values(), default=0))
    return end / max(node.progress[0], 1) if ends else 1.0


def section(run_dir: str | Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Leaves the section `costs` in a run."""
    notes = [
        f"On {sweeps.machine()}. Seconds an image: in batches, compiled. First: to the first image of these steps, "
        "their weights read and their program compiled; a run has a process of its own without a cache, so its first "
        "row is also the first image of that. Next: one image more. Memory: the peak of "
        f"{next((row['peak_of'] for row in found['images']), 'nothing')}. FLOPs are counted.",
        "Training: forward, backward as two, and the teacher's evaluations. Pays back: after so many images the "
        "distillation (stage one, and stage two up to these steps) has cost less than it saved, against the teacher at "
        "its recommended steps, in FLOPs and in seconds.",
    ]
    titles = {"images": "An image", "trainings": "Training", "paybacks": "Pays back after"}
    tables = []
    for name, title in titles.items():
        rows = found[name]
        if rows:
            columns = [column for column in rows[0] if column != "peak_of"]  # In the notes.
            words = [column.replace("_", " ") for column in columns]
            cells = [[row.get(column) for column in columns] for row in rows]
            tables.append({"title": title, "columns": words, "rows": cells})
    return sections.write(run_dir, "costs", "Costs", notes=notes, tables=tables)


def flat(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """All numbers by one name: <run>_<steps>_<name>, <run>_training_<name>, <run>_<steps>_payback_<name>."""
    out = {}
    for kind, tag in (("images", ""), ("trainings", "training_"), ("paybacks", "payback_")):
        for row in found[kind]:
            of = f"{row['run']}_{row['steps']}_{tag}" if "steps" in row else f"{row['run']}_{tag}"
            out |= {f"{of}{name}": value for name, value in row.items() if name not in ("run", "steps")}
    return out
