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

from monitoring import drift, performance
from monitoring.days import end_of
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

    `reference`: the champion's answers on rows it was not fitted on (`pipelines.models.packages.write_reference`), or
    None. `window`: its answers on the photos in question, with their statistics and embeddings (`predicted` is the
    answer). `answers`: rows of `predictions` by any champion since the earliest day that matters. `truth`: accepted
    labels known by then.
    """

    reference: pd.DataFrame | None
    window: pd.DataFrame
    answers: pd.DataFrame
    truth: pd.DataFrame
    trained: pd.DataFrame | None = None
    """Pictures' statistics and senders of rows that the champion was fitted on (`reference.trained_rows`)."""


def watch(
    day: date,
    rules: Watching,
    champion: Champion | None,
    frames: Frames,
    earlier: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The day's evidence.

    Args:
        earlier: evidence of days before, newest first; read only as far back as needed.
    """
    found = detect(day, rules, frames)
    if champion is None:
        found = replace(found, reasons=("there is no champion yet",))
    since = drift_since(champion, day, earlier) if found.verdict == "DRIFT" else None
    return {
        "day": str(day),
        "as_of": end_of(day).isoformat(),
        "verdict": found.verdict,
        "champion": None if champion is None else {**asdict(champion), "as_of": champion.as_of.isoformat()},
        "drift": {**asdict(found), **_explained(found, rules, frames, day)},
        "drift_since": None if since is None else str(since),
        **_accuracies(rules, champion, frames, day, since),
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


def drift_since(champion: Champion | None, day: date, earlier: Iterable[Mapping[str, Any]]) -> date:
    """First day of the run of DRIFT under this champion that ends with `day`; an UNKNOWN day does not end it."""
    since = day
    for evidence in earlier:
        watched = evidence["champion"]
        if not watched or not champion or watched["version"] != champion.version:
            break
        if evidence["verdict"] == "NO DRIFT":
            break
        if evidence["verdict"] == "DRIFT":
            since = date.fromisoformat(evidence["day"])
    return since


def _accuracies(
    rules: Watching, champion: Champion | None, frames: Frames, day: date, since: date | None
) -> dict[str, Any]:
    """Accuracy of the last truth_days and since the drift began, both against the reference."""
    until, truth = end_of(day), frames.truth
    held_out = _reference_accuracy(frames.reference)
    measure = partial(_accuracy, rules.classes, champion, frames, held_out, until)
    began = None if since is None else end_of(since) - timedelta(days=1)
    fresh = 0
    if began is not None:
        photos = _captured(frames.answers, began, until)["image_id"]
        fresh = int((truth["image_id"].isin(set(photos)) & truth["label"].isin(list(rules.classes))).sum())
    return {
        "reference_accuracy": asdict(held_out),
        "lately": measure(until - timedelta(days=rules.truth_days)),
        "since_drift": None if began is None else measure(began),
        "fresh_labels": fresh,
        "labels_known": int(truth["label"].isin(list(rules.classes)).sum()),
    }


def _reference_accuracy(reference: pd.DataFrame | None) -> performance.Share:
    if reference is None:
        return performance.share(0, 0)
    known = reference[reference["label"].notna()]
    return performance.share(int((known["label"] == known["predicted"]).sum()), len(known))


def _accuracy(
    classes: Sequence[str],
    champion: Champion | None,
    frames: Frames,
    held_out: performance.Share,
    until: datetime,
    since: datetime,
) -> dict[str, Any]:
    answers = frames.answers.iloc[:0]
    if champion is not None:
        answers = _captured(frames.answers, max(since, champion.as_of), until)
        answers = answers[answers["model_version"] == champion.version]
    found = performance.measure(answers, frames.truth, classes)
    loss = performance.compare(held_out, found.accuracy)
    return {"since": since.isoformat(), "performance": asdict(found), "loss": asdict(loss)}


def _captured(answers: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    return answers[(answers["captured_at"] >= since) & (answers["captured_at"] < until)]
