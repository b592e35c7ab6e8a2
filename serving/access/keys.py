"""API keys: how one looks, is made, and is checked.

`classy_<key_id>_<secret>`: the id is public (it stands in tables and logs), the secret is 33 random letters and digits
(196 bits) and a checksum of 6, so that a key that was copied in part is told from a wrong one without asking anybody.

Kept is the SHA-256 of the secret. A slow hash (bcrypt, argon2) protects secrets that people choose, because there are
few of them to try; 2**196 random ones cannot be tried at any speed, and a slow hash would only let a stranger make
the server work (OWASP Password Storage Cheat Sheet; NIST SP 800-63B 5.1.1.2 asks it of memorised secrets alone).
"""

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

PREFIX = "classy_"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
ID_LETTERS = 12
SECRET_LETTERS = 33
CHECK_LETTERS = 6
LENGTH = len(PREFIX) + ID_LETTERS + 1 + SECRET_LETTERS + CHECK_LETTERS
SCOPES = ("infer", "truth", "admin", "metrics")


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What the server knows of a key."""

    key_id: str
    name: str
    secret_hash: str
    """SHA-256 of the secret, hex."""
    scopes: frozenset[str]
    rate: str | None = None
    """Such as `100/second` or `5000/10 minutes`, in photos; None: no bound."""
    daily_quota: int | None = None
    """Photos of a day (UTC); None: no bound."""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class KeyStore(Protocol):
    """Where keys are kept. Every call may block and is made in a thread of the gate's own."""

    def read(self, known: str) -> tuple[str, Sequence[Key]] | None:
        """All keys and a mark of their state; None when the state is still `known`."""

    def usage(self, day: str) -> Mapping[str, int]:
        """Photos of each key on a day (UTC, `2026-03-01`), over all processes."""

    def add_usage(self, rows: Iterable[tuple[str, str, int]]) -> None:
        """Add (key_id, day, photos)."""


def new_key() -> tuple[str, str, str]:
    """A new key: its text (shown once), its id, and what is kept of its secret."""
    key_id = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LETTERS))
    secret = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LETTERS))
    secret += _check(key_id, secret)
    return f"{PREFIX}{key_id}_{secret}", key_id, hash_secret(secret)


def split_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a well-formed key, or None: another form, or its checksum does not fit."""
    if len(text) != LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return None
    key_id, _, secret = text[len(PREFIX) :].partition("_")
    if len(key_id) != ID_LETTERS or _check(key_id, secret[:SECRET_LETTERS]) != secret[SECRET_LETTERS:]:
        return None
    return key_id, secret


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def same_secret(secret: str, kept: str) -> bool:
    """Whether a secret is the one that was kept, in a time that does not tell how much of it fits."""
    return hmac.compare_digest(hash_secret(secret), kept)


def _check(key_id: str, secret: str) -> str:
    """CRC-32 in base 62: finds slips of the hand, and is no secret."""
    number = zlib.crc32(f"{key_id}_{secret}".encode())
    letters = ""
    for _ in range(CHECK_LETTERS):
        number, digit = divmod(number, len(ALPHABET))
        letters = ALPHABET[digit] + letters
    return letters
