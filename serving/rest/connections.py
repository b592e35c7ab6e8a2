"""uvicorn, with what it leaves open: requests that never end, and connections cut while a request arrives."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 20.0
"""From a connection's first byte of a request to the end of its headers."""
HEAD_BYTES = 65_536
LINGER_S = 2.0
"""How long the rest of a body that nobody wants any more is taken in: a client that is cut off while it sends may never
read the answer, and one that never stops must not stay."""
ENDING_S = 1.0
"""How long a connection on which a request is just arriving is waited for when the server ends."""
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Bounded(HttpToolsProtocol):
    """HTTP/1.1 with bounds on the time and the size of a request's head, and on what follows a refused one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_bytes = 0
        self._in_head = True
        self._ending = False
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._no_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LONG)
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._give_up)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._no_timer()
        super().on_headers_complete()
        if self._ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._no_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # A pipelined request may have begun by now: then the cycle is its own, and not answered yet.
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._no_timer()
            self._timer = self.loop.call_later(LINGER_S, self._give_up)

    def shutdown(self) -> None:
        """The server ends: an idle connection is closed, one on which a request begins is answered first."""
        if self._in_head and not self.transport.is_closing():
            self._ending = True
            self._no_timer()
            self._timer = self.loop.call_later(ENDING_S, self._give_up)
        else:
            super().shutdown()

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _no_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Uvicorn(uvicorn.Server):
    """A uvicorn that says when it listens, and leaves signals to its caller."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
