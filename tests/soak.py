"""Kills the training of a tiny chain again and again, starts it again, and compares every run that gets to its end with
one that nobody disturbed: weights, average, optimiser, teacher and losses must be the same, bit for bit.

    python tests/soak.py 100 [--seed=0] [--workdir=DIR]         (2 CPU cores, 6 to 20 seconds a kill)

When and how a run is killed is drawn from the seed: SIGKILL in training, SIGKILL inside a save, SIGTERM. It prints how
often each was done, and ends with status 1 at the first difference. `tests/test_survival.py` uses its parts.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
STAGES = ("stage1", "stage2")
ITEMS = ("params", "ema", "rest")
POLL = 0.002  # Seconds; how soon a moment is noticed, on which no result depends.
PATIENCE = 300  # Seconds without the moment that was waited for: something hangs.
CHAIN = (
    "--config=configs/mixture2d_chain.py:tiny",
    *(f"--config.stages.{stage}.{key}" for stage in STAGES for key in ("log_every=1", "save_every=10", "ema=0.9")),
    "--config.stages.stage1.num_updates=120",
    "--config.stages.stage2.num_updates=60",
)


def start(workdir: Path, *flags: str, cache: Path = ROOT / ".cache" / "jax-tests", **environment: str):
    """main.py in a process of its own, with the compiled programs of the tests."""
    known = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "main.py", f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env={**os.environ, **known, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen, happened: Callable[[], bool]) -> bool:
    """Whether it happened before the process ended."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        try:
            process.wait(POLL)
            return False
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(f"nothing happened in {PATIENCE} s") from None
    return True


def end(process: subprocess.Popen, signum: signal.Signals | None = None) -> tuple[int, str, str]:
    """Sends the signal, if any. Returns (status, standard output, standard error)."""
    if signum is not None:
        process.send_signal(signum)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def rows(run: Path) -> list[dict]:
    """The whole rows of metrics.jsonl; none where there is no file yet."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Watch:
    """What a process that was just started has written in a run directory: rows that an earlier one left do not
    count."""

    def __init__(self, run: Path):
        self.run = run
        self._before, self._left = self._file(), self._half()

    def _file(self) -> int:
        try:
            return (self.run / "metrics.jsonl").stat().st_ino  # A run that goes on puts a new file in its place.
        except FileNotFoundError:
            return 0

    def update(self) -> int:
        """The last update that is logged, 0 before there is one."""
        if self._file() in (0, self._before):
            return 0
        found = rows(self.run)
        return found[-1]["step"] if found else 0

    def _half(self) -> set[tuple[str, int]]:
        found = {}
        for path in (self.run / "checkpoints").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # Orbax has renamed or removed it since.
                found[path.name] = path.stat().st_ino
        half = (n for n in found if "orbax-checkpoint-tmp" in n or (n.isdigit() and f"{n}.sha256.json" not in found))
        return {(name, found[name]) for name in half}

    def saving(self) -> bool:
        """Whether a checkpoint is half written: Orbax has not put it in its place, or has and its checksums lack."""
        return bool(self._half() - self._left)


def arrays(run: Path) -> dict[str, np.ndarray]:
    """Every array of every checkpoint that a run has kept, by step and path: read by Orbax, without this package."""
    import jax
    import orbax.checkpoint as ocp

    found = {}
    for record in (run / "checkpoints").glob("*.sha256.json"):
        step = record.name.split(".")[0]
        for item in (path.name for path in (run / "checkpoints" / step).iterdir() if path.name in ITEMS):
            with ocp.StandardCheckpointer() as reader:
                tree = reader.restore((run / "checkpoints" / step / item).absolute())
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                found[f"{step}/{item}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What two runs of a stage differ in, by name: arrays of the checkpoints that both have kept, every round's last
    among them, bit for bit, and rows of their logs but for times. (What SIGTERM had saved is one of the newest two of
    one run alone.)"""
    left, right = arrays(one), arrays(other)
    both = {name.split("/")[0] for name in left} & {name.split("/")[0] for name in right}
    manifest = json.loads((one / "manifest.json").read_text())
    ends = {str(end) for _, end in manifest["rounds"] or [(0, manifest["updates"])]}
    out = [f"{end} is not in both" for end in ends - both]
    left, right = ({k: v for k, v in of.items() if k.split("/")[0] in both} for of in (left, right))
    out += [f"{name} is in one alone" for name in left.keys() ^ right.keys()]
    out += [name for name in left.keys() & right.keys() if left[name].tobytes() != right[name].tobytes()]
    times = {"images_per_second", "input_wait"}
    logs = [[{k: v for k, v in row.items() if k not in times} for row in rows(run)] for run in (one, other)]
    return sorted(out) + ["metrics.jsonl"] * (logs[0] != logs[1])


