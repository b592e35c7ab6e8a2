"""Contenders with a verdict, without the judging: real packages, registry versions, evidence and decisions.

And processes to promote them in, forked from one that has imported everything and opened nothing, so that one of them
can be killed anywhere.
"""

import hashlib
import importlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from sqlalchemy import Engine, event, make_url
from sqlalchemy.orm import configure_mappers

from monitoring import stores
from monitoring.stores import open_store
from pipelines import files, promote, rollback
from pipelines.data.features import SERVICE, service_hash
from pipelines.data.images import spec_of
from pipelines.models import judgement, registry, tracking
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.judged import Plan, log_model

AS_OF = datetime(2026, 3, 5, tzinfo=UTC)
PLAN = Plan(golden=0.9, fresh=0.9)

# The children's parent imports this module, and with it all that a promotion needs, once: what MLflow and SQLAlchemy
# import on first use is named here.
for _name in (
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.protos.internal_pb2",
    "mlflow.tracing.export.mlflow_v3",
    "mlflow.tracing.processor.mlflow_v3",
    "opentelemetry.sdk.metrics",
    "sqlalchemy.dialects.sqlite",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "alembic.command",
    "monitoring.migrations",
    "pipelines.lineage.events",
    "psycopg2",
):
    importlib.import_module(_name)
configure_mappers()
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "tests.promotions"])


def plant(settings: Settings, recipe: Recipe, name: str, **card: Any) -> str:
    """A run with a package that the recipe's server would take; gives its id. `card` changes fields of its card."""
    mine = {
        "service": SERVICE,
        "service_hash": service_hash(recipe),
        "image_spec_hash": spec_of(recipe).digest(),
        "recipe_hash": recipe.digest(),
    }
    return log_model(settings, recipe, name, PLAN, 0, **{**mine, **card})


def rule(
    settings: Settings, recipe: Recipe, run_id: str, run_key: str, *, verdict: str = "PROMOTE", day: int = 0
) -> str:
    """A verdict on a run against the present champion, as `evaluate` leaves it; gives the version."""
    client, store = tracking.connect(settings), open_store(settings.database_url)
    current = store.current()
    version = registry.register(client, settings, run_id, {registry.RUN_KEY: run_key})
    client.set_model_version_tag(settings.model_name, version, registry.RUN_KEY, run_key)
    folder = judgement.folder_of(settings, run_key)
    text = json.dumps(_evidence(recipe, run_id, version, run_key, verdict, current))
    with files.new_partition(folder) as draft:
        (draft.folder / judgement.FILE).write_text(text)
    store.record_decision(
        {
            "decision_key": f"judge-{run_key}",
            "kind": "judge",
            "action": verdict,
            "reason": "Better on test rows.",
            "run_key": run_key,
            "evidence_uri": files.join(folder, judgement.FILE),
            "evidence_hash": hashlib.sha256(text.encode()).hexdigest(),
            "actor": settings.actor,
            "as_of": AS_OF + timedelta(days=day),
            "created_at": datetime.now(UTC),
        }
    )
    registry.project(client, settings, store)
    return version


def _evidence(
    recipe: Recipe, run_id: str, version: str, run_key: str, verdict: str, current: dict[str, Any] | None
) -> dict[str, Any]:
    """A verdict without its numbers: a promotion reads none of them."""
    nobody = dict.fromkeys(("run_id", "version", "candidate", "model", "trained_on", "val", "run_url"))
    champion = {"run_id": current["champion_run_id"], "version": current["champion_version"]} if current else {}
    return {
        "format": 2,
        "run_key": run_key,
        "recipe": recipe.name,
        "recipe_hash": recipe.digest(),
        "verdict": verdict,
        "reasons": ["Better on test rows."],
        "findings": [],
        "contender": {**nobody, "kind": "contender", "run_id": run_id, "version": version, "candidate": "made-up"},
        "opponent": {**nobody, "kind": "champion" if current else "guess", **champion},
        "champion_version": champion.get("version"),
        "snapshot": {"id": "made-up", "uri": "made-up", "as_of": AS_OF.isoformat(), "counts": {}, "partitions": []},
        "golden": {"hash": "made-up", "rows": 0, "uses": 1},
        "comparisons": dict.fromkeys(("golden", "fresh", "drifted", "pooled")),
        "ratios": [],
        "slices": [],
        "behaviour": [],
        "seeds": None,
    }


# ----------------------------------------------------------------------------------------- what is there now


def shown(settings: Settings, client: MlflowClient | None = None) -> dict[str, Any]:
    """What the registry shows: aliases, and the generation tag of each version that has one."""
    client = client or tracking.connect(settings)
    versions = client.search_model_versions(f"name = '{settings.model_name}'")
    tags = {str(version.version): version.tags.get(registry.GENERATION) for version in versions}
    aliases = client.get_registered_model(settings.model_name).aliases
    return {
        "aliases": {alias: str(version) for alias, version in aliases.items()},
        "tags": {version: int(number) for version, number in tags.items() if number is not None},
    }


