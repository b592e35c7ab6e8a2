"""A durable queue in files: lines are appended by one thread and taken in order by another, or by the next process.

    HOME/serving/spool/PROCESS/lock             held (flock) as long as the process lives
    HOME/serving/spool/PROCESS/00000007.jsonl   a segment: lines of `CRC32 JSON`, oldest segment first

A line that a kill has torn, or that a disk has changed, does not fit its checksum and is dropped and counted. Segments
whose process has died are taken over by whoever gets the lock.
"""

import fcntl
import logging
import os
import shutil
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOG = logging.getLogger(__name__)
SEGMENT_BYTES = 4_000_000
MAX_BYTES = 256_000_000
"""Of the whole folder, all processes together; each may be one segment over."""
LOCK = "lock"
SUFFIX = ".jsonl"


class SpoolFull(Exception):
    """The folder holds as much as it may."""


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int
    """Bytes of whole lines."""
    taken: int = 0
    """Bytes that need no reading any more."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines at the head of a spool, to be given back to `done`."""

    lines: list[bytes]
    torn: int
    """Lines that did not fit their checksum, and are not among `lines`."""
    size: int
    """Bytes in the file."""


class Spool:
    """One process's folder of segments. Make one with `create`, or find others with `orphans`.

    `append` and `take` may run in two threads at once.
    """

    def __init__(self, folder: Path, lock: int, segments: Sequence[_Segment], max_bytes: int) -> None:
        self.folder = folder
        self._root = folder.parent
        self._lock_file = lock
        self._max_bytes = max_bytes
        self._segments = deque(segments)
        self._file: int | None = None
        self._number = 0
        self._lock = threading.Lock()

    @classmethod
    def create(cls, root: Path, *, max_bytes: int = MAX_BYTES) -> "Spool":
        """A new, empty spool of this process.

        Raises:
            OSError: the folder cannot be written.
        """
        root.mkdir(parents=True, exist_ok=True)
        # Locked under a name that nobody looks at: between making and locking it would pass for a dead one's.
        name = f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        hidden = root / f".{name}"
        hidden.mkdir()
        lock = os.open(hidden / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = root / name
        hidden.rename(folder)
        return cls(folder, lock, (), max_bytes)

    @classmethod
    def orphans(cls, root: Path) -> list["Spool"]:
        """The spools whose processes have died, oldest first; they are this process's now."""
        found = []
        for folder in sorted(path for path in root.glob("[!.]*") if path.is_dir()):
            try:
                lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another process has just emptied it
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            paths = sorted(folder.glob(f"*{SUFFIX}"))
            found.append(cls(folder, lock, [_Segment(path, path.stat().st_size) for path in paths], MAX_BYTES))
        return found

    @property
    def waiting(self) -> int:
        """Bytes that are not taken yet."""
        with self._lock:
            return sum(segment.size - segment.taken for segment in self._segments)

    # ------------------------------------------------------------------------------------------- writing

    def append(self, lines: Sequence[bytes], *, sync: bool) -> None:
        """Add lines; when this returns they outlive a kill of the process, and with `sync` a loss of power.

        Raises:
            SpoolFull: there is no more room; nothing was added.
            OSError: the disk does not take them; nothing was added.
        """
        if not lines:
            return
        data = b"".join([b"%08x %s\n" % (zlib.crc32(line), line) for line in lines])
        file = self._file
        if file is None or self._segments[-1].size >= SEGMENT_BYTES:
            file = self._next_segment()
        segment = self._segments[-1]
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            if sync:
                os.fsync(file)
        except OSError:
            os.ftruncate(file, segment.size)
            raise
        with self._lock:
            segment.size += len(data)

    def _next_segment(self) -> int:
        used = sum(path.stat().st_size for path in _files(self._root))
        if used >= self._max_bytes:
            raise SpoolFull(f"{self._root}: holds {used:,} bytes, and may hold {self._max_bytes:,}")
        path = self.folder / f"{self._number:08d}{SUFFIX}"
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._file is not None:
            os.close(self._file)
        self._file = opened
        self._number += 1
        with self._lock:
            self._segments.append(_Segment(path, 0))
        return opened

    def sync(self) -> None:
        """Let what was appended outlive a loss of power."""
        if self._file is not None:
            os.fsync(self._file)

    # ------------------------------------------------------------------------------------------- reading

    def take(self, max_bytes: int) -> Chunk | None:
        """The next lines, at least one and about `max_bytes`; None when there are none. They stay until `done`."""
        with self._lock:
            while len(self._segments) > 1 and self._segments[0].taken >= self._segments[0].size:
                self._segments.popleft().path.unlink(missing_ok=True)
            if not self._segments or self._segments[0].taken >= self._segments[0].size:
                return None
            segment = self._segments[0]
            size = segment.size - segment.taken
        with segment.path.open("rb") as file:
            file.seek(segment.taken)
            data = file.read(min(size, max_bytes))
            if len(data) < size and not data.endswith(b"\n"):
                data += file.readline(size - len(data))
        if not data:
            raise OSError(f"{segment.path}: {size} bytes are gone")
        parts = data.split(b"\n")
        if not parts[-1]:
            parts.pop()
        lines = [line for part in parts if (line := _checked(part)) is not None]
        return Chunk(lines, len(parts) - len(lines), len(data))

    def done(self, chunk: Chunk) -> None:
        """What `take` gave last need not be kept any more."""
        with self._lock:
            self._segments[0].taken += chunk.size

    def close(self) -> None:
        """Let go. An empty spool leaves nothing behind; another is for the next process."""
        empty = self.waiting == 0
        if self._file is not None:
            if not empty:
                os.fsync(self._file)
            os.close(self._file)
            self._file = None
        if empty:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock_file)


def _checked(part: bytes) -> bytes | None:
    line = part[9:]
    return line if part[8:9] == b" " and part[:8] == b"%08x" % zlib.crc32(line) else None


def _files(root: Path) -> list[Path]:
    return list(root.glob(f"*/*{SUFFIX}"))
