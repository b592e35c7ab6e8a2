"""The ledger in itself: whatever is promoted and rolled back, in any order, its rows tell one story."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import ledger
from monitoring.ledger import LedgerError

NOW = datetime(2026, 3, 1, tzinfo=UTC)
Rows = list[dict[str, Any]]


def change(rows: Rows, hours: float = 0) -> ledger.Change:
    key, as_of = f"key-{len(rows) + 1}", NOW + timedelta(hours=hours)
    return ledger.Change(actor="ada", reason="because", run_key=key, as_of=as_of, created_at=NOW)


def promote(rows: Rows, version: str, hours: float = 0) -> None:
    """A promotion on evidence of its own."""
    rows.append(
        ledger.promotion(
            rows[-1] if rows else None,
            change(rows, hours),
            version=version,
            run_id=f"run-{version}",
            evidence_uri=f"judge/{len(rows)}",
            evidence_hash=f"evidence-{len(rows)}",
        )
    )


def roll_back(rows: Rows, to: int | None = None, hours: float = 0) -> None:
    """As `classy rollback` does it: what serves already is not put there again."""
    target = ledger.rollback_target(rows, to)
    if target["champion_version"] != rows[-1]["champion_version"]:
        rows.append(ledger.rollback(rows[-1], change(rows, hours), target=target))


def told(story: str) -> list[str]:
    """Versions by generation after a story such as `1 2 3 < <1`: promote 1, 2 and 3, go back, go back to 1."""
    rows: Rows = []
    for move in story.split():
        if move.startswith("<"):
            roll_back(rows, int(move[1:]) if len(move) > 1 else None)
        else:
            promote(rows, move)
    return [row["champion_version"] for row in rows]


@pytest.mark.parametrize(
    ("story", "versions"),
    [
        pytest.param("1 2 <", "1 2 1", id="to the one before"),
        pytest.param("1 2 3 < <", "1 2 3 2 1", id="the second goes further back"),
        pytest.param("1 2 3 <1", "1 2 3 1", id="to a named one"),
        pytest.param("1 2 < 3 <", "1 2 1 3 1", id="a promotion after a rollback is taken back to what it replaced"),
        pytest.param("1 2 3 < < 4 < ", "1 2 3 2 1 4 1", id="and not to what had been taken out before it"),
        pytest.param("1 2 3 2 <", "1 2 3 2 3", id="a model that was promoted again goes back to what it replaced"),
        pytest.param("1 2 1 < ", "1 2 1 2", id="the first model too"),
        pytest.param("1 2 3 < <3 <", "1 2 3 2 3 1", id="a model that a rollback took out is not brought back unasked"),
        pytest.param("1 2 <2", "1 2", id="what serves is not put there again"),
        pytest.param("1 2 < <2 <1", "1 2 1 2 1", id="by name, back and forth"),
    ],
)
def test_where_a_story_leads(story: str, versions: str) -> None:
    assert told(story) == versions.split()


@pytest.mark.parametrize(
    ("story", "words"),
    [
        ("<", "nothing is in production yet"),
        ("1 <", "generation 1 serves version 1, and no other was in production before it$"),
        (
            "1 2 < <",
            r"generation 3 serves version 1, and no other .*; name one with --to: 1 \(version 1\), 2 \(version 2",
        ),
        ("1 2 1 < <", "generation 4 serves version 2, and no other"),
        ("1 2 <7", r"rollback to generation 7: there is none; there are 1 \(version 1\), 2 \(version 2\)"),
    ],
)
def test_what_cannot_be_rolled_back_is_said(story: str, words: str) -> None:
    with pytest.raises(LedgerError, match=words):
        told(story)


def test_a_model_that_is_promoted_again_was_not_its_own_predecessor() -> None:
    rows: Rows = []
    for version in ("1", "2", "2"):
        promote(rows, version)
    assert [row["previous_version"] for row in rows] == [None, "1", "1"]


def test_a_canary_is_no_promotion_and_does_not_outlive_its_champion() -> None:
    rows: Rows = []
    promote(rows, "1")
    promote(rows, "2")
    canary = {"kind": "canary", "canary_version": "3", "canary_weight": 0.1}
    rows.append({**rows[-1], **canary, "generation": 3, "run_key": "canary"})
    roll_back(rows)
    assert (rows[-1]["champion_version"], rows[-1]["canary_version"], rows[-1]["canary_weight"]) == ("1", None, 0.0)


def try_out(rows: Rows, version: str, weight: float = 0.1, name: str | None = None) -> None:
    rows.append(
        ledger.canary(
            rows[-1] if rows else None, change(rows), version=version, run_id=f"run-{version}", weight=weight, name=name
        )
    )


def test_a_canary_changes_nothing_about_the_champion_and_a_weight_keeps_its_name() -> None:
    rows: Rows = []
    promote(rows, "1")
    promote(rows, "2")
    try_out(rows, "3", name="B")
    try_out(rows, "3", weight=0.5)
    assert [(row["kind"], row["canary_name"], row["canary_weight"]) for row in rows[2:]] == [
        ("canary", "B", 0.1),
        ("canary", "B", 0.5),
    ]
    rows.append(ledger.shadow(rows[-1], change(rows), version="1", run_id="run-1"))
    same = ("champion_version", "champion_run_id", "previous_version", "evidence_uri", "evidence_hash")
    assert {tuple(row[name] for name in same) for row in rows[1:]} == {tuple(rows[1][name] for name in same)}
    assert ledger.brought(rows) is rows[1]
    assert ledger.trial(rows) == rows[2:]
    assert ledger.last_served(rows) == {"1": 1, "2": 5}
    assert [ledger.answered_by(rows[-1], f"run-{number}") for number in (1, 2, 3)] == ["shadow", None, "canary"]
    rows.append(ledger.drop(rows[-1], change(rows), role="canary"))
    assert (rows[-1]["canary_version"], rows[-1]["canary_name"], rows[-1]["shadow_version"]) == (None, None, "1")
    assert ledger.trial(rows) == []
    try_out(rows, "3")
    assert ledger.trial(rows) == rows[-1:], "a second trial of the same version begins anew"
    roll_back(rows)
    assert (rows[-1]["champion_version"], rows[-1]["canary_version"]) == ("1", None)


@pytest.mark.parametrize(
    ("version", "weight", "name", "said"),
    [
        ("1", 0.1, None, "version 1 is the champion itself"),
        ("3", 0.1, None, "version 2 is the canary already"),
        ("2", 0.0, None, "canary weight 0: must be above 0"),
        ("2", 1.5, None, "canary weight 1.5: must be above 0 and below 1"),
        ("2", 0.5, "shadow", "canary name 'shadow': is taken"),
    ],
)
def test_a_canary_that_cannot_be_is_refused(version: str, weight: float, name: str | None, said: str) -> None:
    rows: Rows = []
    promote(rows, "1")
    try_out(rows, "2")
    with pytest.raises(LedgerError, match=said):
        try_out(rows, version, weight, name)


def test_without_a_champion_there_is_no_canary_and_without_one_nothing_to_drop() -> None:
    rows: Rows = []
    with pytest.raises(LedgerError, match="no canary without a champion"):
        try_out(rows, "1")
    promote(rows, "1")
    for role in ("canary", "shadow"):
        with pytest.raises(LedgerError, match=f"there is no {role} to drop"):
            ledger.drop(rows[-1], change(rows), role=role)


MOVES = st.one_of(
    st.integers(1, 5).map(lambda version: ("promote", version)),
    st.integers(1, 5).map(lambda version: ("canary", version)),
    st.just(("drop", None)),
    st.just(("back", None)),
    st.integers(1, 20).map(lambda generation: ("back", generation)),
)


@given(st.lists(st.tuples(MOVES, st.floats(-50, 50)), min_size=1, max_size=20))
def test_any_story_of_promotions_and_rollbacks_keeps_the_ledger_in_order(story: list[tuple[Any, float]]) -> None:
    """`hours` of data time may go backwards: a promotion on older data than the last one's."""
    rows: Rows = []
    for (kind, number), hours in story:
        before = list(rows)
        try:
            if kind == "promote":
                promote(rows, str(number), hours)
            elif kind == "canary":
                try_out(rows, str(number))
            elif kind == "drop":
                rows.append(ledger.drop(rows[-1] if rows else None, change(rows), role="canary"))
            else:
                roll_back(rows, number, hours)
        except LedgerError:
            assert rows == before
        assert rows[: len(before)] == before, "a generation was rewritten"
        if kind in ("canary", "drop") and len(rows) > len(before):
            assert rows[-1]["champion_version"] == before[-1]["champion_version"]
            assert ledger.brought(rows) == ledger.brought(before)
        if rows and rows[-1]["kind"] in ("promote", "rollback"):
            assert rows[-1]["canary_version"] is None, "a canary outlived its champion"
        if kind == "back" and len(rows) > len(before):
            gone = before[-1]["champion_version"]
            assert rows[-1]["champion_version"] != gone
            origin = [row for row in before if row["evidence_hash"] == rows[-1]["evidence_hash"]]
            assert origin[0]["kind"] == "promote"
            assert origin[0]["champion_version"] == rows[-1]["champion_version"]
    assert [row["generation"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["run_key"] for row in rows}) == len(rows)
    for earlier, later in pairwise(rows):
        other = earlier["champion_version"] != later["champion_version"]
        assert later["previous_version"] == (earlier["champion_version"] if other else earlier["previous_version"])
    assert all(row["previous_version"] != row["champion_version"] for row in rows)
    if rows:
        last = ledger.last_served(rows)
        assert last[rows[-1]["champion_version"]] == len(rows)
        assert set(last) == {row["champion_version"] for row in rows}
    _served_in_order(rows)


