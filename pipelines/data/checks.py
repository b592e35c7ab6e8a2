"""What is asked of a raw day: its tables, each photo, each label. Every answer is a reason, never an exception."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.records import NO_ATTRIBUTES
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from serving.canonical import BadImage, ImageSpec, canonicalise_with_header
from serving.pictures import perceptual_hash

_ERROR_WORDS = ("missing", "unreadable", "too_many_bytes")  # what gather may say of bytes that are not there


# ----------------------------------------------------------------------------------------------- tables


def _records_schema(day: date) -> pandera.DataFrameSchema:
    start = pd.Timestamp(datetime.combine(day, time(), UTC))
    inside = pandera.Check(lambda at: (at >= start) & (at < start + timedelta(days=1)), name=f"captured on {day}")
    return pandera.DataFrameSchema(
        {
            "image_id": pandera.Column(str, pandera.Check.str_length(min_value=1, max_value=64), unique=True),
            "source_id": pandera.Column(str, pandera.Check.str_length(min_value=1, max_value=128)),
            "captured_at": pandera.Column("datetime64[us, UTC]", inside),
            "origin": pandera.Column(str),
            "error": pandera.Column(str, nullable=True),
            "group_id": pandera.Column(str, pandera.Check.str_length(min_value=1)),
            # An older Classy wrote none.
            "attributes": pandera.Column(str, nullable=True, required=False),
        }
    )


_LABELS_SCHEMA = pandera.DataFrameSchema(
    {
        "image_id": pandera.Column(str, pandera.Check.str_length(min_value=1, max_value=64), unique=True),
        "label": pandera.Column(str),
        "labelled_at": pandera.Column("datetime64[us, UTC]"),
        "said_by": pandera.Column(str),
        "captured_at": pandera.Column("datetime64[us, UTC]"),
    }
)


def table_problems(folder: Path, day: date) -> list[str]:
    """What is wrong with the tables of a raw partition as a whole, one line a column; empty when nothing is."""
    return [
        *_problems(folder / "records.parquet", _records_schema(day), binary="image"),
        *_problems(folder / "labels.parquet", _LABELS_SCHEMA),
    ]


def _problems(path: Path, schema: pandera.DataFrameSchema, binary: str = "") -> list[str]:
    if not path.exists():
        return [f"schema: {path.name} is missing"]
    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ClassyError(f"{path}: no Parquet file ({error}); run `classy gather` for the day again") from error
    columns = table.schema_arrow
    found = []
    if binary and (binary not in columns.names or not _is_binary(columns.field(binary).type)):
        what = f"is {columns.field(binary).type}, not binary" if binary in columns.names else "is missing"
        found.append(f"schema: {path.name}: column {binary}: {what}")
    frame = table.read(columns=[name for name in schema.columns if name in columns.names]).to_pandas()
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        found += [f"schema: {path.name}: {line}" for line in _lines(error.failure_cases)]
    return found


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _lines(cases: pd.DataFrame) -> Iterator[str]:
    for (context, column, check), group in cases.groupby(
        ["schema_context", "column", "check"], dropna=False, sort=True
    ):
        example = group["failure_case"].iloc[0]
        if check == "column_in_dataframe":
            yield from (f"column {name}: is missing" for name in group["failure_case"])
        elif context == "DataFrameSchema" or not column:
            yield f"column {example}: {check}"
        else:
            rows = f" ({len(group)} rows)" if len(group) > 1 else ""
            yield f"column {column}: {check}, but it is {str(example)[:80]!r}{rows}"


# ----------------------------------------------------------------------------------------------- photos


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """One photo after its check. `reason` is None for a good one; only a good one has the last five fields."""

    image_id: str
    source_id: str
    captured_at: datetime
    group_id: str
    attributes: str = NO_ATTRIBUTES
    reason: str | None = None
    detail: str = ""
    sha256: str = ""
    phash: str = ""
    width: int = 0
    height: int = 0
    format: str = ""


def check_photos(path: Path, spec: ImageSpec, threads: int) -> Iterator[Checked]:
    """Check the photos of a raw table on `threads` threads, in the table's order, one row group in memory at a time."""
    table = pq.ParquetFile(path)
    columns = ["image_id", "source_id", "captured_at", "image", "error", "group_id", "attributes"]
    columns = [name for name in columns if name in table.schema_arrow.names]
    with ThreadPoolExecutor(threads, thread_name_prefix="check") as pool:
        for number in range(table.num_row_groups):
            rows = table.read_row_group(number, columns=columns).to_pylist()
            yield from pool.map(partial(check_photo, spec=spec), rows)


