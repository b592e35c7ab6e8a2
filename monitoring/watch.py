"""From a day's frames to its evidence: drift, accuracy on the labels that have arrived, since when, and how sure.

The step `monitor` reads the frames from the store and writes what this gives; the scorecard passes frames of
replayed worlds. Both get the same evidence for the same frames.

Pure: frames in, a JSON-plain document out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import pandas as pd

from monitoring import arrivals, drift, onset, performance
from monitoring.days import end_of, start_of
from monitoring.estimate import estimate, tracked
from monitoring.explanation import explained
from monitoring.season import Season


@dataclass(frozen=True, kw_only=True, slots=True)
class Watching:
    """The recipe's `[monitoring]`, its classes, and the names of the picture statistics."""

    classes: tuple[str, ...]
    stats: tuple[str, ...]
    min_rows: int
    alpha: float
    min_effect: float
    window_days: int
    truth_days: int
    season: Season = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """Whose predictions are watched. Photos from before `as_of` were there to train on and prove nothing."""

    version: str
    generation: int
    run_id: str
    as_of: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """What is known at the end of a day.

    `reference`: the champion's answers on rows it was not fitted on (`pipelines.models.packages.write_reference`), with
    `labelled_at` where that is known, or None. `window`: its answers on the photos in question, with their statistics
    and embeddings (`predicted` is the answer). `tally`: answers by any champion since the earliest day that matters,
    with the labels known by then, counted (`monitoring.tallies`). `labels_known`: all labels known by then.
    `doubts`: labels of the day that tell nothing, by reason.
    """

    reference: pd.DataFrame | None
    window: pd.DataFrame
    tally: pd.DataFrame
    labels_known: int
    doubts: Mapping[str, int]
    trained: pd.DataFrame | None = None
    """Pictures' statistics and senders of rows that the champion was fitted on (`reference.trained_rows`)."""


def watch(
    day: date,
    rules: Watching,
    champion: Champion | None,
    frames: Frames,
    earlier: Iterable[Mapping[str, Any]],
    found: drift.Drift,
) -> dict[str, Any]:
    """The day's evidence.

    Args:
        found: `detect` of the same day, rules and frames.
        earlier: evidence of days before, newest first; iterated several times, each only as far back as needed.
    """
    if champion is None:
        found = replace(found, reasons=("there is no champion yet",))
    version = None if champion is None else champion.version
    own = frames.tally[(frames.tally["version"] == version) & frames.tally["unseen"]]
    since, anew = None, False
    if found.verdict == "DRIFT":
        starts = onset.starts(version, day, onset.drifted(map(asdict, found.columns)), earlier)
        since = onset.began(own, rules.classes, starts)
        anew = since != starts[0]
    return {
        "day": str(day),
        "as_of": end_of(day).isoformat(),
        "verdict": found.verdict,
        "champion": None if champion is None else {**asdict(champion), "as_of": champion.as_of.isoformat()},
        "drift": {**asdict(found), **_explained(found, rules, frames, day)},
        "drift_since": None if since is None else str(since),
        "drift_anew": anew,
        "estimate": _estimate(day, rules, version, frames, own, earlier),
        **_accuracies(rules, version, frames, own, day, since),
    }


def detect(day: date, rules: Watching, frames: Frames) -> drift.Drift:
    """The day's verdict on its window."""
    return drift.detect(
        frames.reference,
        frames.window,
        stats=rules.stats,
        min_rows=rules.min_rows,
        alpha=rules.alpha,
        min_effect=rules.min_effect,
        seed=day.toordinal(),
        trained=frames.trained,
        season=rules.season,
    )


def _explained(found: drift.Drift, rules: Watching, frames: Frames, day: date) -> dict[str, Any]:
    return explained(
        found,
        frames.reference,
        frames.window,
        frames.trained,
        classes=rules.classes,
        stats=rules.stats,
        min_rows=rules.min_rows,
        seed=day.toordinal(),
        season=rules.season,
    )


def earliest(rules: Watching, champion: Champion | None, day: date, earlier: Iterable[Mapping[str, Any]]) -> date:
    """First day whose answers matter: of the last truth_days, and as many before a drift that may go on."""
    last = day if champion is None else onset.starts(champion.version, day, frozenset(), earlier)[0]
    return min(last - timedelta(days=rules.truth_days), day - timedelta(days=rules.truth_days - 1))


