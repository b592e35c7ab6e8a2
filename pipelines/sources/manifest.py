"""A table with a row a photo: CSV, TSV, Parquet or JSON lines; and what it shares with `sql`, reading its columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pipelines.data.records import write_attributes
from pipelines.errors import ClassyError
from pipelines.sections import ManifestSource, SqlSource
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

_ENDINGS = ".csv, .tsv, .parquet, .jsonl or .ndjson (.csv, .tsv and JSON lines also with .gz)"


class Manifest:
    """Connector of `kind = "manifest"`."""

    def __init__(self, source: ManifestSource, home: Path, max_bytes: int) -> None:
        self._source = source
        self._path = expand(source.path, "source.path", home)
        folder = self._path.rsplit("/", 1)[0] if "/" in self._path else "."
        self._base = expand(source.base, "source.base", home) if source.base else folder
        self._max_bytes = max_bytes
        self.timed = bool(source.captured_at)

    def fingerprint(self) -> str | None:
        fs, path = filesystem(self._path, "source.path")
        try:
            info = fs.info(path)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return f"{self._path}|{info.get('size')}|{info.get('mtime') or info.get('ETag') or info.get('LastModified')}"

    def rows(self) -> pd.DataFrame:
        frame = _read_table(self._path)
        return rows_from_table(
            frame, self._source, base=self._base, suffix=self._source.suffix, table=shown(self._path)
        )

    def read(self, rows: pd.DataFrame) -> Iterator[Fetched]:
        places = zip(rows["image_id"], rows["place"], strict=True)
        return fetch(places, max_bytes=self._max_bytes, field=f"source.{self._source.image}")


def _unreadable(path: str, error: Exception) -> ClassyError:
    if isinstance(error, FileNotFoundError):
        return ClassyError(f"source.path = {shown(path)!r}: no such file; give the path or URI of the table")
    return ClassyError(f"source.path = {shown(path)!r}: cannot be read: {error}")


def _read_table(path: str) -> pd.DataFrame:
    fs, inner = filesystem(path, "source.path")
    name = inner.lower()
    compression: Literal["gzip"] | None = "gzip" if name.endswith(".gz") else None
    name = name.removesuffix(".gz")
    try:
        with fs.open(inner, "rb") as file:
            if name.endswith((".csv", ".tsv")):
                separator = "\t" if name.endswith(".tsv") else ","
                # Text stays text: `007` is a sender and `NA` may be a class.
                return pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False, compression=compression)
            if name.endswith((".jsonl", ".ndjson")):
                return pd.read_json(file, lines=True, dtype=False, convert_dates=False, compression=compression)
            if name.endswith((".parquet", ".pq")) and not compression:
                return pd.read_parquet(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # pandas' and pyarrow's parsers, and bytes that are no UTF-8
        raise ClassyError(f"source.path = {shown(path)!r}: not a table of its kind: {error}") from error
    raise ClassyError(f"source.path = {shown(path)!r}: unknown ending; name it {_ENDINGS}")


def rows_from_table(
    frame: pd.DataFrame, source: ManifestSource | SqlSource, *, base: str, suffix: str, table: str
) -> pd.DataFrame:
    """A connector's rows from a table whose columns the recipe names.

    Args:
        base: prefix of relative image paths. suffix: appended to each. table: what to call it in a message.

    Raises:
        ClassyError: a column is missing, an image is empty, or a time cannot be read.
    """
    named = [(field, getattr(source, field)) for field in ("image", "label", "sender", "captured_at", "labelled_at")]
    for field, column in [*named, *(("attributes", column) for column in source.attributes)]:
        if column and column not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise ClassyError(f"source.{field} = {column!r}: {table} has no such column; it has {known}")
    if source.labelled_at and not source.captured_at:
        raise ClassyError(f"source.labelled_at = {source.labelled_at!r}: needs source.captured_at as well")
    if frame.empty:
        return empty_rows()
    names = _text(frame[source.image])
    if names.isna().any():
        row = int(names.isna().to_numpy().argmax()) + 1
        raise ClassyError(f"{table}: row {row} has no {source.image!r} (source.image); fill it or leave the row out")
    ids = number_repeats(names.map(identify))
    label = _text(frame[source.label])
    senders = _text(frame[source.sender]).str.slice(0, 128).fillna(ids) if source.sender else ids
    captured = _times(frame, source.captured_at, "captured_at", table) if source.captured_at else pd.NaT
    labelled = captured
    if source.labelled_at:
        labelled = _times(frame, source.labelled_at, "labelled_at", table, needed=label.notna())
    places = [_address(base, name + suffix) for name in names]
    return rows_of(
        image_id=ids,
        source_id=senders,
        label=label,
        captured_at=captured,
        labelled_at=labelled,
        origin=[shown(place) for place in places],
        place=places,
        attributes=_attributes(frame, source.attributes),
    )


def _attributes(frame: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    """The free columns of each row as a JSON object; what a row does not have is left out."""
    texts = {column: _text(frame[column]).tolist() for column in columns}
    return [write_attributes({name: texts[name][row] for name in columns}) for row in range(len(frame))]


def _text(column: pd.Series) -> pd.Series:
    """Values as text, None for nothing. Whole numbers lose the `.0` that gaps in a column give them."""

    def one(value: Any) -> str | None:
        if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
            return None
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        return text or None

    return pd.Series([one(value) for value in column], index=column.index, dtype=object)


def _times(
    frame: pd.DataFrame, column: str, field: str, table: str, needed: pd.Series | None = None
) -> "pd.Series[pd.Timestamp]":
    given = frame[column]
    text = given if pd.api.types.is_datetime64_any_dtype(given) else _text(given)
    times = pd.to_datetime(text, utc=True, errors="coerce", format=None if text is given else "ISO8601")
    bad = times.isna() & (text.notna() if needed is None else (text.notna() | needed))
    bad = bad | (times.isna() if needed is None else False)
    if bad.any():
        at = int(bad.to_numpy().argmax())
        shown_value = text.iloc[at]
        raise ClassyError(
            f"{table}: row {at + 1}, column {column!r} (source.{field}) = {shown_value!r}: no time; "
            f"write ISO 8601 such as 2026-03-01T12:00:00Z ({int(bad.sum())} rows like it)"
        )
    return times.astype("datetime64[us, UTC]")


def _address(base: str, name: str) -> str:
    if "://" in name or name.startswith("/") or not base:
        return name.removeprefix("file://")
    return f"{base.rstrip('/')}/{name}"
