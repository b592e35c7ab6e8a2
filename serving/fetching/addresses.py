"""Which network addresses a download may reach: those that are for everyone.

A URL comes from a stranger. What it names must not be this machine, its neighbours or a cloud's metadata service,
whichever way the address is written.
"""

import ipaddress
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry, 2025-10. Spelled out,
# because `ipaddress.is_global` has changed between versions of Python and says yes to embedded addresses.
_DENIED_4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier's customers"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "a cloud's own service"),  # Azure answers there to its machines alone
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
_DENIED_6: tuple[tuple[str, str], ...] = (
    ("::/96", "an IPv4 address inside IPv6"),  # unspecified, loopback and IPv4-compatible
    ("64:ff9b:1::/48", "an IPv4 address inside IPv6"),
    ("2001::/32", "an IPv4 address inside IPv6"),  # Teredo
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "an IPv4 address inside IPv6"),  # 6to4
    ("3fff::/20", "for documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
)
_NETWORKS_4 = tuple((ipaddress.IPv4Network(text), why) for text, why in _DENIED_4)
_NETWORKS_6 = tuple((ipaddress.IPv6Network(text), why) for text, why in _DENIED_6)
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """Networks in CIDR notation, such as `10.1.0.0/16`."""
    return tuple(ipaddress.ip_network(text) for text in texts)


@lru_cache(maxsize=4096)
def why_denied(text: str, own: tuple[Network, ...] = ()) -> str | None:
    """What speaks against connecting to an address; None: it is public.

    Args:
        text: as a socket gives it: an IPv4 or IPv6 address, an IPv6 one perhaps with a zone.
        own: networks that are reached although they are not public.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "not an address"
    if any(address.version == network.version and address in network for network in own):
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return next((why for network, why in _NETWORKS_4 if address in network), None)
    return _why_denied_6(address, own)


def _why_denied_6(address: ipaddress.IPv6Address, own: tuple[Network, ...]) -> str | None:
    if address.scope_id is not None:
        return "of one network card"
    if address in _MAPPED or address in _NAT64:  # DNS64 gives the latter for public hosts too: what counts is inside
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return why_denied(str(inside), own)
    found = next((why for network, why in _NETWORKS_6 if address in network), None)
    return found or (None if address in _PUBLIC_6 else "reserved")
