"""The tables of the first two steps: their columns, and writing them a few megabytes at a time."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NO_ATTRIBUTES = "{}"
"""What a photo has whose source names no `attributes`, and each that an older Classy wrote down."""

ATTRIBUTE_LENGTH = 200
"""Characters of one attribute that are kept: it is there to slice by, not to read."""

_TIME = pa.timestamp("us", tz="UTC")


def _table(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


RAW = _table(
    image_id=pa.string(),
    source_id=pa.string(),
    captured_at=_TIME,
    image=pa.binary(),
    origin=pa.string(),
    error=pa.string(),
    group_id=pa.string(),
    attributes=pa.string(),
)
"""raw/date=D/records.parquet. `image` is null where `error` says why: `word: detail`. `attributes` is a JSON object."""

LABELS = _table(
    image_id=pa.string(), label=pa.string(), labelled_at=_TIME, said_by=pa.string(), captured_at=_TIME
)  # fmt: skip
"""raw/date=D/labels.parquet: the labels that arrive on D, as they were said."""

SENDERS = _table(source_id=pa.string(), photos=pa.int64())
"""raw/date=D/senders.parquet: who sent how many photos on D, by name; a day of an older Classy has none."""

CLEAN = _table(
    image_id=pa.string(),
    source_id=pa.string(),
    captured_at=_TIME,
    sha256=pa.string(),
    phash=pa.string(),
    group_id=pa.string(),
    width=pa.int32(),
    height=pa.int32(),
    format=pa.string(),
    attributes=pa.string(),
)
"""clean/date=D/records.parquet. Size is as seen, after orientation."""

QUARANTINE = _table(
    image_id=pa.string(), source_id=pa.string(), what=pa.string(), reason=pa.string(), detail=pa.string()
)  # fmt: skip
"""quarantine/date=D/records.parquet. `what` is photo or label."""


def write_attributes(values: Mapping[str, str | None]) -> str:
    """A photo's free columns as one text: a JSON object, sorted, in ASCII. What is None or empty is left out.

    The same values give the same text, so that it may be compared and hashed.
    """
    kept = {name: value[:ATTRIBUTE_LENGTH] for name, value in values.items() if value}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


_GROUP_ROWS = 256
_GROUP_BYTES = 32_000_000


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a Parquet file of `schema`, at most 256 rows or about 32 MB of photos a row group; returns the rows.

    The same rows give the same bytes.
    """
    count, size, group = 0, 0, []
    # Photos are compressed already, and a dictionary of them would only be a second copy.
    others = [name for name in schema.names if name != "image"]
    compression = {name: "zstd" if name in others else "none" for name in schema.names}
    with path.open("wb") as file, pq.ParquetWriter(
        file, schema, compression=compression, use_dictionary=others, write_statistics=others
    ) as writer:  # fmt: skip
        for row in rows:
            group.append(row)
            size += len(row.get("image") or b"")
            if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                count, size, group = count + len(group), 0, []
        writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return count + len(group)
