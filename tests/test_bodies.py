"""Bodies and connections that want too much: too large, too many, too slow, without end, packed bombs."""

import contextlib
import gzip
import http.client
import select
import socket
import time
import zlib
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from serving.rest import app, connections
from serving.server import Limits
from tests.brightness import DARK, a_server
from tests.serving import Running, running

LIMIT = 100_000
INFER = "/v2/models/classy/infer"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(a_server()) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.rest) as found:
        yield found


def raw(server: Running, data: bytes, *, wait: float = 10.0, parts: Iterator[bytes] | None = None) -> bytes:
    """What the server answers to these bytes, until it closes or a whole answer is there."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=wait) as wire:
        wire.sendall(data)
        for part in parts or ():
            try:
                wire.sendall(part)
            except OSError:
                break
        found = b""
        while chunk := wire.recv(65_536):
            found += chunk
            head, blank, body = found.partition(b"\r\n\r\n")
            if blank and len(body) >= int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
                break
        return found


@pytest.mark.parametrize("path", ["/predict", INFER])
def test_a_body_over_the_limit_is_refused_by_what_it_declares(server: Running, path: str) -> None:
    answer = raw(server, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"at most 100000" in answer


def test_an_endless_body_is_refused_by_what_has_arrived(server: Running) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(server, head, parts=(chunk for _ in range(10_000)))
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", ["/predict", "/v2/repository/index"])
def test_who_goes_on_sending_after_a_refusal_is_cut_off(
    server: Running, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.3)
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=10) as wire:
        wire.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".encode())
        assert wire.recv(65_536).startswith(b"HTTP/1.1 413 ")
        start = time.perf_counter()
        with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe
            while True:
                wire.sendall(b"x" * 65_536)
        assert 0.2 < time.perf_counter() - start < 8


def test_a_refused_body_that_ends_leaves_the_connection_usable(server: Running) -> None:
    wire = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=10)
    with contextlib.closing(wire):
        wire.connect()
        opened = wire.sock
        for size, status in ((LIMIT + 1, 413), (LIMIT + 1, 413), (9, 422)):
            wire.request("POST", "/predict", body=b"x" * size)
            answer = wire.getresponse()
            answer.read()
            assert (answer.status, wire.sock is opened) == (status, True)


def test_a_body_just_within_the_limit_is_read_in_chunks_too(client: httpx.Client) -> None:
    padded = DARK + b"\0" * (LIMIT - len(DARK))
    for content in (padded, (padded[i : i + 10_000] for i in range(0, LIMIT, 10_000))):
        assert client.post("/predict", content=content).json()["label"] == "dark"
    assert client.post("/predict", content=padded + b"\0").status_code == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_after_the_limit_not_after_its_size(client: httpx.Client, encoding: str) -> None:
    pack = partial(gzip.compress, compresslevel=9) if encoding == "gzip" else partial(zlib.compress, level=9)
    bomb = pack(b"\0" * 30_000_000)
    assert len(bomb) < LIMIT
    start = time.perf_counter()
    answer = client.post("/predict", content=bomb, headers={"content-encoding": encoding})
    assert answer.status_code == 413
    assert "after decompression" in answer.json()["error"]
    assert time.perf_counter() - start < 2


def test_bodies_of_many_clients_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that send all but the end hold what they sent; when there is no room, the next one is told to wait."""
    monkeypatch.setattr(app, "ROOM", 0)
    part = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % LIMIT + b"x" * (LIMIT - 1)
    with running(a_server()) as small, contextlib.ExitStack() as held, httpx.Client(base_url=small.rest) as client:
        wires = []
        for _ in range(5):  # room for four
            wires.append(held.enter_context(socket.create_connection(("127.0.0.1", small.rest_port), timeout=10)))
            wires[-1].sendall(part)
        refused = [wire for wire in select.select(wires, [], [], 4)[0] if b" 429 " in wire.recv(65_536)[:20]]
        assert len(refused) == 1
        assert client.post("/predict", content=DARK).status_code == 200  # small ones go on
        for wire in wires:
            if wire not in refused:
                wire.sendall(b"x")
                assert b" 422 " in wire.recv(65_536)[:20]
        whole = DARK + b"\0" * (LIMIT - len(DARK))
        assert client.post("/predict", content=whole).status_code == 200


def test_compressed_bodies_that_are_none_are_refused(client: httpx.Client) -> None:
    whole = gzip.compress(DARK)
    for content, encoding, status, says in (
        (DARK, "gzip", 400, "is not gzip"),
        (whole[:-9], "gzip", 400, "is cut off"),
        (whole + b"more", "gzip", 400, "behind its end"),
        (whole, "br", 415, "send gzip, deflate or none"),
    ):
        answer = client.post("/predict", content=content, headers={"content-encoding": encoding})
        assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text
    assert client.post("/predict", content=whole, headers={"content-encoding": "gzip"}).json()["label"] == "dark"


def test_a_body_that_dribbles_in_is_given_up(server: Running) -> None:
    with running(a_server(limits=Limits(timeout_s=0.4))) as hasty:
        start = time.perf_counter()
        answer = raw(hasty, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"did not arrive within 0.4 s" in answer
        assert time.perf_counter() - start < 5


def test_headers_without_end_are_refused(server: Running) -> None:
    lines = (b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(10_000))
    assert raw(server, b"GET /v2 HTTP/1.1\r\nHost: x\r\n", parts=lines).startswith(b"HTTP/1.1 431 ")
