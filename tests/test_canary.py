"""The canary's judge: bets that hold at any time, three gates, and how often it is right when one always looks."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.canary import MIN_SENDERS, STEP, Answers, Arm, Minute, Rules, judge, likeness
from monitoring.canary_simulation import Story, measure
from monitoring.wealth import log_wealth_above, log_wealth_below, radius
from serving.versions.tally import BOUNDS_MS

START = datetime(2026, 3, 1, tzinfo=UTC)
RULES = Rules()


def answers(share: float, *, senders: int = 400, each: int = 20) -> Answers:
    """Every sender alike: `share` of the photos right, spread evenly."""
    right = np.full(senders, int(share * each), np.int64)
    right[: round(senders * (share * each - int(share * each)))] += 1
    return Answers(right=right, rows=np.full(senders, each, np.int64))


def minutes(count: int, *, errors: int = 0, ms: float = 8.0, photos: int = 10) -> list[Minute]:
    return [
        Minute(
            at=START + timedelta(minutes=number),
            photos=photos - errors,
            errors=errors,
            latencies={4.0: photos - errors - 2, ms: 2},
        )
        for number in range(count)
    ]


def good(share: float = 0.9, **more: Any) -> Arm:
    return Arm(answers=answers(share, **more), minutes=minutes(2000))


def states(champion: Arm, canary: Arm, **rules: Any) -> dict[str, str]:
    ruling = judge(champion, canary, days=1, rules=replace(RULES, **rules))
    return {finding.gate: finding.state for finding in ruling.findings}


# ---------------------------------------------------------------------------------------------------- verdicts


def test_a_canary_that_is_as_good_on_much_evidence_is_promoted() -> None:
    ruling = judge(good(senders=4000), good(senders=1000), days=1, rules=RULES)
    assert ruling.verdict == "PROMOTE"
    assert {finding.state for finding in ruling.findings} == {"holds"}
    assert ruling.reason.startswith(
        "Accuracy is not worse: 90.0% on 20,000 photos of 1,000 senders, the champion's 90.0%"
    )


@pytest.mark.parametrize(
    ("gate", "canary"),
    [
        ("accuracy", Arm(answers=answers(0.7, senders=1000), minutes=minutes(2000))),
        ("errors", Arm(answers=answers(0.9, senders=1000), minutes=minutes(2000, errors=2))),
        ("latency", Arm(answers=answers(0.9, senders=1000), minutes=minutes(2000, ms=16.0))),
    ],
)
def test_one_broken_gate_drops_it_whatever_the_others_say(gate: str, canary: Arm) -> None:
    ruling = judge(good(senders=4000), canary, days=1, rules=RULES)
    assert ruling.verdict == "DROP"
    assert [finding.gate for finding in ruling.findings if finding.state == "broken"] == [gate]
    assert ruling.reason == next(finding.sentence for finding in ruling.findings if finding.gate == gate)


def test_too_little_evidence_goes_on_until_the_time_is_over() -> None:
    few = Arm(answers=answers(0.9, senders=30), minutes=minutes(5))
    assert judge(few, few, days=13.9, rules=RULES).verdict == "CONTINUE"
    ruling = judge(few, few, days=14, rules=RULES)
    assert (ruling.verdict, ruling.out_of_time) == ("DROP", True)
    assert ruling.reason.startswith("Out of time: 14.0 days have not decided it (at most 14). Accuracy is open:")


def test_accuracy_waits_for_enough_labels_and_enough_senders() -> None:
    champion = good(senders=1000)
    few = Arm(answers=answers(0.1, senders=9, each=11), minutes=minutes(10))
    assert states(champion, few)["accuracy"] == "open"
    assert states(champion, few, min_truth=99)["accuracy"] == "broken"
    large = Arm(answers=answers(0.1, senders=MIN_SENDERS - 1, each=1000), minutes=minutes(10))
    assert states(champion, large)["accuracy"] == "open"


def test_nothing_at_all_is_open() -> None:
    nobody = Answers(right=np.array([], np.int64), rows=np.array([], np.int64))
    ruling = judge(Arm(answers=nobody, minutes=[]), Arm(answers=nobody, minutes=[]), days=0, rules=RULES)
    assert ruling.verdict == "CONTINUE"
    assert ruling.reason == (
        "Accuracy is open: the canary has 0 labelled answers, 100 are needed. Errors are open: no minute has answers "
        "of both arms. Latency is open: not both arms have answered yet."
    )


def test_errors_that_hit_both_arms_in_the_same_minutes_tell_nothing() -> None:
    """A database that is away for an hour is not the canary's fault."""
    both = [replace(minute, errors=10, photos=0, latencies={}) for minute in minutes(60)]
    arm = Arm(answers=answers(0.9), minutes=both)
    assert states(arm, arm)["errors"] != "broken"
    alone = Arm(answers=answers(0.9), minutes=minutes(60))
    assert states(alone, arm)["errors"] == "broken"


