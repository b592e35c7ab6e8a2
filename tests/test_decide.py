"""Deciding: once a day, one retraining at a time, and every decision with what it rests on."""

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from monitoring.days import end_of
from monitoring.performance import share
from monitoring.stores import Store, open_store
from pipelines import decide, files, redecide, resume
from pipelines.errors import ClassyError
from pipelines.models.evidence import EVIDENCE, monitor_root
from pipelines.recipe import Recipe
from pipelines.settings import Settings

DAY = date(2026, 3, 10)


def write_evidence(settings: Settings, day: date, **change: Any) -> str:
    """Evidence that calls for a contender, with changes; gives its URI."""
    loss = {"loss": 0.3, "p": 1e-6, "significant": True}
    cohort = {"since": str(day), "performance": {"accuracy": asdict(share(90, 150))}, "loss": loss}
    evidence = {
        "verdict": "DRIFT",
        "drift": {"reasons": ["brightness: distance 0.60", "contrast: 0.5", "entropy: 0.4"]},
        "drift_since": str(day - timedelta(days=1)),
        "lately": {**cohort, "loss": {**loss, "loss": 0.1}},
        "since_drift": cohort,
        "fresh_labels": 150,
        "labels_known": 2_000 + 200 * (day - DAY).days,
        "reference_accuracy": asdict(share(450, 500)),
        "champion": {"generation": 1, "as_of": end_of(DAY - timedelta(days=9)).isoformat()},
        **change,
    }
    uri = monitor_root(settings, day)
    with files.new_partition(uri) as draft:
        (draft.folder / EVIDENCE).write_text(json.dumps(evidence))
    return files.join(uri, EVIDENCE)


def judge(store: Store, run_key: str, action: str = "HOLD", *, money: float = 0.0) -> None:
    now = datetime.now(UTC)
    store.record_decision(
        {
            "decision_key": f"judge-{run_key}", "kind": "judge", "action": action, "reason": "", "run_key": run_key,
            "evidence_uri": None, "evidence_hash": None, "evidence": {"spent": {"money": money, "currency": "EUR"}},
            "actor": "tester", "as_of": end_of(DAY), "created_at": now,
        }
    )  # fmt: skip


def decide_on(settings: Settings, recipe: Recipe, offset: int, **change: Any) -> decide.Decided:
    day = DAY + timedelta(days=offset)
    write_evidence(settings, day, **change)
    return decide.run(settings, recipe, day=day)


QUIET: dict[str, Any] = {
    "verdict": "NO DRIFT",
    "drift_since": None,
    "since_drift": None,
    "fresh_labels": 0,
    "lately": {
        "since": "",
        "performance": {"accuracy": asdict(share(450, 500))},
        "loss": {"loss": 0.0, "p": 0.5, "significant": False},
    },
}
"""A day on which nothing is the matter."""


def test_a_call_for_a_contender_is_recorded_with_its_evidence(settings: Settings, recipe: Recipe) -> None:
    uri = write_evidence(settings, DAY)
    decided = decide.run(settings, recipe, day=DAY)
    assert (decided.action, decided.run_key, decided.decision_key) == (
        "RETRAIN", "retrain-2026-03-10", "monitor-2026-03-10",
    )  # fmt: skip
    assert (decided.as_of, decided.drift_from) == ("2026-03-11T00:00:00+00:00", "2026-03-09")
    assert "down 30.0 points" in decided.reason, "the loss since the drift began, not the watered down one"
    assert "contrast: 0.5; and 1 more" in decided.reason
    row = open_store(settings.database_url).decision("monitor-2026-03-10")
    assert row is not None
    assert (row["kind"], row["evidence_uri"]) == ("monitor", uri)
    assert row["evidence_hash"] == hashlib.sha256(Path(uri).read_bytes()).hexdigest()
    assert row["as_of"] == end_of(DAY)


def test_an_incident_is_since_the_day_on_which_its_drift_began_anew(settings: Settings, recipe: Recipe) -> None:
    """A harmless drift opened it; what costs accuracy came three days later."""
    store, anew = open_store(settings.database_url), DAY + timedelta(days=3)
    first = decide_on(settings, recipe, 0)
    judge(store, "retrain-2026-03-10", "INSUFFICIENT DATA")
    told = decide_on(settings, recipe, 4, drift_since=str(anew), drift_anew=True, labels_known=9_000)
    assert (told.action, told.incident, told.drift_from) == ("RETRAIN", first.incident, str(anew))
    judge(store, "retrain-2026-03-14", "PROMOTE")
    decide_on(settings, recipe, 5, **QUIET)
    row = store.decision("monitor-2026-03-15")
    assert row is not None
    assert row["evidence"]["evidence"]["incident_since"] == str(anew), "a follow-up learns from no day before it"


