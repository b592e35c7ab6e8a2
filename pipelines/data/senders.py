"""The newest profile of senders, read from Feast's online store.

Feast's `get_online_features` resolves names and runs transforms anew for every call (0.15 ms and more); below it is
`online_read`, which every online store of Feast has (SQLite, Redis, PostgreSQL, …), and which is asked here.
"""

import functools
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from feast import FeatureStore, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.infra.passthrough_provider import PassthroughProvider
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64

from feature_repo.definitions import PROFILE

VIEW = "source_profile"
KEYS = 50_000
"""Senders whose key in the store is kept in memory: to make one takes as long as to read its profile."""
NOTHING: dict[str, object] = dict.fromkeys(PROFILE)
"""The profile of a sender that nobody knows, as `feature_repo.definitions.context` takes it."""

_LIST = "float_list_val"
_TYPES: dict[Any, str] = {Int64: "int64_val", Float64: "double_val"}
_FIELDS = {name: _TYPES.get(dtype, _LIST) for name, dtype in PROFILE.items()}
"""Which field of Feast's Value holds a feature; to ask each value for it (`WhichOneof`) takes longer than reading."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the online store says of one sender."""

    seconds: float
    """When it was available, seconds since 1970."""
    values: dict[str, object]
    """By the names of PROFILE."""

    def at(self, at: datetime, max_age: timedelta) -> dict[str, object]:
        """The values, or NOTHING where the profile is too old at `at`: Feast does not look at `ttl` here (#6821)."""
        return self.values if self.seconds >= (at - max_age).timestamp() else NOTHING


class ProfileReader:
    """Reads profiles. May be asked by several threads; they take turns, as not every store can do several at once."""

    def __init__(self, store: FeatureStore) -> None:
        self._config = store.config
        self._view: FeatureView = store.get_feature_view(VIEW)
        self._online = _online_store(store.config)
        self._lock = threading.Lock()

    def read(self, senders: Sequence[str]) -> dict[str, Profile]:
        """The profiles of those of these senders (each once) that are known.

        Raises:
            Exception: whatever the store raises that cannot be read; each has its own kinds.
        """
        if isinstance(self._online, _LeanSqlite):
            with self._lock:
                return self._online.profiles(self._config, self._view, senders)
        keys = [_key(sender) for sender in senders]
        with self._lock:
            rows = self._online.online_read(self._config, self._view, keys, list(PROFILE))
        found = {}
        for sender, (time, values) in zip(senders, rows, strict=True):
            # A profile of which some features are not there yet is not there yet.
            if time is None or values is None or not values.keys() >= PROFILE.keys():
                continue
            if not values["photos"].WhichOneof("val"):
                continue
            seconds = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
            found[sender] = Profile(seconds, {name: _plain(values[name], _FIELDS[name]) for name in PROFILE})
        return found


@functools.lru_cache(maxsize=KEYS)
def _key(sender: str) -> EntityKey:
    return EntityKey(join_keys=["source_id"], entity_values=[Value(string_val=sender)])


@functools.lru_cache(maxsize=KEYS)
def _serialized(sender: str, version: int) -> bytes:
    return serialize_entity_key(_key(sender), version)


def _plain(value: Value, kind: str) -> object:
    given = getattr(value, kind)
    return list(given.val) if kind == _LIST else given


def _online_store(config: RepoConfig) -> OnlineStore:
    # A store of our own, not the handle's: that one may be busy with a materialization in another thread.
    online = PassthroughProvider(config).online_store
    return _LeanSqlite() if type(online) is SqliteOnlineStore else online


class _LeanSqlite(SqliteOnlineStore):
    """Feast's SQLite store, read without what Feast's own read does for nobody: it decodes every feature of the view,
    whichever were asked for, and makes a datetime for each."""

    _select: str | None = None

    def profiles(self, config: RepoConfig, view: FeatureView, senders: Sequence[str]) -> dict[str, Profile]:
        """What `ProfileReader.read` gives."""
        version = config.entity_key_serialization_version
        keys = {_serialized(sender, version): sender for sender in senders}
        if self._select is None:
            # An expression, as a bare event_ts would be turned into a datetime in every row. Feast writes seconds, but
            # text in a process where pandas wrote to SQLite before: both set how sqlite3 writes a datetime.
            when = "CASE typeof(event_ts) WHEN 'text' THEN strftime('%s', event_ts)+0 ELSE event_ts+0 END"
            self._select = f"SELECT entity_key, feature_name, value, {when} FROM {_quoted(config, view)}"  # noqa: S608
        connection: sqlite3.Connection = self._get_conn(config)
        rows: list[tuple[bytes, str, bytes, int]] = connection.execute(
            f"{self._select} WHERE entity_key IN (?{',?' * (len(keys) - 1)}) ORDER BY entity_key", list(keys)
        ).fetchall()
        found: dict[str, Profile] = {}
        last, values = b"", dict[str, object]()
        decode = Value.FromString
        for key, name, data, seconds in rows:
            if key != last:
                last, values = key, {}
                found[keys[key]] = Profile(seconds, values)
            field = _FIELDS.get(name)
            if field is not None and data:  # no bytes are no value
                values[name] = _plain(decode(data), field)
        return {sender: profile for sender, profile in found.items() if len(profile.values) == len(PROFILE)}


def _quoted(config: RepoConfig, table: FeatureView) -> str:
    name = compute_table_id(config.project, table, config.registry.enable_online_feature_view_versioning)
    return '"' + name.replace('"', '""') + '"'
