"""Contender against opponent on the same rows: how much better, how sure, and is that enough.

Pure functions on arrays. The rows are paired (both models answer every photo) and come in clusters: a
sender's photos resemble each other, so intervals resample senders, not photos.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Verdict = Literal["PROMOTE", "HOLD", "INSUFFICIENT DATA"]

ECE_BINS = 10
RESAMPLES = 2000
POWER = 0.8
"""How sure one wants to be to see a difference that is there, when asking for more rows."""


class Gates(Protocol):
    """The recipe's `gates`, as far as the judge reads them."""

    @property
    def confidence(self) -> float: ...
    @property
    def margin(self) -> float: ...
    @property
    def calibration_margin(self) -> float: ...
    @property
    def latency_factor(self) -> float: ...
    @property
    def min_rows(self) -> int: ...


# --------------------------------------------------------------------------------------------- one model


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """How one model did. Shares in 0..1; `log_loss` in nats."""

    rows: int
    accuracy: float
    macro_f1: float
    log_loss: float
    ece: float


def measure(probabilities: Floats, labels: NDArray[np.int64]) -> Metrics | None:
    """Metrics of [N, C] probabilities against [N] class positions; None without rows."""
    if len(labels) == 0:
        return None
    said = probabilities.argmax(axis=1)
    of_truth = probabilities[np.arange(len(labels)), labels].astype(float)
    return Metrics(
        rows=len(labels),
        accuracy=float(np.mean(said == labels)),
        macro_f1=macro_f1(confusion(said, labels, probabilities.shape[1])),
        log_loss=float(-np.log(np.clip(of_truth, 1e-7, 1.0)).mean()),
        ece=calibration_error(probabilities, labels),
    )


def confusion(said: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts [C, C]: truth down, answer across."""
    return np.bincount(labels * classes + said, minlength=classes * classes).reshape(classes, classes)


def macro_f1(counts: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that were there or were said."""
    hits, either = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.mean(2 * hits[either > 0] / either[either > 0]))


