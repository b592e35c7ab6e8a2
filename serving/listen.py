"""Serve REST and gRPC on their ports until told to stop, and end without cutting anybody off."""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import uvicorn

from serving.rest.app import create_app
from serving.rest.connections import Bounded, Uvicorn
from serving.rpc.service import create_rpc
from serving.server import Server

if TYPE_CHECKING:
    from serving.metrics import Metrics

log = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than the idle time of common balancers (60 s), which would otherwise use a connection that we just closed."""


class ListenError(OSError):
    """A port or certificate cannot be used; the message says which, and what to change."""

    for_people = True


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one (not on Windows), otherwise on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


async def serve(
    server: Server,
    *,
    host: str,
    rest_port: int,
    grpc_port: int,
    stop: asyncio.Event,
    tls_cert: str = "",
    tls_key: str = "",
    ready: Callable[[int, int], None] | None = None,
    metrics: "Metrics | None" = None,
    notice_s: float = 0.0,
) -> None:
    """Serve until `stop` is set; then say "not ready", take what still comes for `notice_s`, finish what is under way.

    Args:
        host: address to listen on.
        rest_port, grpc_port: 0 picks a free one. Several processes may share them (SO_REUSEPORT).
        tls_cert, tls_key: PEM files; with both, both ports speak TLS.
        ready: called with the two ports when both listen.
        notice_s: how long balancers may need to notice that this server is ending.

    Raises:
        ListenError: a port is taken, or a certificate cannot be read.
    """
    if bool(tls_cert) != bool(tls_key):
        raise ListenError("tls_cert and tls_key: one is given; give both, or none")
    listening = _bind(host, rest_port)
    try:
        web = _uvicorn(server, listening, tls_cert, tls_key, metrics)
        rpc = create_rpc(server, metrics)
        bound = _bind_rpc(rpc, host, grpc_port, tls_cert, tls_key)
        await server.start()
    except BaseException:
        listening.close()
        raise
    serving: asyncio.Task[None] | None = None
    try:
        await rpc.start()
        serving = asyncio.create_task(web.serve(sockets=[listening]), name="rest")
        await _first(web.up.wait(), serving)
        if ready is not None and not serving.done():
            ready(listening.getsockname()[1], bound)
        await _first(stop.wait(), serving)
        server.live = False
        if notice_s and not serving.done():
            await asyncio.wait([serving], timeout=notice_s)
    finally:
        server.live = False
        web.should_exit = True
        await rpc.stop(server.limits.timeout_s)
        if serving is not None:
            await serving
        listening.close()
        await server.stop()


async def _first(wait: Coroutine[Any, Any, Any], serving: "asyncio.Task[None]") -> None:
    """Wait for it, but no longer than the REST side lives."""
    waiting = asyncio.ensure_future(wait)
    await asyncio.wait([waiting, serving], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting


def _uvicorn(server: Server, listening: socket.socket, cert: str, key: str, metrics: "Metrics | None") -> Uvicorn:
    config = uvicorn.Config(
        create_app(server, metrics),
        http=Bounded,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(server.limits.timeout_s) + 1,
        ssl_certfile=cert or None,
        ssl_keyfile=key or None,
    )
    try:
        config.load()
    except OSError as error:
        raise ListenError(f"tls_cert={cert}, tls_key={key}: cannot be used: {error}") from error
    return Uvicorn(config)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only on such
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise ListenError(f"REST port {port} on {host}: {error.strerror}; choose another (rest_port)") from error
    made.setblocking(False)
    return made


def _bind_rpc(rpc: grpc.aio.Server, host: str, port: int, cert: str, key: str) -> int:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if not cert:
            return rpc.add_insecure_port(address)
        pair = (Path(key).read_bytes(), Path(cert).read_bytes())
        return rpc.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise ListenError(f"gRPC port {port} on {host}: cannot be used; choose another (grpc_port)") from error
