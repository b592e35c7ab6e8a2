"""What the story came to: one row a day, when the change was noticed and answered, and what it cost.

Accuracy is hindsight's: all photos of a day against the source's own labels, also those that have not
arrived yet. The loop itself never sees these.
"""

import json
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any

import fsspec

from monitoring.days import end_of
from monitoring.stores import Store
from pipelines.loop import FIRST, story_days
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.sources import open_source

RECOVERED_SHARE = 0.5
"""A day has recovered when at least this share of the lost accuracy is back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    date: str
    photos: int
    accuracy: float | None
    drift: str | None
    action: str | None
    reason: str | None
    champion: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """`var/loop/summary.json`. Accuracies are shares; `*_on` are dates or null; seconds are wall-clock."""

    recipe: str
    closed: bool
    missing: list[str]
    drift_from: str | None
    detected_on: str | None
    retrained_on: str | None
    recovered_on: str | None
    accuracy_before: float | None
    accuracy_drifted: float | None
    accuracy_after: float | None
    false_retrains: int
    tasks: int
    wall_s: float
    work_s: float
    days: list[Day]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(settings: Settings, recipe: Recipe, store: Store, *, tasks: int, wall_s: float, work_s: float) -> Summary:
    """Read the tables and the source's hindsight truth into a `Summary`."""
    truth = _truth(settings, recipe)
    days = [_day(store, day, truth) for day in story_days(recipe)]
    changed = recipe.drift_from
    trained = [d for d in store.decisions("monitor") if d["action"] == "RETRAIN"]
    promoted = [row for row in store.generations() if row["kind"] == "promote" and row["run_key"] != FIRST]
    answered = {row["run_key"] for row in promoted}
    before = [d for d in days if d.accuracy is not None and (changed is None or d.date < str(changed))]
    drifted = [d for d in days if d.accuracy is not None and changed is not None and d.date >= str(changed)]
    retrain = next((d for d in trained if changed and d["as_of"] >= end_of(changed) and d["run_key"] in answered), None)
    # A decision about day D is made at its end: the contender serves from D+1 on.
    retrained_on = str((retrain["as_of"] - timedelta(days=1)).date()) if retrain else None
    lost = [d for d in drifted if retrained_on is None or d.date <= retrained_on]
    after = [d for d in drifted if retrained_on is not None and d.date > retrained_on]
    high, low, again = _accuracy(before), _accuracy(lost), _accuracy(after)
    line = None if high is None or low is None else low + RECOVERED_SHARE * (high - low)
    recovered = next((d.date for d in after if line is not None and (d.accuracy or 0) >= line), None)
    detected = next((d.date for d in drifted if d.drift == "DRIFT"), None)
    false = sum(changed is None or d["as_of"] < end_of(changed) for d in trained)
    missing = [
        what
        for what, there in {
            "no first champion": any(row["run_key"] == FIRST for row in store.generations()),
            "the change was not detected": changed is None or detected is not None,
            "no contender was promoted after it": changed is None or retrained_on is not None,
            "accuracy did not recover": changed is None or recovered is not None,
            f"{false} retrainings before the change": false == 0,
        }.items()
        if not there
    ]
    return Summary(
        recipe=recipe.name,
        closed=not missing,
        missing=missing,
        drift_from=str(changed) if changed else None,
        detected_on=detected,
        retrained_on=retrained_on,
        recovered_on=recovered,
        accuracy_before=high,
        accuracy_drifted=low,
        accuracy_after=again,
        false_retrains=false,
        tasks=tasks,
        wall_s=round(wall_s, 1),
        work_s=round(work_s, 1),
        days=days,
    )


def _truth(settings: Settings, recipe: Recipe) -> dict[str, str]:
    plan = open_source(recipe, settings).plan()
    known = plan[plan["label"].notna()]
    resolved = (
        (image, recipe.taxonomy.resolve(label)) for image, label in zip(known["image_id"], known["label"], strict=True)
    )
    return {image: label for image, label in resolved if label is not None}


def _day(store: Store, day: date, truth: dict[str, str]) -> Day:
    until = end_of(day)
    # A photo may be scored again by a later generation; what was answered on the day is the first.
    scored = store.predictions(since=until - timedelta(days=1), until=until)
    scored = scored.sort_values("generation").drop_duplicates("image_id")
    known = scored[scored["image_id"].isin(truth.keys())]
    right = [truth[image] == label for image, label in zip(known["image_id"], known["label"], strict=True)]
    decided = store.decision(f"monitor-{day}")
    return Day(
        date=str(day),
        photos=len(scored),
        accuracy=round(sum(right) / len(right), 4) if right else None,
        drift=_drift(decided),
        action=decided["action"] if decided else None,
        reason=decided["reason"] if decided else None,
        champion=str(scored["model_version"].iloc[0]) if len(scored) else None,
    )


def _drift(decided: dict[str, Any] | None) -> str | None:
    if decided is None or decided["evidence_uri"] is None:
        return None
    fs, path = fsspec.url_to_fs(decided["evidence_uri"])
    return json.loads(fs.cat_file(path))["verdict"]


def _accuracy(days: list[Day]) -> float | None:
    """Mean over days, weighted by photos."""
    photos = sum(day.photos for day in days)
    return round(sum((day.accuracy or 0) * day.photos for day in days) / photos, 4) if photos else None
