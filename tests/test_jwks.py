"""An issuer's public keys: fetched when needed, kept while it is away, never at a bad token's bidding."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from serving.access import jwks as jwks_module
from serving.access.jwks import Jwks, read_keys
from serving.access.tokens import REMEMBERED, Tokens
from serving.problems import Problem
from tests.issuer import (
    ALL_KEYS,
    AUDIENCE,
    ISSUER,
    public,
    token,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("jwks") / "jwks.json"
    found.write_text(json.dumps(ALL_KEYS))
    return found


@pytest.fixture(scope="module")
def tokens(file: Path) -> Tokens:
    return Tokens(ISSUER, AUDIENCE, Jwks(str(file)))


def refused(tokens: Tokens, text: str) -> Problem:
    with pytest.raises(Problem) as error:
        asyncio.run(tokens.verify(text))
    return error.value


class Issuer(ThreadingHTTPServer):
    """A real HTTP server that shows keys and counts how often it is asked."""

    document = b""
    status = 200
    asked = 0
    release: Event | None = None
    """Where it is set, an answer waits for it in the middle."""


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked += 1
            self.send_response(server.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(server.document)))
            self.end_headers()
            if server.release is not None:
                server.release.wait(10)
            try:
                self.wfile.write(server.document)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    server = Issuer(("127.0.0.1", 0), Answer)
    server.document = json.dumps({"keys": [public("r")]}).encode()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def at(issuer: Issuer, clock: Clock) -> Tokens:
    return Tokens(ISSUER, AUDIENCE, Jwks(f"http://127.0.0.1:{issuer.server_port}/jwks", clock=clock))


def test_a_key_that_is_new_at_the_issuer_is_fetched_when_a_token_names_it(issuer: Issuer) -> None:
    async def story() -> None:
        clock = Clock()
        tokens = at(issuer, clock)
        await tokens.verify(token("r"))
        issuer.document = json.dumps({"keys": [public("e")]}).encode()
        clock.now += jwks_module.BACK_OFF_S
        await tokens.verify(token("e", signer="e"))
        assert issuer.asked == 2
        # The old key is withdrawn: a token that was verified with it and remembered goes too.
        with pytest.raises(Problem, match="does not publish"):
            await tokens.verify(token("r"))

    asyncio.run(story())


def test_a_token_is_remembered_but_not_beyond_its_key(issuer: Issuer) -> None:
    async def story() -> None:
        clock = Clock()
        tokens = at(issuer, clock)
        text = token("r")
        first = await tokens.verify(text)
        assert await tokens.verify(text) is first
        issuer.document = json.dumps({"keys": [public("e")]}).encode()
        clock.now += jwks_module.OLD_S + 1
        await tokens.verify(token("e", signer="e"))
        with pytest.raises(Problem, match="does not publish"):
            await tokens.verify(text)

    asyncio.run(story())


def test_a_withdrawn_key_is_noticed_although_its_token_is_remembered(issuer: Issuer) -> None:
    async def story() -> None:
        clock = Clock()
        tokens = at(issuer, clock)
        text = token("r")
        await tokens.verify(text)
        issuer.document = json.dumps({"keys": [public("e")]}).encode()
        clock.now += jwks_module.OLD_S + 1
        await tokens.verify(text)  # asks in the background
        assert tokens.jwks._reading is not None
        await tokens.jwks._reading
        with pytest.raises(Problem, match="does not publish"):
            await tokens.verify(text)

    asyncio.run(story())


def test_bad_tokens_cannot_make_the_server_fetch(issuer: Issuer) -> None:
    async def story() -> None:
        clock = Clock()
        tokens = at(issuer, clock)
        await tokens.verify(token("r"))
        for number in range(50):
            with pytest.raises(Problem, match="does not publish"):
                await tokens.verify(token(f"unknown-{number}"))
        assert issuer.asked == 1
        clock.now += jwks_module.BACK_OFF_S
        waiting = [tokens.verify(token(f"unknown-{number}")) for number in range(50)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, Problem) for each in found)
        assert issuer.asked == 2

    asyncio.run(story())


def test_remembered_tokens_are_bounded(tokens: Tokens) -> None:
    async def story() -> None:
        tokens._verified.clear()
        for number in range(REMEMBERED):
            tokens._verified[number.to_bytes(32)] = (0.0, 0, None)  # type: ignore[assignment]
        await tokens.verify(token(sub="one more"))
        assert len(tokens._verified) == REMEMBERED

    asyncio.run(story())


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (500, b"{}"),
        (302, b""),
        (200, b"{"),
        (200, b"[]"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "r"}]}'),
        (200, b" " * (jwks_module.MAX_BYTES + 1)),
        (200, b"[" * 100_000),
    ],
)
def test_an_issuer_that_shows_no_usable_keys_makes_503_and_is_not_asked_again_at_once(
    issuer: Issuer, status: int, document: bytes
) -> None:
    async def story() -> None:
        issuer.status, issuer.document = status, document
        tokens = at(issuer, Clock())
        for _ in range(3):
            with pytest.raises(Problem) as error:
                await tokens.verify(token("r"))
            assert (error.value.kind.status, error.value.detail) == (503, "jwks_away")
        assert issuer.asked == 1

    asyncio.run(story())


def test_an_issuer_that_does_not_end_its_answer_costs_a_bounded_time(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        monkeypatch.setattr(jwks_module, "FETCH_S", 0.1)
        issuer.release = Event()
        try:
            async with asyncio.timeout(5):
                with pytest.raises(Problem) as error:
                    await at(issuer, Clock()).verify(token("r"))
        finally:
            issuer.release.set()
        assert error.value.detail == "jwks_away"

    asyncio.run(story())


def test_known_keys_go_on_while_the_issuer_is_away_for_a_day(issuer: Issuer) -> None:
    async def story() -> None:
        clock = Clock()
        tokens = at(issuer, clock)
        await tokens.verify(token("r"))
        issuer.status = 500
        clock.now += jwks_module.TRUSTED_S - 1
        assert (await tokens.verify(token("r", sub="other"))).subject == "other"
        clock.now += 2
        with pytest.raises(Problem) as error:
            await tokens.verify(token("r", sub="third"))
        assert error.value.kind.status == 503

    asyncio.run(story())


def test_keys_that_may_not_sign_are_passed_over() -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    weak = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(small))
    document = [
        public("r"), {**weak, "kid": "weak"}, public("e", kid="enc", use="enc"), public("e", kid="hs", alg="HS256"),
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "?", "kid": "broken"}, {"kty": "oct", "k": "eA", "kid": "s"}, 7,
    ]  # fmt: skip
    assert set(read_keys(json.dumps({"keys": document}).encode())) == {"r"}


def test_a_single_key_needs_no_name_and_several_do(issuer: Issuer, tokens: Tokens) -> None:
    assert asyncio.run(at(issuer, Clock()).verify(token(None))).subject == "app-7"
    assert refused(tokens, token(None)).detail == "token_key"


@pytest.mark.parametrize("source", ["http://issuer.example/jwks", "ftp://issuer.example/jwks", "http://127.0.0.1.x/"])
def test_keys_come_over_tls_or_from_this_machine(source: str) -> None:
    with pytest.raises(ValueError, match="neither an https:// URL nor a file"):
        Jwks(source)
