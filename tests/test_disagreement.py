"""What a reviewer is shown first: photos picked by a rule that flatters neither model, and slices that are sure."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from monitoring import disagreement
from monitoring.comparison import Paired
from monitoring.slices import SliceRow
from monitoring.standing import standings


def made_paired(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray, sure: np.ndarray, senders: int) -> Paired:
    def said(answers: np.ndarray) -> np.ndarray:
        found = np.tile(((1 - sure) / 3)[:, None], (1, 4))
        found[np.arange(len(answers)), answers] = sure
        return found

    names = np.array([f"s{number % senders}" for number in range(len(labels))], dtype=np.str_)
    return Paired(labels=labels, contender=said(ours), opponent=said(theirs), senders=names)


@given(
    answers=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.floats(0.4, 1.0)), max_size=80
    ),
    senders=st.integers(1, 9),
)
@hypothesis_settings(max_examples=100, deadline=None)
def test_the_photos_are_disagreements_in_proportion_and_the_rule_is_the_same_for_both(
    answers: list[tuple[int, int, int, float]], senders: int
) -> None:
    columns = np.array(answers, dtype=float).reshape(-1, 4)
    ours, theirs, labels = columns[:, :3].astype(int).T
    paired = made_paired(ours, theirs, labels, columns[:, 3], senders)
    picked = disagreement.pick(paired)
    differ = int(np.sum(ours != theirs))
    assert len(picked) == min(disagreement.MOST, differ)
    assert len({one.position for one in picked}) == len(picked)
    for one in picked:
        assert (one.contender, one.opponent, one.label) == (
            ours[one.position], theirs[one.position], labels[one.position],
        )  # fmt: skip
        assert one.contender != one.opponent
    groups = {
        "contender": np.sum((ours != theirs) & (ours == labels)),
        "opponent": np.sum((ours != theirs) & (theirs == labels)),
        "neither": np.sum((ours != theirs) & (ours != labels) & (theirs != labels)),
    }
    for name, size in groups.items():
        places = sum(one.right == name for one in picked)
        assert abs(places - disagreement.MOST * size / max(differ, disagreement.MOST)) <= 2
        assert (places > 0) == (size > 0)
    mirrored = disagreement.pick(made_paired(theirs, ours, labels, columns[:, 3], senders))
    swap = {"contender": "opponent", "opponent": "contender", "neither": "neither"}
    shares = [sorted(one.right for one in picked), sorted(swap[one.right] for one in mirrored)]
    if groups["contender"] == groups["opponent"]:
        return  # which of two equal groups has the odd place is a matter of order
    assert shares[0] == shares[1]


def test_half_of_a_group_are_its_most_confident_mistakes_and_senders_take_turns() -> None:
    rows = 60
    labels, ours, theirs = np.zeros(rows, int), np.zeros(rows, int), np.ones(rows, int)
    sure = np.linspace(0.5, 0.99, rows)
    picked = disagreement.pick(made_paired(ours, theirs, labels, sure, senders=12))
    first = [one.position for one in picked[:10]]
    assert first == list(range(rows - 1, rows - 11, -1))
    assert len({position % 12 for position in first}) == 10
    drawn = [one.position for one in picked[10:]]
    assert len({position % 12 for position in drawn}) == 10
    assert drawn != list(range(rows - 11, rows - 21, -1)), "not only extremes"


def a_slice(**changed: Any) -> SliceRow:
    row = {
        "column": "class", "value": "a", "rows": 100, "senders": 20, "contender": 0.8, "opponent": 0.8,
        "difference": 0.0, "low": -0.1, "high": 0.1, "p_value": 0.5, "p_harm": 0.5, "p_harm_holm": 1.0, "judged": True,
    }  # fmt: skip
    return SliceRow(**{**row, **changed})


def test_a_slice_is_won_or_lost_only_after_an_adjustment_for_their_number() -> None:
    won = a_slice(difference=0.2, low=0.05, high=0.3, p_value=0.004)
    lost = a_slice(difference=-0.2, low=-0.3, high=-0.05, p_harm=0.001, p_harm_holm=0.02)
    dull = a_slice()
    assert standings([won, lost, *[dull] * 8], 0.95) == ["won", "lost", *["even"] * 8]
    assert standings([won, lost, *[dull] * 18], 0.95)[0] == "even", "0.004 of twenty is no win"
    unsure = a_slice(difference=0.2, low=-0.01, high=0.4, p_value=0.0001)
    small = a_slice(difference=-0.5, p_harm=0.0001, p_harm_holm=None, judged=False)
    golden = a_slice(column="rows", value="golden", judged=False, p_harm_holm=None)
    assert standings([unsure, small, golden], 0.95) == ["even", "unjudged", "other"]