def _served_in_order(rows: Rows) -> None:
    """At each moment one generation serves; a later moment never has an earlier one; the last stays for ever."""
    moments = sorted(row["as_of"] for row in rows)
    numbers = [serving["generation"] for at in moments if (serving := ledger.served_at(rows, at, clock="as_of"))]
    assert numbers == sorted(numbers)
    if rows:
        assert ledger.served_at(rows, moments[-1], clock="as_of") == rows[-1]
        assert ledger.served_at(rows, rows[0]["as_of"] - timedelta(seconds=1), clock="as_of") is None


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_rolling_back_again_and_again_ends_and_serves_no_model_twice(versions: list[int]) -> None:
    rows: Rows = []
    for version in versions:
        promote(rows, str(version))
    seen = [rows[-1]["champion_version"]]
    with pytest.raises(LedgerError, match="no other was in production before it"):
        for _ in range(len(versions) + 1):
            roll_back(rows)
            seen.append(rows[-1]["champion_version"])
    assert len(set(seen)) == len(seen)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.floats(-5, 110))
def test_what_served_at_a_time_had_begun_and_nothing_later_had(hours: list[float], at: float) -> None:
    rows = [{"generation": number, "as_of": NOW + timedelta(hours=hour)} for number, hour in enumerate(hours, 1)]
    time = NOW + timedelta(hours=at)
    serving = ledger.served_at(rows, time, clock="as_of")
    begun = [max(row["as_of"] for row in rows[: number + 1]) <= time for number in range(len(rows))]
    assert (serving["generation"] if serving else 0) == sum(begun)
