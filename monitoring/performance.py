"""How well does the champion do? Predictions joined with the truth that has arrived, against its own reference.

A share never stands alone: it comes with a Wilson interval, the rows behind it and the share of photos
whose label has arrived. The reference accuracy is a sample too, so a loss is tested with Fisher's exact
test on both counts, one-sided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest, fisher_exact

LOSS_ALPHA = 0.05
"""A loss this unlikely under an unchanged accuracy is taken for one. It only matters together with drift."""


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
    """Reference accuracy minus current accuracy, and how likely so large a loss is if nothing changed."""

    loss: float | None
    p: float | None
    significant: bool


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


def measure(predictions: pd.DataFrame, truth: pd.DataFrame, classes: Sequence[str]) -> Performance:
    """Accuracy of `predictions` on what `truth` says of them.

    Args:
        predictions: image_id, label, predicted_at; of several answers about a photo the last counts.
        truth: image_id, label; what is known by the time in question. Photos nobody predicted are ignored.
        classes: the taxonomy; a truth outside it cannot be right or wrong and is not counted as known.
    """
    answers = predictions.sort_values("predicted_at", kind="stable").drop_duplicates("image_id", keep="last")
    known = truth[truth["label"].isin(list(classes))].drop_duplicates("image_id", keep="last")
    joined = answers[["image_id", "label"]].merge(
        known[["image_id", "label"]], on="image_id", suffixes=("_said", "_true"), validate="one_to_one"
    )
    right = joined["label_said"] == joined["label_true"]
    by_class = {
        name: share(int(right[rows].sum()), int(rows.sum()))
        for name in classes
        if (rows := joined["label_true"] == name).any()
    }
    return Performance(
        accuracy=share(int(right.sum()), len(joined)),
        photos=len(answers),
        coverage=len(joined) / len(answers) if len(answers) else None,
        by_class=by_class,
    )


def compare(reference: Share, current: Share) -> Loss:
    """Is `current` worse than `reference`? Without rows on either side nothing can be said."""
    if reference.value is None or current.value is None:
        return Loss(loss=None, p=None, significant=False)
    table = [
        [current.correct, current.rows - current.correct],
        [reference.correct, reference.rows - reference.correct],
    ]
    p = float(fisher_exact(table, alternative="less").pvalue)
    return Loss(loss=reference.value - current.value, p=p, significant=p <= LOSS_ALPHA)
