"""How accurate is the champion on photos whose labels have not come? Said by its own confidences.

As much less sure as it is of the window than of its reference, so much less often it is taken to be right: the
difference of average confidences (Guillory, Shankar, Ebrahimi, Darrell & Schmidt, *Predicting with confidence on unseen
distributions*, ICCV 2021). Whatever its calibration is off by on the reference cancels out.

In a world that did not change it errs by a point or two. A model in a world that it never saw is sure of what is wrong,
and the estimate is too high, by tens of points where everything is new: so an estimated loss is a sign of one, and its
absence is a sign of nothing. That is why it is shown with its own error of the days before, once their truth is in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.performance import Share, share_of

Floats = NDArray[np.float64]

METHOD = "difference of average confidences"
RESAMPLES = 400
FEWEST_LABELS = 20
"""Labels of a window below which its truth says nothing of the estimate's error."""
MOST_DAYS = 10
"""Days whose estimates are compared with their truth."""
TAIL = 0.025


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimated accuracy of a window, a 95% interval of what its labels will say (by bootstrap over senders), and the
    estimated loss against the reference; None where nothing can be estimated, and `reason` says why.

    The interval holds what chance does to the samples, not what the method does in a changed world: see `error`.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    method: str = METHOD
    reason: str = ""
    loss: float | None = None
    loss_low: float | None = None
    """The loss is more than this, but for a chance of 2.5%."""


def estimate(reference: pd.DataFrame | None, window: pd.DataFrame, *, min_rows: int, seed: int) -> Estimate:
    """Accuracy on `window` by the model's confidences.

    Args:
        reference: confidence, predicted, label (None: not known), source_id; rows it was not fitted on, or None.
        window: confidence, source_id.
    """
    if reference is None:
        return Estimate(reason="the champion has no reference")
    missing = [name for name, frame in (("window", window), ("reference", reference)) if "confidence" not in frame]
    if missing:
        return Estimate(reason=f"no column 'confidence' in the {' and the '.join(missing)}")
    known = reference[reference["label"].notna()]
    for name, frame in (("window", window), ("labelled reference", known)):
        if len(frame) < min_rows:
            return Estimate(rows=len(window), reason=f"the {name} has {len(frame)} photos, fewer than {min_rows}")
    past, now = (pd.to_numeric(frame["confidence"], errors="coerce").to_numpy(float) for frame in (known, window))
    if not (np.isfinite(past).all() and np.isfinite(now).all()):
        return Estimate(rows=len(window), reason="some answers have no confidence")
    right = np.asarray(known["label"] == known["predicted"], np.float64)
    random = np.random.default_rng(seed)
    drawn, seen = _weights(known, random), _weights(window, random)
    accuracy = drawn @ right / drawn.sum(axis=1)
    loss = drawn @ past / drawn.sum(axis=1) - seen @ now / seen.sum(axis=1)
    found = np.clip(accuracy - loss, 0.0, 1.0)
    # What the labels will say is itself a sample of as many photos.
    told = random.binomial(len(window), found[1:]) / len(window)
    low, high = np.quantile(told, [TAIL, 1 - TAIL])
    return Estimate(
        value=float(found[0]),
        low=float(min(low, found[0])),
        high=float(max(high, found[0])),
        rows=len(window),
        loss=float(accuracy[0] - found[0]),
        loss_low=float(np.quantile((accuracy - found)[1:], TAIL)),
    )


def tracked(
    found: Estimate,
    own: pd.DataFrame,
    earlier: Iterable[Mapping[str, Any]],
    *,
    day: date,
    window_days: int,
    version: str | None,
) -> dict[str, Any]:
    """The estimate as evidence keeps it: with the truth of its own window so far, and how earlier ones did.

    Args:
        own: the champion's `judged` counts (`monitoring.performance`), as far back as there are.
        earlier: evidence of days before, newest first.
    """
    errors: list[float] = []
    inside = 0
    for evidence in earlier:
        watched = evidence["champion"]
        if watched is None or watched["version"] != version or len(errors) == MOST_DAYS:
            break
        said = evidence.get("estimate")
        truth = _truth(own, date.fromisoformat(evidence["day"]), window_days)
        if said and said["value"] is not None and truth.value is not None and truth.rows >= FEWEST_LABELS:
            errors.append(abs(said["value"] - truth.value))
            inside += said["low"] <= truth.value <= said["high"]
    error = {"days": len(errors), "mean": float(np.mean(errors)), "covered": inside} if errors else None
    return {**asdict(found), "truth": asdict(_truth(own, day, window_days)), "error": error}


def _truth(own: pd.DataFrame, day: date, window_days: int) -> Share:
    first = day - timedelta(days=window_days - 1)
    return share_of(own[(own["captured_on"] >= first) & (own["captured_on"] <= day)])


def _weights(frame: pd.DataFrame, random: np.random.Generator) -> Floats:
    """How often each row is drawn: once each, and in resamples of whole senders, [RESAMPLES + 1, N]."""
    senders = frame["source_id"] if "source_id" in frame else pd.Series(np.arange(len(frame)))
    codes, names = pd.factorize(senders)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return np.concatenate([np.ones((1, len(codes))), drawn[:, codes].astype(float)])
