"""A gate with keys in memory, for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import pytest

from serving.access.gate import KeyGate
from serving.access.keys import Key, KeyStore, new_key
from serving.problems import Problem

POLL_S = 0.02
SCOPES = ("infer", "truth", "admin", "metrics")


class Store:
    """Keys in memory; `away` makes every call fail, as a database that does not answer."""

    def __init__(self) -> None:
        self.rows: dict[str, Key] = {}
        self.edition = 0
        self.away = False
        self.used: dict[tuple[str, str], int] = {}
        self.reads = 0

    def add(self, scopes: Sequence[str] = ("infer",), **given: Any) -> str:
        text, key_id, secret_hash = new_key()
        self.rows[key_id] = Key(key_id=key_id, name="shop", secret_hash=secret_hash, scopes=frozenset(scopes), **given)
        self.edition += 1
        return text

    def read(self, known: str) -> tuple[str, Sequence[Key]] | None:
        self._answer()
        self.reads += 1
        return None if known == str(self.edition) else (str(self.edition), list(self.rows.values()))

    def usage(self, day: str) -> Mapping[str, int]:
        self._answer()
        return {key_id: photos for (key_id, when), photos in self.used.items() if when == day}

    def add_usage(self, rows: Iterable[tuple[str, str, int]]) -> None:
        self._answer()
        for key_id, day, photos in rows:
            self.used[key_id, day] = self.used.get((key_id, day), 0) + photos

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError("the database is away")


@contextlib.asynccontextmanager
async def opened(store: KeyStore, **given: Any) -> AsyncIterator[KeyGate]:
    gate = KeyGate(store, **{"poll_s": POLL_S, **given})
    await gate.start()
    try:
        yield gate
    finally:
        await gate.stop()


async def refusal(gate: KeyGate, credentials: str | None, scope: str = "infer", **given: Any) -> Problem:
    with pytest.raises(Problem) as error:
        await gate.admit(credentials, scope=scope, **given)
    return error.value


async def until(check: Any) -> None:
    """Wait for the keys' own thread: it has no other sign than what it changes."""
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(POLL_S)
