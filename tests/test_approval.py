"""A person's answer: whatever is typed into a tag is taken, refused by name or left alone, and the first one stays."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from monitoring.stores import Store, open_store
from pipelines import promote
from pipelines.errors import ClassyError
from pipelines.models import registry, tracking
from pipelines.recipe import Recipe
from pipelines.review import approval
from pipelines.review.approval import Answer, Unclear
from pipelines.settings import Settings
from tests.judged import Case, Plan, make_case, no_pictures

WORDS = st.sampled_from(["approved", "approve", "yes", "rejected", "reject", "no"])
BLANKS = st.text(" \t\n", max_size=3)


def judged_row(run_key: str) -> dict[str, Any]:
    return {
        "decision_key": f"judge-{run_key}", "run_key": run_key, "kind": "judge", "action": "PROMOTE", "reason": "good",
        "evidence_uri": "file:///evidence.json", "evidence_hash": "0" * 64, "actor": "judge",
        "as_of": datetime(2026, 3, 5, tzinfo=UTC), "created_at": datetime(2026, 3, 5, 1, tzinfo=UTC),
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------- tags


@given(word=WORDS, left=BLANKS, right=BLANKS, shout=st.booleans(), by=st.text(min_size=1, max_size=128), note=st.text())
def test_a_word_in_any_case_with_a_name_is_an_answer(
    word: str, left: str, right: str, shout: bool, by: str, note: str
) -> None:
    assume(any(char.isprintable() and not char.isspace() for char in by))
    text = f"{left}{word.upper() if shout else word}{right}"
    found = approval.from_tags({"approval": text, "approval_by": by, "approval_note": note})
    assert isinstance(found, Answer)
    assert found.action == ("APPROVE" if word in ("approved", "approve", "yes") else "REJECT")
    assert (found.via, found.by) == ("mlflow", found.by.strip())
    assert f"{found.by}{found.note}".isprintable(), "the ledger and a terminal can show it"
    assert "  " not in found.by


@given(text=st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=60), by=st.text(max_size=20))
def test_any_other_word_is_named_as_wrong_and_answers_nothing(text: str, by: str) -> None:
    assume(text.casefold() not in {"approved", "approve", "yes", "rejected", "reject", "no"})
    found = approval.from_tags({"approval": text, "approval_by": by})
    assert found == Unclear(f"tag approval = {text[:40]!r} is neither approved nor rejected; set it to one of the two")


@given(word=WORDS, by=st.one_of(st.none(), BLANKS))
def test_without_a_name_nothing_is_answered_and_the_missing_tag_is_named(word: str, by: str | None) -> None:
    found = approval.from_tags({"approval": word, **({} if by is None else {"approval_by": by})})
    assert isinstance(found, Unclear)
    assert "add a tag approval_by" in found.problem


def test_a_text_too_long_for_a_name_is_refused_with_its_length() -> None:
    found = approval.from_tags({"approval": "approved", "approval_by": "a" * 129})
    assert found == Unclear("tag approval_by has 129 characters; a name has at most 128")


@given(tags=st.dictionaries(st.sampled_from(["approval_by", "approval_note", "classy.approval", "owner"]), st.text()))
def test_other_tags_alone_are_no_answer_and_no_mistake(tags: dict[str, str]) -> None:
    assert approval.from_tags(tags) is None


# ------------------------------------------------------------------------------------------------ arguments


def test_arguments_that_cannot_be_meant_are_named() -> None:
    def said(approved_by: str | None = None, rejected_by: str | None = None, note: str = "") -> Answer | None:
        return approval.given(approved_by=approved_by, rejected_by=rejected_by, note=note, via="command")

    assert said() is None
    assert said(rejected_by=" ada  b ", note="a\nb") == Answer(action="REJECT", by="ada b", note="a b")
    with pytest.raises(ClassyError, match="approved by 'ada' and rejected by 'bob': give one of the two"):
        said("ada", "bob")
    with pytest.raises(ClassyError, match="the name of who answered is empty"):
        said(" ")
    with pytest.raises(ClassyError, match="a note needs a name"):
        said(note="nobody says so")


# ----------------------------------------------------------------------------------------------- the ledger


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'classy.db'}")


SAID = st.builds(
    approval.given,
    approved_by=st.text(min_size=1, max_size=40).filter(lambda name: name.strip() and name.isprintable()),
    rejected_by=st.none(),
    note=st.text(max_size=40),
    via=st.sampled_from(["airflow", "mlflow", "command"]),
)


@given(answer=SAID, number=st.integers(0, 10**12))
def test_what_was_said_is_read_back_word_for_word(shared: Store, answer: Answer, number: int) -> None:
    run_key = f"key-{number}-{hash(answer)}"
    assert approval.record(shared, judged_row(run_key), answer) == answer
    assert approval.of(shared, run_key) == answer


@pytest.mark.usefixtures("database_url")
def test_the_first_answer_stays(settings: Settings) -> None:
    store = open_store(settings.database_url)
    assert approval.of(store, "key-1") is None
    first = Answer(action="REJECT", by="ada", note="the sevens: look", via="airflow")
    assert approval.record(store, judged_row("key-1"), first) == first
    assert approval.record(store, judged_row("key-1"), Answer(action="APPROVE", by="bob", via="mlflow")) == first
    (row,) = store.decisions("approval")
    assert (row["action"], row["actor"], row["run_key"]) == ("REJECT", "ada", "key-1")
    assert row["reason"] == "rejected by ada in Airflow: the sevens: look"
    assert row["evidence_hash"] == "0" * 64


def test_a_row_of_an_older_ledger_keeps_its_name(settings: Settings) -> None:
    store = open_store(settings.database_url)
    row = {**judged_row("old"), "decision_key": "approval-old", "kind": "approval", "action": "APPROVE", "actor": "eve"}
    store.record_decision({**row, "reason": "approved by eve on the judge's evidence"})
    found = approval.of(store, "old")
    assert found == Answer(action="APPROVE", by="eve", via=None)
    assert found.sentence == "approved by eve"


# ---------------------------------------------------------------------------------------------- the version


@pytest.fixture
def case(settings: Settings, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Version 1 is judged PROMOTE under key-1."""
    no_pictures(monkeypatch)
    made = make_case(settings, recipe, {"first": Plan(golden=0.80, fresh=0.50)})
    assert made.evaluate("first").verdict == "PROMOTE"
    return made


