"""The facts of a day: what is bad, what cannot be told, and that chance alone names hardly anybody as missing."""

import itertools
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from monitoring.health import NAMES, SURE, Attendance, Fact, Limits, Live, Seen, facts, missing, quantile
from pipelines.health_sections import Health

LIMITS = Limits(**Health().model_dump(exclude={"history_days"}))
WEEK = (200,) * 7
LIVE = Live(photos=1000, errors=2, latencies={8.0: 600, 16.0: 385, 64.0: 15}, usual=(900,) * 7)
GOOD = Seen(
    gathered=200, usual=WEEK, quarantined=1, scored=199, defaulted=3, feature_age_days=0.0, live=LIVE,
    attendance=Attendance(senders=("a", "b"), came=np.ones((2, 8), bool)),
)  # fmt: skip


def told(seen: Seen, limits: Limits = LIMITS) -> dict[str, Fact]:
    found = facts(seen, limits)
    assert tuple(fact.name for fact in found) == NAMES
    return {fact.name: fact for fact in found}


def states(seen: Seen) -> dict[str, str]:
    return {name: fact.state for name, fact in told(seen).items()}


def attendance(*rows: str) -> Attendance:
    """`1` came, `.` did not; oldest day first."""
    came = np.array([[mark == "1" for mark in row] for row in rows])
    return Attendance(senders=tuple(f"s{number}" for number in range(len(rows))), came=came)


# --------------------------------------------------------------------------------------------------- facts


def test_a_good_day_is_ok_in_everything() -> None:
    assert set(states(GOOD).values()) == {"OK"}


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("photos", {"gathered": 59}, "59 photos came"),
        ("quarantine_rate", {"quarantined": 22}, "22 of 200 photos went to quarantine, 11.0%; the limit is 5.0%"),
        ("defaulted_rate", {"defaulted": 130}, "130 of 199 photos were answered without knowing their sender"),
        ("feature_age", {"feature_age_days": 2.0}, "the newest sender profiles are 2 days old; the limit is 1 day"),
        ("lost_days", {"lost": ("2026-03-04 (60% bad)",)}, "nothing was let through of 2026-03-04 (60% bad)"),
        ("clock", {"early_photos": 4}, "4 answers are dated before their photo was taken: some clock is wrong"),
        ("live_photos", {"live": replace(LIVE, photos=100)}, "100 photos answered live; 900 is the median of 7 days"),
        ("live_photos", {"live": Live(photos=0, errors=0, latencies={}, usual=(900,) * 7)}, "0 photos answered live"),
        ("error_rate", {"live": replace(LIVE, errors=30)}, "30 of 1030 live photos failed by the server's fault"),
        ("latency_p50", {"live": replace(LIVE, latencies={300.0: 1000})}, "answered within 300 ms; the limit is 250"),
        ("latency_p99", {"live": replace(LIVE, latencies={8.0: 980, 2000.0: 20})}, "99% of 1000 live photos"),
        ("clock", {"live": replace(LIVE, early_minutes=3)}, "3 minutes of live answers are dated before the model"),
        ("missing_senders", {"attendance": attendance("1" * 20 + "...")}, "1 sender of 1 stopped sending: s0 (3 days)"),
    ],
)  # fmt: skip
def test_what_is_bad_says_so_in_its_sentence(name: str, change: dict, sentence: str) -> None:
    fact = told(replace(GOOD, **change))[name]
    assert fact.state == "BAD"
    assert sentence in fact.sentence


def test_without_anything_everything_is_unknown_but_lost_days() -> None:
    found = told(Seen(gathered=None))
    assert {name for name, fact in found.items() if fact.state != "UNKNOWN"} == {"lost_days"}
    assert all(fact.value is None and fact.sentence for fact in found.values() if fact.state == "UNKNOWN")


def test_a_day_without_live_traffic_is_unknown_and_never_bad() -> None:
    for live in (None, Live(photos=0, errors=0, latencies={}, usual=(0,) * 7)):
        found = told(replace(GOOD, live=live))
        for name in ("live_photos", "latency_p50", "latency_p99", "error_rate"):
            assert (found[name].state, found[name].sentence) == ("UNKNOWN", "no live answers that day")


def test_a_few_live_answers_tell_no_latency_but_a_dead_server() -> None:
    few = Live(photos=5, errors=0, latencies={5000.0: 5}, usual=(900,) * 7)
    found = told(replace(GOOD, live=few))
    assert [found[name].state for name in ("latency_p50", "latency_p99", "error_rate")] == ["UNKNOWN"] * 3
    dead = told(replace(GOOD, live=replace(few, photos=0, errors=5)))
    assert dead["error_rate"].state == "BAD"


