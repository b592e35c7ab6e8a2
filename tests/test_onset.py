"""When a drift began, and that a second change is told from the first."""

from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest

from monitoring import onset

START = date(2026, 3, 1)


def day(number: int) -> date:
    return START + timedelta(days=number)


def evidence(number: int, verdict: str, *columns: str, version: str = "1") -> dict[str, Any]:
    return {
        "day": str(day(number)),
        "verdict": verdict,
        "champion": {"version": version},
        "drift": {
            "columns": [
                *({"name": name, "verdict": "DRIFT"} for name in columns),
                {"name": "quiet", "verdict": "NO DRIFT"},
            ]
        },
    }


def tally(accuracies: list[float], *, rows: int = 100, delay: int = 0) -> pd.DataFrame:
    """Answers of days 0, 1, …: `rows` a day, of which so large a share is right."""
    parts = [
        {
            "captured_on": day(n),
            "labelled_on": day(n + delay),
            "said": said,
            "label": "a",
            "early": False,
            "picked": False,
            "rows": count,
        }
        for n, share in enumerate(accuracies)
        for said, count in (("a", round(share * rows)), ("b", rows - round(share * rows)))
    ]
    return pd.DataFrame(parts)


def starts(number: int, today: set[str], *before: dict[str, Any]) -> list[int]:
    """As numbers of days; `before` oldest first."""
    found = onset.starts("1", day(number), frozenset(today), before[::-1])
    return [(one - START).days for one in found]


def test_a_drift_begins_with_the_first_day_of_its_run() -> None:
    before = [evidence(0, "NO DRIFT"), evidence(1, "DRIFT", "a"), evidence(2, "UNKNOWN"), evidence(3, "DRIFT", "a")]
    assert starts(4, {"a"}, *before) == [1]
    assert starts(0, {"a"}) == [0]
    assert starts(1, {"a"}, evidence(0, "DRIFT", "a", version="0")) == [1], "that was another champion's"


def test_each_column_that_drifts_today_has_a_beginning_of_its_own() -> None:
    before = [evidence(0, "DRIFT", "a"), evidence(1, "DRIFT", "a", "b"), evidence(2, "DRIFT", "a", "c")]
    assert starts(3, {"a", "b", "c"}, *before) == [0, 2, 3], "b was away on day 2, so it began today"
    assert starts(3, {"c"}, *before) == [0, 2]
    assert starts(3, set(), *before) == [0]


@pytest.mark.parametrize(
    ("accuracies", "since", "began"),
    [
        ([0.9, 0.9, 0.9, 0.7, 0.7], [1, 3], 3),
        ([0.9, 0.7, 0.7, 0.7, 0.7], [1, 3], 1),
        ([0.9, 0.9, 0.9, 0.9, 0.9], [1, 2, 3, 4], 1),
        ([0.9, 0.9, 0.9, 0.7, 0.7], [1, 3, 4], 3),
        ([0.9, 0.8, 0.8, 0.5, 0.5], [1, 3], 3),
        ([0.9, 0.5, 0.5, 0.8, 0.8], [1, 3], 1),
    ],
    ids=["a dear one later", "a dear one first", "none costs", "and a third", "each costs", "it gets better"],
)
def test_a_drift_begins_anew_where_accuracy_falls_with_it(
    accuracies: list[float], since: list[int], began: int
) -> None:
    assert onset.began(tally(accuracies), ["a", "b"], [day(n) for n in since]) == day(began)


def test_without_labels_of_both_sides_it_began_with_its_first_day() -> None:
    days = [day(1), day(3)]
    assert onset.began(tally([0.9, 0.9, 0.9]), ["a", "b"], days) == day(1)
    assert onset.began(tally([1.0] * 3 + [0.5], rows=2), ["a", "b"], days) == day(1), "too few to tell"
    assert onset.began(tally([0.9] * 3).iloc[:0], ["a", "b"], days) == day(1)


def test_only_labels_of_equal_age_are_compared() -> None:
    """Late labels are of harder photos here: those of the later days have only quick ones."""
    quick, late = tally([0.9] * 5), tally([0.3] * 3, delay=4)
    assert onset.began(pd.concat([quick, late]), ["a", "b"], [day(0), day(3)]) == day(0)
    slow = tally([0.3] * 5, delay=4)
    slow = slow[slow["captured_on"] >= day(3)]
    assert onset.began(pd.concat([quick, slow]), ["a", "b"], [day(0), day(3)]) == day(0)
