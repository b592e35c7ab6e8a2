"""Which photos people are asked about: unbiased for all, nothing twice, no sender too often, the same each time."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from monitoring.labelling import Answered, Chosen, Estimate, Rules, choose, estimate, margins

RULES = Rules(per_day=40, random_share=0.5, per_sender=3, overlap=0.2)


def window(count: int = 200, *, senders: int = 30, seed: int = 0, classes: int = 4) -> pd.DataFrame:
    """A day's answers, of which the unsure ones are more often wrong."""
    rng = np.random.default_rng(seed)
    told = rng.dirichlet(np.full(classes, 0.4), count)
    confidence = told.max(axis=1)
    return pd.DataFrame(
        {
            "image_id": [f"photo-{number:04d}" for number in range(count)],
            "source_id": [f"sender-{number}" for number in rng.integers(0, senders, count)],
            "confidence": confidence,
            "probabilities": list(told),
            "embedding": list(rng.normal(size=(count, 5))),
            "correct": rng.random(count) < confidence,
        }
    )


def answered(rows: pd.DataFrame, chosen: list[Chosen]) -> list[Answered]:
    truth = rows.set_index("image_id")["correct"]
    return [Answered(probability=one.probability, correct=bool(truth[one.image_id])) for one in chosen]


def labelled(rows: pd.DataFrame, seed: int, rules: Rules = RULES) -> tuple[Estimate, float]:
    """The estimate from the labels of one queue, and the share of right ones among them, which is what it is not."""
    told = answered(rows, choose(rows, rules, seed=seed))
    return estimate(told, len(rows)), float(np.mean([bool(one.correct) for one in told]))


def test_the_estimate_is_unbiased_where_the_share_of_right_labels_is_not() -> None:
    rows = window()
    drawn = [labelled(rows, seed) for seed in range(600)]
    values = np.array([found.value for found, _ in drawn])
    naive = np.array([share for _, share in drawn])
    truth = rows["correct"].mean()
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - truth) < 4 * error
    assert truth - naive.mean() > 20 * naive.std() / np.sqrt(len(naive))
    covered = np.mean([found.low <= truth <= found.high for found, _ in drawn])
    assert 0.92 <= covered <= 0.995


def test_each_photo_is_chosen_as_often_as_its_probability_says() -> None:
    rows = window(60, senders=60)
    rules = Rules(per_day=20, random_share=0.5, per_sender=3, overlap=0.0)
    times, said = dict.fromkeys(rows["image_id"], 0), dict.fromkeys(rows["image_id"], 10 / 60)
    draws = 2_000
    for seed in range(draws):
        for one in choose(rows, rules, seed=seed):
            times[one.image_id] += 1
            said[one.image_id] = one.probability
    assert sum(probability == 1 for probability in said.values()) == 10
    for image_id, probability in said.items():
        spread = np.sqrt(draws * probability * (1 - probability))
        assert abs(times[image_id] - draws * probability) <= 4.5 * spread, image_id


@given(
    count=st.integers(0, 60), senders=st.integers(1, 20), seed=st.integers(0, 99), per_day=st.integers(0, 80),
    share=st.floats(0, 1), cap=st.integers(1, 5), overlap=st.floats(0, 1),
)  # fmt: skip
@budget(max_examples=60, deadline=None)
def test_nothing_twice_no_sender_too_often_and_the_same_whatever_the_order(
    count: int, senders: int, seed: int, per_day: int, share: float, cap: int, overlap: float
) -> None:
    rows = window(count, senders=senders, seed=seed)
    rules = Rules(per_day=per_day, random_share=share, per_sender=cap, overlap=overlap)
    reference = window(50, seed=1)
    otherwise = dict.fromkeys(rows["image_id"][::7], 0.9)
    found = choose(rows, rules, reference=reference, otherwise=otherwise, seed=[seed, 3])
    ids = [one.image_id for one in found]
    assert len(ids) == len(set(ids)) <= min(per_day, count)
    assert [one.place for one in found] == list(range(len(found)))
    assert all(0 < one.probability <= 1 and one.photos == count for one in found)
    sender = rows.set_index("image_id")["source_id"]
    picked = pd.Series([sender[one.image_id] for one in found if one.reason != "random"], dtype=object)
    assert picked.value_counts().max() <= cap if len(picked) else True
    assert sum(one.wanted == 2 for one in found) == round(overlap * len(found))
    shuffled = pd.concat([rows, rows]).sample(frac=1, random_state=seed)
    assert choose(shuffled, rules, reference=reference, otherwise=otherwise, seed=[seed, 3]) == found


