"""Contender against opponent on the same rows: how much better in each metric, and how sure.

Pure functions on arrays. The rows are paired (both models answer every photo) and come in clusters: a
sender's photos resemble each other, so intervals resample senders, not photos.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from monitoring.intervals import (
    RESAMPLES,
    Bools,
    Floats,
    Statistic,
    accuracy_bounds,
    bootstrap,
    cluster_numbers,
    paired_test,
    ratio,
    tally,
)

MetricName = Literal["accuracy", "macro_f1", "log_loss", "ece"]
METRICS: tuple[MetricName, ...] = ("accuracy", "macro_f1", "log_loss", "ece")

ECE_BINS = 10
LEAST = 1e-7
"""A probability below this counts as this in the log loss."""
POWER = 0.8
"""How sure one wants to be to see a difference that is there, when asking for more rows."""


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
    return Metrics(
        rows=len(labels),
        accuracy=float(np.mean(said == labels)),
        macro_f1=macro_f1(confusion(said, labels, probabilities.shape[1])),
        log_loss=float(_losses(probabilities, labels).mean()),
        ece=calibration_error(probabilities, labels),
    )


def confusion(said: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts [C, C]: truth down, answer across."""
    return np.bincount(labels * classes + said, minlength=classes * classes).reshape(classes, classes)


def macro_f1(counts: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that were there or were said."""
    return float(_mean_f1(np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)))


def _mean_f1(hits: Floats | NDArray[np.int64], either: Floats | NDArray[np.int64]) -> Floats:
    """From hits, and times said plus times true, of each class [..., C]."""
    there = either > 0
    return (2 * hits / np.where(there, either, 1)).sum(axis=-1) / there.sum(axis=-1)


def _losses(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    of_truth = probabilities[np.arange(len(labels)), labels].astype(float)
    return -np.log(np.clip(of_truth, LEAST, 1.0))


def _bins(probabilities: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Each row's confidence, and which of `ECE_BINS` equal bins it falls in."""
    confidence = probabilities.max(axis=1).astype(float)
    return confidence, np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)


