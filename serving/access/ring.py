"""The keys that a process knows, and what each has used: read and written by one thread, every two seconds.

A request never waits for the database, and a key that nobody made never reaches it. While the database is away the
known keys go on for a bounded time.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from serving.access.keys import Key, KeyStore
from serving.access.rates import Rate
from serving.components.base import Identity
from serving.problems import Problem

LOG = logging.getLogger(__name__)
POLL_S = 2.0
"""A key that is made or revoked is seen after at most this, and use is shared this often."""
TRUSTED_S = 900.0
"""How long known keys are taken while the database is away."""


@dataclass(frozen=True, slots=True)
class Known:
    """A key, with what a request needs of it made ready."""

    key: Key
    identity: Identity
    rate: Rate | None


class KeyRing:
    """Keys by id, and photos of today by key.

    Args:
        ready: reads a rate (`Rates.rate`).
        clock: the day and the expiry are told by it.
    """

    def __init__(
        self,
        store: KeyStore,
        ready: Callable[[str], Rate],
        *,
        poll_s: float = POLL_S,
        trusted_s: float = TRUSTED_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._ready, self.clock = store, ready, clock
        self._poll_s, self._trusted_s = poll_s, trusted_s
        self._known: dict[str, Known] = {}
        self._mark = ""
        self._read_at: float | None = None
        self._lock = threading.Lock()
        self._day = ""
        self._used: dict[str, int] = {}
        self._owed: dict[tuple[str, str], int] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False

    # ------------------------------------------------------------------------------------------- requests

    def find(self, key_id: str) -> Known | None:
        """The key of this id.

        Raises:
            Problem: 503, the keys were not read for too long.
        """
        if self._read_at is None or time.monotonic() - self._read_at > self._trusted_s:
            raise Problem(
                "unavailable", "API keys cannot be checked: their database is away; try again", detail="keys_away",
                retry_after=self._poll_s,
            )  # fmt: skip
        return self._known.get(key_id)

    def use(self, key: Key, photos: int) -> bool:
        """Count photos against the key's day. False, and nothing counted, where they exceed its quota."""
        day = self.clock().date().isoformat()
        with self._lock:
            if day != self._day:
                self._day, self._used = day, {}
            used = self._used.get(key.key_id, 0)
            if key.daily_quota is not None and used + photos > key.daily_quota:
                return False
            self._used[key.key_id] = used + photos
            self._owed[key.key_id, day] = self._owed.get((key.key_id, day), 0) + photos
        return True

    def used(self, key_id: str) -> int:
        return self._used.get(key_id, 0)

    @property
    def count(self) -> int:
        return len(self._known)

    @property
    def age_s(self) -> float:
        """Seconds since the keys were last read."""
        return float("inf") if self._read_at is None else time.monotonic() - self._read_at

    # --------------------------------------------------------------------------------------------- thread

    def start(self) -> None:
        """Read the keys, and begin to follow them. Blocking; a database that is away is tried again."""
        if self._thread is None:
            self._over.clear()
            self.turn()
            self._thread = threading.Thread(target=self._follow, name="classy-keys", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Write what is owed, and follow no more. Blocking."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.turn()

    def _follow(self) -> None:
        while not self._over.wait(self._poll_s):
            self.turn()

    def turn(self) -> None:
        """One turn: write use, read the others' use and the keys. What fails is said once and tried again."""
        try:
            self._read()
            self._share_use()
        except Exception as error:  # noqa: BLE001 - a thread that ends would leave revoked keys alive in silence
            if not self._failing:
                LOG.warning("API keys: %s: %s", type(error).__name__, error)
            self._failing = True
        else:
            self._failing = False

    def _read(self) -> None:
        found = self._store.read(self._mark)
        if found is not None:
            self._mark = found[0]
            known = (self._make_ready(key) for key in found[1])
            self._known = {each.key.key_id: each for each in known if each is not None}
        self._read_at = time.monotonic()

    def _make_ready(self, key: Key) -> Known | None:
        identity = Identity(subject=key.name, scopes=key.scopes, key_id=key.key_id)
        try:
            return Known(key, identity, self._ready(key.rate) if key.rate else None)
        except ValueError as error:  # somebody wrote it by hand: without its bound the key is not let in
            LOG.warning("API key %s: refused: its rate %s", key.key_id, error)
            return None

    def _share_use(self) -> None:
        day = self.clock().date().isoformat()
        with self._lock:
            owed, self._owed = self._owed, {}
        try:
            if owed:
                self._store.add_usage([(key_id, when, photos) for (key_id, when), photos in owed.items()])
        except BaseException:
            with self._lock:
                for name, photos in owed.items():
                    self._owed[name] = self._owed.get(name, 0) + photos
            raise
        if not any(known.key.daily_quota is not None for known in self._known.values()):
            return
        shared = dict(self._store.usage(day))
        with self._lock:
            for (key_id, when), photos in self._owed.items():
                if when == day:
                    shared[key_id] = shared.get(key_id, 0) + photos
            if day == self.clock().date().isoformat():
                self._day, self._used = day, shared


def until_midnight(now: datetime) -> float:
    """Seconds to the next day (UTC), when quotas begin anew."""
    tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (tomorrow - now).total_seconds()
