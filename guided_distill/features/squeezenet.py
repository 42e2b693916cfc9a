"""SqueezeNet 1.1 (Iandola et al. 2016), trained on ImageNet: the 512 channels of fire9, averaged over places.

Faster than EfficientNet-Lite0, but over-sensitive to noise in the pixels. Weights: the package ndf (MIT).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import max_pool
from jaxtyping import Array, Float

from guided_distill.features import Net, conv, weights_of

NAME = "SqueezeNet"
PACKAGE = "ndf"
FILE = "ndf/example_models/weights/squeezenet_weights.pkl"
SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
SIZE = 227
MEAN = (103.939, 116.779, 123.68)  # Of blue, green, red in [0, 255].


def make(weights: str | None = None, batch_size: int = 64) -> Net:
    """images -> [n, 512]. Raises `UserError` without the package, and for other weights."""
    told = f"bicubic, antialiased, to {SIZE} x {SIZE}, blue first, less the mean of ImageNet"
    return Net(NAME, f"{NAME} {SHA256}", pooled, _params(weights), SIZE, batch_size, both, told)


def classifier(weights: str | None = None, batch_size: int = 64) -> Net:
    """As `make`, images -> logits of the 1,000 classes of ImageNet."""
    return Net(NAME, f"{NAME} logits {SHA256}", logits, _params(weights), SIZE, batch_size)


def fire9(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 512"]:
    """The last layer before the classifier."""
    x = (images[..., ::-1] + 1) * 127.5 - jnp.asarray(MEAN)[None, None, None]
    x = _pool(jax.nn.relu(conv(x, *params["conv1"], stride=2, padding="VALID")))
    for name in (f"fire{k}" for k in range(2, 10)):
        x = jax.nn.relu(conv(x, *params[f"{name}/squeeze1x1"]))
        x = [jax.nn.relu(conv(x, *params[f"{name}/expand{k}"])) for k in ("1x1", "3x3")]
        x = jnp.concatenate(x, axis=-1)
        if name in ("fire3", "fire5"):
            x = _pool(x)
    return x


def pooled(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b 512"]:
    """The mean of `fire9` over places."""
    return fire9(params, images).mean((1, 2))


def logits(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b 1000"]:
    """The classifier on `fire9`."""
    return both(params, images)[1]


def both(params: Any, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b 512"], Float[Array, "b 1000"]]:
    """(`pooled`, `logits`), in one pass."""
    x = fire9(params, images)
    return x.mean((1, 2)), conv(x, *params["conv10"]).mean((1, 2))


def _pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    return max_pool(x, (3, 3), (2, 2), "VALID")


def _params(path: str | None) -> dict[str, Any]:
    """{layer: (kernel [h, w, i, o], bias [o])}: the file has them as XLA wants them."""
    given = weights_of(PACKAGE, FILE, SHA256, path)
    return {
        name.removesuffix(".0"): (kernel, given[name[:-1] + "1"]) for name, kernel in given.items() if name[-1] == "0"
    }
