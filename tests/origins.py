"""Real web servers on 127.0.0.1 that behave well, badly or never."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Handler = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def plain(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Origin:
    """Answers by path; counts what it was asked and by how many connections."""

    photo: bytes
    port: int = 0
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody leaves an endless answer."""

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                path = head.split(" ", 2)[1]
                self.asked.append(path)
                if not await self.answer(path, reader, writer):
                    break
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def answer(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may go on."""
        name, _, rest = path.lstrip("/").partition("?")
        if name in FIXED:
            writer.write(FIXED[name])
        elif name == "to":
            writer.write(plain(b"", f"Location: {rest}", status="302 Found"))
        elif name == "around":
            writer.write(plain(b"", f"Location: /around?{int(rest or 0) + 1}", status="302 Found"))
        elif name == "gzip":
            writer.write(plain(gzip.compress(self.photo), "Content-Encoding: gzip"))
        elif name == "chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(self.photo), 1000):
                part = self.photo[at : at + 1000]
                writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            writer.write(b"0\r\n\r\n")
        elif name == "cut":
            writer.write(plain(self.photo)[:-10])
            return False
        elif name == "silent":
            await reader.read(1)  # which ends when the other side leaves
            self.left.set()
            return False
        elif name in ("endless", "drip", "headers"):
            await self._endless(name, writer)
            return False
        else:
            writer.write(plain(self.photo, "Content-Type: text/plain", "Set-Cookie: a=b"))
        await writer.drain()
        return True

    async def _endless(self, name: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + (b"" if name == "headers" else b"\r\n"))
        bit = {"endless": self.photo, "drip": b"x", "headers": b"X-More: 1\r\n"}[name]
        try:
            while not writer.is_closing():
                writer.write(bit)
                await writer.drain()
                # How a slow server is slow; nothing waits for it to be over.
                await asyncio.sleep(0 if name == "endless" else 0.02)
        finally:
            self.left.set()


FIXED = {
    "html": plain(b"\n<!DOCTYPE html><html><body>a photo</body></html>", "Content-Type: image/jpeg"),
    "empty": plain(b""),
    "missing": plain(b"no", status="404 Not Found"),
    "broken": plain(b"no", status="500 Internal Server Error"),
    "nonsense": b"SSH-2.0-OpenSSH_9.9\r\n",
    "bomb": plain(gzip.compress(bytes(50_000_000)), "Content-Encoding: gzip"),
    "notgzip": plain(b"hello", "Content-Encoding: gzip"),
    "brotli": plain(b"hello", "Content-Encoding: br"),
    "claims": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    "wide": b"HTTP/1.1 200 OK\r\nX-Wide: " + b"x" * 100_000 + b"\r\n\r\n",
    "tall": b"HTTP/1.1 200 OK\r\n" + b"X-Tall: 1\r\n" * 1000 + b"\r\n",
    "nowhere": plain(b"", status="302 Found"),
}


@contextlib.asynccontextmanager
async def origin(photo: bytes, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Origin]:
    found = Origin(photo)
    server = await asyncio.start_server(found.serve, host, 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
