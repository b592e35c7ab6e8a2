"""Let the loop ask for contenders again, after it gave up and called a person.

    classy resume --reason TEXT

Forgets the contenders that were not promoted and what a person was called for; nothing else changes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from monitoring.stores import open_store
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumed:
    decision_key: str
    changed: bool
    """False where there was nothing to take up again."""


def run(settings: Settings, recipe: Recipe, *, reason: str, actor: str | None = None) -> Resumed:
    """Record a decision of kind "resume" right after the newest one.

    Raises:
        ClassyError: no reason was given, or nothing was decided yet.
    """
    if not reason.strip():
        raise ClassyError("resuming needs a reason, for the ledger: --reason TEXT")
    store = open_store(settings.database_url)
    decisions = store.decisions()
    if not decisions:
        raise ClassyError("nothing was decided yet, so there is nothing to resume")
    newest = decisions[-1]
    if newest["kind"] == "resume":
        return Resumed(decision_key=newest["decision_key"], changed=False)
    # Data time is the clock: a moment after what it answers, so that it is read in this order for ever.
    as_of = newest["as_of"] + timedelta(microseconds=1)
    key = f"resume-{as_of.isoformat()}"
    store.record_decision(
        {
            "decision_key": key,
            "kind": "resume",
            "action": "RESUME",
            "reason": reason.strip(),
            "run_key": None,
            "evidence_uri": None,
            "evidence_hash": None,
            "evidence": None,
            "incident": None,
            "actor": actor or settings.actor,
            "as_of": as_of,
            "created_at": datetime.now(UTC),
        }
    )
    return Resumed(decision_key=key, changed=True)
