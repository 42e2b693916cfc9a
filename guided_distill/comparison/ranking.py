"""Votes as numbers: intervals of shares, agreement of raters, strengths of systems.

Wilson, Probable inference, the law of succession, and statistical inference, 1927. Cohen, A coefficient of agreement
for nominal scales, 1960. Fleiss, Measuring nominal scale agreement among many raters, 1971. Bradley and Terry, Rank
analysis of incomplete block designs, 1952; where its maximum exists: Ford, 1957.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

Z = 1.959964  # Of a 95 % interval.


def wilson(wins: int | float, num: int | float) -> tuple[float, float]:
    """The 95 % interval of a share of `wins` in `num`, which stays inside [0, 1] and open to doubt at 0 and num. With
    num = 0, everything is possible."""
    if not num:
        return 0.0, 1.0
    p, doubt = wins / num, Z**2 / num
    centre, half = (p + doubt / 2) / (1 + doubt), np.sqrt(p * (1 - p) * doubt + doubt**2 / 4) / (1 + doubt)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def cohen(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Kappa = (p_o - p_e) / (1 - p_e) of two raters' verdicts on the same pairs; None where both always said one and
    the same thing, or there is nothing in common."""
    one, two = np.asarray(first), np.asarray(second)
    if not len(one):
        return None
    expected = sum(np.mean(one == value) * np.mean(two == value) for value in {*first, *second})
    return None if expected == 1 else float((np.mean(one == two) - expected) / (1 - expected))


def fleiss(counts: Int[np.ndarray, "n k"]) -> float | None:
    """Kappa of any number of raters: counts of each of k verdicts on each of n pairs, all with as many raters. None as
    in `cohen`."""
    raters = counts.sum(1).max(initial=0)
    if raters < 2:
        return None
    observed = np.mean((np.sum(counts**2, axis=1) - raters) / (raters * (raters - 1)))
    expected = np.sum((counts.sum(0) / counts.sum()) ** 2)
    return None if expected == 1 else float((observed - expected) / (1 - expected))


@dataclasses.dataclass(frozen=True)
class Strengths:
    """`values` s [k], sum 0: i beats j with probability 1 / (1 + exp(s_j - s_i)). `covariance` [k, k], from the Fisher
    information. `regularised`: half a win each way was added between every two systems, without which some strength
    would have no bound."""

    values: Float[np.ndarray, " k"]
    covariance: Float[np.ndarray, "k k"]
    regularised: bool

    def interval(self, i: int) -> tuple[float, float]:
        """95 %, of s_i."""
        half = Z * float(np.sqrt(self.covariance[i, i]))
        return float(self.values[i]) - half, float(self.values[i]) + half


def bradley_terry(wins: Float[np.ndarray, "k k"]) -> Strengths:
    """The most likely strengths for `wins[i, j]`, how often i beat j; a tie is half a win for each.

    There is a maximum just where no group of systems has won all its votes against the others (Ford, 1957), that is
    where the graph of wins is strongly connected; elsewhere half a win each way is added between every two.
    """
    wins = np.where(np.eye(len(wins), dtype=bool), 0.0, wins)
    components, _ = connected_components(wins > 0, connection="strong")
    if regularised := components > 1:
        wins = wins + 0.5 * (1 - np.eye(len(wins)))
    games = wins + wins.T

    def loss(s):
        return float(np.sum(wins * np.logaddexp(0, s[None] - s[:, None])))

    def slope(s):
        return np.sum(games * expit(s[:, None] - s[None]) - wins, axis=1)

    def information(s):
        p = expit(s[:, None] - s[None])
        weight = games * p * (1 - p)
        return np.diag(weight.sum(1)) - weight

    # The sum of strengths is free: a fixed one makes the maximum one point, and changes no probability.
    tie = np.ones((len(wins), len(wins)))
    found = minimize(
        lambda s: loss(s) + s.sum() ** 2 / 2,
        np.zeros(len(wins)),
        jac=lambda s: slope(s) + s.sum(),
        hess=lambda s: information(s) + tie,
        method="trust-exact",
        options={"gtol": 1e-9},
    )
    values = found.x - found.x.mean()
    return Strengths(values, np.linalg.pinv(information(values), hermitian=True), regularised)
