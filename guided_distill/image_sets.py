"""Images to be measured, wherever they are: read some at a time, so that sets may be larger than memory."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from guided_distill import decoding, mapped
from guided_distill.data import Source
from guided_distill.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # Modes of 8 bits.
CHUNK_BYTES = 2**22  # Of images in memory at a time.


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """`num` images of one `shape`: [h, w, c], or that of a point. `read`: (start, stop) -> uint8, or float in [-1, 1],
    [stop - start, *shape]. `files`: what to hash in place of the images, if they are files."""

    num: int
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    files: Sequence[Path] = ()

    def __len__(self) -> int:
        return self.num

    def parts(self, size: int | None = None) -> Iterator[np.ndarray]:
        """All images in order, `size` at a time (None: a few megabytes)."""
        size = size or max(1, CHUNK_BYTES // int(np.prod(self.shape)))
        for start in range(0, self.num, size):
            yield self.read(start, min(start + size, self.num))

    def digest(self) -> str:
        """sha256 of the files in order, or of what the images are."""
        whole = hashlib.sha256(f"{self.num} {self.shape}{' upright, on white' * bool(self.files)}".encode())
        for path in self.files:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        if not self.files:
            for part in self.parts():
                whole.update(str(part.dtype).encode())
                whole.update(np.ascontiguousarray(part).data)
        return whole.hexdigest()


def of_array(images: np.ndarray) -> ImageSet:
    """Of an array [n, ...], in memory or memory-mapped."""

    def read(start: int, stop: int) -> np.ndarray:
        part = np.array(images[start:stop])
        mapped.release(images)
        return part

    return ImageSet(len(images), tuple(images.shape[1:]), read)


def of_source(source: Source, index: np.ndarray | None = None) -> ImageSet:
    """Of a data set, or of its examples of `index`."""
    num = len(source) if index is None else len(index)
    rows = lambda start, stop: slice(start, stop) if index is None else index[start:stop]  # noqa: E731
    return ImageSet(num, tuple(source.info.shape), lambda start, stop: source[rows(start, stop)]["x"])


def of_npz(path: Path, images: np.ndarray) -> ImageSet:
    """Of the `images` of an npz file. Raises `UserError` unless they are uint8 [n, h, w, 1 or 3] (or points, float
    [n, d])."""
    good = images.ndim == 4 and images.dtype == np.uint8 and images.shape[3] in (1, 3)
    if not good and not (images.ndim == 2 and images.dtype.kind == "f"):
        found = f"{images.dtype} {list(images.shape)}"
        raise UserError(f"{path}: images are {found}; expected uint8 [n, h, w, 1 or 3], or points, float [n, d]")
    return of_array(images)


def of_folder(path: Path) -> ImageSet:
    """Of the PNG, JPEG and WebP files in a folder and those below it, in the order of their names; grey if all are;
    upright and on white, as data sets have them.

    Raises `UserError` where there are none, or their sizes differ, or one cannot be read.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"no images in {path}: expected files that end in {', '.join(SUFFIXES)}")
    first, modes = None, set()
    for file in files:
        size, mode = decoding.header(file)
        if mode not in GREY + COLOUR:
            raise UserError(f"{file} has pixels of the kind {mode}; expected 8 bits a channel")
        first = first or size
        if size != first:
            told = " and ".join(f"{f} ({w} x {h})" for f, (w, h) in ((files[0].name, first), (file.name, size)))
            raise UserError(f"images in {path} differ in size: {told}; bring them to one size first")
        modes.add(mode)
    grey = modes <= set(GREY)
    shape = (first[1], first[0], 1 if grey else 3)

    def read(start: int, stop: int) -> np.ndarray:
        with ThreadPoolExecutor(4) as pool:  # Pillow decodes without holding the interpreter.
            found = list(pool.map(lambda file: pixels(file, grey), files[start:stop]))
        for file, image in zip(files[start:stop], found, strict=True):
            if image.shape != shape:  # Turned, as only the end of the file says.
                raise UserError(f"{file} is {image.shape[1]} x {image.shape[0]}, turned; bring all to one size first")
        return np.stack(found)

    return ImageSet(len(files), shape, read, files)


def pixels(file: Path, grey: bool) -> np.ndarray:
    """uint8 [h, w, 1 or 3] of a file, `decoding.upright`. Raises `UserError` for what is no image."""
    found = np.asarray(decoding.upright(file, file).convert("L" if grey else "RGB"))
    return found[..., None] if grey else found
