"""How labels come: coverage, delay, what is wrong with some, and days that had equal time."""

from datetime import date, timedelta

import pandas as pd
import pytest

from monitoring.arrivals import cohorts, labels
from monitoring.tallies import GROUPS

CLASSES = ("cat", "dog")
DAY = date(2026, 3, 10)


def rows(count: int, *, back: int = 0, took: int | None = None, right: bool = True, **changed: object) -> dict:
    """`count` photos of `back` days ago whose label took `took` days, or has not come."""
    taken = DAY - timedelta(days=back)
    found = {"captured_on": taken, "labelled_on": None, "version": "1", "again": False, "unseen": True, "early": False,
             "source_id": "ann", "said": None, "label": None, "rows": count}  # fmt: skip
    if took is not None:
        found |= {"labelled_on": taken + timedelta(days=took), "said": "cat" if right else "dog", "label": "cat"}
    return {**found, **changed}


def tally(*found: dict) -> pd.DataFrame:
    return pd.DataFrame(list(found), columns=[*GROUPS, "rows"])


def test_coverage_and_delay_stand_beside_the_labels() -> None:
    told = labels(tally(rows(60, took=0), rows(30, back=2, took=1), rows(10, back=4, took=3), rows(100)), CLASSES, {})
    assert (told["photos"], told["labelled"], told["coverage"]) == (200, 100, 0.5)
    assert told["delay_days"] == {"median": 0.0, "p90": 1.0}
    assert told["notes"] == []


def test_nothing_is_known_without_photos_or_labels() -> None:
    assert labels(tally(), CLASSES, {}) == {
        "photos": 0, "labelled": 0, "coverage": None, "delay_days": None, "notes": []
    }  # fmt: skip
    assert labels(tally(rows(9)), CLASSES, {})["coverage"] == 0.0
    assert cohorts(tally(rows(9, back=3)), CLASSES, DAY)["windows"][0]["value"] is None


def test_truth_that_cannot_be_is_told_and_not_counted() -> None:
    told = labels(
        tally(
            rows(5, took=1), rows(2, took=-1, early=True), rows(3, took=0, label="cow"), rows(1, took=0, label="yak")
        ),
        CLASSES,
        {"unknown photo": 4, "two labels of the same time": 1},
    )
    assert told["labelled"] == 5
    assert told["notes"] == [
        "2 labels are from before the photo was taken: a clock is wrong; not counted.",
        "4 labels are of classes that the model does not know ('cow', 'yak'): not counted.",
        "4 labels are of photos that nobody was asked about.",
        "1 label is not accepted: two labels of the same time.",
    ]


def test_days_are_compared_at_the_same_age() -> None:
    """Quick labels are right, slow ones wrong. Young days look no better than old ones once age is the same."""
    old = [
        part for back in (3, 4, 5) for part in (rows(60, back=back, took=1), rows(40, back=back, took=3, right=False))
    ]
    young = [rows(60, back=1, took=1), rows(40, back=1), rows(100)]
    found = cohorts(tally(*old, *young), CLASSES, DAY)
    assert found["age_days"] == 1
    assert [(one["from"], one["value"], one["rows"]) for one in found["windows"]] == [
        (str(DAY - timedelta(days=back)), 1.0, 60) for back in (5, 4, 3, 1)
    ], "today is not old enough, and what came later than a day counts for no day"


@pytest.mark.parametrize("took", [0, 2, 6])
def test_the_age_is_that_at_which_half_of_the_labels_are_there(took: int) -> None:
    found = cohorts(tally(rows(51, back=9, took=took), rows(49, back=9, took=8)), CLASSES, DAY)
    assert found["age_days"] == took
