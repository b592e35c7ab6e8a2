"""Lanes, with real threads: nothing lost, nothing answered twice, the bound holds, cancelled items are not computed."""

import asyncio
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.lanes import LEAST_RETRY, Lane
from serving.problems import Problem


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 20))


class Gate:
    """Work that waits until it is let through, and notes what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, items: list[int]) -> Sequence[int | Problem]:
        self.batches.append(items)
        self.begun.release()
        assert self.open.wait(10)
        return [10 * item for item in items]

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=10)


async def held(gate: Gate, **options: Any) -> tuple[Lane[int, int], "asyncio.Task[int]"]:
    """A started lane whose only thread is busy with item 0."""
    lane: Lane[int, int] = Lane(gate, name="test", **options)
    lane.start()
    first = asyncio.create_task(lane.submit(0))
    await gate.has_begun()
    return lane, first


def test_what_waits_goes_together_and_alone_it_goes_at_once() -> None:
    async def main() -> None:
        gate = Gate()
        lane, first = await held(gate, batch=4)
        rest = [asyncio.create_task(lane.submit(item)) for item in range(1, 7)]
        await asyncio.sleep(0)
        assert lane.waiting == 6
        gate.open.set()
        assert [await task for task in (first, *rest)] == [0, 10, 20, 30, 40, 50, 60]
        await lane.stop()
        assert gate.batches == [[0], [1, 2, 3, 4], [5, 6]]
        assert (lane.batches, lane.done) == (3, 7)

    run(main)


def test_a_batch_waits_for_company_until_it_is_full_or_its_time_is_up() -> None:
    async def main() -> None:
        gate = Gate()
        gate.open.set()
        lane: Lane[int, int] = Lane(gate, name="test", batch=3, wait_ms=150)
        lane.start()
        start = time.monotonic()
        full = [asyncio.create_task(lane.submit(item)) for item in range(3)]
        await asyncio.gather(*full)
        assert time.monotonic() - start < 0.14, "a full batch does not wait"
        start = time.monotonic()
        await lane.submit(7)
        assert time.monotonic() - start >= 0.14
        await lane.stop()
        assert gate.batches == [[0, 1, 2], [7]]

    run(main)


def test_a_full_lane_refuses_and_says_when_to_come_again() -> None:
    async def main() -> None:
        gate = Gate()
        lane, first = await held(gate, batch=2, queue=3)
        waiting = asyncio.create_task(lane.submit_many([1, 2]))
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="2 are waiting, of 3 that may; ask again in") as two:
            await lane.submit_many([3, 4])
        assert (two.value.reason, two.value.kind.status) == ("busy", 429)
        assert two.value.retry_after == LEAST_RETRY, "nothing was measured yet"
        last = asyncio.create_task(lane.submit(5))
        await asyncio.sleep(0)
        assert lane.waiting == 3
        with pytest.raises(Problem, match="4 at once; send 3 or fewer"):
            await lane.submit_many([1, 2, 3, 4])
        gate.open.set()
        assert (await first, await waiting, await last) == (0, [10, 20], 50)
        assert lane.refused == 2
        await lane.stop()

    run(main)


def test_the_time_to_come_again_is_measured() -> None:
    async def main() -> None:
        lane: Lane[int, int] = Lane(_slow, name="test", batch=1, queue=20)
        lane.start()
        await lane.submit(0)
        waiting = asyncio.create_task(lane.submit_many(list(range(20))))
        await asyncio.sleep(0)
        with pytest.raises(Problem) as full:
            await lane.submit(1)
        assert full.value.retry_after is not None
        assert 0.3 < full.value.retry_after < 2.0, "20 items of 20 ms wait"
        await waiting
        await lane.stop()

    run(main)


def _slow(items: list[int]) -> list[int]:
    time.sleep(0.02)
    return items


def test_a_cancelled_item_is_not_computed_and_makes_room_at_once() -> None:
    async def main() -> None:
        gate = Gate()
        lane, first = await held(gate, batch=8, queue=3)
        gone = asyncio.create_task(lane.submit_many([1, 2]))
        stays = asyncio.create_task(lane.submit(3))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert lane.waiting == 1
        late = asyncio.create_task(lane.submit_many([4, 5]))
        await asyncio.sleep(0)
        gate.open.set()
        assert (await first, await stays, await late) == (0, 30, [40, 50])
        await lane.stop()
        assert gate.batches == [[0], [3, 4, 5]]

    run(main)


def test_an_item_past_its_deadline_is_not_computed() -> None:
    async def main() -> None:
        gate = Gate()
        lane, first = await held(gate, batch=8)
        late = asyncio.create_task(lane.submit(1, deadline=time.monotonic() - 0.001))
        in_time = asyncio.create_task(lane.submit(2, deadline=time.monotonic() + 60))
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(Problem, match="deadline") as problem:
            await late
        assert problem.value.reason == "too_late"
        assert (await first, await in_time) == (0, 20)
        await lane.stop()
        assert gate.batches == [[0], [2]]

    run(main)


def test_an_items_own_problem_is_its_own() -> None:
    def work(items: list[int]) -> list[int | Problem]:
        return [Problem("unprocessable", "odd") if item % 2 else item for item in items]

    async def main() -> None:
        lane: Lane[int, int] = Lane(work, name="test", batch=4)
        lane.start()
        answers = await lane.submit_many([0, 1, 2])
        assert [answers[0], answers[2]] == [0, 2]
        assert isinstance(answers[1], Problem)
        with pytest.raises(Problem, match="odd"):
            await lane.submit(1)
        await lane.stop()

    run(main)


@pytest.mark.parametrize("wrong", ["raises", "too few"])
def test_work_that_breaks_is_logged_once_and_the_lane_lives_on(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    def work(items: list[int]) -> list[int]:
        if 13 in items:
            if wrong == "raises":
                raise ZeroDivisionError("the reason")
            return []
        return items

    async def main() -> None:
        lane: Lane[int, int] = Lane(work, name="test", batch=4)
        lane.start()
        answers = await lane.submit_many([1, 13, 2])
        assert [answer.reason for answer in answers if isinstance(answer, Problem)] == ["internal"] * 3
        assert await lane.submit(5) == 5
        await lane.stop()

    with caplog.at_level(logging.ERROR):
        run(main)
    assert len(caplog.records) == 1
    assert "the reason" not in str(caplog.records[0].getMessage())
    assert caplog.records[0].exc_info


def test_a_problem_that_work_raises_is_every_items_own_and_no_fault() -> None:
    def work(items: list[int]) -> list[int]:
        raise Problem("unavailable", "the store is away")

    async def main() -> None:
        lane: Lane[int, int] = Lane(work, name="test", batch=4)
        lane.start()
        answers = await lane.submit_many([1, 2])
        assert [str(answer) for answer in answers] == ["the store is away"] * 2
        await lane.stop()

    run(main)


def test_stopping_answers_what_was_admitted_and_takes_no_more() -> None:
    async def main() -> None:
        gate = Gate()
        lane, first = await held(gate, batch=2, wait_ms=100)
        rest = [asyncio.create_task(lane.submit(item)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        ended = asyncio.create_task(lane.stop())
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await lane.submit(9)
        assert refused.value.reason == "unavailable"
        gate.open.set()
        assert [await task for task in (first, *rest)] == [0, 10, 20, 30]
        await ended
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("test-")]

    run(main)


def test_a_lane_that_was_not_started_says_so() -> None:
    async def main() -> None:
        lane: Lane[int, int] = Lane(_slow, name="test", batch=2)
        with pytest.raises(Problem, match="not running"):
            await lane.submit(1)
        await lane.stop()

    run(main)


class Clocked:
    """Counts wake-ups of a loop from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.calls = 0
        self._real = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = self  # type: ignore[method-assign,assignment]

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return self._real(*args, **named)


