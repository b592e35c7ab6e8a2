"""A real server for tests: sockets on free ports, an event loop in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serving.components.base import ANYONE, Identity
from serving.server import Server

STARTS_S = 60.0


def free_port() -> int:
    """One on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Open:
    """A gate for tests that are not about access: everybody may do everything."""

    async def admit(self, credentials: str | None, *, scope: str, photos: int = 1, peer: str = "") -> Identity:
        return ANYONE


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where a server listens."""

    server: Server
    rest_port: int
    grpc_port: int
    loop: asyncio.AbstractEventLoop
    tls: bool = False

    @property
    def rest(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.rest_port}"

    @property
    def grpc(self) -> str:
        return f"grpc{'s' if self.tls else ''}://127.0.0.1:{self.grpc_port}"


@contextlib.contextmanager
def running(server: Server, *, rest_port: int = 0, grpc_port: int = 0, **options: Any) -> Iterator[Running]:
    """Serve on 127.0.0.1 until the block ends. `options` are those of `serving.listen.serve`."""
    from serving.listen import serve

    up = threading.Event()
    found: dict[str, Any] = {}

    async def work() -> None:
        stop = asyncio.Event()
        found.update(loop=asyncio.get_running_loop(), stop=stop)

        def ready(rest: int, grpc: int) -> None:
            found.update(ports=(rest, grpc))
            up.set()

        await serve(
            server, host="127.0.0.1", rest_port=rest_port, grpc_port=grpc_port, ready=ready, stop=stop,
            **{"tls_cert": "", "tls_key": "", **options},
        )  # fmt: skip

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - told in the test's thread
            found["error"] = error
        finally:
            up.set()

    thread = threading.Thread(target=run, name="server under test", daemon=True)
    thread.start()
    assert up.wait(STARTS_S), "the server did not start"
    if "error" in found:
        raise found["error"]
    rest, grpc = found["ports"]
    try:
        yield Running(
            server=server, rest_port=rest, grpc_port=grpc, loop=found["loop"], tls=bool(options.get("tls_cert"))
        )
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(STARTS_S)
    assert not thread.is_alive(), "the server did not end"
    if "error" in found:
        raise found["error"]
