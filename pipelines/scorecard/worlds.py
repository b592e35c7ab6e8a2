"""One world: a recipe's photos dealt to days, labels to delays, and a change from a day on."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo.definitions import context
from monitoring.days import end_of
from pipelines.data.profiles import source_profile
from pipelines.data.senders import NOTHING
from pipelines.recipe import Recipe
from pipelines.scorecard.album import AS_IT_IS, Album, Look
from pipelines.sections import Scenario
from pipelines.sources.base import seed_of
from pipelines.sources.replay import replayed
from pipelines.sources.scenarios import changed_rows
from serving.pictures import STATS

Kind = Literal["quiet", "sudden", "slow", "label_shift"]
SLOW_STEPS = 5
"""A slow change has its full strength after so many days, in equal steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What happens to a world on the recipe's day of change."""

    kind: Kind
    name: str
    looks: tuple[Look, ...] = ()
    """Of the first, second, … day; the last one stays."""
    class_mix: float = 0.0
    """Exponent of the skew of a changed class mix."""


def changes_of(recipe: Recipe) -> tuple[Change, ...]:
    """The changes that a recipe's worlds are played with."""
    sudden: list[Look] = [("darker", 0.5), ("darker", 0.75), ("inverted", 1.0), ("rotated", 90.0)]
    slow: list[Look] = [("darker", 0.75)]
    if recipe.source.kind == "digits":
        sudden = [("rotated", 30.0), ("rotated", 60.0), ("darker", 0.6), ("blurred", 1.2), ("inverted", 1.0)]
        slow = [("rotated", 60.0)]
    return (
        Change(kind="quiet", name="nothing"),
        *(Change(kind="sudden", name=f"{kind} {amount:g}", looks=((kind, amount),)) for kind, amount in sudden),
        *(Change(kind="slow", name=f"slowly {k} {a:g}", looks=_steps(k, a)) for k, a in slow),
        Change(kind="label_shift", name="class mix 1", class_mix=1.0),
    )


def _steps(kind: str, amount: float) -> tuple[Look, ...]:
    return tuple((kind, round(amount * step / SLOW_STEPS, 4)) for step in range(1, SLOW_STEPS + 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Photos by captured_at. Element i of each array is about row i."""

    recipe: Recipe
    album: Album
    photos: pd.DataFrame
    """image_id, source_id, group_id, label, captured_at, labelled_at, photo (its row in the album), look, day."""
    context: NDArray[np.float32]
    """[N, F], what the loop's features say at the photo's time."""
    defaulted: NDArray[np.bool_]
    stats: NDArray[np.float32]
    days: tuple[date, ...]
    """All days of the story, history first."""
    changed_on: int
    """Position in `days` of the first day of the change; len(days) in a quiet world."""

    @property
    def first_live(self) -> int:
        return self.recipe.story.history_days


def make_world(recipe: Recipe, album: Album, change: Change, seed: int) -> World:
    """Deal the album's photos. The same seed gives the same deal, whatever the change is."""
    last = recipe.story.last_day or recipe.replay.end - timedelta(days=1)
    days = tuple(recipe.replay.start + timedelta(days=n) for n in range((last - recipe.replay.start).days + 1))
    middle = (recipe.story.history_days + len(days)) // 2
    day_of_change = recipe.drift_from or days[middle]
    rows = album.rows.assign(photo=np.arange(len(album.rows)))
    rows = replayed(rows, recipe.replay.model_copy(update={"seed": seed_of("scorecard", seed) % 2**31}))
    if change.class_mix:
        mix = Scenario.model_validate({"kind": "class_mix", "from": day_of_change, "amount": change.class_mix})
        rows = changed_rows(rows, [mix], recipe.taxonomy.classes, seed)
    rows["day"] = (rows["captured_at"].dt.normalize() - pd.Timestamp(days[0], tz="UTC")).dt.days
    rows = rows[rows["day"] < len(days)].reset_index(drop=True)
    changed_on = len(days) if change.kind == "quiet" else days.index(day_of_change)
    rows["look"] = [_look(album, change, day - changed_on) for day in rows["day"]]
    stats = np.stack([album.stats[look][photo] for look, photo in zip(rows["look"], rows["photo"], strict=True)])
    told, defaulted = _context(recipe, rows, stats, days)
    return World(
        recipe=recipe,
        album=album,
        photos=rows,
        context=told,
        defaulted=defaulted,
        stats=stats,
        days=days,
        changed_on=changed_on,
    )


def _look(album: Album, change: Change, since: int) -> int:
    if since < 0 or not change.looks:
        return album.looks.index(AS_IT_IS)
    return album.looks.index(change.looks[min(since, len(change.looks) - 1)])


def _context(
    recipe: Recipe, rows: pd.DataFrame, stats: NDArray[np.float32], days: tuple[date, ...]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What Feast would say at each photo's time: the newest profile of its sender, made at the end of a day."""
    seen = rows.assign(brightness=stats[:, STATS.index("brightness")], sharpness=stats[:, STATS.index("sharpness")])
    told: list[list[float]] = []
    defaulted: list[bool] = []
    profiles: dict[str, Mapping[str, Any]] = {}
    for number, day in enumerate(days):
        at = np.flatnonzero(rows["day"].to_numpy() == number)
        known = [profiles.get(source, NOTHING) for source in rows["source_id"].iloc[at]]
        inputs: dict[str, list[Any]] = {name: stats[at, i].tolist() for i, name in enumerate(STATS)}
        inputs |= {name: [one[name] for one in known] for name in ("photos", "label_share", "class_mix")}
        found = context(inputs, STATS, len(recipe.taxonomy.classes))
        told += found["context"]
        defaulted += found["defaulted"]
        profiles |= _profiles(recipe, seen, end_of(day))
    return np.asarray(told, np.float32), np.asarray(defaulted, bool)


def _profiles(recipe: Recipe, seen: pd.DataFrame, as_of: datetime) -> dict[str, Mapping[str, Any]]:
    start = as_of - timedelta(days=recipe.features.profile_days)
    window = seen[(seen["captured_at"] >= start) & (seen["captured_at"] < as_of)]
    truth = seen[seen["labelled_at"] <= as_of]
    table = source_profile(
        window[["image_id", "source_id", "brightness", "sharpness"]],
        truth,
        classes=recipe.taxonomy.classes,
        as_of=as_of,
    )
    return {row["source_id"]: row for row in table.to_pylist()}
