"""Checkpoints: a state and its data position, saved by Orbax, restored strictly, files checked against their checksums.

`checkpoints/<step>/{params, ema, rest, data}`: weights apart from the rest, so that using a run reads nothing else. The
newest two are kept, and every round's last. `checkpoints/<step>.sha256.json` is written after a save is complete: a
step without it does not exist.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from guided_distill.errors import UserError
from guided_distill.files import write_json
from guided_distill.state import TrainState

KEPT = 2


class Checkpoints:
    """The checkpoints of one run directory. `round_ends`: steps that are never deleted."""

    def __init__(self, run_dir: str | Path, round_ends: tuple[int, ...] = ()):
        self.dir = Path(run_dir).absolute() / "checkpoints"
        self._round_ends = round_ends
        self._manager: ocp.CheckpointManager | None = None

    @property
    def manager(self) -> ocp.CheckpointManager:
        """Orbax's manager, made at first use: reading a run must not create anything in it."""
        if self._manager is None:
            policies = ocp.checkpoint_managers
            keep = policies.AnyPreservationPolicy(
                [policies.LatestN(KEPT), policies.CustomSteps(list(self._round_ends))]
            )
            self._manager = ocp.CheckpointManager(
                self.dir,
                item_handlers=_handlers(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=keep, create=True, cleanup_tmp_directories=True
                ),
            )
            for step in set(self._manager.all_steps()) - set(self.steps()):
                self._manager.delete(
                    step
                )  # Its save died before its checksums were written: Orbax would keep it as the newest.
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

    def save(self, state: TrainState, position: int) -> None:
        """Saves the state of `state.step` and the number of batches drawn; blocks until it is on disk, checksums
        included."""
        step = int(state.step)
        save = ocp.args.StandardSave
        rest = {"step": state.step, "opt_state": state.opt_state, "teacher": state.teacher}
        items = {"params": save(state.params), "rest": save(rest), "data": ocp.args.JsonSave({"position": position})}
        if state.ema is not None:
            items["ema"] = save(state.ema)
        self.manager.save(step, args=ocp.args.Composite(**items))
        self.manager.wait_until_finished()
        if jax.process_index() == 0:
            write_json(self.dir / f"{step}.sha256.json", _checksums(self.dir / str(step)))
            for path in self.dir.glob("*.sha256.json"):
                if not (self.dir / path.name.removesuffix(".sha256.json")).is_dir():
                    path.unlink()

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, int]:
        """(state, data position) of `step`, into the shapes, dtypes and shardings of `abstract`. Raises `UserError`
        when damaged or different."""
        rest = {"step": abstract.step, "opt_state": abstract.opt_state, "teacher": abstract.teacher}
        trees = {"params": abstract.params, "rest": rest}
        if abstract.ema is not None:
            trees["ema"] = abstract.ema
        found = self._restore(step, trees, data=ocp.args.JsonRestore())
        state = TrainState(params=found["params"], ema=found.get("ema"), **found["rest"])
        return state, found["data"]["position"]

    def restore_weights(self, abstract: Any, step: int, item: str) -> Any:
        """The student's weights alone: `item` is "params" or "ema". Raises `UserError` as `restore`."""
        return self._restore(step, {item: {"student": abstract}})[item]["student"]

    def _restore(self, step: int, trees: dict[str, Any], **others) -> Any:
        verify(self.dir, step)
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
    except json.JSONDecodeError as error:
        raise UserError(f"checkpoint {directory / str(step)} is damaged: {record.name} is no JSON") from error
    wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
    if wrong:
        how = "differs from its checksum" if wrong[0] in found else "is missing"
        raise UserError(f"checkpoint {directory / str(step)} is damaged: {wrong[0]} {how}")


def _handlers() -> dict[str, ocp.CheckpointHandler]:
    standard = {item: ocp.StandardCheckpointHandler() for item in ("params", "ema", "rest")}
    return standard | {"data": ocp.JsonCheckpointHandler()}


def _checksums(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
