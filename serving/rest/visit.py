"""One request to a hot route, without a framework between: admitted, read, timed, watched, answered, counted.

FastAPI's routing, dependencies and responses cost 0.2 ms and more a request; this costs a tenth.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from serving import traces
from serving.components.base import Call
from serving.problems import Problem
from serving.rest.body import Body, Gone, Receive, Room
from serving.rest.replies import INTERNAL, Reply, Send, refusal, send_reply
from serving.server import Server

if TYPE_CHECKING:
    from serving.metrics import Metrics

log = logging.getLogger(__name__)

PASSED_ON = ((b"traceparent", "traceparent"), (b"tracestate", "tracestate"))


class Visit:
    """What a handler needs of one request."""

    __slots__ = (
        "_clock",
        "_task",
        "_watch",
        "body",
        "call",
        "gone",
        "headers",
        "model",
        "peer",
        "read_at",
        "scope",
        "server",
    )

    def __init__(
        self, server: Server, scope: MutableMapping[str, Any], receive: Receive, room: Room | None = None
    ) -> None:
        self.server = server
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.body = Body(receive, self.headers, server.limits.max_bytes, room)
        self.call = Call()
        self.model = ""
        client = scope.get("client")
        self.peer: str = client[0] if client else ""
        self.gone = False
        self.read_at = time.perf_counter()
        """When the whole request was here."""
        self._clock: asyncio.Timeout | None = None
        self._watch: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None

    def header(self, name: bytes) -> str | None:
        found = self.headers.get(name)
        return None if found is None else found.decode("latin-1")

    async def admit(self, *, photos: int = 1, scope: str = "infer") -> None:
        """Let the caller in, or raise Problem; more photos of the same request are counted by a second call."""
        given = self.header(b"authorization")
        if given is None and (key := self.header(b"x-api-key")) is not None:
            given = f"Bearer {key}"
        call = self.call
        call.identity = await self.server.gate.admit(given, scope=scope, photos=photos, peer=self.peer)
        if given:
            call.headers["authorization"] = given
        for name, known in PASSED_ON:
            if name in self.headers:
                call.headers[known] = self.headers[name].decode("latin-1")

    async def read(self) -> bytes:
        """The body. From here on, a client that hangs up ends the work."""
        data = await self.body.read()
        self.read_at = time.perf_counter()
        self._watch = asyncio.create_task(self._hang_up())
        return data

    async def _hang_up(self) -> None:
        message = await self.body._receive()
        if message["type"] == "http.disconnect" and self._task is not None:
            self.gone = True
            self._task.cancel()

    def within(self, seconds: float, said: str) -> None:
        """Bound the request by less than the server's own limit; `said` names what asked for it."""
        if not math.isfinite(seconds) or seconds <= 0:
            raise Problem("bad_request", f"{said}: must be more than 0")
        deadline = time.monotonic() + seconds
        if self._clock is not None and (self.call.deadline is None or deadline < self.call.deadline):
            self.call.deadline = deadline
            self._clock.reschedule(asyncio.get_running_loop().time() + seconds)

    async def answer(self, handler: Callable[["Visit"], Awaitable[Reply]]) -> Reply | None:
        """What the handler says, or the problem that it met; None where nobody waits any more."""
        self._task = asyncio.current_task()
        limit = self.server.limits.timeout_s
        try:
            async with asyncio.timeout(limit) as self._clock:
                self.call.deadline = time.monotonic() + limit
                if asked := self.headers.get(b"x-timeout-ms"):
                    self.within(_milliseconds(asked), "X-Timeout-Ms")
                return await handler(self)
        except TimeoutError:
            raise self._too_late() from None
        except Gone:
            self.gone = True
            return None
        except asyncio.CancelledError:
            if not self.gone or self._task is None:
                raise
            self._task.uncancel()
            return None
        finally:
            self.body.done()
            if self._watch is not None:
                self._watch.cancel()

    def _too_late(self) -> Problem:
        if self._watch is None:
            return Problem("too_late", f"the body did not arrive within {self.server.limits.timeout_s:g} s")
        return Problem("too_late", "there was no answer within the request's time; ask with a longer one, or later")


def _milliseconds(asked: bytes) -> float:
    try:
        return float(asked) / 1000
    except ValueError:
        raise Problem("bad_request", f"X-Timeout-Ms: is {asked[:40]!r}, must be a number of milliseconds") from None


async def serve_visit(
    visit: Visit, send: Send, handler: Callable[[Visit], Awaitable[Reply]], metrics: "Metrics | None", name: str
) -> None:
    """Answer one request, whatever happens, and count it."""
    call = visit.call
    problem: Problem | None = None
    try:
        if traces.on():
            reply = await _traced(visit, handler, name)
        else:
            reply = await visit.answer(handler)
    except Problem as met:
        problem, reply = met, refusal(met)
    except Exception:
        log.exception("%s %s failed", visit.scope["method"], visit.scope["path"])
        problem, reply = INTERNAL, refusal(INTERNAL)
    if metrics is not None:
        status = 499 if reply is None else reply[0]
        spent = time.perf_counter() - visit.read_at
        metrics.observe(visit.model, call, call.photos, status, door="rest", seconds=spent, problem=problem)
    if reply is None:
        return
    # While the server ends, callers are asked to connect anew: to another one.
    await send_reply(send, reply, close=not visit.server.live)


async def _traced(visit: Visit, handler: Callable[[Visit], Awaitable[Reply]], name: str) -> Reply | None:
    given = {key.decode("latin-1"): value.decode("latin-1") for key, value in visit.headers.items()}
    with traces.span(name, traces.extract(given)) as span:
        traces.inject(visit.call.headers)
        try:
            return await visit.answer(handler)
        finally:
            span.set(**traces.about(visit.call.photos, model=visit.model))
