"""Copies of what is elsewhere, in HOME/cache and within CLASSY_CACHE_GB: what was not used for longest goes first.

Models that were verified are not among them: a server starts from those while the registry is down.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipelines.errors import ClassyError
from pipelines.settings import Settings

KINDS = ("partitions", "encoded")
RECENT = 600.0
"""Seconds for which a copy is safe after its last use: a step opens at once what it asks for, and files that are open
or mapped outlive their names."""
ABANDONED = 86_400.0
"""Seconds after which a copy that was never finished is taken for one of a process that was killed."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Files and folders under `folder`, together at most `limit` bytes, and what is being made at the moment."""

    folder: Path
    limit: int

    def entry(self, name: str, size: int, make: Callable[[Path], object]) -> Path:
        """The copy called `name`, made where it is not there yet: whole or not at all.

        Args:
            name: `KIND/KEY`; the key is of its content.
            size: bytes it will have.
            make: writes it, a file or a folder, at the path it is given.

        Raises:
            ClassyError: it does not fit beside what is in use.
        """
        path = self.folder / name
        if _used(path):
            return path
        self._make_room(name, size)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(part)
            os.rename(part, path)
        except OSError:
            if not _used(path):  # else another process was faster with the same
                raise
        finally:
            _remove(part)
        return path

    def _make_room(self, name: str, size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            there = self._copies()
            total, now = sum(size for _, size, _ in there), time.time()
            for used, freed, path in there:
                if total + size <= self.limit:
                    return
                if now - used > (ABANDONED if path.name.startswith(".") else RECENT):
                    _remove(path)
                    total -= freed
        if total + size > self.limit:
            raise ClassyError(
                f"{self.folder}: {name} has {size / 1e9:.3g} GB and does not fit: {total / 1e9:.3g} GB of copies "
                f"are in use, and CLASSY_CACHE_GB={self.limit / 1e9:g} is all there may be; raise it"
            )

    def _copies(self) -> list[tuple[float, int, Path]]:
        """When each was last used, its bytes and where it is; what was not used for longest is first."""
        found = []
        for path in [path for kind in KINDS for path in (self.folder / kind).glob("*")]:
            with suppress(FileNotFoundError):  # another process finished it, under another name
                found.append((path.lstat().st_mtime, size_of(path), path))
        return sorted(found)


def cache_of(settings: Settings) -> Cache:
    return Cache(settings.home / "cache", int(settings.cache_gb * 1e9))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.lstat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def _used(path: Path) -> bool:
    """Whether it is there; it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        # Aside first: a reader sees a whole one or none.
        aside = path if path.name.startswith(".") else path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
        if aside != path:
            os.rename(path, aside)
        shutil.rmtree(aside)
    else:
        path.unlink(missing_ok=True)
