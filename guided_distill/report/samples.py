"""Samples of a whole chain from the same noise and labels: images as data URIs, points as inline SVG."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from markupsafe import Markup
from PIL import Image

from guided_distill import runs
from guided_distill.codecs import to_uint8
from guided_distill.errors import UserError
from guided_distill.report.chain import Node
from guided_distill.report.charts import SERIES
from guided_distill.report.rows import Number

ROUNDS = 6  # Students of the fewest steps that are drawn of one chain;
FEW = (4, 1)  # steps that are drawn of each of several chains, and of DDIM on the teacher.
LARGEST = 96  # Pixels of a picture's side; larger ones are reduced.
BUDGET = 2_500_000  # Bytes of all pictures before they are base64.
NUM_POINTS = 600


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A row to draw: a run at some steps, with a sampler of its own (None: the run's)."""

    label: str
    detail: str
    run: runs.Run
    steps: int
    sampler: str | None = None


def drawings(nodes: Sequence[Node]) -> tuple[list[Drawing], list[str]]:
    """(rows, why some runs have none): teachers first, students from the most steps to the fewest, then the teachers'
    own network in 4 and 1 steps of DDIM."""
    rows, plain, troubles = [], [], []
    present = [node for node in nodes if node.manifest is not None]
    roots = [node for node in present if node.role == "teacher"]
    for node in present:
        if node.role == "encoder":
            troubles.append(f"{node.name} is an encoder: it goes towards noise and has no samples.")
            continue
        alone = sum(other.role == node.role for other in present) == 1
        name = node.role if alone else node.name
        try:
            run = runs.load(node.key)
            trained, best = run.trained_steps, run.default_steps()
        except UserError as error:
            troubles.append(f"No samples of {node.name}: {error}.")
            continue
        sampler = node.manifest["sampler"]
        by = "" if sampler == "ddim" else f", {sampler}"
        rounds = sorted(trained or [best], reverse=True)
        for n in rounds[-ROUNDS:] if alone else [n for n in rounds if n in FEW] or rounds[-1:]:
            label = name if trained is None else "student" if alone else name
            rows.append(Drawing(label, f"{cost(n, node.cost)}{by}", run, n))
        if node in roots:
            label = "DDIM on the teacher" if len(roots) == 1 else f"DDIM on {node.name}"
            plain += [Drawing(label, cost(n, node.cost), run, n, "ddim") for n in FEW if n < best]
    return rows + plain, troubles


def cost(steps: int, evaluations: int) -> str:
    """ "4 steps × 2", and the plain number of steps where each costs one evaluation."""
    text = "1 step" if steps == 1 else f"{steps} steps"
    return text if evaluations == 1 else f"{text} × {evaluations}"


def strengths(nodes: Sequence[Node], wished: Sequence[Number]) -> list[Number]:
    """Those of the wished w that some student can be asked for (a teacher, where there is no student); else what the
    last run recommends."""
    present = [node for node in nodes if node.manifest is not None]
    students = [node for node in present if node.role != "teacher"]
    ranges = [w_range(node.manifest) for node in students or present]
    found = [w for w in wished if any(low <= w <= high for low, high in ranges)]
    return found or [node.manifest["recommended"]["guidance"] for node in present[-1:]]


def w_range(manifest: Mapping[str, Any]) -> tuple[float, float]:
    """The w that a run can be asked for."""
    guidance = manifest["guidance"]
    return {"none": (0.0, 0.0), "external": (0.0, float("inf"))}.get(guidance["kind"]) or tuple(guidance["range"])


def sheets(nodes: Sequence[Node], guidance: Sequence[Number], num: int, seed: int) -> tuple[list[dict], list[str]]:
    """([{"w", "labels", "side" in pixels, "rows": [{"label", "detail", "cells" or "points" or "why"}], "absent": names
    that do not know this w}], troubles)."""
    rows, troubles = drawings(nodes)
    noise: dict[tuple, np.ndarray] = {}
    # A teacher may recommend none, and all are to be asked for the same.
    recommended = [row.run.manifest["recommended"].get("prompts") for row in rows if row.run.manifest.get("text")]
    prompts, drawn = next(filter(None, reversed(recommended)), ()), []
    for w in guidance:
        known = [row for row in rows if w_range(row.run.manifest)[0] <= w <= w_range(row.run.manifest)[1]]
        drawn.append((w, [(row, _draw(row, w, num, seed, noise, prompts)) for row in known]))
    images = [found["images"] for _, sheet in drawn for _, found in sheet if "images" in found]
    kind, columns = _fitting(images, num)
    classes = {row.run.manifest["num_classes"] for row in rows}
    labels = [k % max(classes) for k in range(columns)] if len(classes) == 1 and max(classes) else []
    side = max((batch.shape[1] for batch in images), default=1)
    out = []
    for w, sheet in drawn:
        points = [found["xy"] for _, found in sheet if "xy" in found]
        box = _box(np.concatenate(points)) if points else None
        shown = [{"label": r.label, "detail": r.detail, **_shown(found, kind, columns, box)} for r, found in sheet]
        absent = dict.fromkeys(row.label for row in rows if row not in [r for r, _ in sheet])
        head = {"w": f"{w:g}", "labels": labels, "side": max(1, round(48 / side)) * side, "absent": list(absent)}
        out.append({**head, "rows": shown})
    return [sheet for sheet in out if sheet["rows"]], troubles


