"""Model behaviour and code: the loop under a real scheduler and a real MLflow server, with accidents on the way.

One story, told once for all tests of this file: history, a first training whose process is killed, ordinary days, the
change, the retraining it asks for, a day that is triggered twice, a rollback by form, and a broken day.
"""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic

import pytest

from monitoring.stores import Store, open_store
from pipelines.errors import ClassyError
from pipelines.loop import FIRST, play, story_days
from pipelines.models.evidence import end_of
from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import load_settings
from pipelines.stage.airflow_client import DONE, AirflowClient, wait_until
from pipelines.stage.airflow_stage import AirflowStage
from pipelines.stage.stack import Stack
from pipelines.stage.summary import Summary, summarise

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

RECIPE = Path(__file__).parent / "recipes" / "airflow.toml"


READING_S = 3.0


@dataclass
class Told:
    """What is left when the story is over; the stack is still up."""

    summary: Summary
    store: Store
    client: AirflowClient
    stage: "EventfulStage"
    home: Path


class EventfulStage(AirflowStage):
    """A stage with accidents: the first training is killed once it has a checkpoint, and a person must approve."""

    killed_at_epoch = 0
    asked = ""
    waiting_since = 0.0

    def first_champion(self, known_by: datetime) -> None:
        conf = {"as_of": known_by.isoformat(), "reason": "the first champion", "approval": True}
        self.client.trigger("classy_training", run_id=FIRST, logical_date=None, conf=conf)
        self._wait(self._kill_once, "a checkpoint to kill at", 300)
        self._wait(self._approve_and_quiet, "the first champion", 300)

    def _kill_once(self) -> bool:
        progress = self.settings.home / "runs" / FIRST / "resnet" / "progress.json"
        if not progress.exists() or (seen := json.loads(progress.read_text()))["epoch"] < 2:
            return False
        os.kill(seen["pid"], signal.SIGKILL)
        self.killed_at_epoch = seen["epoch"]
        return True

    def _approve_and_quiet(self) -> bool:
        path = f"/dags/classy_training/dagRuns/{FIRST}/taskInstances/approve"
        if self.client.get(path)["state"] != "awaiting_input":
            self.waiting_since = 0.0
            return self._quiet() and bool(self.asked)
        # A person takes some seconds to read. An answer within the same second meets the scheduler while it still
        # tidies up after the task that asked, and Airflow 3.3 then takes the resumed task for lost and retries it.
        self.waiting_since = self.waiting_since or monotonic()
        if monotonic() - self.waiting_since >= READING_S:
            question = f"{path}/-1/hitlDetails"
            self.asked = self.client.get(question)["body"]
            answer = {"chosen_options": ["Approve"], "params_input": {}}
            self.client._send("PATCH", f"/api/v2{question}", json=answer)
        return False


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    home = tmp_path_factory.mktemp("airflow") / "var"
    settings = load_settings(home=home, recipe=str(RECIPE), actor="tester")
    recipe = load_recipe(settings.recipe)
    lines: list[str] = []
    with Stack(settings, replay=True, mlflow_port=15000, airflow_port=18080, say=lines.append) as stack:
        client = AirflowClient(stack.airflow_url, stack.password)
        stage = EventfulStage(settings, recipe, stack, client, lines.append)
        stage.open()
        play(recipe, stage, lines.append)
        store = open_store(settings.database_url)
        tasks, work_s = client.work_done()
        summary = summarise(settings, recipe, store, tasks=tasks, wall_s=0, work_s=work_s)
        yield Told(summary, store, client, stage, home)


def settle(told: Told, what: str) -> None:
    def quiet() -> bool:
        return all(run["state"] in DONE for run in told.client.runs())

    wait_until(told.client, quiet, what=what, timeout_s=300, alive=told.stage.stack.need_alive)


def recipe_of(told: Told) -> Recipe:
    return told.stage.recipe


def test_the_loop_closes(told: Told) -> None:
    assert told.summary.missing == []
    assert told.summary.closed
    assert told.summary.false_retrains == 0
    assert told.summary.accuracy_after > told.summary.accuracy_drifted


