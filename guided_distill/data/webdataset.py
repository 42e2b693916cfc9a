"""Captioned pictures in tar shards, as WebDataset and img2dataset write them: 0000.jpg and 0000.txt (or 0000.json with
a caption) one after the other.

The shards are read in any order: where each picture lies, and its caption, is written down once, in an index beside
each shard, or in the cache where that folder is not ours to write in. It is made anew when a shard has changed.
Pictures are decoded at every access; `python -m guided_distill data encode` does it once.
"""

import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from guided_distill import shards
from guided_distill.data import Source
from guided_distill.data._pictures import (
    KEYS,
    LICENCE,
    SUFFIXES,
    Pictures,
    as_bytes,
    info_of,
    read_index,
    root_of,
    square,
    write_index,
)
from guided_distill.errors import UserError

FORMAT = 1
SUFFIX = ".index.npz"


def make(
    split: str = "train", path: str = "", size: int = 64, column: str = "", flip: bool = False, licence: str = LICENCE
) -> Source:
    """uint8 [n, size, size, 3] and captions of all shards (*.tar) in a folder, or of a single one, in their order: the
    square in the middle of each picture, shrunk to the mean over areas. `column`: the key of captions in .json ("":
    a .txt, or else text or caption in .json). `flip`: whether captions are true of mirror images, too.

    Samples without a picture or a caption are left out, and `Info.note` says how many. Raises `UserError` where nothing
    is left, and for shards that are compressed or damaged.
    """
    root = root_of("webdataset", split, path)
    tars = sorted(root.glob("*.tar")) if root.is_dir() else [root]
    if not tars:
        raise UserError(f"webdataset: no shards *.tar in {root}")
    console = Console(stderr=True)
    bar = track(tars, "indexing", console=console, transient=True, disable=not console.is_terminal)
    found = [_indexed(tar, column) for tar in bar]
    left_out = sum(int(index["left_out"]) for index in found)
    ends = np.cumsum([len(index["caption"]) for index in found])
    if not ends[-1]:
        raise UserError(f"webdataset: no sample in {root} has both a picture ({', '.join(SUFFIXES)}) and a caption")
    note = f"{left_out:,} samples without a picture or a caption are left out" if left_out else ""
    place = {name: np.concatenate([index[name] for index in found]) for name in ("caption", "offset", "size")}
    picture = functools.partial(_picture, tars, ends, place, size)
    return Pictures({"caption": place["caption"]}, info_of(size, flip, licence, note), picture, int(ends[-1]))


def _picture(tars: list[Path], ends: np.ndarray, place: dict[str, np.ndarray], size: int, k: int) -> np.ndarray:
    tar, offset, length = tars[int(np.searchsorted(ends, k, side="right"))], place["offset"][k], place["size"][k]
    with tar.open("rb") as file:
        file.seek(int(offset))
        content = file.read(int(length))
    return square(io.BytesIO(content), size, f"{tar}: the picture at byte {offset:,}")


def _indexed(tar: Path, column: str) -> dict[str, np.ndarray]:
    """The index of a shard, from its file if it is there and of this very shard."""
    state = tar.stat()
    stamp = np.array(f"{FORMAT} {state.st_size} {state.st_mtime_ns} {column}")
    cached = hashlib.sha256(str(tar.resolve()).encode()).hexdigest()[:16]
    places = [tar.with_name(tar.name + SUFFIX), shards.root() / "webdataset" / f"{tar.stem}-{cached}{SUFFIX}"]
    for path in places:
        if (index := read_index(path)) is not None and index["stamp"] == stamp:
            return index
    index = {**_scanned(tar, column), "stamp": stamp}
    for path in places:
        try:
            return write_index(path, index)
        except OSError:  # Not ours to write in.
            continue
    return index


def _scanned(tar: Path, column: str) -> dict[str, np.ndarray]:
    """Reads a shard from end to end."""
    samples = [sample for sample in _samples(tar, column) if sample]
    whole = [sample for sample in samples if sample.keys() >= {"place", "caption"}]
    places = np.array([sample["place"] for sample in whole], np.int64).reshape(-1, 2)
    captions = as_bytes([sample["caption"] for sample in whole])
    left_out = np.array(len(samples) - len(whole))
    return {"offset": places[:, 0], "size": places[:, 1], "caption": captions, "left_out": left_out}


def _samples(tar: Path, column: str) -> Iterator[dict[str, Any]]:
    """{"place": (offset, size) of the picture, "caption"} of neighbours of one name, as far as they have it. A name
    ends at the first dot of its file."""
    size, name, sample = tar.stat().st_size, None, {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it ends within a file")
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                if (folder, stem) != name:
                    yield sample
                    name, sample = (folder, stem), {}
                _add(sample, f".{suffix.lower()}", member, archive, column)
    except tarfile.TarError as error:
        raise UserError(f"{tar} is damaged, or no tar archive that is not compressed ({error})") from error
    yield sample


def _add(sample: dict[str, Any], suffix: str, member: tarfile.TarInfo, archive: tarfile.TarFile, column: str) -> None:
    sample.setdefault("member", member.name)
    if suffix in SUFFIXES:
        sample["place"] = (member.offset_data, member.size)
        return
    if suffix != ".json" and (suffix != ".txt" or column):
        return
    content = archive.extractfile(member).read()
    try:
        if suffix == ".txt":
            sample["caption"] = content.decode()
            return
        known = json.loads(content)
        values = [known.get(key) for key in ([column] if column else KEYS)] if isinstance(known, dict) else []
        found = next((value for value in values if isinstance(value, str)), None)
    except ValueError as error:
        raise UserError(f"{archive.name}: {member.name} cannot be read: {error}") from error
    if found is not None:
        sample.setdefault("caption", found)
