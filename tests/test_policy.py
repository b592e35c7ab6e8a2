"""The policy: what it asks for, and what it never does."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.policy import Evidence, Rules, decide

RULES = Rules(min_loss=0.05, min_fresh_labels=100, cooldown_days=3, in_flight_days=7)
DAY = date(2026, 3, 10)
CALL = Evidence(
    day=DAY,
    drift="DRIFT",
    drift_reason="brightness: distance 0.60",
    drift_since=date(2026, 3, 8),
    loss=0.2,
    loss_significant=True,
    loss_rows=150,
    fresh_labels=150,
    in_flight=None,
    last_retrain=None,
)
"""Evidence that calls for a contender; each test takes one thing away."""

evidences = st.builds(
    Evidence,
    day=st.just(DAY),
    drift=st.sampled_from(["DRIFT", "NO DRIFT", "UNKNOWN"]),
    drift_reason=st.text(max_size=20),
    drift_since=st.none() | st.dates(DAY - timedelta(days=9), DAY),
    loss=st.none() | st.floats(-1, 1),
    loss_significant=st.booleans(),
    loss_rows=st.integers(0, 500),
    fresh_labels=st.integers(0, 500),
    in_flight=st.none() | st.just("retrain-2026-03-05"),
    last_retrain=st.none() | st.dates(DAY - timedelta(days=9), DAY + timedelta(days=9)),
)


def test_drift_with_loss_and_labels_asks_for_a_contender() -> None:
    decision = decide(CALL, RULES)
    assert decision.action == "RETRAIN"
    assert decision.reason == (
        "Drift since 2026-03-08 (brightness: distance 0.60). Accuracy is down 20.0 points on 150 labelled photos. "
        "150 fresh labels to learn from."
    )


@pytest.mark.parametrize(
    ("change", "action", "because"),
    [
        ({"drift": "NO DRIFT", "loss": 0.0}, "KEEP", "No drift. Accuracy holds"),
        ({"drift": "NO DRIFT", "loss": None}, "KEEP", "no labels have arrived"),
        ({"drift": "NO DRIFT"}, "WATCH", "No drift. Accuracy is down 20.0 points"),
        ({"drift": "UNKNOWN"}, "UNKNOWN", "Drift cannot be told: brightness"),
        ({"fresh_labels": 99}, "LABEL", "99 labels since then, 100 are needed"),
        ({"fresh_labels": 0, "loss": None}, "LABEL", "0 labels since then"),
        ({"loss": 0.04}, "WATCH", "min_loss is 5 points"),
        ({"loss_significant": False}, "WATCH", "too few to be sure"),
        ({"loss": -0.01}, "WATCH", "Accuracy holds on 150 labelled photos (+1.0 points)"),
        ({"in_flight": "retrain-2026-03-05"}, "WATCH", "retrain-2026-03-05 is in flight"),
        ({"in_flight": "r", "last_retrain": DAY - timedelta(days=7)}, "WATCH", "r is in flight"),
        ({"in_flight": "r", "last_retrain": DAY - timedelta(days=8)}, "RETRAIN", "r was never judged and is given up"),
        ({"last_retrain": DAY - timedelta(days=3)}, "WATCH", "cool-down is 3 days"),
        ({"last_retrain": DAY - timedelta(days=4)}, "RETRAIN", "fresh labels"),
        ({"last_retrain": DAY + timedelta(days=5)}, "WATCH", "cool-down"),
    ],
)
def test_each_missing_thing_has_its_answer(change: dict, action: str, because: str) -> None:
    decision = decide(replace(CALL, **change), RULES)
    assert decision.action == action
    assert because in decision.reason


def test_a_drift_cannot_begin_tomorrow() -> None:
    with pytest.raises(ValueError, match="after day"):
        replace(CALL, drift_since=DAY + timedelta(days=1))


@given(evidence=evidences)
def test_a_contender_is_asked_for_only_when_it_helps(evidence: Evidence) -> None:
    if decide(evidence, RULES).action == "RETRAIN":
        assert evidence.drift == "DRIFT"
        overdue = evidence.last_retrain is not None and (DAY - evidence.last_retrain).days > RULES.in_flight_days
        assert evidence.in_flight is None or overdue
        assert evidence.fresh_labels >= RULES.min_fresh_labels
        assert evidence.loss is not None
        assert evidence.loss >= RULES.min_loss
        assert evidence.loss_significant
        assert evidence.last_retrain is None or (DAY - evidence.last_retrain).days > RULES.cooldown_days


@given(evidence=evidences)
def test_the_unknown_is_never_called_quiet(evidence: Evidence) -> None:
    decision = decide(evidence, RULES)
    assert (decision.action == "UNKNOWN") == (evidence.drift == "UNKNOWN")
    if decision.action == "KEEP":
        assert evidence.drift == "NO DRIFT"


@given(evidence=evidences)
def test_replaying_gives_the_same_decision_with_its_reason(evidence: Evidence) -> None:
    decision = decide(evidence, RULES)
    assert decide(replace(evidence), RULES) == decision
    assert decision.reason.endswith(".")


@given(evidence=evidences, more=st.integers(0, 500))
def test_more_labels_never_stop_a_retraining(evidence: Evidence, more: int) -> None:
    if decide(evidence, RULES).action == "RETRAIN":
        assert decide(replace(evidence, fresh_labels=evidence.fresh_labels + more), RULES).action == "RETRAIN"
