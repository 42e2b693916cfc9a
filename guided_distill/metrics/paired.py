"""Distance of partners: a student's sample and its teacher's from the same noise (Luhman & Luhman 2021)."""

import numpy as np

from guided_distill.errors import UserError
from guided_distill.metrics import FeatureSet, blocks, checked


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`paired_distance`: the mean Euclidean distance between row i of fake and row i of real.

    In units of the features; 0 is best. Raises `UserError` as `metrics.checked` does, and for different
    numbers of samples.
    """
    fakes, reals = checked(fake, real, at_least=1)
    if len(fakes) != len(reals):
        raise UserError(f"paired needs partners, but got {len(fakes)} fake samples and {len(reals)} real ones")
    total = sum(np.linalg.norm(a - b, axis=1).sum() for a, b in zip(blocks(fakes), blocks(reals), strict=True))
    return {"paired_distance": float(total / len(fakes))}
