"""The raw files that data sets are prepared from: where they are, whether they are the right ones, fetching them; and
what TensorFlow Datasets has prepared on this machine."""

import hashlib
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import wrap_file

from guided_distill.errors import UserError


def locate(names: Sequence[str], folders: Sequence[Path]) -> list[Path] | None:
    """The files of these names (or each with .gz) in the first folder that has them all; None if none has. A file in
    place of a folder stands for a single name."""
    for folder in folders:
        if folder.is_file() and len(names) == 1:
            return [folder]
        found = [next((p for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None) for n in names]
        if all(found):
            return found
    return None


def folders(downloads: Path, source: Path | None, *usual: Path) -> list[Path]:
    """Where to look: in `source` alone if it is given, else in the downloads folder and the usual places. Raises
    `UserError` for a source that is not there."""
    if source is None:
        return [downloads, *usual]
    if not source.exists():
        raise UserError(f"--source={source} does not exist")
    return [source]


def check(path: Path, digest: str, algorithm: str = "md5") -> None:
    """Raises `UserError` unless the file has this digest, as its publisher says."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        wrong = f"its {algorithm} is {found} instead of {digest}"
        raise UserError(f"{path} is damaged or another file: {wrong}; download it again")


def fetch(url: str, path: Path, digest: str, algorithm: str = "md5") -> None:
    """Downloads a file, whole and checked or not at all. Raises `UserError` when there is no network, or what came is
    another file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, console = path.with_name(path.name + ".part"), Console(stderr=True)
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, part.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            bar = wrap_file(answer, size, description=path.name, console=console, disable=not console.is_terminal)
            with bar as stream:
                while block := stream.read(2**20):
                    file.write(block)
    except OSError as error:
        raise UserError(f"cannot download {url} ({error}); bring it by another way to {path}") from error
    check(part, digest, algorithm)
    part.replace(path)


def tfds_version(name: str) -> str | None:
    """The version of a TFDS data set that lies prepared on this machine as array_record, None if there is none, or no
    TFDS. It reads without TensorFlow."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        return None
    info = tfds.builder(name).info
    return str(info.version) if info.splits and info.file_format.value == "array_record" else None


def tfds_read(task: tuple[str, str, int, int]) -> dict[str, np.ndarray]:
    """(name, split, start, stop) -> {"x", "label"} of these examples."""
    import tensorflow_datasets as tfds

    name, split, start, stop = task
    source = tfds.builder(name).as_data_source(split=split)
    examples: list[dict[str, Any]] = source.__getitems__(range(start, stop))
    images = np.stack([example["image"] for example in examples])
    return {"x": images, "label": np.array([example["label"] for example in examples], np.int32)}


def tfds_classes(name: str) -> list[str]:
    """The names of its labels 0, 1, ..."""
    import tensorflow_datasets as tfds

    return list(tfds.builder(name).info.features["label"].names)


def tfds_tasks(name: str, split: str, total: int, size: int) -> list[tuple[str, str, int, int]]:
    """Tasks of `tfds_read`, `size` examples each. Raises `UserError` unless the split has `total` examples."""
    import tensorflow_datasets as tfds

    found = tfds.builder(name).info.splits[split].num_examples
    if found != total:
        raise UserError(f"TFDS {name} has {found:,} examples in {split} instead of {total:,}; prepare it again")
    return [(name, split, start, min(start + size, total)) for start in range(0, total, size)]
