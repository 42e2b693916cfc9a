"""CLIP score (Hessel et al. 2021, arXiv:2104.08718): how well images and their captions go together.

Here it is 100 max(cos(image, caption), 0), w = 1 in percent; Hessel et al. print 2.5 max(cos, 0), and curves of FID
over CLIP score on COCO the cosine itself. It depends on the network, which belongs beside the number: CLIP-L14.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from guided_distill.errors import UserError
from guided_distill.metrics import FeatureSet, blocks, checked


class Clip(NamedTuple):
    """Both towers of one CLIP: images [n, h, w, c] in [-1, 1] -> [n, p], and captions -> [n, p]."""

    images: Callable[[Float[np.ndarray, "n h w c"]], Float64[np.ndarray, "n p"]]
    texts: Callable[[Sequence[str]], Float64[np.ndarray, "n p"]]


class Scores(NamedTuple):
    """`values` of the pairs, in [0, 100], their mean, and its standard error (NaN for one pair)."""

    values: Float64[np.ndarray, " n"]
    mean: float
    error: float


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`clip_score`, the mean over pairs, and `clip_score_error`, its standard error; 100 is best.

    Row i of `fake` is an image's embedding, row i of `real` that of its caption: not of images of a data set. Raises
    `UserError` as `metrics.checked` does, for different numbers of rows, and for embeddings that are 0.
    """
    found = scores(*checked(fake, real))
    return {"clip_score": found.mean, "clip_score_error": found.error}


def clip_score(images: Float[np.ndarray, "n h w c"], captions: Sequence[str], clip: Clip) -> Scores:
    """The scores of images in [-1, 1] and their captions. Raises `UserError` as `compute`, and where the numbers of
    images and captions differ."""
    if len(images) != len(captions):
        raise UserError(f"CLIP score needs a caption an image, but got {len(images)} images, {len(captions)} captions")
    pairs = FeatureSet(clip.images(images)), FeatureSet(clip.texts(captions))
    return scores(*checked(*pairs, at_least=1))


def scores(images: Float[np.ndarray, "n p"], texts: Float[np.ndarray, "m p"]) -> Scores:
    """Of embeddings, row by row. Raises `UserError` for different numbers of rows, and for rows that are 0."""
    if len(images) != len(texts):
        raise UserError(f"CLIP score needs pairs, but got {len(images)} images and {len(texts)} captions")
    pairs = zip(blocks(images), blocks(texts), strict=True)
    values = 100 * np.clip(np.concatenate([_cosines(*pair) for pair in pairs]), 0, 1)
    if bad := int(np.sum(np.isnan(values))):
        raise UserError(f"{bad} of {len(values)} pairs have an embedding that is 0 and points nowhere")
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return Scores(values, float(values.mean()), error)


def _cosines(a: Float64[np.ndarray, "n p"], b: Float64[np.ndarray, "n p"]) -> Float64[np.ndarray, " n"]:
    """Of rows; NaN where one is 0."""
    with np.errstate(invalid="ignore"):
        return np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