def reliability(probabilities: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean confidence, accuracy and rows in each of `ECE_BINS` equal bins of confidence; empty bins are left out."""
    confidence, bins = _bins(probabilities)
    right = probabilities.argmax(axis=1) == labels
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
class Difference:
    """Of one metric. Above 0 the contender is better, also where less is better; each bound holds on its own.

    The gain of `ece` is that of the two numbers seen, its bounds are those of the calibration errors without what
    chance adds to them.
    """

    gain: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Contender against opponent on some rows."""

    rows: int
    senders: int
    contender: Metrics
    opponent: Metrics
    differences: dict[str, Difference]
    """Of each of `METRICS`."""
    only_contender: int
    """Photos that only the contender got right."""
    only_opponent: int
    p_value: float
    """Exact McNemar, one-sided, over photos or over senders, whichever is less sure: how likely so many wins are
    if the contender is no better."""

    @property
    def difference(self) -> float:
        """Of accuracy, as are `low` and `high`."""
        return self.differences["accuracy"].gain

    @property
    def low(self) -> float:
        return self.differences["accuracy"].low

    @property
    def high(self) -> float:
        return self.differences["accuracy"].high

    def deviation(self, confidence: float, metric: MetricName = "accuracy") -> float:
        """What one row adds to the spread of the difference, read back from the interval (clusters included)."""
        found = self.differences[metric]
        return spread(found.low, found.high, confidence) * math.sqrt(self.rows)

    def rows_to_show(self, distance: float, confidence: float, metric: MetricName = "accuracy") -> int:
        """Rows in all that would show with `POWER` that the difference is not `distance` lower than seen."""
        return math.ceil((reach(confidence) * self.deviation(confidence, metric) / distance) ** 2)

    def detectable(self, confidence: float, metric: MetricName = "accuracy") -> float:
        """The smallest improvement that this many rows show with `POWER`."""
        return reach(confidence) * self.deviation(confidence, metric) / math.sqrt(self.rows)


def spread(low: float, high: float, confidence: float) -> float:
    """The standard error behind two bounds that each hold with `confidence`."""
    return (high - low) / 2 / float(stats.norm.ppf(confidence))


def reach(confidence: float) -> float:
    """How many standard errors a difference must be away to be seen with `POWER`."""
    return float(stats.norm.ppf(confidence) + stats.norm.ppf(POWER))


def compare(paired: Paired, *, confidence: float, resamples: int = RESAMPLES, seed: int = 7) -> Comparison | None:
    """Both models' metrics, the difference of each with its interval, and the paired test; None without rows."""
    contender, opponent = measure(paired.contender, paired.labels), measure(paired.opponent, paired.labels)
    if contender is None or opponent is None:
        return None
    ours, theirs = paired.rights()
    wins, losses = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    clusters = cluster_numbers(paired.senders)
    bounds = {
        "accuracy": accuracy_bounds(ours, theirs, clusters, confidence=confidence, resamples=resamples, seed=seed)
    }
    for name in METRICS[1:]:
        sums, statistic = _SUMS[name](paired, clusters)
        bounds[name] = bootstrap(sums, statistic, confidence=confidence, resamples=resamples, seed=seed)
    differences: dict[str, Difference] = {}
    for name in METRICS:
        gain = getattr(contender, name) - getattr(opponent, name)
        gain = -gain if name in ("log_loss", "ece") else gain
        # The same number summed in another order may lie a rounding error outside.
        differences[name] = Difference(gain=gain, low=min(bounds[name][0], gain), high=max(bounds[name][1], gain))
    return Comparison(
        rows=len(paired.labels),
        senders=len(np.unique(paired.senders)),
        contender=contender,
        opponent=opponent,
        differences=differences,
        only_contender=wins,
        only_opponent=losses,
        p_value=paired_test(ours, theirs, clusters, confidence=confidence),
    )


# ------------------------------------------------------------- metrics as functions of sums over senders


def _accuracy(paired: Paired, clusters: NDArray[np.intp]) -> tuple[NDArray[np.float64], Statistic]:
    ours, theirs = paired.rights()
    return _mean(ours.astype(float) - theirs, clusters)


def _log_loss(paired: Paired, clusters: NDArray[np.intp]) -> tuple[NDArray[np.float64], Statistic]:
    return _mean(_losses(paired.opponent, paired.labels) - _losses(paired.contender, paired.labels), clusters)


def _mean(gains: Floats, clusters: NDArray[np.intp]) -> tuple[NDArray[np.float64], Statistic]:
    none = np.zeros(len(gains), np.int64)
    return np.hstack([tally(clusters, none, 1, gains), tally(clusters, none, 1)]), ratio


def _macro_f1(paired: Paired, clusters: NDArray[np.intp]) -> tuple[NDArray[np.float64], Statistic]:
    """Of each model hits, and times said plus times true, by class."""
    classes = paired.contender.shape[1]
    true = tally(clusters, paired.labels, classes)
    columns = []
    for said, right in zip((paired.contender, paired.opponent), paired.rights(), strict=True):
        hits = tally(clusters, paired.labels, classes, right.astype(float))
        columns += [hits, tally(clusters, said.argmax(axis=1), classes) + true]

    def statistic(totals: Floats) -> Floats:
        hits, either, their_hits, their_either = np.split(totals, 4, axis=-1)
        return _mean_f1(hits, either) - _mean_f1(their_hits, their_either)

    return np.hstack(columns), statistic


def _ece(paired: Paired, clusters: NDArray[np.intp]) -> tuple[NDArray[np.float64], Statistic]:
    """Of each model confidence less right by bin, and the square of that; then the rows.

    On few rows the calibration error is too large by chance, and more so of the better calibrated model: a gap
    of nothing still has a size. Its square is too large by the sum of the squares over senders, which is taken
    away: what is left are products of different senders, and chance is no part of those.
    """
    columns = []
    for said, right in zip((paired.contender, paired.opponent), paired.rights(), strict=True):
        confidence, bins = _bins(said)
        gaps = tally(clusters, bins, ECE_BINS, confidence - right)
        columns += [gaps, gaps**2]
    columns.append(tally(clusters, np.zeros(len(paired.labels), np.int64), 1))

    def statistic(totals: Floats) -> Floats:
        gaps, chance, their_gaps, their_chance = np.split(totals[..., :-1], 4, axis=-1)
        ours = np.sqrt(np.maximum(gaps**2 - chance, 0)).sum(axis=-1)
        theirs = np.sqrt(np.maximum(their_gaps**2 - their_chance, 0)).sum(axis=-1)
        return (theirs - ours) / totals[..., -1]

    return np.hstack(columns), statistic


_SUMS: dict[str, Callable[[Paired, NDArray[np.intp]], tuple[NDArray[np.float64], Statistic]]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "log_loss": _log_loss,
    "ece": _ece,
}


# ------------------------------------------------------------------------------------------ several seeds


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedSpread:
    """What a candidate gains on the average over its seeds, on the same rows. Senders vary here, the seeds do not."""

    gain: float
    low: float
    high: float
    gains: tuple[float, ...]
    """Of each seed, in the order given."""


def compare_seeds(
    several: Sequence[Paired], *, confidence: float, metric: MetricName = "accuracy", seed: int = 7
) -> SeedSpread:
    """The mean over seeds of the contender's gain, with its bounds over senders.

    Args:
        several: one a seed, all on the same rows in the same order and against the same opponent; at least one row.
        metric: in what.

    Raises:
        ValueError: there are no seeds or no rows, or the rows are not the same.
    """
    if not several or len(several[0].labels) == 0:
        raise ValueError("several is empty, or holds no rows: nothing to average")
    if any(
        not (np.array_equal(one.labels, several[0].labels) and np.array_equal(one.senders, several[0].senders))
        for one in several
    ):
        raise ValueError("several: the seeds were not compared on the same rows in the same order")
    clusters = cluster_numbers(several[0].senders)
    made = [_SUMS[metric](one, clusters) for one in several]
    statistic = made[0][1]

    def mean(totals: Floats) -> Floats:
        return np.mean([statistic(part) for part in np.split(totals, len(several), axis=-1)], axis=0)

    gains = tuple(float(statistic(sums.sum(axis=0))) for sums, _ in made)
    low, high = bootstrap(np.hstack([sums for sums, _ in made]), mean, confidence=confidence, seed=seed)
    gain = float(np.mean(gains))
    return SeedSpread(gain=gain, low=min(low, gain), high=max(high, gain), gains=gains)
