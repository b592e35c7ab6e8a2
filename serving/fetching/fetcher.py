"""URLs to bytes. aiohttp speaks HTTP; here is what a stranger's URL may cost and where it may lead."""

import asyncio
import ssl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from serving.fetching.addresses import Network, networks
from serving.fetching.connecting import (
    CheckedResolver,
    DeniedAddress,
    GuardedConnector,
    Resolve,
    SystemResolver,
)
from serving.fetching.urls import checked, forbidden, invalid, parsed, read_url, shown
from serving.problems import Problem

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body")
_HEADERS = {
    "User-Agent": "classy (image classifier)",
    "Accept": "image/jpeg, image/png, image/gif, image/webp, image/bmp, */*;q=0.1",
    "Accept-Encoding": "identity",
}
_EVERYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchLimits:
    """What a download may cost, and where it may go."""

    seconds: float = 10.0
    """Of one download as a whole: its wait for a place, names, redirects, connections, header and body."""
    max_bytes: int = 20_000_000
    """Of one photo, on the wire as well as unpacked."""
    redirects: int = 4
    concurrency: int = 32
    """Downloads at once; together they hold at most `concurrency * max_bytes`."""
    waiting: int = 256
    """Downloads that wait for a place; the next one is told to come again."""
    per_host: int = 16
    """Connections to one host at once."""
    ports: frozenset[int] = frozenset({80, 443, 8080, 8443})
    hosts: tuple[str, ...] = ()
    """Patterns such as `*.example.org`; none: every public host."""
    own_networks: tuple[str, ...] = ()
    """Networks such as `10.1.0.0/16` that may be asked although they are not public: a photo store of one's own."""
    max_field: int = 8_190
    """Bytes of one line of the answer's header."""
    max_fields: int = 64
    """Lines of the answer's header."""


@dataclass(slots=True)
class Allowance:
    """Bytes that the photos of one request may still take together."""

    left: int

    def take(self, count: int) -> bool:
        """False when they are used up."""
        self.left -= count
        return self.left >= 0


@dataclass(slots=True)
class _Body:
    chunks: list[bytes] = field(default_factory=list)
    encoding: str = ""


class Fetcher:
    """Downloads photos for one event loop; `start` and `stop` belong to that loop.

    Args:
        limits: of every download.
        resolve: host and port → addresses; default: the machine's resolver. What it gives is checked.
        allow_private: every address may be reached, on every port. For tests and networks of one's own only.
        tls: whom to trust; default: the system's authorities. Host names are always verified.
    """

    def __init__(
        self,
        limits: FetchLimits | None = None,
        *,
        resolve: Resolve | None = None,
        allow_private: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.limits = limits or FetchLimits()
        self._own: tuple[Network, ...] = networks(_EVERYWHERE if allow_private else self.limits.own_networks)
        self._ports = range(1, 65536) if allow_private else self.limits.ports
        self._resolve = resolve
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(self.limits.concurrency)
        self._waiting = 0

    async def start(self) -> None:
        """Open the pool of connections. The first download does so too."""
        if self._session is None:
            self._session = self._open()

    async def stop(self) -> None:
        """Close every connection."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        limits = self.limits
        resolver = CheckedResolver(self._resolve or SystemResolver(), self._own)
        tls = self._tls or ssl.create_default_context()
        connector = GuardedConnector(resolver, self._own, limit=0, per_host=limits.per_host, tls=tls)
        return aiohttp.ClientSession(
            connector=connector,
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # none of its own: `fetch` bounds the whole
            auto_decompress=False,
            trust_env=False,  # a proxy would connect where we cannot check
            max_line_size=limits.max_field,
            max_field_size=limits.max_field,
            max_headers=limits.max_fields,
        )

    async def fetch(self, url: str, *, seconds: float | None = None, allowance: Allowance | None = None) -> bytes:
        """The bytes behind a URL.

        Args:
            seconds: to spend at most, if that is less than the limit.
            allowance: what the photos of one request share.

        Raises:
            Problem: the URL is wrong or forbidden, its server does not give a photo, gives too much or too slowly.
        """
        limits = self.limits
        target = read_url(url, hosts=limits.hosts, ports=self._ports, own=self._own)
        allowed = limits.seconds if seconds is None else min(limits.seconds, seconds)
        try:
            async with asyncio.timeout(allowed):
                async with self._place():
                    with _told(target):
                        body = await self._follow(target, allowance)
                return await _unpacked(body, target, limits.max_bytes, allowance)
        except TimeoutError:
            message = f"url {shown(target)}: was not downloaded within {allowed:g} s; send the photo itself"
            raise Problem("too_late", message, detail="url_too_slow") from None

    def _place(self) -> "_Place":
        if self._places.locked() and self._waiting >= self.limits.waiting:
            message = f"{self._waiting} downloads wait already; ask again soon, or send the photo itself"
            raise Problem("busy", message, retry_after=1.0)
        return _Place(self)

    async def _follow(self, url: URL, allowance: Allowance | None) -> _Body:
        limits = self.limits
        if self._session is None:
            self._session = self._open()
        asked = url
        for _ in range(limits.redirects + 1):
            # Keep-alive connections carry no credentials, and no cookie is kept: an answer depends on its URL alone.
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status == 200:
                    return await _read(answer, asked, limits.max_bytes, allowance)
                if answer.status not in _REDIRECTS:
                    raise _status(answer.status, asked)
                url = checked(_location(answer, url), hosts=limits.hosts, ports=self._ports, own=self._own)
                answer.close()  # what a redirect says beside its address is not waited for
        message = f"url {shown(asked)}: was sent on more than {limits.redirects} times; give the last address"
        raise Problem("unprocessable", message, detail="url_redirects")


class _Place:
    """One of the downloads that run at once."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    async def __aenter__(self) -> None:
        self._fetcher._waiting += 1
        try:
            await self._fetcher._places.acquire()
        finally:
            self._fetcher._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._fetcher._places.release()


@contextmanager
def _told(url: URL) -> Iterator[None]:
    """What goes wrong on the way, as a Problem."""
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        if isinstance(error.os_error, DeniedAddress):
            raise forbidden(url, f"{error.os_error}; photos come from public addresses") from None
        raise _unreachable(url, "its host has no address; check its name") from error
    except aiohttp.ClientSSLError as error:
        raise _unreachable(url, f"its server could not prove who it is ({_cause(error)})") from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, DeniedAddress):
            raise forbidden(url, "its address is not public; photos come from public addresses") from None
        raise _unreachable(url, "its server does not answer; try later, or send the photo itself") from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise _unreachable(url, f"its server broke off or spoke no HTTP ({type(error).__name__})") from error


