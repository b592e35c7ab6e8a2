"""Model behaviour and code: the loop under a real scheduler and a real MLflow server, with accidents on the way.

One story, told once for all tests of this file: history, a first training whose process is killed, ordinary days, the
change, the retraining it asks for, a day triggered twice, a worse contender trained by hand, a rollback by form,
contenders that a person rejects in Airflow and approves in MLflow, and a broken day.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from playwright.sync_api import Page

from monitoring.days import end_of
from monitoring.stores import Store, open_store
from pipelines.errors import ClassyError
from pipelines.loop import FIRST, play, story_days
from pipelines.models import judgement
from pipelines.online.board import FileBoard
from pipelines.recipe import Recipe, load_recipe
from pipelines.settings import load_settings
from pipelines.stage.airflow_client import AirflowClient, wait_until
from pipelines.stage.airflow_stage import AirflowStage
from pipelines.stage.stack import Stack
from pipelines.stage.summary import Summary, summarise
from tests.browser import chromium, open_browser

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]

RECIPE = Path(__file__).parent / "recipes" / "airflow.toml"
SCREENSHOTS = os.environ.get("CLASSY_SCREENSHOTS")
"""A folder for docs/approval.md's picture; nothing is drawn without it."""
READING_S = 3.0


@dataclass
class Told:
    """What is left when the story is over; the stack is still up."""

    summary: Summary
    store: Store
    client: AirflowClient
    stage: "EventfulStage"
    home: Path


@dataclass
class Question:
    """What Airflow asks in a training's run, and a person who takes some seconds to read it."""

    client: AirflowClient
    run_id: str
    seen_at: float | None = None

    @property
    def path(self) -> str:
        return f"/dags/classy_training/dagRuns/{self.run_id}/taskInstances"

    def task(self, task_id: str = "approve") -> dict[str, Any]:
        return self.client.get(f"{self.path}/{task_id}")

    def states(self) -> dict[str, str | None]:
        """Of a mapped task under its instance's name as well: `fit.train resnet`."""
        found = self.client.get(self.path)["task_instances"]
        return {f"{ti['task_id']} {ti['rendered_map_index'] or ''}".rstrip(): ti["state"] for ti in found}

    def text(self) -> str:
        return self.client.get(f"{self.path}/approve/-1/hitlDetails")["body"]

    def was_read(self) -> bool:
        # An answer within the same second meets the scheduler while it still tidies up after the task that asked, and
        # Airflow 3.3 then takes the resumed task for lost and retries it.
        if self.task()["state"] != "deferred":
            self.seen_at = None
            return False
        self.seen_at = self.seen_at or monotonic()
        return monotonic() - self.seen_at >= READING_S

    def answer(self, option: str, note: str) -> None:
        given = {"chosen_options": [option], "params_input": {"note": note}}
        self.client._send("PATCH", f"/api/v2{self.path}/approve/-1/hitlDetails", json=given)


class EventfulStage(AirflowStage):
    """A stage with accidents: the first training is killed once it has a checkpoint, and a person must approve."""

    killed_at_epoch = 0
    asked = ""

    def first_champion(self, known_by: datetime) -> None:
        conf = {"as_of": known_by.isoformat(), "reason": "the first champion", "approval": True}
        self.client.trigger("classy_training", run_id=FIRST, logical_date=None, conf=conf)
        self._wait(self._kill_once, "a checkpoint to kill at", 300)
        question = Question(self.client, FIRST)
        self._wait(question.was_read, "the question", 300)
        self.asked = question.text()
        question.answer("Approve", "a start")
        self._wait(self.client.settled, "the first champion", 300)

    def _kill_once(self) -> bool:
        progress = self.settings.home / "runs" / FIRST / "resnet" / "progress.json"
        if not progress.exists() or (seen := json.loads(progress.read_text()))["epoch"] < 2:
            return False
        os.kill(seen["pid"], signal.SIGKILL)
        self.killed_at_epoch = seen["epoch"]
        return True


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


def wait(told: Told, check: Callable[[], bool], what: str) -> None:
    wait_until(told.client, check, what=what, timeout_s=300, alive=told.stage.stack.need_alive)


def settle(told: Told, what: str) -> None:
    wait(told, told.client.settled, what)


