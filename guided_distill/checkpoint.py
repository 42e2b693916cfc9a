"""Checkpoints: a state and its data position, saved by Orbax, restored strictly, files checked against their checksums.

`checkpoints/<step>/{params, ema, rest, data}`: weights apart from the rest, so that using a run reads nothing else. The
newest are kept, every round's last, and the best by a metric. `checkpoints/<step>.sha256.json` is written after a save
is complete: a step without it does not exist. A save goes on in the background while training does.
"""

import contextlib
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from guided_distill import parallel
from guided_distill.errors import UserError
from guided_distill.files import sha256, write_json
from guided_distill.state import TrainState

QUIET = 25  # Looks, POLL seconds apart, that find nothing left by a save that failed: its threads write on after it.
SWEEPS, POLL = 200, 0.02
HASHERS = 4  # Threads; hashing is bound by the disk.
NOTHING, DAMAGED = -2, -1  # In place of a step, as processes tell each other.


class Checkpoints:
    """The checkpoints of one run directory. `round_ends`: steps that are never deleted; beside them the newest `keep`
    are kept, and the one saved with the lowest `score` (`highest`: the highest)."""

    def __init__(
        self,
        run_dir: str | Path,
        round_ends: tuple[int, ...] = (),
        keep: int = 2,
        best: bool = False,
        highest: bool = False,
    ):
        self.dir = Path(run_dir).absolute() / "checkpoints"
        self._round_ends, self._keep, self._best, self._highest = round_ends, keep, best, highest
        self._manager: ocp.CheckpointManager | None = None
        self._finishing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._failed = False

    @property
    def manager(self) -> ocp.CheckpointManager:
        """Orbax's manager, made at first use: reading a run must not create anything in it."""
        if self._manager is None:
            policies = ocp.checkpoint_managers
            kept = [policies.LatestN(self._keep), policies.CustomSteps(list(self._round_ends))]
            score = lambda metrics: metrics["score"]  # noqa: E731
            if self._best:
                kept.append(
                    policies.BestN(
                        get_metric_fn=score, reverse=not self._highest, n=1, keep_checkpoints_without_metrics=False
                    )
                )
            self._manager = ocp.CheckpointManager(
                self.dir,
                item_handlers=_handlers(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(kept),
                    best_fn=score
                    if self._best
                    else None,  # Without it scores are not saved, and a resume forgets them.
                    create=True,
                    cleanup_tmp_directories=True,
                ),
            )
            unfinished = sorted(set(self._manager.all_steps()) - set(self.steps()))
            parallel.wait_for_all(f"looked at {self.dir}")  # Before one of them begins to delete.
            for step in unfinished:
                # Its save died before its checksums were written: Orbax would keep it as the newest.
                self._manager.delete(step)
        return self._manager

    def steps(self) -> list[int]:
        """The steps that were saved whole, rising."""
        if not self.dir.is_dir():
            return []
        sums = (path.name.removesuffix(".sha256.json") for path in self.dir.glob("*.sha256.json"))
        return sorted(int(step) for step in sums if (self.dir / step).is_dir())

    def latest(self) -> int | None:
        """The newest whole step, or None."""
        return max(self.steps(), default=None)

    def latest_sound(self, say: Callable[[str], Any]) -> int | None:
        """The newest step whose files are as they were written, or None where nothing was ever saved. Damaged ones that
        are newer are told with `say`, and put aside as <step>.damaged. Raises `UserError` when all are damaged."""
        found = parallel.same_everywhere(0 if jax.process_index() else self._put_aside(say))
        if found == DAMAGED:
            raise UserError(f"every checkpoint in {self.dir} is damaged: remove the run, or bring one of them back")
        return None if found == NOTHING else found

    def _put_aside(self, say: Callable[[str], Any]) -> int:
        steps, damaged = self.steps(), {}
        for step in reversed(steps):
            try:
                verify(self.dir, step)
                break
            except UserError as error:
                damaged[step] = error
        else:
            return DAMAGED if steps else NOTHING
        for newer, error in damaged.items():  # Not before there is something to go back to.
            aside = self.dir / f"{newer}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self.dir / str(newer)).rename(aside)
            (self.dir / f"{newer}.sha256.json").rename(aside / "sha256.json")
            say(f"{error}; put aside as {aside.name}, going back to update {step}")
        return step

    def save(self, state: TrainState, position: int, score: float | None = None) -> None:
        """Begins to save the state of `state.step`, the number of batches drawn, and the value that "best" goes by.

        Returns when the state has been copied from the devices; `wait` or the next save tells how it ended.
        """
        self.wait()
        step = int(state.step)
        save = ocp.args.StandardSave
        rest = {name: getattr(state, name) for name in ("step", "opt_state", "teacher", "skipped")}
        items = {"params": save(state.params), "rest": save(rest), "data": ocp.args.JsonSave({"position": position})}
        if state.ema is not None:
            items["ema"] = save(state.ema)
        with self._told(step):
            manager, metrics = self.manager, None if score is None else {"score": score}
            manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)
        self._finishing = threading.Thread(target=self._finish, args=(manager, step), name=f"checkpoint {step}")
        self._finishing.start()

    def _finish(self, manager: ocp.CheckpointManager, step: int) -> None:
        try:
            with self._told(step):
                manager.wait_until_finished()
                if jax.process_index() == 0:
                    write_json(self.dir / f"{step}.sha256.json", _checksums(self.dir / str(step)))
                    for path in self.dir.glob("*.sha256.json"):
                        if not (self.dir / path.name.removesuffix(".sha256.json")).is_dir():
                            path.unlink()
        except BaseException as error:
            self._failure = error

    @contextlib.contextmanager
    def _told(self, step: int):
        """A full disk and its like, in one line, with what was written of the step removed to make room."""
        try:
            yield
        except (OSError, ValueError) as error:
            self._failed = True
            if jax.process_index() == 0 and step not in self.steps():
                shutil.rmtree(self.dir / str(step), ignore_errors=True)
                self._sweep()
            why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            last = self.latest()
            kept = (
                f"the newest that is whole is that of update {last}" if last is not None else "there is no earlier one"
            )
            raise UserError(f"could not save checkpoint {step} in {self.dir} ({why.strip()[:300]}); {kept}") from error

    def wait(self) -> None:
        """Returns when the last save is on disk, checksums included. Raises `UserError` if it could not be written."""
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        self.check()

    def check(self) -> None:
        """Raises `UserError` if a save has failed since it was last asked."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits as `wait` does, frees Orbax's threads, and removes what saves that did not succeed have left."""
        manager, self._manager = self._manager, None
        try:
            self.wait()
        finally:
            if manager is not None:
                with contextlib.suppress(OSError, ValueError):  # A failed save is told again, and `wait` has told it.
                    manager.close()
            if jax.process_index() == 0:
                self._sweep()

    def _sweep(self) -> None:
        quiet = 0
        for _ in range(SWEEPS):
            left = list(self.dir.glob("*.orbax-checkpoint-tmp*"))
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
            quiet = 0 if left else quiet + 1
            if quiet >= (QUIET if self._failed else 1):
                return
            time.sleep(POLL)

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, int]:
        """(state, data position) of `step`, which `latest_sound` has found sound, into the shapes, dtypes and shardings
        of `abstract`. Raises `UserError` when they are others."""
        rest = {name: getattr(abstract, name) for name in ("step", "opt_state", "teacher", "skipped")}
        trees = {"params": abstract.params, "rest": rest}
        if abstract.ema is not None:
            trees["ema"] = abstract.ema
        found = self._restore(step, trees, data=ocp.args.JsonRestore())
        state = TrainState(params=found["params"], ema=found.get("ema"), **found["rest"])
        return state, found["data"]["position"]

    def restore_weights(self, abstract: Any, step: int, item: str) -> Any:
        """The student's weights alone: `item` is "params" or "ema". Raises `UserError` when damaged or different."""
        verify(self.dir, step)
        return self._restore(step, {item: {"student": abstract}})[item]["student"]

    def _restore(self, step: int, trees: dict[str, Any], **others) -> Any:
        with ocp.CheckpointManager(
            self.dir, item_handlers=_handlers(), options=ocp.CheckpointManagerOptions(read_only=True)
        ) as reader:
            stored = reader.item_metadata(step)
            for item, tree in trees.items():
                _require_same(f"{self.dir}/{step}/{item}", tree, stored[item])
            restores = {item: ocp.args.StandardRestore(tree) for item, tree in trees.items()}
            return reader.restore(step, args=ocp.args.Composite(**restores, **others))


