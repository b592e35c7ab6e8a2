"""Deciding: once a day, one retraining at a time, and every decision with what it rests on."""

import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring.days import end_of
from monitoring.stores import Store, open_store
from pipelines import decide, files
from pipelines.errors import ClassyError
from pipelines.models.evidence import EVIDENCE, monitor_root
from pipelines.recipe import Recipe
from pipelines.settings import Settings

DAY = date(2026, 3, 10)


def write_evidence(settings: Settings, day: date, **change: Any) -> str:
    """Evidence that calls for a contender, with changes; gives its URI."""
    loss = {"loss": 0.3, "p": 1e-6, "significant": True}
    cohort = {"since": str(day), "performance": {"accuracy": {"rows": 150}}, "loss": loss}
    evidence = {
        "verdict": "DRIFT",
        "drift": {"reasons": ["brightness: distance 0.60", "contrast: 0.5", "entropy: 0.4"]},
        "drift_since": str(day - timedelta(days=1)),
        "lately": {**cohort, "loss": {**loss, "loss": 0.1}},
        "since_drift": cohort,
        "fresh_labels": 150,
        **change,
    }
    uri = monitor_root(settings, day)
    with files.new_partition(uri) as draft:
        (draft.folder / EVIDENCE).write_text(json.dumps(evidence))
    return files.join(uri, EVIDENCE)


def judge(store: Store, run_key: str, action: str = "HOLD") -> None:
    now = datetime.now(UTC)
    store.record_decision(
        {
            "decision_key": f"judge-{run_key}", "kind": "judge", "action": action, "reason": "", "run_key": run_key,
            "evidence_uri": None, "evidence_hash": None, "actor": "tester", "as_of": end_of(DAY), "created_at": now,
        }
    )  # fmt: skip


def decide_on(settings: Settings, recipe: Recipe, offset: int, **change: Any) -> decide.Decided:
    day = DAY + timedelta(days=offset)
    write_evidence(settings, day, **change)
    return decide.run(settings, recipe, day=day)


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


def test_the_first_decision_stays(settings: Settings, recipe: Recipe) -> None:
    first = decide_on(settings, recipe, 0)
    assert decide_on(settings, recipe, 0, verdict="NO DRIFT") == first
    assert len(open_store(settings.database_url).decisions()) == 1


def test_quiet_days_keep_and_unknown_days_say_so(settings: Settings, recipe: Recipe) -> None:
    quiet = {"verdict": "NO DRIFT", "drift_since": None, "since_drift": None, "fresh_labels": 0}
    still = {
        "since": "",
        "performance": {"accuracy": {"rows": 40}},
        "loss": {"loss": 0.0, "p": 0.5, "significant": False},
    }
    kept = decide_on(settings, recipe, 0, **quiet, lately=still)
    assert (kept.action, kept.run_key) == ("KEEP", None)
    assert decide_on(settings, recipe, 1, verdict="UNKNOWN").action == "UNKNOWN"


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
    assert actions == ["WATCH", "WATCH", "WATCH", "RETRAIN"]


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
