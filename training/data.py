"""What a training reads: the rows of one snapshot, side by side with their images.

A snapshot is a folder with `rows.parquet` and `manifest.json`; images stay in the shards it names.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.shards import Rows, ShardError, Store

ROWS = "rows.parquet"
SPLITS = ("train", "val", "golden", "fresh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The rows of one side, aligned: element i of each field is about the same photo."""

    images: Rows
    """Indexes like uint8 [N, S, S, 3]; read from disk when asked."""
    context: NDArray[np.float32]
    """[N, F], in the order of `SnapshotData.context_names`."""
    labels: NDArray[np.int64]
    """[N], positions in `SnapshotData.classes`."""
    image_ids: NDArray[np.str_]
    source_ids: NDArray[np.str_]
    group_ids: NDArray[np.str_]
    captured_at: NDArray[np.datetime64]
    """[N], microseconds, UTC."""
    stats: NDArray[np.float32]
    """[N, 7], in the order of `SnapshotData.stats_names`."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, where: NDArray[np.integer]) -> "Split":
        """The rows at the positions `where`; their images stay on disk."""
        return Split(
            images=self.images.take(where),
            **{name: getattr(self, name)[where] for name in self.__slots__ if name != "images"},
        )

    def since(self, moment: str | None) -> NDArray[np.bool_]:
        """Which rows were captured at `moment` (ISO 8601, UTC, no offset) or after it, [N]; None: none of them."""
        return np.zeros(len(self), bool) if moment is None else self.captured_at >= np.datetime64(moment)

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]]:
        """Images, context and labels of `size` rows at a time, in order; the last may be smaller."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.images[part], self.context[part], self.labels[part]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotData:
    """An opened snapshot."""

    meta: Mapping[str, Any]
    """The manifest's own fields: as_of, counts, spec_hash, size, service, service_hash, recipe, …"""
    table: pa.Table
    images: Rows

    @property
    def snapshot_id(self) -> str:
        return self.meta["snapshot_id"]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.meta["classes"])

    @property
    def context_names(self) -> tuple[str, ...]:
        return tuple(self.meta["context_names"])

    @property
    def stats_names(self) -> tuple[str, ...]:
        return tuple(self.meta["stats_names"])

    @property
    def counts(self) -> dict[str, int]:
        """Rows a split."""
        return dict(self.meta["counts"])

    def split(self, name: str) -> Split:
        """The rows of `train`, `val`, `golden` or `fresh`, in the snapshot's order (captured_at, image_id).

        Raises:
            ValueError: there is no such split.
        """
        where = np.flatnonzero(self._is_in(name).to_numpy())
        table = self.table.take(where)
        stats = [table[column].to_numpy().astype(np.float32) for column in self.stats_names]
        width = len(self.context_names)
        return Split(
            images=self.images.take(where),
            context=_matrix(table["context"], width),
            labels=table["label_index"].to_numpy().astype(np.int64),
            image_ids=_strings(table["image_id"]),
            source_ids=_strings(table["source_id"]),
            group_ids=_strings(table["group_id"]),
            captured_at=table["captured_at"].to_numpy().astype("datetime64[us]"),
            stats=np.stack(stats, axis=1) if stats else np.empty((len(where), 0), np.float32),
        )

    def column(self, name: str, split: str) -> NDArray[np.generic]:
        """One column of the rows of a split, in the order of `split`: text, numbers or flags, [N].

        Raises:
            ShardError: the snapshot has no such column.
            ValueError: there is no such split.
        """
        if name not in self.table.column_names:
            raise ShardError(
                f"snapshot {self.snapshot_id}: its rows have no column {name!r}, only "
                f"{', '.join(self.table.column_names)}; make it again with `classy snapshot`"
            )
        cells = self.table[name].filter(self._is_in(split))
        return _strings(cells) if pa.types.is_string(cells.type) else cells.to_numpy()

    def _is_in(self, split: str) -> pa.ChunkedArray:
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: a snapshot has {', '.join(SPLITS)}")
        return pc.equal(self.table["split"], split)


def _strings(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.asarray(column.to_pylist(), dtype=np.str_)


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    flat = np.asarray(pc.list_flatten(column).to_numpy(), dtype=np.float32)
    if flat.size != len(column) * width:
        raise ShardError(f"context: {flat.size} numbers for {len(column)} rows of {width}; make the snapshot again")
    return flat.reshape(len(column), width)


def open_snapshot(folder: Path, store: Store) -> SnapshotData:
    """Open a snapshot whose files are local.

    Args:
        folder: with rows.parquet and manifest.json.
        store: where the images of the manifest's `partitions` are, in their order.

    Raises:
        ShardError: the folder is no snapshot, or its shards are others.
    """
    try:
        meta = json.loads((folder / "manifest.json").read_text())
        table = pq.read_table(folder / ROWS)
    except FileNotFoundError as error:
        raise ShardError(f"{folder}: no snapshot there ({error.filename}); make it with `classy snapshot`") from None
    number = {uri: position for position, uri in enumerate(meta["partitions"])}
    if len(store.counts) != len(number) or store.size != int(meta["size"]):
        raise ShardError(
            f"{folder}: has {len(number)} shards of {meta['size']} pixels, {len(store.counts)} of {store.size} are open"
        )
    shard = np.asarray([number[uri] for uri in table["shard_uri"].to_pylist()], np.int64)
    return SnapshotData(meta=meta, table=table, images=Rows(store, shard, table["row"].to_numpy()))