def test_a_slower_canary_within_the_factor_holds() -> None:
    slower = Arm(answers=answers(0.9), minutes=minutes(2000, ms=8 * STEP**2))
    assert states(good(), slower)["latency"] == "holds"
    assert states(good(), slower, latency_factor=1.05)["latency"] == "broken"


def test_the_judge_knows_how_fine_the_servers_count() -> None:
    assert pairwise_ratios(BOUNDS_MS) == pytest.approx([STEP] * (len(BOUNDS_MS) - 1), rel=1e-3)


def pairwise_ratios(bounds: tuple[float, ...]) -> list[float]:
    return [after / before for before, after in pairwise(bounds)]


def test_photos_of_one_sender_are_worth_less_than_as_many_senders() -> None:
    """The same counts from few large senders prove less, even if all agree."""
    rng = np.random.default_rng(5)
    right = rng.binomial(100, 0.9, 40)
    grouped = Answers(right=right, rows=np.full(40, 100))
    single = Answers(right=np.repeat([1, 0], [right.sum(), 4000 - right.sum()]), rows=np.ones(4000, np.int64))
    champion = answers(0.9, senders=4000, each=5)
    lows = [
        judge(Arm(answers=champion, minutes=[]), Arm(answers=its, minutes=[]), days=0, rules=RULES).findings[0].low
        for its in (grouped, single)
    ]
    assert lows[0] is not None
    assert lows[1] is not None
    assert lows[0] < lows[1]


# ------------------------------------------------------------------------------------------------------- bets


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0.05, 0.95), st.integers(0, 2**32))
def test_larger_values_give_more_wealth_so_one_bet_covers_every_threshold(
    values: list[float], mean: float, seed: int
) -> None:
    smaller = np.array(values)
    larger = smaller + (1 - smaller) * np.random.default_rng(seed).random(len(values))
    first, second = log_wealth_above(np.column_stack([smaller, larger]), mean)
    assert first <= second + 1e-9


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.floats(0.05, 0.95))
def test_wealth_once_won_stays_won(values: list[float], mean: float) -> None:
    """A look later never takes a proof back."""
    column = np.array(values)[:, None]
    for bet in (log_wealth_above, log_wealth_below):
        before, after = bet(column[:-1], mean)[0], bet(column, mean)[0]
        assert 0 <= before <= after


def test_a_bet_on_what_is_not_so_wins_as_seldom_as_promised() -> None:
    """Ville's inequality on Bernoulli values with the very mean that is tested, looked at after each."""
    rng = np.random.default_rng(1)
    values = (rng.random((1500, 2000)) < 0.05).astype(float)
    for bet in (log_wealth_above, log_wealth_below):
        won = np.mean(bet(values, 0.05) >= math.log(1 / 0.05))
        assert won <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / 2000)


def test_a_bound_for_an_estimate_holds_at_any_time() -> None:
    """Means of Gaussian steps; the variance is known, so degrees of freedom are many."""
    rng = np.random.default_rng(2)
    sums = np.cumsum(rng.normal(size=(1000, 2000)), axis=0)
    counts = np.arange(1, 1001)
    bounds = np.array([radius(1 / count, 1e9, alpha=0.05, scale=0.1) for count in counts])
    outside = np.mean((sums / counts[:, None] > bounds[:, None]).any(axis=0))
    assert 0.01 < outside <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / 2000)