def client_of(case: Case) -> MlflowClient:
    return tracking.connect(case.settings)


def tags_of(case: Case) -> dict[str, str]:
    tags = registry.need_version(client_of(case), case.settings, "1").tags
    return {key: value for key, value in tags.items() if "approval" in key}


def set_tags(case: Case, **tags: str) -> None:
    for key, value in tags.items():
        client_of(case).set_model_version_tag(case.settings.model_name, "1", key, value)


def test_unclear_tags_are_told_on_the_page_until_they_are_mended(case: Case) -> None:
    look = approval.watch(case.settings, "key-1", "1")
    assert look() is None
    set_tags(case, approval="aproved", approval_by="ada")
    assert look() is None
    assert tags_of(case)[approval.PROBLEM].startswith("tag approval = 'aproved' is neither")
    set_tags(case, approval="Approved")
    assert look() == ("APPROVE", "approved by ada by a tag in MLflow")
    assert approval.PROBLEM not in tags_of(case)


def test_the_watch_sees_an_answer_in_the_ledger_and_a_promotion(case: Case) -> None:
    assert approval.answered(case.settings, "key-1", "1") is None
    promote.run(case.settings, case.recipe, run_key="key-1")
    assert approval.answered(case.settings, "key-1", "1") == ("APPROVE", "promoted already: generation 1 by tester")
    promote.run(case.settings, case.recipe, run_key="key-1", approved_by="ada")
    assert approval.answered(case.settings, "key-1", "1") == ("APPROVE", "approved by ada by command")


def test_a_watch_that_cannot_ask_says_so_and_a_first_look_does_not_stop_the_question(case: Case) -> None:
    look = approval.watch(case.settings, "key-1", "1")
    client_of(case).delete_model_version(case.settings.model_name, "1")
    with pytest.raises(ClassyError, match="version 1: not in the registry"):
        look()
    assert approval.answered(case.settings, "key-1", "1") is None
    away = case.settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/classy"})
    with pytest.raises(ClassyError, match="run key key-1: whether somebody answered cannot be seen now: database"):
        approval.watch(away, "key-1", "1")


def test_tags_that_were_taken_up_never_answer_a_later_judgement(case: Case) -> None:
    set_tags(case, approval="rejected", approval_by="ada", approval_note="not yet")
    promote.run(case.settings, case.recipe, run_key="key-1")
    taken = {"classy.approval": "rejected", "classy.approval_by": "ada", "classy.approval_note": "not yet"}
    assert tags_of(case) == taken
    assert approval.tagged(client_of(case), case.settings, "1") is None
    approval.forget(client_of(case), case.settings, "1")
    assert tags_of(case) == {}


def test_the_question_says_what_each_answer_does_and_where_else_to_give_it(case: Case) -> None:
    text = approval.question(case.settings, "key-1")
    reason = case.evaluate("first").reasons[0]
    for part in ("The judge says **PROMOTE**: version 1 (`first`)", f"- {reason}", "(models:/classy/1)",
                 "**Reject** leaves production empty.", "without end", "`approval` = `approved` or `rejected`",
                 "`classy promote --run-key key-1 --approved-by NAME`"):  # fmt: skip
        assert part in text
    with pytest.raises(ClassyError, match="run key key-9: nothing was judged"):
        approval.question(case.settings, "key-9")
