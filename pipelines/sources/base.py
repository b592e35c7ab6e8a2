"""What every source of photos has in common: its rows, its bytes, and how names and paths are written.

A connector knows one kind of place (`digits`, `folder`, …). It lists rows first, without opening a photo,
and reads the bytes of the rows that are asked for. `Source` (in this package's `__init__`) puts calendar
and scenarios on top.
"""

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import fsspec
import pandas as pd

from pipelines.data.records import NO_ATTRIBUTES
from pipelines.errors import ClassyError

COLUMNS = ("image_id", "source_id", "group_id", "label", "captured_at", "labelled_at", "origin", "place", "attributes")
"""Columns of a connector's rows. `label` is None where there is none, times are UTC or NaT, `origin` is for
people, `place` is what the connector needs to find the bytes again (an address or an index, as text), `attributes`
is a JSON object of text (`write_attributes`)."""

Fetched = tuple[str, bytes | None, str | None]
"""image_id, the encoded bytes, and where there are none why: `word: detail`, the word for tables."""

_READERS = 8  # photos asked for at once over a network
_TIMEOUT_S = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """One photo as it came. Times are aware UTC."""

    image_id: str
    source_id: str
    group_id: str
    captured_at: datetime
    origin: str
    attributes: str
    """A JSON object of text."""
    image: bytes | None
    error: str | None


class Connector(Protocol):
    """One kind of place that photos come from."""

    timed: bool
    """Whether the rows carry times of their own; if not, they are replayed."""

    def fingerprint(self) -> str | None:
        """Changes when the rows may have changed; None: rows are asked for anew each time."""

    def rows(self) -> pd.DataFrame:
        """All records, COLUMNS, one a photo, without opening any."""

    def read(self, rows: pd.DataFrame) -> Iterator[Fetched]:
        """The bytes of some rows, in their order, a few in memory at a time."""


def expand(text: str, field: str, home: Path) -> str:
    """A path of a recipe with `~` and `${NAME}` filled in from the environment; `${CLASSY_HOME}` is the home folder.

    Raises:
        ClassyError: a variable is not set; the message names it and the field.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        found = str(home) if name == "CLASSY_HOME" else os.environ.get(name)
        if not found:
            raise ClassyError(f"{field} = {text!r}: environment variable {name} is not set; export {name}=…")
        return found

    filled = re.sub(r"\$\{(\w+)\}", value, text)
    return os.path.expanduser(filled)


def identify(name: str) -> str:
    """An image_id (at most 64 characters) for a name that may be longer: itself, or a hash of it."""
    if 0 < len(name) <= 64 and name.isprintable():
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def number_repeats(ids: pd.Series) -> pd.Series:
    """Give a name that comes again the ending `#2`, `#3`, …, so that no record is lost without a word."""
    nth = ids.groupby(ids).cumcount() + 1
    again = nth > 1
    return ids.where(~again, [identify(f"{name}#{n}") for name, n in zip(ids, nth, strict=True)])


def seed_of(*parts: object) -> int:
    """A seed that is the same on every machine: 64 bits of SHA-256 over the parts."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big")


def shown(uri: str) -> str:
    """An address without the secrets that its user part or query may hold."""
    parts = urlsplit(uri)
    if "://" not in uri:
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))


def filesystem(uri: str, field: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of an address, and the path in it.

    Raises:
        ClassyError: its kind is unknown here, or its package is not installed.
    """
    options = {}
    if uri.startswith(("http://", "https://")):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=_TIMEOUT_S)}
    try:
        return fsspec.url_to_fs(uri, **options)
    except (ValueError, ImportError) as error:
        raise ClassyError(f"{field} = {shown(uri)!r}: cannot be opened here: {error}") from error


def fetch(places: Iterable[tuple[str, str]], *, max_bytes: int, field: str) -> Iterator[Fetched]:
    """Read files by (image_id, address), in order; over a network a few at once.

    At most `max_bytes + 1` bytes of a file are read: more are refused without being kept.
    """
    yield from _ahead(lambda item: (item[0], *_read(item[1], max_bytes, field)), places)


def _ahead(read: Callable[[tuple[str, str]], Fetched], places: Iterable[tuple[str, str]]) -> Iterator[Fetched]:
    waiting: deque[Future[Fetched]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="fetch") as pool:
        try:
            for item in places:
                if "://" not in item[1]:  # a local file is read when its turn comes
                    while waiting:
                        yield waiting.popleft().result()
                    yield read(item)
                    continue
                waiting.append(pool.submit(read, item))
                if len(waiting) > _READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read(uri: str, max_bytes: int, field: str) -> tuple[bytes | None, str | None]:
    failures: tuple[type[Exception], ...] = (*_network_errors(uri), OSError, ValueError)
    try:
        data = _bytes_of(uri, max_bytes + 1, field)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        # fsspec says "not found" of every HTTP failure; only the server's own 404 and 410 mean it.
        cause = error.__cause__ if uri.startswith(("http://", "https://")) else None
        if cause is None or getattr(cause, "status", None) in (404, 410):
            return None, f"missing: {shown(uri)} is not there"
        return None, _unreadable(uri, cause)
    except failures as error:
        return None, _unreadable(uri, error)
    if len(data) > max_bytes:
        return None, f"too_many_bytes: {shown(uri)} has more than {max_bytes:,} bytes"
    return data, None


def _bytes_of(uri: str, most: int, field: str) -> bytes:
    if uri.startswith("/"):
        # Without fsspec, which takes longer than the disk, and holds the interpreter meanwhile.
        with open(uri, "rb", buffering=0) as local:
            return local.read(min(most, os.fstat(local.fileno()).st_size))
    fs, path = filesystem(uri, field)
    with fs.open(path, "rb") as file:
        return file.read(most)


def _unreadable(uri: str, error: BaseException) -> str:
    return f"unreadable: {shown(uri)}: {type(error).__name__}: {str(error).replace(uri, shown(uri))[:200]}"


def _network_errors(uri: str) -> tuple[type[Exception], ...]:
    if not uri.startswith(("http://", "https://")):
        return ()
    import aiohttp

    return (aiohttp.ClientError,)


def empty_rows() -> pd.DataFrame:
    """No records, with the right columns and kinds."""
    frame = pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})
    return frame.astype({"captured_at": "datetime64[us, UTC]", "labelled_at": "datetime64[us, UTC]"})


def rows_of(**columns: object) -> pd.DataFrame:
    """Rows from columns; what is not given gets its default: a group of its own, no label, no times, no attributes.

    `image_id`, `source_id`, `origin` and `place` must be given.
    """
    frame = pd.DataFrame(columns)
    defaults: dict[str, Any] = {"group_id": frame["image_id"], "label": None, "attributes": NO_ATTRIBUTES}
    defaults |= {"captured_at": pd.NaT, "labelled_at": pd.NaT}
    for name, value in defaults.items():
        if name not in frame:
            frame[name] = value
    for name in ("captured_at", "labelled_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    frame["label"] = frame["label"].astype(object).where(frame["label"].notna(), None)
    frame["labelled_at"] = frame["labelled_at"].where(frame["label"].notna())
    return frame[list(COLUMNS)]
