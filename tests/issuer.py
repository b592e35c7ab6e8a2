"""An issuer of tokens, for tests: its keys, and what it signs."""

import base64
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

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
