"""What serves, since when, on what evidence; what served then."""

import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from monitoring import ledger
from monitoring.stores import open_store
from pipelines import promote, status
from pipelines.commands.trees import history_table
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings, load_settings
from tests.conftest import TINY
from tests.judged import AS_OF, Case, Plan, make_case, no_pictures


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """`first` was promoted, `second` too with an approval. The tests that roll it back are the last ones."""
    settings = load_settings(home=tmp_path_factory.mktemp("status") / "var", actor="tester", threads=1)
    recipe = Recipe.model_validate(TINY)
    plans = {"first": Plan(golden=0.8, fresh=0.5), "second": Plan(golden=0.9, fresh=0.9)}
    with pytest.MonkeyPatch.context() as patch:
        no_pictures(patch)
        made = make_case(settings, recipe, plans, golden=200)
        for number, name in enumerate(made.runs, 1):
            judged = made.evaluate(name, run_key=f"key-{number}")
            assert judged.verdict == "PROMOTE", judged.reasons
            promote.run(settings, recipe, run_key=f"key-{number}", approved_by="grace" if number == 2 else None)
    return made


def rolled_back(case: Case) -> None:
    """Generation 3 is the first one's model again."""
    store = open_store(case.settings.database_url)
    rows = store.generations()
    if len(rows) == 2:
        now = datetime.now(UTC)
        change = ledger.Change(actor="ada", reason="worse in the shop", run_key="oops", as_of=AS_OF, created_at=now)
        store.add_generation(ledger.rollback(rows[-1], change, target=rows[0]))


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
    fresh = found["accuracy"]["fresh"]
    assert (fresh["contender"], fresh["opponent"], fresh["rows"]) == (pytest.approx(0.9), pytest.approx(0.5), 120)
    assert fresh["gain"] == pytest.approx(0.4)
    assert fresh["low"] < fresh["gain"] < fresh["high"]
    assert json.loads(json.dumps(found)) == found


def test_evidence_that_is_gone_is_said_and_does_not_hide_what_serves(case: Case) -> None:
    path = Path(status.status(case.settings)["evidence_uri"])
    text = path.read_text()
    path.unlink()
    try:
        found = status.status(case.settings)
        (line,) = status.history(case.settings, at=AS_OF)
    finally:
        path.write_text(text)
    for one in (found, line):
        assert (one["version"], one["verdict"], one["approved_by"]) == ("2", "PROMOTE", "grace")
        assert "the evidence is gone" in one["evidence_problem"]


def test_history_tells_on_which_evidence(case: Case) -> None:
    first, second = status.history(case.settings)
    assert (first["verdict"], first["judged_against"]) == ("PROMOTE", "guessing the commonest class")
    assert (second["verdict"], second["judged_against"], second["approved_by"]) == (
        "PROMOTE",
        "champion (version 1)",
        "grace",
    )
    golden = second["accuracy"]["golden"]
    assert golden["gain"] == pytest.approx(0.1)
    assert golden["low"] < golden["gain"] < golden["high"]
    assert second["evidence_uri"].endswith("judge/key-2/evidence.json")
    assert set(first) == set(second), "each line has the same fields"


def test_history_and_status_answer_while_mlflow_is_down(case: Case) -> None:
    down = case.settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    assert status.status(down)["verdict"] == "PROMOTE"
    assert [line["model_url"] for line in status.history(down)] == [
        f"http://127.0.0.1:9/#/models/classy/versions/{version}" for version in (1, 2)
    ]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_shows_verdict_interval_and_name_at_any_width(case: Case, columns: int) -> None:
    console = Console(width=columns, record=True, file=io.StringIO())
    console.print(history_table(status.history(case.settings)))
    text = " ".join(console.export_text().replace("│", " ").split())
    assert max(len(line) for line in console.export_text().splitlines() or [""]) <= columns
    for wanted in ("PROMOTE against champion", "grace", "promote", "fresh 0.900, +0.400 (+0."):
        assert wanted in text


def test_history_at_a_time_is_the_generation_that_served_then(settings: Settings) -> None:
    store = open_store(settings.database_url)
    base = {
        "previous_version": None, "canary_version": None, "canary_weight": 0.0, "shadow_version": None,
        "kind": "promote", "actor": "ada", "reason": "for a test", "evidence_uri": None, "evidence_hash": None,
    }  # fmt: skip
    wall = datetime(2026, 11, 1, tzinfo=UTC)
    for number in (1, 2, 3):
        store.add_generation(
            {
                **base,
                "generation": number,
                "champion_version": str(number),
                "champion_run_id": f"run-{number}",
                "run_key": f"key-{number}",
                "as_of": AS_OF + timedelta(days=3 * number),
                "created_at": wall + timedelta(hours=number),
            }
        )

    def served(at: datetime, **more: Any) -> list[int]:
        return [line["generation"] for line in status.history(settings, at=at, **more)]

    assert served(AS_OF) == []
    assert served(AS_OF + timedelta(days=3)) == [1]
    assert served(AS_OF + timedelta(days=9) - timedelta(seconds=1)) == [2]
    assert served(AS_OF + timedelta(days=99)) == [3]
    assert served(wall + timedelta(hours=2), clock="wall") == [2]
    assert served(wall, clock="wall") == []
    (line,) = status.history(settings, at=AS_OF + timedelta(days=3))
    assert line["evidence_problem"] == "no evidence is recorded for this generation"
    with pytest.raises(ClassyError, match="needs a time zone"):
        status.history(settings, at=datetime(2026, 3, 1))  # noqa: DTZ001


def test_upgrade_says_what_it_did(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, database_url=f"sqlite:///{tmp_path / 'new.db'}")
    first = status.upgrade(settings)
    assert (first["before"], first["changed"]) == (None, True)
    assert status.upgrade(settings) == {**first, "before": first["after"], "changed": False}


def test_status_needs_neither_mlflow_nor_torch() -> None:
    code = "import sys, pipelines.status; print({'mlflow', 'torch', 'feast'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# --------------------------------------------------------------------------- the last ones: rolled back


def test_after_a_rollback_the_evidence_is_the_old_models(case: Case) -> None:
    rolled_back(case)
    found = status.status(case.settings)
    assert (found["generation"], found["version"], found["kind"]) == (3, "1", "rollback")
    assert found["reason"].startswith("worse in the shop")
    assert found["judged_against"] == "guessing the commonest class"
    assert found["approved_by"] is None


def test_history_tells_what_served_when_and_why(case: Case) -> None:
    rolled_back(case)
    lines = status.history(case.settings)
    assert [(line["generation"], line["version"], line["kind"]) for line in lines] == [
        (1, "1", "promote"),
        (2, "2", "promote"),
        (3, "1", "rollback"),
    ]
    assert [line["until_wall_clock"] for line in lines] == [*(line["from_wall_clock"] for line in lines[1:]), None]
    assert all(line["reason"] for line in lines)
    assert json.loads(json.dumps(lines)) == lines
