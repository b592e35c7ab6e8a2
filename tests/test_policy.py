"""The policy: what it asks for, and what it never does."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.policy import Evidence, Rules, decide
from pipelines.sections import Policy

RULES = Rules(**Policy(cooldown_days=3).model_dump())
DAY = date(2026, 3, 10)
CALL = Evidence(
    day=DAY,
    drift="DRIFT",
    drift_reason="brightness: distance 0.60",
    drift_since=date(2026, 3, 8),
    drifted_windows=3,
    unknown_windows=0,
    loss=0.2,
    loss_significant=True,
    loss_p=1e-6,
    loss_rows=150,
    fresh_labels=150,
    labels_known=2_000,
    generation=1,
    champion_age=9,
    in_flight=None,
    last_retrain=None,
    retrains=0,
    refused=0,
    rolled_back=False,
    paged=(),
    incident=None,
    calm_windows=0,
    shortfall=None,
    shortfall_significant=False,
    labels_at_start=None,
    labels_at_retrain=None,
)
"""Evidence that calls for a contender; each test takes one thing away."""
QUIET = replace(CALL, drift="NO DRIFT", drift_since=None, drifted_windows=0, loss=0.0, loss_significant=False, loss_p=1)
AGAIN = replace(QUIET, incident="incident-2026-03-01", shortfall=0.08, shortfall_significant=True, calm_windows=1,
                last_retrain=DAY - timedelta(days=6), labels_at_start=300, labels_at_retrain=700,
                shortfall_most=0.11)  # fmt: skip
"""A champion of some days of a new world, when there are 4.2 times as many labels."""

days_around = st.dates(DAY - timedelta(days=9), DAY + timedelta(days=9))
evidences = st.builds(
    Evidence,
    day=st.just(DAY),
    drift=st.sampled_from(["DRIFT", "NO DRIFT", "UNKNOWN"]),
    drift_reason=st.text(max_size=20),
    drift_since=st.none() | st.dates(DAY - timedelta(days=9), DAY),
    drifted_windows=st.integers(0, 3),
    unknown_windows=st.integers(0, 9),
    loss=st.none() | st.floats(-1, 1),
    loss_significant=st.booleans(),
    loss_p=st.none() | st.floats(0, 1),
    loss_rows=st.integers(0, 500),
    fresh_labels=st.integers(0, 500),
    labels_known=st.integers(0, 5_000),
    generation=st.integers(1, 9),
    champion_age=st.integers(0, 9),
    in_flight=st.none() | st.just("retrain-2026-03-05"),
    last_retrain=st.none() | days_around,
    retrains=st.integers(0, 9),
    refused=st.integers(0, 3),
    rolled_back=st.booleans(),
    paged=st.lists(st.sampled_from(["refused", "budget", "blind"]), unique=True).map(tuple),
    incident=st.none() | st.just("incident-2026-03-01"),
    calm_windows=st.integers(0, 9),
    shortfall=st.none() | st.floats(-1, 1),
    shortfall_significant=st.booleans(),
    labels_at_start=st.none() | st.integers(0, 2_000),
    labels_at_retrain=st.none() | st.integers(0, 5_000),
    incident_since=st.none() | st.dates(DAY - timedelta(days=9), DAY),
    shortfall_most=st.none() | st.floats(-1, 1),
    estimated_loss=st.none() | st.floats(-1, 1),
    estimated_loss_low=st.none() | st.floats(-1, 1),
    spent=st.floats(0, 99),
    last_cost=st.floats(0, 9),
)


def test_drift_with_loss_and_labels_asks_for_a_contender() -> None:
    decision = decide(CALL, RULES)
    assert (decision.action, decision.incident) == ("RETRAIN", "incident-2026-03-08")
    assert decision.reason == (
        "Drift since 2026-03-08 (brightness: distance 0.60). Accuracy is down 20.0 points on 150 labelled photos. "
        "150 fresh labels to learn from."
    )


@pytest.mark.parametrize(
    ("change", "action", "because"),
    [
        ({"drifted_windows": 1, "loss_p": 0.01}, "WATCH", "Seen in 1 of the last 3 windows, 2 establish it"),
        ({"drift": "UNKNOWN"}, "WATCH", "Drift cannot be told: brightness"),
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
        ({"refused": 1}, "RETRAIN", "fresh labels"),
        ({"refused": 2}, "PAGE", "the last 2 contenders were held: look at it, then `classy resume`"),
        ({"refused": 2, "paged": ("refused",)}, "WATCH", "a person was called"),
        ({"retrains": 6}, "PAGE", "6 retrainings in 30 days are all that policy.max_retrains allows"),
        ({"retrains": 6, "paged": ("budget",)}, "WATCH", "a person was called"),
    ],
)
def test_each_missing_thing_has_its_answer(change: dict, action: str, because: str) -> None:
    decision = decide(replace(CALL, **change), RULES)
    assert decision.action == action
    assert because in decision.reason


def test_a_budget_of_money_calls_a_person_once() -> None:
    poor = replace(RULES, max_money=10.0)
    assert decide(replace(CALL, spent=6.0, last_cost=3.0), poor).action == "RETRAIN"
    over = replace(CALL, spent=8.0, last_cost=3.0)
    decision = decide(over, poor)
    assert (decision.action, decision.cause) == ("PAGE", "budget")
    assert "8.00 were spent on trainings in 30 days, another one like the last goes beyond policy.max_money=10" in (
        decision.reason
    )
    assert decide(replace(over, paged=("budget",)), poor).action == "WATCH"
    assert decide(over, RULES).action == "RETRAIN", "0 is no limit"


def test_an_estimate_speaks_where_labels_are_not_sure_yet_and_is_silent_where_they_are() -> None:
    unsure = replace(CALL, loss=0.08, loss_significant=False, loss_p=0.2, estimated_loss=0.15, estimated_loss_low=0.07)
    decision = decide(unsure, RULES)
    assert decision.action == "RETRAIN"
    assert "by its own confidence it is down 15.0 points" in decision.reason
    assert decide(replace(unsure, estimated_loss_low=0.01), RULES).action == "WATCH"
    assert decide(replace(unsure, loss=0.01), RULES).action == "WATCH", "labels say that it costs nothing"
    none = replace(unsure, loss=None, fresh_labels=0)
    assert decide(none, RULES).action == "LABEL", "nothing to learn from yet"
    assert "15.0 points" in decide(none, RULES).reason
    assert decide(replace(unsure, drift="NO DRIFT", drift_since=None, drifted_windows=0), RULES).action == "KEEP"


@pytest.mark.parametrize(
    ("change", "action", "because"),
    [
        ({}, "KEEP", "No drift. Accuracy holds"),
        ({"loss": None}, "KEEP", "no labels have arrived"),
        ({"loss": 0.2, "loss_significant": True, "loss_p": 0.01}, "WATCH", "No drift. Accuracy is down 20.0 points"),
        ({"loss": 0.2, "loss_significant": True, "loss_p": 1e-4}, "RETRAIN", "No drift. Accuracy is down 20.0 points"),
    ],
)
def test_a_loss_that_is_sure_needs_no_drift_to_speak_for_it(change: dict, action: str, because: str) -> None:
    decision = decide(replace(QUIET, **change), RULES)
    assert decision.action == action
    assert because in decision.reason


def test_a_champion_that_knows_little_of_a_new_world_is_followed_up_when_labels_have_grown() -> None:
    decision = decide(AGAIN, RULES)
    assert decision.action == "RETRAIN"
    assert "8.0 points below what it was before incident-2026-03-01" in decision.reason
    assert decision.incident == "incident-2026-03-01"
    early = decide(replace(AGAIN, labels_known=1_099), RULES)
    assert early.action == "WATCH"
    assert "not yet grown 2 times since the retraining of 2026-03-04" in early.reason
    assert decide(replace(AGAIN, labels_known=1_100), RULES).action == "RETRAIN"


def test_a_shortfall_of_some_days_asks_for_no_first_contender() -> None:
    untrained = replace(AGAIN, labels_at_retrain=None, last_retrain=None)
    assert decide(untrained, RULES).action == "WATCH", "looked at every day, chance alone makes one some day"
    assert decide(replace(untrained, loss=0.1, loss_significant=True), RULES).action == "RETRAIN"


def test_a_champion_is_followed_up_until_it_knows_as_many_labels_of_the_new_world_as_there_were_of_the_old() -> None:
    fine = replace(AGAIN, shortfall=0.0, shortfall_significant=False, shortfall_most=0.01, calm_windows=9)
    assert decide(fine, RULES).incident is None, "it knows more of it"
    young = replace(fine, labels_at_start=1_000, labels_at_retrain=1_400)
    decision = decide(young, RULES)
    assert decision.action == "RETRAIN"
    assert "learnt from 400 labels of the new world, of the old one there were 1000" in decision.reason
    assert decide(replace(young, labels_known=1_700), RULES).action == "WATCH", "labels have not doubled"
    held = replace(young, refused=1)
    assert (decide(held, RULES).action, decide(held, RULES).incident) == ("KEEP", None), "more labels do not help"
    never = replace(young, labels_at_retrain=None)
    assert decide(never, RULES).action == "KEEP", "no contender was asked for"


def test_too_few_labels_to_tell_a_contender_ask_for_labels_until_they_have_doubled() -> None:
    early = replace(AGAIN, labels_known=1_000, untold=True)
    decision = decide(early, RULES)
    assert decision.action == "LABEL"
    assert "Too few labels to tell its contender from the champion, and the labels since the change" in decision.reason
    assert decide(replace(early, labels_known=2_000), RULES).action == "RETRAIN"


def test_a_contender_is_judged_since_the_drift_or_since_its_incident_began() -> None:
    began = date(2026, 3, 1)
    assert replace(AGAIN, drift_since=None, incident_since=began).changed_since == began
    within = replace(CALL, incident_since=began, champion_age=3)
    assert within.changed_since == CALL.drift_since, "it has learned what the incident began with"
    assert replace(within, champion_age=30).changed_since == began, "it was lost before it was seen to drift"
    assert QUIET.changed_since is None
    anew = replace(within, champion_age=30, drift_anew=True)
    assert anew.changed_since == CALL.drift_since, "the days before cost nothing"


def test_an_incident_is_over_when_it_is_calm_and_accuracy_is_back() -> None:
    calm = replace(AGAIN, calm_windows=2)
    assert decide(calm, RULES).incident == AGAIN.incident, "accuracy is not back"
    assert decide(replace(calm, shortfall=0.01, shortfall_most=0.04), RULES).incident is None
    few = replace(calm, shortfall=0.01, shortfall_significant=False, shortfall_most=0.07)
    assert decide(few, RULES).incident == AGAIN.incident, "few labels do not show that it is back"
    assert decide(few, RULES).action == "WATCH"
    none = replace(calm, shortfall=None, shortfall_significant=False, shortfall_most=None)
    assert decide(none, RULES).incident == AGAIN.incident
    assert decide(replace(AGAIN, shortfall_most=0.04), RULES).incident == AGAIN.incident, "one calm window"
    tried = replace(AGAIN, calm_windows=14)
    assert decide(tried, RULES).incident == AGAIN.incident, "a contender was asked for six days ago"
    long = replace(tried, last_retrain=DAY - timedelta(days=14))
    assert decide(long, RULES).incident is None, "a harder world is the world by now"


def test_a_promotion_that_costs_accuracy_in_an_unchanged_world_is_taken_back() -> None:
    regret = replace(QUIET, generation=2, champion_age=2, loss=0.2, loss_significant=True, loss_p=1e-5)
    assert decide(regret, RULES).action == "ROLLBACK"
    for change in ({"generation": 1}, {"champion_age": 4}, {"rolled_back": True}, {"loss_p": 0.01}):
        assert decide(replace(regret, **change), RULES).action != "ROLLBACK"
    assert decide(regret, replace(RULES, rollback=False)).action != "ROLLBACK"
    assert decide(replace(regret, drift="DRIFT", drift_since=DAY), RULES).action != "ROLLBACK"


def test_a_monitor_that_has_been_blind_for_days_calls_a_person_once() -> None:
    blind = replace(QUIET, drift="UNKNOWN", unknown_windows=3)
    assert (decide(blind, RULES).action, decide(blind, RULES).cause) == ("PAGE", "blind")
    assert decide(replace(blind, unknown_windows=2), RULES).action == "WATCH"
    assert decide(replace(blind, paged=("blind",)), RULES).action == "WATCH"


def test_a_drift_cannot_begin_tomorrow() -> None:
    with pytest.raises(ValueError, match="after day"):
        replace(CALL, drift_since=DAY + timedelta(days=1))


@given(evidence=evidences)
def test_a_contender_is_asked_for_only_when_it_helps(evidence: Evidence) -> None:
    if decide(evidence, RULES).action != "RETRAIN":
        return
    overdue = evidence.last_retrain is not None and (DAY - evidence.last_retrain).days > RULES.in_flight_days
    assert evidence.in_flight is None or overdue
    assert evidence.last_retrain is None or (DAY - evidence.last_retrain).days > RULES.cooldown_days
    assert evidence.drift != "UNKNOWN"
    assert evidence.fresh_labels >= RULES.min_fresh_labels or evidence.drift == "NO DRIFT"
    assert evidence.refused < RULES.give_up_after
    assert evidence.retrains < RULES.max_retrains
    poor = replace(RULES, max_money=20.0)
    if decide(evidence, poor).action == "RETRAIN":
        assert evidence.spent + evidence.last_cost <= 20
    measured = evidence.loss is not None and evidence.loss >= RULES.min_loss and evidence.loss_significant
    low = evidence.estimated_loss_low
    seen = low is not None and low >= RULES.min_loss and (evidence.loss is None or evidence.loss >= RULES.min_loss)
    start, last = evidence.labels_at_start, evidence.labels_at_retrain
    short = evidence.shortfall is not None and evidence.shortfall >= RULES.regain and evidence.shortfall_significant
    short = short and last is not None
    young = start is not None and last is not None and last - start < start
    assert measured or short or (seen and evidence.drift == "DRIFT") or young


@given(evidence=evidences)
def test_the_unknown_is_never_called_quiet_and_starts_nothing(evidence: Evidence) -> None:
    decision = decide(evidence, RULES)
    if evidence.drift == "UNKNOWN":
        assert decision.action in ("WATCH", "PAGE")
    if decision.action == "KEEP":
        assert evidence.drift == "NO DRIFT"


@given(evidence=evidences)
def test_a_person_is_called_once_for_a_cause(evidence: Evidence) -> None:
    decision = decide(evidence, RULES)
    assert (decision.action == "PAGE") == (decision.cause is not None)
    assert decision.cause not in evidence.paged


@given(evidence=evidences)
def test_the_same_evidence_gives_the_same_decision_with_its_reason(evidence: Evidence) -> None:
    decision = decide(evidence, RULES)
    assert decide(replace(evidence), RULES) == decision
    assert decision.reason.endswith(".")


@given(evidence=evidences, more=st.integers(0, 500))
def test_more_labels_never_stop_a_retraining(evidence: Evidence, more: int) -> None:
    if decide(evidence, RULES).action == "RETRAIN":
        richer = replace(evidence, fresh_labels=evidence.fresh_labels + more, labels_known=evidence.labels_known + more)
        assert decide(richer, RULES).action == "RETRAIN"
