"""What the monitor's pages are told, from a real store and real files: whole, of an earlier Classy, broken, missing."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from monitoring.overview import MOST_COLUMNS, MOST_DAYS, digest, overview
from monitoring.stores import open_store
from pipelines import files
from pipelines.models.evidence import EVIDENCE, monitor_root
from pipelines.online import board
from pipelines.online.board import FileBoard
from pipelines.settings import Settings, load_settings
from serving.problems import Problem
from tests.watched import COLUMNS, FIRST, decide, deploy, evidence, make_months, unknown, whole, write_day


def nth(n: int) -> date:
    return FIRST + timedelta(days=n)


@pytest.fixture
def made(settings: Settings) -> FileBoard:
    make_months(settings)
    return FileBoard(settings)


def rows(shown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["day"]: row for row in shown["days"]}


# ------------------------------------------------------------------------------------------------- the overview


def test_a_story_is_on_one_calendar(made: FileBoard) -> None:
    shown = made.overview()
    days = rows(shown)
    assert [row["day"] for row in shown["days"]] == [str(nth(n)) for n in range(60)]
    assert days[str(nth(22))]["decision"] == {
        "action": "RETRAIN", "reason": "Day 22 of the story.", "incident": f"incident-{nth(20)}",
        "run_key": f"retrain-{nth(22)}",
    }  # fmt: skip
    assert days[str(nth(22))]["since_drift"]["value"] == 0.5
    assert days[str(nth(5))]["since_drift"] is None
    assert days[str(nth(50))]["estimate"]["value"] == 0.9
    assert days[str(nth(5))]["estimate"] is None, "evidence of an earlier Classy has none"
    assert days[str(nth(5))]["labels"] == {"photos": 200, "labelled": 140, "coverage": 0.7}
    assert (days[str(nth(30))]["watched"], days[str(nth(30))]["verdict"]) == (False, None)
    assert days[str(nth(15))]["verdict"] == "UNKNOWN"
    assert days[str(nth(15))]["accuracy"] is None, "no labels are not an accuracy of 0"
    assert [(row["day"], row["action"]) for row in shown["judged"]] == [(str(nth(22)), "PROMOTE")]


def test_champions_are_bands_and_a_canary_beside_one_is_none(made: FileBoard, settings: Settings) -> None:
    deploy(open_store(settings.database_url), 5, "2", nth(50), kind="canary")
    bands = [(band["version"], band["from"], band["until"]) for band in made.overview()["champions"]]
    assert bands == [
        ("1", str(nth(0)), str(nth(23))), ("2", str(nth(23)), str(nth(35))), ("3", str(nth(35)), str(nth(38))),
        ("2", str(nth(38)), None),
    ]  # fmt: skip


def test_incidents_are_spans_and_the_last_is_open(made: FileBoard) -> None:
    first, last = made.overview()["incidents"]
    assert (first["from"], first["until"], first["open"]) == (str(nth(20)), str(nth(24)), False)
    assert first["actions"] == ["LABEL", "LABEL", "RETRAIN", "WATCH", "WATCH"]
    assert (last["from"], last["open"], last["actions"]) == (str(nth(59)), True, ["PAGE"])


def test_the_heat_map_has_distance_and_limit_and_what_went_furthest_first(made: FileBoard) -> None:
    shown = made.overview()
    assert set(shown["columns"]) == set(COLUMNS)
    assert set(shown["columns"][:3]) == set(COLUMNS[:3]), "these drifted"
    days = rows(shown)
    verdict, effect, limit = days[str(nth(22))]["drift"][0]
    assert verdict == "DRIFT"
    assert effect > limit == 0.25
    assert days[str(nth(15))]["drift"] == [None] * len(COLUMNS)


def test_what_is_missing_is_said_with_what_to_do(made: FileBoard) -> None:
    (undecided,) = made.overview()["notices"]
    assert undecided == f"1 watched day has no decision ({nth(45)}): `classy decide --day {nth(45)}` makes it."


def test_without_a_champion_it_says_how_to_get_one(settings: Settings) -> None:
    shown = FileBoard(settings).overview()
    assert (shown["days"], shown["champions"]) == ([], [])
    (notice,) = shown["notices"]
    assert "no champion yet" in notice
    assert "`classy loop`" in notice


def test_with_a_champion_and_no_day_it_says_how_to_watch_one(settings: Settings) -> None:
    deploy(open_store(settings.database_url), 1, "1", FIRST)
    (notice,) = FileBoard(settings).overview()["notices"]
    assert "`classy monitor --day DAY`" in notice


def test_a_last_day_that_cannot_be_told_is_said_with_its_reason(settings: Settings) -> None:
    store = open_store(settings.database_url)
    deploy(store, 1, "1", FIRST)
    write_day(settings, FIRST, unknown(FIRST))
    decide(store, FIRST, "WATCH")
    (notice,) = FileBoard(settings).overview()["notices"]
    assert notice == f"The last day, {FIRST}, could not be told: the window has 3 rows, fewer than min_rows=50."


def test_without_a_database_the_days_are_still_there(settings: Settings, tmp_path: Path) -> None:
    write_day(settings, FIRST, evidence(FIRST))
    broken = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}"})
    found = FileBoard(broken)
    for shown in (found.overview(), found.day(FIRST)):
        assert shown is not None
        (notice,) = shown["notices"]
        assert notice.startswith("The tables cannot be read, so champions and decisions are missing here: database")
    assert rows(found.overview())[str(FIRST)]["accuracy"]["value"] == pytest.approx(0.95)


def test_a_decision_whose_evidence_is_gone_keeps_its_mark(made: FileBoard, settings: Settings) -> None:
    fsspec.filesystem("file").rm(monitor_root(settings, nth(10)), recursive=True)
    row = rows(made.overview())[str(nth(10))]
    assert (row["watched"], row["decision"]["action"]) == (False, "KEEP")
    told = made.day(nth(10))
    assert told is not None
    assert (told["evidence"], told["decision"]["action"]) == (None, "KEEP")
    assert told["notices"] == ["The evidence's file is gone; what the decision keeps of it is shown."]


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"drift": 3}', '{"drift": {"columns": [{"name": "x"}]}}'])
def test_evidence_that_cannot_be_read_is_a_day_that_cannot_be_told(settings: Settings, text: str) -> None:
    with files.new_partition(monitor_root(settings, FIRST)) as draft:
        (draft.folder / EVIDENCE).write_text(text)
    found = FileBoard(settings)
    (row,) = found.overview()["days"]
    assert row["verdict"] == "UNKNOWN"
    assert row["reason"].startswith("its evidence cannot be read")
    told = found.day(FIRST)
    assert told is not None
    assert (told["evidence"], f"`classy monitor --day {FIRST}` writes it anew" in told["notices"][0]) == (None, True)


def test_a_file_that_is_too_large_is_not_read(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write_day(settings, FIRST, evidence(FIRST))
    monkeypatch.setattr(board, "MOST_EVIDENCE", 100)
    monkeypatch.setattr(board, "MOST_REPORT", 10)
    found = FileBoard(settings)
    (row,) = found.overview()["days"]
    assert row["reason"] == "its evidence has more than 100 bytes"
    told = found.day(FIRST)
    assert told is not None
    assert "at most 100 are shown" in told["notices"][0]
    with pytest.raises(Problem, match="at most 10 are shown"):
        found.report(FIRST)


def test_of_many_years_the_last_one_is_shown(settings: Settings) -> None:
    store = open_store(settings.database_url)
    deploy(store, 1, "1", FIRST)
    for n in (0, 700, 1_000):
        write_day(settings, nth(n), evidence(nth(n)))
        decide(store, nth(n), "KEEP")
    shown = FileBoard(settings).overview()
    assert len(shown["days"]) == MOST_DAYS
    assert [row["day"] for row in shown["days"] if row["watched"]] == [str(nth(700)), str(nth(1_000))]


def test_of_many_columns_the_furthest_are_shown(settings: Settings) -> None:
    found = evidence(FIRST)
    found["drift"]["columns"] = [
        {"name": f"c{n}", "verdict": "NO DRIFT", "effect": n / 1000, "limit": 0.5} for n in range(MOST_COLUMNS + 7)
    ]
    write_day(settings, FIRST, found)
    shown = FileBoard(settings).overview()
    assert shown["columns"][0] == f"c{MOST_COLUMNS + 6}"
    assert (len(shown["columns"]), shown["more_columns"]) == (MOST_COLUMNS, 7)


# ---------------------------------------------------------------------------------------------- what it costs


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that are read for the overview."""
    seen: list[str] = []
    real: Callable[[list[str]], list[bytes | None]] = files.read_many

    def watched(uris: list[str]) -> list[bytes | None]:
        seen.extend(uris)
        return real(uris)

    monkeypatch.setattr(files, "read_many", watched)
    return seen


