"""Going back: to a model that still loads, further back the second time, once a run key."""

import shutil
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import ledger
from monitoring.ledger import LedgerError
from monitoring.stores import LostRace, Store, open_store
from pipelines import promote, rollback
from pipelines.errors import ClassyError
from pipelines.models import tracking
from pipelines.recipe import Recipe
from pipelines.rollback import RolledBack
from pipelines.settings import Settings
from serving.runtime import ModelError
from tests.judged import Case, Plan, aliases, make_case, no_pictures

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def case(settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Case:
    """`first`, then `second`, were promoted."""
    no_pictures(monkeypatch)
    made = make_case(settings, recipe, {"first": Plan(golden=0.8, fresh=0.5), "second": Plan(golden=0.9, fresh=0.9)})
    for number, name in enumerate(made.runs, 1):
        assert made.evaluate(name, run_key=f"key-{number}").verdict == "PROMOTE"
        promote.run(settings, recipe, run_key=f"key-{number}")
    return made


def back(case: Case, run_key: str = "oops", to: int | None = None, reason: str = "only sees shoes") -> RolledBack:
    return rollback.run(case.settings, case.recipe, to=to, reason=reason, actor="ada", run_key=run_key)


def test_a_rollback_is_a_new_generation_with_the_old_model_and_its_evidence(case: Case) -> None:
    found = back(case)
    assert (found.generation, found.version, found.changed) == (3, "1", True)
    first, _, third = open_store(case.settings.database_url).generations()
    assert (third["kind"], third["actor"], third["previous_version"]) == ("rollback", "ada", "2")
    assert third["reason"] == "only sees shoes (back to generation 1's version 1)"
    assert (third["evidence_hash"], third["champion_run_id"]) == (first["evidence_hash"], first["champion_run_id"])
    assert aliases(case.settings) == {"champion": "1", "previous": "2"}


def test_the_same_key_rolls_back_once(case: Case) -> None:
    back(case)
    again = back(case)
    assert (again.generation, again.changed) == (3, False)
    assert len(open_store(case.settings.database_url).generations()) == 3


def test_a_second_rollback_does_not_bring_the_bad_model_back(case: Case) -> None:
    back(case)
    with pytest.raises(LedgerError, match=r"nothing to roll back to: generation 3 serves version 1.*--to"):
        back(case, "oops-again")
    assert back(case, "on-purpose", to=2).version == "2"


def test_what_serves_already_is_not_put_there_again(case: Case) -> None:
    found = back(case, to=2)
    assert (found.generation, found.changed, found.reason) == (2, False, "version 2 serves already, since generation 2")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"to": 7}, LedgerError, r"generation 7: there is none; there are 1 \(version 1\), 2 \(version 2\)"),
        ({"reason": " "}, ClassyError, "needs a reason"),
    ],
)
def test_bad_arguments_are_named(case: Case, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        back(case, **arguments)


def test_before_the_first_promotion_there_is_nothing_to_roll_back(settings: Settings, recipe: Recipe) -> None:
    with pytest.raises(LedgerError, match="nothing is in production yet"):
        rollback.run(settings, recipe, reason="panic", run_key="oops")


def test_a_model_that_is_on_this_machine_no_more_is_fetched_again(case: Case) -> None:
    shutil.rmtree(case.settings.home / "cache" / "models")
    assert back(case).version == "1"


@pytest.mark.parametrize("file", ["model.onnx", "card.json"])
def test_a_model_that_was_changed_is_refused_and_the_present_one_stays(case: Case, file: str) -> None:
    package = tracking.fetch_package(case.settings, case.runs["first"])
    (package / file).write_bytes((package / file).read_bytes() + b" ")
    with pytest.raises(ModelError, match="was changed"):
        back(case)
    assert len(open_store(case.settings.database_url).generations()) == 2


def test_a_package_whose_manifest_is_not_the_packaged_one_is_refused(case: Case) -> None:
    package = tracking.fetch_package(case.settings, case.runs["first"])
    (package / "manifest.json").write_text((package / "manifest.json").read_text() + " ")
    with pytest.raises(ClassyError, match=r"manifest has SHA-256 .*production stays as it is"):
        back(case)


def test_a_promotion_in_between_stops_a_rollback_that_named_no_generation(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.add_generation

    def overtaken(self: Store, row: dict) -> None:
        current = self.current()
        assert current is not None
        if current["generation"] == 2:
            write(self, {**current, "generation": 3, "champion_version": "9", "run_key": "key-9", "actor": "grace"})
        write(self, row)

    monkeypatch.setattr(Store, "add_generation", overtaken)
    with pytest.raises(LostRace, match=r"generation 3 \(promote by grace\) came in between"):
        back(case)
    assert len(open_store(case.settings.database_url).generations()) == 3


# -------------------------------------------------------------------------------------------------- ledger


def change(key: str, hours: float = 0) -> ledger.Change:
    return ledger.Change(actor="ada", reason="because", run_key=key, as_of=NOW + timedelta(hours=hours), created_at=NOW)


@given(st.lists(st.one_of(st.none(), st.integers(1, 30)), min_size=1, max_size=12))
def test_any_story_of_promotions_and_rollbacks_stays_in_order(moves: list[int | None]) -> None:
    """None rolls back; a number promotes that version."""
    rows: list[dict[str, Any]] = []
    for number, move in enumerate(moves):
        if move is not None:
            current = rows[-1] if rows else None
            made = ledger.promotion(
                current, change(str(number)), version=str(move), run_id="run", evidence_uri=None, evidence_hash=None
            )
            rows.append(made)
            continue
        try:
            target = ledger.rollback_target(rows, None)
        except LedgerError:
            continue
        assert target["generation"] < rows[-1]["generation"]
        rows.append(ledger.rollback(rows[-1], change(str(number)), target=target))
        assert rows[-1]["champion_version"] == target["champion_version"]
    assert [row["generation"] for row in rows] == list(range(1, len(rows) + 1))
    for before, after in pairwise(rows):
        assert after["previous_version"] == before["champion_version"]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.floats(-5, 110))
def test_what_served_at_a_time_had_begun_and_nothing_later_had(hours: list[float], at: float) -> None:
    rows = [{"generation": number, "as_of": NOW + timedelta(hours=hour)} for number, hour in enumerate(hours, 1)]
    time = NOW + timedelta(hours=at)
    serving = ledger.served_at(rows, time, clock="as_of")
    begun = [max(row["as_of"] for row in rows[: number + 1]) <= time for number in range(len(rows))]
    assert (serving["generation"] if serving else 0) == sum(begun)
