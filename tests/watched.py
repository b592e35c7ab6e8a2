"""Months that were watched, made up: evidence files, decisions and deployments as the steps leave them, from one seed.

For tests of what shows them. `make_months` writes a story with a change, a retraining, a rollback and a page.
"""

import json
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from monitoring.days import end_of
from monitoring.performance import share
from monitoring.stores import Store, open_store
from pipelines import files
from pipelines.models.evidence import EVIDENCE, REPORT, monitor_root
from pipelines.settings import Settings

FIRST = date(2026, 1, 1)
COLUMNS = ("brightness", "contrast", "confidence", "output_1", "class_mix")
STORY = {15: "WATCH", 20: "LABEL", 21: "LABEL", 22: "RETRAIN", 23: "WATCH", 24: "WATCH", 37: "ROLLBACK"}
"""What is decided on which day; on the others KEEP."""
REPORT_PAGE = (
    "<!doctype html><title>report</title><p id=drawn>not drawn</p>"
    "<script>document.getElementById('drawn').textContent = 'drawn, at ' + self.origin</script>"
)


def evidence(
    day: date, *, drift: float = 0.3, accuracy: float = 0.95, rows: int = 200, **change: Any
) -> dict[str, Any]:
    """A day's evidence, as an earlier Classy wrote it.

    Args:
        drift: how far the first columns went, in limits; from 1 on it is DRIFT.
        change: keys that are set, or with None left out.
    """
    rng = np.random.default_rng(day.toordinal())
    columns = [
        _column(name, drift * rng.uniform(0.8, 1) if i < 3 else rng.uniform(0, 0.9)) for i, name in enumerate(COLUMNS)
    ]
    verdict = "DRIFT" if any(column["verdict"] == "DRIFT" for column in columns) else "NO DRIFT"
    measured = {
        "since": end_of(day - timedelta(days=3)).isoformat(),
        "performance": {
            "accuracy": asdict(share(round(accuracy * 140), 140)),
            "photos": rows,
            "coverage": 140 / rows,
            "by_class": {"Dress": asdict(share(66, 70)), "Hat": asdict(share(round(accuracy * 70), 70))},
        },
        "loss": {"loss": 0.97 - accuracy, "p": 0.2, "significant": accuracy < 0.9},
    }
    found = {
        "schema": 1,
        "day": str(day),
        "as_of": end_of(day).isoformat(),
        "verdict": verdict,
        "champion": {"version": "1", "generation": 1, "run_id": "a" * 32, "as_of": end_of(FIRST).isoformat()},
        "drift": {
            "verdict": verdict, "reasons": [f"{column['name']}: {column['reason']}" for column in columns[:2]],
            "columns": columns, "window_rows": rows, "reference_rows": 300, "permutations": 199, "shuffled": "senders",
            "alpha": 0.05 / 30, "min_effect": 0.12,
        },
        "drift_since": str(day) if verdict == "DRIFT" else None,
        "reference_accuracy": asdict(share(291, 300)),
        "lately": measured,
        "since_drift": measured if verdict == "DRIFT" else None,
        "fresh_labels": 140,
        "labels_known": 2_000,
    }  # fmt: skip
    return {key: value for key, value in {**found, **change}.items() if value is not None or key not in change}


def whole(day: date, **change: Any) -> dict[str, Any]:
    """Evidence with every part that a monitor can add."""
    found = evidence(day, **change)
    found["estimate"] = {
        **asdict(share(180, 200)), "method": "calibrated confidences", "reason": "",
        "truth": asdict(share(130, 140)), "error": {"days": 12, "mean": 0.021, "covered": 11},
    }  # fmt: skip
    found["labels"] = {
        "photos": 200, "labelled": 140, "coverage": 0.7, "delay_days": {"median": 0.5, "p90": 1.5},
        "notes": ["3 labels are older than their photos and are not counted"],
    }  # fmt: skip
    found["slices"] = [
        {"by": "sender", "name": "sender-07", **asdict(share(20, 40))},
        {"by": "sender", "name": "sender-01", **asdict(share(40, 40))},
        {"by": "version", "name": "1", **asdict(share(133, 140))},
    ]
    found["cohorts"] = {
        "age_days": 3, "windows": [{"from": "2026-01-01", "until": "2026-01-04", **asdict(share(190, 200))}],
    }  # fmt: skip
    found["health"] = [
        {"name": "latency_p99", "value": 41.5, "unit": "ms", "state": "OK", "sentence": "below 250 ms"},
        {"name": "feature_age", "value": 3.2, "unit": "days", "state": "BAD", "sentence": "features are 3.2 days old"},
        {"name": "throughput", "value": None, "unit": "1/s", "state": "UNKNOWN", "sentence": "nothing was asked"},
    ]
    found["drift"]["label_shift"] = {
        "verdict": "DRIFT", "reason": "Hat comes more often",
        "classes": [{"name": "Hat", "reference": 0.3, "estimated": 0.5, "low": 0.42, "high": 0.58}],
    }  # fmt: skip
    found["drift"]["diagnosis"] = {"auc": 0.93, "p": 0.001, "reason": "window and reference are told apart",
                                   "photos": ["photo-1", "photo-2"]}  # fmt: skip
    return found


