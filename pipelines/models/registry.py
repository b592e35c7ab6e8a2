"""MLflow's model registry: one version a judged run; its aliases are a projection of Classy's own tables.

Aliases have neither history nor compare-and-set (https://github.com/mlflow/mlflow/issues/2169), so nothing
in Classy reads them: they are there for people and for `models:/classy@champion`. `project` repairs them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from monitoring import ledger
from monitoring.stores import Store
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.settings import Settings

RUN_KEY = "classy.run_key"
GENERATION = "classy.generation"
CHAMPION, PREVIOUS, CONTENDER, CANARY, SHADOW = "champion", "previous", "contender", "canary", "shadow"
ABOUT = (
    "Made by Classy. `champion` is in production, `previous` was before it, `contender` was judged last, `canary` and "
    "`shadow` answer beside the champion. The aliases follow Classy's `deployments` table: change it with "
    "`classy promote`, `classy rollback` and `classy canary`."
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
            _twice(partial(client.set_model_version_tag, settings.model_name, there.version, key, value))


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
    """Make the aliases, and the generation tag of every version that has served, what the tables say.

    Safe to repeat, and beside others that do the same: whoever wrote what is out of date by now writes again.
    Aliases that are not Classy's own are left alone. A version that MLflow lost gets none, unless it is the
    champion: then everything else is put right first.

    Returns:
        The aliases as they are now: alias → version.

    Raises:
        ClassyError: the registered model, or the champion's version, is not in the registry.
    """
    wanted = _wanted(client, settings, store)
    while True:
        there = _apply(client, settings, wanted)
        meant, wanted = wanted, _wanted(client, settings, store)
        if wanted == meant:
            break
    if CHAMPION in wanted.aliases and CHAMPION not in there:
        need_version(client, settings, wanted.aliases[CHAMPION])
    return there


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """What the tables say that the registry should show."""

    aliases: Mapping[str, str]
    """Alias → version."""
    generations: Mapping[str, int]
    """Version → the newest generation that it was the champion of."""


def _wanted(client: MlflowClient, settings: Settings, store: Store) -> _Wanted:
    generations = store.generations()
    aliases: dict[str, str | None] = {}
    if generations:
        now = generations[-1]
        aliases = {CHAMPION: now["champion_version"], PREVIOUS: now["previous_version"]}
        aliases |= {CANARY: now["canary_version"], SHADOW: now["shadow_version"]}
    judged = max(store.decisions("judge"), key=lambda row: row["created_at"], default=None)
    # A contender that was promoted is none any more, be it under its own run key or as a canary.
    if judged is not None and not any(
        row["run_key"] == judged["run_key"] or row["evidence_hash"] == judged["evidence_hash"] for row in generations
    ):
        aliases[CONTENDER] = _judged_version(client, settings, judged["run_key"])
    return _Wanted(
        aliases={alias: str(version) for alias, version in aliases.items() if version is not None},
        generations=ledger.last_served(generations),
    )


def _judged_version(client: MlflowClient, settings: Settings, run_key: str) -> str | None:
    found = client.search_model_versions(f"name = '{settings.model_name}' AND tags.`{RUN_KEY}` = '{run_key}'")
    return max((str(version.version) for version in found), key=int, default=None)


def _apply(client: MlflowClient, settings: Settings, wanted: _Wanted) -> dict[str, str]:
    """Write what differs; give the aliases that could be had. The champion's first: it is the one that people load."""
    if not wanted.aliases:
        return {}
    name = settings.model_name
    versions = {str(version.version): version for version in _versions(client, name)}
    there = _aliases(client, settings)
    possible = {alias: version for alias, version in wanted.aliases.items() if version in versions}
    for alias in (CHAMPION, PREVIOUS, CONTENDER, CANARY, SHADOW):
        if alias in possible and there.get(alias) != possible[alias]:
            _twice(partial(client.set_registered_model_alias, name, alias, possible[alias]))
        elif alias in there and alias not in possible:
            _twice(partial(client.delete_registered_model_alias, name, alias))
    for number, version in versions.items():
        if number in wanted.generations:
            _set_tags(client, settings, version, {GENERATION: str(wanted.generations[number])})
        elif GENERATION in version.tags:
            _twice(partial(client.delete_model_version_tag, name, number, GENERATION))
    return possible


def _versions(client: MlflowClient, name: str) -> Iterator[ModelVersion]:
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _aliases(client: MlflowClient, settings: Settings) -> dict[str, str]:
    try:
        model = client.get_registered_model(settings.model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ClassyError(
            f"model {settings.model_name}: not in the registry at {settings.mlflow_uri}; was it deleted or renamed, or "
            "does CLASSY_MLFLOW_URI or CLASSY_MODEL_NAME point elsewhere?"
        ) from error
    return {alias: str(version) for alias, version in model.aliases.items()}


def _twice(write: Callable[[], object]) -> None:
    """MLflow looks, then inserts: of two that repair at once the slower one fails, and its second try overwrites."""
    try:
        write()
    except MlflowException:
        write()