def _cause(error: Exception) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return str(getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or type(inner).__name__)


def _unreachable(url: URL, why: str) -> Problem:
    return Problem("unprocessable", f"url {shown(url)}: {why}", detail="url_unreachable")


def _status(status: int, url: URL) -> Problem:
    later = status == 429 or status >= 500
    remedy = "try later, or send the photo itself" if later else "check that it is open to everyone, or send the photo"
    return Problem("unprocessable", f"url {shown(url)}: its server answered {status}; {remedy}", detail="url_status")


def _location(answer: aiohttp.ClientResponse, url: URL) -> URL:
    text = answer.headers.get("Location", "")
    try:
        if not text or any(sign <= " " or sign in "\\\x7f" for sign in text):
            raise ValueError("names no address")
        return url.join(parsed(text))
    except (ValueError, UnicodeError) as error:
        raise invalid(url, f"was sent on to what is no URL: {error}") from error


def _too_large(url: URL, limit: int) -> Problem:
    message = f"url {shown(url)}: has more than {limit:,} bytes; give a smaller photo"
    return Problem("too_large", message, detail="too_many_bytes")


def _used_up(url: URL) -> Problem:
    message = f"url {shown(url)}: the photos of this request are too many bytes together; ask for fewer at once"
    return Problem("too_large", message, detail="too_many_bytes")


async def _read(answer: aiohttp.ClientResponse, url: URL, limit: int, allowance: Allowance | None) -> _Body:
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity", *_WINDOW_BITS):
        message = f"url {shown(url)}: is packed as {encoding[:20]!r}; its server must send it plain, or with gzip"
        raise Problem("unsupported", message, detail="url_encoding")
    body = _Body(encoding=encoding if encoding in _WINDOW_BITS else "")
    length = answer.content_length
    if length is not None and "Transfer-Encoding" not in answer.headers:
        if length > limit:
            raise _too_large(url, limit)
        if allowance is not None and not allowance.take(length):
            raise _used_up(url)
        body.chunks.append(await answer.read())  # the parser ends it there, whatever else is sent
        return body
    size = 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > limit:
            raise _too_large(url, limit)
        if allowance is not None and not allowance.take(len(chunk)):
            raise _used_up(url)
        body.chunks.append(chunk)
    return body


async def _unpacked(body: _Body, url: URL, limit: int, allowance: Allowance | None) -> bytes:
    data = body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks)
    if body.encoding and data:
        wire = len(data)
        data = await asyncio.to_thread(_inflate, data, _WINDOW_BITS[body.encoding], url, limit)
        if allowance is not None and not allowance.take(len(data) - wire):
            raise _used_up(url)
    if not data:
        message = f"url {shown(url)}: is empty; give the address of a photo"
        raise Problem("unprocessable", message, detail="url_empty")
    if data[:1] in b"<\xef \t\r\n" and data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML):
        message = f"url {shown(url)}: is a web page, not a photo; give the address of the image file itself"
        raise Problem("unsupported", message, detail="url_html")
    return data


def _inflate(data: bytes, window: int, url: URL, limit: int) -> bytes:
    """Unpack at most `limit` bytes: a bomb costs what a large photo costs."""
    try:
        packed = zlib.decompressobj(window)
        found = packed.decompress(data, limit + 1)
    except zlib.error:
        if window != _WINDOW_BITS["deflate"]:
            raise _broken(url) from None
        return _inflate(data, -15, url, limit)  # some servers send deflate without its header
    if len(found) > limit:
        raise _too_large(url, limit)
    if not packed.eof or packed.unused_data:
        raise _broken(url)
    return found


def _broken(url: URL) -> Problem:
    message = f"url {shown(url)}: its Content-Encoding is broken; its server must send it plain"
    return Problem("unprocessable", message, detail="url_encoding")
