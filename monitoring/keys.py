"""API keys and what they used, in the tables `api_keys` and `key_usage`."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from monitoring.stores import Store
from monitoring.tables import api_keys, key_usage


def add_key(store: Store, row: Mapping[str, Any]) -> None:
    """A new key, with every column of `api_keys`."""
    with store.engine.begin() as connection:
        connection.execute(api_keys.insert().values(**row))


def keys(store: Store) -> list[dict[str, Any]]:
    """Every key, oldest first, revoked ones too."""
    with store.engine.connect() as connection:
        ordered = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.key_id)
        return [dict(row) for row in connection.execute(ordered).mappings()]


def key_state(store: Store) -> str:
    """A short text that changes when a key is made or revoked."""
    asked = select(func.count(), func.count(api_keys.c.revoked_at), func.max(api_keys.c.created_at)).select_from(
        api_keys
    )
    with store.engine.connect() as connection:
        return " ".join(str(value) for value in connection.execute(asked).one())


def revoke_key(store: Store, key_id: str, at: datetime) -> bool:
    """Revoke a key; the first time stays. False: there is no such key."""
    with store.engine.begin() as connection:
        if connection.execute(select(api_keys.c.key_id).where(api_keys.c.key_id == key_id)).first() is None:
            return False
        fresh = update(api_keys).where(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        connection.execute(fresh.values(revoked_at=at))
    return True


def add_usage(store: Store, rows: Iterable[tuple[str, str, int]]) -> None:
    """Add photos to a key's day: (key_id, day, photos). Several processes may add at once."""
    # In one order everywhere: two processes that lock rows crosswise would wait for each other.
    values = [{"key_id": key_id, "day": day, "photos": photos} for key_id, day, photos in sorted(rows)]
    if not values:
        return
    insert = postgresql.insert if store.engine.dialect.name == "postgresql" else sqlite.insert
    statement = insert(key_usage)
    added = statement.on_conflict_do_update(
        index_elements=["key_id", "day"], set_={"photos": key_usage.c.photos + statement.excluded.photos}
    )
    with store.engine.begin() as connection:
        connection.execute(added, values)


def usage(store: Store, day: str) -> dict[str, int]:
    """Photos of each key on a day (UTC, `2026-03-01`)."""
    asked = select(key_usage.c.key_id, key_usage.c.photos).where(key_usage.c.day == day)
    with store.engine.connect() as connection:
        return {row.key_id: row.photos for row in connection.execute(asked)}