def _estimate(
    day: date,
    rules: Watching,
    version: str | None,
    frames: Frames,
    own: pd.DataFrame,
    earlier: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Accuracy while labels are missing, beside how that did before."""
    return tracked(
        estimate(frames.reference, frames.window, min_rows=rules.min_rows, seed=day.toordinal()),
        performance.judged(own, rules.classes),
        earlier,
        day=day,
        window_days=rules.window_days,
        version=version,
    )


def _accuracies(
    rules: Watching, version: str | None, frames: Frames, own: pd.DataFrame, day: date, since: date | None
) -> dict[str, Any]:
    """Accuracy of the last truth_days against the reference, and since the drift began against the days before it.

    A reference has no photo by a sender that the champion was trained on, and live days have: on these it does better.
    So a drift is measured against the champion's own days before it, where `min_rows` labels tell of them.
    """
    reference, tally = frames.reference, frames.tally
    lately = day - timedelta(days=rules.truth_days - 1)
    recent = tally[tally["captured_on"] >= lately]
    drifted = None if since is None else tally[tally["captured_on"] >= since]
    before, before_by_age = _before(rules, own, reference, since)
    measure = partial(_accuracy, rules.classes, own)
    fresh = 0
    if drifted is not None:
        fresh = int(performance.labelled(drifted[~drifted["again"]], rules.classes)["rows"].sum())
    return {
        "reference_accuracy": asdict(_reference_accuracy(reference)),
        "accuracy_before": asdict(before),
        "lately": measure(_by_age(reference), lately),
        "since_drift": None if since is None else measure(before_by_age, since),
        "fresh_labels": fresh,
        "labels_known": frames.labels_known,
        "labels": arrivals.labels(own[own["captured_on"] >= lately], rules.classes, frames.doubts),
        "slices": performance.breakdown(recent, rules.classes, version),
        "cohorts": arrivals.cohorts(tally, rules.classes, day),
    }


def _before(
    rules: Watching, own: pd.DataFrame, reference: pd.DataFrame | None, since: date | None
) -> tuple[performance.Share, Mapping[int, performance.Share] | performance.Share]:
    """What a drift is measured against, as a whole and by the age of labels: the champion's days before it, or where
    too few labels tell of those, its reference."""
    if since is not None:
        lived = performance.judged(own[own["captured_on"] < since], rules.classes)
        if lived["rows"].sum() >= rules.min_rows:
            return performance.share_of(lived), performance.by_age(lived)
    return _reference_accuracy(reference), _by_age(reference)


def _reference_accuracy(reference: pd.DataFrame | None) -> performance.Share:
    if reference is None:
        return performance.share(0, 0)
    known = reference[reference["label"].notna()]
    return performance.share(int((known["label"] == known["predicted"]).sum()), len(known))


def _by_age(reference: pd.DataFrame | None) -> Mapping[int, performance.Share] | performance.Share:
    """The reference's accuracy by the age of its labels; as a whole where nothing is known of that."""
    if reference is None or "labelled_at" not in reference or reference["labelled_at"].isna().all():
        return _reference_accuracy(reference)
    known = reference[reference["label"].notna() & reference["labelled_at"].notna()]
    return performance.by_age(
        pd.DataFrame(
            {
                "captured_on": known["captured_at"].dt.date,
                "labelled_on": known["labelled_at"].dt.date,
                "said": known["predicted"],
                "label": known["label"],
                "rows": 1,
            }
        )
    )


def _accuracy(
    classes: Sequence[str],
    own: pd.DataFrame,
    reference: Mapping[int, performance.Share] | performance.Share,
    since: date,
) -> dict[str, Any]:
    counts = own[own["captured_on"] >= since]
    found = performance.measure(counts, classes)
    if isinstance(reference, performance.Share):
        loss = performance.compare(reference, found.accuracy)
    else:
        loss = performance.compare_alike(reference, performance.by_age(performance.judged(counts, classes)))
    return {"since": start_of(since).isoformat(), "performance": asdict(found), "loss": asdict(loss)}
