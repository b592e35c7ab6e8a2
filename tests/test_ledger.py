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


MOVES = st.one_of(
    st.integers(1, 5).map(lambda version: ("promote", version)),
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
            else:
                roll_back(rows, number, hours)
        except LedgerError:
            assert rows == before
        assert rows[: len(before)] == before, "a generation was rewritten"
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