def train_by_hand(told: Told, run_id: str, **form: Any) -> Question:
    """Fill in the form: the network alone, on what the retraining after the change knew."""
    conf = {"as_of": "2026-03-09", "candidates": ["resnet"], "approval": True, "reason": run_id, **form}
    told.client.trigger("classy_training", run_id=run_id, logical_date=None, conf=conf)
    return Question(told.client, run_id)


def log_in(page: Page, told: Told) -> None:
    airflow = told.stage.stack.airflow_url
    page.goto(f"{airflow}/auth/login")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", told.stage.stack.password)
    page.click("button[type=submit]")
    page.wait_for_url(f"{airflow}/")


def answer_on_the_page(told: Told, question: Question, option: str, note: str) -> None:
    """Log in, read, write a note and click; where there is no browser, the request that the click would send."""
    if chromium() is None:
        question.answer(option, note)
        return
    airflow = told.stage.stack.airflow_url
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        log_in(page, told)
        page.goto(f"{airflow}/dags/classy_training/runs/{question.run_id}/tasks/approve/required_actions")
        button = page.get_by_role("button", name=option, exact=True)
        button.wait_for()
        assert button.is_enabled(), "the note may be empty"
        page.locator("textarea").fill(note)
        if SCREENSHOTS:
            page.get_by_text("The judge says").scroll_into_view_if_needed()
            page.screenshot(path=Path(SCREENSHOTS) / "approval-airflow.png")
        button.click()
        wait(told, lambda: question.task()["state"] != "deferred", "the click")


def recipe_of(told: Told) -> Recipe:
    return told.stage.recipe


def test_the_loop_closes(told: Told) -> None:
    assert told.summary.missing == []
    assert told.summary.closed
    assert told.summary.false_retrains == 0
    assert told.summary.accuracy_after > told.summary.accuracy_drifted


def instance_of(told: Told, run_id: str, task_id: str, name: str) -> dict[str, Any]:
    """One instance of a mapped task, by its name."""
    path = f"/dags/classy_training/dagRuns/{run_id}/taskInstances/{task_id}/listMapped"
    (found,) = [ti for ti in told.client.get(path)["task_instances"] if ti["rendered_map_index"] == name]
    return found


def receipt_of(told: Told, instance: dict[str, Any]) -> dict[str, Any]:
    path = f"/dags/classy_training/dagRuns/{instance['dag_run_id']}/taskInstances/{instance['task_id']}/xcomEntries"
    found = told.client.get(f"{path}/return_value", map_index=instance["map_index"], deserialize=True)["value"]
    return json.loads(found) if isinstance(found, str) else found


def test_a_killed_training_is_retried_and_resumes(told: Told) -> None:
    assert told.stage.killed_at_epoch >= 2
    killed = instance_of(told, FIRST, "fit.train", "resnet")
    assert killed["try_number"] == 2
    assert instance_of(told, FIRST, "fit.train", "baseline")["try_number"] == 1
    assert receipt_of(told, killed)["resumed_from"] >= told.stage.killed_at_epoch


def test_a_search_chooses_and_the_training_takes_it(told: Told) -> None:
    found = receipt_of(told, instance_of(told, FIRST, "search.search", "resnet"))
    assert found["chosen"] == {"lr": 5e-3}
    trained = receipt_of(told, instance_of(told, FIRST, "fit.train", "resnet"))
    mlflow = MlflowClient(told.stage.stack.mlflow_url, told.stage.stack.mlflow_url)
    assert json.loads(mlflow.get_run(trained["run_id"]).data.params["chosen"]) == found["chosen"]
    assert mlflow.get_run(found["run_id"]).data.tags["classy.search_key"] == FIRST


def test_a_person_was_asked_with_the_judges_reasons_and_is_in_the_ledger(told: Told) -> None:
    evidence = judgement.of_decision(told.store.decision(f"judge-{FIRST}"))
    assert f"- {evidence['reasons'][0]}" in told.stage.asked
    assert f"({told.stage.stack.mlflow_url}/#/models/classy/versions/1)" in told.stage.asked
    approval = told.store.decision(f"approval-{FIRST}")
    assert (approval["action"], approval["actor"]) == ("APPROVE", "admin")
    assert approval["reason"] == "approved by admin in Airflow: a start"
    first = told.store.generation(1)
    assert first["run_key"] == FIRST
    assert first["reason"].endswith("Approved by admin in Airflow: a start.")


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
    one = instance_of(told, FIRST, "fit.train", "resnet")
    path = f"/dags/classy_training/dagRuns/{FIRST}/taskInstances/fit.train/links"
    links = told.client.get(path, map_index=one["map_index"])["extra_links"]
    assert links["MLflow run"].endswith(receipt_of(told, one)["run_id"])