def fingerprint(run_dir: str | Path, step: int) -> str:
    """A hash of all that a checkpoint (or an exact network) is, for a student's manifest to name its teacher by."""
    path = Path(run_dir) / "checkpoints" / f"{step}.sha256.json"
    if not path.is_file():  # An exact network has no weights: what it is stands in its manifest.
        manifest = json.loads((Path(run_dir) / "manifest.json").read_text())
        return hashlib.sha256(json.dumps([manifest["network"], manifest["schedule"]]).encode()).hexdigest()[:16]
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def verify(directory: Path, step: int) -> None:
    """Raises `UserError` when the step is missing, or a file of it is missing or differs from its checksum."""
    record = directory / f"{step}.sha256.json"
    if not record.is_file():
        raise UserError(f"no checkpoint of step {step} in {directory}")
    try:
        wanted, found = json.loads(record.read_text()), _checksums(directory / str(step))
    except ValueError as error:
        raise UserError(f"checkpoint {directory / str(step)} is damaged: {record.name} is no JSON") from error
    except OSError as error:
        raise UserError(f"checkpoint {directory / str(step)} is damaged: {error}") from error
    wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
    if wrong:
        how = "differs from its checksum" if wrong[0] in found else "is missing"
        raise UserError(f"checkpoint {directory / str(step)} is damaged: {wrong[0]} {how}")


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    standard = {item: ocp.StandardCheckpointHandler() for item in ("params", "ema", "rest")}
    return standard | {"data": ocp.JsonCheckpointHandler()}


def _checksums(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    with ThreadPoolExecutor(HASHERS) as pool:
        return dict(zip((str(path.relative_to(directory)) for path in files), pool.map(sha256, files), strict=True))


def _leaves(tree) -> dict[str, tuple]:
    """Path -> (shape, dtype); list and attribute steps are named alike, as Orbax stores them alike."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    name = lambda path: "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)  # noqa: E731
    return {name(path): (tuple(leaf.shape), str(leaf.dtype)) for path, leaf in paths}


def _require_same(where: str, wanted, stored) -> None:
    wanted, stored = _leaves(wanted), _leaves(stored.tree if stored is not None else {})
    missing = [f"missing {name}" for name in wanted if name not in stored]
    unexpected = [f"unexpected {name}" for name in stored if name not in wanted]
    different = [f"{n} is {stored[n]}, expected {wanted[n]}" for n in wanted if n in stored and stored[n] != wanted[n]]
    if missing or unexpected or different:
        raise UserError(f"checkpoint {where} does not fit: " + "; ".join((missing + unexpected + different)[:8]))
