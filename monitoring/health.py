"""How the service did on a day: facts, each OK, BAD or UNKNOWN with its sentence.

A share (errors, quarantine, defaults) is BAD when it is surely above its limit: a binomial test on the day's photos
gives less than `SURE` to what was seen. What is not there to be seen is UNKNOWN, and never OK. The exception to "a
limit is a limit" are senders: whether one is missing is told by its own past days alone (`missing`).

Pure: counts in, facts out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln
from scipy.stats import binomtest

State = Literal["OK", "BAD", "UNKNOWN"]
NAMES = (
    "photos", "live_photos", "latency_p50", "latency_p99", "error_rate", "quarantine_rate", "defaulted_rate",
    "feature_age", "lost_days", "clock", "missing_senders",
)  # fmt: skip
"""Of the facts, in their order; the only ones there are."""
SURE = 0.01
"""Chance of calling a share BAD that is exactly at its limit."""
MOST_NAMES = 20
"""Senders, or days, that a sentence names."""
LONGEST = 60
"""Characters of a sender's name that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One line about the day. `value` is None where nothing can be said; `unit` is photos, ms, share, days, …"""

    name: str
    value: float | None
    unit: str
    state: State
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The recipe's `[health]`."""

    min_days: int
    min_volume: float
    min_live: int
    max_p50_ms: float
    max_p99_ms: float
    max_error_rate: float
    max_quarantine_rate: float
    max_defaulted_rate: float
    max_feature_age_days: float
    missing_alarms: float
    max_missing: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """Live answers of a day, of all arms that answer somebody."""

    photos: int
    errors: int
    latencies: Mapping[float, int]
    """Upper bound in ms → photos answered."""
    usual: tuple[int, ...] = ()
    """Photos answered on each of the days before."""
    early_minutes: int = 0
    """Minutes that say they were before their generation was made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attendance:
    """Who sent on which day."""

    senders: tuple[str, ...]
    came: NDArray[np.bool_]
    """[senders, days], oldest day first; the last one is the day in question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was counted on a day. None: there is nothing that would say it."""

    gathered: int | None
    """Photos that came."""
    usual: tuple[int, ...] = ()
    """Photos that came on each of the days before."""
    quarantined: int | None = None
    """Photos among them that were not let through."""
    lost: tuple[str, ...] = ()
    """Days right before this one of which nothing was let through, and why."""
    scored: int | None = None
    defaulted: int = 0
    """Of the scored ones, those whose sender Feast did not know."""
    early_photos: int = 0
    """Answers dated before their photo was taken."""
    feature_age_days: float | None = None
    """From when the newest sender profiles were available to the end of the day."""
    live: Live | None = None
    attendance: Attendance | None = None


def facts(seen: Seen, limits: Limits) -> list[Fact]:
    """All facts of a day, one for each of NAMES."""
    live = seen.live
    return [
        _photos(seen, limits),
        _live_photos(live, limits),
        _latency("latency_p50", 0.5, limits.max_p50_ms, live, limits),
        _latency("latency_p99", 0.99, limits.max_p99_ms, live, limits),
        _errors(live, limits),
        _quarantine(seen, limits),
        _defaulted(seen, limits),
        _feature_age(seen, limits),
        _lost_days(seen),
        _clock(seen),
        _missing(seen.attendance, limits),
    ]


# ---------------------------------------------------------------------------------------------- throughput


def _photos(seen: Seen, limits: Limits) -> Fact:
    if seen.gathered is None:
        return _unknown("photos", "photos", "the day was not gathered")
    scored = "none of them scored" if seen.scored is None else f"{seen.scored} scored"
    return _volume("photos", f"{seen.gathered} photos came, {scored}", seen.gathered, seen.usual, limits)


def _live_photos(live: Live | None, limits: Limits) -> Fact:
    if live is None:
        return _unknown("live_photos", "photos", "no live answers that day")
    if not live.photos and (len(live.usual) < limits.min_days or median(live.usual) < limits.min_live):
        return _unknown("live_photos", "photos", "no live answers that day")
    return _volume("live_photos", f"{live.photos} photos answered live", live.photos, live.usual, limits)


def _volume(name: str, said: str, count: int, usual: Sequence[int], limits: Limits) -> Fact:
    if len(usual) < limits.min_days:
        why = f"{said}; {_days(len(usual))} to compare with, {limits.min_days} are needed (health.min_days)"
        return Fact(name=name, value=count, unit="photos", state="UNKNOWN", sentence=why)
    middle = median(usual)
    least = limits.min_volume * middle
    said = f"{said}; {middle:g} is the median of {_days(len(usual))}"
    if count < least:
        said = f"{said}, and less than {limits.min_volume:.0%} of it came (health.min_volume)"
    return Fact(name=name, value=count, unit="photos", state="BAD" if count < least else "OK", sentence=said)


# ------------------------------------------------------------------------------------------- live answers


def quantile(latencies: Mapping[float, int], share: float) -> float:
    """Upper bound in ms of the bucket that holds the quantile.

    Args:
        latencies: upper bound → photos; at least one photo.
    """
    wanted, sofar = share * sum(latencies.values()), 0
    for bound, count in sorted(latencies.items()):
        sofar += count
        if sofar >= wanted:
            return bound
    raise ValueError("no photos in the histogram")


def _latency(name: str, share: float, limit: float, live: Live | None, limits: Limits) -> Fact:
    if live is None or not live.photos:
        return _unknown(name, "ms", "no live answers that day")
    if live.photos < limits.min_live:
        return _unknown(name, "ms", f"{live.photos} live answers, {limits.min_live} are needed (health.min_live)")
    found = quantile(live.latencies, share)
    said = f"{share:.0%} of {live.photos} live photos were answered within {found:g} ms; the limit is {limit:g} ms"
    return Fact(name=name, value=found, unit="ms", state="BAD" if found > limit else "OK", sentence=said)


def _errors(live: Live | None, limits: Limits) -> Fact:
    asked = 0 if live is None else live.photos + live.errors
    if live is None or not asked:
        return _unknown("error_rate", "share", "no live answers that day")
    what = f"{live.errors} of {asked} live photos failed by the server's fault"
    return _share("error_rate", live.errors, asked, limits.max_error_rate, what, least=limits.min_live)


# ---------------------------------------------------------------------------------------- photos that came


def _quarantine(seen: Seen, limits: Limits) -> Fact:
    if seen.quarantined is None or not seen.gathered:
        why = "no photos came" if seen.gathered == 0 else "the day was not validated"
        return _unknown("quarantine_rate", "share", why)
    bad = min(seen.quarantined, seen.gathered)
    what = f"{bad} of {seen.gathered} photos went to quarantine"
    return _share("quarantine_rate", bad, seen.gathered, limits.max_quarantine_rate, what)


def _defaulted(seen: Seen, limits: Limits) -> Fact:
    if not seen.scored:
        return _unknown("defaulted_rate", "share", "no photos were scored")
    what = f"{seen.defaulted} of {seen.scored} photos were answered without knowing their sender"
    return _share("defaulted_rate", seen.defaulted, seen.scored, limits.max_defaulted_rate, what)


def _feature_age(seen: Seen, limits: Limits) -> Fact:
    age, limit = seen.feature_age_days, limits.max_feature_age_days
    if age is None:
        return _unknown("feature_age", "days", "no sender profiles were ever brought online")
    said = f"at the end of the day the newest sender profiles are {_days(age)} old; the limit is {_days(limit)}"
    return Fact(name="feature_age", value=age, unit="days", state="BAD" if age > limit else "OK", sentence=said)


def _lost_days(seen: Seen) -> Fact:
    count = len(seen.lost)
    said = "the day before was let through"
    if count:
        said = f"nothing was let through of {_listed(seen.lost)}"
    return Fact(name="lost_days", value=count, unit="days", state="BAD" if count else "OK", sentence=said)


def _clock(seen: Seen) -> Fact:
    early = seen.live.early_minutes if seen.live else 0
    if seen.scored is None and seen.live is None:
        return _unknown("clock", "jumps", "no answers that day")
    told = []
    if seen.early_photos:
        told.append(f"{seen.early_photos} answers are dated before their photo was taken")
    if early:
        told.append(f"{early} minutes of live answers are dated before the model that gave them was deployed")
    jumps = seen.early_photos + early
    said = " and ".join(told) + ": some clock is wrong" if told else "no answer is dated before its photo or its model"
    return Fact(name="clock", value=jumps, unit="jumps", state="BAD" if jumps else "OK", sentence=said)


# ------------------------------------------------------------------------------------------ missing senders


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A sender that stopped: so many days silent up to this one, which chance does with `p`."""

    sender: str
    days: int
    p: float


