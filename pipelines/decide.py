"""Decide what to do about one day's evidence, once.

    classy decide --day 2026-03-07

The first decision under a day's key stays; asked again, the step gives it back.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from monitoring.days import end_of
from monitoring.policy import Rules
from monitoring.policy import decide as weigh
from monitoring.stores import Store, open_store
from monitoring.weighing import gather, news, restored, stored
from pipelines import files
from pipelines.errors import ClassyError
from pipelines.models.evidence import EVIDENCE, monitor_root, read_evidence
from pipelines.models.links import monitor_url
from pipelines.recipe import Recipe
from pipelines.settings import Settings

ACTOR = "classy decide"
ACTED = ("RETRAIN", "ROLLBACK")
"""Decisions that the loop acts on; each has a run key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """The day's decision. RETRAIN and ROLLBACK have a run key; a retraining's data is taken as of `as_of`, and judged
    since `drift_from`."""

    day: str
    action: str
    reason: str
    decision_key: str
    run_key: str | None
    as_of: str
    drift_from: str | None
    """First day of the changed world: of the drift, or of the incident; None without either."""
    incident: str | None
    notify: bool
    """Whether somebody should be told: an incident opened, or got worse. True for one decision of each."""
    page_url: str
    """The day's page on the live server."""


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
        drift_from=_changed_since(recorded),
        incident=recorded["incident"],
        notify=news(recorded, store.decisions("monitor")),
        page_url=monitor_url(settings, day),
    )


def _decision(settings: Settings, recipe: Recipe, store: Store, day: date, key: str) -> dict[str, Any]:
    uri = monitor_root(settings, day)
    manifest = files.need_manifest(uri, f"monitor --day {day}")
    found = _read(settings, day)
    rules = Rules(**recipe.policy.model_dump())
    evidence = gather(found, store.decisions(), day, rules)
    decision = weigh(evidence, rules)
    return {
        "decision_key": key,
        "kind": "monitor",
        "action": decision.action,
        "reason": decision.reason,
        "run_key": f"{decision.action.lower()}-{day}" if decision.action in ACTED else None,
        "evidence_uri": files.join(uri, EVIDENCE),
        "evidence_hash": manifest["files"][EVIDENCE]["sha256"],
        "evidence": stored(evidence, rules, decision, found),
        "incident": decision.incident,
        "actor": ACTOR,
        "as_of": end_of(day),
        "created_at": datetime.now(UTC),
    }


def _changed_since(recorded: dict[str, Any]) -> str | None:
    """None too for a decision of an earlier Classy, which kept no evidence."""
    since = restored(recorded["evidence"])[0].changed_since if recorded["evidence"] else None
    return None if since is None else str(since)


def _read(settings: Settings, day: date) -> dict[str, Any]:
    found = read_evidence(settings, day)
    if found is None:
        raise ClassyError(
            f"{monitor_root(settings, day)}: no evidence there; make it with `classy monitor --day {day}`"
        )
    return found
