"""Frozen runs as one teacher: found by directory, rebuilt from their own manifests, checked against what a student asks
of them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from guided_distill import conditions, guidance, parallel, runs, schedules
from guided_distill.errors import UserError
from guided_distill.prediction import Denoiser


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One run, or two: a conditional one, and one to guide it by. The second is asked without a condition if it knows
    how to do without; else it is told the same, as the weaker network of autoguidance is. One Denoiser that reads
    cond["guidance"]."""

    main: runs.Run
    other: runs.Run | None = None

    @property
    def manifest(self) -> dict[str, Any]:
        """The main run's."""
        return self.main.manifest

    @property
    def w_range(self) -> tuple[float, float]:
        """The guidance strengths that it can be asked for."""
        if self.other is not None or self.manifest["guidance"]["kind"] == "external":
            return 0.0, float("inf")
        return tuple(self.manifest["guidance"].get("range", (0.0, 0.0)))

    def bind(self, guided: bool, dtype: str = "") -> Callable[[Any], Denoiser]:
        """leaves -> Denoiser. `guided` False leaves external guidance out, and with it every second forward. It
        computes in `dtype`, or, when that is "", as it was trained."""
        manifest, other = _computing(self.main, dtype), _computing(self.other, dtype)
        external = self.other is not None or manifest["guidance"]["kind"] == "external"
        if external and not guided:
            manifest = manifest | {"guidance": {"kind": "none"}}
        if self.other is None or not guided:
            bind = runs.bind(manifest)
            return lambda leaves: bind(leaves["teacher"])
        main, other = runs.parameterised(manifest), runs.parameterised(other)
        does_without = self.other.manifest["guidance"]["kind"] == "external"
        null = conditions.null(self.other.manifest) if does_without else {}
        bounds = manifest["guidance"].get("interval")

        def bound(leaves: Any) -> Denoiser:
            pair = main.bind(leaves["teacher"]), null, other.bind(leaves["unconditional"])
            return guidance.interval(guidance.guided(*pair), bounds)

        return bound

    def _runs(self, guided: bool) -> dict[str, runs.Run]:
        return {"teacher": self.main} | ({"unconditional": self.other} if self.other and guided else {})

    def abstract(self, guided: bool) -> dict[str, Any]:
        """Shapes and dtypes of the frozen weights, as the state holds them; nothing is read."""
        return {name: runs.abstract_weights(run.manifest) for name, run in self._runs(guided).items()}

    def leaves(self, guided: bool, layout: parallel.Layout) -> dict[str, Any]:
        """The frozen weights, as the state holds them, read to where it holds them."""
        placed = layout.place({"teacher": self.abstract(guided)})["teacher"]  # By the paths that they have in a state.
        return {name: run.read_weights(placed[name]) for name, run in self._runs(guided).items()}

    def lineage(self) -> list[dict[str, Any]]:
        """Run directory, step and hash of each, for the student's manifest."""
        found = [run for run in (self.main, self.other) if run is not None]
        return [{"run": str(run.dir), "step": run.step, "hash": run.hash} for run in found]


def load(run_dir: str, other_dir: str, command: str) -> Teacher:
    """The teacher in one directory, or two. Raises `UserError`: for a missing run, with the `command` that makes it;
    for a pair that differs."""
    main = _load(run_dir, command)
    if not other_dir:
        return Teacher(main)
    other = _load(other_dir, command)
    for key in ("code_shape", "schedule", "codec"):
        require_same(key, other.manifest, main.manifest, f"{other_dir} does not go with {run_dir}")
    for key in ("num_classes", "text"):
        if other.manifest.get(key):  # One that is told nothing goes with any.
            require_same(key, other.manifest, main.manifest, f"{other_dir} does not go with {run_dir}")
    if main.manifest["guidance"]["kind"] == "embedded":
        raise UserError(f"{run_dir} has its guidance built in: it takes no second, unconditional run")
    if other.manifest["guidance"]["kind"] == "embedded":
        raise UserError(f"{other_dir} has guidance built in: what leads away from it is no student, but a teacher")
    return Teacher(main, other)


def require_fit(manifest: Mapping[str, Any], teacher: Teacher, grid: int = 0) -> None:
    """Raises `UserError` unless a student of this manifest can learn from the teacher: shape, schedule, codec, classes,
    text, range of w; of a halved chain only at the times that its last round knows, `grid` of them."""
    where = f"the teacher {teacher.main.dir} does not fit"
    for key in ("code_shape", "schedule", "codec", "num_classes", "text"):
        require_same(key, teacher.manifest, manifest, where)
    low, high = teacher.w_range
    if teacher.manifest["rounds"] is not None and grid != (known := teacher.manifest["rounds"][-1][0]):
        raise UserError(
            f"{where}: it is a chain halved to {known} steps; take a stage-one student or a teacher, or match it at "
            f"its own times, config.objective.grid={known}"
        )
    if (manifest["guidance"]["kind"], teacher.manifest["guidance"]["kind"]) == ("external", "embedded"):
        raise UserError(f"{where}: it has learned nothing of the null class, by which a chain with dropout is guided")
    w_min, w_max = manifest["guidance"].get("range", (0.0, 0.0))
    if w_min < low or w_max > high:
        raise UserError(f"{where}: it knows w in [{low:g}, {high:g}], and [{w_min:g}, {w_max:g}] is asked for")


def _computing(run: runs.Run | None, dtype: str) -> dict[str, Any] | None:
    """A run's manifest with another dtype, where its network has one."""
    if run is None or not dtype or "dtype" not in runs.network_fields(run.manifest["network"]["name"]):
        return None if run is None else run.manifest
    network = run.manifest["network"]
    return run.manifest | {"network": {**network, "args": {**network["args"], "dtype": dtype}}}


def _load(run_dir: str, command: str) -> runs.Run:
    try:
        run = runs.load(run_dir)
    except UserError as error:
        hint = f"; make it with: {command}" if "missing" in str(error) or "no checkpoint" in str(error) else ""
        raise UserError(f"teacher: {error}{hint}") from error
    if run.step != run.manifest["updates"]:
        raise UserError(
            f"teacher: {run_dir} stopped at {run.step} of {run.manifest['updates']}; finish it with: {command}"
        )
    return run


IS = {
    "codec": lambda codec: {key: value for key, value in codec.items() if key not in ("weights", "sample", "tile")},
    "text": lambda text: text and {key: value for key, value in text.items() if key not in ("weights", "vocabulary")},
    "schedule": lambda schedule: schedules.make(**schedule),
}
"""What entries of manifests come down to: weights are known by their sha256, wherever they are."""


def require_same(key: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> None:
    """Raises `UserError`, beginning with `where`, unless an entry of two manifests comes down to the same."""
    is_ = IS.get(key, lambda value: value)
    if is_(theirs.get(key)) != is_(ours.get(key)):
        raise UserError(f"{where}: its {key} is {theirs.get(key)}, not {ours.get(key)}")
