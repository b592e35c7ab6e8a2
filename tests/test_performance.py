"""Accuracy on labels that come late and with gaps."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.performance import LOSS_ALPHA, compare, measure, share

CLASSES = ("cat", "dog", "cow")


def answers(*rows: tuple[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["image_id", "label"])
    return frame.assign(predicted_at=pd.Timestamp("2026-03-02", tz="UTC"))


def truth(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image_id", "label"])


def test_only_photos_with_truth_count() -> None:
    found = measure(
        answers(("a", "cat"), ("b", "dog"), ("c", "cow"), ("d", "cow")), truth(("a", "cat"), ("b", "cat")), CLASSES
    )
    assert (found.accuracy.rows, found.accuracy.correct, found.accuracy.value) == (2, 1, 0.5)
    assert (found.photos, found.coverage) == (4, 0.5)
    assert {name: (s.correct, s.rows) for name, s in found.by_class.items()} == {"cat": (1, 2)}


def test_truth_that_cannot_be_judged_is_left_out() -> None:
    known = truth(("a", "cat"), ("b", "zebra"), ("nobody", "dog"))
    found = measure(answers(("a", "cat"), ("b", "dog")), known, CLASSES)
    assert (found.accuracy.rows, found.coverage) == (1, 0.5)


def test_of_two_answers_the_last_counts() -> None:
    twice = pd.concat(
        [answers(("a", "cat")).assign(predicted_at=pd.Timestamp("2026-03-03", tz="UTC")), answers(("a", "dog"))]
    )
    found = measure(twice, truth(("a", "cat")), CLASSES)
    assert (found.photos, found.accuracy.correct) == (1, 1)


@pytest.mark.parametrize(("said", "known"), [((), ()), ((("a", "cat"),), ()), ((), (("a", "cat"),))])
def test_without_both_there_is_no_accuracy(said: tuple, known: tuple) -> None:
    found = measure(answers(*said), truth(*known), CLASSES)
    assert found.accuracy.value is None
    assert found.by_class == {}
    assert found.coverage == (0.0 if said else None)


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


def test_nothing_is_said_without_rows() -> None:
    for reference, current in ((share(0, 0), share(5, 9)), (share(5, 9), share(0, 0))):
        found = compare(reference, current)
        assert (found.loss, found.p, found.significant) == (None, None, False)


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
