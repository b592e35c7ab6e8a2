"""Turn one checked day into canonical images and what can be said of them.

    classy prepare --clean-uri var/data/clean/date=2026-03-01

The images are decoded here once, and never again by whoever trains or scores.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from pipelines import files
from pipelines.data.images import spec_of
from pipelines.data.records import NO_ATTRIBUTES
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.canonical import BadImage, ImageSpec, canonicalise
from serving.pictures import STATS, picture_stats
from training.shards import write_shard

BATCH = 64
"""Photos in memory at a time."""

INDEX = pa.schema(
    [
        ("image_id", pa.string()),
        ("row", pa.int64()),
        ("source_id", pa.string()),
        ("captured_at", pa.timestamp("us", "UTC")),
        ("group_id", pa.string()),
        ("sha256", pa.string()),
        ("pixels", pa.int64()),
        ("attributes", pa.string()),
        *((name, pa.float64()) for name in STATS),
    ]
)
"""index.parquet of a shard: a row an image, in the order of images.npy. `pixels` is width × height of the photo as it
came, after orientation; `attributes` is a JSON object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A day's shard."""

    shard_uri: str
    day: str
    images: int
    spec_hash: str


def run(settings: Settings, recipe: Recipe, *, clean_uri: str) -> Prepared:
    """Write `shards/date=D` for the clean partition of day D.

    Made again from the same clean rows and the same image spec, nothing is written, unless an older Classy left out
    columns of the index. Memory is bounded: the
    raw photos are streamed, the images go straight into their file.

    Raises:
        ClassyError: there is no clean partition, validation refused it, or the raw photos are not those it saw.
    """
    clean = files.need_manifest(clean_uri, "validate")
    if not clean["ok"]:
        raise ClassyError(f"{clean_uri}: validation refused this day ({'; '.join(clean['reasons'])}); mend the source")
    spec = spec_of(recipe)
    shard_uri = files.join(settings.data_root, "shards", f"date={clean['day']}")
    inputs = {"clean_uri": clean_uri, "clean_hash": files.content_hash(clean), "spec_hash": spec.digest()}
    made_of = {**inputs, "columns": INDEX.names}
    known = files.read_manifest(shard_uri)
    if known is None or any(known.get(key) != value for key, value in made_of.items()):
        rows = _read_rows(clean_uri)
        with files.new_partition(shard_uri) as draft:
            making = _Making(rows=rows, spec=spec, threads=settings.cores, uri=clean_uri)
            write_shard(draft.folder, making.images(clean["raw_uri"]), len(rows), spec.size)
            pq.write_table(pa.Table.from_pylist(making.index, INDEX), draft.folder / "index.parquet")
            draft.meta = {**made_of, "day": clean["day"], "count": len(rows), "size": spec.size}
        known = {"count": len(rows)}
    return Prepared(shard_uri=shard_uri, day=clean["day"], images=known["count"], spec_hash=inputs["spec_hash"])


def _read_rows(clean_uri: str) -> dict[str, dict[str, Any]]:
    names = ["image_id", "source_id", "captured_at", "sha256", "group_id", "width", "height"]
    with fsspec.open(files.join(clean_uri, "records.parquet")) as file:
        table = pq.ParquetFile(file)
        # An older Classy wrote no attributes.
        there = [name for name in (*names, "attributes") if name in table.schema_arrow.names]
        rows = table.read(columns=there).to_pylist()
    return {row["image_id"]: {"attributes": NO_ATTRIBUTES, **row} for row in rows}


@dataclass(slots=True)
class _Making:
    """One run: `images` yields what `index` then describes."""

    rows: dict[str, dict[str, Any]]
    spec: ImageSpec
    threads: int
    uri: str
    index: list[dict[str, Any]] = field(default_factory=list)

    def images(self, raw_uri: str) -> Iterator[np.ndarray]:
        path = files.join(raw_uri, "records.parquet")
        waiting = set(self.rows)
        progress = tqdm(total=len(waiting), desc="prepare", unit="photo", disable=None)
        with progress, fsspec.open(path) as file, ThreadPoolExecutor(self.threads) as pool:
            for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=["image_id", "image"]):
                wanted = [record for record in batch.to_pylist() if self._is_checked(record)]
                for image, entry in pool.map(self._one, wanted):
                    if entry["image_id"] in waiting:
                        waiting.discard(entry["image_id"])
                        self.index.append({**entry, "row": len(self.index)})
                        yield image
                progress.update(len(wanted))
        if waiting:
            raise ClassyError(
                f"{path}: {len(waiting)} photos of {self.uri} are gone or changed, such as {min(waiting)}; "
                f"run `classy validate` again"
            )

    def _is_checked(self, record: dict[str, Any]) -> bool:
        # By content: a photo that changed since it was checked counts as gone.
        row = self.rows.get(record["image_id"])
        if row is None or record["image"] is None:
            return False
        return hashlib.sha256(record["image"]).hexdigest() == row["sha256"]

    def _one(self, record: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        row = self.rows[record["image_id"]]
        try:
            image = canonicalise(record["image"], self.spec)
        except BadImage as error:
            raise ClassyError(
                f"{self.uri}: {record['image_id']}: {error}; the recipe's [image] changed? Run `classy validate` again"
            ) from error
        size = {"width": row["width"], "height": row["height"]}
        return image, {**row, "pixels": size["width"] * size["height"], **picture_stats(image, **size)}