def test_the_menu_and_the_tasks_of_a_day_lead_to_the_monitor(told: Told) -> None:
    pages = told.stage.stack.server_url
    (plugin,) = [one for one in told.client.get("/plugins")["plugins"] if one["name"] == "classy_monitor"]
    (entry,) = plugin["external_views"]
    assert (entry["name"], entry["href"], entry["category"]) == ("Classy monitor", f"{pages}/monitor", "browse")
    assert told.client.get("/plugins/importErrors")["import_errors"] == []
    day = story_days(recipe_of(told))[-1]
    run = [run for run in told.client.runs() if run["dag_id"] == "classy_scoring"][-1]
    path = f"/dags/classy_scoring/dagRuns/{run['dag_run_id']}/taskInstances"
    links = {task: told.client.get(f"{path}/{task}/links")["extra_links"] for task in ("monitor", "decide")}
    assert links["monitor"]["Monitor page"] == links["decide"]["Monitor page"] == f"{pages}/monitor/{day}"
    watched = FileBoard(told.stage.settings).day(day)
    assert watched is not None
    assert watched["links"]["airflow"].startswith(f"{told.stage.stack.airflow_url}/dags/classy_scoring/runs/")


def test_a_person_finds_the_monitor_in_airflows_menu(told: Told) -> None:
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        log_in(page, told)
        page.get_by_role("button", name="Browse").click()
        entry = page.locator("a[aria-label='Classy monitor']")
        entry.wait_for()
        assert entry.get_attribute("href") == f"{told.stage.stack.server_url}/monitor"


def test_the_champions_run_leads_to_the_monitor(told: Told) -> None:
    mlflow = MlflowClient(told.stage.stack.mlflow_url, told.stage.stack.mlflow_url)
    day = story_days(recipe_of(told))[-1]
    watched = FileBoard(told.stage.settings).day(day)
    assert watched is not None
    tags = mlflow.get_run(watched["evidence"]["champion"]["run_id"]).data.tags
    page = f"{told.stage.stack.server_url}/monitor"
    assert tags["classy.monitor_url"] == f"{page}/{day}"
    assert tags["mlflow.note.content"] == f"Watched by [the monitor]({page}), at last on [{day}]({page}/{day})."
    assert f"[the monitor]({page})" in mlflow.get_model_version("classy", "1").description


def test_a_rollback_by_form_puts_the_first_model_back(told: Told) -> None:
    told.client.trigger(
        "classy_rollback", run_id="back", logical_date=None, conf={"to": 1, "reason": "the test asks for it"}
    )
    settle(told, "the rollback")
    current = told.store.current()
    assert (current["kind"], current["champion_version"]) == ("rollback", told.store.generation(1)["champion_version"])
    assert current["reason"].startswith("the test asks for it")
    assert current["actor"] == "admin"


def test_events_that_come_twice_late_or_with_nothing_in_them_change_nothing(told: Told) -> None:
    """Days that were decided are announced again, the newest first, one of them twice; the day of the retraining among
    them, so that it is asked for again although production was rolled back since. One event names no day.

    Of events that come within one beat of Airflow's scheduler the last ones are left lying: the next one takes them
    along, once all that Airflow still had in its queue is a run.
    """
    live = [str(day) for day in story_days(recipe_of(told))[recipe_of(told).story.history_days :]]
    (asked,) = [row for row in told.store.decisions("monitor") if row["action"] == "RETRAIN"]
    before, runs = kept(told), {run["dag_run_id"] for run in told.client.runs()}
    for extra in ({"day": live[-1]}, {"day": live[0]}, {"day": live[-1]}, {}, {"day": asked["run_key"][-10:]}):
        announce(told, "classy_features", extra)
    wait(told, lambda: len(told.client.runs()) > len(runs), "the days again")
    settle(told, "the days again")
    announce(told, "classy_features", {})
    wait(told, lambda: "classy_training" in {run["dag_id"] for run in new_runs(told, runs)}, "the retraining again")
    settle(told, "the retraining again")
    again = new_runs(told, runs)
    assert {run["dag_id"] for run in again} == {"classy_scoring", "classy_training"}
    assert {run["state"] for run in again} == {"success"}
    assert kept(told) == before


