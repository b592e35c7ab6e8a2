"""Tests that hold at any time and however often one looks: betting on means, and a bound for a Gaussian estimate.

*Betting*: whoever bets that the mean of a bounded sequence is above m multiplies his wealth with 1 + λ(x − m) at each
x. If it is not above m, his wealth is a supermartingale that starts at 1, and reaches 1/α with probability α at most
(Ville's inequality). Wealth is averaged over several λ, which is a bet of its own. Waudby-Smith & Ramdas,
*Estimating means of bounded random variables by betting*, JRSS B 86 (2024), sections 4 and B.8.

*Gaussian*: the one-sided normal mixture of Howard, Ramdas, McAuliffe & Sekhon, *Time-uniform, nonparametric,
nonasymptotic confidence sequences*, Annals of Statistics 49 (2021), for an estimate whose variance is itself
estimated: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, *Time-uniform central limit theory and asymptotic confidence
sequences*, Annals of Statistics 52 (2024).
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

STAKES = 0.95 * 0.5 ** np.arange(9)
"""Bets, as shares of the largest one at which nobody can be ruined."""


def log_wealth_above(values: Floats, mean: float) -> Floats:
    """The largest log wealth, at any time so far, of a bet that the mean is above `mean`.

    Each value's expectation, given those before it, counts: values need not be independent or alike.

    Args:
        values: [T, K], in [0, 1], in order of time; K sequences side by side. Larger values give more wealth, so
            that of a family of sequences that are ordered the largest bounds all.
        mean: above 0 and below 1.

    Returns:
        [K]; at least 0. Above log(1 / α): the mean is above, and this is wrong with probability α at most.
    """
    if not len(values):
        return np.zeros(values.shape[1])
    total = np.full(values.shape, -np.inf)
    for stake in STAKES / mean:
        total = np.logaddexp(total, np.cumsum(np.log1p(stake * (values - mean)), axis=0))
    return np.maximum(total.max(axis=0) - math.log(len(STAKES)), 0.0)


def log_wealth_below(values: Floats, mean: float) -> Floats:
    """As `log_wealth_above`, of a bet that the mean is below `mean`."""
    return log_wealth_above(1.0 - values, 1.0 - mean)


def radius(variance: float, freedom: float, *, alpha: float, scale: float) -> float:
    """How far an estimate may be from the truth on one side, at any time, but for a chance of `alpha`.

    Args:
        variance: of the estimate, itself estimated; it shrinks as data come.
        freedom: degrees of freedom of that variance: with few, Student's tails are taken for Gauss's.
        scale: the distance at which the bound shall be tightest.
    """
    if variance <= 0 or freedom < 1:
        return math.inf
    information = 1 / variance
    odds = 2 * math.log(1 / (2 * alpha))
    # Tightest where two and a half standard errors are the distance that matters.
    tuned = (2.5 / scale) ** 2 / (odds + math.log1p(odds))
    grown = information + tuned
    bound = math.sqrt(2 * grown * math.log1p(math.sqrt(grown / tuned) / (2 * alpha))) / information
    errors = bound / math.sqrt(variance)
    # Gauss's tail at more than 30 is not a number any more; from there on the bound grows in proportion.
    within = min(errors, 30.0)
    student = -float(special.stdtrit(freedom, special.ndtr(-within)))
    return student * errors / within * math.sqrt(variance)
