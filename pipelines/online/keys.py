"""API keys in Classy's own tables, and the server's gate made from the settings."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from monitoring import keys as table
from monitoring.stores import Store, open_store
from pipelines.errors import ClassyError
from pipelines.settings import Settings
from serving.access.gate import KeyGate, OpenGate
from serving.access.jwks import Jwks
from serving.access.keys import PREFIX, SCOPES, Key, new_key, same_secret, split_key
from serving.access.rates import Rates, parse_rate
from serving.access.tokens import Tokens

WHOLE_S = 60.0
"""All keys are read anew this often, should somebody have changed one by hand."""
LOCAL = "local"
LOCAL_SCOPES = ("infer", "truth", "metrics")
LONGEST_NAME = 80
MOST_DAYS = 3650


class SqlKeys:
    """The server's view of the keys: `serving.access.keys.KeyStore`."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock

    @cached_property
    def _store(self) -> Store:
        # Not before it is asked: a server starts while its database is away, and is ready when it is back.
        return open_store(self._url)

    def read(self, known: str) -> tuple[str, Sequence[Key]] | None:
        state = f"{table.key_state(self._store)} {self._clock() // WHOLE_S:.0f}"
        if state == known:
            return None
        return state, [_key(row) for row in table.keys(self._store)]

    def usage(self, day: str) -> Mapping[str, int]:
        return table.usage(self._store, day)

    def add_usage(self, rows: Iterable[tuple[str, str, int]]) -> None:
        table.add_usage(self._store, rows)


