"""HTTP requests at a given rate, whatever the server does, and what became of them.

    python -m benchmarks.load http://127.0.0.1:8000/v2/models/classy/infer body.bin --rate 200 --seconds 5

An open loop: arrivals are planned before the first is sent (Poisson or constant), and a request's time counts from
when it was due, so a server that stalls is seen by all who would have come in the meantime (no coordinated omission).
Requests are bytes that were made before; they go over kept-alive connections, one at a time on each, and where all
are busy they wait, which counts. About 30 µs of processor time a request; timers have a grain of 1 ms.
"""

import argparse
import asyncio
import gc
import json
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

import httptools
import numpy as np
import uvloop
from numpy.typing import NDArray

GRAIN = 0.001
"""Seconds: libuv's timers are no finer."""
Arrivals = Literal["poisson", "constant"]


def request(url: str, body: bytes, headers: dict[str, str] | None = None, *, method: str = "POST") -> bytes:
    """One HTTP/1.1 request as it goes over the wire."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and the requests, which are sent in turn."""

    host: str
    port: int
    requests: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of the requests of one run. Times are seconds from when a request was due."""

    offered: float
    """Requests a second that were planned."""
    achieved: float
    """Good answers a second, from the first arrival to the last answer."""
    sent: int
    errors: dict[str, int] = field(default_factory=dict)
    """Kind → number: a status that is not 2xx, `closed`, `refused`, `timeout`."""
    p50: float
    p95: float
    p99: float
    worst: float
    cpu: float
    """Processor seconds of this generator a request."""

    def holds(self, bound: float) -> bool:
        """Whether every request was answered well, 99% of them within `bound` seconds."""
        return not self.errors and self.p99 <= bound


def fire(
    target: Target,
    *,
    rate: float,
    seconds: float,
    arrivals: Arrivals = "poisson",
    seed: int = 0,
    connections: int = 128,
    timeout: float = 10.0,
) -> Report:
    """Send at `rate` a second for `seconds`; waits for the last answers, at most `timeout` seconds."""
    due = plan(rate, seconds, arrivals, seed)
    return uvloop.run(_Crew(target, connections).open_loop(due, rate, timeout))


def saturate(target: Target, *, seconds: float, connections: int = 16, timeout: float = 10.0) -> Report:
    """A closed loop, to learn about where to search: as many at once as there are connections, each one when the one
    before it was answered."""
    return uvloop.run(_Crew(target, connections).closed_loop(seconds, timeout))


def ask(target: Target, *, connections: int = 1, timeout: float = 30.0) -> list[tuple[int, bytes]]:
    """Send every request once; status and body of each answer, in order. Status 0: none came."""
    crew = _Crew(target, connections, keep=True)
    uvloop.run(crew.each_once(timeout))
    return crew.answers


def plan(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> NDArray[np.float64]:
    """When requests are due, in seconds from the start."""
    count = max(1, round(rate * seconds))
    if arrivals == "constant":
        return np.arange(count) / rate
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def highest_rate(
    shoot: Callable[[float], Report], *, start: float, bound: float, grain: float = 0.03, most: int = 12, tries: int = 1
) -> tuple[float, list[Report]]:
    """The highest rate that holds: steps of a quarter up or down from `start`, then halving to `grain` of the rate.

    Args:
        shoot: run at a rate.
        bound: seconds that 99% must be answered within.
        most: runs in all.
        tries: a rate does not hold when so many runs at it in a row did not. A virtual machine stands still for a
            moment now and then; with one try such a moment ends the search far below what the server can do.

    Returns:
        the rate (0 where none held), and all runs.
    """
    low, high, rate, failed = 0.0, float("inf"), start, 0
    runs: list[Report] = []
    while len(runs) < most and high - low > grain * low:
        runs.append(shoot(rate))
        if runs[-1].holds(bound):
            low, failed = rate, 0
        elif (failed := failed + 1) < tries:
            continue
        else:
            high, failed = rate, 0
        if high == float("inf"):
            rate = low * 1.25
        elif low == 0.0:
            rate = high / 1.25
        else:
            rate = (low + high) / 2
    return low, runs


# ------------------------------------------------------------------------------------------- connections


class _Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request on it."""

    __slots__ = ("body", "crew", "parser", "shot", "transport")

    def __init__(self, crew: "_Crew") -> None:
        self.crew = crew
        self.parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.shot = -1
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        cast(socket.socket, transport.get_extra_info("socket")).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.crew.free(self)

    def send(self, shot: int) -> None:
        self.shot = shot
        assert self.transport is not None
        self.transport.write(self.crew.requests[shot % self.crew.size])

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.crew.finish(self, f"no HTTP: {error}", again=False)

    def on_body(self, body: bytes) -> None:
        if self.crew.keep:
            self.body.append(body)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if self.crew.keep:
            self.crew.answers[self.shot] = (status, b"".join(self.body))
            self.body.clear()
        kind = "" if 200 <= status < 300 else str(status)
        self.crew.finish(self, kind, again=self.parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:
        self.crew.gone(self)


class _Crew:
    """Connections to one target, the requests that wait for one, and the times of all."""

    def __init__(self, target: Target, connections: int, *, keep: bool = False) -> None:
        self.target, self.wanted, self.keep = target, connections, keep
        self.requests, self.size = target.requests, len(target.requests)
        self.answers: list[tuple[int, bytes]] = [(0, b"")] * (self.size if keep else 0)
        self.errors: Counter[str] = Counter()
        self.idle: deque[_Connection] = deque()
        self.all: set[_Connection] = set()
        self.opening: set[asyncio.Task[None]] = set()
        self.waiting: deque[int] = deque()
        self.due: NDArray[np.float64] = np.empty(0)
        self.took: NDArray[np.float64] = np.empty(0)
        self.begun = self.last = 0.0
        self.left = 0
        self.cpu = 0.0
        self.next_shot: Callable[[], int] | None = None

    async def open_loop(self, due: NDArray[np.float64], rate: float, timeout: float) -> Report:
        await self._begin(len(due))
        self.due = due
        times: list[float] = due.tolist()
        loop, position = asyncio.get_running_loop(), 0

        def pump() -> None:
            nonlocal position
            now = time.perf_counter() - self.begun
            while position < len(times) and times[position] <= now:
                self._shoot(position)
                position += 1
            if position < len(times):
                loop.call_later(max(GRAIN, times[position] - now), pump)

        pump()
        await self._end(times[-1] + timeout)
        return self._report(rate)

    async def closed_loop(self, seconds: float, timeout: float) -> Report:
        await self._begin(0)
        due: list[float] = []
        took: list[float] = []

        def next_shot() -> int:
            now = time.perf_counter() - self.begun
            if now >= seconds:
                return -1
            due.append(now)
            self.left += 1
            return len(due) - 1

        self.due, self.took = due, took  # type: ignore[assignment]  # they grow as it goes
        self.next_shot = next_shot
        for _ in range(self.wanted):
            took.extend([-1.0] * (len(due) + 1 - len(took)))
            self._shoot(next_shot())
        await self._end(seconds + timeout)
        self.due, self.took = np.asarray(due), np.asarray(took)
        return self._report(len(due) / seconds)

    async def each_once(self, timeout: float) -> None:
        await self._begin(self.size)
        self.due = np.zeros(self.size)
        for shot in range(self.size):
            self._shoot(shot)
        await self._end(timeout)

    # ------------------------------------------------------------------------------ one run

    async def _begin(self, count: int) -> None:
        self.took, self.left = np.full(count, -1.0), count
        await asyncio.gather(*(self._open() for _ in range(self.wanted)))
        self.done = asyncio.get_running_loop().create_future()
        gc.collect()
        gc.disable()
        self.cpu = time.process_time()
        self.begun = time.perf_counter()

    async def _end(self, at: float) -> None:
        try:
            await asyncio.wait_for(self.done, self.begun + at - time.perf_counter())
        except TimeoutError:
            self.errors["timeout"] += self.left
        finally:
            gc.enable()
        self.cpu = time.process_time() - self.cpu
        self.left = 0
        for connection in list(self.all):
            if connection.transport is not None:
                connection.transport.abort()
        for task in list(self.opening):
            task.cancel()

    def _report(self, rate: float) -> Report:
        took = np.asarray(self.took)
        waited = time.perf_counter() - self.begun - self.due
        times = np.where(took < 0, waited, took)  # what was never answered waited until now, at least
        sent = len(times)
        good = sent - self.errors.total()
        p50, p95, p99 = np.percentile(times, (50, 95, 99)) if sent else (0.0, 0.0, 0.0)
        return Report(
            offered=rate, achieved=good / max(self.last, 1e-9), sent=sent, errors=dict(self.errors), p50=float(p50),
            p95=float(p95), p99=float(p99), worst=float(times.max(initial=0.0)), cpu=self.cpu / max(1, sent),
        )  # fmt: skip

    # -------------------------------------------------------------------------- connections

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        connection = _Connection(self)
        self.all.add(connection)
        try:
            await loop.create_connection(lambda: connection, self.target.host, self.target.port)
        except OSError:
            self.all.discard(connection)
            if self.waiting:  # nobody else would take it
                self._count(self.waiting.popleft(), "refused")

    def _reopen(self) -> None:
        task = asyncio.get_running_loop().create_task(self._open())
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    def _shoot(self, shot: int) -> None:
        if self.idle:
            self.idle.popleft().send(shot)
            return
        self.waiting.append(shot)
        if len(self.all) < self.wanted:
            self._reopen()

    def free(self, connection: _Connection) -> None:
        """It can take a request."""
        if self.waiting:
            connection.send(self.waiting.popleft())
        else:
            self.idle.append(connection)

    def finish(self, connection: _Connection, error: str, *, again: bool) -> None:
        """Its request was answered, well if `error` is empty."""
        shot, connection.shot = connection.shot, -1
        if shot >= 0:
            self._count(shot, error)
        if not again:
            self.all.discard(connection)
            if connection.transport is not None:
                connection.transport.abort()
            if self.waiting:
                self._reopen()
        else:
            self.free(connection)

    def gone(self, connection: _Connection) -> None:
        """The other side closed it."""
        known = connection in self.all
        self.all.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        if connection.shot >= 0 and self.left:
            self._count(connection.shot, "closed")
        if known and self.waiting and self.left:
            self._reopen()

    def _count(self, shot: int, error: str) -> None:
        self.last = time.perf_counter() - self.begun
        self.took[shot] = self.last - self.due[shot]
        if error:
            self.errors[error] += 1
        self.left -= 1
        if self.next_shot is not None and (following := self.next_shot()) >= 0:
            cast("list[float]", self.took).append(-1.0)
            self.waiting.append(following)
        if not self.left and not self.done.done():
            self.done.set_result(None)


def main() -> int:
    parser = argparse.ArgumentParser(description="HTTP requests at a given rate, in an open loop.")
    parser.add_argument("url")
    parser.add_argument("body", type=Path, nargs="+", help="files, sent in turn as the requests' bodies")
    parser.add_argument("--header", action="append", default=[], help="`name: value`, may be repeated")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--arrivals", choices=("poisson", "constant"), default="poisson")
    given = parser.parse_args()
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in given.header)}
    parts = urlsplit(given.url)
    target = Target(
        parts.hostname or "127.0.0.1",
        parts.port or 80,
        [request(given.url, path.read_bytes(), headers) for path in given.body],
    )
    report = fire(target, rate=given.rate, seconds=given.seconds, arrivals=given.arrivals)
    print(json.dumps({key: round(value, 6) if isinstance(value, float) else value
                      for key, value in asdict(report).items()}, indent=1))  # fmt: skip
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