def test_the_first_decision_stays(settings: Settings, recipe: Recipe) -> None:
    first = decide_on(settings, recipe, 0)
    assert decide_on(settings, recipe, 0, verdict="NO DRIFT") == first
    assert len(open_store(settings.database_url).decisions()) == 1


def test_quiet_days_keep_and_unknown_days_say_so(settings: Settings, recipe: Recipe) -> None:
    kept = decide_on(settings, recipe, 0, **QUIET)
    assert (kept.action, kept.run_key, kept.incident, kept.notify) == ("KEEP", None, None, False)
    told = [decide_on(settings, recipe, day, verdict="UNKNOWN") for day in range(1, 5)]
    assert [one.action for one in told] == ["WATCH", "WATCH", "PAGE", "WATCH"]
    assert "Drift cannot be told" in told[0].reason
    assert [one.notify for one in told] == [False, False, True, False]


def test_what_trainings_cost_is_counted_against_the_budget(settings: Settings, recipe: Recipe) -> None:
    store = open_store(settings.database_url)
    judge(store, "by-hand", "PROMOTE", money=7.0)
    poor = recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"max_money": 10.0})})
    decided = decide_on(settings, poor, 0)
    assert decided.action == "PAGE"
    assert "7.00 were spent" in decided.reason
    assert decide_on(settings, recipe, 1).action == "RETRAIN"


def test_an_incident_opens_is_followed_and_closes(settings: Settings, recipe: Recipe) -> None:
    store = open_store(settings.database_url)
    lone = {"loss": {"loss": 0.3, "p": 0.01, "significant": True}}
    labels = [100 + 200 * offset for offset in range(8)]
    began = decide_on(settings, recipe, 0, since_drift={**_cohort(90), **lone}, labels_known=labels[0])
    assert (began.action, began.incident, began.notify) == ("WATCH", None, False)
    asked = decide_on(settings, recipe, 1, labels_known=labels[1])
    assert (asked.action, asked.incident, asked.notify) == ("RETRAIN", "incident-2026-03-10", True)
    judge(store, "retrain-2026-03-11", "PROMOTE")
    new = {"generation": 2, "as_of": end_of(DAY + timedelta(days=1)).isoformat()}
    # 87% of a promised 86% is no loss, and 3 points less than before it began.
    behind = {**QUIET, "champion": new, "reference_accuracy": asdict(share(430, 500)), "lately": _cohort(2610, 3000)}
    days = [decide_on(settings, recipe, offset, **behind, labels_known=labels[offset]) for offset in range(2, 6)]
    assert [one.incident for one in days] == ["incident-2026-03-10"] * 4
    assert [one.action for one in days] == ["WATCH", "WATCH", "RETRAIN", "WATCH"], "labels have doubled"
    assert [one.drift_from for one in days] == ["2026-03-10"] * 4, "no drift, and rows of the new world all the same"
    assert [one.notify for one in days] == [False] * 4
    judge(store, "retrain-2026-03-14", "PROMOTE")
    back = {**behind, "lately": _cohort(2690, 3000)}
    over = [decide_on(settings, recipe, offset, **back, labels_known=labels[offset]) for offset in (6, 7)]
    assert [(one.action, one.incident) for one in over] == [("KEEP", None)] * 2


def test_two_contenders_refused_call_a_person_who_resumes(settings: Settings, recipe: Recipe) -> None:
    store = open_store(settings.database_url)
    for offset, key in ((1, "retrain-2026-03-11"), (9, "retrain-2026-03-19")):
        assert decide_on(settings, recipe, offset).run_key == key
        judge(store, key)
    called = decide_on(settings, recipe, 13)
    assert (called.action, called.notify) == ("PAGE", True)
    assert "classy resume" in called.reason
    still = decide_on(settings, recipe, 14)
    assert (still.action, still.notify) == ("WATCH", False)
    with pytest.raises(ClassyError, match="--reason"):
        resume.run(settings, recipe, reason=" ")
    assert resume.run(settings, recipe, reason="the golden rows were of the old camera").changed
    assert not resume.run(settings, recipe, reason="twice").changed
    assert decide_on(settings, recipe, 40).action == "RETRAIN"


