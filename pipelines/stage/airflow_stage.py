"""The story under a real scheduler: this only triggers a day's run and waits; the DAGs do the rest."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time

from monitoring.stores import open_store
from pipelines.errors import ClassyError
from pipelines.loop import FIRST
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.stage.airflow_client import DONE, AirflowClient, wait_until
from pipelines.stage.stack import Stack

DAGS = {"classy_data", "classy_scoring", "classy_training", "classy_rollback"}
PATIENCE_S = 1800.0
"""Longest wait for one day or one training."""


@dataclass
class AirflowStage:
    settings: Settings
    recipe: Recipe
    stack: Stack
    client: AirflowClient
    say: Callable[[str], None] = field(default=print)

    def open(self) -> None:
        """Wait until the DAGs are parsed, then let them run."""

        def parsed() -> bool:
            if errors := self.client.import_errors():
                raise ClassyError("a DAG file does not parse: " + "\n".join(errors))
            return self.client.known_dags() >= DAGS

        self._wait(parsed, "parsing the DAGs", 120)
        for dag_id in sorted(DAGS):
            self.client.pause(dag_id, False)
        self.store = open_store(self.settings.database_url)

    def _wait(self, check: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        wait_until(self.client, check, what=what, timeout_s=timeout_s, alive=self.stack.need_alive)

    def _trigger_day(self, day: date) -> None:
        self.client.trigger(
            "classy_data", run_id=f"day-{day}", logical_date=datetime.combine(day, time.min, UTC), conf={}
        )

    def bring_in(self, days: list[date]) -> None:
        for day in days:
            self._trigger_day(day)
        self._wait(self.client.settled, f"gathering {days[0]} to {days[-1]}")

    def first_champion(self, known_by: datetime) -> None:
        conf = {"as_of": known_by.isoformat(), "reason": "the first champion", "approval": False}
        self.client.trigger("classy_training", run_id=FIRST, logical_date=None, conf=conf)
        self._wait(self.client.settled, "training the first champion")
        if self.store.current() is None:
            verdict = self.store.decision(f"judge-{FIRST}")
            raise ClassyError(f"the first contender was not promoted: {verdict['reason'] if verdict else 'no verdict'}")

    def live(self, day: date) -> None:
        self._trigger_day(day)
        self._wait(lambda: self._settled(day), f"the day {day}")
        decided = self.store.decision(f"monitor-{day}")
        if decided:
            self.say(f"{day}: {decided['action']}: {decided['reason']}")

    def _settled(self, day: date) -> bool:
        """The day is decided, a retraining that it asked for is judged, and no run is open."""
        data = [run for run in self.client.runs() if run["dag_run_id"] == f"day-{day}"]
        if not data or data[0]["state"] not in DONE:
            return False
        decided = self.store.decision(f"monitor-{day}")
        if decided is None:
            return False
        if decided["action"] == "RETRAIN" and self.store.decision(f"judge-{decided['run_key']}") is None:
            return False
        return self.client.settled()
