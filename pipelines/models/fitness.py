"""May this version serve: before a rollback, a canary or a shadow changes anything, the model must be able to.

Its version is in the registry, its package is the one that was made, it was made for the features and images that the
recipe makes today, and it answers.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from monitoring.stores import Store
from pipelines.data.images import spec_of
from pipelines.errors import ClassyError
from pipelines.models import registry, tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.runtime import load_model

STAYS = "production stays as it is"


def need_fit(
    settings: Settings,
    recipe: Recipe,
    client: MlflowClient,
    *,
    version: str,
    run_id: str,
    who: str,
    act: str,
    instead: str,
) -> None:
    """Find the version, fetch its package, verify it, compare it with the recipe, load it, and let it answer once.

    Args:
        who: how a message calls the model.
        act: what is being done, such as "Roll back", and `instead`: what else can be, for a model of another recipe.

    Raises:
        ClassyError, ModelError: any of them fails; nothing was changed.
    """
    registry.need_version(client, settings, version)
    package = tracking.fetch_package(settings, run_id)
    wanted = tracking.need_run(client, run_id).data.tags.get(tracking.PACKAGE_SHA256)
    model = load_model(package, threads=settings.threads)
    if model.sha256 != wanted:
        raise ClassyError(
            f"{who}: its package's manifest has SHA-256 {model.sha256}, the run says {wanted}; it was changed, so "
            f"{STAYS}. Remove {package} to fetch it again"
        )
    if differences := _unlike(recipe, model.card):
        raise ClassyError(
            f"{who}: was made for {' and '.join(differences)}; {STAYS}. {act} with the recipe it was trained "
            f"with (hash {model.card.get('recipe_hash', 'unknown')}), or {instead}"
        )
    answer = model.predict(np.zeros((1, model.size, model.size, 3), np.uint8), np.zeros((1, model.width), np.float32))
    if not np.isfinite(answer.probabilities).all():
        raise ClassyError(f"{who}, {package}: answers {answer.probabilities.tolist()} to a black photo; {STAYS}")


def _unlike(recipe: Recipe, card: Mapping[str, Any]) -> list[str]:
    """In what the model's inputs are not those that the recipe makes today; then it would answer nonsense."""
    # Feast takes seconds to import, and only a change of production that gets here needs it.
    from pipelines.data.features import SERVICE, service_hash

    pairs = [
        ("feature service", f"{card['service']} {card['service_hash']}", f"{SERVICE} {service_hash(recipe)}"),
        ("image spec", card["image_spec_hash"], spec_of(recipe).digest()),
        ("classes", ", ".join(card["classes"]), ", ".join(recipe.taxonomy.classes)),
    ]
    return [f"{name} {its} (recipe {recipe.name} has {ours})" for name, its, ours in pairs if its != ours]


def data_time(store: Store, generations: Sequence[Mapping[str, Any]]) -> datetime:
    """How far data time has come: such a change is asked for now, whatever day the replay is at."""
    return max(row["as_of"] for row in [*generations, *store.decisions()])
