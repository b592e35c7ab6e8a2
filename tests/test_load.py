"""The load generator: what it counts, and that it does not look away while a server stalls."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from benchmarks.load import Report, Target, ask, fire, highest_rate, plan, request, saturate

Answer = Callable[[int, bytes], Coroutine[Any, Any, tuple[int, bytes]]]
URL = "http://127.0.0.1/x"


@contextmanager
def serving(answer: Answer, *, chunked: bool = False, per_connection: int = 10**9) -> Iterator[int]:
    """A server of a few lines on asyncio's own streams; gives its port."""
    ready, seen = threading.Event(), [0]
    place: list[Any] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(per_connection):
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line)
                body = await reader.readexactly(length)
                seen[0] += 1
                status, said = await answer(seen[0] - 1, body)
                if chunked:
                    writer.write(b"HTTP/1.1 %d x\r\ntransfer-encoding: chunked\r\n\r\n" % status)
                    for byte in said:
                        writer.write(b"1\r\n%c\r\n" % byte)
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (status, len(said)) + said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        stop = asyncio.Event()
        place.extend((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(5)
    port, loop, stop = place
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)


async def echo(_number: int, body: bytes) -> tuple[int, bytes]:
    return 200, body


def target(port: int, *bodies: bytes) -> Target:
    return Target("127.0.0.1", port, [request(URL, body) for body in bodies or (b"hello",)])


def test_every_planned_request_is_sent_and_counted_once() -> None:
    with serving(echo) as port:
        report = fire(target(port), rate=400, seconds=0.5, connections=8)
    assert report.sent == 200
    assert report.errors == {}
    assert 0 < report.p50 <= report.p95 <= report.p99 <= report.worst
    assert report.achieved == pytest.approx(400, rel=0.3)


@pytest.mark.parametrize("chunked", [False, True])
def test_answers_come_back_in_the_order_of_the_requests(chunked: bool) -> None:
    bodies = [bytes([65 + number]) * (number + 1) for number in range(12)]
    with serving(echo, chunked=chunked) as port:
        found = ask(target(port, *bodies), connections=4)
    assert found == [(200, body) for body in bodies]


def test_a_stall_is_felt_by_all_who_would_have_come_meanwhile() -> None:
    gate = asyncio.Lock()

    async def stalls_once(number: int, body: bytes) -> tuple[int, bytes]:
        async with gate:  # one at a time, as a busy process
            if number == 50:
                await asyncio.sleep(0.3)
        return 200, body

    with serving(stalls_once) as port:
        few = fire(target(port), rate=200, seconds=1, arrivals="constant", connections=1)
    # 0.3 s of 1 s: every third request was due while the server slept, the first of them for the whole of it. A client
    # that waits for its answer before it sends the next would have seen one slow request of 200.
    assert few.sent == 200
    assert few.p99 > 0.25
    assert few.p95 > 0.2
    assert few.p50 < 0.1


def test_bad_answers_and_closed_connections_are_errors() -> None:
    async def every_fourth(number: int, body: bytes) -> tuple[int, bytes]:
        return (503 if number % 4 == 0 else 200), body

    with serving(every_fourth) as port:
        report = fire(target(port), rate=400, seconds=0.2, connections=4)
    assert report.errors == {"503": 20}
    assert not report.holds(10.0)

    async def hangs_up(_number: int, _body: bytes) -> tuple[int, bytes]:
        raise ConnectionError

    with serving(hangs_up) as port:
        report = fire(target(port), rate=100, seconds=0.2, connections=4)
    assert report.errors == {"closed": 20}


def test_connections_that_end_after_an_answer_are_opened_again() -> None:
    with serving(echo, per_connection=2) as port:
        report = fire(target(port), rate=100, seconds=0.4, connections=2, arrivals="constant")
    assert report.sent == 40
    assert report.errors.keys() <= {"closed"}  # a request may meet a connection that is being closed
    assert report.errors.get("closed", 0) < 10


def test_nobody_listening_is_an_error_not_a_fast_server() -> None:
    with serving(echo) as port:
        pass
    report = fire(target(port), rate=100, seconds=0.1, connections=2)
    assert report.errors == {"refused": 10}


def test_what_is_never_answered_counts_as_late_and_as_an_error() -> None:
    async def never(_number: int, _body: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(60)
        return 200, b""

    with serving(never) as port:
        report = fire(target(port), rate=50, seconds=0.2, connections=16, timeout=0.3)
    assert report.errors == {"timeout": 10}
    assert report.p50 > 0.3


def test_the_closed_loop_keeps_every_connection_busy() -> None:
    async def ten_ms(_number: int, body: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(0.01)
        return 200, body

    with serving(ten_ms) as port:
        report = saturate(target(port), seconds=0.5, connections=4)
    assert report.errors == {}
    assert 150 < report.achieved < 410  # 4 at once, 10 ms each


def test_arrivals_have_the_rate_and_the_spread_of_their_kind() -> None:
    poisson = np.diff(plan(1000, 20, "poisson", seed=1))
    assert poisson.mean() == pytest.approx(0.001, rel=0.05)
    assert poisson.std() == pytest.approx(0.001, rel=0.05)  # an exponential's mean is its deviation
    constant = np.diff(plan(1000, 1, "constant", seed=1))
    assert constant.std() < 1e-9


@pytest.mark.parametrize("start", [50.0, 300.0, 2000.0])
def test_the_search_ends_just_below_what_the_server_can_do(start: float) -> None:
    def shoot(rate: float) -> Report:
        late = 0.01 if rate <= 310 else 5.0
        return Report(offered=rate, achieved=rate, sent=1, p50=late, p95=late, p99=late, worst=late, cpu=0.0)

    rate, runs = highest_rate(shoot, start=start, bound=0.1, most=20)
    assert 0.96 * 310 <= rate <= 310
    assert len(runs) <= 20


def test_a_moment_in_which_the_machine_stood_still_does_not_end_the_search() -> None:
    asked: list[float] = []

    def shoot(rate: float) -> Report:
        asked.append(rate)
        late = 5.0 if rate > 310 or len(asked) == 2 else 0.01  # the second run meets a stall that is nobody's
        return Report(offered=rate, achieved=rate, sent=1, p50=late, p95=late, p99=late, worst=late, cpu=0.0)

    rate, _ = highest_rate(shoot, start=200.0, bound=0.1, most=30, tries=2)
    assert 0.96 * 310 <= rate <= 310
    assert asked[1] == asked[2] == 250.0  # tried again, and it held
    asked.clear()
    assert highest_rate(shoot, start=200.0, bound=0.1, most=30)[0] < 250
