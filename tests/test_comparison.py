"""Two models on the same rows, in every metric: what must hold whatever the numbers are."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, log_loss

from monitoring.comparison import METRICS, Comparison, Paired, compare, compare_seeds, measure, reliability
from tests.pairs import CLASSES, swapped, world

seeds = st.integers(0, 2**31)


def compared(paired: Paired, confidence: float = 0.95) -> Comparison:
    found = compare(paired, confidence=confidence)
    assert found is not None
    return found


# ----------------------------------------------------------------------------------------------- metrics


@given(seeds, st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_metrics_are_those_of_scikit_learn(seed: int, rows: int) -> None:
    paired = world(seed, rows=rows)
    found = measure(paired.contender, paired.labels)
    assert found is not None
    said = paired.contender.argmax(axis=1)
    assert found.accuracy == pytest.approx(np.mean(said == paired.labels))
    assert found.macro_f1 == pytest.approx(f1_score(paired.labels, said, average="macro"))
    assert found.log_loss == pytest.approx(log_loss(paired.labels, paired.contender, labels=range(CLASSES)), rel=1e-4)
    assert 0 <= found.ece <= 1


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    honest = np.tile(np.array([0.8, 0.2]), (10, 1))
    boaster = np.tile(np.array([1.0, 0.0]), (10, 1))
    assert measure(honest, labels).ece == pytest.approx(0)  # type: ignore[union-attr]
    assert measure(boaster, labels).ece == pytest.approx(0.2)  # type: ignore[union-attr]
    confidence, accuracy, rows = reliability(boaster, labels)
    assert (confidence, accuracy, rows) == (pytest.approx([1.0]), pytest.approx([0.8]), [10])


def test_no_rows_are_no_comparison() -> None:
    assert compare(world(1, rows=0), confidence=0.95) is None


# ------------------------------------------------------------------------------------------- differences


@given(seeds, st.integers(1, 120), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_every_gain_lies_in_its_interval_and_swapping_the_models_mirrors_everything(
    seed: int, rows: int, senders: int, contender: float, opponent: float
) -> None:
    paired = world(seed, rows=rows, senders=senders, contender=contender, opponent=opponent)
    one, other = compared(paired), compared(swapped(paired))
    assert (one.only_contender, one.only_opponent) == (other.only_opponent, other.only_contender)
    assert (one.only_contender - one.only_opponent) / rows == pytest.approx(one.difference)
    for name in METRICS:
        mine, its = one.differences[name], other.differences[name]
        assert mine.low <= mine.gain <= mine.high
        assert (mine.gain, mine.low, mine.high) == pytest.approx((-its.gain, -its.high, -its.low), abs=1e-6)
    assert -1 <= one.low <= one.high <= 1


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_gains_are_differences_of_the_metrics_and_above_zero_where_the_contender_is_better(seed: int) -> None:
    found = compared(world(seed, rows=300, contender=0.95, opponent=0.4))
    for name, sign in zip(METRICS, (1, 1, -1, -1), strict=True):
        seen = getattr(found.contender, name) - getattr(found.opponent, name)
        assert found.differences[name].gain == pytest.approx(sign * seen)
    assert all(found.differences[name].low > 0 for name in ("accuracy", "macro_f1", "log_loss"))
    assert found.p_value < 0.001


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_neither_the_order_of_the_rows_nor_the_names_of_the_classes_matter(seed: int) -> None:
    paired = world(seed, contender=0.9)
    rng = np.random.default_rng(seed)
    order, classes = rng.permutation(200), rng.permutation(CLASSES)
    mixed = Paired(
        labels=np.argsort(classes)[paired.labels[order]],
        contender=paired.contender[order][:, classes],
        opponent=paired.opponent[order][:, classes],
        senders=paired.senders[order],
    )
    one, other = compared(paired), compared(mixed)
    for name in METRICS:
        assert asdict(one.differences[name]) == pytest.approx(asdict(other.differences[name]), abs=1e-6)


def test_chance_is_taken_off_the_calibration_error_of_the_better_calibrated() -> None:
    """One model is always honestly unsure, the other boasts by 0.2; on few rows the honest one looks bad as well."""
    rng, seen, bounded = np.random.default_rng(0), [], []
    for _ in range(25):
        labels = (rng.random(60) < 0.3).astype(np.int64)
        honest, boaster = np.tile([0.7, 0.3], (60, 1)), np.tile([0.9, 0.1], (60, 1))
        found = compared(Paired(labels=labels, contender=boaster, opponent=honest, senders=np.arange(60).astype(str)))
        ece = found.differences["ece"]
        seen.append(ece.gain)
        bounded.append(ece.low <= -0.2)
    assert np.mean(seen) > -0.17  # it is -0.2
    assert np.mean(bounded) >= 0.8


def test_more_rows_show_smaller_improvements_in_every_metric() -> None:
    few, many = compared(world(1, rows=100, senders=20)), compared(world(1, rows=1600, senders=320))
    for name in METRICS:
        assert 0 < many.detectable(0.95, name) < 0.5 * few.detectable(0.95, name)
        assert few.rows_to_show(0.01, 0.95, name) > few.rows_to_show(0.05, 0.95, name) > 0
    least = few.detectable(0.95)
    assert few.rows_to_show(least, 0.95) == pytest.approx(few.rows, abs=1)


def test_the_same_rows_give_the_same_comparison() -> None:
    paired = world(5, contender=0.9)
    assert compared(paired) == compared(paired)


def test_the_evidence_of_a_comparison_is_plain_json() -> None:
    found = json.loads(json.dumps(asdict(compared(world(1))), allow_nan=False))
    assert set(found) == {
        "rows", "senders", "contender", "opponent", "differences", "only_contender", "only_opponent", "p_value",
    }  # fmt: skip
    assert set(found["differences"]) == set(METRICS)
    assert set(found["differences"]["ece"]) == {"gain", "low", "high"}
    assert set(found["contender"]) == {"rows", *METRICS}


# ------------------------------------------------------------------------------------------------- seeds


def test_the_mean_over_seeds_of_one_seed_is_that_seed() -> None:
    paired = world(1, contender=0.9)
    spread, found = compare_seeds([paired, paired, paired], confidence=0.95), compared(paired)
    assert spread.gains == pytest.approx([found.difference] * 3)
    assert spread.gain == pytest.approx(found.difference)
    assert found.low <= spread.low <= spread.gain <= spread.high <= found.high


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_a_lucky_seed_does_not_carry_the_others(metric: str) -> None:
    lucky = world(1, rows=400, contender=0.95)
    others = [replace(lucky, contender=world(seed, rows=400, contender=0.75).contender) for seed in (2, 3)]
    others = [replace(one, contender=_shuffled(one)) for one in others]
    assert compare_seeds([lucky], confidence=0.95, metric=metric).gain > 0  # type: ignore[arg-type]
    spread = compare_seeds([lucky, *others], confidence=0.95, metric=metric)  # type: ignore[arg-type]
    assert spread.low < 0
    assert spread.gain == pytest.approx(np.mean(spread.gains))


def _shuffled(paired: Paired) -> np.ndarray:
    return paired.contender[np.random.default_rng(0).permutation(len(paired.labels))]


def test_seeds_on_other_rows_are_refused() -> None:
    one, other = world(1), world(2)
    with pytest.raises(ValueError, match="same rows in the same order"):
        compare_seeds([one, other], confidence=0.95)
    with pytest.raises(ValueError, match="several is empty"):
        compare_seeds([], confidence=0.95)
    with pytest.raises(ValueError, match="holds no rows"):
        compare_seeds([world(1, rows=0)], confidence=0.95)
