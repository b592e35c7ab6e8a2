"""Tokens of an issuer: what is let in, and everything that is not."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from serving.access.jwks import Jwks
from serving.access.tokens import Tokens
from serving.problems import Problem
from tests.issuer import (
    ALL_KEYS,
    AUDIENCE,
    ISSUER,
    OTHER_KEY,
    RSA_KEY,
    SIGNERS,
    claims,
    part,
    signed,
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
