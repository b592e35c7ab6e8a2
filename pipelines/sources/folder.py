"""A folder with one sub-folder a class: `PATH/CLASS/photo.jpg`, here or at any fsspec URI."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import ClassyError
from pipelines.sections import FolderSource
from pipelines.sources.base import (
    Fetched,
    empty_rows,
    expand,
    fetch,
    filesystem,
    identify,
    number_repeats,
    rows_of,
    shown,
)


class Folder:
    """Connector of `kind = "folder"`. Every file that is not hidden is a record: validation judges it."""

    timed = False

    def __init__(self, source: FolderSource, home: Path, max_bytes: int) -> None:
        self._path = expand(source.path, "source.path", home).rstrip("/")
        self._pattern = _compile(source.sender_pattern)
        self._max_bytes = max_bytes

    def fingerprint(self) -> str | None:
        return self._path

    def rows(self) -> pd.DataFrame:
        fs, root = filesystem(self._path, "source.path")
        root = root.rstrip("/")
        if not fs.isdir(root):
            raise ClassyError(f"source.path = {shown(self._path)!r}: no such folder; give the folder above the classes")
        found = [path[len(root) + 1 :] for path in sorted(fs.find(root))]
        names = [name for name in found if "/" in name and not any(part.startswith(".") for part in name.split("/"))]
        if not names and found:
            raise ClassyError(
                f"source.path = {shown(self._path)!r}: its files are in no sub-folder; make one a class, "
                "or use kind = 'manifest'"
            )
        if not names:
            return empty_rows()
        ids = number_repeats(pd.Series([identify(name) for name in names], dtype=object))
        # A local path stays a path; other places get back the scheme that `find` has cut off.
        address = root if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(root)
        places = [f"{address}/{name}" for name in names]
        return rows_of(
            image_id=ids,
            source_id=[self._sender(name) or image_id for name, image_id in zip(names, ids, strict=True)],
            label=[name.split("/", 1)[0] for name in names],
            origin=[shown(place) for place in places],
            place=places,
        )

    def read(self, rows: pd.DataFrame) -> Iterator[Fetched]:
        places = zip(rows["image_id"], rows["place"], strict=True)
        return fetch(places, max_bytes=self._max_bytes, field="source.path")

    def _sender(self, name: str) -> str:
        match = self._pattern.search(name.rsplit("/", 1)[-1]) if self._pattern else None
        return (match.group(1) or "")[:128] if match else ""


def _compile(pattern: str) -> re.Pattern[str] | None:
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ClassyError(f"source.sender_pattern = {pattern!r}: no regular expression: {error}") from error
    if compiled.groups != 1:
        raise ClassyError(
            f"source.sender_pattern = {pattern!r}: has {compiled.groups} groups; put one pair of brackets "
            r"around the sender, such as ^(\d+)_"
        )
    return compiled
