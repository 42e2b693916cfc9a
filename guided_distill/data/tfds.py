"""Pictures of TensorFlow Datasets, with captions or classes: coco_captions, laion400m/images, imagenet2012, ...

They have to be prepared as array_record, once, on a machine that may have TensorFlow:

    tfds.builder("coco_captions", file_format="array_record").download_and_prepare()

They are read without it, by the package tensorflow-datasets alone. What is said of each picture is read through once,
and kept in the cache; pictures are decoded at every access, and `python -m guided_distill data encode` does it once.
"""

import contextlib
import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guided_distill import shards
from guided_distill.data import Source
from guided_distill.data._pictures import LICENCE, Pictures, as_bytes, info_of, read_index, square, write_index
from guided_distill.errors import UserError

IMAGE, LABEL = "image", "label"
CAPTIONS = ("caption", "text", "captions/text", "captions")


def make(
    split: str = "train",
    dataset: str = "",
    size: int = 64,
    column: str = "",
    data_dir: str | None = None,
    flip: bool = False,
    licence: str = LICENCE,
) -> Source:
    """uint8 [n, size, size, 3] and captions or labels of `dataset`, a name of TFDS (and /config): the square in the
    middle of each picture, shrunk to the mean over areas. A picture with several captions is as many examples.

    `column`: the feature that has them, "captions/text", say ("": captions, or else "label"). `data_dir`: where TFDS
    keeps its data sets (None: as TFDS knows it). `flip`: whether what is said is true of mirror images, too. Raises
    `UserError` for what is not there, or not in this form.
    """
    builder, records = _opened(dataset, split, data_dir)
    column = column or _column(dataset, records[0])
    features = builder.info.features
    classes = (getattr(features[column], "num_classes", None) or 0) if column in features else 0
    known = [str(builder.data_path), str(builder.info.version), split, column]
    path = shards.root() / "tfds" / f"{hashlib.sha256(' '.join(known).encode()).hexdigest()[:16]}.npz"
    index = read_index(path)
    if index is None:
        index = _scanned(records, column, classes > 0)
        with contextlib.suppress(OSError):  # Not ours to write in: it is read through again next time.
            write_index(path, index)
    record = index.pop("record")
    info = info_of(size, flip, licence, num_classes=classes)
    return Pictures(index, info, functools.partial(_picture, records, record, size, dataset), len(record))


def _opened(dataset: str, split: str, data_dir: str | None) -> tuple[Any, Sequence[Mapping[str, Any]]]:
    """(builder, its records, pictures as they are in their files)."""
    if not dataset:
        raise UserError("tfds reads a data set of TensorFlow Datasets: say which, dataset=coco_captions, say")
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError("tfds needs the package tensorflow-datasets: pip install tensorflow-datasets") from None
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except Exception as error:  # Its own classes of errors stand in modules that change their names.
        raise UserError(f"tfds: no data set {dataset!r} ({str(error).strip().splitlines()[0]})") from error
    info = builder.info
    if not info.splits or info.file_format.value != "array_record":
        found = f"prepared as {info.file_format.value}" if info.splits else "not prepared"
        how = f'tfds.builder("{dataset}", file_format="array_record").download_and_prepare()'
        raise UserError(f"tfds: {dataset} is {found}; with TensorFlow installed: {how}")
    if split not in info.splits:
        raise UserError(f"tfds: {dataset} has no split {split!r}; there are: {', '.join(info.splits)}")
    if IMAGE not in info.features:
        raise UserError(f"tfds: {dataset} has no {IMAGE!r} among {', '.join(info.features)}")
    return builder, builder.as_data_source(split=split, decoders={IMAGE: tfds.decode.SkipDecoding()})


def _column(dataset: str, record: Mapping[str, Any]) -> str:
    for column in (*CAPTIONS, LABEL):
        if isinstance(_value(record, column), str | bytes | int | np.integer | list | np.ndarray):
            return column
    raise UserError(f"tfds: {dataset} has neither captions nor labels among {', '.join(record)}: name one, column=NAME")


def _value(record: Any, column: str) -> Any:
    for name in column.split("/"):
        record = record[name] if isinstance(record, Mapping) and name in record else None
    return record


def _scanned(records: Sequence[Mapping[str, Any]], column: str, classes: bool) -> dict[str, np.ndarray]:
    """What is said of all pictures, classes or captions, and which record each is of."""
    texts: list[str] = []
    labels, places = [], []
    for k in range(len(records)):
        value = _value(records[k], column)
        if value is None:
            raise UserError(f"tfds: record {k} has no {column!r} among {', '.join(records[k])}")
        if classes:
            labels.append(int(value))
            places.append(k)
            continue
        several = list(value) if isinstance(value, list | np.ndarray) else [value]
        texts += [text.decode() if isinstance(text, bytes) else str(text) for text in several]
        places += [k] * len(several)
    record = np.array(places, np.int64)
    if classes:
        return {"label": np.array(labels, np.int32), "record": record}
    return {"caption": as_bytes(texts), "record": record}


def _picture(records: Sequence, record: np.ndarray, size: int, dataset: str, k: int) -> np.ndarray:
    row = int(record[k])
    return square(io.BytesIO(records[row][IMAGE]), size, f"tfds: record {row} of {dataset}")
