"""Which photos are worth a person's look: some for a reason, some by lot, and what their labels say of all.

Photos that are picked for a reason (the model is unsure, they are far from what it knew, another model answers
otherwise) teach most and prove least: accuracy on them alone is too low. So each day is a take-all part, the picked
ones, and a simple random sample of all photos; every row keeps its inclusion probability, and `estimate` weighs the two
parts by it (Hájek 1971; Särndal, Swensson and Wretman 1992, chapter 7).

Pure: frames in, rows out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.columns import matrix

Floats = NDArray[np.float64]
Reason = Literal["disagreed", "drifted", "uncertain", "random"]
NEIGHBOURS = 10
"""Rows of the reference that a photo's distance from it is measured by."""
Z = 1.959963984540054
"""Of a 95% interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The recipe's `[labelling]`."""

    per_day: int
    random_share: float
    per_sender: int
    overlap: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A photo that people are asked about.

    `probability`: that it is chosen, before the lot is drawn: 1 for one that is picked for a reason. `reason`: random
    wherever the lot fell on it, also where it would have been picked. `photos`: how many there were to choose from.
    `place`: its turn in the day, by lot, so that any first part of the queue is a fair sample of each part. `wanted`:
    how many people must agree.
    """

    image_id: str
    reason: Reason
    probability: float
    photos: int
    place: int
    wanted: int


def choose(
    window: pd.DataFrame,
    rules: Rules,
    *,
    reference: pd.DataFrame | None = None,
    otherwise: Mapping[str, float] | None = None,
    seed: int | Sequence[int],
) -> list[Chosen]:
    """The day's queue, in turn; the order of the rows of `window` does not matter.

    Args:
        window: photos without a label: image_id, source_id, confidence, and `probabilities` and `embedding` (lists).
        reference: the champion's reference, with `embedding`; without it nothing is picked as drifted.
        otherwise: image_id → confidence of another model's answer that differs.
        seed: of the lot; the same seed and photos give the same queue.
    """
    rows = window.drop_duplicates("image_id").sort_values("image_id", ignore_index=True)
    count = len(rows)
    budget = min(rules.per_day, count)
    draws = round(budget * rules.random_share)
    rng = np.random.default_rng(seed)
    picked = _pick(_ranked(rows, reference, otherwise or {}), rows["source_id"], budget - draws, rules.per_sender)
    drawn = set(rng.choice(count, draws, replace=False).tolist()) if draws else set()
    chosen = sorted(picked.keys() | drawn)
    turn = rng.permutation(len(chosen))
    twice = set(rng.permutation(len(chosen))[: round(rules.overlap * len(chosen))].tolist())
    found = [
        Chosen(
            image_id=str(rows["image_id"][row]),
            reason="random" if row in drawn else picked[row],
            probability=1.0 if row in picked else draws / count,
            photos=count,
            place=int(turn[number]),
            wanted=2 if number in twice else 1,
        )
        for number, row in enumerate(chosen)
    ]
    return sorted(found, key=lambda one: one.place)


def _pick(ranked: Mapping[Reason, list[int]], senders: pd.Series, places: int, per_sender: int) -> dict[int, Reason]:
    """Reasons take turns, each with its best photo that is not taken yet and whose sender has not had enough."""
    found: dict[int, Reason] = {}
    taken: dict[str, int] = {}
    waiting = {reason: iter(rows) for reason, rows in ranked.items()}
    while waiting and len(found) < places:
        for reason in list(waiting):
            for row in waiting[reason]:
                sender = senders[row]
                if row not in found and taken.get(sender, 0) < per_sender:
                    found[row] = reason
                    taken[sender] = taken.get(sender, 0) + 1
                    break
            else:
                del waiting[reason]
            if len(found) == places:
                break
    return found


def _ranked(
    rows: pd.DataFrame, reference: pd.DataFrame | None, otherwise: Mapping[str, float]
) -> dict[Reason, list[int]]:
    """Rows by each reason, the most telling first."""
    differ = rows["image_id"].map(lambda image_id: otherwise.get(image_id, np.nan)).to_numpy(np.float64)
    return {
        "disagreed": _largest(differ + rows["confidence"].to_numpy(np.float64)),
        "drifted": _largest(distances(rows, reference)),
        "uncertain": _largest(-margins(rows)),
    }


def _largest(scores: Floats) -> list[int]:
    """Positions from the largest score down; those without one are left out."""
    order = np.argsort(-scores, kind="stable")
    return order[np.isfinite(scores[order])].tolist()


def margins(rows: pd.DataFrame) -> Floats:
    """Probability of the first class minus that of the second, [N]; NaN where there are no probabilities."""
    told = _lists(rows, "probabilities")
    if told.shape[1] < 2:
        return np.full(len(rows), np.nan)
    top = np.sort(told, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def distances(rows: pd.DataFrame, reference: pd.DataFrame | None) -> Floats:
    """Mean distance of each embedding to its nearest ones of the reference, [N]; NaN where it cannot be told."""
    unknown = np.full(len(rows), np.nan)
    if reference is None or "embedding" not in reference:
        return unknown
    theirs, ours = _lists(reference, "embedding"), _lists(rows, "embedding")
    theirs = theirs[np.isfinite(theirs).all(axis=1)]
    complete = np.isfinite(ours).all(axis=1)
    if len(theirs) == 0 or not complete.any() or theirs.shape[1] != ours.shape[1] or ours.shape[1] == 0:
        return unknown
    from sklearn.neighbors import NearestNeighbors

    # Each direction counts by how much it varies in what the model knew.
    spread = theirs.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(theirs))).fit(theirs / scale)
    unknown[complete] = near.kneighbors(ours[complete] / scale)[0].mean(axis=1)
    return unknown


def _lists(rows: pd.DataFrame, name: str) -> Floats:
    """A column of lists as [N, width]; of width 0 where there is none."""
    return matrix(rows[name]) if name in rows and len(rows) else np.empty((len(rows), 0))


# ---------------------------------------------------------------------------------------------- estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A photo of the queue: its probability, and whether the model was right; None while nobody has said."""

    probability: float
    correct: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Accuracy on all `photos` that the queue was chosen from, with a 95% interval, from `rows` labels.

    Without a value `reason` says why there is none.
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int
    photos: int
    reason: str = ""


