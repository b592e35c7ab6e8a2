"""The prediction log: every answer into `predictions`, without a request ever waiting for the database.

    write(rows) ─▶ memory ─▶ file (HOME/serving/spool) ─▶ database

`write` only puts rows into a bounded queue. Every `FLUSH_S` one thread appends them to a file, another takes them from
there to the database. So a row is safe from a kill of the process within `FLUSH_S` and the time of the append, and
there is one way for rows whether the database is there or away: away, the file grows; back, it is taken in order.
A row that comes twice, as after a kill, is known by its prediction_id.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from monitoring.bulk import insert_lines, line_of
from monitoring.stores import Store, StoreError, open_store
from pipelines.online.spool import MAX_BYTES, Spool, SpoolFull
from pipelines.settings import Settings

LOG = logging.getLogger(__name__)
FLUSH_S = 0.05
"""How long rows are in memory alone; more, by an append, when the disk is slow."""
GATHER_S = 0.25
"""How long rows gather in the file before they go to the database together: a commit costs as much as some rows."""
QUEUE = 20_000
"""Rows in memory: about 1 KB each."""
BATCH_BYTES = 500_000
"""Of one insert: about 500 rows."""
LOOSE_BATCH = 500
WAIT_S = 2.0
"""How long an insert waits for another writer before the rows stay in the file for another try."""
AGAIN_S = (0.2, 5.0)
"""Pause after the first failure of the database, and the longest, after doubling."""
ORPHANS_S = 10.0
"""How often it is looked for files of processes that have died."""
SAY_S = 10.0
"""How often what is lost is said, at most."""


class SqlLog:
    """A `serving.seams.PredictionLog` on Classy's database. `start` it in the process that uses it.

    Args:
        worker: this process's number among several, for whoever looks at the threads.
        queue, spool_bytes: bounds in memory (rows) and on disk; tests make them small.
    """

    def __init__(
        self, settings: Settings, *, worker: int = 0, queue: int = QUEUE, spool_bytes: int = MAX_BYTES
    ) -> None:
        self._url = _patient(settings.database_url)
        self._root = Path(settings.home) / "serving" / "spool"
        self._worker = worker
        self._max_queue = queue
        self._spool_bytes = spool_bytes
        self._queue: deque[Mapping[str, Any]] = deque()
        self._loose: list[bytes] = []
        self._spool: Spool | None = None
        self._orphans: list[Spool] = []
        self._counts = dict.fromkeys(("written", "spooled", "replayed", "shed", "refused", "torn"), 0)
        self._appended = self._taken = self._spooled_until = 0
        self._accepted = self._settled = 0
        self._away = ""
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._flushed = threading.Event()
        self._hurry = threading.Event()
        self._until = float("inf")
        self._said, self._told = -SAY_S, 0
        self._file_lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._store: Store | None = None
        self._connection: Connection | None = None
        self._inode = 0

    # ------------------------------------------------------------------------------------------ from outside

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take rows of `predictions`. Never waits for a disk or a database; what finds no room is counted as shed.

        Times are aware. `probabilities` and `context` may be numpy arrays, which are cheapest.
        """
        with self._changed:
            room = self._max_queue - len(self._queue)
            self._queue.extend(rows if len(rows) <= room else rows[:room])
            if len(rows) > room:
                self._counts["shed"] += len(rows) - room
                rows = rows[:room]
            self._accepted += len(rows)

    def counters(self) -> dict[str, int]:
        """Since the start, in rows.

        written: in the database, at once. spooled: had to wait on disk because the database was away. replayed: of
        these, and of processes that died, in the database since. shed: lost for want of room. refused: lost because
        the database does not take them. torn: lost in a file by a kill or a bad disk. queue: on the way.
        """
        with self._changed:
            return {**self._counts, "queue": self._accepted - self._settled}

    @property
    def away(self) -> str:
        """Why the database does not take rows just now; empty when it does."""
        return self._away

    def flush(self, timeout: float) -> bool:
        """Wait until what was written so far is in the database, or is lost; False when it is not by then."""
        self._hurry.set()
        with self._changed:
            wanted = self._accepted
            done = self._changed.wait_for(lambda: self._settled >= wanted, timeout)
        self._hurry.clear()
        return done

    def start(self) -> None:
        """Start the two threads."""
        self._threads = [
            threading.Thread(target=self._run_files, name=f"log-files-{self._worker}", daemon=True),
            threading.Thread(target=self._run_database, name=f"log-database-{self._worker}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Bring what is on the way into the database, for `timeout` seconds; the rest stays in the file for the next
        process."""
        self._until = time.monotonic() + timeout
        self._ending.set()
        self._hurry.set()
        for thread in self._threads:
            thread.join()
        for spool in (self._spool, *self._orphans):
            if spool is not None:
                spool.close()
        self._spool, self._orphans, self._threads = None, [], []
        if self._loose:
            self._counts["shed"] += len(self._loose)
            LOG.error("prediction log: %d rows that found no room on disk are lost", len(self._loose))

    # ------------------------------------------------------------------------------------- memory to file

    def _run_files(self) -> None:
        while not self._ending.wait(FLUSH_S):
            self._append()
        self._append()
        self._flushed.set()
        with self._changed:
            self._changed.notify_all()

    def _append(self) -> None:
        with self._changed:
            rows = list(self._queue)
            self._queue.clear()
            shed = self._counts["shed"]
        lines = self._lines(rows)
        if lines:
            try:
                with self._file_lock:
                    if self._spool is None:
                        self._spool = Spool.create(self._root, max_bytes=self._spool_bytes)
                    self._spool.append(lines, sync=bool(self._away))
                    self._count_appended(len(lines))
            except (OSError, SpoolFull) as error:
                self._without_file(lines, error)
        if shed > self._told and time.monotonic() > self._said + SAY_S:
            self._told, self._said = shed, time.monotonic()
            LOG.error("prediction log: no room for %d rows so far, they are lost; %s", shed, self._away or "too many")

    def _lines(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes]:
        lines = []
        for row in rows:
            try:
                lines.append(line_of(row))
            except (TypeError, ValueError) as error:
                self._refuse(str(error), str(row.get("prediction_id")))
                self._settle(1)
        return lines

    def _count_appended(self, rows: int) -> None:
        with self._changed:
            self._appended += rows
            if self._away:
                self._mark_spooled()
            self._changed.notify_all()

    def _without_file(self, lines: list[bytes], error: Exception) -> None:
        """Keep them for the database in memory, as far as there is room."""
        with self._changed:
            room = max(0, self._max_queue - len(self._loose))
            self._loose += lines[:room]
            lost = max(0, len(lines) - room)
            self._counts["shed"] += lost
        self._settle(lost)
        if time.monotonic() > self._said + SAY_S:
            self._said = time.monotonic()
            LOG.error("prediction log: no room on disk (%s); %d rows are in memory alone", error, len(self._loose))

    def _mark_spooled(self) -> None:
        """What is on disk now had to wait there."""
        self._counts["spooled"] += self._appended - max(self._spooled_until, self._taken)
        self._spooled_until = self._appended

    # ----------------------------------------------------------------------------------- file to database

    def _run_database(self) -> None:
        pause, looked = AGAIN_S[0], 0.0
        while not self._is_over():
            try:
                if time.monotonic() >= looked:
                    looked = time.monotonic() + ORPHANS_S
                    self._orphans += Spool.orphans(self._root)
                moved = self._move()
            except (DBAPIError, StoreError, OSError) as error:
                self._fail(error)
                if self._ending.wait(pause):
                    break  # the rest is for the next process
                pause = min(2 * pause, AGAIN_S[1])
                continue
            pause = AGAIN_S[0]
            if not moved:
                with self._changed:
                    self._changed.wait_for(lambda: self._flushed.is_set() or not self._is_idle(), ORPHANS_S)
                self._hurry.wait(GATHER_S)
        self._disconnect()

    def _is_idle(self) -> bool:
        return self._taken == self._appended and not self._loose and not self._orphans

    def _is_over(self) -> bool:
        with self._changed:
            return time.monotonic() >= self._until or (self._flushed.is_set() and self._is_idle())

    def _move(self) -> bool:
        """One batch into the database; False where there is none."""
        if self._loose:
            lines = self._loose[:LOOSE_BATCH]
            self._insert(lines)
            with self._changed:
                del self._loose[: len(lines)]
                self._counts["written"] += len(lines)
            self._settle(len(lines))
            return True
        return self._move_own() or self._move_orphan()

    def _move_own(self) -> bool:
        spool = self._spool
        if spool is None:
            return False
        try:
            chunk = spool.take(BATCH_BYTES)
        except OSError as error:
            self._forget(error)
            return True
        if chunk is None:
            return False
        refused = self._insert(chunk.lines)
        spool.done(chunk)
        rows = len(chunk.lines) + chunk.torn
        with self._changed:
            waited = max(0, min(self._taken + rows, self._spooled_until) - self._taken)
            self._taken += rows
            self._counts["replayed"] += max(0, waited - refused)
            self._counts["written"] += max(0, len(chunk.lines) - waited - max(0, refused - waited))
            self._counts["torn"] += chunk.torn
        self._settle(rows)
        return True

    def _move_orphan(self) -> bool:
        if not self._orphans:
            return False
        spool = self._orphans[0]
        try:
            chunk = spool.take(BATCH_BYTES)
        except OSError as error:
            LOG.error("prediction log: what another process left in %s cannot be read: %s", spool.folder, error)
            chunk = None
        if chunk is None:
            self._orphans.pop(0).close()
            return True
        refused = self._insert(chunk.lines)
        spool.done(chunk)
        if chunk.torn:
            LOG.warning("prediction log: %d torn lines in %s are lost", chunk.torn, spool.folder)
        with self._changed:
            self._counts["replayed"] += len(chunk.lines) - refused
            self._counts["torn"] += chunk.torn
        return True

    def _forget(self, error: OSError) -> None:
        """Our own file is gone or cannot be read: go on with a new one."""
        with self._file_lock, self._changed:
            lost = self._appended - self._taken
            self._taken = self._spooled_until = self._appended
            self._counts["shed"] += lost
            self._spool = None
        self._settle(lost)
        LOG.error("prediction log: %d rows are lost: %s", lost, error)

    def _insert(self, lines: list[bytes]) -> int:
        """All that the database takes; gives how many it refuses, each of which is said."""
        if not lines:
            return 0
        connection = self._connected()
        try:
            insert_lines(connection, lines)
            connection.commit()
        except (IntegrityError, DataError) as error:
            connection.rollback()
            if len(lines) == 1:
                self._refuse(str(error.orig), lines[0].decode()[:200])
                return 1
            half = len(lines) // 2
            return self._insert(lines[:half]) + self._insert(lines[half:])
        if self._away:
            LOG.warning("prediction log: the database takes rows again")
            self._away = ""
        return 0

    def _refuse(self, why: str, row: str) -> None:
        with self._changed:
            self._counts["refused"] += 1
        LOG.error("prediction log: a row is refused and lost: %s: %s", why.strip().splitlines()[0], row)

    def _settle(self, rows: int) -> None:
        with self._changed:
            self._settled += rows
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        why = str(error.orig if isinstance(error, DBAPIError) else error).strip().splitlines()[0]
        if not self._away:
            LOG.warning("prediction log: the database takes no rows (%s); they wait in %s", why, self._root)
        self._away = why
        with self._changed:
            self._mark_spooled()
        self._disconnect()
        with self._file_lock:
            if self._spool is not None:
                self._spool.sync()

    # ------------------------------------------------------------------------------------------- database

    def _connected(self) -> Connection:
        """Our own connection, which waits for others only `WAIT_S`."""
        if self._connection is not None and self._inode != self._inode_now():
            self._disconnect()  # somebody has put another file in the database's place
        if self._connection is None:
            if self._store is None:
                self._store = open_store(self._url)
            connection = self._store.engine.connect()
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET lock_timeout = '{WAIT_S}s'; SET statement_timeout = '{5 * WAIT_S}s'")
                connection.commit()
            else:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * WAIT_S:.0f}")
            self._connection, self._inode = connection, self._inode_now()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None
        if self._store is not None:
            self._store.engine.dispose()

    def _inode_now(self) -> int:
        path = self._store.engine.url.database if self._store else None
        if path is None or not self._url.startswith("sqlite"):
            return 0
        return os.stat(path).st_ino


def _patient(url: str) -> str:
    """The URL, with an end to waiting for a server that does not answer (libpq knows none of itself)."""
    if not url.startswith("postgresql"):
        return url
    limits = {"connect_timeout": "3", "tcp_user_timeout": "5000"}
    parsed = make_url(url)
    new = {name: value for name, value in limits.items() if name not in parsed.query}
    return parsed.update_query_dict(new).render_as_string(hide_password=False)
