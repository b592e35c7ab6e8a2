"""The body of a request: read whole, within bounds of size and time, and decompressed.

What a client declares is believed only to refuse it early; what arrives is counted. gzip and deflate (which is zlib,
RFC 9110) are undone up to the same bound, so that a bomb costs what an honest body of the largest size costs.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.problems import Problem

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_IN_A_THREAD = 65_536
"""Compressed bytes from which it is worth a thread of its own."""
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Gone(Exception):
    """The client has hung up: nobody waits for an answer."""


class Room:
    """Memory for the bodies of all requests that are under way at once; small bodies are not counted.

    Args:
        limit: bytes.
    """

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, size: int) -> None:
        """Raises Problem (429) when there is none left."""
        if self.taken + size > self.limit:
            raise Problem("busy", "the server is reading as much as it has room for", detail="room", retry_after=1.0)
        self.taken += size


class Body:
    """Reads one request's body. `read` is called at most once, and `done` after it.

    Args:
        receive: of ASGI.
        headers: of the request, lower-case names.
        limit: bytes of the body, after decompression.
        room: shared with the other requests.
    """

    __slots__ = ("_headers", "_limit", "_receive", "_room", "_taken")

    def __init__(self, receive: Receive, headers: dict[bytes, bytes], limit: int, room: Room | None = None) -> None:
        self._receive = receive
        self._headers = headers
        self._limit = limit
        self._room = room
        self._taken = 0

    def done(self) -> None:
        """Nobody needs the bytes any more."""
        if self._taken and self._room is not None:
            self._room.taken -= self._taken
            self._taken = 0

    def _take(self, size: int) -> None:
        if self._room is not None:
            self._room.take(size)
            self._taken += size

    async def read(self) -> bytes:
        """All of it.

        Raises:
            Problem: it is too large (413), its encoding is unknown (415) or not what it says.
            Gone: the client has hung up.
        """
        declared = self._headers.get(b"content-length", b"")
        # httptools has seen that it is a number; ASGI servers in general have not.
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._limit):
            raise self._too_large(f"has {declared.decode()[:18]} bytes")
        encoding = self._headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        if encoding not in _WINDOW and encoding not in ("", "identity"):
            raise Problem("unsupported", f"Content-Encoding {encoding[:40]!r}: send gzip, deflate or none")
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            data = message.get("body", b"")
            if len(data) > self._limit:
                raise self._too_large(f"has {len(data)} bytes")
        else:
            data = await self._rest(message)
        if encoding not in _WINDOW:
            return data
        if len(data) < _IN_A_THREAD:
            found = self._decompressed(data, encoding)
        else:
            found = await asyncio.to_thread(self._decompressed, data, encoding)
        self._take(len(found))
        return found

    async def _rest(self, message: MutableMapping[str, Any]) -> bytes:
        parts, size = [], 0
        while True:
            if message["type"] != "http.request":
                raise Gone
            part = message.get("body", b"")
            size += len(part)
            if size > self._limit:
                raise self._too_large("is longer")
            self._take(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await self._receive()

    def _decompressed(self, data: bytes, encoding: str) -> bytes:
        undo = zlib.decompressobj(_WINDOW[encoding])
        try:
            found = undo.decompress(data, self._limit + 1)
        except zlib.error as error:
            raise Problem("bad_request", f"the body is not {encoding}, as Content-Encoding says: {error}") from None
        if len(found) > self._limit:
            raise self._too_large("is longer after decompression")
        if not undo.eof or undo.unused_data:
            what = "is cut off" if not undo.eof else "goes on behind its end"
            raise Problem("bad_request", f"the body is {encoding}, as Content-Encoding says, but {what}")
        return found

    def _too_large(self, says: str) -> Problem:
        return Problem("too_large", f"the body {says}; at most {self._limit} are taken: send fewer or smaller photos")
