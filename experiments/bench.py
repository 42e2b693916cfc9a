"""How fast it is, against what it should cost: samplers, updates, PyTorch, and the first image of a new process.

    python -m experiments.bench --workdir=DIR [--parts=flags,sampling,update,torch,startup] [--tiny]
    python -m experiments.bench --workdir=DIR --publish       # docs/results/bench.md, from DIR alone

Everything that is compared is compiled, warmed up, and run in turn in one process; ratios are of medians. Run it on a
machine that does nothing else. `torch` needs PyTorch and diffusers, which nothing else does.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.results import Results, arguments
from experiments.timing import (
    SCHEDULE,
    Case,
    cases,
    combined,
    compared,
    interleave,
    load,
    spread,
    stateful,
)
from guided_distill import codecs, flops, launch, rounds, samplers, schedules, state, train_step, weighting
from guided_distill.denoiser import Parameterised
from guided_distill.errors import one_of
from guided_distill.files import write_json
from guided_distill.generate import Generator
from guided_distill.objectives import progressive

PARTS = ("flags", "sampling", "update", "torch", "startup")
Row = dict[str, Any]
# What XLA may hand to YNNPACK on CPUs; its default is that of jaxlib 0.10 and 0.12, as `--xla_dump_to` writes it.
OTHER_FLAGS = {
    "default": ("INDIVIDUAL_CONVOLUTION", "INDIVIDUAL_DOT", "REDUCE"),
    "elementwise": ("DOT", "ELTWISE", "REDUCE"),
}


def flags(case: Case) -> list[Row]:
    """A forward pass and a gradient with the XLA flag that `launch.prepare_process` sets on CPUs, against XLA's own
    default, and against elementwise operations by YNNPACK, too."""
    if jax.default_backend() != "cpu":
        return []
    network, (z, cond) = case.denoiser(), case.inputs()
    params, logsnr = case.parameters(network), jnp.zeros((case.batch,))
    forward = lambda params: network.bind(params)(z, logsnr, cond).x  # noqa: E731
    name, _, ours = launch.CPU_FLAG.strip("-").partition("=")
    values = {kind: ",".join(f"LIBRARY_FUSION_TYPE_{of}" for of in kinds) for kind, kinds in OTHER_FLAGS.items()}
    rows = []
    for what, function in (("forward", forward), ("gradient", jax.grad(lambda params: jnp.mean(forward(params) ** 2)))):
        programs = {
            kind: jax.jit(function, compiler_options={name: value}) for kind, value in {"ours": ours, **values}.items()
        }
        calls = {kind: lambda program=program: program(params) for kind, program in programs.items()}
        seconds = interleave(calls, case.repeats)
        for kind in values:
            rows.append({"what": what, "other": kind, **compared(seconds["ours"], seconds[kind])})
    return rows


def sampling(case: Case) -> list[Row]:
    """N steps of DDIM as users run them, against N separately jitted forwards, each fed with the last one's output; and
    the counted FLOPs of every sampler against those of its forwards."""
    network = case.denoiser()
    z, cond = case.inputs()
    params, grid = case.parameters(network), schedules.grid(SCHEDULE, case.steps)
    forward = lambda params, z, logsnr: network.bind(params)(z, logsnr, cond)  # noqa: E731
    once = flops.count(forward, params, z, jnp.zeros((case.batch,)))
    rows = []
    for name in samplers.names():
        whole = flops.count(
            lambda z, name=name: samplers.sample(
                jax.random.key(0), network.bind(params), samplers.get(name), z, cond, grid
            ),
            z,
        )
        forwards = case.steps * (1 + (name == "heun"))
        rows.append({"what": name, "forwards": forwards, "gflops": whole / 1e9, "ratio": whole / once / forwards})

    generator, jitted = Generator(network.bind, codecs.load("identity"), clip=False), jax.jit(forward)
    host = [np.asarray(z), {name: np.asarray(value) for name, value in cond.items()}]
    levels = [jnp.full((case.batch,), level) for level in np.asarray(grid[:-1])]

    def separate() -> jax.Array:
        x = z
        for level in levels:
            x = jitted(params, x, level).x
        return x

    seconds = interleave(
        {
            "sampler": lambda: generator(params, "ddim", *host, grid, seed=0, indices=np.arange(case.batch)),
            "forwards": separate,
        },
        case.repeats,
    )
    timed = compared(seconds["sampler"], seconds["forwards"])
    return [*rows, {"what": "ddim, timed", "forwards": case.steps, **timed}]


def update(case: Case) -> list[Row]:
    """A stage-two update, as the trainer runs it, against the sum of its parts."""
    network = case.denoiser()
    z, cond = case.inputs()
    level, params = jnp.zeros((case.batch,)), case.parameters(network)
    weigh = weighting.make("truncated_snr")
    forward = jax.jit(lambda params, z, logsnr: network.bind(params)(z, logsnr, cond))
    target = jax.tree.map(lambda a: a + 0.1, forward(params, z, level))

    def loss(params):
        return jnp.mean(weighting.weighted_error(network.bind(params)(z, level, cond), target, level, weigh))

    gradient = jax.jit(jax.value_and_grad(loss))
    _, gradients = gradient(params)
    batch = {"x": z, "label": cond["label"]}
    rows = []
    for name, decay in (("update", 0.0), ("with moving average", 0.999)):
        step, begin, optimise, kept = stage_two(network, weigh, decay, params)
        counted = flops.count(step, begin, batch) / 1e9
        seconds = interleave(
            {
                "update": stateful(jax.jit(step, donate_argnums=0), begin, batch),
                "forward": lambda: forward(params, z, level),
                "gradient": lambda: gradient(params),
                "optimiser": stateful(jax.jit(optimise, donate_argnums=0), kept, gradients),
            },
            case.repeats,
        )
        parts = {"forward": 2, "gradient": 1, "optimiser": 1}
        whole = compared(seconds["update"], combined(seconds, parts))
        rows.append({"what": name, "gflops": counted, **whole})
        rows += [{"what": f"{name}: {n} x {part}", **spread(seconds[part])} for part, n in parts.items()]
    return rows


def stage_two(network: Parameterised, weigh: Callable, decay: float, params: Any) -> tuple:
    """(step, its state, the optimiser alone, its state) of stage two from `params`; both states may be donated."""
    optimiser = train_step.optimiser()
    step = train_step.make(
        train_step.Ingredients(
            objective=progressive.make(SCHEDULE, weigh, 0.0, 4.0),
            student=network.bind,
            teacher=lambda leaves: network.bind(leaves["teacher"]),
            encode=lambda x: x,
            optimiser=optimiser,
            learning_rate=lambda step: jnp.float32(1e-6),
            rounds=rounds.Rounds((8,), (1000,)),
            seed=0,
            ema_decay=decay,
        )
    )

    def optimise(kept, gradients):
        params, ema, opt_state = kept
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        params = jax.tree.map(lambda p, u: p - 1e-6 * u, params, updates)
        ema = train_step.moving_average(ema, params, decay, jnp.int32(9)) if decay else ema
        return (params, ema, opt_state), optax.global_norm(gradients)

    begin = jax.jit(lambda params: state.create({"student": params}, {"teacher": params}, optimiser, decay > 0))
    kept = jax.jit(lambda params: (params, params if decay else None, optimiser.init(params)))
    return step, begin(params), optimise, kept(params)


FRESH = """
import json, sys, time
marks = [time.perf_counter()]
mark = lambda: marks.append(time.perf_counter())
import guided_distill.launch; guided_distill.launch.prepare_process(); mark()
run = guided_distill.load(sys.argv[1]); run.weights(); mark()
run.sample(1, steps=4, guidance=0.0); mark()
run.sample(1, steps=4, guidance=0.0); mark()
print(json.dumps([b - a for a, b in zip(marks, marks[1:])]))
"""


def startup(workdir: Path, repeats: int, argument: str) -> list[Row]:
    """A new process: import, load a run, its first image and its second; with an empty compilation cache and with the
    one that this left."""
    from configs import digits_teacher

    config = digits_teacher.get_config(argument)
    config.num_updates, config.save_every = 1, 0
    run_dir = Results(workdir / "startup").train(config, "teacher", seed=0)
    seconds: dict[tuple[str, str], list[float]] = {}
    names = ("import", "load the run", "first image", "second image", "all, as a shell sees it")
    for repeat in range(repeats):
        cache = workdir / "startup" / f"cache{time.time_ns()}-{repeat}"
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        for kind in ("cold", "warm"):
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", FRESH, str(run_dir)],
                env=environment,
                cwd=Path(__file__).parents[1],
                capture_output=True,
                text=True,
                check=True,
            )
            whole = time.perf_counter() - begin
            for name, value in zip(names, [*json.loads(done.stdout.splitlines()[-1]), whole], strict=True):
                seconds.setdefault((kind, name), []).append(value)
    return [{"what": name, "cache": kind, **spread(values)} for (kind, name), values in seconds.items()]


def machine() -> dict[str, str]:
    """What it ran on and with."""
    packages = ("jax", "jaxlib", "flax", "torch", "diffusers")
    found = {name: metadata.version(name) for name in packages if importlib.util.find_spec(name)}
    threads = {"cores": str(os.cpu_count()), "xla flags": os.environ.get("XLA_FLAGS", "") or "none"}
    return {**found, "python": platform.python_version(), **threads}


def main() -> None:
    """Times what is missing in results.json; or publishes it."""
    parser = arguments(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (default: all)")
    parser.add_argument("--publish", action="store_true", help="write docs/results/bench.md from what is there")
    args = parser.parse_args()
    if args.publish:
        from experiments import bench_report

        bench_report.publish(args.workdir)
        return
    parts = args.parts.split(",")
    for part in parts:
        one_of("part", part, PARTS)
    launch.prepare_process()
    results = Results(args.workdir, tiny=args.tiny)
    write_json(args.workdir / "machine.json", machine())

    def measure(part: str, case: str, compute: Callable[[], list[Row]]) -> None:
        if any(row["part"] == part and row["case"] == case for row in results.rows):
            return
        before, begin = load(), time.perf_counter()
        found = [{"part": part, "case": case, **row, "load": before} for row in compute()]
        results.rows += found
        write_json(args.workdir / "results.json", results.rows)
        results.spent(part, time.perf_counter() - begin)
        for row in found:
            print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)

    of_cases = {"flags": flags, "sampling": sampling, "update": update}
    if "torch" in parts:
        if importlib.util.find_spec("torch") and importlib.util.find_spec("diffusers"):
            from experiments import bench_torch

            measure("torch", "probes", lambda: bench_torch.probes(args.tiny))
            of_cases["torch"] = bench_torch.peers
        else:
            print("torch: skipped, PyTorch and diffusers are not installed (pip install torch diffusers)", flush=True)
    for part, compute in of_cases.items():
        for case in cases(args.tiny, captioned=part == "flags") if part in parts else ():
            measure(part, str(case), lambda compute=compute, case=case: compute(case))
    if "startup" in parts:
        argument, repeats = ("tiny", 1) if args.tiny else ("", 3)
        measure("startup", "digits teacher", lambda: startup(args.workdir, repeats, argument))


if __name__ == "__main__":
    sys.exit(launch.guarded(main))
