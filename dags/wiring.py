"""What the DAG files share: running a step as a task, the two assets, links, and what to do on a failure.

Nothing here imports a step before a task runs, so the folder parses without torch, MLflow or Feast.
"""

import importlib
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Any

from airflow.sdk import Asset, BaseOperatorLink, XComArg, get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import Settings, load_settings
from pipelines.steps import STEPS

log = logging.getLogger(__name__)

FEATURES = Asset(name="classy_features", uri="classy://features", group="classy")
"""A day's features are in the store; the event's extra names the day."""
RETRAIN = Asset(name="classy_retrain", uri="classy://retrain", group="classy")
"""A contender is asked for; the event's extra holds run_key, as_of, drift_from and the reason."""

SETTINGS: Settings = load_settings()
RECIPE: Recipe = load_recipe(SETTINGS.recipe)
START = datetime.combine(RECIPE.replay.start, clock.min, UTC)
SCHEDULE: str | None = None if SETTINGS.schedule == "none" else SETTINGS.schedule


def on_failure(context: Any) -> None:
    """Say in the log what failed and how to run that step alone; an alert channel hooks in here."""
    ti = context["ti"]
    step = ti.task_id.rsplit(".", 1)[-1]
    alone = f" The step alone: `classy {step} --help`." if step in STEPS else ""
    log.error(
        "%s.%s failed in run %s: %s.%s Mend the cause, then clear the task to run it again.",
        ti.dag_id, ti.task_id, ti.run_id, context.get("exception"), alone,
    )  # fmt: skip


DEFAULTS: dict[str, Any] = {
    "owner": "classy",
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=10),
    "execution_timeout": timedelta(hours=1),
    "on_failure_callback": on_failure,
}


_LINKS: dict[str, str] = {}


class Link(BaseOperatorLink):
    """A button on the task's page. `run_step` fills it from the receipt in the task's own process."""

    def __init__(self, name: str, field: str) -> None:
        self._name, self.field = name, field

    @property
    def name(self) -> str:
        return self._name

    @property
    def xcom_key(self) -> str:
        return f"_link_{self.field}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return _LINKS.get(self.field, "")


def linked(result: Any, **links: str) -> Any:
    """Give a task buttons: `linked(monitor(), report_url="Drift report")` shows the receipt's field."""
    if isinstance(result, XComArg):
        result.operator.operator_extra_links = tuple(Link(name, field) for field, name in links.items())
    return result


def run_step(name: str, **arguments: Any) -> dict[str, Any]:
    """Run `pipelines/NAME.py` here and return its receipt as a dict.

    The seconds of work go beside it (XCom `work_s`): what the task took beyond them is orchestration's.
    Importing the step is not work.
    """
    step = importlib.import_module(f"pipelines.{name}")
    settings = load_settings()
    recipe = load_recipe(settings.recipe)
    started = time.perf_counter()
    receipt = asdict(step.run(settings, recipe, **arguments))
    seconds = time.perf_counter() - started
    get_current_context()["ti"].xcom_push("work_s", round(seconds, 3))
    _LINKS.update({key: value for key, value in receipt.items() if key.endswith("_url") and value})
    log.info("%s took %.2f s: %s", name, seconds, receipt)
    return receipt


def task_page() -> str:
    """Where people see the task that runs here."""
    return get_current_context()["ti"].log_url


def skip_unless(wanted: bool, reason: str) -> None:
    """End the task as skipped, and with it what follows, by a verdict that is not an error."""
    if not wanted:
        raise AirflowSkipException(reason)


def receipts(pulled: Any) -> list[dict[str, Any]]:
    """What the instances of a mapped group returned. Airflow gives that of one alone without a list, of none as None."""
    if pulled is None:
        return []
    return [pulled] if isinstance(pulled, Mapping) else [receipt for receipt in pulled if receipt]


def extras(asset: Asset) -> list[dict[str, Any]]:
    """The extras of the events that triggered this run, oldest first, each once.

    One run may carry several events, and an event may come twice: Airflow promises neither once nor alone.
    """
    events = get_current_context()["triggering_asset_events"].get(asset, ())
    seen: dict[str, dict[str, Any]] = {}
    for event in sorted(events, key=lambda event: event.timestamp):
        seen.setdefault(repr(sorted(event.extra.items())), dict(event.extra))
    return list(seen.values())


def as_utc(text: str) -> datetime:
    """`2026-03-07` or an ISO time as aware UTC."""
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def as_day(text: str) -> date:
    return date.fromisoformat(text[:10])
