"""Tokens (JWT, RFC 7519) of an issuer that is trusted: checked by its public keys (JWKS, RFC 7517).

Only signatures by a private key are taken (RS, PS, ES, EdDSA): never `none`, and never HS256, which would let the
issuer's public key be used as a secret (RFC 8725, 2.1 and 3.1).
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jwt

from serving.access.jwks import Jwks
from serving.access.keys import SCOPES
from serving.components.base import Identity
from serving.problems import Problem

LEEWAY_S = 30
"""How far two clocks may differ."""
REMEMBERED = 4096
"""Verified tokens that are kept until they expire."""
LONGEST_SUBJECT = 200
WRONG: dict[type[Exception], tuple[str, str]] = {
    jwt.ExpiredSignatureError: ("token_expired", "has expired (exp); ask the issuer for a new one"),
    jwt.ImmatureSignatureError: ("token_early", "is not valid yet (nbf or iat); see whether the clocks agree"),
    jwt.InvalidAudienceError: ("token_audience", "is for another audience (aud); it must name {audience!r}"),
    jwt.InvalidIssuerError: ("token_issuer", "is of another issuer (iss); {issuer!r} is trusted"),
    jwt.MissingRequiredClaimError: ("token_claim", "lacks a claim; it needs iss, aud, sub and exp"),
    jwt.InvalidAlgorithmError: ("token_algorithm", "is signed in a way that is not taken"),
    jwt.InvalidSignatureError: ("token_signature", "has a signature that its key did not make"),
}
"""What a person is told; the first class that fits."""


class Tokens:
    """Who asks, by a token.

    Args:
        issuer: must be the token's `iss`.
        audience: must be among its `aud`.
        jwks: the issuer's keys.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        jwks: Jwks,
        *,
        leeway_s: int = LEEWAY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.issuer, self.audience, self.jwks = issuer, audience, jwks
        self._leeway, self._clock = leeway_s, clock
        self._verified: OrderedDict[bytes, tuple[float, int, Identity]] = OrderedDict()

    async def verify(self, token: str) -> Identity:
        """Who the issuer says that this is.

        Raises:
            Problem: 401 with the check that failed; 503 where the issuer's keys cannot be read.
        """
        if not token.isascii():
            raise _refused("token_form", "is no JSON web token")
        self.jwks.keep_fresh()
        digest = hashlib.sha256(token.encode()).digest()
        found = self._verified.get(digest)
        if found is not None and found[0] > self._clock() and found[1] == self.jwks.edition:
            return found[2]
        self._verified.pop(digest, None)
        header = self._header(token)
        key = await self.jwks.find(header.get("kid"))
        if key is None:
            raise _refused("token_key", "names a key (kid) that its issuer does not publish")
        claims = self._claims(token, key.key, list(key.algorithms))
        identity = Identity(subject=_subject(claims), scopes=_scopes(claims))
        self._verified[digest] = (int(claims["exp"]) + self._leeway, self.jwks.edition, identity)
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)
        return identity

    def _header(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, RecursionError, ValueError):
            raise _refused("token_form", "is no JSON web token") from None
        if not isinstance(header.get("kid", ""), str):
            raise _refused("token_form", "has a key name (kid) that is no text")
        return header

    def _claims(self, token: str, key: Any, algorithms: list[str]) -> dict[str, Any]:
        try:
            return jwt.decode(
                token, key, algorithms=algorithms, audience=self.audience, issuer=self.issuer, leeway=self._leeway,
                options={"require": ["exp", "iss", "aud", "sub"], "verify_iat": True},
            )  # fmt: skip
        except (jwt.PyJWTError, RecursionError, ValueError, OverflowError, TypeError) as error:
            detail, says = next(
                (found for kind, found in WRONG.items() if isinstance(error, kind)), ("token_form", "is malformed")
            )
            says = says.format(audience=self.audience, issuer=self.issuer)
            raise _refused(detail, says) from None


def _refused(detail: str, says: str) -> Problem:
    return Problem("unauthenticated", f"the token {says}", detail=detail)


def _subject(claims: dict[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT or not subject.isprintable():
        raise _refused(
            "token_claim", f"has no usable subject (sub); it must be a text of 1 to {LONGEST_SUBJECT} letters"
        )
    return subject


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """`scope` is a text with blanks (RFC 8693, 4.2), `scp` a list or a text; ours begin with `classy:`."""
    said: list[str] = []
    for given in (claims.get("scope"), claims.get("scp")):
        if isinstance(given, str):
            said += given.split()
        elif isinstance(given, list):
            said += [entry for entry in given if isinstance(entry, str)]
    return frozenset(name for name in SCOPES if f"classy:{name}" in said)
