"""What a URL must look like to be fetched. It is parsed once; what is checked is what is connected to."""

import ipaddress
import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import lru_cache

from yarl import URL

from serving.fetching.addresses import Network, why_denied
from serving.problems import Problem

LONGEST = 4096
"""Characters of a URL."""
_SHOWN = 120
_UNFIT = re.compile(r"[\x00-\x20\x7f\\]")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def shown(url: object) -> str:
    """A URL in a message: cut, and without what may be a secret in its query."""
    text = str(url).partition("?")[0].partition("#")[0]
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def invalid(text: object, why: str) -> Problem:
    return Problem("bad_request", f"url {shown(text)}: {why}", detail="url_invalid")


def forbidden(text: object, why: str) -> Problem:
    return Problem("unprocessable", f"url {shown(text)}: {why}", detail="url_forbidden")


def read_url(text: str, *, hosts: Collection[str], ports: Collection[int], own: tuple[Network, ...]) -> URL:
    """A URL that may be fetched as far as it alone can tell; the address behind its name is still to be checked.

    Args:
        hosts: patterns of hosts that photos may come from, such as `*.example.org`; empty: every one.
        ports: that may be asked.
        own: networks that are reached although they are not public.

    Raises:
        Problem: 400 for what is no URL, 422 for one that must not be fetched.
    """
    if len(text) > LONGEST:
        raise invalid(text, f"has {len(text):,} characters; at most {LONGEST:,} are taken")
    if found := _UNFIT.search(text):
        raise invalid(text, f"has {found.group()!r} in it; encode it as %{ord(found.group()):02X}")
    try:
        url = parsed(text)
    except (ValueError, UnicodeError) as error:
        raise invalid(text, f"is no URL: {error}") from error
    return checked(url, hosts=hosts, ports=ports, own=own)


def parsed(text: str) -> URL:
    """What is ASCII goes out as it came, since a signed URL must; anything else is encoded.

    Raises:
        ValueError, UnicodeError: it is no URL.
    """
    url = URL(text, encoded=text.isascii())
    _ = url.port  # yarl looks at an authority when it is first asked for
    return url


def checked(url: URL, *, hosts: Collection[str], ports: Collection[int], own: tuple[Network, ...]) -> URL:
    """The same for a URL that is parsed already; gives it without fragment and with its host as it is compared.

    Raises:
        Problem: as `read_url`.
    """
    if url.scheme not in ("http", "https"):
        raise forbidden(url, "begins with neither http:// nor https://; give such a URL, or send the photo itself")
    if not url.raw_host or url.raw_authority.endswith(":"):
        raise invalid(url, "names no host, or a port without a number")
    if "@" in url.raw_authority:
        raise forbidden(url.with_user(None), "has a user name in it; give a URL that needs none")
    host = _host(url, own)
    if hosts and not any(fnmatchcase(host, pattern.lower()) for pattern in hosts):
        raise forbidden(url, f"{host} is not among the hosts that photos come from: {', '.join(hosts)}")
    if url.port not in ports:
        among = ", ".join(str(one) for one in sorted(ports))
        raise forbidden(url, f"port {url.port} is not asked; ports are {among}")
    return url if host == url.raw_host and not url.raw_fragment else url.with_host(host).with_fragment(None)


def _host(url: URL, own: tuple[Network, ...]) -> str:
    """The host in its one spelling: lower case, no dot at its end."""
    host = (url.raw_host or "").lower()
    if ":" in host:
        try:
            why = why_denied(host, own) if "%" not in host else "of one network card"
            ipaddress.IPv6Address(host)
        except ValueError:
            why = "not an IPv6 address"
    else:
        host = host.removesuffix(".")
        if not _NAME.fullmatch(host) or len(host) > 253:
            raise invalid(url, "its host has characters that no host's name has")
        if not _NUMBER.fullmatch(host.rpartition(".")[2]):
            return host
        why = _why_denied_4(host, own)
    if why is not None:
        raise forbidden(url, f"{host} is {why}; photos come from public addresses")
    return host


@lru_cache(maxsize=4096)
def _why_denied_4(host: str, own: tuple[Network, ...]) -> str | None:
    # A host whose last label is a number is an IPv4 address (https://url.spec.whatwg.org/#host-parsing): 127.1 and
    # 0x7f000001 are 127.0.0.1 to a resolver.
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return "an IPv4 address in an unusual spelling (write four decimal numbers)"
    return why_denied(host, own)
