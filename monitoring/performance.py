"""How well does the champion do? Its answers with the truth that has arrived, against its own reference.

A share never stands alone: it comes with a Wilson interval, the rows behind it and the share of photos whose label has
arrived. The reference accuracy is a sample too, so a loss is tested exactly, on both counts, one-sided (Fisher).

Labels that come soon may be of the easier photos. So labels are compared with labels of the same age only: counts are
laid side by side by the age that the label had (in days: 0, 1, 2 to 3, 4 to 7, ...), the loss is Mantel and Haenszel's
(1959) over these strata, and the test is the exact one given the strata's margins, which with one stratum is Fisher's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest, hypergeom

LOSS_ALPHA = 0.05
"""A loss this unlikely under an unchanged accuracy is taken for one. It only matters together with drift."""
TAIL = 12.0
"""Standard deviations beyond which a hypergeometric count is not looked at: less than 1e-16 of it lies there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """`correct` of `rows`, and the 95% Wilson interval of their ratio; None where there are no rows."""

    rows: int
    correct: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Performance:
    """Accuracy on the photos whose truth is known. `coverage` is the share of `photos` that are."""

    accuracy: Share
    photos: int
    coverage: float | None
    by_class: dict[str, Share]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Reference accuracy minus current accuracy, and how likely so large a loss is if nothing changed.

    `rows`: current labels that could be compared, with labels of the same age.
    """

    loss: float | None
    p: float | None
    significant: bool
    rows: int


def share(correct: int, rows: int) -> Share:
    """A ratio with its interval.

    Raises:
        ValueError: more are correct than there are.
    """
    if not 0 <= correct <= rows:
        raise ValueError(f"{correct} correct of {rows} rows")
    if rows == 0:
        return Share(rows=0, correct=0, value=None, low=None, high=None)
    interval = binomtest(correct, rows).proportion_ci(0.95, method="wilson")
    return Share(rows=rows, correct=correct, value=correct / rows, low=float(interval.low), high=float(interval.high))


def share_of(counts: pd.DataFrame) -> Share:
    """The accuracy of counts that `judged` gave."""
    return share(int(counts.loc[counts["said"] == counts["label"], "rows"].sum()), int(counts["rows"].sum()))


def judged(counts: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Those of a tally's rows (`monitoring.tallies`) that tell how often answers are right: `labelled`, but for photos
    that were labelled because they looked hard."""
    known = labelled(counts, classes)
    return known[~known["picked"].astype(bool)]


