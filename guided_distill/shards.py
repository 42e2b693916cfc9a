"""Data sets on disk: records of one fixed length in array_record files, and an index that says how they must be.

    <root>/<name>/<split>/index.json, 00000-of-00005.array_record, ...

A record is the bytes of one item of a numpy dtype such as [("label", "<i4"), ("x", "u1", (32, 32, 3))], so nothing is
decoded when a batch is gathered. A shard is put in its place when it is whole, and enters the index with its size and
sha256 after that: a preparation that was killed goes on where it stopped.
"""

import copy
import dataclasses
import json
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from rich.console import Console
from rich.progress import track

from guided_distill import files
from guided_distill.errors import UserError

FORMAT = 1
WRITER = "group_size:1,uncompressed"  # A record is read alone, in any order.
ENCODED = "encoded"  # The folder of the sets that `data encode` makes.
SPARE_FILES = 64  # That other parts of a process may want to open.
READER = "readahead_buffer_size:0,max_parallelism:0"


class NotPrepared(UserError):
    """The data set has files to be made first. The message names the command."""


@dataclasses.dataclass(frozen=True)
class Job:
    """How a split becomes shards: shard k holds the records of `read(tasks[k])`, arrays named as the fields of `dtype`.

    `read` and the tasks go to other processes, so they must pickle. `total` is the number of records that there must
    be in the end; `origin` (JSON) is what they are made from, with a "note" if they are not the usual.
    """

    read: Callable[[Any], Mapping[str, np.ndarray]]
    tasks: Sequence[Any]
    dtype: np.dtype
    total: int
    origin: dict[str, Any]


def labelled(shape: tuple[int, ...]) -> np.dtype:
    """The record of a uint8 image of this shape, "x", and its "label"."""
    return np.dtype([("label", "<i4"), ("x", "u1", shape)])


def root(directory: str | Path | None = None) -> Path:
    """Where data sets are: `directory`, else $GUIDED_DISTILL_DATA, else guided_distill/data in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(directory or os.environ.get("GUIDED_DISTILL_DATA") or cache / "guided_distill" / "data").expanduser()


def command(directory: Path) -> str:
    """The command that prepares, or mends, a split's directory."""
    if directory.parents[1].name == ENCODED:
        return f"python -m guided_distill data encode data:NAME:{directory.name} --name={directory.parent.name} ..."
    where = "" if directory.parents[1] == root() else f" --directory={directory.parents[1]}"
    return f"python -m guided_distill data prepare {directory.parent.name} --split={directory.name}{where}"


def write(directory: Path, job: Job, workers: int = 1, share: tuple[int, int] = (0, 1)) -> "Shards | None":
    """Makes the shards that are not there yet, or not as the index says, in `workers` processes, and opens them all.

    `share` = (k, n): every n-th shard from the k-th on, others being made by others, on other machines perhaps; None
    for all who come before the last one has finished. Raises `UserError` when the directory holds records of another
    origin, when another process is at it, or when the number of records in the end is wrong.
    """
    part, parts = share
    where = directory if parts == 1 else directory / f"share-{part}-of-{parts}"
    where.mkdir(parents=True, exist_ok=True)
    tasks = {f"{k:05d}-of-{len(job.tasks):05d}.array_record": task for k, task in enumerate(job.tasks)}
    with files.alone(where, "prepared"):
        index, mine = _begun(where, job), list(tasks)[part::parts]
        # A whole set of that name is not to be written over, nor made again.
        whole = _begun(directory, job)["shards"] if parts > 1 else {}
        index["shards"] = {**whole, **index["shards"]}
        index["shards"] = {n: index["shards"][n] for n in _bar(mine, "checking") if _whole(directory, n, index)}
        _save(where, index)
        pending = {n: tasks[n] for n in mine if n not in index["shards"]}
        for name, entry in _bar(_written(directory, job, pending, workers), "writing", len(pending)):
            index["shards"][name] = entry
            _save(where, index)
        for folder in directory.glob(f"share-*-of-{parts}") if parts > 1 else ():
            if (folder / "index.json").is_file():
                theirs = _load(folder)
                own = json.loads(json.dumps(index))
                if other := [key for key in own if key != "shards" and theirs.get(key) != own[key]]:
                    told = f"{folder} holds a share of something else than {where} ({', '.join(other)} differs)"
                    raise UserError(f"{told}: remove one of them")
                index["shards"] |= theirs["shards"]
        index["shards"] = {**whole, **index["shards"]}
        if len(index["shards"]) < len(tasks):
            return None
        index["shards"] = dict(sorted(index["shards"].items()))
        _save(directory, index)
        written = sum(entry["records"] for entry in index["shards"].values())
        if written != job.total:
            (directory / "index.json").unlink()  # So that the next run, from a better source, starts afresh.
            raise UserError(
                f"{job.origin['source']} has {written:,} examples instead of {job.total:,}: it is not whole"
            )
    return Shards(directory)