def test_a_day_is_read_once_until_it_is_written_anew(
    settings: Settings, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "FRESH_S", 0.0)
    for n in range(300):
        write_day(settings, nth(n), evidence(nth(n)), report="")
    found = FileBoard(settings)
    assert len(found.overview()["days"]) == 300
    assert len(read) == 300
    found.overview()
    assert len(read) == 300
    write_day(settings, nth(7), unknown(nth(7)), report="")
    assert rows(found.overview())[str(nth(7))]["verdict"] == "UNKNOWN"
    assert read[300:] == [files.join(monitor_root(settings, nth(7)), EVIDENCE)]


def test_within_seconds_the_same_is_shown_without_a_look(settings: Settings, read: list[str]) -> None:
    write_day(settings, FIRST, evidence(FIRST))
    found = FileBoard(settings)
    first = found.overview()
    write_day(settings, nth(1), evidence(nth(1)))
    assert found.overview() is first


def test_a_year_of_many_columns_is_an_answer_of_a_bounded_size() -> None:
    columns = [{"name": f"column_{n}", "verdict": "NO DRIFT", "effect": 0.123456789, "limit": 0.5} for n in range(100)]
    day = digest({**evidence(FIRST), "drift": {"columns": columns}})
    shown = overview({nth(n): day for n in range(MOST_DAYS)}, [], [])
    assert len(orjson.dumps(shown)) < 1_000_000