def check_photo(row: Mapping[str, Any], spec: ImageSpec) -> Checked:
    """Look at one raw record: are the bytes there, may they come in, do they decode whole."""
    known = {name: row[name] for name in ("image_id", "source_id", "captured_at", "group_id")}
    known["attributes"] = row.get("attributes") or NO_ATTRIBUTES
    data = row["image"]
    if data is None:
        word, _, detail = (row["error"] or "missing: no bytes came").partition(": ")
        if word not in _ERROR_WORDS:
            word, detail = "missing", row["error"]
        return Checked(**known, reason=word, detail=detail)
    try:
        header, image = canonicalise_with_header(data, spec)
    except BadImage as error:
        return Checked(**known, reason=error.reason, detail=str(error))
    return Checked(
        **known,
        sha256=hashlib.sha256(data).hexdigest(),
        phash=perceptual_hash(image),
        width=header.width,
        height=header.height,
        format=header.format,
    )


class Seen:
    """All good photos so far: earlier days', then this day's. Finds the same photo and nearly the same one.

    Args:
        history: image_id, sha256, phash, group_id of earlier days' photos, oldest first.
        bits: perceptual hashes at most so many of 64 bits apart are one group; negative switches it off.
    """

    def __init__(self, history: pd.DataFrame, bits: int) -> None:
        self._bits = bits
        self._first = dict(zip(reversed(history["sha256"]), reversed(history["image_id"]), strict=True))
        self._groups: list[str] = list(history["group_id"])
        self._count = len(history)
        self._hashes = np.array([int(phash, 16) for phash in history["phash"]], dtype=np.uint64)

    def place(self, photo: Checked) -> Checked:
        """The photo, as a duplicate where its bytes were seen, else in the group that it belongs to.

        A group that the source gave stays: its other photos would be torn from it.
        """
        first = self._first.get(photo.sha256)
        if first is not None:
            return replace(photo, reason="duplicate", detail=f"the same bytes as {first}")
        self._first[photo.sha256] = photo.image_id
        if self._bits < 0:
            return photo
        phash = np.uint64(int(photo.phash, 16))
        if photo.group_id == photo.image_id and self._count:
            apart = np.bitwise_count(self._hashes[: self._count] ^ phash)
            nearest = int(apart.argmin())  # of equals the first, which is the oldest
            if apart[nearest] <= self._bits:
                photo = replace(photo, group_id=self._groups[nearest])
        self._append(phash, photo.group_id)
        return photo

    def _append(self, phash: np.uint64, group_id: str) -> None:
        if self._count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros(max(256, self._count), dtype=np.uint64)])
        self._hashes[self._count] = phash
        self._groups.append(group_id)
        self._count += 1


# ----------------------------------------------------------------------------------------------- labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One label after its check. `label` is the class, or None when it is rejected for `reason`."""

    image_id: str
    labelled_at: datetime
    label: str | None
    reason: str | None = None
    detail: str = ""


def check_labels(rows: Iterable[Mapping[str, Any]], recipe: Recipe) -> list[Said]:
    """Is each label a class, and not older than its photo."""
    return [_check_label(row, recipe) for row in rows]


def _check_label(row: Mapping[str, Any], recipe: Recipe) -> Said:
    image_id, said, at, taken = row["image_id"], row["label"], row["labelled_at"], row["captured_at"]
    label = recipe.taxonomy.resolve(said)
    if label is None:
        detail = f"{said!r} is not in taxonomy.classes or taxonomy.aliases"
        return Said(image_id=image_id, labelled_at=at, label=None, reason="unknown_label", detail=detail)
    if at < taken:
        detail = f"labelled at {at.isoformat()}, before the photo was taken at {taken.isoformat()}"
        return Said(image_id=image_id, labelled_at=at, label=None, reason="label_before_photo", detail=detail)
    return Said(image_id=image_id, labelled_at=at, label=label)
