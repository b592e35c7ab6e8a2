"""Promotion happens once, under a second call and in a race, and only on a verdict about this champion."""

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

on_both = pytest.mark.usefixtures("database_url")
"""Once on SQLite, once on PostgreSQL."""
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


@on_both
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


# ------------------------------------------------------------------------------------------------ a person


def answer_of(case: Case, run_key: str = "key-1") -> tuple[str, str, str] | None:
    row = open_store(case.settings.database_url).decision(f"approval-{run_key}")
    return None if row is None else (row["action"], row["actor"], row["reason"])


def tag(case: Case, version: str = "1", **tags: str) -> None:
    for key, value in tags.items():
        tracking.connect(case.settings).set_model_version_tag(case.settings.model_name, version, key, value)


def test_where_the_recipe_asks_nobody_is_promoted_unanswered_and_three_ways_are_named(case: Case) -> None:
    strict = case.gated(approval=True)
    for asked, more in ((strict, {}), (case, {"needs_approval": True})):
        with pytest.raises(
            ClassyError, match=r"nobody answered\..*Required Actions.*approval_by = your.*--approved-by"
        ):
            promoted(asked, **more)
    assert (generations(case), answer_of(case)) == ([], None)


@on_both
def test_an_approval_is_recorded_with_name_and_note_and_is_in_the_ledger_of_production(case: Case) -> None:
    found = promoted(case.gated(approval=True), approved_by="grace", note="looks right", reason="launch")
    assert (found.promoted, found.changed, found.generation) == (True, True, 1)
    assert answer_of(case) == ("APPROVE", "grace", "approved by grace by command: looks right")
    row = open_store(case.settings.database_url).current()
    assert row is not None
    assert row["reason"].startswith("launch. Better")
    assert row["reason"].endswith("Approved by grace by command: looks right.")
    again = promoted(case.gated(approval=True))
    assert (again.promoted, again.changed, again.answer) == (True, False, "approved by grace by command: looks right")


def test_an_approval_by_tags_on_the_version_promotes(case: Case) -> None:
    tag(case, approval="Approved", approval_by="Grace Hopper")
    assert promoted(case.gated(approval=True)).changed
    assert answer_of(case) == ("APPROVE", "Grace Hopper", "approved by Grace Hopper by a tag in MLflow")
    tags = tracking.connect(case.settings).get_model_version(case.settings.model_name, "1").tags
    assert (tags["classy.approval"], tags["classy.approval_by"]) == ("approved", "Grace Hopper")
    assert "approval" not in tags


@on_both
def test_a_rejection_is_a_verdict_that_stays(case: Case) -> None:
    found = promoted(case, rejected_by="ada", note="the sevens look wrong")
    assert (found.promoted, found.changed, found.generation, found.version) == (False, False, None, "1")
    assert found.reason == "Rejected by ada by command: the sevens look wrong."
    assert answer_of(case) == ("REJECT", "ada", "rejected by ada by command: the sevens look wrong")
    assert promoted(case) == found
    bob = promoted(case, approved_by="bob")
    assert not bob.promoted
    assert bob.reason == (
        "Rejected by ada by command: the sevens look wrong. Approved by bob by command (this came later and changes "
        "nothing). Judge it again under a new run key."
    )
    assert (generations(case), aliases(case.settings)) == ([], {"contender": "1"})


def test_a_rejection_by_tags_holds_even_where_nobody_was_asked(case: Case) -> None:
    tag(case, approval="rejected", approval_by="ada")
    assert not promoted(case).promoted
    assert generations(case) == []


def test_tags_that_cannot_be_understood_promote_nothing_and_are_named(case: Case) -> None:
    tag(case, approval="rejectd", approval_by="ada")
    with pytest.raises(ClassyError, match="run key key-1: MLflow, version 1: tag approval = 'rejectd' is neither"):
        promoted(case)
    assert (generations(case), answer_of(case)) == ([], None)
    assert promoted(case, approved_by="grace").changed, "a clear answer elsewhere is enough"


def test_what_is_in_production_cannot_be_rejected_any_more(case: Case) -> None:
    promoted(case)
    late = promoted(case, rejected_by="ada")
    assert (late.promoted, late.generation, late.changed) == (True, 1, False)
    assert "Rejected by ada by command (this came later and changes nothing). `classy rollback`" in late.reason
    assert answer_of(case) is None


@on_both
def test_answers_at_once_leave_one_in_the_ledger_and_production_agrees(case: Case) -> None:
    said = [{"approved_by": "grace"}, {"rejected_by": "ada"}, {"rejected_by": "bob"}, {"approved_by": "eve"}]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda answer: promoted(case, **answer), said))
    action, _, sentence = answer_of(case) or ("", "", "")
    assert {receipt.answer for receipt in found} == {sentence}
    assert {receipt.promoted for receipt in found} == {action == "APPROVE"}
    assert len(generations(case)) == (action == "APPROVE")


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


@on_both
def test_one_promotion_asked_for_by_many_at_once_is_one_generation(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch, 4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: promoted(case), range(4)))
    assert sorted(receipt.changed for receipt in found) == [False, False, False, True]
    assert {(receipt.generation, receipt.version) for receipt in found} == {(1, "1")}
    assert generations(case) == [(1, "1", None)]


@on_both
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


@on_both
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