def reliability(probabilities: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean confidence, accuracy and rows in each of `ECE_BINS` equal bins of confidence; empty bins are left out."""
    confidence = probabilities.max(axis=1).astype(float)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    rows = np.bincount(bins, minlength=ECE_BINS)
    there = rows > 0
    sums = (np.bincount(bins, weights=values, minlength=ECE_BINS)[there] for values in (confidence, right))
    mean_confidence, accuracy = (total / rows[there] for total in sums)
    return mean_confidence, accuracy, rows[there]


def calibration_error(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap of confidence and accuracy, weighted by rows."""
    confidence, accuracy, rows = reliability(probabilities, labels)
    return float(np.sum(rows * np.abs(confidence - accuracy)) / rows.sum())


# -------------------------------------------------------------------------------------------- two models


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Both models' answers about the same photos: element i of each field is about photo i."""

    labels: NDArray[np.int64]
    contender: Floats
    """[N, C] probabilities."""
    opponent: Floats
    """[N, C] probabilities."""
    senders: NDArray[np.str_]

    def where(self, mask: Bools) -> "Paired":
        return Paired(
            labels=self.labels[mask],
            contender=self.contender[mask],
            opponent=self.opponent[mask],
            senders=self.senders[mask],
        )

    def rights(self) -> tuple[Bools, Bools]:
        """Which photos the contender, and the opponent, got right."""
        return self.contender.argmax(axis=1) == self.labels, self.opponent.argmax(axis=1) == self.labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Contender minus opponent on some rows.

    `low` and `high` each hold with the asked confidence. They are the outer ones of two intervals, because
    each alone is too sure somewhere: the bootstrap over senders where the models hardly ever differ (sixty
    photos without a difference do not show that there is none), the score interval over rows where a
    sender's photos fail together.
    """

    rows: int
    senders: int
    contender: Metrics
    opponent: Metrics
    difference: float
    """Of accuracy."""
    low: float
    high: float
    only_contender: int
    """Photos that only the contender got right."""
    only_opponent: int
    p_value: float
    """Exact McNemar, one-sided: how likely so many wins are if the contender is no better."""

    @property
    def f1_difference(self) -> float:
        return self.contender.macro_f1 - self.opponent.macro_f1

    def deviation(self, confidence: float) -> float:
        """What one row adds to the spread of the difference, read back from the interval (clusters included)."""
        return (self.high - self.low) / 2 / float(stats.norm.ppf(confidence)) * math.sqrt(self.rows)

    def rows_to_show(self, distance: float, confidence: float) -> int:
        """Rows in all that would show with `POWER` that the difference is not `distance` lower than seen."""
        reach = float(stats.norm.ppf(confidence) + stats.norm.ppf(POWER))
        return math.ceil((reach * self.deviation(confidence) / distance) ** 2)

    def detectable(self, confidence: float) -> float:
        """The smallest improvement of accuracy that this many rows show with `POWER`."""
        reach = float(stats.norm.ppf(confidence) + stats.norm.ppf(POWER))
        return reach * self.deviation(confidence) / math.sqrt(self.rows)


def compare(paired: Paired, *, confidence: float, resamples: int = RESAMPLES, seed: int = 7) -> Comparison | None:
    """Both models' metrics, the difference of accuracy with its interval, and the paired test; None without rows."""
    contender, opponent = measure(paired.contender, paired.labels), measure(paired.opponent, paired.labels)
    if contender is None or opponent is None:
        return None
    ours, theirs = paired.rights()
    wins, losses = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    by_sender = interval(
        ours.astype(float) - theirs, paired.senders, confidence=confidence, resamples=resamples, seed=seed
    )
    by_row = score_interval(wins, losses, len(ours), confidence=confidence)
    return Comparison(
        rows=len(paired.labels),
        senders=len(np.unique(paired.senders)),
        contender=contender,
        opponent=opponent,
        difference=contender.accuracy - opponent.accuracy,
        low=min(by_sender[0], by_row[0]),
        high=max(by_sender[1], by_row[1]),
        only_contender=wins,
        only_opponent=losses,
        p_value=one_sided_mcnemar(wins, losses),
    )


def one_sided_mcnemar(wins: int, losses: int) -> float:
    """Exact McNemar p-value of "no better", from the photos that exactly one of the two got right.

    McNemar's exact test is a binomial test on those photos; statsmodels offers its two-sided form alone.
    """
    return float(stats.binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0


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


def interval(
    differences: Floats, clusters: NDArray[np.str_], *, confidence: float, resamples: int = RESAMPLES, seed: int = 7
) -> tuple[float, float]:
    """Bounds of the mean of `differences`, each of which holds with `confidence`: BCa bootstrap over clusters.

    A single cluster cannot be resampled: then, and only then, the rows are. The point estimate is always
    inside. Few clusters make any bootstrap too sure, which is why the verdict asks McNemar as well.
    """
    names, of_row = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        of_row = np.arange(len(differences))
    sums, sizes = np.bincount(of_row, weights=differences), np.bincount(of_row).astype(float)
    point = float(differences.mean())
    if len(sums) < 2 or np.allclose(sums, point * sizes):
        return point, point
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (sums, sizes),
            lambda total, count, axis: total.sum(axis=axis) / count.sum(axis=axis),
            paired=True,
            vectorized=True,
            method="BCa",
            n_resamples=resamples,
            batch=max(1, 2_000_000 // len(sums)),
            confidence_level=2 * confidence - 1,
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if not (math.isfinite(low) and math.isfinite(high)):
        # No acceleration can be told (every sender left out gives the same mean): the plain percentiles.
        low, high = np.quantile(found.bootstrap_distribution, [1 - confidence, confidence])
    return min(float(low), point), max(float(high), point)


# ------------------------------------------------------------------------------------------------ slices


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceRow:
    """One line of the slice table."""

    column: str
    value: str
    rows: int
    senders: int
    contender: float
    """Accuracy."""
    opponent: float
    difference: float
    low: float
    high: float
    p_value: float


def slice_masks(
    labels: NDArray[np.int64], classes: Sequence[str], senders: NDArray[np.str_], brightness: Floats, fresh: Bools
) -> dict[tuple[str, str], Bools]:
    """Rows by age, class, size of the sender and brightness; empty slices are left out.

    Sender sizes and brightness are cut where a third of the rows lie on each side, ties together.
    """
    masks = {("rows", "golden"): ~fresh, ("rows", "fresh"): fresh}
    masks |= {("class", name): labels == position for position, name in enumerate(classes)}
    _, of_row, counts = np.unique(senders, return_inverse=True, return_counts=True)
    masks |= _thirds("sender", ("small", "medium", "large"), counts[of_row].astype(float))
    masks |= _thirds("brightness", ("dark", "middle", "bright"), brightness.astype(float))
    return {key: mask for key, mask in masks.items() if mask.any()}


def _thirds(column: str, names: tuple[str, str, str], values: Floats) -> dict[tuple[str, str], Bools]:
    if len(values) == 0:
        return {}
    cuts = np.quantile(values, [1 / 3, 2 / 3])
    part = np.searchsorted(cuts, values)  # 0: up to the first cut, 2: above the second
    return {(column, name): part == position for position, name in enumerate(names)}


def slice_table(paired: Paired, masks: Mapping[tuple[str, str], Bools], *, confidence: float) -> list[SliceRow]:
    """The comparison within each slice. For reading: the verdict does not ask it."""
    table = []
    for (column, value), mask in masks.items():
        found = compare(paired.where(mask), confidence=confidence, resamples=1000)
        if found is None:
            continue
        table.append(
            SliceRow(
                column=column,
                value=value,
                rows=found.rows,
                senders=found.senders,
                contender=found.contender.accuracy,
                opponent=found.opponent.accuracy,
                difference=found.difference,
                low=found.low,
                high=found.high,
                p_value=found.p_value,
            )
        )
    return table
