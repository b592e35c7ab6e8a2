"""What serves, since when, on what evidence; what served then."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from monitoring.stores import open_store
from pipelines import promote, rollback, status
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.judged import AS_OF, Case, Plan, make_case, no_pictures


@pytest.fixture
def case(settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Case:
    """`first` was promoted, `second` too with an approval, then rolled back."""
    no_pictures(monkeypatch)
    made = make_case(settings, recipe, {"first": Plan(golden=0.8, fresh=0.5), "second": Plan(golden=0.9, fresh=0.9)})
    for number, name in enumerate(made.runs, 1):
        assert made.evaluate(name, run_key=f"key-{number}").verdict == "PROMOTE"
        promote.run(settings, recipe, run_key=f"key-{number}", approved_by="grace" if number == 2 else None)
    return made


def test_before_the_first_champion_it_says_so(settings: Settings) -> None:
    found = status.status(settings)
    assert found["generation"] is None
    assert "classy promote" in found["message"]
    assert status.history(settings) == []


def test_status_tells_what_serves_since_when_by_whom_and_on_what_evidence(case: Case) -> None:
    found = status.status(case.settings)
    assert (found["generation"], found["version"], found["run_id"]) == (2, "2", case.runs["second"])
    assert (found["by"], found["approved_by"], found["kind"]) == ("tester", "grace", "promote")
    assert found["since_data_time"] == AS_OF.isoformat()
    wall = datetime.fromisoformat(found["since_wall_clock"])
    assert datetime.now(UTC) - wall < timedelta(minutes=5)
    assert (found["verdict"], found["judged_against"]) == ("PROMOTE", "champion (version 1)")
    assert found["accuracy"]["fresh"] == {"contender": pytest.approx(0.9), "opponent": pytest.approx(0.5), "rows": 120}
    assert json.loads(json.dumps(found)) == found


def test_after_a_rollback_the_evidence_is_the_old_models(case: Case) -> None:
    rollback.run(case.settings, case.recipe, reason="worse in the shop", run_key="oops")
    found = status.status(case.settings)
    assert (found["generation"], found["version"], found["kind"]) == (3, "1", "rollback")
    assert found["reason"].startswith("worse in the shop")
    assert found["judged_against"] == "guessing the commonest class"
    assert found["approved_by"] is None


def test_evidence_that_is_gone_is_said_and_does_not_hide_what_serves(case: Case) -> None:
    Path(status.status(case.settings)["evidence_uri"]).unlink()
    found = status.status(case.settings)
    assert (found["version"], found["verdict"]) == ("2", "PROMOTE")
    assert "the evidence is gone" in found["evidence_problem"]


def test_history_tells_what_served_when_and_why(case: Case) -> None:
    rollback.run(case.settings, case.recipe, reason="worse in the shop", run_key="oops")
    lines = status.history(case.settings)
    assert [(line["generation"], line["version"], line["kind"]) for line in lines] == [
        (1, "1", "promote"),
        (2, "2", "promote"),
        (3, "1", "rollback"),
    ]
    assert [line["until_wall_clock"] for line in lines] == [*(line["from_wall_clock"] for line in lines[1:]), None]
    assert all(line["reason"] for line in lines)
    assert json.loads(json.dumps(lines)) == lines


def test_history_at_a_time_is_the_generation_that_served_then(case: Case) -> None:
    store = open_store(case.settings.database_url)
    current = store.current()
    assert current is not None
    later = current["as_of"] + timedelta(days=3)
    store.add_generation({**current, "generation": 3, "champion_version": "7", "run_key": "key-3", "as_of": later})
    assert status.history(case.settings, at=AS_OF - timedelta(seconds=1)) == []
    for at, generation in ((AS_OF, 2), (later - timedelta(hours=1), 2), (later, 3), (later + timedelta(days=9), 3)):
        assert [line["generation"] for line in status.history(case.settings, at=at)] == [generation]
    first = store.generations()[0]["created_at"]
    assert [line["generation"] for line in status.history(case.settings, at=first, clock="wall")] == [1]
    with pytest.raises(ClassyError, match="needs a time zone"):
        status.history(case.settings, at=datetime(2026, 3, 1))  # noqa: DTZ001


def test_upgrade_says_what_it_did(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, database_url=f"sqlite:///{tmp_path / 'new.db'}")
    first = status.upgrade(settings)
    assert (first["before"], first["changed"]) == (None, True)
    assert status.upgrade(settings) == {**first, "before": first["after"], "changed": False}


def test_status_needs_neither_mlflow_nor_torch() -> None:
    code = "import sys, pipelines.status; print({'mlflow', 'torch', 'feast'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