def test_a_batch_wakes_the_loop_once() -> None:
    async def main() -> None:
        gate = Gate()
        lane, first = await held(gate, batch=32)
        rest = [asyncio.create_task(lane.submit(item)) for item in range(1, 33)]
        await asyncio.sleep(0)
        counted = Clocked(asyncio.get_running_loop())
        gate.open.set()
        await asyncio.gather(first, *rest)
        assert counted.calls == 2
        await lane.stop()

    run(main)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 9),
    queue=st.integers(4, 40),
    threads=st.integers(1, 4),
    wait_ms=st.sampled_from([0.0, 0.5]),
)
def test_under_load_nothing_is_lost_or_computed_twice_and_the_bound_holds(
    seed: int, batch: int, queue: int, threads: int, wait_ms: float
) -> None:
    """Many callers at once: some ask for several, some give up, some have a short deadline."""
    rng = random.Random(seed)
    computed: Counter[int] = Counter()
    most = {"batch": 0, "waiting": 0}
    refused: list[int] = []
    lock = threading.Lock()

    def work(items: list[int]) -> list[int]:
        with lock:
            computed.update(items)
            most["batch"] = max(most["batch"], len(items))
        time.sleep(rng.random() / 2000)
        return [-item for item in items]

    async def caller(lane: Lane[int, int], items: list[int], outcomes: Counter[str]) -> None:
        deadline = time.monotonic() + rng.choice([0.002, 60, 60])
        asked = asyncio.create_task(lane.submit_many(items, deadline=deadline))
        await asyncio.sleep(0)
        most["waiting"] = max(most["waiting"], lane.waiting)
        if rng.random() < 0.2:
            asked.cancel()
        try:
            answers = await asked
        except asyncio.CancelledError:
            outcomes["cancelled"] += len(items)
        except Problem as problem:
            outcomes[problem.reason] += len(items)
            refused.extend(items)
        else:
            for item, answer in zip(items, answers, strict=True):
                late = isinstance(answer, Problem)
                assert late or answer == -item
                assert computed[item] == (0 if late else 1)
                outcomes["late" if late else "answered"] += 1

    async def main() -> None:
        lane: Lane[int, int] = Lane(work, name="test", batch=batch, queue=queue, threads=threads, wait_ms=wait_ms)
        lane.start()
        outcomes: Counter[str] = Counter()
        number, tasks = 0, []
        for _ in range(60):
            count = rng.randint(1, 4)
            tasks.append(asyncio.create_task(caller(lane, list(range(number + 1, number + count + 1)), outcomes)))
            number += count
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() / 1000)
        await asyncio.gather(*tasks)
        await lane.stop()
        assert sum(outcomes.values()) == number
        assert set(outcomes) <= {"answered", "cancelled", "busy", "late"}
        assert not any(computed[item] for item in refused)
        assert outcomes["answered"] + outcomes["cancelled"] >= sum(computed.values())
        assert max(computed.values(), default=1) == 1
        assert most["batch"] <= batch
        assert most["waiting"] <= queue
        assert lane.waiting == 0
        assert lane.done == sum(computed.values())

    run(main)