def _begun(directory: Path, job: Job) -> dict[str, Any]:
    index = {
        "format": FORMAT,
        "fields": _fields(job.dtype),
        "total": job.total,
        "num_shards": len(job.tasks),
        "origin": job.origin,
    }
    if not (directory / "index.json").is_file():
        return index | {"shards": {}}
    before = _load(directory)
    other = [key for key, value in json.loads(json.dumps(index)).items() if before.get(key) != value]
    if other:
        raise UserError(
            f"{directory} holds records of another preparation (from {before['origin']['source']}; {', '.join(other)} "
            "differs): remove it, or give another --directory"
        )
    return before


def _written(directory: Path, job: Job, pending: dict[str, Any], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if min(workers, len(pending)) <= 1:
        for name, task in pending.items():
            yield name, _write_shard(directory / name, job.read, job.dtype, task)
        return
    # Spawned: a fork of a process in which JAX has started its threads may hang.
    pool = ProcessPoolExecutor(min(workers, len(pending)), multiprocessing.get_context("spawn"))
    try:
        futures = {
            pool.submit(_write_shard, directory / name, job.read, job.dtype, task): name
            for name, task in pending.items()
        }
        for done in as_completed(futures):
            yield futures[done], done.result()
    except BrokenProcessPool:
        raise UserError(f"a process that prepared {directory} was killed; try fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(path: Path, read: Callable, dtype: np.dtype, task: Any) -> dict[str, Any]:
    arrays = read(task)
    records = np.empty(len(arrays["x"]), dtype)
    for name in dtype.names:
        records[name] = arrays[name]
    part = path.with_name(path.name + ".part")
    writer = ArrayRecordWriter(str(part), WRITER)
    for record in records:
        writer.write(record.tobytes())
    writer.close()
    entry = {"records": len(records), "bytes": part.stat().st_size, "sha256": files.sha256(part)}
    part.replace(path)
    if "label" in dtype.names:
        values, counts = np.unique(records["label"], return_counts=True)
        entry["labels"] = {str(value): int(count) for value, count in zip(values, counts, strict=True)}
    return entry


class Shards:
    """A prepared split: `shards[indices]` gathers records as a dict of arrays, each shard being asked once.

    Sizes are checked on opening. Raises `NotPrepared` when there is nothing, or not all of it, and `UserError` when a
    shard is damaged.
    """

    def __init__(self, directory: Path, fields: Sequence[str] | None = None):
        self.directory = directory
        if not (directory / "index.json").is_file():
            raise NotPrepared(f"{directory} is not prepared; run: {command(directory)}")
        index = _load(directory)
        if len(index["shards"]) < index["num_shards"]:
            done = f"{len(index['shards'])} of {index['num_shards']} shards"
            raise NotPrepared(f"{directory} is half prepared ({done}); go on with: {command(directory)}")
        self.dtype = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in index["fields"]])
        self.fields = tuple(fields or self.dtype.names)
        self.origin: dict[str, Any] = index["origin"]
        self._entries = index["shards"]
        self._names = sorted(self._entries)
        self._ends = np.cumsum([self._entries[name]["records"] for name in self._names])
        self._indices = np.arange(self._ends[-1])
        _allow_open(len(self._names), directory)
        self._readers = [self._open(name) for name in self._names]

    def _open(self, name: str) -> ArrayRecordReader:
        path, entry = self.directory / name, self._entries[name]
        size = path.stat().st_size if path.is_file() else 0
        if size != entry["bytes"]:
            raise self._damaged(name, f"{size:,} bytes instead of {entry['bytes']:,}")
        return ArrayRecordReader(str(path), READER, file_reader_buffer_size=2**15)

    def _damaged(self, name: str, why: object) -> UserError:
        return UserError(f"{self.directory / name} is damaged ({why}); mend it with: {command(self.directory)}")

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def nbytes(self) -> int:
        """Of all records in memory."""
        return len(self) * self.dtype.itemsize

    def __getitem__(self, index: int | np.integer | np.ndarray | slice) -> dict[str, np.ndarray]:
        wanted = self._indices[index]
        flat = np.ravel(wanted)
        shard = np.searchsorted(self._ends, flat, side="right")
        out = {name: np.empty((len(flat), *self.dtype[name].shape), self.dtype[name].base) for name in self.fields}
        for k in np.unique(shard):
            name, where = self._names[k], np.flatnonzero(shard == k)
            first = self._ends[k] - self._entries[name]["records"]
            try:
                read = self._readers[k].read((flat[where] - first).tolist())
                records = np.frombuffer(b"".join(read), self.dtype)
            except (RuntimeError, ValueError, IndexError) as error:
                raise self._damaged(name, error) from error
            for field, array in out.items():
                array[where] = records[field]
        return {name: array.reshape((*np.shape(wanted), *array.shape[1:])) for name, array in out.items()}

    def only(self, *fields: str) -> "Shards":
        """The same records with these fields only."""
        other = copy.copy(self)  # With the same files open.
        other.fields = fields
        return other

    def label_counts(self) -> dict[int, int]:
        """label -> number of records, from the index: nothing is read."""
        counts: dict[int, int] = {}
        for entry in self._entries.values():
            for label, count in entry.get("labels", {}).items():
                counts[int(label)] = counts.get(int(label), 0) + count
        return dict(sorted(counts.items()))

    def verify(self) -> None:
        """Reads everything. Raises `UserError` for a shard whose sha256 is not that of the index."""
        for name, entry in _bar(self._entries.items(), "verifying", len(self._entries)):
            if files.sha256(self.directory / name) != entry["sha256"]:
                raise self._damaged(name, "its sha256 differs from the index")