def missing(attendance: Attendance, alarms: float) -> list[Missing]:
    """Senders that stopped, the least likely first.

    Let a sender's days be alike (exchangeable: any order of them as likely), in whatever way it sends: daily, in
    bursts, now and then. It was silent on z of n days; that the last g days are all among these has the chance
    C(z, g) / C(n, g), exactly. No distribution is assumed and nothing is estimated. Senders are corrected for by
    Tarone's method (1990), which is Bonferroni without those whose silent days are too few to be named however
    they lie: all senders together are named without cause on at most a share `alarms` of days.

    Args:
        alarms: chance that anybody is named on a day when all send as they used to.
    """
    came = attendance.came
    count, days = came.shape
    if not count or not days:
        return []
    zero = days - came.sum(axis=1)
    silent = np.where(zero == days, days, np.argmax(came[:, ::-1], axis=1))
    chance = _choose(zero, silent) - _choose(np.full(count, days), silent)
    least = np.sort(-_choose(np.full(count, days), zero))
    limit = np.log(alarms / _tested(least, alarms))
    # Who was never seen at all is nobody.
    named = np.flatnonzero((silent > 0) & (zero < days) & (chance <= limit + 1e-12))
    found = [Missing(sender=attendance.senders[i], days=int(silent[i]), p=float(np.exp(chance[i]))) for i in named]
    return sorted(found, key=lambda one: (one.p, one.sender))