def test_each_reason_finds_its_photos() -> None:
    rows = window(100, senders=100)
    rows.at[17, "embedding"] = np.full(5, 50.0)
    rows.at[23, "probabilities"] = np.array([0.5, 0.5, 0.0, 0.0])
    rules = Rules(per_day=6, random_share=0.0, per_sender=3, overlap=0.0)
    found = choose(rows, rules, reference=window(80, seed=9), otherwise={"photo-0042": 0.99}, seed=0)
    reasons = {one.image_id: one.reason for one in found}
    assert reasons["photo-0042"] == "disagreed"
    assert reasons["photo-0017"] == "drifted"
    assert reasons["photo-0023"] == "uncertain"
    assert {one.probability for one in found} == {1.0}
    # Nobody disagrees on another photo: the places go to the two other reasons.
    assert sorted(reasons.values()) == ["disagreed", *["drifted"] * 3, *["uncertain"] * 2]


def test_what_is_missing_gives_no_reason_and_no_error() -> None:
    rows = window(30).assign(probabilities=None, embedding=None)
    rows.at[3, "embedding"] = np.full(5, np.nan)
    rows.at[4, "probabilities"] = np.array([0.9])
    found = choose(rows, Rules(per_day=10, random_share=0.5, per_sender=3, overlap=0), reference=window(5), seed=0)
    assert {one.reason for one in found} == {"random"}
    assert len(found) == 5
    assert np.isnan(margins(rows)).all()
    assert choose(rows.iloc[:0], RULES, seed=0) == []


def test_a_queue_that_is_half_done_is_still_fair() -> None:
    rows = window()
    values, halves = [], []
    for seed in range(300):
        chosen = choose(rows, RULES, seed=seed)
        told = answered(rows, chosen)
        half = [one if place < 20 else Answered(probability=one.probability, correct=None)
                for place, one in enumerate(told)]  # fmt: skip
        found = estimate(half, len(rows))
        values.append(found.value)
        halves.append(found.rows)
    assert set(halves) == {20}
    assert abs(np.mean(values) - rows["correct"].mean()) < 4 * np.std(values) / np.sqrt(len(values))


@given(st.lists(st.booleans(), min_size=1, max_size=30))
@budget(max_examples=40, deadline=None)
def test_all_labelled_is_no_estimate_but_a_count(right: list[bool]) -> None:
    found = estimate([Answered(probability=1.0, correct=one) for one in right], len(right))
    assert found.value == pytest.approx(np.mean(right))
    assert found.low == pytest.approx(found.value)
    assert found.high == pytest.approx(found.value)


@given(
    picked=st.lists(st.sampled_from([True, False]), max_size=10),
    drawn=st.lists(st.sampled_from([True, False]), min_size=1, max_size=20),
    more=st.integers(1, 500),
)
@budget(max_examples=60, deadline=None)
def test_an_estimate_lies_in_its_interval_and_both_among_the_shares(
    picked: list[bool], drawn: list[bool], more: int
) -> None:
    photos = len(picked) + len(drawn) + more
    rows = [Answered(probability=1.0, correct=one) for one in picked]
    rows += [Answered(probability=0.1, correct=one) for one in drawn]
    found = estimate(rows, photos)
    assert found.value is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high > found.low, "some photos were not looked at"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "nothing was queued"),
        ([Answered(probability=1.0, correct=True)], "no drawn photo"),
        ([Answered(probability=0.2, correct=True), Answered(probability=1.0, correct=None)], "no picked photo"),
        ([Answered(probability=0.2, correct=None)], "no drawn photo"),
    ],
)
def test_without_a_label_of_each_part_nothing_is_estimated(rows: list[Answered], reason: str) -> None:
    found = estimate(rows, 10 if rows else 0)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert reason in found.reason
