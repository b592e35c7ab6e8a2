"""Accuracy without labels: near where the world did not change, a sign where it did, and its own error beside it."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.estimate import Estimate, estimate, tracked
from monitoring.tallies import GROUPS

CLASSES = np.array(["0", "1", "2"])
DAY = date(2026, 3, 10)


def answers(rows: int, *, seed: int, sharp: float = 2.5, senders: int = 20) -> pd.DataFrame:
    """Calibrated answers: the truth is drawn from the probabilities. The less sharp, the less is right."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, sharp, (rows, 3))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) > random.random((rows, 1))).argmax(axis=1)
    return pd.DataFrame(
        {
            "confidence": p.max(axis=1),
            "predicted": CLASSES[p.argmax(axis=1)],
            "label": CLASSES[label],
            "source_id": [f"s{n % senders}" for n in range(rows)],
        }
    )


def accuracy(frame: pd.DataFrame) -> float:
    return float((frame["predicted"] == frame["label"]).mean())


def test_of_an_unchanged_world_it_is_near_and_its_interval_holds() -> None:
    inside, errors, foreseen = 0, [], 0
    for seed in range(100):
        past, now = answers(300, seed=2 * seed), answers(200, seed=2 * seed + 1)
        found = estimate(past, now, min_rows=40, seed=seed)
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        assert found.loss_low is not None
        errors.append(found.value - accuracy(now))
        inside += found.low <= accuracy(now) <= found.high
        foreseen += found.loss_low > 0.05
    assert abs(np.mean(errors)) < 0.02
    assert inside >= 88
    assert foreseen == 0


def test_a_harder_world_is_told_from_the_answers_alone() -> None:
    past, now = answers(400, seed=1, sharp=4), answers(400, seed=2, sharp=1)
    found = estimate(past, now, min_rows=40, seed=0)
    assert found.value == pytest.approx(accuracy(now), abs=0.1)
    assert found.loss_low is not None
    assert found.loss_low > 0.1


@pytest.mark.parametrize(
    ("past", "now", "reason"),
    [
        (None, answers(60, seed=1), "the champion has no reference"),
        (answers(60, seed=1), pd.DataFrame(), "no column 'confidence' in the window"),
        (answers(60, seed=1), answers(9, seed=2), "the window has 9 photos, fewer than 40"),
        (answers(60, seed=1).assign(label=None), answers(60, seed=2), "the labelled reference has 0 photos"),
        (answers(60, seed=1), answers(60, seed=2).assign(confidence=None), "some answers have no confidence"),
    ],
)
def test_what_cannot_be_estimated_says_why(past: pd.DataFrame | None, now: pd.DataFrame, reason: str) -> None:
    found = estimate(past, now, min_rows=40, seed=0)
    assert (found.value, found.loss, found.loss_low) == (None, None, None)
    assert reason in found.reason


@given(right=st.integers(0, 60), seed=st.integers(0, 999))
def test_it_is_a_share_inside_its_interval(right: int, seed: int) -> None:
    past = answers(60, seed=seed)
    past["label"] = np.where(np.arange(60) < right, past["predicted"], "else")
    found = estimate(past, answers(50, seed=seed + 1), min_rows=40, seed=seed)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


def day_of(back: int, value: float | None, version: str = "1") -> dict[str, Any]:
    said = {
        "value": value,
        "low": None if value is None else value - 0.05,
        "high": None if value is None else value + 0.05,
    }
    return {"day": str(DAY - timedelta(days=back)), "champion": {"version": version}, "estimate": said}


def counts(back: int, rows: int, right: int) -> list[dict]:
    taken = DAY - timedelta(days=back)
    plain = {"captured_on": taken, "labelled_on": DAY, "version": "1", "again": False, "unseen": True, "early": False,
             "source_id": "ann", "label": "0"}  # fmt: skip
    return [{**plain, "said": "0", "rows": right}, {**plain, "said": "1", "rows": rows - right}]


def test_its_error_is_told_once_the_truth_is_in() -> None:
    own = pd.DataFrame(counts(1, 100, 90) + counts(2, 100, 70) + counts(3, 10, 0), columns=[*GROUPS, "rows"])
    earlier = [day_of(1, 0.92), day_of(2, 0.90), day_of(3, 0.9), day_of(4, 0.9), day_of(5, 0.9, version="0")]
    found = tracked(Estimate(value=0.9, low=0.8, high=1.0), own, earlier, day=DAY, window_days=1, version="1")
    assert found["error"] == {"days": 2, "mean": pytest.approx(0.11), "covered": 1}, "ten labels are too few to tell"
    assert found["truth"]["value"] is None, "today's labels have not come"
    alone = tracked(Estimate(), own, [day_of(1, None)], day=DAY, window_days=1, version="1")
    assert alone["error"] is None
