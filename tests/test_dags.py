"""Code: the DAG folder parses fast, alone, and shows what its user needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.recipe import ROOT

PROBE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({folder!r})
dags = {{
    dag.dag_id: {{
        "doc": dag.doc_md or "", "tags": sorted(dag.tags), "catchup": dag.catchup,
        "schedule": [type(dag.timetable).__name__, getattr(dag.timetable, 'expression', None)],
        "days": [str(dag.start_date), str(dag.end_date)], "params": sorted(dag.params),
        "tasks": {{t.task_id: {{"retries": t.retries, "pool": t.pool, "timeout": t.execution_timeout is not None,
                  "links": [l.name for l in t.operator_extra_links],
                  "outlets": [o.name for o in t.outlets],
                  "mapped_by": getattr(t.get_closest_mapped_task_group(), "group_id", None),
                  "label": t.map_index_template or "", "upstream": sorted(t.upstream_task_ids),
                  "callback": bool(t.on_failure_callback)}} for t in dag.tasks}},
    }} for dag in bag.dags.values()
}}
heavy = sorted({{"torch", "mlflow", "feast", "evidently", "pandas", "optuna"}} & set(sys.modules))
print("RESULT " + json.dumps({{"dags": dags, "errors": bag.import_errors, "heavy": heavy}}))
"""


def parse(home: Path, recipe: str) -> dict:
    env = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
           "PYTHONPATH": os.pathsep.join([str(ROOT / "dags"), str(ROOT / "dags" / "preload"), str(ROOT)]),
           "CLASSY_HOME": str(home / "classy"), "CLASSY_TRAINING_POOL": "classy_training",
           "CLASSY_RECIPE": recipe}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(folder=str(ROOT / "dags"))], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("RESULT ")[1])


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return parse(tmp_path_factory.mktemp("airflow"), "digits")


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The same of a recipe with a search."""
    return parse(tmp_path_factory.mktemp("airflow"), str(ROOT / "tests" / "recipes" / "airflow.toml"))


def test_the_folder_parses_without_error_and_without_an_ml_import(parsed: dict) -> None:
    assert parsed["errors"] == {}
    assert parsed["heavy"] == []
    assert sorted(parsed["dags"]) == ["classy_data", "classy_rollback", "classy_scoring", "classy_training"]


def test_data_is_gathered_daily_when_the_day_is_over_and_catches_up(parsed: dict) -> None:
    data = parsed["dags"]["classy_data"]
    # A data interval, not a moment: the run of day D has logical date D and starts at its end.
    assert data["schedule"] == ["CronDataIntervalTimetable", "0 0 * * *"]
    assert data["catchup"]
    assert data["days"] == ["2026-03-01 00:00:00+00:00", "2026-03-18 00:00:00+00:00"]
    assert parsed["dags"]["classy_training"]["schedule"][0] == "AssetOrTimeSchedule"


def test_every_dag_explains_itself_and_every_task_retries_in_bounds(parsed: dict) -> None:
    for name, dag in parsed["dags"].items():
        assert dag["doc"].startswith("## "), name
        assert "classy" in dag["tags"], name
        for task_id, task in dag["tasks"].items():
            assert task["callback"], task_id
            # A person may take days to answer; everything else is bounded.
            assert task["timeout"] or task_id == "approve", task_id
            assert (task["retries"] > 0) == (name != "classy_rollback"), task_id


def test_the_forms_ask_what_the_docs_promise(parsed: dict) -> None:
    form = {"as_of", "window_days", "drift_from", "candidates", "epochs", "budget_minutes", "approval", "reason"}
    assert set(parsed["dags"]["classy_training"]["params"]) == form
    assert set(parsed["dags"]["classy_rollback"]["params"]) == {"to", "reason"}


def test_training_uses_its_pool_and_links_lead_to_the_evidence(parsed: dict) -> None:
    tasks = parsed["dags"]["classy_training"]["tasks"]
    assert {task["pool"] for task_id, task in tasks.items() if task_id.endswith(".train")} == {"classy_training"}
    assert tasks["evaluate"]["links"] == ["MLflow run", "Model version"]
    scoring = parsed["dags"]["classy_scoring"]["tasks"]
    assert scoring["monitor"]["links"] == ["Monitor page", "Drift report", "MLflow run"]
    assert scoring["decide"]["links"] == ["Monitor page"]


def test_candidates_are_mapped_instances_that_bear_their_names(parsed: dict) -> None:
    tasks = parsed["dags"]["classy_training"]["tasks"]
    assert {name for name, task in tasks.items() if task["mapped_by"] == "fit"} == {"fit.train", "fit.optimize"}
    assert "candidate" in tasks["fit.train"]["label"]
    assert "candidate" in tasks["fit.optimize"]["label"]
    assert tasks["fit.train"]["links"] == ["MLflow run"]
    assert tasks["fit.train"]["upstream"] == ["candidates", "snapshot"]
    assert tasks["evaluate"]["upstream"] == ["fit.optimize", "snapshot"]


def test_a_search_goes_before_the_training_where_the_recipe_has_one(parsed: dict, searching: dict) -> None:
    assert not [name for name in parsed["dags"]["classy_training"]["tasks"] if "search" in name]
    assert searching["errors"] == {}
    assert searching["heavy"] == []
    training = searching["dags"]["classy_training"]
    search = training["tasks"]["search.search"]
    assert (search["mapped_by"], search["pool"], search["links"]) == ("search", "classy_training", ["MLflow run"])
    assert search["retries"] > 0
    assert training["tasks"]["candidates"]["upstream"] == ["search.search", "snapshot"]
    assert "search" in training["params"]


def test_people_are_asked_after_the_monitor_where_labels_do_not_come_by_themselves(
    parsed: dict, searching: dict
) -> None:
    assert "queue" not in parsed["dags"]["classy_scoring"]["tasks"]
    assert searching["dags"]["classy_scoring"]["tasks"]["queue"]["upstream"] == ["monitor"]


def test_the_loop_is_closed_by_assets(parsed: dict) -> None:
    assert parsed["dags"]["classy_data"]["tasks"]["materialize"]["outlets"] == ["classy_features"]
    assert parsed["dags"]["classy_scoring"]["tasks"]["ask"]["outlets"] == ["classy_retrain"]


def test_no_step_is_imported_by_the_wiring() -> None:
    from pipelines.steps import STEPS

    for file in Path(ROOT / "dags").glob("*.py"):
        text = file.read_text()
        assert not any(f"from pipelines.{step} " in text or f"import pipelines.{step}" in text for step in STEPS), file
