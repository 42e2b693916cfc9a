"""Fashion-MNIST, clothes of ten kinds in grey (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747): 28 x 28, padded to 32 x
32 with the background.

Not mirrored: shoes point to the left, all of them, and a model of the mirrored set would learn others too.
"""

import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np

from guided_distill import downloads as raw
from guided_distill.data import Info, Source, prepared
from guided_distill.errors import UserError, one_of
from guided_distill.shards import Job, labelled

INFO = Info((32, 32, 1), 10, "MIT", homepage="https://github.com/zalandoresearch/fashion-mnist")
SPLITS = {"train": 60_000, "test": 10_000}
HOW = (
    "the four files *-ubyte.gz of https://github.com/zalandoresearch/fashion-mnist are looked for in {downloads} or "
    "--source=FOLDER, or those of Debian's package dataset-fashion-mnist, or TFDS's, prepared as array_record; "
    "--download fetches them"
)
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MD5 = {  # Of the .gz files, as published.
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
SHA256 = {  # Of what is in them: they are packed anew in places.
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def make(split: str = "train", size: int = 32, directory: str | None = None) -> Source:
    """uint8 [n, size, size, 1] and labels, "train" or "test"; `size` 16 or 8: means of 2 x 2 or 4 x 4 pixels."""
    one_of("split of fashion_mnist", split, SPLITS)
    one_of("size of fashion_mnist", size, (32, 16, 8))
    source = prepared("fashion_mnist", split, INFO, HOW, directory)
    if size == 32:
        return source
    everything = source[:]
    images = shrink(everything["x"], 32 // size)
    return Source({**everything, "x": images}, dataclasses.replace(source.info, shape=(size, size, 1)))


def job(split: str, downloads: Path, source: Path | None = None, download: bool = False) -> Job:
    """One shard of a split. Raises `UserError` where the files are not to be found, or are others."""
    if download:
        for name in FILES[split]:
            if not (downloads / f"{name}.gz").is_file():
                raw.fetch(f"{URL}/{name}.gz", downloads / f"{name}.gz", MD5[name])
    paths = raw.locate(FILES[split], raw.folders(downloads, source, DEBIAN))
    if paths is not None:
        checksums = [SHA256[name] for name in FILES[split]]
        origin = {"source": "Fashion-MNIST's IDX files", "sha256": checksums}
        return Job(read, [tuple(zip(paths, checksums, strict=True))], labelled(INFO.shape), SPLITS[split], origin)
    version = None if source else raw.tfds_version("fashion_mnist")
    if version is not None:
        tasks = raw.tfds_tasks("fashion_mnist", split, SPLITS[split], SPLITS[split])
        return Job(read_tfds, tasks, labelled(INFO.shape), SPLITS[split], {"source": f"TFDS fashion_mnist {version}"})
    raise UserError(f"no files of fashion_mnist's {split} split found: {HOW.format(downloads=downloads)}")


def read(task: tuple[tuple[Path, str], ...]) -> dict[str, np.ndarray]:
    """((images, sha256), (labels, sha256)) -> arrays."""
    images, labels = (_idx(path, sha256) for path, sha256 in task)
    return {"x": pad(images[..., None]), "label": labels.astype(np.int32)}


def read_tfds(task: tuple[str, str, int, int]) -> dict[str, np.ndarray]:
    """The same from TFDS."""
    arrays = raw.tfds_read(task)
    return {**arrays, "x": pad(arrays["x"])}


def pad(images: np.ndarray) -> np.ndarray:
    """[n, 28, 28, 1] -> [n, 32, 32, 1], in the middle of the background, which is 0."""
    return np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))


def shrink(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [n, h, w, c] -> [n, h / factor, w / factor, c], each pixel the mean of its factor x factor, rounded."""
    n, h, w, c = images.shape
    blocks = images.reshape(n, h // factor, factor, w // factor, factor, c)
    return np.round(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def _idx(path: Path, sha256: str) -> np.ndarray:
    """An IDX file of bytes: a big-endian header (two zeros, type, number of axes, lengths), then the array."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is damaged or not Fashion-MNIST's: its sha256 is not {sha256}; download it again")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