@given(st.floats(1e-6, 1e-2), st.floats(1.01, 10), st.floats(2, 500))
def test_a_bound_shrinks_with_the_variance_and_grows_with_doubt(variance: float, factor: float, freedom: float) -> None:
    bound = radius(variance, freedom, alpha=0.05, scale=0.02)
    assert bound > 1.64 * math.sqrt(variance), "never tighter than one look's bound"
    assert radius(variance * factor, freedom, alpha=0.05, scale=0.02) >= bound
    assert radius(variance, freedom, alpha=0.01, scale=0.02) >= bound
    assert radius(variance, freedom * factor, alpha=0.05, scale=0.02) <= bound * (1 + 1e-9)


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=1, max_size=50))
def test_likeness_is_a_share_whatever_senders_send(senders: list[tuple[int, float]]) -> None:
    rows = np.array([count for count, _ in senders])
    right = np.array([round(count * share) for count, share in senders])
    assert 0 <= likeness([Answers(right=right, rows=rows)]) <= 1


def test_likeness_is_one_where_senders_are_all_right_or_all_wrong_and_none_where_they_are_dice() -> None:
    rows = np.full(400, 10)
    same = likeness([Answers(right=np.repeat([10, 0], 200), rows=rows)])
    dice = likeness([Answers(right=np.random.default_rng(3).binomial(rows, 0.8), rows=rows)])
    assert same == pytest.approx(1)
    assert dice < 0.03


# ------------------------------------------------------------------------------------------- how often it is right


@pytest.mark.parametrize("icc", [0.0, 0.1])
def test_at_the_margin_with_a_look_after_every_batch_it_is_seldom_promoted(icc: float) -> None:
    """The worst canary that must not be promoted. The tables of `docs/canary.md` have many more stories."""
    story = Story(name="at the margin", change=-RULES.margin, icc=icc, looks=30, senders=200)
    found = measure(story, stories=80, seed=3, rules=RULES, gate="accuracy")
    # One-sided 99% of what 1 − confidence may show in 80 stories.
    assert found.promoted <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / 80)
    assert found.dropped <= 0.05


def test_a_canary_as_good_as_the_champion_is_seldom_dropped_and_a_bad_one_soon_is() -> None:
    quick: dict[str, Any] = {"looks": 10, "senders": 200, "weight": 0.5, "icc": 0.02, "minutes": 200}
    alike = measure(Story(name="alike", **quick), stories=12, seed=4, rules=RULES)
    bad = measure(Story(name="bad", change=-0.3, **quick), stories=10, seed=4, rules=RULES)
    failing = measure(Story(name="failing", failing=0.1, **quick), stories=5, seed=4, rules=RULES)
    slow = measure(Story(name="slow", slower=3.0, **quick), stories=5, seed=4, rules=RULES)
    assert alike.dropped == 0
    assert (bad.dropped, failing.dropped, slow.dropped) == (1, 1, 1)
    assert bad.looks <= 5


@pytest.mark.parametrize("gate", ["errors", "latency"])
def test_a_guard_is_seldom_taken_to_hold_at_its_margin(gate: Any) -> None:
    at: dict[str, Any] = {"failing": RULES.error_margin} if gate == "errors" else {"slower": RULES.latency_factor}
    story = Story(name=gate, looks=4, senders=20, minutes=400, **at)
    found = measure(story, stories=40, seed=6, rules=RULES, gate=gate)
    assert found.promoted <= 0.05 + 2.33 * math.sqrt(0.05 * 0.95 / 40)
    assert found.dropped <= 0.05


@pytest.mark.parametrize("gate", ["errors", "latency"])
def test_a_guard_holds_where_both_arms_do_alike(gate: Any) -> None:
    found = measure(Story(name="alike", looks=2, senders=20), stories=5, seed=6, rules=RULES, gate=gate)
    assert found.promoted == 1