def _tested(least: NDArray[np.float64], alarms: float) -> int:
    """Tarone's number: the smallest k such that at most k senders could ever reach `alarms / k`.

    Args:
        least: logarithm of the smallest p that each could have, sorted.
    """
    for k in range(1, len(least) + 1):
        if np.searchsorted(least, np.log(alarms / k) + 1e-12, side="right") <= k:
            return k
    return len(least)


def _choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithm of n choose k."""
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _missing(attendance: Attendance | None, limits: Limits) -> Fact:
    name = "missing_senders"
    if attendance is None:
        return _unknown(name, "senders", "no photos came, or from nobody with a name")
    days = attendance.came.shape[1]
    if days - 1 < limits.min_days:
        why = f"{_days(days - 1)} to compare with, {limits.min_days} are needed (health.min_days)"
        return _unknown(name, "senders", why)
    gone = missing(attendance, limits.missing_alarms)
    rate = f"chance names anybody on {limits.missing_alarms:.1%} of days at most"
    said = f"none of {len(attendance.senders)} senders has stopped; {rate}"
    if gone:
        who = [f"{one.sender[:LONGEST]} ({_days(one.days)})" for one in gone]
        some = "sender" if len(gone) == 1 else "senders"
        said = f"{len(gone)} {some} of {len(attendance.senders)} stopped sending: {_listed(who)}; {rate}"
    state: State = "BAD" if len(gone) > limits.max_missing else "OK"
    return Fact(name=name, value=len(gone), unit="senders", state=state, sentence=said)


# ------------------------------------------------------------------------------------------------- shared


def _unknown(name: str, unit: str, why: str) -> Fact:
    return Fact(name=name, value=None, unit=unit, state="UNKNOWN", sentence=why)


def _share(name: str, bad: int, rows: int, limit: float, what: str, *, least: int = 1) -> Fact:
    """A share against its limit. Fewer than `least` rows can be surely bad, and never OK."""
    above = binomtest(bad, rows, limit, alternative="greater").pvalue <= SURE
    said = f"{what}, {bad / rows:.1%}; the limit is {limit:.1%}"
    if not above and rows < least:
        return _unknown(name, "share", f"{said}; {least} are needed to tell (health.min_live)")
    if not above and bad > limit * rows:
        said += ", and so few cannot show that it is passed"
    return Fact(name=name, value=bad / rows, unit="share", state="BAD" if above else "OK", sentence=said)


def _days(count: float) -> str:
    return f"{count:g} {'day' if count == 1 else 'days'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