def test_days_lie_on_any_file_system(settings: Settings) -> None:
    there = settings.model_copy(update={"data_root": f"memory://{settings.home}"})
    write_day(there, FIRST, evidence(FIRST))
    write_day(there, nth(1), evidence(nth(1)))
    found = FileBoard(there)
    assert list(rows(found.overview())) == [str(FIRST), str(nth(1))]
    told, report = found.day(nth(1)), found.report(nth(1))
    assert told is not None
    assert report is not None
    assert (told["before"], told["after"], b"drawn" in report) == (str(FIRST), None, True)


# ------------------------------------------------------------------------------------------------------- a day


def test_a_day_has_its_evidence_its_decision_and_what_came_of_it(made: FileBoard) -> None:
    told = made.day(nth(22))
    assert told is not None
    assert told["evidence"]["verdict"] == "DRIFT"
    assert told["decision"]["action"] == "RETRAIN"
    assert told["decision"]["evidence"]["rules"] == {"min_loss": 0.05}
    assert told["answer"] == {
        "judged": {"action": "PROMOTE", "reason": "Better on fresh rows."},
        "generation": {"generation": 2, "champion_version": "2"},
    }
    assert (told["before"], told["after"]) == (str(nth(21)), str(nth(23)))
    orjson.dumps(told)


def test_a_day_leads_to_mlflow_and_to_the_run_that_watched_it(settings: Settings) -> None:
    page = "http://127.0.0.1:8080/dags/classy_scoring/runs/day/tasks/monitor"
    write_day(settings, FIRST, evidence(FIRST), run_page=page)
    server = settings.model_copy(update={"mlflow_uri": "http://somebody:secret@mlflow.example:5000/"})
    told = FileBoard(server).day(FIRST)
    assert told is not None
    assert told["links"] == {
        "report": True,
        "run": f"http://mlflow.example:5000/#/runs/{'a' * 32}",
        "version": "http://mlflow.example:5000/#/models/classy/versions/1",
        "airflow": page,
    }


def test_without_servers_there_are_no_dead_links(settings: Settings) -> None:
    write_day(settings, FIRST, evidence(FIRST), report="", run_page="javascript:alert(1)")
    told = FileBoard(settings).day(FIRST)
    assert told is not None
    assert told["links"] == {"report": False, "run": None, "version": None, "airflow": None}
    assert FileBoard(settings).report(FIRST) is None


def test_a_day_of_which_nothing_is_known_is_none(made: FileBoard) -> None:
    assert made.day(nth(30)) is None
    assert made.report(nth(30)) is None


def test_a_day_that_nobody_decided_says_how(made: FileBoard) -> None:
    told = made.day(nth(45))
    assert told is not None
    assert told["notices"] == [f"Nothing was decided about this day: `classy decide --day {nth(45)}` does it."]


def test_folders_of_others_are_not_days(settings: Settings) -> None:
    write_day(settings, FIRST, evidence(FIRST))
    root = Path(settings.data_root) / "monitor"
    for name in ("notes", ".date=2026-01-02.tmp", "date=soon"):
        (root / name).mkdir()
        (root / name / files.MANIFEST).write_text("{}")
    (root / "date=2026-01-03").mkdir()
    (root / "date=2026-01-03" / EVIDENCE).write_text("{}")  # no manifest: not there yet
    assert list(rows(FileBoard(settings).overview())) == [str(FIRST)]


def test_a_file_that_cannot_be_read_at_all_is_a_problem_that_names_it(settings: Settings) -> None:
    with files.new_partition(monitor_root(settings, FIRST)) as draft:
        (draft.folder / EVIDENCE).mkdir()
    for ask in (FileBoard(settings).overview, lambda: FileBoard(settings).day(FIRST)):
        with pytest.raises(Problem, match="evidence cannot be read"):
            ask()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
COLUMN = st.fixed_dictionaries({"name": LEAVES, "verdict": LEAVES, "effect": LEAVES, "limit": LEAVES})
PARTS = st.fixed_dictionaries({"columns": st.lists(COLUMN, max_size=2)}) | st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KEYS = ("drift", "lately", "since_drift", "champion", "reference_accuracy", "estimate", "labels")


@settings_of(max_examples=60, deadline=None)
@given(st.sampled_from(KEYS), PARTS)
def test_whatever_a_part_of_the_evidence_is_the_overview_is_drawn(key: str, value: Any) -> None:
    """A file that is not as it should be costs its own day, never the page."""
    data = json.dumps({**whole(FIRST), key: value}).encode()
    orjson.dumps(overview({FIRST: board._digest(data)}, [], []))


def test_links_come_from_the_settings(tmp_path: Path) -> None:
    from pipelines.models.links import monitor_url

    home = load_settings(home=tmp_path)
    assert monitor_url(home) == "http://127.0.0.1:8000/monitor"
    there = load_settings(home=tmp_path, pages_url="https://classy.example.org/")
    assert monitor_url(there, FIRST) == f"https://classy.example.org/monitor/{FIRST}"
