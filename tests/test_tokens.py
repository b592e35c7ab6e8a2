"""Tokens of an issuer: what is let in, and everything that is not."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from serving.access import jwks as jwks_module
from serving.access.jwks import Jwks, read_keys
from serving.access.tokens import REMEMBERED, Tokens
from serving.problems import Problem

ISSUER, AUDIENCE = "https://issuer.example", "classy"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SIGNERS: dict[str, tuple[Any, str]] = {"r": (RSA_KEY, "RS256"), "e": (EC_KEY, "ES256"), "d": (ED_KEY, "EdDSA")}


def public(kid: str, /, **changed: Any) -> dict[str, Any]:
    key, algorithm = SIGNERS[kid]
    by = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}.get(
        algorithm, jwt.algorithms.OKPAlgorithm
    )
    return {**json.loads(by.to_jwk(key.public_key())), "kid": kid, "use": "sig", **changed}


ALL_KEYS = {"keys": [public(kid) for kid in SIGNERS]}


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "app-7",
        "exp": now + 600,
        "iat": now,
        "scope": "openid classy:infer",
    }
    return {name: value for name, value in {**said, **changed}.items() if value is not None}


def token(kid: str | None = "r", *, signer: str = "r", header: dict[str, Any] | None = None, **changed: Any) -> str:
    key, algorithm = SIGNERS[signer]
    headers = {**({"kid": kid} if kid else {}), **(header or {})}
    return jwt.encode(claims(**changed), key, algorithm, headers=headers)


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(body: bytes) -> str:
    """A body that the issuer signed, whatever it is."""
    text = f"{part({'alg': 'RS256', 'kid': 'r'})}.{part(body)}"
    return f"{text}.{part(jwt.get_algorithm_by_name('RS256').sign(text.encode(), RSA_KEY))}"


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


# ---------------------------------------------------------------------------------------------- let in


@pytest.mark.parametrize("signer", SIGNERS)
def test_a_token_of_each_kind_of_key_is_let_in(tokens: Tokens, signer: str) -> None:
    identity = asyncio.run(tokens.verify(token(signer, signer=signer)))
    assert (identity.subject, identity.scopes, identity.key_id) == ("app-7", frozenset({"infer"}), "")


@pytest.mark.parametrize(
    ("said", "scopes"),
    [
        ({"scope": "classy:infer classy:truth email"}, {"infer", "truth"}),
        ({"scope": None, "scp": ["classy:admin", "infer", 7]}, {"admin"}),
        ({"scope": None, "scp": "classy:metrics"}, {"metrics"}),
        ({"scope": "infer classy:everything"}, set()),
        ({"scope": None}, set()),
        ({"scope": {"classy:infer": True}}, set()),
    ],
)
def test_scopes_come_from_scope_or_scp_and_begin_with_classy(
    tokens: Tokens, said: dict[str, Any], scopes: set[str]
) -> None:
    assert asyncio.run(tokens.verify(token(**said))).scopes == scopes


def test_clocks_may_differ_by_the_leeway_and_no_more(tokens: Tokens) -> None:
    now = int(time.time())
    assert asyncio.run(tokens.verify(token(exp=now - 20, nbf=now + 20, iat=now + 20))).subject == "app-7"
    assert refused(tokens, token(exp=now - 60)).detail == "token_expired"
    assert refused(tokens, token(nbf=now + 60)).detail == "token_early"
    assert refused(tokens, token(iat=now + 60)).detail == "token_early"


def test_the_audience_may_be_one_of_several(tokens: Tokens) -> None:
    assert asyncio.run(tokens.verify(token(aud=["other", AUDIENCE]))).subject == "app-7"


# ------------------------------------------------------------------------------------------- not let in


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        ({"aud": "another"}, "token_audience"),
        ({"iss": "https://evil.example"}, "token_issuer"),
        ({"exp": None}, "token_claim"),
        ({"sub": None}, "token_claim"),
        ({"iss": None}, "token_claim"),
        ({"aud": None}, "token_claim"),
        ({"sub": ""}, "token_claim"),
        ({"sub": "a\nb"}, "token_claim"),
        ({"sub": "a" * 300}, "token_claim"),
    ],
)
def test_a_wrong_claim_is_named(tokens: Tokens, changed: dict[str, Any], detail: str) -> None:
    problem = refused(tokens, token(**changed))
    assert (problem.kind.status, problem.detail) == (401, detail)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat", "iss", "aud", "sub"])
@pytest.mark.parametrize("value", ["soon", [], {}, [[ISSUER]], {"a": 1}, True, 1e400, float("nan"), -1])
def test_a_strange_claim_with_a_good_signature_breaks_nothing(tokens: Tokens, name: str, value: Any) -> None:
    said = signed(json.dumps({**claims(), name: value}).encode())
    if (name, str(value)) in {("nbf", "True"), ("iat", "True"), ("nbf", "-1"), ("iat", "-1"), ("sub", "soon")}:
        assert asyncio.run(tokens.verify(said)).scopes == {"infer"}
    else:
        assert refused(tokens, said).kind.status == 401


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(tokens: Tokens, name: str) -> None:
    unsigned = f"{part({'alg': name, 'kid': 'r'})}.{part(claims())}"
    assert refused(tokens, f"{unsigned}.").kind.status == 401
    assert refused(tokens, f"{unsigned}.{token().rpartition('.')[2]}").kind.status == 401


@pytest.mark.parametrize("name", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_not_taken_for_a_secret(tokens: Tokens, name: str) -> None:
    digest = getattr(hashlib, name.replace("HS", "sha"))
    for encoding, form in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
    ):
        text = f"{part({'alg': name, 'kid': 'r'})}.{part(claims())}"
        secret = RSA_KEY.public_key().public_bytes(encoding, form)
        forged = f"{text}.{part(hmac.new(secret, text.encode(), digest).digest())}"
        assert refused(tokens, forged).detail == "token_algorithm"


def test_a_key_signs_only_in_its_own_way(tokens: Tokens) -> None:
    assert refused(tokens, token("e", signer="r")).detail == "token_algorithm"
    assert refused(tokens, jwt.encode(claims(), OTHER_KEY, "RS256", headers={"kid": "r"})).detail == "token_signature"


def test_keys_that_come_with_the_token_are_not_used(tokens: Tokens) -> None:
    own = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_KEY.public_key()))
    for header in ({"jwk": own}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}):
        forged = jwt.encode(claims(), OTHER_KEY, "RS256", headers={"kid": "r", **header})
        assert refused(tokens, forged).detail == "token_signature"


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "a.b.c",
        f"{part({'alg': 'RS256', 'kid': 7})}.{part({})}.x",
        f"{part([1])}.{part({})}.x",
        f"{part(b'[' * 3000)}.{part({})}.x",
        f"{part({'alg': 'RS256', 'kid': 'r'})}.{part(b'[' * 3000)}.x",
        f"{part({'alg': 'RS256', 'kid': 'r', 'crit': ['exp']})}.{part({})}.x",
        "é.é.é",
        "\ud800.a.b",
    ],
)
def test_what_is_no_token_is_refused_in_words(tokens: Tokens, text: str) -> None:
    assert refused(tokens, text).kind.status == 401


def test_a_deep_body_with_a_good_signature_is_refused_in_words(tokens: Tokens) -> None:
    assert refused(tokens, signed(b"[" * 4000)).detail == "token_form"


GOOD = {signer: token(signer, signer=signer, exp=int(time.time()) + 86_400) for signer in SIGNERS}


def same(one: str, other: str) -> bool:
    """Whether two tokens say and sign the same: base64 has bits in a last letter that mean nothing."""

    def raw(text: str) -> list[bytes]:
        return [base64.urlsafe_b64decode(piece + "==") for piece in text.split(".")]

    try:
        return raw(one) == raw(other)
    except ValueError:
        return False


@given(st.sampled_from(sorted(GOOD)), st.data())
@budget(max_examples=200, deadline=None)
def test_a_token_that_was_changed_anywhere_is_never_let_in(tokens: Tokens, signer: str, data: st.DataObject) -> None:
    good = GOOD[signer]
    place = data.draw(st.integers(0, len(good) - 1))
    letter = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.= "))
    how = data.draw(st.sampled_from(["change", "insert", "remove", "cut"]))
    changed = {
        "change": good[:place] + letter + good[place + 1 :],
        "insert": good[:place] + letter + good[place:],
        "remove": good[:place] + good[place + 1 :],
        "cut": good[:place],
    }[how]
    if not same(good, changed):
        assert refused(tokens, changed).kind.status == 401


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda raw: f"{part(raw)}.{part(raw)}.{part(raw)}"))
@budget(max_examples=200, deadline=None)
def test_any_text_is_refused_and_breaks_nothing(tokens: Tokens, text: str) -> None:
    assert refused(tokens, text).kind.status == 401


# ------------------------------------------------------------------------------------------ the issuer's keys


class Issuer(ThreadingHTTPServer):
    """A real HTTP server that shows keys and counts how often it is asked."""

    document = b""
    status = 200
    asked = 0


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked += 1
            self.send_response(server.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(server.document)))
            self.end_headers()
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
