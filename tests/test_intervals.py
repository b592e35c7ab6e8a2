"""Bounds and exact tests that know of senders: what must hold whatever the numbers are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar

from monitoring.intervals import (
    MOST_CLUSTERS,
    accuracy_bounds,
    bootstrap,
    cluster_numbers,
    one_sided_mcnemar,
    paired_test,
    ratio,
    score_interval,
    sign_flip,
    tally,
)

seeds = st.integers(0, 2**31)


def mean_sums(values: np.ndarray, senders: np.ndarray) -> np.ndarray:
    clusters, none = cluster_numbers(senders.astype(str)), np.zeros(len(values), np.int64)
    return np.hstack([tally(clusters, none, 1, values), tally(clusters, none, 1)])


def bounds(values: np.ndarray, senders: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    return bootstrap(mean_sums(values, senders), ratio, confidence=confidence, resamples=500)


# ---------------------------------------------------------------------------------------------- bootstrap


@given(seeds, st.integers(1, 80), st.integers(1, 20), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_the_point_is_inside_and_a_constant_moves_point_and_bounds_alike(
    seed: int, rows: int, senders: int, constant: float
) -> None:
    rng = np.random.default_rng(seed)
    values, who = rng.normal(size=rows), rng.integers(0, senders, rows)
    low, high = bounds(values, who)
    assert low <= values.mean() + 1e-12
    assert values.mean() - 1e-12 <= high
    assert bounds(values + constant, who) == pytest.approx((low + constant, high + constant), abs=1e-6)
    assert bounds(-values, who) == pytest.approx((-high, -low), abs=1e-6)


@given(seeds, st.integers(2, 20))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_rows_does_not_matter(seed: int, senders: int) -> None:
    rng = np.random.default_rng(seed)
    values, who = rng.normal(size=60), np.append(np.arange(senders), rng.integers(0, senders, 60 - senders))
    order = rng.permutation(60)
    assert bounds(values[order], who[order]) == pytest.approx(bounds(values, who), abs=1e-9)


@given(seeds, st.integers(2, 20))
@settings(max_examples=20, deadline=None)
def test_more_confidence_is_a_wider_interval(seed: int, senders: int) -> None:
    rng = np.random.default_rng(seed)
    values, who = rng.normal(size=60), rng.integers(0, senders, 60)
    (low, high), (lower, higher) = bounds(values, who, 0.8), bounds(values, who, 0.99)
    assert lower - 1e-9 <= low <= high <= higher + 1e-9


def test_rows_that_are_all_alike_have_no_spread() -> None:
    assert bounds(np.full(30, 0.25), np.arange(30) % 5) == (0.25, 0.25)
    assert bounds(np.array([0.7]), np.array([1])) == (0.7, 0.7)


def test_a_single_sender_is_resampled_by_photo() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert bounds(values, np.zeros(50)) == bounds(values, np.arange(100, 150))


def test_photos_of_one_sender_count_as_less_than_as_many_senders() -> None:
    rng = np.random.default_rng(3)
    by_sender = np.repeat(rng.choice([1.0, -1.0, 0.0], 20, p=[0.5, 0.2, 0.3]), 10)
    together, apart = bounds(by_sender, np.repeat(np.arange(20), 10)), bounds(by_sender, np.arange(200))
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])


def test_very_many_senders_are_resampled_in_groups_as_widely() -> None:
    values = np.random.default_rng(4).normal(size=3 * MOST_CLUSTERS)
    low, high = bounds(values, np.arange(len(values)))
    error = values.std() / np.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(norm.ppf(0.95) * error, rel=0.1)


@pytest.mark.parametrize("senders", [6, 25])
def test_a_bound_over_few_senders_holds_about_as_often_as_it_says(senders: int) -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        effects = np.repeat(rng.normal(size=senders), 4)
        held += bounds(effects + rng.normal(size=4 * senders), np.repeat(np.arange(senders), 4))[0] <= 0
    assert held / 200 >= 0.91


# -------------------------------------------------------------------------------------------- score interval


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
@settings(deadline=None)
def test_the_score_interval_agrees_with_mcnemars_test_and_mirrors(wins: int, losses: int, same: int) -> None:
    rows = wins + losses + same + 1
    low, high = score_interval(wins, losses, rows, confidence=0.95)
    assert -1 <= low <= (wins - losses) / rows <= high <= 1
    assert score_interval(losses, wins, rows, confidence=0.95) == pytest.approx((-high, -low), abs=1e-9)
    if wins + losses:
        # Without continuity correction the test of "no difference" is the same statistic.
        z = (wins - losses) / np.sqrt(wins + losses)
        assert (low > 1e-9) == (z > norm.ppf(0.95)) or z == pytest.approx(norm.ppf(0.95), abs=1e-6)


@pytest.mark.parametrize("rows", [1, 20, 150, 3000])
def test_rows_without_a_difference_do_not_show_that_there_is_none(rows: int) -> None:
    z2, right = norm.ppf(0.95) ** 2, np.ones(rows, bool)
    assert score_interval(0, 0, rows, confidence=0.95)[0] == pytest.approx(-z2 / (rows + z2), abs=1e-9)
    clusters = np.arange(rows) % 7
    assert accuracy_bounds(right, right, clusters, confidence=0.95)[0] == pytest.approx(-z2 / (rows + z2), abs=1e-9)


def test_the_bounds_hold_as_often_as_they_say() -> None:
    rng, truth, held = np.random.default_rng(0), 0.05, 0
    for _ in range(2000):
        wins, losses, _same = rng.multinomial(120, [0.10, 0.05, 0.85])
        held += score_interval(int(wins), int(losses), 120, confidence=0.95)[0] <= truth
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


# ----------------------------------------------------------------------------------------------- exact tests


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_one_sided_test_is_half_of_the_exact_two_sided_one(wins: int, losses: int) -> None:
    p = one_sided_mcnemar(wins, losses)
    two_sided = float(mcnemar([[0, wins], [losses, 0]], exact=True).pvalue) if wins + losses else 1.0
    if wins > losses:
        assert p == pytest.approx(two_sided / 2)
    else:
        assert p >= 0.5


@given(st.integers(0, 40), st.integers(0, 40))
def test_with_one_photo_a_sender_the_test_over_senders_is_mcnemars(wins: int, losses: int) -> None:
    net = np.repeat([1, -1, 0], [wins, losses, 3])
    assert sign_flip(net) == pytest.approx(one_sided_mcnemar(wins, losses), abs=1e-12)


@given(st.lists(st.integers(-6, 6), max_size=9))
def test_the_test_over_senders_counts_every_arrangement_of_signs(net: list[int]) -> None:
    moved = [value for value in net if value]
    sums = [sum(sign * abs(value) for sign, value in zip(signs, moved, strict=True))
            for signs in product((1, -1), repeat=len(moved))]  # fmt: skip
    assert sign_flip(np.array(net, np.int64)) == pytest.approx(np.mean([total >= sum(net) for total in sums]))


def test_many_photos_of_few_senders_are_no_proof() -> None:
    ours, theirs = np.ones(60, bool), np.zeros(60, bool)
    assert paired_test(ours, theirs, np.arange(60) % 6, confidence=0.95) == 0.5**6
    assert paired_test(ours, theirs, np.arange(60), confidence=0.95) == pytest.approx(0.5**60)
    # Of four senders no outcome is rarer than one in sixteen: photos are all there is.
    assert paired_test(ours, theirs, np.arange(60) % 4, confidence=0.95) == pytest.approx(0.5**60)


def test_where_a_sender_fails_as_a_whole_the_test_over_senders_is_seldom_fooled() -> None:
    rng, over_photos, over_senders = np.random.default_rng(2), 0, 0
    for _ in range(400):
        won = np.repeat(rng.random(20) < 0.5, 5)
        over_photos += one_sided_mcnemar(int(won.sum()), int((~won).sum())) <= 0.05
        over_senders += paired_test(won, ~won, np.repeat(np.arange(20), 5), confidence=0.95) <= 0.05
    assert over_senders / 400 <= 0.06 < 0.15 <= over_photos / 400
