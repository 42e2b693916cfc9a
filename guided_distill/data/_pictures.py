"""What sources of pictures of the user's own share: pictures that are decoded when they are asked for, and captions as
bytes."""

import dataclasses
import functools
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from PIL import Image

from guided_distill import decoding
from guided_distill.data import Info, Source
from guided_distill.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
KEYS = ("text", "caption")  # What a caption is called in JSON and CSV.
MOST = 1024  # Bytes of a caption: several times what text encoders read.
LICENCE = "not known: that of your pictures"


@dataclasses.dataclass(frozen=True)
class Pictures(Source):
    """`num` pictures that stay where they are, beside arrays in memory: `picture(k)`, uint8 [h, w, 3], is called for
    those that are asked for, by several threads at a time."""

    arrays: Mapping[str, np.ndarray]
    info: Info
    picture: Callable[[int], np.ndarray]
    num: int

    def __len__(self) -> int:
        return self.num

    @functools.cached_property
    def _indices(self) -> np.ndarray:
        return np.arange(self.num)

    def __getitem__(self, index: int | np.integer | np.ndarray | slice) -> dict[str, np.ndarray | np.generic]:
        wanted = self._indices[index]
        images = np.empty((wanted.size, *self.info.shape), np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock.
            for row, image in zip(images, pool.map(self.picture, wanted.ravel().tolist()), strict=True):
                row[:] = image
        known = {name: array[wanted] for name, array in self.arrays.items()}
        return {"x": images.reshape(*wanted.shape, *self.info.shape), **known}

    def captions_at(self, index: np.ndarray) -> list[str]:
        """As of any source; no picture is read for it."""
        return [caption.decode() for caption in self.arrays["caption"][index].tolist()]

    def unlabelled(self) -> "Pictures":
        """The same without captions."""
        plain = super().unlabelled()
        return dataclasses.replace(self, arrays=plain.arrays, info=plain.info)


def info_of(size: int, flip: bool, licence: str, note: str = "", num_classes: int = 0) -> Info:
    """Of pictures of `size` x `size`, with captions where there are no classes. Raises `UserError` for no such
    size."""
    if size < 1:
        raise UserError(f"size={size} of pictures is not positive")
    return Info((size, size, 3), num_classes, licence, flip, note=note, captions=not num_classes)


def as_bytes(captions: Sequence[str]) -> np.ndarray:
    """Captions -> UTF-8 of one length [n], without spaces around them. What is beyond MOST bytes is cut off, with a
    warning."""
    encoded = [caption.strip().encode(errors="replace") for caption in captions]
    if cut := sum(len(caption) > MOST for caption in encoded):
        warnings.warn(f"{cut} of {len(encoded)} captions have more than {MOST} bytes: cut off", stacklevel=3)
        encoded = [caption[:MOST].decode(errors="ignore").encode() for caption in encoded]
    return np.array(encoded, "S") if encoded else np.zeros(0, "S1")


def square(stream: BufferedIOBase | Path, size: int, what: object) -> np.ndarray:
    """A picture in a file -> uint8 [size, size, 3]: `decoding.upright`, the square in its middle, shrunk to the mean
    over areas, or enlarged by bicubic interpolation. Raises `UserError` as it does."""
    colours = decoding.upright(stream, what)
    side = min(colours.size)
    left, top = (colours.width - side) // 2, (colours.height - side) // 2
    how = Image.Resampling.BOX if side >= size else Image.Resampling.BICUBIC
    return np.asarray(colours.resize((size, size), how, (left, top, left + side, top + side)))


def in_file(files: Sequence[Path], size: int, k: int) -> np.ndarray:
    """The `square` of the k-th of these files."""
    return square(files[k], size, files[k])


def root_of(name: str, split: str, path: str | Path) -> Path:
    """Where a split of the user's own files lies: the folder `split` in `path`, or for "train" `path` itself. Raises
    `UserError` where there is none."""
    if not path:
        raise UserError(f"{name} reads files of your own: say where they are, path=FOLDER")
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{name}: path={path} does not exist")
    if (path / split).is_dir():
        return path / split
    if split != "train":
        found = sorted(p.name for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
        raise UserError(f"{name}: no folder {split!r} in {path}; there are: {', '.join(found) or 'none'}")
    return path


def read_index(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_index` has written; None where there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def write_index(path: Path, index: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whole or not at all; of several processes that write the same, the last one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, **index)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return index
