"""Rates and quotas: counted in one process, in several, and in Redis."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from pipelines.online import keys as online
from pipelines.settings import Settings
from serving.access.rates import NAMES, Memory, Rates, parse_rate, wait_s
from serving.problems import Problem
from tests.gates import Store, opened, refusal


@pytest.fixture
def store() -> Store:
    return Store()


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_key_beyond_its_rate_is_told_when_to_come_again_and_then_let_in(store: Store) -> None:
    async def story() -> None:
        clock = Clock()
        text = store.add(rate="10/second")
        async with opened(store, rates=Rates(clock=clock)) as gate:
            for _ in range(5):
                await gate.admit(text, scope="infer", photos=2)
            problem = await refusal(gate, text, photos=4)
            assert (problem.kind.status, problem.detail, problem.kind.code) == (429, "rate", "RESOURCE_EXHAUSTED")
            assert problem.retry_after is not None
            assert 0 < problem.retry_after <= 2
            clock.now += problem.retry_after
            await gate.admit(text, scope="infer", photos=4)

    asyncio.run(story())


def test_a_request_larger_than_the_rate_is_told_to_be_smaller(store: Store) -> None:
    async def story() -> None:
        text = store.add(rate="10/second")
        async with opened(store, rates=Rates(workers=2)) as gate:
            problem = await refusal(gate, text, photos=6)
            assert (problem.kind.status, problem.retry_after) == (413, None)
            assert "10 per 1 second (5 in this one of several servers)" in str(problem)
            await gate.admit(text, scope="infer", photos=5)

    asyncio.run(story())


@given(
    amount=st.integers(1, 50), window=st.sampled_from([1, 7, 60]),
    steps=st.lists(st.tuples(st.floats(0, 90), st.integers(1, 60)), max_size=40),
)  # fmt: skip
@budget(max_examples=150, deadline=None)
def test_whoever_waits_as_told_is_let_in_and_no_window_gives_more_than_twice_the_rate(
    amount: int, window: int, steps: list[tuple[float, int]]
) -> None:
    async def story() -> None:
        clock = Clock()
        rates = Rates(clock=clock)
        rate = rates.rate(f"{amount}/{window} second")
        taken: list[tuple[float, int]] = []
        for pause, photos in steps:
            clock.now += pause
            wait = await rates.take(rate, "key", photos)
            if wait is None:
                taken.append((clock.now, photos))
            elif photos <= amount:
                assert 0 < wait <= 2 * window + 1
                clock.now += wait
                assert await rates.take(rate, "key", photos) is None
                taken.append((clock.now, photos))
        for end, _ in taken:
            aligned = end - end % window
            assert sum(photos for when, photos in taken if aligned <= when < aligned + window) <= amount
            # The estimate supposes that the last window's photos came evenly; it may err by a window's worth.
            assert sum(photos for when, photos in taken if end - window < when <= end) <= 2 * amount

    asyncio.run(story())


def test_a_rate_that_is_none_is_said() -> None:
    for text in ("", "fast", "10", "10/fortnight", "-1/second", "0/second", "1/0 second", "ten/second"):
        with pytest.raises(ValueError, match="is no rate"):
            parse_rate(text)
    assert str(parse_rate("5000/10 minutes")) == "5000 per 10 minute"


def test_workers_share_a_rate() -> None:
    assert [Rates(workers=workers).rate("10/second").part.amount for workers in (1, 2, 3, 20)] == [10, 5, 4, 1]


def test_counts_are_bounded_and_the_idle_ones_go_first() -> None:
    clock = Clock()
    memory = Memory(clock)
    memory.incr("busy", 60)
    for number in range(NAMES - 1):
        memory.incr(f"name-{number}", 60)
    memory.incr("busy", 60)
    memory.incr("one more", 60)
    assert memory.reset() == NAMES
    memory.incr("busy", 60)
    clock.now += 61
    assert memory.get("busy") == 0


def test_waiting_times_are_exact() -> None:
    item = parse_rate("10/10 second")
    assert wait_s(item, 1, before=0, left=4, count=10) == pytest.approx(4 + 1, abs=0.01)
    assert wait_s(item, 5, before=10, left=10, count=0) == pytest.approx(5, abs=0.01)


def test_a_days_quota_ends_a_key_until_midnight(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        text = store.add(daily_quota=10)
        now = datetime(2026, 3, 1, 23, 0, tzinfo=UTC)
        async with opened(store, poll_s=3600) as gate:
            gate.ring.clock = lambda: now
            gate.ring.turn()
            await gate.admit(text, scope="infer", photos=7)
            problem = await refusal(gate, text, photos=4)
            assert (problem.kind.status, problem.detail, problem.retry_after) == (429, "quota", 3600)
            assert "7 used" in str(problem)
            await gate.admit(text, scope="infer", photos=3)
            await gate.admit(text, scope="infer", photos=0)
            gate.ring.clock = lambda: now + timedelta(hours=1)
            await gate.admit(text, scope="infer", photos=10)
        key_id = text.split("_")[1]
        assert store.used == {(key_id, "2026-03-01"): 10, (key_id, "2026-03-02"): 10}

    asyncio.run(story())


def test_servers_share_a_quota_and_overshoot_by_one_turn_at_most(settings: Settings, database_url: str) -> None:
    async def story() -> None:
        made = online.create(settings, name="a", scopes=["infer"], daily_quota=100, now=datetime.now(UTC))
        async with (
            opened(online.SqlKeys(database_url), poll_s=3600) as one,
            opened(online.SqlKeys(database_url), poll_s=3600) as two,
        ):
            given = 0
            for turn in range(40):
                for gate in (one, two):
                    with contextlib.suppress(Problem):
                        await gate.admit(made.key, scope="infer", photos=5)
                        given += 5
                if turn % 4 == 3:
                    for gate in (one, two, one):
                        gate.ring.turn()
            # Between two turns each gave 4 x 5: what one did not know of the other is the overshoot.
            assert 100 <= given <= 120
        assert sum(online.SqlKeys(database_url).usage(f"{datetime.now(UTC):%Y-%m-%d}").values()) == given

    asyncio.run(story())


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A private Redis; skips where there is none, or no driver for it."""
    pytest.importorskip("redis")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        assert any("Ready to accept" in line for line in child.stdout)
        yield f"redis://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_servers_share_a_rate_in_redis_and_count_their_part_while_it_is_away(redis_url: str) -> None:
    async def story() -> None:
        one, two = Rates(redis_url, workers=2), Rates(redis_url, workers=2)
        rate = one.rate("10/hour")
        assert await one.take(rate, "key", 6) is None
        wait = await two.take(rate, "key", 6)
        assert wait is not None
        assert 0 < wait <= 7200
        assert await two.take(rate, "key", 4) is None
        away = Rates(redis_url.replace("127.0.0.1", "127.0.0.2"), workers=2)
        assert [await away.take(rate, "key", 5) is None for _ in range(2)] == [True, False]
        assert away.away == 1
        for rates in (one, two, away):
            await rates.close()

    asyncio.run(story())
