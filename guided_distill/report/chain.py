"""Runs and their ancestors, as they stand on the disk: finished, in the middle of training, moved or missing."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from guided_distill import runs
from guided_distill.checkpoint import Checkpoints, fingerprint
from guided_distill.errors import UserError


@dataclasses.dataclass
class Node:
    """A run in the chain. `manifest` None: it is known only by what its students say of it. `parents`: keys of other
    nodes; `depth`: how far below the first teacher; `trouble`: what is wrong, in words."""

    key: Path
    name: str
    manifest: dict[str, Any] | None = None
    parents: tuple[Path, ...] = ()
    depth: int = 0
    trouble: str = ""

    @property
    def role(self) -> str:
        """For people: what the run is in the chain."""
        if self.manifest is None:
            return "not here"
        if self.manifest["objective"] == "encoding":
            return "encoder"
        if self.manifest["rounds"] is not None:
            return "stage two"
        return "stage one" if self.manifest["teacher"] else "teacher"

    @property
    def method(self) -> str:
        """What rows of its samples are called."""
        return {"stage one": "matched", "stage two": "student"}.get(self.role, self.role)

    @property
    def cost(self) -> int:
        """Network evaluations a sampling step: external guidance needs two."""
        return 2 if self.manifest["guidance"]["kind"] == "external" else 1

    @property
    def hash(self) -> str | None:
        """Of its newest weights; None where there are none."""
        try:
            return runs.load(self.key).hash
        except UserError:
            return None

    @property
    def config(self) -> dict[str, Any]:
        """config.json, or {} where it cannot be read."""
        return read_json(self.key / "config.json") or {}

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """{"steps", "updates", "done" in [0, 1]} of each halving."""
        begin, out, done = 0, [], self.progress[0]
        for steps, end in self.manifest["rounds"] or ():
            share = min(max(done - begin, 0) / max(end - begin, 1), 1.0)
            out.append({"steps": steps, "updates": end - begin, "end": end, "done": share})
            begin = end
        return out

    @property
    def progress(self) -> tuple[int, int]:
        """(updates that a checkpoint or a logged row shows to be done, updates planned)."""
        rounds, config = self.manifest["rounds"], self.config
        total = self.manifest.get("updates") or (rounds[-1][1] if rounds else config.get("num_updates", 0))
        saved = [*Checkpoints(self.key).steps(), *(row["step"] for row in self.metrics[-1:])]
        return max(saved, default=0), total

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The training rows of metrics.jsonl, without a line that a kill cut short."""
        path, rows = self.key / "metrics.jsonl", []
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and row.get("kind") == "train" and "step" in row:
                rows.append(row)
        return rows

    @property
    def parameters(self) -> int:
        """How many numbers are trained; shapes only, nothing is read."""
        if not self.manifest["trains"]:
            return 0
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(runs.abstract_weights(self.manifest)))


def gather(run_dirs: Sequence[str | Path]) -> list[Node]:
    """The runs and all their ancestors, teachers first. Raises `UserError` for a directory in `run_dirs` without a run;
    a missing ancestor is a node without a manifest."""
    nodes: dict[Path, Node] = {}
    for run_dir in run_dirs:
        runs.read_manifest(run_dir)
        _add(Path(run_dir), nodes)
    names = [node.name for node in nodes.values()]
    for node in nodes.values():
        if names.count(node.name) > 1:
            node.name = f"{node.key.parent.name}/{node.key.name}"
    return sorted(nodes.values(), key=lambda node: node.depth)


def read_json(path: Path) -> Any:
    """A JSON file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def _add(path: Path, nodes: dict[Path, Node]) -> Node:
    """The node of a run directory, its ancestors added before it."""
    key = path.resolve()
    if key in nodes:
        return nodes[key]
    node = nodes[key] = Node(key, key.name)  # Before its parents: a run that names itself must not loop.
    try:
        node.manifest = runs.read_manifest(path)
    except UserError as error:
        node.trouble = str(error)
        return node
    parents = [_parent(entry, key, nodes) for entry in node.manifest["teacher"]]
    node.parents = tuple(parent.key for parent in parents if parent is not node)
    node.depth = 1 + max((parent.depth for parent in parents if parent is not node), default=-1)
    done, total = node.progress
    if node.manifest["trains"] and done < total:
        node.trouble = f"in training: update {done:,} of {total:,}"
    for entry, parent in zip(node.manifest["teacher"], parents, strict=True):
        if parent.manifest is not None and not _is(entry, parent.key):
            node.trouble = f"what {parent.name} holds now is not what this run learned from"
    return node


def _parent(entry: Mapping[str, Any], student: Path, nodes: dict[Path, Node]) -> Node:
    """The teacher that a manifest names: beside the student, where the whole chain was moved or copied, or where it
    was."""
    was = Path(entry["run"])
    beside = student.parent / was.name
    for place, here in ((beside, _is(entry, beside)), (was, (was / "manifest.json").is_file())):
        if here:
            return _add(place, nodes)
    return nodes.setdefault(was, Node(was, was.name, trouble="its directory is not here"))


def _is(entry: Mapping[str, Any], run_dir: Path) -> bool:
    """Whether a directory holds the checkpoint that a student learned from."""
    try:
        return fingerprint(run_dir, entry["step"]) == entry["hash"]
    except (OSError, KeyError, json.JSONDecodeError):
        return False