def test_a_killed_training_is_retried_and_resumes(told: Told) -> None:
    assert told.stage.killed_at_epoch >= 2
    path = f"/dags/classy_training/dagRuns/{FIRST}/taskInstances/resnet.train"
    assert told.client.get(path)["try_number"] == 2
    receipt = told.client.get(f"{path}/xcomEntries/return_value", deserialize=True)["value"]
    receipt = json.loads(receipt) if isinstance(receipt, str) else receipt
    assert receipt["resumed_from"] >= told.stage.killed_at_epoch


def test_a_person_was_asked_with_the_judges_reasons_and_is_in_the_ledger(told: Told) -> None:
    assert "Not worse than the baseline" in told.stage.asked
    approval = told.store.decision(f"approval-{FIRST}")
    assert (approval["action"], approval["actor"]) == ("APPROVE", "admin")
    assert told.store.generation(1)["run_key"] == FIRST


def test_one_retraining_was_asked_for_and_one_run_answered(told: Told) -> None:
    asked = [row for row in told.store.decisions("monitor") if row["action"] == "RETRAIN"]
    answered = [run for run in told.client.runs() if run["dag_id"] == "classy_training" and run["dag_run_id"] != FIRST]
    assert len(asked) == len(answered) == 1
    assert told.store.decision(f"judge-{asked[0]['run_key']}")["action"] == "PROMOTE"
    assert [row["generation"] for row in told.store.generations()][:2] == [1, 2]


def test_a_day_run_twice_changes_nothing(told: Told) -> None:
    day = story_days(recipe_of(told))[-1]
    before = (
        told.store.decisions(),
        len(told.store.predictions(since=end_of(day).replace(year=2000), until=end_of(day))),
    )
    told.client.trigger("classy_data", run_id=f"again-{day}", logical_date=None, conf={"day": str(day)})
    settle(told, "the same day again")
    after = told.store.decisions(), len(told.store.predictions(since=end_of(day).replace(year=2000), until=end_of(day)))
    assert before == after


def test_the_links_of_a_task_lead_to_the_evidence(told: Told) -> None:
    path = f"/dags/classy_training/dagRuns/{FIRST}/taskInstances/evaluate/links"
    links = told.client.get(path)["extra_links"]
    assert set(links) == {"MLflow run", "Model version"}
    assert all(url.startswith(told.stage.stack.mlflow_url) for url in links.values())


def test_a_rollback_by_form_puts_the_first_model_back(told: Told) -> None:
    told.client.trigger(
        "classy_rollback", run_id="back", logical_date=None, conf={"to": 1, "reason": "the test asks for it"}
    )
    settle(told, "the rollback")
    current = told.store.current()
    assert (current["kind"], current["champion_version"]) == ("rollback", told.store.generation(1)["champion_version"])
    assert current["reason"].startswith("the test asks for it")
    assert current["actor"] == "admin"


def test_a_refused_day_stops_by_verdict_and_wakes_nobody(told: Told) -> None:
    beyond = recipe_of(told).replay.end
    runs = len(told.client.runs())
    told.client.trigger("classy_data", run_id="empty-day", logical_date=None, conf={"day": str(beyond)})
    settle(told, "the empty day")
    states = {
        ti["task_id"]: ti["state"]
        for ti in told.client.get("/dags/classy_data/dagRuns/empty-day/taskInstances")["task_instances"]
    }
    assert states == {"gather": "success", "validate": "success", "prepare": "skipped", "materialize": "skipped"}
    assert len(told.client.runs()) == runs + 1


def test_a_task_that_fails_is_named_with_the_end_of_its_log(told: Told) -> None:
    told.client.trigger("classy_rollback", run_id="wrong", logical_date=None, conf={"to": 99, "reason": "a typo"})
    with pytest.raises(ClassyError, match=r"classy_rollback\.rollback failed in run wrong[\s\S]*99"):
        settle(told, "the wrong rollback")