def unknown(day: date) -> dict[str, Any]:
    """A day of which nothing could be told."""
    found = evidence(day)
    why = "the window has 3 rows, fewer than min_rows=50"
    found["drift"].update(verdict="UNKNOWN", reasons=[why], columns=[], window_rows=3, permutations=0)
    found["lately"]["performance"].update(accuracy=asdict(share(0, 0)), photos=3, coverage=0.0, by_class={})
    found["lately"]["loss"] = {"loss": None, "p": None, "significant": False}
    return {**found, "verdict": "UNKNOWN", "since_drift": None, "drift_since": None}


def _column(name: str, far: float) -> dict[str, Any]:
    limit = 0.25
    return {
        "name": name, "verdict": "DRIFT" if far >= 1 else "NO DRIFT", "reason": f"distance {far * limit:.2f}",
        "effect": far * limit, "limit": limit, "p": 0.001 if far >= 1 else 0.6, "window_median": 0.4,
        "reference_median": 0.5,
    }  # fmt: skip


def write_day(settings: Settings, day: date, found: dict[str, Any], *, report: str = REPORT_PAGE, **meta: Any) -> None:
    """`monitor/date=D`, as `classy monitor` writes it."""
    with files.new_partition(monitor_root(settings, day)) as draft:
        (draft.folder / EVIDENCE).write_text(json.dumps(found))
        if report:
            (draft.folder / REPORT).write_text(report)
        draft.meta = {"day": str(day), "verdict": found.get("verdict"), **meta}


def decide(
    store: Store,
    day: date,
    action: str,
    reason: str = "No drift.",
    *,
    incident: str | None = None,
    kind: str = "monitor",
) -> None:
    """A row of `decisions`; a RETRAIN and the judge's answer (kind judge) share the day's run key."""
    run_key = f"retrain-{day}" if action == "RETRAIN" or kind == "judge" else None
    store.record_decision(
        {
            "decision_key": f"judge-{run_key}" if kind == "judge" else f"{kind}-{day}", "kind": kind, "action": action,
            "reason": reason, "run_key": run_key, "evidence_uri": None, "evidence_hash": "ab" * 32,
            "evidence": {"format": 2, "evidence": {"drift": "DRIFT", "fresh_labels": 140}, "rules": {"min_loss": 0.05}},
            "incident": incident, "actor": "classy decide", "as_of": end_of(day), "created_at": datetime.now(UTC),
        }
    )  # fmt: skip


def deploy(store: Store, generation: int, version: str, day: date, *, kind: str = "promote", run_key: str = "") -> None:
    """A generation that serves from `day` on."""
    store.add_generation(
        {
            "generation": generation, "champion_version": version, "champion_run_id": "a" * 32, "kind": kind,
            "previous_version": None, "canary_version": None, "canary_weight": 0.0, "shadow_version": None,
            "actor": "tester", "reason": f"version {version} is better", "evidence_uri": None, "evidence_hash": None,
            "run_key": run_key or f"run-{generation}", "as_of": end_of(day) - timedelta(days=1),
            "created_at": datetime.now(UTC),
        }
    )  # fmt: skip


def make_months(settings: Settings, *, days: int = 60) -> list[date]:
    """A quiet start; a change on day 20, answered by version 2 on day 23; version 3 on day 35, rolled back on day 38; a
    day that cannot be told (15), one that was not watched (30), one that nobody decided (45); a page at the end."""
    store = open_store(settings.database_url)
    deploy(store, 1, "1", FIRST)
    deploy(store, 2, "2", FIRST + timedelta(days=23), run_key=f"retrain-{FIRST + timedelta(days=22)}")
    deploy(store, 3, "3", FIRST + timedelta(days=35))
    deploy(store, 4, "2", FIRST + timedelta(days=38), kind="rollback")
    calendar = [FIRST + timedelta(days=n) for n in range(days)]
    for n, day in enumerate(calendar):
        if n == 30:
            continue  # the monitor did not run
        _one_day(settings, store, n, day, last=n == days - 1)
    decide(store, FIRST + timedelta(days=22), "PROMOTE", "Better on fresh rows.", kind="judge")
    return calendar


def _one_day(settings: Settings, store: Store, n: int, day: date, *, last: bool) -> None:
    rng = np.random.default_rng(n)
    drifted = 20 <= n <= 22 or last
    incident = f"incident-{FIRST + timedelta(days=20)}" if 20 <= n <= 24 else f"incident-{day}" if last else None
    found = evidence(day, drift=1.9 if drifted else rng.uniform(0.1, 0.8),
                     accuracy=0.5 if drifted else rng.uniform(0.9, 0.97))  # fmt: skip
    if n == 15:
        found = unknown(day)
    elif n >= 40 and not last:
        found = {**found, "estimate": whole(day)["estimate"]}
    write_day(settings, day, found)
    if n == 45:
        return
    action = {20: "LABEL", 21: "LABEL", 22: "RETRAIN", 23: "WATCH", 24: "WATCH", 15: "WATCH", 37: "ROLLBACK"}.get(
        n, "KEEP"
    )
    decide(store, day, "PAGE" if last else action, f"Day {n} of the story.", incident=incident)