def _shown(found: Mapping[str, Any], kind: str, columns: int, box: tuple[np.ndarray, float] | None) -> dict[str, Any]:
    """What `_draw` found, as the page has it."""
    if "images" in found:
        return {"cells": [_uri(image, kind) for image in found["images"][:columns]]}
    if "xy" in found:
        return {"points": _scatter(found["xy"], found["labels"], box)}
    return {"why": found["why"]}


def _draw(
    row: Drawing, w: Number, num: int, seed: int, noise: dict[tuple, np.ndarray], prompts: Sequence[str] = ()
) -> dict[str, Any]:
    """{"images"} or {"xy", "labels"} of a row, or {"why"} there are none; `noise` by shape, drawn once; `prompts` of
    all rows, in turn."""
    shape = tuple(row.run.manifest["shape"])
    points, image = shape == (2,), len(shape) == 3
    if not points and not image:
        return {"why": f"samples of shape {shape} have no picture"}
    num = NUM_POINTS if points else num
    try:
        if row.run.code_shape not in noise:
            noise[row.run.code_shape] = row.run.noise(num, seed)
        told = {"prompts": [prompts[k % len(prompts)] for k in range(num)]} if prompts else {}
        start = noise[row.run.code_shape]
        samples = row.run.sample(num, row.steps, w, seed=seed, sampler=row.sampler, noise=start, **told)
    except UserError as error:
        return {"why": str(error)}
    if points:
        classes = row.run.manifest["num_classes"]
        return {"xy": samples, "labels": np.arange(num) % max(classes, 1)}
    return {"images": np.stack([_reduced(picture) for picture in to_uint8(samples)])}


def _reduced(picture: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h2 w2 k"]:
    """Grey or RGB, at most `LARGEST` pixels a side."""
    picture = picture[..., : 3 if picture.shape[-1] >= 3 else 1]
    side = max(picture.shape[:2])
    if side <= LARGEST:
        return picture
    size = tuple(round(n * LARGEST / side) for n in picture.shape[1::-1])
    return np.asarray(Image.fromarray(picture.squeeze()).resize(size, Image.Resampling.BOX)).reshape(
        size[1], size[0], -1
    )


def _fitting(batches: Sequence[np.ndarray], num: int) -> tuple[str, int]:
    """(format, columns) by which all pictures stay in the budget: PNG if it can be, then WebP, then fewer columns."""
    for kind, columns in (("png", num), *(("webp", max(1, num >> k)) for k in range(6))):
        if sum(len(_encoded(image, kind)) for images in batches for image in images[:columns]) <= BUDGET:
            break
    return kind, columns


def _encoded(image: UInt8[np.ndarray, "h w k"], kind: str) -> bytes:
    buffer = io.BytesIO()
    options = {"optimize": True} if kind == "png" else {"quality": 85}
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(image: UInt8[np.ndarray, "h w k"], kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(_encoded(image, kind)).decode()}"


def _box(points: Float[np.ndarray, "n 2"]) -> tuple[np.ndarray, float]:
    """(centre, half a side) of the square that holds nearly all points."""
    low, high = np.nanpercentile(points, 0.5, axis=0), np.nanpercentile(points, 99.5, axis=0)
    return (low + high) / 2, float(max(high - low)) * 0.6 or 1.0


def _scatter(points: Float[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"], box: tuple[np.ndarray, float]) -> Markup:
    """A square <svg> of 200 units: a path of round dots for each class."""
    centre, half = box
    place = np.clip(np.nan_to_num((points - centre) / half), -2, 2) * np.array([100, -100]) + 100
    paths = []
    for k in np.unique(labels):
        dots = "".join(f"M{x:.0f} {y:.0f}h0" for x, y in place[labels == k] if 0 <= x <= 200 and 0 <= y <= 200)
        paths.append(f'<path d="{dots}" style="stroke:var(--c{k % SERIES})"/>')
    return Markup(
        '<svg viewBox="0 0 200 200" role="img" aria-label="points" fill="none" stroke-width="3.2" '
        'stroke-linecap="round">{}</svg>'
    ).format(Markup("".join(paths)))
