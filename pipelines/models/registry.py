"""MLflow's model registry: one version a judged run; its aliases are a projection of Classy's own tables.

Aliases have neither history nor compare-and-set (https://github.com/mlflow/mlflow/issues/2169), so nothing
in Classy reads them: they are there for people and for `models:/classy@champion`. `project` repairs them.
"""

import json
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from monitoring.stores import Store
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.settings import Settings

RUN_KEY = "classy.run_key"
GENERATION = "classy.generation"
CHAMPION, PREVIOUS, CONTENDER = "champion", "previous", "contender"
ABOUT = (
    "Made by Classy. `champion` is in production, `previous` was before it, `contender` was judged last. "
    "The aliases follow Classy's `deployments` table: change it with `classy promote` and `classy rollback`."
)


def version_of(client: MlflowClient, settings: Settings, run_id: str) -> str | None:
    """The version of this run's model, the first where there are several; None where it has none."""
    found = client.search_model_versions(f"name = '{settings.model_name}' AND run_id = '{run_id}'")
    return min((str(version.version) for version in found), key=int, default=None)


def register(client: MlflowClient, settings: Settings, run_id: str, tags: dict[str, str] | None = None) -> str:
    """The version of this run's packaged model; made, with these tags, where there is none yet.

    Raises:
        ClassyError: the run has no packaged model.
    """
    there = version_of(client, settings, run_id)
    if there is not None:
        return there
    model_uri = tracking.need_run(client, run_id).data.tags.get(tracking.MODEL_URI)
    if not model_uri:
        raise ClassyError(
            f"MLflow run {run_id}: has no model package; make it with `classy optimize --run-id {run_id}`"
        )
    _ensure_model(client, settings.model_name)
    model_id = model_uri.rsplit("/", 1)[-1]
    made = client.create_model_version(settings.model_name, model_uri, run_id=run_id, tags=tags, model_id=model_id)
    # The tag by which MLflow's page of a logged model links to its versions.
    link = json.dumps([{"name": settings.model_name, "version": int(made.version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
    return str(made.version)


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description=ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def describe(client: MlflowClient, settings: Settings, version: str, text: str, tags: dict[str, str]) -> None:
    """Write a version's description (Markdown) and tags; unchanged ones are not written again."""
    there = need_version(client, settings, version)
    if there.description != text:
        client.update_model_version(settings.model_name, version, description=text)
    _set_tags(client, settings, there, tags)


def _set_tags(client: MlflowClient, settings: Settings, there: ModelVersion, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        if there.tags.get(key) != value:
            client.set_model_version_tag(settings.model_name, there.version, key, value)


def need_version(client: MlflowClient, settings: Settings, version: str) -> ModelVersion:
    """The registry's entry of a version.

    Raises:
        ClassyError: it was deleted, or this is another registry.
    """
    try:
        return client.get_model_version(settings.model_name, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ClassyError(
            f"model {settings.model_name} version {version}: not in the registry at {settings.mlflow_uri}; "
            "was it deleted, or does CLASSY_MLFLOW_URI or CLASSY_MODEL_NAME point elsewhere?"
        ) from error


def project(client: MlflowClient, settings: Settings, store: Store) -> dict[str, str]:
    """Make the aliases, and the champion's generation tag, what the tables say. Safe to repeat.

    Returns:
        The aliases as they are now: alias → version.
    """
    wanted = _wanted(client, settings, store)
    if not wanted:
        return {}
    name = settings.model_name
    there = {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    for alias in (CHAMPION, PREVIOUS, CONTENDER):
        if alias in wanted and there.get(alias) != wanted[alias]:
            need_version(client, settings, wanted[alias])
            _set_alias(client, name, alias, wanted[alias])
        elif alias in there and alias not in wanted:
            client.delete_registered_model_alias(name, alias)
    if (current := store.current()) is not None:
        champion = need_version(client, settings, current["champion_version"])
        _set_tags(client, settings, champion, {GENERATION: str(current["generation"])})
    return wanted


def _set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    try:
        client.set_registered_model_alias(name, alias, version)
    except MlflowException:
        # MLflow reads, then inserts: of two that repair at once, the slower one's insert fails. That is no harm
        # where the alias is there by then.
        if str(client.get_registered_model(name).aliases.get(alias)) != version:
            raise


def _wanted(client: MlflowClient, settings: Settings, store: Store) -> dict[str, str]:
    wanted: dict[str, Any] = {}
    if (current := store.current()) is not None:
        wanted = {CHAMPION: current["champion_version"], PREVIOUS: current["previous_version"]}
    judged = max(store.decisions("judge"), key=lambda row: row["created_at"], default=None)
    # A contender that was promoted is none any more.
    if judged is not None and store.deployment_of(judged["run_key"]) is None:
        wanted[CONTENDER] = _judged_version(client, settings, judged["run_key"])
    return {alias: str(version) for alias, version in wanted.items() if version is not None}


def _judged_version(client: MlflowClient, settings: Settings, run_key: str) -> str | None:
    found = client.search_model_versions(f"name = '{settings.model_name}' AND tags.`{RUN_KEY}` = '{run_key}'")
    return max((str(version.version) for version in found), key=int, default=None)
