"""Code: a stranger's URL gives a photo or a reason; it leads nowhere that is not for everyone, and has its price."""

import asyncio
import io
import ipaddress
import re
import ssl
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.components.base import Call
from serving.components.downloader import Downloader
from serving.fetching import Fetcher, FetchLimits
from serving.fetching.addresses import why_denied
from serving.fetching.fetcher import Allowance
from serving.fetching.urls import read_url
from serving.photos import Photo
from serving.problems import Problem
from tests.origins import Origin, origin

LOCAL = ("127.0.0.0/8",)
ANY_PORT = frozenset(range(1, 65536))


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((120, 90), 60).convert("RGB").save(out, "JPEG")
    return out.getvalue()


PHOTO = jpeg()


def names(table: dict[str, list[str]]) -> Any:
    """A resolver that gives each name's addresses, one list after the other if asked again."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        if host not in table:
            raise OSError("no such name")
        found = table[host]
        return found.pop(0).split(",") if len(found) > 1 else found[0].split(",")

    return resolve


def local(table: dict[str, list[str]] | None = None, tls: ssl.SSLContext | None = None, **limits: Any) -> Fetcher:
    """A fetcher that may ask this machine on any port, and no other private network."""
    given_limits = FetchLimits(**{"own_networks": LOCAL, "ports": ANY_PORT, "seconds": 5.0, **limits})
    return Fetcher(given_limits, resolve=names(table) if table else None, tls=tls)


async def problem(fetcher: Fetcher, url: str, **options: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await fetcher.fetch(url, **options)
    assert str(caught.value)
    return caught.value


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


# ---------------------------------------------------------------------------------------------- what is given


@pytest.mark.parametrize("path", ["/a.jpg", "/gzip", "/chunked", "/to?/a.jpg", "/to?/to?/a.jpg"])
def test_a_photo_comes_as_it_is_however_it_is_sent(path: str) -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local()
            assert await fetcher.fetch(server.url(path)) == PHOTO
            await fetcher.stop()

    run(work())


def test_the_component_fills_photos_at_once_and_leaves_those_that_are_there() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            part = Downloader(local(), limit=8)
            await part.start()
            photos = [Photo(url=server.url(f"/{i}.jpg")) for i in range(4)]
            photos += [Photo(photo=b"mine", url=server.url("/unasked")), Photo(url=server.url("/missing")), Photo()]
            call = Call()
            await part.apply(photos, call)
            await part.stop()
            assert [photo.photo for photo in photos] == [PHOTO] * 4 + [b"mine", None, None]
            assert photos[5].problem is not None
            assert photos[5].problem.detail == "url_status"
            assert "/unasked" not in server.asked
            assert call.seconds["download"] > 0
            assert part.metadata().inputs[0].name == "url"

    run(work())


def test_connections_are_used_again_and_tell_nothing_of_the_asker() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local()
            for _ in range(3):
                await fetcher.fetch(server.url("/a.jpg?signature=%2Fa%20b+c"))
            await fetcher.stop()
            assert server.connections == 1
            assert server.asked == ["/a.jpg?signature=%2Fa%20b+c"] * 3  # as it was signed
            assert not any(re.search(r"(?mi)^(cookie|authorization|referer):", head) for head in server.heads)

    run(work())


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with origin(PHOTO) as server, origin(b"from the proxy") as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url(""))
            fetcher = local()
            assert await fetcher.fetch(server.url("/a.jpg")) == PHOTO
            await fetcher.stop()
            assert not proxy.asked

    run(work())


# --------------------------------------------------------------------------------------------- where it leads


def spellings(address: int) -> list[str]:
    """An IPv4 address in the ways that some resolver, library or browser takes for it."""
    a, b, c, d = address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255
    dotted = f"{a}.{b}.{c}.{d}"
    low, high = f"{a:02x}{b:02x}", f"{c:02x}{d:02x}"
    wide = "".join(chr(ord("０") + int(sign)) if sign.isdigit() else sign for sign in dotted)
    return [
        dotted, f"{dotted}.", str(address), hex(address), f"0{address:o}", f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a}.{b}.{address & 0xFFFF}", f"{a}.{address & 0xFFFFFF}",
        f"00{a}.{b}.{c}.{d}", dotted.replace(".", "。"), wide, dotted.replace(".", "%2e"),
        "".join(f"%{ord(sign):02x}" for sign in dotted), f"[::ffff:{dotted}]", f"[::ffff:{low}:{high}]",
        f"[0:0:0:0:0:ffff:{low}:{high}]", f"[::{dotted}]", f"[64:ff9b::{dotted}]", f"[64:ff9b:1::{low}:{high}]",
        f"[2002:{low}:{high}::1]", f"[2001:0:{low}:{high}::1]", f"[2001:0:1234::{low}:{high}]",
        f"user:password@{dotted}", f"example.org@{dotted}", f"{dotted}\\@example.org", f"{dotted}#@example.org",
        f" {dotted}", f"{dotted}\t", f"{dotted}%00.example.org", f"[fe80::{low}:{high}%25eth0]", f"[::ffff:{dotted}%1]",
    ]  # fmt: skip


PRIVATE = st.one_of(
    *[
        st.integers(int(network[0]), int(network[-1]))
        for network in map(
            ipaddress.IPv4Network,
            ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
             "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "192.0.2.0/24", "198.18.0.0/15", "168.63.129.16/32"),
        )
    ]
)  # fmt: skip


@given(address=PRIVATE, scheme=st.sampled_from(["http", "https", "HTTP"]), data=st.data())
@settings(max_examples=300, deadline=None)
def test_no_spelling_of_a_private_address_gets_through(address: int, scheme: str, data: st.DataObject) -> None:
    host = data.draw(st.sampled_from(spellings(address)))
    with pytest.raises(Problem) as caught:
        read_url(f"{scheme}://{host}/a.jpg", hosts=(), ports=ANY_PORT, own=())
    assert caught.value.detail in ("url_forbidden", "url_invalid")


@given(st.ip_addresses(v=4))
@settings(max_examples=300, deadline=None)
def test_what_is_let_through_is_global_to_the_library_too(address: ipaddress.IPv4Address) -> None:
    if why_denied(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast
    assert why_denied(f"::ffff:{address}") == why_denied(str(address))
    assert why_denied(f"64:ff9b::{address}") == why_denied(str(address))


@given(st.ip_addresses(v=6))
@settings(max_examples=300, deadline=None)
def test_only_the_global_block_of_ipv6_is_let_through(address: ipaddress.IPv6Address) -> None:
    embedding = [ipaddress.IPv6Network(block) for block in ("::ffff:0:0/96", "64:ff9b::/96")]
    if why_denied(str(address)) is None and not any(address in block for block in embedding):
        assert address in ipaddress.IPv6Network("2000::/3")
        assert address.is_global


@pytest.mark.parametrize(
    "address",
    ["::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1",
     "2001::1", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "::127.0.0.1", "::ffff:10.0.0.1",
     "5f00::1", "100::1", "4000::1", "not an address"],
)  # fmt: skip
def test_each_special_block_is_denied(address: str) -> None:
    assert why_denied(address)


def test_public_addresses_are_let_through_and_own_networks_are_named() -> None:
    for address in ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"):
        assert why_denied(address) is None
    own = (ipaddress.ip_network("10.1.0.0/16"),)
    assert why_denied("10.1.2.3", own) is None
    assert why_denied("10.2.2.3", own)


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("ftp://example.org/a.jpg", "url_forbidden"),
        ("file:///etc/passwd", "url_forbidden"),
        ("gopher://example.org/", "url_forbidden"),
        ("data:image/png;base64,AAAA", "url_forbidden"),
        ("a.jpg", "url_forbidden"),
        ("", "url_forbidden"),
        ("http://", "url_invalid"),
        ("http:///a", "url_invalid"),
        ("http://example.org:/a", "url_invalid"),
        ("http://example.org:99999/", "url_invalid"),
        ("http://example.org:22/", "url_forbidden"),
        ("http://example.org:0/", "url_forbidden"),
        ("http://user@example.org/", "url_forbidden"),
        ("http://exa mple.org/", "url_invalid"),
        ("http://example.org/a\r\nHost: b", "url_invalid"),
        ("http://[::1", "url_invalid"),
        ("http://exam%70le.org/", "url_invalid"),
        ("http://-a.example.org/", "url_invalid"),
        ("http://example.org/" + "a" * 5000, "url_invalid"),
    ],
)
def test_what_is_no_url_for_photos_is_named(url: str, detail: str) -> None:
    with pytest.raises(Problem) as caught:
        read_url(url, hosts=(), ports={80, 443}, own=())
    assert caught.value.detail == detail
    assert len(caught.value.message) < 400


def test_only_hosts_of_the_list_are_asked() -> None:
    hosts = ("*.example.org", "Photos.example.com")

    def ask(host: str) -> None:
        read_url(f"https://{host}/a.jpg", hosts=hosts, ports={443}, own=())

    for host in ("a.example.org", "A.B.EXAMPLE.ORG", "photos.example.com", "photos.example.com."):
        ask(host)
    for host in ("example.org", "aexample.org", "photos.example.com.evil.net", "evil.net", "8.8.8.8", "x.example.com"):
        with pytest.raises(Problem, match="not among the hosts"):
            ask(host)


def test_an_international_name_is_asked_as_the_net_knows_it() -> None:
    found = read_url("https://Bücher.example/é.jpg?q=ü#part", hosts=(), ports={443}, own=())
    assert str(found) == "https://xn--bcher-kva.example/%C3%A9.jpg?q=%C3%BC"


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data", "http://[::ffff:169.254.169.254]/", "http://2852039166/",
     "//10.0.0.1/a", "file:///etc/passwd", "http://inside.test/", "http://user@photos.test/", "http://0x7f.1/"],
)  # fmt: skip
def test_a_redirect_leads_nowhere_else_than_a_url(target: str) -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local({"photos.test": ["127.0.0.1"], "inside.test": ["10.0.0.1"]})
            found = await problem(fetcher, server.url(f"/to?{target}", host="photos.test"))
            assert (found.reason, found.detail) == ("unprocessable", "url_forbidden")
            await fetcher.stop()

    run(work())


def test_a_name_that_changes_to_a_private_address_is_refused_then() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local({"photos.test": ["127.0.0.1", "10.0.0.1"]})
            assert await fetcher.fetch(server.url("/a.jpg", host="photos.test")) == PHOTO
            await fetcher.stop()  # its connections and what it knows of names end
            assert (await problem(fetcher, server.url("/a.jpg", host="photos.test"))).detail == "url_forbidden"
            await fetcher.stop()

    run(work())


@pytest.mark.parametrize(
    "addresses", ["10.0.0.1", "::1", "127.0.0.1,10.0.0.1", "64:ff9b::a00:1", "fe80::1%lo", "nonsense"]
)
def test_a_name_with_a_private_address_is_refused_and_the_address_not_told(addresses: str) -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local({"photos.test": [addresses]})
            found = await problem(fetcher, server.url("/a.jpg", host="photos.test"))
            assert (found.reason, found.detail) == ("unprocessable", "url_forbidden")
            assert "10.0.0.1" not in found.message
            assert not server.asked
            await fetcher.stop()

    run(work())


def test_what_was_resolved_is_what_is_connected_to() -> None:
    """A second look-up, which could give another address, is never made."""

    async def work() -> None:
        async with origin(PHOTO) as server:
            looked_up = []

            async def resolve(host: str, port: int) -> Sequence[str]:
                looked_up.append(host)
                return ["127.0.0.1"] if len(looked_up) == 1 else ["10.0.0.1"]

            fetcher = Fetcher(FetchLimits(own_networks=LOCAL, ports=ANY_PORT), resolve=resolve)
            assert await fetcher.fetch(server.url("/a.jpg", host="photos.test")) == PHOTO
            assert looked_up == ["photos.test"]
            await fetcher.stop()

    run(work())


def test_the_system_resolver_is_checked_as_well() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = Fetcher(FetchLimits(ports=ANY_PORT))
            assert (await problem(fetcher, server.url("/a.jpg", host="localhost"))).detail == "url_forbidden"
            assert (await problem(fetcher, "http://nobody.invalid/a.jpg")).detail == "url_unreachable"
            await fetcher.stop()
            free = Fetcher(allow_private=True)
            assert await free.fetch(server.url("/a.jpg", host="localhost")) == PHOTO
            await free.stop()

    run(work())


def test_tls_proves_the_host_by_name_although_an_address_is_connected_to() -> None:
    authority = trustme.CA()
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("photos.test").configure_cert(server_tls)
    asked_for: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: asked_for.append(name)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    table = {"photos.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]}

    async def work() -> None:
        async with origin(PHOTO, tls=server_tls) as server:
            fetcher = local(table, tls=trusting)
            assert await fetcher.fetch(server.url("/a.jpg", "photos.test.", "https")) == PHOTO
            found = await problem(fetcher, server.url("/a.jpg", "other.test", "https"))
            assert found.detail == "url_unreachable"
            assert "prove" in found.message
            await fetcher.stop()
            stranger = local(table)
            assert "prove" in (await problem(stranger, server.url("/a.jpg", "photos.test", "https"))).message
            await stranger.stop()
            assert asked_for[:2] == ["photos.test", "other.test"]

    run(work())


# ---------------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize(
    ("path", "reason", "detail"),
    [
        ("/html", "unsupported", "url_html"),
        ("/empty", "unprocessable", "url_empty"),
        ("/missing", "unprocessable", "url_status"),
        ("/broken", "unprocessable", "url_status"),
        ("/nonsense", "unprocessable", "url_unreachable"),
        ("/cut", "unprocessable", "url_unreachable"),
        ("/bomb", "too_large", "too_many_bytes"),
        ("/claims", "too_large", "too_many_bytes"),
        ("/endless", "too_large", "too_many_bytes"),
        ("/notgzip", "unprocessable", "url_encoding"),
        ("/brotli", "unsupported", "url_encoding"),
        ("/wide", "unprocessable", "url_unreachable"),
        ("/tall", "unprocessable", "url_unreachable"),
        ("/around", "unprocessable", "url_redirects"),
        ("/nowhere", "bad_request", "url_invalid"),
        ("/to?http://[", "bad_request", "url_invalid"),
    ],
)
def test_what_a_server_may_do_has_a_reason(path: str, reason: str, detail: str) -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local(max_bytes=1_000_000)
            start = time.perf_counter()
            found = await problem(fetcher, server.url(path))
            assert (found.reason, found.detail) == (reason, detail)
            assert time.perf_counter() - start < 2
            assert len(server.asked) <= fetcher.limits.redirects + 1
            assert await fetcher.fetch(server.url("/a.jpg")) == PHOTO  # and the next one is served
            await fetcher.stop()

    run(work())


@pytest.mark.parametrize("path", ["/drip", "/headers", "/silent"])
def test_a_slow_server_has_so_much_time_as_a_whole(path: str) -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local(seconds=0.3)
            start = time.perf_counter()
            found = await problem(fetcher, server.url(path))
            assert (found.reason, found.detail) == ("too_late", "url_too_slow")
            assert 0.25 < time.perf_counter() - start < 2
            await asyncio.wait_for(server.left.wait(), 5)  # its connection was ended
            await fetcher.stop()

    run(work())


def test_a_slow_name_server_counts_too() -> None:
    async def work() -> None:
        async def resolve(host: str, port: int) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

        fetcher = Fetcher(FetchLimits(seconds=0.2), resolve=resolve)
        assert (await problem(fetcher, "http://photos.test/")).detail == "url_too_slow"
        await fetcher.stop()

    run(work())


def test_a_download_ends_when_nobody_waits_for_it() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            part = Downloader(local(seconds=20.0))
            async with asyncio.TaskGroup() as tasks:
                photos = [Photo(url=server.url("/drip")) for _ in range(2)]
                waiting = tasks.create_task(part.apply(photos, Call()))
                await _asked(server, 2)
                waiting.cancel()
            assert waiting.cancelled()
            await asyncio.wait_for(server.left.wait(), 5)
            await part.stop()

    run(work())


def test_a_deadline_of_the_request_is_kept() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            part = Downloader(local(seconds=20.0))
            photo = Photo(url=server.url("/silent"))
            await part.apply([photo], Call(deadline=time.monotonic() + 0.2))
            assert photo.problem is not None
            assert photo.problem.reason == "too_late"
            await part.stop()

    run(work())


async def _asked(server: Origin, count: int) -> None:
    while len(server.asked) < count:
        await asyncio.sleep(0.005)


def test_downloads_at_once_are_bounded_and_the_next_one_is_told_to_come_again() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            fetcher = local(concurrency=1, waiting=1, seconds=20.0)
            running = asyncio.create_task(fetcher.fetch(server.url("/silent")))
            await _asked(server, 1)
            waiting = asyncio.create_task(fetcher.fetch(server.url("/a.jpg")))
            await asyncio.sleep(0)
            found = await problem(fetcher, server.url("/b.jpg"))
            assert (found.reason, found.kind.status) == ("busy", 429)
            assert found.retry_after
            running.cancel()
            assert await waiting == PHOTO
            await fetcher.stop()

    run(work())


def test_the_photos_of_one_request_share_an_allowance() -> None:
    async def work() -> None:
        async with origin(PHOTO) as server:
            part = Downloader(local(), max_total_bytes=2 * len(PHOTO) + 10)
            photos = [Photo(url=server.url(f"/{i}.jpg")) for i in range(3)]
            await part.apply(photos, Call())
            assert sum(photo.photo == PHOTO for photo in photos) == 2
            refused = [photo.problem for photo in photos if photo.problem is not None]
            assert [one.reason for one in refused] == ["too_large"]
            fetcher = local()
            assert (await problem(fetcher, server.url("/gzip"), allowance=Allowance(10))).reason == "too_large"
            await fetcher.stop()
            await part.stop()

    run(work())