def test_contenders_that_few_rows_cannot_tell_call_nobody_and_ask_for_labels(
    settings: Settings, recipe: Recipe
) -> None:
    store = open_store(settings.database_url)
    told = []
    for offset in range(1, 14):
        told.append(decide_on(settings, recipe, offset))
        if told[-1].run_key:
            judge(store, told[-1].run_key, "INSUFFICIENT DATA")
    cooling = ["RETRAIN", "WATCH", "WATCH"]
    assert [one.action for one in told] == [*cooling * 3, *["LABEL"] * 3, "RETRAIN"], "600, 1,200 and 2,400 labels"
    assert "Too few labels to tell its contender from the champion" in told[-2].reason


def test_decisions_come_out_the_same_and_a_changed_row_is_named(settings: Settings, recipe: Recipe) -> None:
    store = open_store(settings.database_url)
    decide_on(settings, recipe, 0, **QUIET)
    decide_on(settings, recipe, 1)
    decide_on(settings, recipe, 2, verdict="UNKNOWN")
    again = redecide.run(settings, recipe)
    assert (again.decisions, again.same) == (3, True)
    other = redecide.run(settings, recipe, changes={"min_loss": 0.4})
    assert [(row["day"], row["recorded"], row["now"]) for row in other.differences] == [
        ("2026-03-11", "RETRAIN", "WATCH")
    ]
    for wrong, named in (({"min_los": 1}, "min_los"), ({"confirm": 9}, "confirm=9"), ({"calm": "much"}, "calm")):
        with pytest.raises(ClassyError, match=named):
            redecide.run(settings, recipe, changes=wrong)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE decisions SET action = 'KEEP' WHERE decision_key = 'monitor-2026-03-11'"))
    assert [row["day"] for row in redecide.run(settings, recipe).differences] == ["2026-03-11"]


def _cohort(correct: int, rows: int = 150) -> dict[str, Any]:
    return {
        "since": "",
        "performance": {"accuracy": asdict(share(correct, rows))},
        "loss": {"loss": 0.0, "p": 0.5, "significant": False},
    }


def test_one_retraining_at_a_time(settings: Settings, recipe: Recipe) -> None:
    """Days pass the cool-down, but nothing is asked again before the judge has spoken."""
    assert decide_on(settings, recipe, 0).action == "RETRAIN"
    waiting = decide_on(settings, recipe, 5)
    assert waiting.action == "WATCH"
    assert "retrain-2026-03-10 is in flight" in waiting.reason
    judge(open_store(settings.database_url), "retrain-2026-03-10")
    assert decide_on(settings, recipe, 6).run_key == "retrain-2026-03-16"
    assert "retrain-2026-03-16 is in flight" in decide_on(settings, recipe, 7).reason


def test_cool_down_follows_an_answered_retraining(settings: Settings, recipe: Recipe) -> None:
    decide_on(settings, recipe, 0)
    judge(open_store(settings.database_url), "retrain-2026-03-10")
    actions = [decide_on(settings, recipe, offset).action for offset in range(1, 5)]
    assert actions == ["WATCH", "WATCH", "RETRAIN", "WATCH"]


def test_an_old_day_decided_late_asks_for_nothing(settings: Settings, recipe: Recipe) -> None:
    decide_on(settings, recipe, 0)
    assert decide_on(settings, recipe, -2).action == "WATCH"
    judge(open_store(settings.database_url), "retrain-2026-03-10")
    assert decide_on(settings, recipe, -9).action == "WATCH"


def test_a_judge_of_another_run_does_not_end_the_wait(settings: Settings, recipe: Recipe) -> None:
    decide_on(settings, recipe, 0)
    judge(open_store(settings.database_url), "by-hand", "PROMOTE")
    assert decide_on(settings, recipe, 6).action == "WATCH"


def test_a_day_that_was_not_monitored_names_the_step(settings: Settings, recipe: Recipe) -> None:
    with pytest.raises(ClassyError, match="classy monitor --day 2026-03-10"):
        decide.run(settings, recipe, day=DAY)
    assert open_store(settings.database_url).decisions() == []