def new_runs(told: Told, known: set[str]) -> list[dict[str, Any]]:
    return [run for run in told.client.runs() if run["dag_run_id"] not in known]


def kept(told: Told) -> dict[str, Any]:
    """All that the loop keeps."""
    end = end_of(recipe_of(told).replay.end)
    mlflow = MlflowClient(told.stage.stack.mlflow_url, told.stage.stack.mlflow_url)
    return {
        "decisions": told.store.decisions(),
        "generations": told.store.generations(),
        "predictions": told.store.predictions(since=end.replace(year=2000), until=end).to_json(),
        "truth": told.store.truth(as_of=end).to_json(),
        "versions": {version.version: version.run_id for version in mlflow.search_model_versions("name = 'classy'")},
    }


def announce(told: Told, name: str, extra: dict[str, str]) -> None:
    """An event of an asset, as a person makes one in the UI."""
    (asset,) = [one["id"] for one in told.client.get("/assets")["assets"] if one["name"] == name]
    told.client._send("POST", "/api/v2/assets/events", json={"asset_id": asset, "extra": extra})


def test_a_planted_regression_is_held_and_production_stays(told: Told) -> None:
    """Trained on the changed world alone, it is far better there, and has forgotten the world before."""
    before = told.store.generations()
    planted = train_by_hand(told, "planted", window_days=2)
    settle(told, "the planted regression")
    states = planted.states()
    fitted = {name for name in states if name.startswith("fit.")}
    assert fitted == {"fit.train resnet", "fit.optimize resnet"}, "only what was asked for"
    assert (states["evaluate"], states["approve"], states["promote"]) == ("success", "skipped", "skipped")
    judged = told.store.decision("judge-planted")
    found = judgement.of_decision(judged)
    assert found["comparisons"]["fresh"]["differences"]["accuracy"]["low"] > 0.3, (
        "who looks at new photos alone is fooled"
    )
    assert judged["action"] == "HOLD"
    assert "Worse than the champion on golden rows" in judged["reason"]
    assert told.store.decision("approval-planted") is None, "nobody is asked about it"
    assert told.store.generations() == before


def test_a_person_rejects_with_a_note_in_airflow_and_production_stays(told: Told) -> None:
    before = told.store.generations()
    refused = train_by_hand(told, "refused", drift_from=told.summary.drift_from)
    wait(told, refused.was_read, "the question")
    answer_on_the_page(told, refused, "Reject", "not in the week before Christmas")
    settle(told, "the rejected contender")
    assert (refused.states()["approve"], refused.states()["promote"]) == ("success", "skipped")
    assert told.store.decision("judge-refused")["action"] == "PROMOTE"
    rejection = told.store.decision("approval-refused")
    assert (rejection["action"], rejection["actor"]) == ("REJECT", "admin")
    assert rejection["reason"] == "rejected by admin in Airflow: not in the week before Christmas"
    assert told.store.generations() == before


def test_a_tag_in_mlflow_resumes_the_waiting_run_and_promotes(told: Told) -> None:
    tagged = train_by_hand(told, "tagged", drift_from=told.summary.drift_from)
    wait(told, tagged.was_read, "the question")
    mlflow = MlflowClient(told.stage.stack.mlflow_url, told.stage.stack.mlflow_url)
    found = judgement.of_decision(told.store.decision("judge-tagged"))
    assert found["snapshot"]["drift_from"] == told.summary.drift_from, "a person's word counts like the monitor's"
    version = found["contender"]["version"]
    for key, value in {"approval_by": "Grace Hopper", "approval_note": "seen", "approval": "Approved"}.items():
        mlflow.set_model_version_tag("classy", version, key, value)
    settle(told, "the approved contender")
    assert tagged.task()["try_number"] == 1
    approval = told.store.decision("approval-tagged")
    assert (approval["action"], approval["actor"]) == ("APPROVE", "Grace Hopper")
    assert approval["reason"] == "approved by Grace Hopper by a tag in MLflow: seen"
    current = told.store.current()
    assert (current["run_key"], current["champion_version"]) == ("tagged", version)
    assert mlflow.get_model_version_by_alias("classy", "champion").version == version
    tags = mlflow.get_model_version("classy", version).tags
    assert (tags["classy.approval"], tags["classy.approval_by"]) == ("approved", "Grace Hopper")
    assert "approval" not in tags


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
