"""Who is answered by which model: sticky, a share as large as asked, growing without moving anybody; leases; counts."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from serving.canonical import ImageSpec
from serving.problems import Problem
from serving.versions.arms import Arm, Arms, Lineup, share
from serving.versions.tally import BOUNDS_MS, Tally

PEOPLE = [f"sender-{number}" for number in range(4000)]


@dataclass(eq=False)
class Weights:
    """What arms know of a loaded model."""

    size: int = 16
    image_spec: ImageSpec = field(init=False)

    def __post_init__(self) -> None:
        self.image_spec = ImageSpec(size=self.size)


def arm(name: str, version: str, *, generation: int = 1, size: int = 16) -> Arm:
    weights = cast("Any", Weights(size))
    return Arm(name=name, version=version, run_id=f"run-{version}", generation=generation, loaded=weights)


CHAMPION, CANARY = arm("champion", "1"), arm("canary", "2")


def serving(weight: float = 0.1, **more: Any) -> Arms:
    arms = Arms()
    arms.swap(Lineup(**{"champion": CHAMPION, "canary": CANARY, "weight": weight, **more}))
    return arms


def met(arms: Arms) -> set[str]:
    """Who is answered by the canary."""
    return {sender for sender in PEOPLE if arms.choose(sender).name != "champion"}


# --------------------------------------------------------------------------------------------------- who


def test_a_sender_stays_with_one_model_in_every_process() -> None:
    assert met(serving()) == met(serving())
    # Written down: another version of Classy, or another machine, must divide people alike.
    assert share("exp", "sender-1") == pytest.approx(0.62219, abs=1e-5)


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5, 0.9])
def test_the_canary_answers_the_share_of_senders_that_was_asked_for(weight: float) -> None:
    count = len(met(serving(weight)))
    assert stats.binomtest(count, len(PEOPLE), weight).pvalue > 1e-4


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=6))
def test_a_larger_weight_only_adds_senders(weights: list[float]) -> None:
    people = PEOPLE[:200]
    arms = Arms()
    before: set[str] = set()
    for generation, weight in enumerate(sorted(weights), 1):
        champion, canary = arm("champion", "1", generation=generation), arm("canary", "2", generation=generation)
        arms.swap(Lineup(champion=champion, canary=canary, weight=weight))
        now = {sender for sender in people if arms.choose(sender) is canary}
        assert before <= now
        before = now


def test_two_experiments_divide_people_independently() -> None:
    first = met(serving(0.5))
    second = met(serving(0.5, canary=arm("canary", "3")))
    both = len(first & second)
    assert stats.binomtest(both, len(PEOPLE), 0.25).pvalue > 1e-4


def test_an_unknown_sender_is_assigned_photo_by_photo() -> None:
    arms = serving(0.5)
    chosen = [arms.choose("", key=f"photo-{number}").name for number in range(1000)]
    assert stats.binomtest(chosen.count("canary"), 1000, 0.5).pvalue > 1e-4
    assert chosen == [arms.choose("", key=f"photo-{number}").name for number in range(1000)]


@pytest.mark.parametrize(
    ("wanted", "version"), [("champion", "1"), ("canary", "2"), ("B", "2"), ("2", "2"), ("7", "7"), ("v7", "7")]
)
def test_an_arm_is_had_by_its_name_or_version(wanted: str, version: str) -> None:
    arms = serving(canary=arm("B", "2"), others=(arm("v7", "7"),))
    assert {arms.choose(sender, wanted).version for sender in PEOPLE[:50]} == {version}


@pytest.mark.parametrize("wanted", ["shadow", "C", "9", "Champion"])
def test_another_name_is_refused_with_those_that_there_are(wanted: str) -> None:
    arms = serving(canary=arm("B", "2"), shadow=arm("shadow", "3"))
    with pytest.raises(Problem, match=r"there are champion, 1, B, 2$") as caught:
        arms.choose("sender-1", wanted)
    assert caught.value.reason == "not_found"


def test_a_version_that_is_not_loaded_is_refused_with_those_that_are() -> None:
    arms = serving(shadow=arm("shadow", "3"))
    assert arms.by_version("3").name == "shadow"
    with pytest.raises(Problem, match="versions are 1, 2, 3"):
        arms.by_version("4")


def test_nothing_loaded_is_said_with_its_reason_and_when_to_come_again() -> None:
    arms = Arms()
    arms.refused = "the registry is away"
    assert arms.ready() == "the registry is away"
    with pytest.raises(Problem, match="the registry is away") as caught:
        arms.choose("sender-1")
    assert (caught.value.reason, caught.value.retry_after) == ("unavailable", 1.0)


def test_photos_that_were_prepared_for_the_model_before_are_answered_by_it() -> None:
    arms, old, new = Arms(), arm("champion", "1", size=16), arm("champion", "2", size=32)
    specs = [one.loaded.image_spec.digest() for one in (old, new)]
    arms.swap(Lineup(champion=old))
    arms.swap(Lineup(champion=new))
    assert [arms.choose("a", image_spec=spec) for spec in specs] == [old, new]
    assert arms.choose("a") is new
    assert arms.holds(old.loaded)
    arms.forget()
    assert arms.choose("a", image_spec=specs[0]) is new
    assert not arms.holds(old.loaded)


# ------------------------------------------------------------------------------------------------ leases


def test_a_model_is_drained_when_the_last_lease_ends_and_not_before() -> None:
    async def story() -> list[str]:
        arms, told = serving(), []
        first, second = arms.lease(CHAMPION), arms.lease(CHAMPION)
        first.__enter__()
        second.__enter__()
        waiting = asyncio.create_task(arms.drained(CHAMPION.loaded))
        await arms.drained(CANARY.loaded)  # nobody holds it
        for lease in (first, second):
            await asyncio.sleep(0)
            told.append("done" if waiting.done() else "waits")
            lease.__exit__(None, None, None)
        await waiting
        return told

    assert asyncio.run(story()) == ["waits", "waits"]


def test_a_lease_ends_with_its_request_even_if_that_fails() -> None:
    async def story() -> None:
        arms = serving()
        with pytest.raises(ZeroDivisionError), arms.lease(CHAMPION):
            raise ZeroDivisionError
        await asyncio.wait_for(arms.drained(CHAMPION.loaded), 1)

    asyncio.run(story())


# ------------------------------------------------------------------------------------------------ counts


def test_answers_are_counted_by_arm_and_minute_with_their_latencies() -> None:
    now = [1_772_323_200.0]
    tally = Tally("w1", clock=lambda: now[0])
    arms = Arms(tally)
    for seconds in (0.001, 0.0011, 0.2):
        arms.tally(CHAMPION, seconds, True)
    arms.tally(CANARY, 0.001, False)
    now[0] += 60
    arms.tally(CHAMPION, 1000.0, True)
    rows = tally.rows()
    assert [(row["arm"], row["photos"], row["errors"]) for row in rows] == [
        ("champion", 3, 0),
        ("canary", 0, 1),
        ("champion", 1, 0),
    ]
    assert rows[0]["latencies"] == {"1": 1, "1.1892": 1, "215.269": 1}
    assert rows[1]["latencies"] == {}
    assert rows[2]["latencies"] == {f"{BOUNDS_MS[-1]:g}": 1}
    assert rows[0]["minute"] == datetime(2026, 3, 1, tzinfo=UTC)


def test_a_minute_is_written_until_nothing_comes_to_it_any_more() -> None:
    now = [0.0]
    tally = Tally("w1", clock=lambda: now[0])
    tally.add(CHAMPION, 0.001, True)
    rows = tally.rows()
    tally.add(CHAMPION, 0.001, True)  # while the rows are being written
    tally.written(rows)
    assert [row["photos"] for row in tally.rows()] == [2]
    tally.written(tally.rows())
    assert tally.rows() == []
    tally.add(CHAMPION, 0.001, True)  # the minute is not over
    assert [row["photos"] for row in tally.rows()] == [3]


def test_minutes_that_nobody_takes_are_bounded_and_the_lost_ones_counted() -> None:
    now = [0.0]
    tally = Tally("w1", clock=lambda: now[0], keep=5)
    for minute in range(8):
        now[0] = 60.0 * minute
        tally.add(CHAMPION, 0.001, True)
    assert (len(tally.rows()), tally.lost) == (5, 3)
