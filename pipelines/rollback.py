"""Put an earlier generation's model back, as a new generation.

    classy rollback --reason TEXT [--to GENERATION] [--run-key KEY]

The old package is fetched, its hashes are checked and it answers once before anything changes: a model
that would not load is refused, and the present one stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from monitoring import ledger
from monitoring.stores import LostRace, Store, open_store
from pipelines.errors import ClassyError
from pipelines.models import registry, tracking
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.runtime import load_model


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack:
    generation: int
    version: str
    changed: bool
    """False where this run key had rolled back before, or that version serves anyway."""
    reason: str
    version_url: str


def run(
    settings: Settings, recipe: Recipe, *, to: int | None = None, reason: str, actor: str | None = None, run_key: str
) -> RolledBack:
    """Roll back to the model before the current one, or to a named generation's.

    Args:
        to: a generation; None takes the one before the current model was promoted.
        reason: why, for the ledger.
        actor: who; default CLASSY_ACTOR.
        run_key: names this rollback; the same key twice rolls back once.

    Raises:
        LedgerError: nothing to roll back to, or no such generation.
        ClassyError: the old package is gone or was changed, or no reason was given.
    """
    if not reason.strip():
        raise ClassyError("a rollback needs a reason, for the ledger: --reason TEXT")
    client, store = tracking.connect(settings), open_store(settings.database_url)
    row, changed, words = _switch(settings, client, store, to, reason, actor or settings.actor, run_key)
    registry.project(client, settings, store)
    return RolledBack(
        generation=row["generation"],
        version=row["champion_version"],
        changed=changed,
        reason=words,
        version_url=version_url(settings, row["champion_version"]),
    )


def _switch(
    settings: Settings, client: MlflowClient, store: Store, to: int | None, reason: str, actor: str, run_key: str
) -> tuple[dict[str, Any], bool, str]:
    """The generation that serves now, whether it is new, and in words."""
    meant: int | None = None
    while True:
        # In this order: a generation that appears after the first look makes the insert below lose.
        generations = store.generations()
        if (there := store.deployment_of(run_key)) is not None:
            return there, False, f"run key {run_key} is generation {there['generation']} already"
        target = ledger.rollback_target(generations, to)
        current = generations[-1]
        if meant is not None and current["generation"] != meant and to is None:
            raise LostRace(
                f"generation {current['generation']} ({current['kind']} by {current['actor']}) came in between; "
                "nothing was rolled back. Look with `classy status`, then do it again or name a generation with --to"
            )
        meant = current["generation"]
        if target["champion_version"] == current["champion_version"]:
            return current, False, f"version {current['champion_version']} serves already, since generation {meant}"
        _check_package(settings, client, target)
        back_to = f"back to generation {target['generation']}'s version {target['champion_version']}"
        change = ledger.Change(
            actor=actor,
            reason=f"{reason.strip()} ({back_to})",
            run_key=run_key,
            as_of=_data_time(store, generations),
            created_at=datetime.now(UTC),
        )
        row = ledger.rollback(current, change, target=target)
        try:
            store.add_generation(row)
        except LostRace:
            continue
        return row, True, row["reason"]


def _check_package(settings: Settings, client: MlflowClient, target: Mapping[str, Any]) -> None:
    """Fetch, verify, load, and answer once.

    Raises:
        ClassyError, ModelError: any of them fails; nothing was changed.
    """
    run_id = target["champion_run_id"]
    package = tracking.fetch_package(settings, run_id)
    wanted = tracking.need_run(client, run_id).data.tags.get(tracking.PACKAGE_SHA256)
    model = load_model(package, threads=settings.threads)
    if model.sha256 != wanted:
        raise ClassyError(
            f"generation {target['generation']}, MLflow run {run_id}: its package's manifest has SHA-256 "
            f"{model.sha256}, the run says {wanted}; it was changed, so production stays as it is. "
            f"Remove {package} to fetch it again"
        )
    answer = model.predict(np.zeros((1, model.size, model.size, 3), np.uint8), np.zeros((1, model.width), np.float32))
    if not np.isfinite(answer.probabilities).all():
        raise ClassyError(
            f"generation {target['generation']}, {package}: answers {answer.probabilities.tolist()} to a black photo; "
            "production stays as it is"
        )


def _data_time(store: Store, generations: list[dict[str, Any]]) -> datetime:
    """How far data time has come: a rollback is asked for now, whatever day the replay is at."""
    return max(row["as_of"] for row in [*generations, *store.decisions()])
