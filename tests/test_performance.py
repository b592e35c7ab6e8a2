"""Accuracy on labels that come late and with gaps, and losses between labels of the same age."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from monitoring.performance import (
    LOSS_ALPHA,
    breakdown,
    by_age,
    compare,
    compare_alike,
    judged,
    measure,
    most_lost,
    share,
    stratum,
)
from monitoring.tallies import GROUPS

CLASSES = ("cat", "dog", "cow")
DAY = date(2026, 3, 2)


def counts(*rows: tuple[str | None, str | None], **changed: object) -> pd.DataFrame:
    """A tally of (said, truth), each one photo."""
    plain = {"captured_on": DAY, "labelled_on": DAY, "version": "1", "again": False, "unseen": True, "early": False,
             "picked": False,
             "source_id": "ann", "rows": 1}  # fmt: skip
    found = [{**plain, "said": said, "label": label, **changed} for said, label in rows]
    return pd.DataFrame(found, columns=[*GROUPS, "rows"])


def test_only_photos_with_truth_count() -> None:
    found = measure(counts(("cat", "cat"), ("dog", "cat"), (None, None), (None, None)), CLASSES)
    assert (found.accuracy.rows, found.accuracy.correct, found.accuracy.value) == (2, 1, 0.5)
    assert (found.photos, found.coverage) == (4, 0.5)
    assert {name: (s.correct, s.rows) for name, s in found.by_class.items()} == {"cat": (1, 2)}


def test_truth_that_cannot_be_judged_is_left_out() -> None:
    found = measure(pd.concat([counts(("cat", "cat"), ("dog", "zebra")), counts(("cat", "dog"), early=True)]), CLASSES)
    assert (found.accuracy.rows, found.accuracy.correct, found.coverage) == (1, 1, 1 / 3)


@pytest.mark.parametrize("rows", [(), ((None, None),)])
def test_without_labels_there_is_no_accuracy(rows: tuple) -> None:
    found = measure(counts(*rows), CLASSES)
    assert (found.accuracy.value, found.by_class) == (None, {})
    assert found.coverage == (0.0 if rows else None)


def test_who_is_affected_comes_worst_first() -> None:
    parts = [
        counts(*[("cat", "cat")] * 6, source_id="good"), counts(*[("dog", "cat")] * 6, source_id="bad"),
        counts(*[("dog", "dog")] * 4, source_id="few"), counts(("cow", "cow"), version="2", source_id="good"),
    ]  # fmt: skip
    found = [(row["by"], row["name"], row["correct"], row["rows"]) for row in breakdown(pd.concat(parts), CLASSES, "1")]
    assert found == [
        ("version", "1", 10, 16), ("version", "2", 1, 1),
        ("class", "cat", 6, 12), ("class", "dog", 4, 4),
        ("sender", "bad", 0, 6), ("sender", "good", 6, 6),
    ]  # fmt: skip


def test_wilson_interval_as_published() -> None:
    """Newcombe 1998, table I: 81 of 263, Wilson without continuity correction."""
    found = share(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_more_right_than_rows_is_a_bug() -> None:
    with pytest.raises(ValueError, match="3 correct of 2"):
        share(3, 2)


def test_a_loss_counts_both_samples() -> None:
    """70% against 85%: sure where both are large, not where the reference is small."""
    assert compare(share(340, 400), share(140, 200)).significant
    assert not compare(share(17, 20), share(14, 20)).significant
    assert compare(share(17, 20), share(14, 20)).loss == pytest.approx(0.15)


def test_a_gain_is_no_loss() -> None:
    found = compare(share(70, 100), share(190, 200))
    assert found.loss is not None
    assert found.loss < 0
    assert not found.significant


def test_the_most_that_may_be_lost_as_published() -> None:
    """Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10: 56/70 and 48/80 give 0.0524 to 0.3339."""
    assert most_lost(share(56, 70), share(48, 80)) == pytest.approx(0.3339, abs=5e-5)
    assert most_lost(share(10, 10), share(0, 20)) == pytest.approx(1.0, abs=5e-5)
    assert most_lost(share(0, 0), share(1, 2)) is most_lost(share(1, 2), share(0, 0)) is None


def test_nothing_is_said_without_rows() -> None:
    for reference, current in ((share(0, 0), share(5, 9)), (share(5, 9), share(0, 0))):
        found = compare(reference, current)
        assert (found.loss, found.p, found.significant) == (None, None, False)


def test_labels_of_one_age_are_compared_with_labels_of_that_age() -> None:
    """Labels that come at once are of easy photos. A window that has no others has lost nothing."""
    aged = {0: share(190, 200), 2: share(120, 200)}
    soon = {0: share(57, 60)}
    assert compare(share(310, 400), share(57, 60)).loss == pytest.approx(-0.175), "both ages thrown together: a gain"
    assert compare_alike(aged, soon).loss == pytest.approx(0.0)
    worse = compare_alike(aged, {0: share(48, 60), 9: share(0, 50)})
    assert worse.loss == pytest.approx(0.15)
    assert worse.significant
    assert worse.rows == 60, "labels of an age that the reference has none of are not compared"
    assert compare_alike(aged, {9: share(0, 50)}).loss is None


def test_a_label_that_took_long_is_compared_with_those_about_as_late() -> None:
    assert [stratum(days) for days in (0, 1, 2, 3, 4, 7, 8)] == [0, 1, 2, 2, 3, 3, 4]
    rows = [counts(("cat", "cat"), ("dog", "cat"), labelled_on=DAY + timedelta(days=days)) for days in (0, 3, 3)]
    assert {age: (s.correct, s.rows) for age, s in by_age(judged(pd.concat(rows), CLASSES)).items()} == {
        0: (1, 2),
        2: (2, 4),
    }


@given(data=st.data())
def test_with_one_age_the_test_is_fishers(data: st.DataObject) -> None:
    rows = data.draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    right = [data.draw(st.integers(0, n)) for n in rows]
    table = [[right[1], rows[1] - right[1]], [right[0], rows[0] - right[0]]]
    found = compare(share(right[0], rows[0]), share(right[1], rows[1]))
    assert found.p == pytest.approx(fisher_exact(table, alternative="less").pvalue, abs=1e-12)


def test_a_loss_that_is_none_is_seen_as_often_as_it_may() -> None:
    """Strata of different accuracy, nothing lost: at most LOSS_ALPHA of 2,000 worlds say so, and not far fewer."""
    random = np.random.default_rng(5)
    sizes, truth = {0: (150, 60), 1: (80, 50), 2: (40, 12)}, {0: 0.95, 1: 0.8, 2: 0.6}
    seen = 0
    for _ in range(2_000):
        past, now = (
            {age: share(int(random.binomial(n[side], truth[age])), n[side]) for age, n in sizes.items()}
            for side in (0, 1)
        )
        seen += compare_alike(past, now).significant
    assert 0.02 * 2_000 < seen <= LOSS_ALPHA * 2_000 + 3 * (2_000 * 0.05 * 0.95) ** 0.5


def test_ten_million_labels_are_compared_as_exactly_as_ten() -> None:
    found = compare(share(4_500, 5_000), share(8_990_000, 10_000_000))
    assert found.p == pytest.approx(0.4187, abs=1e-3)


@given(rows=st.integers(1, 400), data=st.data())
def test_the_interval_holds_its_share(rows: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, rows))
    found = share(correct, rows)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


@given(correct=st.integers(0, 100), reference=st.integers(0, 200))
def test_one_more_right_answer_never_makes_a_loss_surer(correct: int, reference: int) -> None:
    held_out = share(reference, 200)
    worse, better = compare(held_out, share(correct, 101)), compare(held_out, share(correct + 1, 101))
    assert worse.p is not None
    assert better.p is not None
    assert worse.p <= better.p + 1e-9
    assert worse.significant == (worse.p <= LOSS_ALPHA)
