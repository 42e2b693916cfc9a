"""Arrays that stay in their files: memory-mapped, read and written some rows at a time, whole or not at all."""

import contextlib
import mmap
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from guided_distill.errors import UserError


def release(array: np.ndarray) -> None:
    """Gives the pages that were read of a memory-mapped array back to the system, so that they do not stay resident;
    they are read again when they are asked for. Does nothing to other arrays."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not array.flags.writeable and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def load(path: Path) -> np.ndarray | None:
    """A .npy file, memory-mapped; None where there is none, or it is not whole."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to be written; it appears at `path` when it is whole, and not at all after an error.

    Any number of processes may write the same path at once: each has a file of its own until then, and the last counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writer(path: Path, num: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A .npy file float32 [num, width], to be written from its first row to its last with what is yielded; as `whole`.
    Raises ValueError at the end if rows are missing."""
    with whole(path) as file:
        written = 0

        def add(rows: np.ndarray) -> None:
            nonlocal written
            if not written:
                header = {"descr": "<f4", "fortran_order": False, "shape": (num, rows.shape[1])}
                npy.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(rows, "<f4").data)
            written += len(rows)

        yield add
        if written != num:
            raise ValueError(f"{written} rows of {num} were written to {path}")


def npz(path: Path) -> Mapping[str, np.ndarray]:
    """The arrays of an npz file by their names, memory-mapped: where they lie, or, if they are compressed, from a copy
    on disk that goes with them. Raises `UserError` for what is no such file."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            return {info.filename[: -len(".npy")]: _member(archive, file, info) for info in members}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no npz file that can be read: {error}") from error


def _member(archive: zipfile.ZipFile, file: BinaryIO, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type == zipfile.ZIP_STORED:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))  # Lengths, in the header before the content.
        file.seek(info.header_offset + 30 + name + extra)
        return _array(file, info.filename)
    with tempfile.TemporaryFile() as copy, archive.open(info) as content:
        while part := content.read(2**22):
            copy.write(part)
        copy.flush()
        copy.seek(0)
        return _array(copy, info.filename)


def _array(file: BinaryIO, name: str) -> np.ndarray:
    """The .npy that begins where the file stands."""
    version = npy.read_magic(file)
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if header is None:
        raise ValueError(f"{name} has the version {version}")
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
