"""Inception Score (Salimans et al. 2016): exp of the mean divergence of a classifier's answers from their own mean.

It is called so on Inception-v3's logits only; on others, IS-<feature function>.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, xlogy

from guided_distill.errors import UserError
from guided_distill.metrics import FeatureSet, blocks, usable

SPLITS = 10


def of_logits(logits: Float[np.ndarray, "n c"], splits: int = SPLITS) -> tuple[float, float]:
    """(mean, standard deviation) over `splits` parts of the samples, or as many as there are samples, of

        exp E KL(p(y | x) || p(y)) = exp (E Σ p(y | x) log p(y | x) - Σ p(y) log p(y)),   p(y) = E p(y | x)

    Samples are shuffled and split as by torch-fidelity. It rises with the number of samples in a part.
    """
    num = len(logits)
    splits, order = min(splits, num), np.random.RandomState(2020).permutation(num)
    scores = []
    for k in range(splits):
        part = order[k * num // splits : (k + 1) * num // splits]
        marginal, negative_entropy = 0.0, 0.0
        for block in blocks(logits, part):
            log_p = log_softmax(block, axis=1)
            p = np.exp(log_p)
            marginal, negative_entropy = marginal + p.sum(axis=0), negative_entropy + (p * log_p).sum()
        marginal = marginal / len(part)
        scores.append(np.exp(negative_entropy / len(part) - xlogy(marginal, marginal).sum()))
    return float(np.mean(scores)), float(np.std(scores))


def compute(fake: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """`inception_score` and `inception_score_std` of fake's logits; `real` is not asked. From 1 to the number of
    classes, more is better.

    Raises `UserError` where there are no logits, or not one row a sample, and as `metrics.checked` does.
    """
    if fake.logits is None:
        raise UserError("inception_score needs a classifier's logits; these features have none")
    if len(fake.logits) != len(fake.features):
        raise UserError(f"{len(fake.logits)} rows of logits for {len(fake.features)} samples")
    score, std = of_logits(usable("fake", fake.logits, 1, "logits"))
    return {"inception_score": score, "inception_score_std": std}
