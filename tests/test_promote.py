"""Promotion happens once: under a second call, a race, a kill; and only on a verdict about this champion."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monitoring.stores import LostRace, Store, open_store
from pipelines import promote
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.promote import Promoted
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from tests.judged import Case, Plan, aliases, make_case, no_pictures

PLANS = {
    "first": Plan(golden=0.80, fresh=0.50),
    "second": Plan(golden=0.90, fresh=0.85),
    "third": Plan(golden=0.91, fresh=0.86),
    "worse": Plan(golden=0.20, fresh=0.20),
}


@pytest.fixture
def case(settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Case:
    """`first` is judged under key-1."""
    no_pictures(monkeypatch)
    made = make_case(settings, recipe, PLANS)
    assert made.evaluate("first").verdict == "PROMOTE"
    return made


def promoted(case: Case, run_key: str = "key-1", **more: str) -> Promoted:
    return promote.run(case.settings, case.recipe, run_key=run_key, **more)


def generations(case: Case) -> list[tuple[int, str, str | None]]:
    rows = open_store(case.settings.database_url).generations()
    return [(row["generation"], row["champion_version"], row["previous_version"]) for row in rows]


def test_the_first_promotion_makes_the_first_generation(case: Case) -> None:
    found = promoted(case, actor="ada", reason="launch")
    assert (found.generation, found.version, found.changed) == (1, "1", True)
    assert aliases(case.settings) == {"champion": "1"}
    row = open_store(case.settings.database_url).current()
    assert row is not None
    assert (row["kind"], row["actor"], row["run_key"], row["champion_run_id"]) == (
        "promote",
        "ada",
        "key-1",
        case.runs["first"],
    )
    assert row["reason"].startswith("launch. Better on test rows")
    judged = open_store(case.settings.database_url).decision("judge-key-1")
    assert judged is not None
    assert {row[name] == judged[name] for name in ("evidence_uri", "evidence_hash", "as_of")} == {True}
    version = tracking.connect(case.settings).get_model_version(case.settings.model_name, "1")
    assert version.tags["classy.generation"] == "1"


def test_promoting_twice_is_promoting_once(case: Case) -> None:
    promoted(case)
    again = promoted(case)
    assert (again.generation, again.version, again.changed) == (1, "1", False)
    assert generations(case) == [(1, "1", None)]


def test_the_next_champion_names_the_one_before(case: Case) -> None:
    promoted(case)
    assert case.evaluate("second", run_key="key-2").verdict == "PROMOTE"
    assert promoted(case, "key-2").generation == 2
    assert generations(case) == [(1, "1", None), (2, "2", "1")]
    assert aliases(case.settings) == {"champion": "2", "previous": "1"}


def test_a_verdict_other_than_promote_is_named_and_refused(case: Case) -> None:
    promoted(case)
    assert case.evaluate("worse", run_key="key-2").verdict == "HOLD"
    with pytest.raises(ClassyError, match=r"run key key-2: the verdict is HOLD.*Worse than the champion"):
        promoted(case, "key-2")
    with pytest.raises(ClassyError, match="run key key-9: nothing was judged"):
        promoted(case, "key-9")
    assert len(generations(case)) == 1


def test_evidence_that_was_changed_promotes_nothing(case: Case) -> None:
    path = Path(case.settings.data_root) / "judge" / "key-1" / "evidence.json"
    path.write_text(path.read_text().replace(case.runs["first"], case.runs["worse"]))
    with pytest.raises(ClassyError, match=r"evidence\.json: SHA-256 is .* was changed after the verdict"):
        promoted(case)
    assert generations(case) == []


def test_where_the_recipe_asks_a_person_must_approve_and_is_recorded(case: Case) -> None:
    strict = case.gated(approval=True)
    with pytest.raises(ClassyError, match=r"gates\.approval = true and nobody approved"):
        promoted(strict)
    assert promoted(strict, approved_by="grace").changed
    approval = open_store(case.settings.database_url).decision("approval-key-1")
    assert approval is not None
    assert (approval["kind"], approval["actor"], approval["run_key"]) == ("approval", "grace", "key-1")


# --------------------------------------------------------------------------------------------------- races


def at_once(monkeypatch: pytest.MonkeyPatch, parties: int) -> None:
    """Every promotion has looked at the table before the first one writes."""
    barrier = threading.Barrier(parties)
    waited = threading.local()
    write = Store.add_generation

    def wait_and_write(self: Store, row: dict) -> None:
        if not getattr(waited, "once", False):
            waited.once = True
            barrier.wait(timeout=30)
        write(self, row)

    monkeypatch.setattr(Store, "add_generation", wait_and_write)


def test_one_promotion_asked_for_by_many_at_once_is_one_generation(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch, 4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: promoted(case), range(4)))
    assert sorted(receipt.changed for receipt in found) == [False, False, False, True]
    assert {(receipt.generation, receipt.version) for receipt in found} == {(1, "1")}
    assert generations(case) == [(1, "1", None)]


def test_of_two_contenders_at_once_one_wins_and_the_other_says_why_not(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(case)
    for name, key in (("second", "key-2"), ("third", "key-3")):
        assert case.evaluate(name, run_key=key).verdict == "PROMOTE"
    at_once(monkeypatch, 2)

    def attempt(key: str) -> Promoted | ClassyError:
        try:
            return promoted(case, key)
        except ClassyError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(attempt, ["key-2", "key-3"]))
    (winner,) = [one for one in found if isinstance(one, Promoted)]
    (loser,) = [str(one) for one in found if isinstance(one, ClassyError)]
    assert "was judged against champion version 1, but version" in loser
    assert "since generation 2" in loser
    assert generations(case) == [(1, "1", None), (2, winner.version, "1")]
    assert aliases(case.settings)["champion"] == winner.version


def test_a_lost_race_is_run_again_while_the_champion_stays(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted(case)
    assert case.evaluate("second", run_key="key-2").verdict == "PROMOTE"
    write = Store.add_generation
    rows = []

    def overtaken(self: Store, row: dict) -> None:
        rows.append(row)
        if len(rows) == 1:
            current = self.current()
            assert current is not None
            write(self, {**current, "generation": 2, "run_key": "a canary", "canary_weight": 0.1})
        write(self, row)

    monkeypatch.setattr(Store, "add_generation", overtaken)
    assert promoted(case, "key-2").generation == 3
    assert [row["generation"] for row in rows] == [2, 3]


def test_the_store_lets_one_writer_have_a_generation(case: Case) -> None:
    promoted(case)
    store = open_store(case.settings.database_url)
    with pytest.raises(LostRace, match="generation 1 was taken"):
        store.add_generation(store.generations()[0])


# --------------------------------------------------------------------------------------------------- kills

KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines import promote
from pipelines.models import registry
from pipelines.recipe import Recipe
from pipelines.settings import load_settings
registry.project = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
settings = load_settings(home=Path(sys.argv[1]), actor="tester", threads=1)
promote.run(settings, Recipe.model_validate_json(sys.argv[2]), run_key="key-1")
"""


def test_killed_between_the_table_and_the_aliases_a_rerun_repairs_them(case: Case) -> None:
    home, given = str(case.settings.home), case.recipe.model_dump_json(by_alias=True)
    killed = subprocess.run([sys.executable, "-c", KILLED, home, given], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert generations(case) == [(1, "1", None)]
    assert aliases(case.settings) == {"contender": "1"}
    again = promoted(case)
    assert (again.generation, again.changed) == (1, False)
    assert aliases(case.settings) == {"champion": "1"}
