"""Contact sheets: rows of samples from the same noise, as one PNG."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from guided_distill.codecs import to_uint8

matplotlib.use("agg")


def grid(images: np.ndarray, columns: int, scale: int = 1, gap: int = 1) -> np.ndarray:
    """images [n, h, w, c] in [-1, 1] -> uint8 [H, W, 3], row by row, enlarged `scale` times, on grey; of codes, that
    have more channels than colours, the first three."""
    pictures = to_uint8(images[..., :3]).repeat(scale, 1).repeat(scale, 2)
    pictures = np.broadcast_to(pictures, (*pictures.shape[:3], 3))
    n, height, width, _ = pictures.shape
    rows = -(-n // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 128, np.uint8)
    for k, picture in enumerate(pictures):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def save_sheet(path: str | Path, rows: dict[str, np.ndarray], labels: np.ndarray | None = None) -> None:
    """A labelled row for each entry: images side by side, or points [n, 2] as a scatter coloured by label. Raises
    ValueError for other shapes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    shape = next(iter(rows.values())).shape
    if len(shape) == 2 and shape[1] == 2:
        return _scatter(path, rows, labels)
    if len(shape) != 4:
        raise ValueError(f"samples of shape {shape[1:]} have no picture")
    scale = max(1, 48 // shape[1])
    strips = [grid(images, len(images), scale) for images in rows.values()]
    height, width = strips[0].shape[:2]
    figure = Figure(figsize=(2 + width / 100, 0.1 + len(rows) * (height + 8) / 100), dpi=100)
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (name, strip) in zip(axes, zip(rows, strips, strict=True), strict=True):
        axis.imshow(strip, interpolation="nearest", aspect="equal")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.savefig(path, bbox_inches="tight", facecolor="white")


def save_grid(
    path: str | Path, images: np.ndarray, columns: int | None = None, labels: np.ndarray | None = None
) -> None:
    """Samples alone: a square grid of images, or one scatter."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if images.ndim != 4:
        return save_sheet(path, {"": images}, labels)
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    Image.fromarray(grid(images, columns, max(1, 48 // images.shape[1]))).save(path)


def _scatter(path: str | Path, rows: dict[str, np.ndarray], labels: np.ndarray | None) -> None:
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3 * columns, 3.2 * lines), dpi=100)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (name, points) in zip(axes, rows.items(), strict=False):
        axis.scatter(points[:, 0], points[:, 1], s=2, c=labels, cmap="tab10", vmin=0, vmax=9)
        axis.set(title=name, aspect="equal")
    for axis in axes[len(rows) :]:
        axis.remove()
    figure.tight_layout()
    figure.savefig(path, facecolor="white")
