"""Make a judged contender the champion: one new generation, taken by exactly one promotion.

    classy promote --run-key KEY [--approved-by NAME] [--reason TEXT]

The row in `deployments` is the promotion; the aliases in MLflow follow it. Killed in between, the same
command repairs them. A promotion that comes second is refused where the champion it was judged against
is not the champion any more: its verdict is about another model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from monitoring import ledger
from monitoring.stores import LostRace, Store, open_store
from pipelines.errors import ClassyError
from pipelines.models import judgement, registry, tracking
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Promoted:
    generation: int
    version: str
    changed: bool
    """False where this run key had been promoted before."""
    reason: str
    version_url: str


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    run_key: str,
    actor: str | None = None,
    reason: str = "",
    approved_by: str | None = None,
) -> Promoted:
    """Promote the contender that was judged under `run_key`.

    Args:
        run_key: of the judgement; promoting it twice changes nothing.
        actor: who does it, for the ledger; default CLASSY_ACTOR.
        reason: why, beside the judge's own reasons.
        approved_by: the person who approved it, recorded as a decision of its own.

    Raises:
        ClassyError: not judged, the verdict is not PROMOTE, an approval is missing, or another champion
            was promoted since it was judged.
    """
    client, store = tracking.connect(settings), open_store(settings.database_url)
    judged = _need_verdict(store, run_key)
    found = judgement.of_decision(judged)
    _approve(store, recipe, judged, approved_by)
    row, changed = _take(settings, store, judged, found, actor=actor or settings.actor, reason=reason)
    registry.project(client, settings, store)
    return Promoted(
        generation=row["generation"],
        version=row["champion_version"],
        changed=changed,
        reason=row["reason"] if changed else f"run key {run_key} is generation {row['generation']} already",
        version_url=version_url(settings, row["champion_version"]),
    )


def _need_verdict(store: Store, run_key: str) -> dict[str, Any]:
    judged = store.decision(f"judge-{run_key}")
    if judged is None:
        raise ClassyError(
            f"run key {run_key}: nothing was judged under it; run `classy evaluate --run-key {run_key} …`"
        )
    if judged["action"] != "PROMOTE":
        raise ClassyError(
            f"run key {run_key}: the verdict is {judged['action']}, so nothing is promoted. {judged['reason']}"
        )
    return judged


def _approve(store: Store, recipe: Recipe, judged: Mapping[str, Any], approved_by: str | None) -> None:
    """Record the approval; demand one where the recipe does."""
    key = f"approval-{judged['run_key']}"
    if approved_by:
        store.record_decision(
            {
                **{name: judged[name] for name in ("run_key", "evidence_uri", "evidence_hash", "as_of")},
                "decision_key": key,
                "kind": "approval",
                "action": "APPROVE",
                "reason": f"approved by {approved_by} on the judge's evidence",
                "actor": approved_by,
                "created_at": datetime.now(UTC),
            }
        )
    elif recipe.gates.approval and store.decision(key) is None:
        raise ClassyError(
            f"run key {judged['run_key']}: recipe {recipe.name} has gates.approval = true and nobody approved it; "
            "approve it in Airflow, or give --approved-by NAME"
        )


def _take(
    settings: Settings, store: Store, judged: Mapping[str, Any], found: Mapping[str, Any], *, actor: str, reason: str
) -> tuple[dict[str, Any], bool]:
    """The generation of this run key, and whether it is new. Tries again while the champion stays the same."""
    run_key = judged["run_key"]
    because = " ".join(part for part in (reason and f"{reason.rstrip('.')}.", found["reasons"][0]) if part)
    while True:
        # In this order: a generation that appears after the first look makes the insert below lose.
        current = store.current()
        if (there := store.deployment_of(run_key)) is not None:
            return there, False
        _still_champion(current, found, run_key)
        row = ledger.promotion(
            current,
            ledger.Change(
                actor=actor, reason=because, run_key=run_key, as_of=judged["as_of"], created_at=datetime.now(UTC)
            ),
            version=found["contender"]["version"],
            run_id=found["contender"]["run_id"],
            evidence_uri=judged["evidence_uri"],
            evidence_hash=judged["evidence_hash"],
        )
        try:
            store.add_generation(row)
        except LostRace:
            continue
        return row, True


def _still_champion(current: Mapping[str, Any] | None, found: Mapping[str, Any], run_key: str) -> None:
    judged_against = found["champion_version"]
    now = current["champion_version"] if current else None
    if now == judged_against:
        return
    before = f"champion version {judged_against}" if judged_against else "no champion"
    assert current is not None  # noqa: S101  generations are never taken away
    raise ClassyError(
        f"run key {run_key} was judged against {before}, but version {now} is the champion since generation "
        f"{current['generation']} ({current['kind']} by {current['actor']}, run key {current['run_key']}). "
        "Judge it again against that one: `classy evaluate` with a new --run-key"
    )