def _key(row: Mapping[str, Any]) -> Key:
    return Key(
        key_id=row["key_id"],
        name=row["name"],
        secret_hash=row["secret_hash"],
        scopes=frozenset(row["scopes"]),
        rate=row["rate"],
        daily_quota=row["daily_quota"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )


def make_gate(settings: Settings, *, workers: int | None = None) -> KeyGate | OpenGate:
    """The gate of one worker. Start it before the first request, stop it after the last.

    Raises:
        ClassyError: a setting does not fit.
    """
    if settings.auth == "off":
        return OpenGate()
    try:
        rates = Rates(settings.limits_url, workers=workers or settings.workers)
    except ValueError as error:
        raise ClassyError(f"CLASSY_LIMITS_URL: {error}") from error
    return KeyGate(SqlKeys(settings.database_url), tokens=_tokens(settings), rates=rates)


def _tokens(settings: Settings) -> Tokens | None:
    if not settings.jwt_issuer:
        return None
    if not settings.jwt_jwks:
        raise ClassyError("CLASSY_JWT_JWKS: is empty; with CLASSY_JWT_ISSUER set, name the URL or file of its keys")
    if not settings.jwt_audience:
        raise ClassyError("CLASSY_JWT_AUDIENCE: is empty; name what a token must be meant for, such as classy")
    try:
        return Tokens(settings.jwt_issuer, settings.jwt_audience, Jwks(settings.jwt_jwks))
    except ValueError as error:
        raise ClassyError(f"CLASSY_JWT_JWKS: {error}") from error


# ------------------------------------------------------------------------------------------------ for people


@dataclass(frozen=True, kw_only=True, slots=True)
class Created:
    """A new key. `key` is nowhere else: whoever loses it makes another."""

    key: str
    key_id: str
    name: str
    scopes: list[str]
    rate: str | None
    daily_quota: int | None
    expires_at: datetime | None

    def __repr__(self) -> str:
        return f"Created(key_id={self.key_id!r}, name={self.name!r})"


def create(
    settings: Settings,
    *,
    name: str,
    scopes: Sequence[str],
    now: datetime,
    rate: str | None = None,
    daily_quota: int | None = None,
    expires_days: int | None = None,
) -> Created:
    """Make a key.

    Raises:
        ClassyError: a value does not fit; the message names the option.
    """
    _check(name, scopes, rate, daily_quota, expires_days)
    key, key_id, secret_hash = new_key()
    row = {
        "key_id": key_id,
        "name": name,
        "secret_hash": secret_hash,
        "scopes": [scope for scope in SCOPES if scope in scopes],
        "rate": rate,
        "daily_quota": daily_quota,
        "created_by": settings.actor,
        "created_at": now,
        "expires_at": None if expires_days is None else now + timedelta(days=expires_days),
        "revoked_at": None,
    }
    table.add_key(open_store(settings.database_url), row)
    shown = {field: row[field] for field in ("name", "scopes", "rate", "daily_quota", "expires_at")}
    return Created(key=key, key_id=key_id, **shown)  # type: ignore[arg-type]


def _check(
    name: str, scopes: Sequence[str], rate: str | None, daily_quota: int | None, expires_days: int | None
) -> None:
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ClassyError(f"--name {name!r}: must be 1 to {LONGEST_NAME} letters; say who will use the key")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ClassyError(f"--scope {unknown[0]!r}: there is no such scope; there are {', '.join(SCOPES)}")
    if not scopes:
        raise ClassyError(f"--scope: a key needs one; there are {', '.join(SCOPES)}")
    if rate is not None:
        try:
            parse_rate(rate)
        except ValueError as error:
            raise ClassyError(f"--rate {error}") from error
    if daily_quota is not None and not 1 <= daily_quota <= 2_147_483_647:
        raise ClassyError(f"--daily-quota {daily_quota}: must be 1 or more photos; leave it out for no bound")
    if expires_days is not None and not 1 <= expires_days <= MOST_DAYS:
        raise ClassyError(f"--expires-days {expires_days}: must be 1 to {MOST_DAYS}; leave it out for never")


def listed(settings: Settings, *, now: datetime) -> list[dict[str, Any]]:
    """Every key, without anything secret: state is active, expired or revoked; `today` is photos of this day (UTC)."""
    store = open_store(settings.database_url)
    used = table.usage(store, now.astimezone(UTC).date().isoformat())
    return [
        {
            "key_id": row["key_id"],
            "name": row["name"],
            "state": _state(row, now),
            "scopes": row["scopes"],
            "rate": row["rate"],
            "daily_quota": row["daily_quota"],
            "today": used.get(row["key_id"], 0),
            "expires_at": row["expires_at"],
            "created_at": row["created_at"],
            "created_by": row["created_by"],
        }
        for row in table.keys(store)
    ]


def _state(row: Mapping[str, Any], now: datetime) -> str:
    if row["revoked_at"] is not None:
        return "revoked"
    return "expired" if row["expires_at"] is not None and row["expires_at"] <= now else "active"


def revoke(settings: Settings, key_id: str, *, now: datetime) -> dict[str, Any]:
    """Revoke a key; running servers refuse it within seconds. Again changes nothing.

    Raises:
        ClassyError: there is no such key.
    """
    if key_id.startswith(PREFIX):  # the key itself was given: its id is enough, and its secret is not to be shown
        key_id = key_id.removeprefix(PREFIX).partition("_")[0]
    if not table.revoke_key(open_store(settings.database_url), key_id, now):
        raise ClassyError(f"key {key_id[:40]!r}: there is no such key; `classy keys list` shows which there are")
    return {"key_id": key_id, "state": "revoked"}


# ---------------------------------------------------------------------------------------------- this machine


def local_key_file(settings: Settings) -> Path:
    """Where the key of whoever owns this machine's HOME is."""
    return settings.home / "serving" / "local.key"


def read_local_key(settings: Settings) -> str | None:
    """The local key as it stands in its file, or None; `classy predict` shows it."""
    try:
        return local_key_file(settings).read_text(encoding="ascii").strip() or None
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def first_key(settings: Settings, *, now: datetime | None = None) -> str | None:
    """The key named `local`, for clients on this machine: made once, kept in a file that only its owner reads.

    A key that was revoked, or that the database does not know, is replaced. None where access control is off.
    """
    if settings.auth == "off":
        return None
    now = now or datetime.now(UTC)
    found = read_local_key(settings)
    if found is not None and _is_good(settings, found, now):
        local_key_file(settings).chmod(0o600)
        return found
    made = create(settings, name=LOCAL, scopes=LOCAL_SCOPES, now=now)
    _keep(local_key_file(settings), made.key)
    return made.key


def _is_good(settings: Settings, text: str, now: datetime) -> bool:
    parts = split_key(text)
    if parts is None:
        return False
    rows = [row for row in table.keys(open_store(settings.database_url)) if row["key_id"] == parts[0]]
    return bool(rows) and same_secret(parts[1], rows[0]["secret_hash"]) and _state(rows[0], now) == "active"


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    # Its mode from the first moment: a file that is narrowed later was readable until then.
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
        opened.write(f"{text}\n")
    part.replace(file)
