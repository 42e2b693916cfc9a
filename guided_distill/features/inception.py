"""Inception-v3 (Szegedy et al. 2016) as FID knows it (Heusel et al. 2017), TensorFlow's graph of 2015: 2048 pooled
features.

It is not the network of the paper to the letter: averages leave out padding, the last block takes a maximum where its
twin averages, and there are 1008 classes. pytorch-fid and torch-fidelity publish its weights as one file under two
names. They see images differently, so their FIDs differ: PREPROCESSINGS. Both are given images of 8 bits, so ours are
rounded to those. Weights: Apache-2.0.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from guided_distill import downloads, shards, torch_weights
from guided_distill.errors import UserError
from guided_distill.features import Net, conv

NAME = "Inception"
FILES = {
    "pt_inception-2015-12-05-6726825d.pth": "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
    "weights-inception-2015-12-05-6726825d.pth": "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0",
}
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # Its start is part of both names.
SIZE = 299
CLASSES = 1008
TAPS = ("64", "192", "768", "2048", "logits_unbiased", "logits")
EPSILON = 1e-3  # Of BatchNorm.
URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
DOWNLOAD = "download"  # In place of a path of weights: fetch them, once.
STATISTICS = ("weight", "bias", "running_mean", "running_var")
Shape = tuple[int, ...]


def make(
    weights: str | None = None, tap: str = "2048", preprocessing: str = "torch-fidelity", batch_size: int = 64
) -> Net:
    """images -> [n, d] of one of TAPS, seen by one of PREPROCESSINGS. Raises `UserError` for other names, without
    weights (a path, else a file in the data folder, which "download" fetches once), and for other weights."""
    for what, name, names in (("tap", tap, TAPS), ("preprocessing", preprocessing, PREPROCESSINGS)):
        if name not in names:
            raise UserError(f"no {what} {name!r} of Inception-v3; there are {', '.join(names)}")
    parts = [NAME, *([tap] if tap != "2048" else []), *([preprocessing] if preprocessing != "torch-fidelity" else [])]
    name = "-".join(parts)
    path = weights if weights not in (None, "", DOWNLOAD) else _found(fetch=weights == DOWNLOAD)
    params = params_of(torch_weights.load(path, SHA256))
    apply, both = apply_of(preprocessing, tap), apply_of(preprocessing, tap, "logits_unbiased")
    return Net(name, f"{name} {SHA256}", apply, params, None, batch_size, both, preprocessing)


@functools.cache  # The same function again, so that it is compiled once.
def apply_of(preprocessing: str, *taps: str) -> Callable[[Any, Float[Array, "b h w 3"]], Any]:
    """(params, images [b, h, w, 3] in [-1, 1]) -> the tap [b, d], or a tuple of several, in one pass."""

    def apply(params: Any, images: Float[Array, "b h w 3"]) -> Any:
        pixels = jnp.clip(jnp.round((images + 1) * 127.5), 0, 255)
        found = Inception().apply({"params": params}, PREPROCESSINGS[preprocessing](pixels))
        return found[taps[0]] if len(taps) == 1 else tuple(found[tap] for tap in taps)

    return apply


# What the network sees: pixels [b, h, w, 3] in [0, 255] -> [b, 299, 299, 3] in about [-1, 1].


def torch_fidelity(pixels: Float[Array, "b h w 3"]) -> Float[Array, "b 299 299 3"]:
    """As TensorFlow 1 resizes: corners of pixels are aligned at the top left, so the picture moves by up to half a
    pixel."""
    return (_resized(pixels, lambda at, scale: at * scale) - 128) / 128


def pytorch_fid(pixels: Float[Array, "b h w 3"]) -> Float[Array, "b 299 299 3"]:
    """As PyTorch resizes: centres of pixels are aligned; not antialiased."""
    half = np.float32(0.5)
    return 2 * _resized(pixels / 255, lambda at, scale: np.maximum((at + half) * scale - half, 0)) - 1


PREPROCESSINGS = {"torch-fidelity": torch_fidelity, "pytorch-fid": pytorch_fid}


def _resized(x: Float[Array, "b h w c"], place: Callable) -> Float[Array, "b 299 299 c"]:
    """Bilinear; `place`: (places in the result, pixels in for one out) -> places in x."""
    for axis in (2, 1):
        size = x.shape[axis]
        at = place(np.arange(SIZE, dtype=np.float32), np.float32(size / SIZE))
        low = np.minimum(at.astype(np.int32), size - 1)
        share = jnp.asarray(at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        first, second = (jnp.take(x, i, axis) for i in (low, np.minimum(low + 1, size - 1)))
        x = first + (second - first) * share
    return x


# The network. Its modules have the names that they have in the file.


class _ConvNorm(nn.Module):
    """A convolution with its BatchNorm folded in, and ReLU."""

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.size, x.shape[3], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return nn.relu(conv(x, kernel, bias, self.stride, self.padding))


def _branch(x: Array, name: str, *layers: Shape) -> Array:
    """Layers (features, h, w, stride) one after the other; (features,) is 1x1. Those of stride 2 do not pad."""
    for k, layer in enumerate(layers, 1):
        features, height, width, stride = layer + (1,) * (4 - len(layer))
        padding = "SAME" if stride == 1 else "VALID"
        x = _ConvNorm(features, (height, width), stride, padding, name=f"{name}_{k}" if len(layers) > 1 else name)(x)
    return x


def _fork(x: Array, name: str) -> list[Array]:
    return [_branch(x, f"{name}a", (384, 1, 3)), _branch(x, f"{name}b", (384, 3, 1))]


def _mean(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _max(x: Array, stride: int = 2) -> Array:
    return nn.max_pool(x, (3, 3), (stride, stride), "VALID" if stride == 2 else "SAME")


def _block_a(pooled: int) -> dict[str, tuple[Shape, ...]]:
    """35x35."""
    return {
        "branch1x1": ((64,),),
        "branch5x5": ((48,), (64, 5, 5)),
        "branch3x3dbl": ((64,), (96, 3, 3), (96, 3, 3)),
        "branch_pool": ((pooled,),),
    }


BLOCK_B = {"branch3x3": ((384, 3, 3, 2),), "branch3x3dbl": ((64,), (96, 3, 3), (96, 3, 3, 2))}
"""35x35 -> 17x17."""


def _block_c(n: int) -> dict[str, tuple[Shape, ...]]:
    """17x17."""
    return {
        "branch1x1": ((192,),),
        "branch7x7": ((n,), (n, 1, 7), (192, 7, 1)),
        "branch7x7dbl": ((n,), (n, 7, 1), (n, 1, 7), (n, 7, 1), (192, 1, 7)),
        "branch_pool": ((192,),),
    }


BLOCK_D = {
    "branch3x3": ((192,), (320, 3, 3, 2)),
    "branch7x7x3": ((192,), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)),
}
"""17x17 -> 8x8."""


class _Mixed(nn.Module):
    """Branches side by side: that of the pool sees the average; where there is none, the maximum stands beside them."""

    branches: Mapping[str, tuple[Shape, ...]]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        parts = [
            _branch(_mean(x) if name == "branch_pool" else x, name, *layers) for name, layers in self.branches.items()
        ]
        return jnp.concatenate(parts if "branch_pool" in self.branches else [*parts, _max(x)], axis=-1)


class _MixedLast(nn.Module):
    """8x8; `pool` is an average in the first, a maximum in the second."""

    pool: Callable

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        parts = [
            _branch(x, "branch1x1", (320,)),
            *_fork(_branch(x, "branch3x3_1", (384,)), "branch3x3_2"),
            *_fork(_branch(x, "branch3x3dbl", (448,), (384, 3, 3)), "branch3x3dbl_3"),
            _branch(self.pool(x), "branch_pool", (192,)),
        ]
        return jnp.concatenate(parts, axis=-1)


class _Classifier(nn.Module):
    """Logits without and with the bias: the Inception Score is usually taken without."""

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> tuple[Float[Array, "b 1008"], Float[Array, "b 1008"]]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[1], CLASSES))
        bias = self.param("bias", nn.initializers.zeros, (CLASSES,))
        unbiased = jnp.matmul(x, kernel, precision="highest")
        return unbiased, unbiased + bias[None]


class Inception(nn.Module):
    """The network; its parameters are those of `params_of`."""

    @nn.compact
    def __call__(self, x: Float[Array, "b 299 299 3"]) -> dict[str, Float[Array, "b _"]]:
        """x in about [-1, 1] -> {tap: [b, d]}; those of convolutions are means over places."""
        taps = {}
        x = _ConvNorm(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = _ConvNorm(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _max(_ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x))
        taps["64"] = x.mean((1, 2))
        x = _ConvNorm(80, name="Conv2d_3b_1x1")(x)
        x = _max(_ConvNorm(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
        taps["192"] = x.mean((1, 2))
        for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = _Mixed(_block_a(pooled), name=f"Mixed_{name}")(x)
        x = _Mixed(BLOCK_B, name="Mixed_6a")(x)
        for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            x = _Mixed(_block_c(inner), name=f"Mixed_{name}")(x)
        taps["768"] = x.mean((1, 2))
        x = _Mixed(BLOCK_D, name="Mixed_7a")(x)
        x = _MixedLast(_mean, name="Mixed_7b")(x)
        x = _MixedLast(functools.partial(_max, stride=1), name="Mixed_7c")(x)
        taps["2048"] = x.mean((1, 2))
        taps["logits_unbiased"], taps["logits"] = _Classifier(name="fc")(taps["2048"])
        return taps


# Its weights.


def _found(fetch: bool) -> Path:
    folder = shards.root() / "downloads" / "inception"
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    if fetch:
        downloads.fetch(URL, folder / next(iter(FILES)), SHA256, "sha256")
        return folder / next(iter(FILES))
    places = " or ".join(f"{name} ({url})" for name, url in FILES.items())
    raise UserError(
        f"no weights of Inception-v3: put one of {places}, which are the same file, into {folder}, or give its path as "
        f"weights; `score A B --features=inception --weights={DOWNLOAD}` fetches them"
    )


def expected() -> dict[str, Shape]:
    """{name: shape} of what has to be in a file of weights; kernels are [o, i, h, w]."""
    shapes = {}
    for layer, kernel in _kernels().items():
        if layer == "fc":
            shapes |= {"fc.weight": kernel[::-1], "fc.bias": kernel[-1:]}
        else:
            height, width, i, o = kernel
            shapes[f"{layer}.conv.weight"] = (o, i, height, width)
            shapes |= {f"{layer}.bn.{name}": (o,) for name in STATISTICS}
    return shapes


@functools.cache
def _kernels() -> dict[str, Shape]:
    """{layer: shape of its kernel}, as the network has them."""
    variables = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    flat = flatten_dict(variables["params"], sep=".")
    return {name.removesuffix(".kernel"): leaf.shape for name, leaf in flat.items() if name.endswith(".kernel")}


def params_of(given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The network's parameters of the arrays in a file, every BatchNorm folded into the convolution before it. Raises
    `UserError` that lists what is missing, not expected, or of another shape."""
    shapes = expected()
    given = {name: array for name, array in given.items() if not name.endswith(".bn.num_batches_tracked")}
    faults = {
        "missing": [name for name in shapes if name not in given],
        "not expected": [name for name in given if name not in shapes],
        "of another shape": [
            f"{name} {list(given[name].shape)} instead of {list(shape)}"
            for name, shape in shapes.items()
            if name in given and given[name].shape != shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{what}: {_some(names)}" for what, names in faults.items() if names)
        raise UserError(f"these are not the weights of Inception-v3: {told}")
    params = {}
    for layer in _kernels():
        if layer == "fc":
            kernel, bias = given["fc.weight"].T, given["fc.bias"]
        else:
            scale, bias, mean, var = (given[f"{layer}.bn.{name}"].astype(np.float64) for name in STATISTICS)
            scale = scale / np.sqrt(var + EPSILON)
            kernel, bias = given[f"{layer}.conv.weight"].transpose(2, 3, 1, 0) * scale, bias - mean * scale
        params |= {f"{layer}.kernel": kernel.astype(np.float32), f"{layer}.bias": bias.astype(np.float32)}
    return unflatten_dict(params, sep=".")


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