def told(settings: Settings) -> dict[str, Any]:
    """What the registry should show, by the tables alone."""
    store = open_store(settings.database_url)
    rows = store.generations()
    current = rows[-1]
    aliases = {"champion": current["champion_version"], "previous": current["previous_version"]}
    last = max(store.decisions("judge"), key=lambda row: row["created_at"])
    if store.deployment_of(last["run_key"]) is None:
        aliases["contender"] = judgement.of_decision(last)["contender"]["version"]
    return {
        "aliases": {alias: version for alias, version in aliases.items() if version is not None},
        "tags": {row["champion_version"]: row["generation"] for row in rows},
    }


def disorder(settings: Settings) -> list[str]:
    """What is wrong with the ledger, in words; empty where generations are dense and each run key made one."""
    rows = open_store(settings.database_url).generations()
    numbers, keys = [row["generation"] for row in rows], [row["run_key"] for row in rows]
    wrong = []
    if numbers != list(range(1, len(rows) + 1)):
        wrong.append(f"generations {numbers}")
    if len(set(keys)) != len(keys):
        wrong.append(f"run keys {keys}")
    for before, after in pairwise(rows):
        if after["previous_version"] != before["champion_version"]:
            wrong.append(f"generation {after['generation']} says that {after['previous_version']} was before it")
    return wrong


# -------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a process ended: its exit code, and what it sent last (an answer, or an error in words)."""

    exit_code: int
    answer: Any = None
    error: str = ""

    @property
    def killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL


def in_a_process(work: Callable[..., Any], *arguments: Any) -> Ended:
    """Run a function of a module in a fresh process; give what it returned, or how it ended."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_answer, args=(sender, work, arguments))
    child.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        found = {}
    child.join()
    assert child.exitcode is not None
    return Ended(exit_code=child.exitcode, **found)


def _answer(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        found = {"answer": work(*arguments)}
    except Exception as error:  # noqa: BLE001  whatever it is, the test shows it
        found = {"error": f"{type(error).__name__}: {error}"}
    sender.send(found)


def promote_it(settings: Settings, recipe: Recipe, run_key: str, *, approved_by: str | None = None) -> int:
    """The generation that it made, now or before."""
    made = promote.run(settings, recipe, run_key=run_key, approved_by=approved_by).generation
    assert made is not None
    return made


def roll_back(settings: Settings, recipe: Recipe, run_key: str, *, to: int | None = None) -> int:
    return rollback.run(settings, recipe, reason="worse in the shop", run_key=run_key, to=to).generation


# ------------------------------------------------------------------------------------------------- every write

WRITES = ("set_", "delete_", "update_", "create_", "rename_", "restore_", "log_", "transition_")


class Points:
    """Counts the places around every write of this process, and kills it at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at = kill_at
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        if len(self.names) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)


def at_every_write(step: Callable[..., Any], kill_at: int | None, *arguments: Any) -> list[str]:
    """Run a step that is killed at the nth place around a write; None runs it through and gives the places' names."""
    points = Points(kill_at)
    with _store_tells(points), _mlflow_tells(points):
        step(*arguments)
    return points.names


@contextmanager
def _store_tells(points: Points) -> Iterator[None]:
    """Before and after each INSERT, UPDATE and DELETE on Classy's own database, and each commit of one."""
    make = stores.make_engine

    def told_of(url: str) -> Engine:
        engine = make(url)
        last = [""]

        def around(when: str, statement: str) -> None:
            words = statement.split()
            if words[0] in ("INSERT", "UPDATE", "DELETE"):
                last[0] = words[2] if words[0] != "UPDATE" else words[1]
                points(f"{when} {words[0]} {last[0]}")

        @event.listens_for(engine, "before_cursor_execute")
        def _before(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            around("before", statement)

        @event.listens_for(engine, "after_cursor_execute")
        def _after(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            around("after", statement)

        commit = engine.dialect.do_commit

        def _commit(connection: Any) -> None:
            points(f"before COMMIT {last[0]}")
            commit(connection)
            points(f"after COMMIT {last[0]}")

        engine.dialect.do_commit = _commit  # type: ignore[method-assign]
        return engine

    stores.make_engine = told_of
    try:
        yield
    finally:
        stores.make_engine = make


@contextmanager
def _mlflow_tells(points: Points) -> Iterator[None]:
    """Before and after each call that writes to MLflow."""
    kept = {name: getattr(MlflowClient, name) for name in dir(MlflowClient) if name.startswith(WRITES)}

    def around(name: str, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        what = " ".join([name, *map(str, arguments[2:4])])
        points(f"before {what}")
        found = call(*arguments, **more)
        points(f"after {what}")
        return found

    for name, call in kept.items():
        setattr(MlflowClient, name, _method(partial(around, name, call)))
    try:
        yield
    finally:
        for name, call in kept.items():
            setattr(MlflowClient, name, call)


def _method(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *arguments, **more: call(self, *arguments, **more)


def state_files(settings: Settings) -> list[Path]:
    """The SQLite files that Classy and MLflow have, with what is still in their logs."""
    urls = [make_url(url) for url in (settings.database_url, settings.mlflow_uri)]
    paths = [Path(url.database or "") for url in urls if url.get_backend_name() == "sqlite"]
    return [file for path in paths for file in path.parent.glob(f"{path.name}*")]
