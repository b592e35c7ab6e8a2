"""How sure: bounds and exact tests of a difference, which know that a sender's photos resemble each other.

Functions on arrays. Whatever is asked of rows (accuracy, macro-F1, log loss, calibration error) is a function
of sums over them, so one bootstrap serves all: it resamples senders and adds up their sums.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Statistic = Callable[[Floats], Floats]
"""From totals [..., M] to numbers [...]."""

RESAMPLES, FEWEST_RESAMPLES = 10_000, 2000
"""Where one sender has much of the rows, a bound lies far out and 2000 resamples leave it to chance."""
WORK = 500_000
"""Resamples times clusters; more clusters make a smoother distribution, which fewer resamples show as well."""
MOST_CLUSTERS = 1000
"""More senders than this are resampled in so many groups of whole senders: as honest, and bounded in time."""
BLOCK = 2_000_000  # numbers in one block of resamples: 16 MB


# ---------------------------------------------------------------------------------------------- clusters


def cluster_numbers(senders: NDArray[np.str_] | NDArray[np.intp]) -> NDArray[np.intp]:
    """A number for each row's sender, 0..K-1, [N].

    A single sender cannot be resampled: then, and only then, each row is a cluster of its own.
    """
    names, of_row = np.unique(senders, return_inverse=True)
    return of_row if len(names) > 1 else np.arange(len(senders))


def tally(
    clusters: NDArray[np.intp], cells: NDArray[np.int64], width: int, weights: Floats | None = None
) -> NDArray[np.float64]:
    """Sums of `weights` (default: 1 a row) by cluster and cell, [K, width]."""
    count = int(clusters.max()) + 1
    sums = np.bincount(clusters * width + cells, weights=weights, minlength=count * width)
    return sums.reshape(count, width).astype(float)


def bootstrap(
    sums: NDArray[np.float64], statistic: Statistic, *, confidence: float, resamples: int = RESAMPLES, seed: int = 7
) -> tuple[float, float]:
    """Bounds of `statistic`, each of which holds with `confidence`: BCa bootstrap over clusters (Efron 1987).

    A bootstrap over few clusters is too sure; the asked confidence is raised for it as a t distribution would
    (Hesterberg 2015, "expanded percentile"). The point estimate is always inside.

    Args:
        sums: what each cluster adds, [K, M].
        statistic: from totals [..., M] to numbers [...].
    """
    point = float(statistic(sums.sum(axis=0)))
    if len(sums) > MOST_CLUSTERS:
        sums = np.stack([sums[start::MOST_CLUSTERS].sum(axis=0) for start in range(MOST_CLUSTERS)])
    count = len(sums)
    if count < 2:
        return point, point

    def of_drawn(drawn: NDArray[np.intp], axis: int) -> Floats:
        """The statistic of resamples of cluster numbers [..., n]: each sum as often as its cluster was drawn."""
        flat = drawn.reshape(-1, drawn.shape[-1])
        cells = flat + count * np.arange(len(flat))[:, None]
        times = np.bincount(cells.ravel(), minlength=len(flat) * count).reshape(len(flat), count)
        # Rounded, so that resamples that give the same number are ties whatever the order of their sums.
        return statistic(times.astype(float) @ sums).reshape(drawn.shape[:-1]).round(12)

    resamples = min(resamples, max(FEWEST_RESAMPLES, WORK // count))
    level = min(_raised(confidence, count), 1 - 0.5 / resamples)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(count),),
            of_drawn,
            vectorized=True,
            method="BCa",
            n_resamples=resamples,
            batch=max(1, BLOCK // max(sums.shape)),
            confidence_level=2 * level - 1,
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if not (math.isfinite(low) and math.isfinite(high)):
        # No acceleration can be told (every sender left out gives the same number): the plain percentiles.
        low, high = np.quantile(found.bootstrap_distribution, [1 - level, level])
    return min(float(low), point), max(float(high), point)


def _raised(confidence: float, clusters: int) -> float:
    """The confidence at which a normal bound over so many clusters is as wide as a t bound at `confidence`."""
    wide = math.sqrt(clusters / (clusters - 1)) * float(stats.t.ppf(confidence, clusters - 1))
    return float(stats.norm.cdf(wide))


# ---------------------------------------------------------------------------------- paired right and wrong


def accuracy_bounds(
    ours: Bools,
    theirs: Bools,
    clusters: NDArray[np.intp],
    *,
    confidence: float,
    resamples: int = RESAMPLES,
    seed: int = 7,
) -> tuple[float, float]:
    """Bounds of a difference of accuracy, each of which holds with `confidence`.

    The outer ones of two intervals, because each alone is too sure somewhere: the bootstrap over senders where
    the models hardly ever differ (sixty photos without a difference do not show that there is none), the score
    interval over rows where a sender's photos fail together.

    Args:
        ours, theirs: which rows each got right, [N]; at least one.
        clusters: from `cluster_numbers`, [N].
    """
    none = np.zeros(len(ours), np.int64)
    sums = np.hstack([tally(clusters, none, 1, ours.astype(float) - theirs), tally(clusters, none, 1)])
    by_sender = bootstrap(sums, ratio, confidence=confidence, resamples=resamples, seed=seed)
    by_row = score_interval(int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours)), len(ours), confidence=confidence)
    return min(by_sender[0], by_row[0]), max(by_sender[1], by_row[1])


def ratio(totals: Floats) -> Floats:
    """The first total by the second, [..., 2] → [...]."""
    return totals[..., 0] / totals[..., 1]


def score_interval(wins: int, losses: int, rows: int, *, confidence: float) -> tuple[float, float]:
    """Bounds of a difference of paired proportions, each of which holds with `confidence` (Tango 1998).

    Args:
        wins, losses: rows that only the one, or only the other, got right.
        rows: all rows; at least one.
    """
    z = float(stats.norm.ppf(confidence))

    def too_far(delta: float, sign: int) -> float:
        """Below 0 while `delta`, on this side of what was seen, is still compatible with it."""
        b = -wins - losses + (2 * rows - wins + losses) * delta
        c = -losses * delta * (1 - delta)
        loss_share = (math.sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
        variance = max(rows * (2 * loss_share + delta * (1 - delta)), 1e-12)
        return sign * (wins - losses - rows * delta) / math.sqrt(variance) - z

    seen, edge = (wins - losses) / rows, 1 - 1e-9
    low = brentq(too_far, -edge, seen, args=(1,)) if seen > -edge else -1.0
    high = brentq(too_far, seen, edge, args=(-1,)) if seen < edge else 1.0
    return float(low), float(high)


def one_sided_mcnemar(wins: int, losses: int) -> float:
    """Exact McNemar p-value of "no better", from the photos that exactly one of the two got right.

    McNemar's exact test is a binomial test on those photos; statsmodels offers its two-sided form alone.
    """
    return float(stats.binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0


def sign_flip(net: NDArray[np.int64]) -> float:
    """McNemar's exact test with senders in the place of photos: one-sided p of "the sum is not above 0".

    Were the models alike, each sender's net count could as well have the other sign. All arrangements of signs
    are counted, by adding one sender after the other to the distribution of the sum. With one photo a sender
    this is McNemar's test itself; m senders can show a p of 0.5 ** m at best.

    Args:
        net: a whole number a sender, such as photos lost less photos won, [K].
    """
    sizes = np.abs(net[net != 0])
    if len(sizes) == 0:
        return 1.0
    chance = np.zeros(int(sizes.sum()) + 1)
    chance[0] = 1.0
    for size in sizes:
        moved = np.zeros_like(chance)
        moved[size:] = chance[:-size]
        chance = (chance + moved) / 2
    seen = int(net[net > 0].sum())
    return min(1.0, float(chance[seen:].sum()))


def net_by_cluster(ours: Bools, theirs: Bools, clusters: NDArray[np.intp]) -> NDArray[np.int64]:
    """Photos that only the one got right less those that only the other did, by cluster, [K]."""
    return np.rint(np.bincount(clusters, weights=ours.astype(float) - theirs)).astype(np.int64)


def paired_test(ours: Bools, theirs: Bools, clusters: NDArray[np.intp], *, confidence: float) -> float:
    """One-sided p of "no better": McNemar's exact test over photos or over senders, whichever is less sure.

    Over photos alone the test is too sure where a sender's photos fail together. With so few senders that no
    outcome could reach `confidence`, photos are all there is.
    """
    wins, losses = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    over_photos = one_sided_mcnemar(wins, losses)
    if 0.5 ** len(np.unique(clusters)) > 1 - confidence:
        return over_photos
    return max(over_photos, sign_flip(net_by_cluster(ours, theirs, clusters)))
