"""Decide what to do about one day's evidence, once.

    classy decide --day 2026-03-07

The first decision under a day's key stays; asked again, the step gives it back.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from monitoring.policy import Evidence, Rules
from monitoring.policy import decide as weigh
from monitoring.stores import Store, open_store
from pipelines import files
from pipelines.errors import ClassyError
from pipelines.models.evidence import EVIDENCE, end_of, monitor_root, read_evidence
from pipelines.recipe import Recipe
from pipelines.settings import Settings

ACTOR = "classy decide"
MOST_REASONS = 2
"""Columns that a decision's sentence names; the evidence has them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """The day's decision. RETRAIN has a run key; its data is taken as of `as_of`, and judged since `drift_from`."""

    day: str
    action: str
    reason: str
    decision_key: str
    run_key: str | None
    as_of: str
    drift_from: str | None
    """First day of the drift; None without one."""


def run(settings: Settings, recipe: Recipe, *, day: date) -> Decided:
    """Weigh `monitor/date=D` and the decisions before it; record `monitor-D`.

    Raises:
        ClassyError: the day was not monitored.
    """
    store = open_store(settings.database_url)
    key = f"monitor-{day}"
    recorded = store.decision(key)
    if recorded is None:
        store.record_decision(_decision(settings, recipe, store, day, key))
        recorded = store.decision(key)
        if recorded is None:
            raise ClassyError(f"decision {key}: was written and is gone; is somebody clearing the table?")
    return Decided(
        day=str(day),
        action=recorded["action"],
        reason=recorded["reason"],
        decision_key=key,
        run_key=recorded["run_key"],
        as_of=recorded["as_of"].isoformat(),
        drift_from=_read(settings, day)["drift_since"],
    )


def _decision(settings: Settings, recipe: Recipe, store: Store, day: date, key: str) -> dict[str, Any]:
    uri = monitor_root(settings, day)
    manifest = files.need_manifest(uri, f"monitor --day {day}")
    found = _read(settings, day)
    rules = Rules(**recipe.policy.model_dump())
    decision = weigh(gather_evidence(found, store.decisions(), day), rules)
    return {
        "decision_key": key,
        "kind": "monitor",
        "action": decision.action,
        "reason": decision.reason,
        "run_key": f"retrain-{day}" if decision.action == "RETRAIN" else None,
        "evidence_uri": files.join(uri, EVIDENCE),
        "evidence_hash": manifest["files"][EVIDENCE]["sha256"],
        "actor": ACTOR,
        "as_of": end_of(day),
        "created_at": datetime.now(UTC),
    }


def _read(settings: Settings, day: date) -> dict[str, Any]:
    found = read_evidence(settings, day)
    if found is None:
        raise ClassyError(
            f"{monitor_root(settings, day)}: no evidence there; make it with `classy monitor --day {day}`"
        )
    return found


def gather_evidence(found: dict[str, Any], decisions: list[dict[str, Any]], day: date) -> Evidence:
    """What the policy looks at: the day's `evidence.json`, and the ledger of decisions in order of data time."""
    retrains = [row for row in decisions if row["kind"] == "monitor" and row["action"] == "RETRAIN"]
    judged = {row["run_key"] for row in decisions if row["kind"] == "judge"}
    newest = retrains[-1] if retrains else None
    # Only labels since the drift began tell what it costs; the days before it would water the loss down.
    measured = found["since_drift"] or found["lately"]
    return Evidence(
        day=day,
        drift=found["verdict"],
        drift_reason=_shortly(found["drift"]["reasons"]),
        drift_since=None if found["drift_since"] is None else date.fromisoformat(found["drift_since"]),
        loss=measured["loss"]["loss"],
        loss_significant=measured["loss"]["significant"],
        loss_rows=measured["performance"]["accuracy"]["rows"],
        fresh_labels=found["fresh_labels"],
        in_flight=newest["run_key"] if newest and newest["run_key"] not in judged else None,
        last_retrain=(newest["as_of"] - timedelta(days=1)).date() if newest else None,
    )


def _shortly(reasons: list[str]) -> str:
    more = f"; and {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
    return "; ".join(reasons[:MOST_REASONS]) + more
