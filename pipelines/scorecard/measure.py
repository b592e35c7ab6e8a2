"""From played worlds to figures, each with a 95% interval over worlds (percentile bootstrap)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from pipelines.scorecard.play import Day, Played

COSTLY = 0.05
"""A sudden change counts as one that had to be noticed where it costs at least this much accuracy."""
LAST_DAYS = 3
"""The recovery gap is taken over so many days at a world's end."""
SETTLED = 0.02
"""A world has recovered on the first day from which on, on the average, accuracy is within this of what it was before
the change, or of the oracle's where that is less."""
DRAWS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A value and its 95% interval; None where no world tells."""

    value: float | None
    low: float | None
    high: float | None
    worlds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What worlds of one change came to. Accuracies are shares, delays are days, minutes are of CPU."""

    recipe: str
    kind: str
    change: str
    worlds: int
    cost: Figure
    """Accuracy that the change takes from a champion that is never replaced."""
    detected_within_2: Figure
    detection_delay: float | None
    """Median days from the first day of the change to the first day with DRIFT; 0 is the same day."""
    recovery_delay: float | None
    """Median days from the first day of the change to the first day of recovery; a world that never does counts as
    its length."""
    lost_to_oracle: Figure
    """Mean accuracy below the hindsight oracle, over the days after the change's first."""
    recovery_gap: Figure
    """The same over the last days."""
    short_of_before: Figure
    """Mean accuracy before the change minus that over the last days."""
    regained_vs_daily: Figure
    """Of the accuracy that a retraining every day regains over never retraining, the share that ours regains."""
    minutes_vs_daily: Figure
    """Our training time by that of a retraining every day."""
    retrains: float
    """A world."""
    refused: float
    """Contenders a world that the judge did not promote."""
    alarms_per_100: Figure
    """Windows with DRIFT by 100 windows in which nothing had changed."""
    false_retrains_per_100: Figure
    """Retrainings asked for by 100 such windows."""
    estimate_error: Figure
    """Mean distance of the estimated from the true accuracy on days before any change."""
    estimate_excess: Figure
    """Mean of the estimated minus the true accuracy on days that are COSTLY or more below those before the change."""
    foreseen: Figure
    """Share of such days on which the estimate said for sure that accuracy is lost."""
    foreseen_per_100: Figure
    """Days before any change on which it said so, by 100."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def lines_of(played: Sequence[Played]) -> list[Line]:
    """A line a recipe and change, then one a recipe and kind ("all")."""
    groups: dict[tuple[str, str, str], list[Played]] = {}
    for world in played:
        groups.setdefault((world.recipe, world.kind, world.change), []).append(world)
    for world in played:
        groups.setdefault((world.recipe, world.kind, "all"), []).append(world)
    several = {key: len({name for r, k, name in groups if (r, k) == key[:2] and name != "all"}) for key in groups}
    return [_line(*key, worlds) for key, worlds in groups.items() if key[2] != "all" or several[key] > 1]


def costly(played: Sequence[Played]) -> list[Played]:
    """The worlds whose sudden change costs COSTLY or more."""
    return [world for world in played if world.kind == "sudden" and (_cost(world) or 0.0) >= COSTLY]


def _line(recipe: str, kind: str, change: str, worlds: Sequence[Played]) -> Line:
    changed = kind != "quiet"
    delays = [delay for delay in map(_detection, worlds) if delay is not None]
    undetected = len(worlds) - len(delays)
    recoveries = [_recovery(world) for world in worlds]
    return Line(
        recipe=recipe,
        kind=kind,
        change=change,
        worlds=len(worlds),
        cost=figure(worlds, _mean(_cost)),
        detected_within_2=figure(worlds, detected_within_2) if changed else nothing(),
        detection_delay=float(median(delays)) if changed and len(delays) > undetected else None,
        recovery_delay=float(median(recoveries)) if changed else None,
        lost_to_oracle=figure(worlds, _mean(_lost)) if changed else nothing(),
        recovery_gap=figure(worlds, recovery_gap) if changed else nothing(),
        short_of_before=figure(worlds, _mean(_short)) if changed else nothing(),
        regained_vs_daily=figure(worlds, regained_vs_daily) if changed else nothing(),
        minutes_vs_daily=figure(worlds, minutes_vs_daily) if changed else nothing(),
        retrains=fmean(len(world.retrains) for world in worlds),
        refused=fmean(sum(verdict != "PROMOTE" for _, verdict in world.retrains) for world in worlds),
        alarms_per_100=figure(worlds, alarms_per_100),
        false_retrains_per_100=figure(worlds, false_retrains_per_100),
        estimate_error=figure(worlds, estimate_error),
        estimate_excess=figure(worlds, estimate_excess) if changed else nothing(),
        foreseen=figure(worlds, foreseen) if changed else nothing(),
        foreseen_per_100=figure(worlds, foreseen_per_100),
    )


# ---------------------------------------------------------------------------------------------- measures


def detected_within_2(worlds: Sequence[Played]) -> float | None:
    """Share of worlds with DRIFT on the first or second day of the change."""
    found = [_detection(world) for world in worlds]
    return fmean(delay is not None and delay < 2 for delay in found) if found else None


def recovery_gap(worlds: Sequence[Played]) -> float | None:
    """Oracle minus ours over the last LAST_DAYS days, mean over worlds."""
    gaps = [
        fmean(day.oracle - day.ours for day in days if day.oracle is not None)
        for days in (_after(world)[-LAST_DAYS:] for world in worlds)
        if days
    ]
    return fmean(gaps) if gaps else None


def regained_vs_daily(worlds: Sequence[Played]) -> float | None:
    """(ours - never) / (daily - never), of sums over the worlds' days after the change's first."""
    days = [day for world in worlds for day in _after(world)]
    won = sum(day.ours - day.never for day in days)
    could = sum((day.daily or 0.0) - day.never for day in days)
    return won / could if could > 0 else None


def minutes_vs_daily(worlds: Sequence[Played]) -> float | None:
    """Training time of ours by that of a retraining every day of the changed world."""
    daily = sum(world.daily_seconds for world in worlds)
    return sum(world.seconds for world in worlds) / daily if daily else None


def alarms_per_100(worlds: Sequence[Played]) -> float | None:
    """DRIFT in windows before any change, by 100."""
    quiet = _quiet(worlds)
    return 100 * sum(day.verdict == "DRIFT" for day in quiet) / len(quiet) if quiet else None


def false_retrains_per_100(worlds: Sequence[Played]) -> float | None:
    """Retrainings asked for in windows before any change, by 100."""
    quiet = _quiet(worlds)
    return 100 * sum(day.action == "RETRAIN" for day in quiet) / len(quiet) if quiet else None


def estimate_error(worlds: Sequence[Played]) -> float | None:
    """Mean distance of the estimated from the true accuracy, on days before any change."""
    off = [abs(day.estimated - day.ours) for day in _quiet(worlds) if day.estimated is not None]
    return fmean(off) if off else None


def estimate_excess(worlds: Sequence[Played]) -> float | None:
    """Mean of the estimated minus the true accuracy, on days that lost."""
    off = [day.estimated - day.ours for world in worlds for day in _losing(world) if day.estimated is not None]
    return fmean(off) if off else None


def foreseen(worlds: Sequence[Played]) -> float | None:
    """Share of the days that lost on which the estimate said so for sure."""
    days = [day for world in worlds for day in _losing(world)]
    return fmean(day.foreseen for day in days) if days else None


def foreseen_per_100(worlds: Sequence[Played]) -> float | None:
    """Days before any change on which the estimate said that accuracy is lost, by 100."""
    quiet = _quiet(worlds)
    return 100 * fmean(day.foreseen for day in quiet) if quiet else None


def _quiet(worlds: Sequence[Played]) -> list[Day]:
    return [day for world in worlds for day in world.days if day.since_change < 0]


def _losing(world: Played) -> list[Day]:
    """Days since the change that are COSTLY or more below those before it."""
    return [day for day in world.days if day.since_change >= 0 and day.ours <= _before(world) - COSTLY]


def _after(world: Played) -> list[Day]:
    return [day for day in world.days if day.oracle is not None]


def _cost(world: Played) -> float | None:
    before = [day.never for day in world.days if day.since_change < 0]
    after = [day.never for day in world.days if day.since_change >= 0]
    return fmean(before) - fmean(after) if before and after else None


def _detection(world: Played) -> int | None:
    return next((day.since_change for day in world.days if day.since_change >= 0 and day.verdict == "DRIFT"), None)


def _lost(world: Played) -> float | None:
    days = _after(world)
    return fmean(day.oracle - day.ours for day in days if day.oracle is not None) if days else None


def _before(world: Played) -> float:
    """Mean accuracy on the days before the change; 1 where there was none."""
    quiet = [day.ours for day in _quiet([world])]
    return fmean(quiet) if quiet else 1.0


def _short(world: Played) -> float | None:
    days = _after(world)[-LAST_DAYS:]
    return _before(world) - fmean(day.ours for day in days) if days else None


def _recovery(world: Played) -> int:
    days, before = _after(world), _before(world)
    for number, day in enumerate(days):
        left = days[number:]
        could = fmean(later.oracle for later in left if later.oracle is not None)
        if fmean(later.ours for later in left) >= min(before, could) - SETTLED:
            return day.since_change
    return len(days) + 1


def _mean(of: Callable[[Played], float | None]) -> Callable[[Sequence[Played]], float | None]:
    def mean(worlds: Sequence[Played]) -> float | None:
        known = [value for value in map(of, worlds) if value is not None]
        return fmean(known) if known else None

    return mean


# ---------------------------------------------------------------------------------------------- intervals


def figure(worlds: Sequence[Played], of: Callable[[Sequence[Played]], float | None], draws: int = DRAWS) -> Figure:
    """A measure of worlds, and its interval by drawing worlds again."""
    value = of(worlds)
    if value is None:
        return Figure(value=None, low=None, high=None, worlds=len(worlds))
    random = np.random.default_rng(0)
    again = [of([worlds[i] for i in random.integers(0, len(worlds), len(worlds))]) for _ in range(draws)]
    low, high = np.percentile([one for one in again if one is not None], [2.5, 97.5])
    return Figure(value=value, low=float(low), high=float(high), worlds=len(worlds))


def nothing() -> Figure:
    """A figure that does not apply."""
    return Figure(value=None, low=None, high=None, worlds=0)
