"""One world, played: the loop in memory, and beside it "every day", "never" and the hindsight oracle."""

from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cache
from typing import Any

import pandas as pd

from monitoring import policy
from monitoring.days import end_of, start_of
from monitoring.tallies import tally
from monitoring.watch import Champion, Frames, detect, earliest, watch
from monitoring.weighing import gather, stored
from pipelines.models.watching import watching_of
from pipelines.scorecard.training import Trainer, accuracy
from pipelines.scorecard.worlds import Change, World

Made = tuple[datetime, date | None]
"""A model, by what its rows were known by and the drift that asked for it, if one did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """A live day. Accuracies are hindsight's, of the model that served."""

    date: str
    since_change: int
    """0 on the first day of the change, negative before it."""
    verdict: str
    action: str
    ours: float
    never: float
    daily: float | None
    """None before the change: there it is not played."""
    oracle: float | None
    estimated: float | None = None
    """What the window's confidences said (`monitoring.estimate`); a window of one day is of `ours`."""
    foreseen: bool = False
    """Whether they said for sure that `policy.min_loss` or more is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """One world. Seconds are of fits, in CPU time; a first champion's is nobody's."""

    recipe: str
    kind: str
    change: str
    seed: int
    days: tuple[Day, ...]
    retrains: tuple[tuple[str, str], ...]
    """(day, the judge's verdict) of each training that the policy asked for."""
    seconds: float
    daily_seconds: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def play(world: World, change: Change, seed: int, candidate: Any) -> Played:
    """Play one world to its end."""
    loop = _Loop(world, Trainer(world=world, candidate=candidate))
    for number in range(world.first_live, len(world.days)):
        loop.live(number)
    others = _Others(loop)
    days = tuple(_day(world, others, loop, number) for number in range(world.first_live, len(world.days)))
    return Played(
        recipe=world.recipe.name,
        kind=change.kind,
        change=change.name,
        seed=seed,
        days=days,
        retrains=tuple(loop.retrains),
        seconds=loop.seconds,
        daily_seconds=others.seconds,
    )


def _day(world: World, others: "_Others", loop: "_Loop", number: int) -> Day:
    since = number - world.changed_on
    # What was trained at the end of the first changed day serves from the second on.
    after = world.changed_on < number if world.changed_on < len(world.days) else False
    daily, oracle = others.on(number, world.changed_on) if after else (None, None)
    verdict, action, ours, estimate = loop.told[number]
    low = estimate["loss_low"]
    return Day(
        date=str(world.days[number]),
        since_change=since,
        verdict=verdict,
        action=action,
        ours=ours,
        never=others.first_on(number),
        daily=daily,
        oracle=oracle,
        estimated=estimate["value"],
        foreseen=low is not None and low >= world.recipe.policy.min_loss,
    )


class _Loop:
    """What `classy loop` does, without its stores."""

    def __init__(self, world: World, trainer: Trainer) -> None:
        self.world, self.trainer = world, trainer
        self.rules = watching_of(world.recipe)
        self.policy = policy.Rules(**world.recipe.policy.model_dump())
        self.told: dict[int, tuple[str, str, float, dict[str, Any]]] = {}
        self.retrains: list[tuple[str, str]] = []
        self.seconds = 0.0
        self.evidence: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.answers: list[pd.DataFrame] = []
        self.generation = 0
        self.served: list[Made] = []
        self.contenders: list[Made] = []
        self._serve(end_of(world.days[world.first_live - 1]), None)

    def _roll_back(self) -> None:
        if len(self.served) > 1:
            self._serve(*self.served[-2])

    def _serve(self, as_of: datetime, drift_from: date | None) -> None:
        self.served.append((as_of, drift_from))
        self.own: list[pd.DataFrame] = []  # a window holds only photos that this champion answered
        self.fitted = self.trainer.fit(as_of, drift_from)
        self.reference = self.trainer.reference(self.fitted, as_of, drift_from)
        self.trained = self.trainer.trained(as_of, self.reference["captured_at"].min())
        self.generation += 1
        name = str(self.generation)
        self.champion = Champion(version=name, generation=self.generation, run_id=name, as_of=as_of)

    def live(self, number: int) -> None:
        day, photos = self.world.days[number], self.world.photos
        today = self.trainer.answers(self.fitted, self.trainer.of_day(number))
        right = float((today["predicted"] == today["label"]).mean())
        self.answers.append(
            today[["image_id", "source_id", "captured_at", "confidence"]].assign(
                label=today["predicted"], predicted_at=end_of(day), model_version=self.champion.version
            )
        )
        self.own.append(today)
        window = pd.concat(self.own[-self.rules.window_days :], ignore_index=True)
        truth = photos[photos["labelled_at"] <= end_of(day)]
        earlier = self.evidence[::-1]
        frames = Frames(
            reference=self.reference,
            trained=self.trained,
            window=window.drop(columns=["label", "labelled_at"], errors="ignore"),
            tally=tally(
                pd.concat(self.answers, ignore_index=True),
                truth[["image_id", "label", "labelled_at"]],
                since=start_of(earliest(self.rules, self.champion, day, earlier)),
                until=end_of(day),
                unseen_from=self.champion.as_of,
                senders_since=end_of(day),
            ),
            labels_known=int(truth["label"].isin(list(self.rules.classes)).sum()),
            doubts={},
        )
        told = detect(day, self.rules, frames)
        found = watch(day, self.rules, self.champion, frames, earlier, told)
        self.evidence.append(found)
        evidence = gather(found, self.decisions, day, self.policy)
        decision = policy.decide(evidence, self.policy)
        self.told[number] = found["verdict"], decision.action, right, found["estimate"]
        kept = stored(evidence, self.policy, decision, found)
        key = f"{decision.action.lower()}-{day}" if decision.action in ("RETRAIN", "ROLLBACK") else None
        self._row("monitor", day, decision.action, key, incident=decision.incident, evidence=kept)
        if decision.action == "RETRAIN":
            self._retrain(day, evidence.changed_since)
        if decision.action == "ROLLBACK":
            self._roll_back()

    def _row(self, kind: str, day: date, action: str, run_key: str | None, **more: Any) -> None:
        row = {"kind": kind, "action": action, "run_key": run_key, "as_of": end_of(day), "incident": None}
        self.decisions.append({**row, "evidence": None, **more})

    def _retrain(self, day: date, drift_from: date | None) -> None:
        as_of = end_of(day)
        contender = self.trainer.fit(as_of, drift_from)
        self.contenders.append((as_of, drift_from))
        self.seconds += contender.seconds
        verdict = self.trainer.verdict(contender, self.fitted, as_of, drift_from)
        self._row("judge", day, verdict, f"retrain-{day}")
        self.retrains.append((str(day), verdict))
        if verdict == "PROMOTE":
            self._serve(as_of, drift_from)


class _Others:
    """Those that ours is compared with, on the days after the change."""

    def __init__(self, loop: _Loop) -> None:
        self.trainer, self.days = loop.trainer, loop.world.days
        self.first, self.contenders = loop.served[0], loop.contenders
        self._right = cache(lambda model, number: accuracy(self.trainer, self.trainer.fit(*model), number))
        self._evenings: set[Made] = set()

    @property
    def seconds(self) -> float:
        """What the retrainings of every day took, of the days that were asked about."""
        return sum(self.trainer.fit(*model).seconds for model in self._evenings)

    def first_on(self, number: int) -> float:
        return self._right(self.first, number)

    def on(self, number: int, changed_on: int) -> tuple[float, float]:
        """Accuracy on a day of the model of the evening before, and of the best of all that there were by then."""
        evenings = [(end_of(day), None) for day in self.days[changed_on:number]]
        self._evenings.update(evenings)
        ours = [model for model in self.contenders if model[0] <= evenings[-1][0]]
        best = max(self._right(model, number) for model in [self.first, *evenings, *ours])
        return self._right(evenings[-1], number), best
