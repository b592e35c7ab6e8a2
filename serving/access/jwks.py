"""An issuer's public keys (JWKS, RFC 7517), from a URL or a file.

Read when first needed, again when they are old, and when a token names a key that is not among them; never more often
than a back-off allows, so that bad tokens cannot make the server fetch.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from serving.problems import Problem

LOG = logging.getLogger(__name__)
MAX_BYTES = 262_144
FETCH_S = 5.0
OLD_S = 600.0
"""Keys are read again after this: a key that the issuer withdrew is no longer taken."""
TRUSTED_S = 86_400.0
"""How long known keys are taken while the issuer is away."""
BACK_OFF_S = 15.0
MOST_KEYS = 100
RSA_BITS = 2048
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = frozenset({*RSA_ALGORITHMS, *CURVES.values()})
"""Signatures by a private key, and nothing else."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    kid: str
    key: Any
    """As the library cryptography has it."""
    algorithms: tuple[str, ...]


class Jwks:
    """The keys of one issuer.

    Args:
        source: an https URL (http only to this machine), or a file.
    """

    def __init__(
        self,
        source: str,
        *,
        back_off_s: float = BACK_OFF_S,
        old_s: float = OLD_S,
        trusted_s: float = TRUSTED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = check_source(source)
        self._back_off_s, self._old_s, self._trusted_s, self._clock = back_off_s, old_s, trusted_s, clock
        self._keys: dict[str, PublicKey] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self.edition = 0
        """Counts the changes: what was verified with an older edition is verified again."""
        self.fetches = 0

    async def find(self, kid: str | None) -> PublicKey | None:
        """The key of this name; without a name, the only key there is. None: there is no such key.

        Raises:
            Problem: 503, the keys cannot be read.
        """
        if self._read_at is None:
            await self._read()
        if self._read_at is None or self._clock() - self._read_at > self._trusted_s:
            raise Problem(
                "unavailable", "tokens cannot be checked: the issuer's keys cannot be read", detail="jwks_away",
                retry_after=self._back_off_s,
            )  # fmt: skip
        found = self._pick(kid)
        if found is None and kid is not None:
            await self._read()
            found = self._pick(kid)
        return found

    def keep_fresh(self) -> None:
        """Read old keys again, in the background: they are good enough until then. Called for every token, so that
        one that is remembered does not outlive its key by more than this."""
        if self._read_at is not None and self._clock() - self._read_at > self._old_s:
            self._begin()

    def _pick(self, kid: str | None) -> PublicKey | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _begin(self) -> None:
        """Start reading, unless it is too early for another try."""
        if self._reading is None or self._reading.done():
            now = self._clock()
            if self._tried_at is None or now - self._tried_at >= self._back_off_s:
                self._tried_at = now
                self._reading = asyncio.get_running_loop().create_task(self._refresh())

    async def _read(self) -> None:
        """Read once for all who wait. One waiter that is cancelled does not stop it."""
        self._begin()
        if self._reading is not None:
            await asyncio.shield(self._reading)

    async def _refresh(self) -> None:
        self.fetches += 1
        try:
            content = await asyncio.wait_for(self._content(), FETCH_S)
            keys = read_keys(content)
        except (OSError, httpx.HTTPError, TimeoutError, ValueError) as error:
            LOG.warning("JWKS %s: cannot be read: %s", self.source, error or type(error).__name__)
            return
        if keys != self._keys:
            self._keys = keys
            self.edition += 1
        self._read_at = self._clock()

    async def _content(self) -> bytes:
        if "://" not in self.source:
            return await asyncio.to_thread(_file, Path(self.source))
        # No redirects and no proxies: the address is the operator's, and stays it.
        async with (
            httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=FETCH_S) as client,
            client.stream("GET", self.source, headers={"Accept": "application/json"}) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"answers with status {answer.status_code}")
            content = b""
            async for part in answer.aiter_bytes(16_384):
                content += part
                if len(content) > MAX_BYTES:
                    raise ValueError(f"has more than {MAX_BYTES} bytes")
            return content


def check_source(source: str) -> str:
    """The source, if it is a file's path or a URL that may be trusted.

    Raises:
        ValueError: another scheme, or plain http over a network.
    """
    parts = urlsplit(source)
    if "://" not in source or parts.scheme == "https":
        return source
    if parts.scheme == "http" and _is_here(parts.hostname or ""):
        return source
    raise ValueError(
        f"{source!r} is neither an https:// URL nor a file: who can change keys on their way is the issuer"
    )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _file(path: Path) -> bytes:
    with path.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES} bytes")
    return content


def read_keys(content: bytes) -> dict[str, PublicKey]:
    """The keys that may sign tokens, by name; others are passed over.

    Raises:
        ValueError: no JSON, not of this form, or without a usable key.
    """
    document = orjson.loads(content)
    given = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(given, list) or len(given) > MOST_KEYS:
        raise ValueError(f"is no JSON web key set: it needs a list `keys` of at most {MOST_KEYS}")
    found = [key for entry in given if isinstance(entry, dict) and (key := _usable(entry)) is not None]
    if not found:
        raise ValueError(f"has no key that may sign; {', '.join(sorted(ALGORITHMS))} are taken")
    return {key.kid: key for key in found}


def _usable(entry: dict[str, Any]) -> PublicKey | None:
    if entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    algorithms = _algorithms(entry)
    kid = entry.get("kid", "")
    if not algorithms or not isinstance(kid, str):
        return None
    try:
        key = jwt.PyJWK(entry, algorithms[0]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        LOG.warning("JWKS: key %r is malformed and is passed over", kid[:40])
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS:
        LOG.warning("JWKS: key %r has %d bits and is passed over; %d are needed", kid[:40], key.key_size, RSA_BITS)
        return None
    return PublicKey(kid, key, algorithms)


def _algorithms(entry: dict[str, Any]) -> tuple[str, ...]:
    fits: Sequence[str] = RSA_ALGORITHMS if entry["kty"] == "RSA" else (CURVES.get(str(entry.get("crv")), ""),)
    said = entry.get("alg")
    return tuple(name for name in fits if name in ALGORITHMS and said in (None, name))