def estimate(queue: Sequence[Answered], photos: int) -> Estimate:
    """What the labels of one day's queue say of all photos that it was chosen from.

    The picked photos (probability 1) stand for themselves, the drawn ones for all others; within each part those that
    are labelled stand for those that are not yet, which the queue's random order makes fair. "Cannot tell" counts as
    not labelled. The interval is Wilson's of each part, with the finite population's correction, put together by MOVER
    (Zou and Donner 2008).

    Args:
        queue: every photo of the day's queue, labelled or not.
        photos: how many it was chosen from.
    """
    sure = [row for row in queue if row.probability >= 1]
    drawn = [row for row in queue if row.probability < 1]
    parts = [(sure, len(sure), "picked"), (drawn, photos - len(sure), "drawn")]
    told = sum(row.correct is not None for row in queue)
    value = below = above = 0.0
    for rows, size, name in parts:
        if size <= 0:
            continue
        known = [row.correct for row in rows if row.correct is not None]
        if not known:
            reason = f"no {name} photo of this day is labelled yet"
            return Estimate(value=None, low=None, high=None, rows=told, photos=photos, reason=reason)
        weight, share = size / photos, sum(known) / len(known)
        low, high = _wilson(share, len(known), size)
        value += weight * share
        below += (weight * (share - low)) ** 2
        above += (weight * (high - share)) ** 2
    if not queue:
        return Estimate(value=None, low=None, high=None, rows=0, photos=photos, reason="nothing was queued")
    low, high = max(0.0, value - sqrt(below)), min(1.0, value + sqrt(above))
    return Estimate(value=value, low=low, high=high, rows=told, photos=photos)


def _wilson(share: float, rows: int, size: int) -> tuple[float, float]:
    """Wilson's interval of a share seen on `rows` of `size`: nothing is uncertain where all were seen."""
    if rows >= size:
        return share, share
    told = rows / (1 - rows / size)
    centre = (share + Z**2 / (2 * told)) / (1 + Z**2 / told)
    half = Z / (1 + Z**2 / told) * sqrt(share * (1 - share) / told + Z**2 / (4 * told**2))
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
