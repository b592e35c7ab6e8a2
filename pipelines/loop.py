"""The whole story in one screen: days arrive, a champion is made, the world changes, a contender takes over.

    classy loop                     without Airflow, in this process
    classy run                      the same story under a real Airflow and MLflow (what `make run` does)

`play` tells it to a `Stage`: `LocalStage` calls the steps itself, `AirflowStage` (`pipelines/stage/airflow_stage.py`)
lets the DAGs do it. Both end in the same tables, so both give the same summary.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from time import perf_counter
from typing import Any, Protocol

from monitoring.days import end_of
from pipelines import (
    decide,
    evaluate,
    gather,
    materialize,
    monitor,
    optimize,
    prepare,
    promote,
    queue,
    rollback,
    score,
    search,
    snapshot,
    train,
    validate,
)
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe, family_of
from pipelines.settings import Settings

FIRST = "first-champion"
"""Run key of the training that makes the first champion."""


class Stage(Protocol):
    """Who runs the steps."""

    def bring_in(self, days: list[date]) -> None:
        """Gather, validate, prepare and materialize these days."""

    def first_champion(self, known_by: datetime) -> None:
        """Train, judge and promote on what was known by then."""

    def live(self, day: date) -> None:
        """Bring a day in, score it, watch it, and retrain where that was decided; return when all is quiet."""


def play(recipe: Recipe, stage: Stage, say: Callable[[str], None]) -> list[date]:
    """Tell the recipe's story on a stage. Returns the days that were played."""
    days = story_days(recipe)
    history, ordinary = days[: recipe.story.history_days], days[recipe.story.history_days :]

    say(f"history: {history[0]} to {history[-1]}")
    stage.bring_in(history)

    say(f"first champion: trained on what was known by {end_of(history[-1]):%Y-%m-%d %H:%M}")
    stage.first_champion(end_of(history[-1]))

    for day in ordinary:
        stage.live(day)
    return days


def story_days(recipe: Recipe) -> list[date]:
    """All days of the story, history first."""
    last = recipe.story.last_day or recipe.replay.end - timedelta(days=1)
    return [recipe.replay.start + timedelta(days=n) for n in range((last - recipe.replay.start).days + 1)]


@dataclass(slots=True)
class LocalStage:
    """The steps one after the other, in this process."""

    settings: Settings
    recipe: Recipe
    tasks: int = 0
    work_s: float = 0.0
    say: Callable[[str], None] = field(default=print)

    def _do(self, step: Any, **arguments: Any) -> Any:
        started = perf_counter()
        receipt = step.run(self.settings, self.recipe, **arguments)
        self.tasks += 1
        self.work_s += perf_counter() - started
        return receipt

    def _bring_in(self, day: date) -> None:
        gathered = self._do(gather, day=day)
        validated = self._do(validate, raw_uri=gathered.raw_uri)
        if not validated.ok:
            raise ClassyError(f"{day} was refused: {'; '.join(validated.reasons)}. Quarantined: {validated.by_reason}")
        prepared = self._do(prepare, clean_uri=validated.clean_uri)
        self._do(materialize, shard_uri=prepared.shard_uri)

    def bring_in(self, days: list[date]) -> None:
        for day in days:
            self._bring_in(day)

    def first_champion(self, known_by: datetime) -> None:
        self.retrain(FIRST, known_by, reason="the first champion")

    def live(self, day: date) -> None:
        self._bring_in(day)
        if self._do(score, day=day).generation is None:
            raise ClassyError(f"{day}: there is no champion to score with; the first contender was not promoted")
        self._do(monitor, day=day)
        if not self.recipe.no_queue:
            self._do(queue, day=day)
        decided = self._do(decide, day=day)
        self.say(f"{day}: {decided.action}: {decided.reason}")
        if decided.action == "RETRAIN":
            since = date.fromisoformat(decided.drift_from) if decided.drift_from else None
            self.retrain(decided.run_key, end_of(day), reason=decided.reason, drift_from=since)
        if decided.action == "ROLLBACK":
            self._do(rollback, reason=decided.reason, actor=decide.ACTOR, run_key=decided.run_key)

    def retrain(self, run_key: str, known_by: datetime, *, reason: str, drift_from: date | None = None) -> None:
        snapped = self._do(snapshot, as_of=known_by, drift_from=drift_from)
        if not snapped.ok:
            raise ClassyError(f"not enough to learn from as of {known_by}: {'; '.join(snapped.reasons)}")
        chosen = {
            name: self._do(search, snapshot_uri=snapped.snapshot_uri, candidate=name, run_key=run_key).chosen
            for name in self.recipe.search.space
        }
        run_ids = []
        for name in self.recipe.fits:
            asked = {"candidate": name, "run_key": run_key, "chosen": chosen.get(family_of(name))}
            trained = self._do(train, snapshot_uri=snapped.snapshot_uri, **asked)
            run_ids.append(self._do(optimize, run_id=trained.run_id).run_id)
        judged = self._do(evaluate, run_ids=run_ids, snapshot_uri=snapped.snapshot_uri, run_key=run_key)
        self.say(f"judge: {judged.verdict}: {' '.join(judged.reasons)}")
        if judged.verdict == "PROMOTE":
            self._do(promote, run_key=run_key, reason=reason)
