"""Connections to public addresses only: names are resolved once, and what was checked is what is connected to."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType, Connection

from serving.fetching.addresses import Network, why_denied
from serving.problems import Problem

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port → its addresses. Raises OSError where there are none."""

_KEEP_ALIVE = 15.0
_REMEMBER_NAMES = 10
"""Seconds. Names are not asked for each photo; an address was checked, and stays what it was."""


class DeniedAddress(OSError):
    """A connection that must not be made. An OSError, as those who connect know no other failure."""


class SystemResolver:
    """The machine's own resolver, in threads of its own: slow name servers hold nobody else up."""

    def __init__(self, threads: int = 16) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="names")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class CheckedResolver(AbstractResolver):
    """Gives addresses that may be connected to. A name with one address that may not has none that may."""

    def __init__(self, resolve: Resolve, own: tuple[Network, ...]) -> None:
        self._resolve = resolve
        self._own = own

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host, port)
        for address in addresses:
            if why := why_denied(address, self._own):
                # The address itself is not told: who may not reach a network need not learn its names either.
                raise DeniedAddress(f"{host} leads to an address that is {why}")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        if isinstance(self._resolve, SystemResolver):
            self._resolve.close()


class GuardedConnector(aiohttp.TCPConnector):
    """aiohttp's pool of connections, with a check before a socket is made and one of whom it reached."""

    def __init__(
        self, resolver: CheckedResolver, own: tuple[Network, ...], *, limit: int, per_host: int, tls: ssl.SSLContext
    ) -> None:
        def make_socket(info: AddrInfoType) -> socket.socket:
            family, kind, protocol, _, where = info
            if why := why_denied(str(where[0]), own):
                raise DeniedAddress(f"{where[0]} is {why}")
            return socket.socket(family, kind, protocol)

        super().__init__(
            resolver=resolver,
            ssl=tls,
            limit=limit,
            limit_per_host=per_host,
            ttl_dns_cache=_REMEMBER_NAMES,
            keepalive_timeout=_KEEP_ALIVE,
            socket_factory=make_socket,
        )
        self._own = own

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection, of which the other end is a public address. Nothing was sent on it for this request yet.

        Raises:
            Problem: the other end is none.
        """
        connection = await super().connect(req, traces, timeout)
        peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
        if peer is not None and (why := why_denied(peer[0], self._own)):
            connection.close()
            message = f"url {req.url.raw_host}: its server's address is {why}; photos come from public addresses"
            raise Problem("unprocessable", message, detail="url_forbidden")
        return connection