def labelled(counts: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Those of a tally's rows that tell right from wrong.

    A truth outside the taxonomy cannot be either, and a label from before its photo is no label of it.
    """
    return counts[counts["label"].isin(list(classes)) & ~counts["early"].astype(bool)]


def measure(counts: pd.DataFrame, classes: Sequence[str]) -> Performance:
    """Accuracy of the answers in `counts`, rows of a tally."""
    known = judged(counts, classes)
    photos, accuracy = int(counts["rows"].sum()), share_of(known)
    return Performance(
        accuracy=accuracy,
        photos=photos,
        coverage=accuracy.rows / photos if photos else None,
        by_class={name: share_of(part) for name in classes if len(part := known[known["label"] == name])},
    )


# -------------------------------------------------------------------------------------------- equal maturity


def stratum(delay_days: int) -> int:
    """Which labels are compared with each other, by the days they took: 0, 1, 2 to 3, 4 to 7, ..."""
    return max(delay_days, 0).bit_length()


def delays(captured_on: Iterable[date], labelled_on: Iterable[date]) -> list[int]:
    """Days that each label took."""
    return [(told - taken).days for taken, told in zip(captured_on, labelled_on, strict=True)]


def by_age(counts: pd.DataFrame) -> dict[int, Share]:
    """The accuracy of `judged` counts by the stratum of the label's age."""
    strata = [stratum(days) for days in delays(counts["captured_on"], counts["labelled_on"])]
    parts = counts.assign(stratum=np.asarray(strata, int))
    return {key: share_of(parts[parts["stratum"] == key]) for key in sorted(set(strata))}


def compare(reference: Share, current: Share) -> Loss:
    """Is `current` worse than `reference`? Without rows on either side nothing can be said."""
    return compare_alike({0: reference}, {0: current})


def most_lost(reference: Share, current: Share) -> float | None:
    """The most that `reference.value - current.value` may be, but for chance: its 95% upper bound from both Wilson
    intervals (Newcombe 1998, method 10). None without rows on either side."""
    if reference.value is None or current.value is None:
        return None
    up, down = reference.high - reference.value, current.value - current.low  # type: ignore[operator]
    return reference.value - current.value + math.hypot(up, down)


def compare_alike(reference: Mapping[int, Share], current: Mapping[int, Share]) -> Loss:
    """Is `current` worse than `reference`, stratum by stratum? What only one side has is not compared."""
    both = [(reference[key], current[key]) for key in current if key in reference]
    both = [(past, now) for past, now in both if past.rows and now.rows]
    if not both:
        return Loss(loss=None, p=None, significant=False, rows=0)
    weights = np.array([past.rows * now.rows / (past.rows + now.rows) for past, now in both])
    gaps = np.array([past.correct / past.rows - now.correct / now.rows for past, now in both])
    p = _p_so_few(both)
    return Loss(
        loss=float(weights @ gaps / weights.sum()),
        p=p,
        significant=p <= LOSS_ALPHA,
        rows=sum(now.rows for _, now in both),
    )


def _p_so_few(both: Sequence[tuple[Share, Share]]) -> float:
    """Chance that so few are correct now, given each stratum's margins: strata are independent hypergeometrics."""
    lowest, chances = 0, np.ones(1)
    for past, now in both:
        start, part = _hypergeometric(past.rows + now.rows, past.correct + now.correct, now.rows)
        lowest, chances = lowest + start, np.convolve(chances, part)
    seen = sum(now.correct for _, now in both) - lowest
    return float(min(chances[: seen + 1].sum(), 1.0)) if seen >= 0 else 0.0


def _hypergeometric(total: int, correct: int, drawn: int) -> tuple[int, NDArray[np.float64]]:
    """The least count that is looked at, and the chances from there on."""
    centre = drawn * correct / total
    variance = centre * (total - correct) / total * (total - drawn) / max(total - 1, 1)
    reach = TAIL * math.sqrt(variance) + 1
    low, high = max(0, drawn + correct - total, int(centre - reach)), min(drawn, correct, int(centre + reach) + 1)
    return low, hypergeom(total, correct, drawn).pmf(np.arange(low, high + 1))


# ------------------------------------------------------------------------------------------------ who is affected

MOST_SENDERS = 10
FEWEST_LABELS = 5
"""A sender with fewer labels is not listed: its share would say nothing."""


def breakdown(counts: pd.DataFrame, classes: Sequence[str], version: str | None) -> list[dict[str, object]]:
    """Accuracy by version, and the champion's by true class and by sender, those first that do worst.

    Args:
        counts: rows of a tally, counted by sender.
        version: the champion's.
    """
    known = judged(counts, classes)
    own = known[(known["version"] == version) & known["unseen"]]
    senders = own.groupby("source_id")["rows"].sum()
    listed = own[own["source_id"].isin(senders.index[senders >= FEWEST_LABELS])]
    return [
        *_by("version", known, "version"),
        *_by("class", own, "label"),
        *_by("sender", listed, "source_id")[:MOST_SENDERS],
    ]


def _by(kind: str, counts: pd.DataFrame, column: str) -> list[dict[str, object]]:
    shares = {str(name): share_of(part) for name, part in counts.groupby(column)}
    order = sorted(shares, key=lambda name: (shares[name].high or 0.0, name))
    return [{"by": kind, "name": name, **asdict(shares[name])} for name in order]
