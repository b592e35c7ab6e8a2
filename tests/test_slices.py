"""Parts of the rows, and which of them are judged and lost."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from monitoring.comparison import Paired, compare
from monitoring.intervals import one_sided_mcnemar
from monitoring.slices import MOST_VALUES, SliceRow, slice_masks, slice_row, slice_table
from tests.pairs import planned, swapped, world

ALPHA = 0.05


def sliced(paired, masks, min_rows: int = 30) -> dict[tuple[str, str], SliceRow]:  # type: ignore[no-untyped-def]
    table = slice_table(paired, masks, confidence=0.95, min_rows=min_rows)
    return {(row.column, row.value): row for row in table}


# ------------------------------------------------------------------------------------------------- parts


def test_the_slices_of_a_column_hold_every_row_once() -> None:
    paired, rng = world(9, rows=300), np.random.default_rng(0)
    masks = slice_masks(
        paired.labels,
        tuple("abcd"),
        paired.senders,
        np.arange(300) >= 200,
        numbers={"brightness": rng.random(300), "resolution": rng.integers(0, 5, 300)},
        words={"phone": rng.choice(["one", "two", ""], 300)},
        new_senders=rng.random(300) < 0.2,
    )
    for column in ("rows", "class", "sender", "senders", "brightness", "resolution", "phone"):
        assert np.sum([mask for key, mask in masks.items() if key[0] == column], axis=0).tolist() == [1] * 300
    assert {("phone", "unknown"), ("brightness", "dark"), ("resolution", "low"), ("senders", "new")} <= set(masks)


def test_slices_of_alike_values_are_one_slice_and_empty_ones_are_left_out() -> None:
    masks = slice_masks(
        np.zeros(6, np.int64), ("a", "b"), np.array(list("uvwxyz")), np.zeros(6, bool),
        numbers={"brightness": np.full(6, 0.5)},
    )  # fmt: skip
    assert {key: int(mask.sum()) for key, mask in masks.items()} == {
        ("rows", "golden"): 6, ("class", "a"): 6, ("sender", "small"): 6, ("brightness", "dark"): 6,
    }  # fmt: skip


def test_rows_without_a_number_are_in_no_third() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan, np.inf, np.nan])
    masks = slice_masks(np.zeros(6, np.int64), ("a",), np.array(list("uvwxyz")), np.zeros(6, bool),
                        numbers={"size": values, "nothing": np.full(6, np.nan)})  # fmt: skip
    assert [mask.tolist() for key, mask in masks.items() if key[0] == "size"] == [
        [True, False, False, False, False, False],
        [False, True, False, False, False, False],
        [False, False, True, False, False, False],
    ]
    assert not any(key[0] == "nothing" for key in masks)


def test_the_rarest_of_very_many_words_share_a_slice() -> None:
    words = np.array([f"phone-{number}" for number in range(100)] + ["phone-7"] * 3)
    masks = slice_masks(np.zeros(103, np.int64), ("a",), words, np.zeros(103, bool), words={"phone": words})
    phones = {key[1]: int(mask.sum()) for key, mask in masks.items() if key[0] == "phone"}
    assert len(phones) == MOST_VALUES + 1
    assert phones["phone-7"] == 4
    assert phones["all others"] == 100 - MOST_VALUES
    assert sum(phones.values()) == 103


# ------------------------------------------------------------------------------------------------- table


def test_a_row_is_the_comparison_within_the_slice() -> None:
    paired = world(9, rows=300, contender=0.9)
    masks = slice_masks(paired.labels, tuple("abcd"), paired.senders, np.arange(300) >= 200)
    table = slice_table(paired, masks, confidence=0.95, min_rows=40)
    assert [(row.column, row.value) for row in table] == list(masks)
    for row in table:
        found = compare(paired.where(masks[row.column, row.value]), confidence=0.95, resamples=2000)
        assert found is not None
        assert (row.rows, row.senders, row.p_value) == (found.rows, found.senders, found.p_value)
        assert (row.difference, row.low, row.high) == pytest.approx((found.difference, found.low, found.high))
    assert json.loads(json.dumps([asdict(row) for row in table], allow_nan=False))[0]["p_harm_holm"] is None


def test_a_class_that_was_answered_to_everything_is_not_lost_by_its_f1() -> None:
    labels, senders = np.repeat([0, 1, 2], 40), np.arange(120).astype(str)
    one_answer, better = np.zeros(120, np.int64), np.where(np.arange(120) % 4 == 0, (labels + 1) % 3, labels)
    paired = Paired(labels=labels, contender=np.eye(3)[better], opponent=np.eye(3)[one_answer], senders=senders)
    masks = slice_masks(labels, tuple("abc"), senders, np.zeros(120, bool))
    table = sliced(paired, masks)
    of_a = table["class", "a"]
    assert (of_a.rows, of_a.difference) == (40, pytest.approx(-10 / 40))
    assert of_a.p_harm < 0.01, "of its own photos fewer are recognised"
    # 30 of 40 found, among 40 answers; 40 of 40 found, among 120.
    assert of_a.f1 == pytest.approx(2 * 30 / 80 - 2 * 40 / 160)
    weighted = slice_table(paired, masks, confidence=0.95, min_rows=30, since=labels == 0, odds=3.0)
    of_a = next(row for row in weighted if row.value == "a")
    assert of_a.f1 == pytest.approx(2 * 3 * 30 / 40 / (3 * 30 / 40 + 10 / 80 + 3) - 2 * 3 / (3 + 3 + 1))
    assert table["sender", "small"].f1 is None


def test_after_a_drift_a_slice_is_weighed_by_the_photos_to_come() -> None:
    rows = np.arange(40)
    since, ours, theirs = rows >= 20, rows >= 20, rows < 20  # lost all before, wins all since
    masks = {("half", "both"): rows % 2 == 0, ("half", "before"): rows < 20, ("half", "since"): rows >= 20}
    table = slice_table(planned(ours, theirs, rows), masks, confidence=0.95, min_rows=5, since=since, odds=4.0)
    assert [row.to_come for row in table] == [
        pytest.approx((4 - 1) / 5),
        pytest.approx(-1 / 5),  # a fifth as common as it was
        pytest.approx(4 / 5),
    ]
    assert [row.to_come for row in sliced(planned(ours, theirs, rows), masks).values()] == [None] * 3
    kept = asdict(table[0]) | {"golden": 0.5}
    assert slice_row(kept) == table[0], "a field of an earlier Classy"


@given(st.integers(0, 2**31), st.floats(0.3, 1))
@settings(max_examples=10, deadline=None)
def test_the_adjusted_p_values_are_holms_over_the_judged_slices_alone(seed: int, contender: float) -> None:
    paired = world(seed, rows=200, contender=contender)
    masks = slice_masks(paired.labels, tuple("abcd"), paired.senders, np.arange(200) >= 150)
    judged = [row for row in sliced(paired, masks, min_rows=50).values() if row.judged]
    assert all(row.rows >= 50 and row.column != "rows" for row in judged)
    if judged:
        expected = multipletests([row.p_harm for row in judged], method="holm")[1]
        assert [row.p_harm_holm for row in judged] == pytest.approx(list(expected))
    others = [row for row in sliced(paired, masks, min_rows=50).values() if not row.judged]
    assert all(row.p_harm_holm is None for row in others)


def test_the_same_rows_are_asked_once_and_all_rows_not_at_all() -> None:
    paired = world(3, rows=120)
    half, everything = np.arange(120) < 60, np.ones(120, bool)
    table = sliced(
        paired, {("a", "half"): half, ("b", "the same"): half, ("c", "all"): everything, ("rows", "x"): half}
    )
    assert {key: row.judged for key, row in table.items()} == {
        ("a", "half"): True, ("b", "the same"): False, ("c", "all"): False, ("rows", "x"): False,
    }  # fmt: skip
    assert len(sliced(paired, {("a", "none"): ~everything})) == 0


def test_a_loss_of_many_senders_is_harm_and_a_loss_of_two_is_not_yet() -> None:
    rows = np.arange(80)
    theirs, ours = np.ones(80, bool), rows >= 40
    masks = {("half", "lost"): rows < 40, ("half", "kept"): rows >= 40}
    many = sliced(planned(ours, theirs, rows), masks)
    assert many["half", "lost"].p_harm == pytest.approx(0.5**40)
    assert many["half", "lost"].p_harm == pytest.approx(one_sided_mcnemar(40, 0))
    assert many["half", "kept"].p_harm == 1
    assert sliced(planned(ours, theirs, rows % 2), masks)["half", "lost"].p_harm == 0.25


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_what_is_a_harm_to_one_is_a_win_of_the_other(seed: int) -> None:
    paired = world(seed, rows=150, senders=40)
    masks = {("half", "first"): np.arange(150) < 75}
    one, other = sliced(paired, masks)["half", "first"], sliced(swapped(paired), masks)["half", "first"]
    assert one.difference == pytest.approx(-other.difference)
    assert one.p_harm <= other.p_value + 1e-12  # a win must hold over photos too
    assert one.p_harm + other.p_harm >= 1 - 1e-12


def test_equal_models_whose_senders_fail_together_seldom_lose_a_slice() -> None:
    rng, lost = np.random.default_rng(5), 0
    senders = np.repeat(np.arange(60), 5)
    masks = {("part", str(part)): senders % 6 == part for part in range(6)}
    for _ in range(100):
        kind = rng.choice(3, 60, p=[0.7, 0.15, 0.15])[senders]  # both right, only ours, only theirs: by sender
        table = sliced(planned(kind != 2, kind != 1, senders), masks)
        lost += any(row.p_harm_holm is not None and row.p_harm_holm <= ALPHA for row in table.values())
    assert lost <= 6
