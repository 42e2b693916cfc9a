"""Weights of PyTorch's networks, read without PyTorch, and without running what a pickle asks for.

A pickle may call anything that it can name. Here it can name what tensors are made of, and nothing else; and a file is
only opened when its hash is the expected one. Formats: PyTorch's of before 1.6 ("legacy"), its zip archives since,
plain pickles of numpy arrays; and safetensors, which run nothing, so that any file of them may be read.
"""

import hashlib
import json
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from flax.traverse_util import flatten_dict, unflatten_dict

from guided_distill import files
from guided_distill.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
ENTRY = re.compile(r"(?<!^linear)_(\d+)$")
"""How the name of a layer ends that is an entry of a list: layers_0 is layers.0. linear_1 of diffusers is a name."""


def load(path: str | Path, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of a file of weights by their names; those of nested dicts and lists are joined by ".": "conv1.0".

    Raises `UserError` when the file is missing, has another hash, or names anything but tensors and arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file of weights {path}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise UserError(f"{path} has sha256 {found}, expected {sha256}: it is another file, or a damaged one")
        file.seek(0)
        return read(file)


def read(file: BufferedIOBase) -> dict[str, np.ndarray]:
    """As `load`, from an open file, whatever its hash. Raises `UserError` for a pickle that is refused or damaged."""
    try:
        is_zip = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        value = _read_zip(file) if is_zip else _read_stream(file)
        return {name: np.array(array, order="C") for name, array in _flat(value)}
    except UserError:
        raise
    except Exception as error:  # A damaged pickle may fail in any way.
        raise UserError(f"these weights cannot be read: {type(error).__name__}: {error}") from error


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    """torch._utils._rebuild_tensor_v2: a view; strides count entries, and need not be those of a contiguous array."""
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and not (offset >= 0 and min(strides, default=0) >= 0 and last < storage.size):
        raise UserError(f"a tensor of shape {tuple(shape)} reaches beyond its storage of {storage.size} entries")
    strides = tuple(step * storage.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)


def _array(_: type, shape: tuple, __: bytes) -> np.ndarray:
    """numpy's _reconstruct: an empty array, whose state the pickle sets next."""
    return np.ndarray(shape, np.int8)


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


ALLOWED = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
} | {f"torch.{name}": np.dtype(dtype) for name, dtype in STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    """Knows the names in ALLOWED; `storages` collects the flat arrays that tensors are views of, still to be filled."""

    def __init__(self, file: BufferedIOBase):
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ALLOWED:
            raise UserError(f"refused: the pickle asks for {module}.{name}, which is no part of a tensor")
        return ALLOWED[f"{module}.{name}"]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise UserError(f"refused: the pickle asks for a {kind} that is no whole storage")
        return self.storages.setdefault(key, np.zeros(size, dtype))


def _read_zip(file: BufferedIOBase) -> Any:
    """<archive>/data.pkl, and a file <archive>/data/<key> a storage."""
    with zipfile.ZipFile(file) as archive:
        [main] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        with archive.open(main) as stream:
            unpickler = _Unpickler(stream)
            value = unpickler.load()
        for key, storage in unpickler.storages.items():
            _fill(storage, archive.read(f"{main.removesuffix('.pkl')}/{key}"))
    return value


def _read_stream(file: BufferedIOBase) -> Any:
    """A plain pickle; or a magic number, protocol, machine, tensors, keys: five pickles, then a size (8 bytes) and the
    entries of each storage, in the order of the keys."""
    value = _Unpickler(file).load()
    if value != LEGACY_MAGIC:
        return value
    for _ in range(2):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    value = unpickler.load()
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        if int.from_bytes(file.read(8), "little") != storage.size:
            raise UserError(f"storage {key} has another size than the tensors in it")
        _fill(storage, file.read(storage.nbytes))
    return value


def _fill(storage: np.ndarray, content: bytes) -> None:
    """In place: views of it are already there. Raises ValueError when there is not enough."""
    storage[:] = np.frombuffer(content, storage.dtype.newbyteorder("<"), count=storage.size)


def _flat(value: Any, name: str = "") -> list[tuple[str, np.ndarray]]:
    """[(dotted name, array)]; numbers and texts among them are left out."""
    if isinstance(value, np.ndarray):
        return [(name, value)]
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return [found for key, part in pairs for found in _flat(part, f"{name}.{key}" if name else str(key))]


# Safetensors, and folders of them as Hugging Face lays them out.


class Pretrained(NamedTuple):
    """`arrays` by their names in float32, the content of `config.json` (None without one), and a hash of the files."""

    arrays: dict[str, np.ndarray]
    config: dict[str, Any] | None
    sha256: str


def pretrained(path: str | Path, wanted: Callable[[str], bool] = lambda name: True) -> Pretrained:
    """A .safetensors file, or a folder with model.safetensors or its numbered parts; and the config.json beside it.
    Only arrays whose name is `wanted` are read. Raises `UserError` where there is none, and for damaged ones."""
    path = Path(path)
    parts = _parts(path)
    arrays: dict[str, np.ndarray] = {}
    for part in parts:
        try:
            with safetensors.safe_open(part, "numpy") as file:
                names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118 (not a mapping)
                arrays |= {name: np.asarray(file.get_tensor(name), np.float32) for name in names}
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{part} cannot be read as safetensors: {error}") from error
        except AttributeError as error:  # numpy lacks those of eight bits.
            raise UserError(f"{part} has numbers of type {error.name}, which are not read: convert it first") from error
    beside = parts[0].parent / "config.json"
    config = read_json(beside) if beside.is_file() else None
    hashes = [files.sha256(part) for part in parts]
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return Pretrained(arrays, config, whole)


def file_of(folder: Path, name: str) -> Path:
    """folder/name; where that is not there, its only variant: model.fp16.safetensors for model.safetensors."""
    stem, _, kind = name.rpartition(".")
    variants = [] if (folder / name).is_file() else sorted(folder.glob(f"{stem}.*.{kind}"))
    return variants[0] if len(variants) == 1 else folder / name


def _parts(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        raise UserError(f"no weights at {path}: expected a .safetensors file, or a folder with model.safetensors in it")
    parts = [path / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise UserError(f"of the weights in {path} there is no {some(missing)}: its parts belong together")
    return parts


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises `UserError` for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def to_flax(given: Mapping[str, np.ndarray], shapes: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The parameters of a Flax module whose layers are named as PyTorch's: the leaf layers_0/fc1/kernel is
    layers.0.fc1.weight.

    `shapes`: the module's parameters, or what `jax.eval_shape` says of them. Kernels are turned: [o, i] -> [i, o],
    [o, i, h, w] -> [h, w, i, o]. Raises `UserError`, "these are not the weights of <what>", that lists what is missing,
    not expected, or of another shape.
    """
    leaves = {torch_name(path): (path, leaf.shape) for path, leaf in flatten_dict(dict(shapes)).items()}
    turned = {
        name: _turned(array) if name in leaves and leaves[name][0][-1] == "kernel" else array
        for name, array in given.items()
    }
    faults = {
        "missing": [name for name in leaves if name not in turned],
        "not expected": [name for name in turned if name not in leaves],
        "of another shape": [
            f"{name} {list(given[name].shape)} instead of {_told(path, shape)}"
            for name, (path, shape) in leaves.items()
            if name in turned and turned[name].shape != shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{fault}: {some(names)}" for fault, names in faults.items() if names)
        raise UserError(f"these are not the weights of {what}: {told}")
    return unflatten_dict({path: turned[name].astype(np.float32) for name, (path, _) in leaves.items()})


def to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The parameters of a Flax module by PyTorch's names and in its layout, float32 and contiguous: `to_flax`,
    undone."""
    arrays = {}
    for path, leaf in flatten_dict(dict(params)).items():
        array = np.asarray(leaf, np.float32)
        if path[-1] == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        arrays[torch_name(path)] = np.ascontiguousarray(array)
    return arrays


def torch_name(path: tuple[str, ...]) -> str:
    """("layers_0", "fc1", "kernel") -> "layers.0.fc1.weight"."""
    *layers, leaf = path
    layers = [ENTRY.sub(r".\1", layer) for layer in layers]
    return ".".join([*layers, "weight" if leaf in ("kernel", "scale", "embedding") else leaf])


def _turned(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def _told(path: tuple[str, ...], shape: tuple[int, ...]) -> list[int]:
    """A shape as PyTorch has it."""
    return list(shape[-1:-3:-1] + shape[:-2]) if path[-1] == "kernel" else list(shape)


def some(names: list[str], most: int = 6) -> str:
    """The first of them in print, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