def test_a_share_above_its_limit_that_chance_explains_is_not_bad() -> None:
    fact = told(replace(GOOD, gathered=30, usual=(30,) * 7, quarantined=2))["quarantine_rate"]
    assert fact.state == "OK"
    assert fact.sentence.endswith("and so few cannot show that it is passed")


@given(rows=st.integers(1, 3000), limit=st.floats(0.005, 0.5))
def test_a_share_exactly_at_its_limit_is_bad_on_few_days(rows: int, limit: float) -> None:
    limits = replace(LIMITS, max_quarantine_rate=limit)
    bad = np.arange(rows + 1)

    def is_bad(count: int) -> bool:
        return told(replace(GOOD, gathered=rows, quarantined=int(count)), limits)["quarantine_rate"].state == "BAD"

    # Bad from some count on: find it by halving.
    low, high = 0, rows + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_bad(middle) else (middle + 1, high)
    assert binom.pmf(bad[low:], rows, limit).sum() <= SURE + 1e-9


@given(st.dictionaries(st.floats(0.25, 1e5), st.integers(1, 50), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_a_quantile_is_the_bound_below_which_that_share_lies(latencies: dict[float, int], share: float) -> None:
    found = quantile(latencies, share)
    total = sum(latencies.values())
    assert sum(count for bound, count in latencies.items() if bound <= found) >= share * total
    assert sum(count for bound, count in latencies.items() if bound < found) < share * total


# ----------------------------------------------------------------------------------------- missing senders


def test_the_chance_of_a_silence_is_exact() -> None:
    """Of all orders of a sender's days, the share that ends with at least as long a silence."""
    days, zero = 9, 4
    orders = list(itertools.combinations(range(days), zero))
    for silent in range(1, zero + 1):
        ends = sum(set(range(days - silent, days)) <= set(order) for order in orders)
        early = "." * (zero - silent)
        row = early + "1" * (days - zero) + "." * silent
        (found,) = missing(attendance(row), alarms=1.0)
        assert found.p == pytest.approx(ends / len(orders)) == pytest.approx(comb(zero, silent) / comb(days, silent))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    senders=st.integers(1, 60),
    days=st.integers(8, 29),
    alarms=st.sampled_from([0.01, 0.05]),
)
def test_chance_names_somebody_on_few_days(seed: int, senders: int, days: int, alarms: float) -> None:
    """However they send, alone or all at once, as long as the last day is like the others."""
    rng = np.random.default_rng(seed)
    came = rng.random((senders, days)) < rng.beta(0.5, 0.5, (senders, 1))
    together = bool(rng.random() < 0.5)
    names = tuple(map(str, range(senders)))
    tries = 300
    alarmed = 0
    for _ in range(tries):
        shuffled = came[:, rng.permutation(days)] if together else rng.permuted(came, axis=1)
        alarmed += bool(missing(Attendance(senders=names, came=shuffled), alarms))
    # 1 in a million of such runs may have more, were the rate exactly `alarms`.
    assert alarmed <= binom.ppf(1 - 1e-6, tries, alarms)


def test_daily_senders_are_missed_soon_and_rare_ones_never() -> None:
    daily = ["1" * 28] * 50
    assert missing(attendance("1" * 27 + ".", *daily), 0.05) != []
    assert missing(attendance("1" * 27 + ".", *daily), 0.01) == []
    (gone,) = missing(attendance("1" * 26 + "..", *daily), 0.01)
    assert (gone.sender, gone.days) == ("s0", 2)
    assert missing(attendance(*["1......" * 4] * 50), 0.05) == []


def test_a_weekend_is_no_silence() -> None:
    weekdays = "11111.." * 4
    assert missing(attendance(*[weekdays] * 20), 0.01) == []


def test_names_in_a_sentence_are_few_and_short_and_the_count_is_whole() -> None:
    came = np.ones((40, 29), bool)
    came[:, -8:] = False
    names = tuple(f"{number:02d}" + "x" * 500 for number in range(40))
    fact = told(replace(GOOD, attendance=Attendance(senders=names, came=came)))["missing_senders"]
    assert fact.value == 40
    assert len(fact.sentence) < 2000
    assert "and 20 more" in fact.sentence
