"""The raw pixels in [-1, 1], flattened: no network, hence no weights. For small images, points and latents.

On this scale the Fréchet distance between two random halves of the 8x8 digits is about 0.28 (0.03 between
splits): the floor for 898 samples. On [0, 1] it would be a quarter of that.
"""

import numpy as np
from jaxtyping import Float, Float64

from guided_distill.errors import UserError
from guided_distill.features import Features

NAME = "pixels"


def make() -> Features:
    """images [n, ...], in [-1, 1] -> the same numbers, float64 [n, d]. Raises `UserError` for shape [n]."""

    def features(images: Float[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n d"]:
        if np.ndim(images) < 2:
            raise UserError(f"images have shape {np.shape(images)}; expected [n, ...] with a sample a row")
        images = np.asarray(images, np.float64)
        return images.reshape(len(images), int(np.prod(images.shape[1:])))

    return features
