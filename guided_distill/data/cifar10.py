"""CIFAR-10, 32 x 32 photographs of ten kinds (Krizhevsky 2009), from its official binary archive."""

import tarfile
from pathlib import Path

import numpy as np

from guided_distill import downloads as raw
from guided_distill.data import Info, Source, prepared
from guided_distill.errors import UserError, one_of
from guided_distill.shards import Job, labelled

HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
INFO = Info((32, 32, 3), 10, "none stated by its authors", flip=True, homepage=HOMEPAGE)
SPLITS = {"train": 50_000, "test": 10_000}
ARCHIVE = "cifar-10-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
HOW = (
    f"{URL} is looked for in {{downloads}} or --source=PATH, or TFDS's cifar10, prepared as array_record; "
    "--download fetches it"
)
FILES = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}


def make(split: str = "train", directory: str | None = None) -> Source:
    """uint8 [n, 32, 32, 3] and labels, "train" or "test"."""
    one_of("split of cifar10", split, SPLITS)
    return prepared("cifar10", split, INFO, HOW, directory)


def job(split: str, downloads: Path, source: Path | None = None, download: bool = False) -> Job:
    """A shard of each of the archive's files. Raises `UserError` where it is not to be found, or damaged."""
    if download and not (downloads / ARCHIVE).is_file():
        raw.fetch(URL, downloads / ARCHIVE, MD5)
    paths = raw.locate([ARCHIVE], raw.folders(downloads, source))
    if paths is not None:
        raw.check(paths[0], MD5)
        tasks = [(paths[0], f"cifar-10-batches-bin/{name}") for name in FILES[split]]
        return Job(read, tasks, labelled(INFO.shape), SPLITS[split], {"source": ARCHIVE, "md5": MD5})
    version = None if source else raw.tfds_version("cifar10")
    if version is not None:
        tasks = raw.tfds_tasks("cifar10", split, SPLITS[split], 10_000)
        return Job(raw.tfds_read, tasks, labelled(INFO.shape), SPLITS[split], {"source": f"TFDS cifar10 {version}"})
    raise UserError(f"no files of cifar10 found: {HOW.format(downloads=downloads)}")


def read(task: tuple[Path, str]) -> dict[str, np.ndarray]:
    """(archive, file in it) -> arrays. A record is the label and the image's channels, one after the other."""
    path, member = task
    with tarfile.open(path) as archive:
        content = archive.extractfile(member).read()
    records = np.frombuffer(content, np.dtype([("label", "u1"), ("x", "u1", (3, 32, 32))]))
    return {"x": records["x"].transpose(0, 2, 3, 1), "label": records["label"].astype(np.int32)}