class Soak:
    """Runs that are killed at moments drawn from a seed."""

    def __init__(self, workdir: Path, seed: int):
        self.workdir, self.random, self.counts = workdir, random.Random(seed), collections.Counter()

    def now(self, run: Path) -> Path:
        """The stage that trains, or will when the chain is started."""
        finished = any(row["step"] == 120 for row in rows(run / "stage1")) and self.saved(run / "stage1") == 120
        return run / STAGES[finished]

    def saved(self, stage: Path) -> int:
        """The newest whole checkpoint's update."""
        return max((int(p.name.split(".")[0]) for p in (stage / "checkpoints").glob("*.sha256.json")), default=0)

    def kill_once(self, run: Path) -> bool:
        """Starts the chain, and kills it at a moment drawn at random. False: it got to its end before."""
        kind = self.random.choice(("SIGKILL in training", "SIGKILL inside a save", "SIGTERM"))
        target = self.saved(self.now(run)) + self.random.randint(1, 25)
        watches = [Watch(run / stage) for stage in STAGES]
        watch = watches[STAGES.index(self.now(run).name)]
        process = start(run, *CHAIN)
        if kind == "SIGKILL inside a save":
            moment = lambda: any(w.saving() for w in watches)  # noqa: E731
        else:  # Past the end of a stage, it is the next one's first update.
            moment = lambda: watch.update() >= target or (watch is watches[0] and watches[1].update() > 0)  # noqa: E731
        happened = wait_for(process, moment)
        status, out, err = (
            end(process, signal.SIGTERM if kind == "SIGTERM" else signal.SIGKILL) if happened else end(process)
        )
        if status == 0:
            return False
        if kind == "SIGTERM" and status == -signal.SIGTERM:
            kind = "SIGTERM between stages"
        elif status != (75 if kind == "SIGTERM" else -signal.SIGKILL):
            wanted = "75" if kind == "SIGTERM" else "-9"
            raise SystemExit(f"{kind}: status {status}, not {wanted}\n{out[-500:]}\n{err[-2000:]}")
        if kind == "SIGKILL inside a save" and not any(w.saving() for w in watches):
            kind = "SIGKILL right after a save"
        self.counts[kind] += 1
        return True

    def go(self, kills: int) -> None:
        """Until there were so many kills; every chain that is begun is brought to its end."""
        reference, done = self.workdir / "undisturbed", 0
        require_end(start(reference, *CHAIN))
        while sum(self.counts.values()) < kills:
            run = self.workdir / f"killed_{done}"
            while sum(self.counts.values()) < kills and self.kill_once(run):
                print(f"{sum(self.counts.values())}/{kills} {dict(self.counts)}", flush=True)
            require_end(start(run, *CHAIN))
            for stage in STAGES:
                if differ := differences(reference / stage, run / stage):
                    raise SystemExit(f"{run / stage} differs from {reference / stage}: {', '.join(differ[:8])}")
            shutil.rmtree(run)
            done += 1
        print(f"{kills} kills, {done} chains, all bit-identical to the undisturbed one")
        for kind, count in sorted(self.counts.items()):
            print(f"{count:5d} {kind}")


def require_end(process: subprocess.Popen) -> None:
    """Ends the program unless the process does well."""
    status, _, err = end(process)
    if status:
        raise SystemExit(f"status {status}\n{err[-2000:]}")


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, help="a temporary directory by default, removed when all went well")
    args = parser.parse_args()
    clock, workdir = time.monotonic(), args.workdir or Path(tempfile.mkdtemp())
    Soak(workdir, args.seed).go(args.kills)
    if args.workdir is None:
        shutil.rmtree(workdir)
    print(f"{(time.monotonic() - clock) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
