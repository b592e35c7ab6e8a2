"""Put an earlier generation's model back, as a new generation.

    classy rollback --reason TEXT [--to GENERATION] [--run-key KEY]

Before anything changes the old model must be able to serve: its version is in the registry, its package is the
one that was made, it was made for the features and images that the recipe makes today, and it answers. A model
that fails in one of them is refused, and the present one stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.tracking import MlflowClient

from monitoring import ledger
from monitoring.stores import LostRace, Store, open_store
from pipelines.errors import ClassyError
from pipelines.lineage.keeping import keep_chain
from pipelines.models import registry, tracking
from pipelines.models.fitness import data_time, need_fit
from pipelines.models.links import version_url
from pipelines.recipe import Recipe
from pipelines.settings import Settings


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
        LostRace: another change came in between, and no generation was named.
        ClassyError: the old model cannot serve, no reason was given, or the run key is a training's.
        ModelError: a file of the old package was changed.
    """
    if not reason.strip():
        raise ClassyError("a rollback needs a reason, for the ledger: --reason TEXT")
    client, store = tracking.connect(settings), open_store(settings.database_url)
    _need_own_key(store, run_key)
    row, changed, words = _switch(settings, recipe, client, store, to, reason, actor or settings.actor, run_key)
    registry.project(client, settings, store)
    keep_chain(settings, recipe, row["generation"])
    return RolledBack(
        generation=row["generation"],
        version=row["champion_version"],
        changed=changed,
        reason=words,
        version_url=version_url(settings, row["champion_version"]),
    )


def _need_own_key(store: Store, run_key: str) -> None:
    """A run key makes one generation: a rollback that took a training's would keep it from being promoted."""
    judged, there = store.decision(f"judge-{run_key}"), store.deployment_of(run_key)
    if judged is not None or (there is not None and there["kind"] != "rollback"):
        raise ClassyError(
            f"run key {run_key}: names a training, not a rollback; give another --run-key, or none to have one made"
        )


def _switch(
    settings: Settings,
    recipe: Recipe,
    client: MlflowClient,
    store: Store,
    to: int | None,
    reason: str,
    actor: str,
    run_key: str,
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
        _check(settings, recipe, client, target)
        back_to = f"back to generation {target['generation']}'s version {target['champion_version']}"
        change = ledger.Change(
            actor=actor,
            reason=f"{reason.strip()} ({back_to})",
            run_key=run_key,
            as_of=data_time(store, generations),
            created_at=datetime.now(UTC),
        )
        row = ledger.rollback(current, change, target=target)
        try:
            store.add_generation(row)
        except LostRace:
            continue
        return row, True, row["reason"]


def _check(settings: Settings, recipe: Recipe, client: MlflowClient, target: Mapping[str, Any]) -> None:
    version, run_id = target["champion_version"], target["champion_run_id"]
    need_fit(
        settings,
        recipe,
        client,
        version=version,
        run_id=run_id,
        who=f"generation {target['generation']} (version {version}, MLflow run {run_id})",
        act="Roll back",
        instead="to another generation with --to (`classy history`)",
    )
