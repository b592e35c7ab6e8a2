"""The photos of a snapshot as they came, decoded one by one when they are asked for.

Parquet gives no single photo without its whole row group, so each day's photos are put once into an uncompressed Arrow
file in the cache, a few at a time, and memory-mapped from there: memory does not grow with them.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.cache import Cache, cache_of
from pipelines.data.images import spec_of
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.canonical import canonicalise
from training.data import SnapshotData

RECORDS = "records.parquet"
BATCH = 64
"""Photos in memory at a time while a day is copied."""


def decoder(settings: Settings, recipe: Recipe, data: SnapshotData, split: str) -> Callable[[int], np.ndarray] | None:
    """Row of a split → its canonical image, uint8 [S, S, 3]. None where the raw photos are kept no longer.

    A day's photos are copied when the first of them is asked for. Threads may call it at once.
    """
    shards, ids = data.column("shard_uri", split).tolist(), data.column("image_id", split).tolist()
    days: dict[str, _Day] = {}
    for uri in sorted(set(shards)):
        clean = files.read_manifest((files.read_manifest(uri) or {}).get("clean_uri", "") or uri) or {}
        raw = files.read_manifest(clean["raw_uri"]) if "raw_uri" in clean else None
        if raw is None:
            return None
        days[uri] = _Day(clean["raw_uri"], raw, cache_of(settings))
    spec = spec_of(recipe)

    def decode(row: int) -> np.ndarray:
        return canonicalise(days[shards[row]].photo(ids[row]), spec)

    return decode


class _Day:
    """One raw partition, by image id."""

    def __init__(self, uri: str, raw: dict[str, Any], cache: Cache) -> None:
        self._uri, self._raw, self._cache = uri, raw, cache
        self._lock = Lock()
        self._photos: pa.ChunkedArray | None = None
        self._rows: dict[str, int] = {}

    def photo(self, image_id: str) -> bytes:
        with self._lock:
            if self._photos is None:
                name = f"encoded/{files.content_hash(self._raw)}.arrow"
                path = self._cache.entry(name, self._raw["files"][RECORDS]["bytes"], self._copy)
                table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
                self._rows = {name: row for row, name in enumerate(table["image_id"].to_pylist())}
                self._photos = table["image"]
        return self._photos[self._rows[image_id]].as_py()

    def _copy(self, part: Path) -> None:
        source = pq.ParquetFile(files.local(self._uri, self._cache) / RECORDS)
        schema = pa.schema([source.schema_arrow.field(name) for name in ("image_id", "image")])
        with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, schema) as target:
            for batch in source.iter_batches(BATCH, columns=schema.names):
                target.write_batch(batch)