def _allow_open(num: int, directory: Path) -> None:
    """Lets this process hold so many more files open, each shard being one. Raises `UserError` where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num + len(os.listdir("/dev/fd")) + SPARE_FILES
    if soft != resource.RLIM_INFINITY and wanted > soft:
        if hard != resource.RLIM_INFINITY and wanted > hard:
            raise UserError(
                f"{directory} has {num} shards, each an open file, and this system lets a process hold {hard}: raise "
                "that (ulimit -Hn), or encode with more examples a shard (--per_shard)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bar(items: Iterable, what: str, total: int | None = None) -> Iterable:
    console = Console(stderr=True)
    return track(items, what, total, console=console, transient=True, disable=not console.is_terminal)


def _fields(dtype: np.dtype) -> list:
    return [[name, dtype[name].base.str, list(dtype[name].shape)] for name in dtype.names]


def _whole(directory: Path, name: str, index: Mapping[str, Any]) -> bool:
    path, entry = directory / name, index["shards"].get(name)
    if entry is None or not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return files.sha256(path) == entry["sha256"]


def _load(directory: Path) -> dict[str, Any]:
    path = directory / "index.json"
    try:
        index = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run: {command(directory)}") from error
    if index.get("format") != FORMAT:
        raise UserError(f"{path} has format {index.get('format')}; this version reads {FORMAT}: remove {directory}")
    return index


def _save(directory: Path, index: Mapping[str, Any]) -> None:
    part = directory / "index.json.part"
    part.write_text(json.dumps(index, indent=1) + "\n")
    part.replace(directory / "index.json")
