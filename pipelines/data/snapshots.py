"""The rows of a snapshot: collected as of a time, the golden ones kept for ever, opened again."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from monitoring.stores import open_store
from pipelines import files
from pipelines.cache import Cache, cache_of
from pipelines.data.images import spec_of
from pipelines.data.profiles import TIME, read_index, shard_days
from pipelines.data.split import assign, freeze
from pipelines.data.streamed import Streamed
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.pictures import STATS
from training.data import SnapshotData, open_snapshot
from training.shards import IMAGES, Mapped, Store, open_shard

GOLDEN = pa.schema(
    [("image_id", pa.string()), ("label", pa.string()), ("labelled_at", TIME), ("shard_uri", pa.string())]
)

ROWS = pa.schema(
    [
        ("image_id", pa.string()),
        ("source_id", pa.string()),
        ("captured_at", TIME),
        ("group_id", pa.string()),
        ("label", pa.string()),
        ("label_index", pa.int64()),
        ("split", pa.string()),
        ("shard_uri", pa.string()),
        ("row", pa.int64()),
        ("context", pa.list_(pa.float32())),
        ("defaulted", pa.bool_()),
        ("pixels", pa.int64()),
        ("attributes", pa.string()),
        *((name, pa.float64()) for name in STATS),
    ]
)
"""rows.parquet, ordered by captured_at, image_id. `defaulted`: nothing was known about the sender then. `pixels` and
`attributes` are the shard index's; the shards' hashes in the snapshot's id cover them."""


def collect(
    settings: Settings,
    recipe: Recipe,
    golden: pd.DataFrame | None,
    *,
    as_of: datetime,
    days: int,
    drift_from: date | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The snapshot's rows but for their context, by captured_at and image_id, and each window shard's content hash.

    Raises:
        ClassyError: a shard is of another image spec, or a golden photo is in no shard.
    """
    start = as_of - timedelta(days=days)
    window = shard_days(settings.data_root, start=start, until=as_of)
    older = [] if golden is None else sorted(set(golden["shard_uri"]) - set(window))
    hashes = {uri: _checked_shard(uri, spec_of(recipe).digest()) for uri in [*older, *window]}
    photos = _photos(hashes)
    frozen = set() if golden is None else set(golden["image_id"])
    _none_lost(frozen, photos)
    inside = (photos["captured_at"] >= start) & (photos["captured_at"] < as_of)
    # A golden row that was taken after this as_of (an older snapshot made again) is of the future.
    photos = photos[inside | (photos["image_id"].isin(frozen) & (photos["captured_at"] < as_of))]
    photos = photos.sort_values(["captured_at", "image_id"], ignore_index=True)

    labels = _labels(settings, recipe, as_of)
    if golden is None:
        known = photos[photos["image_id"].isin(labels.index)]
        frozen = set(freeze(known, as_of=as_of, spec=recipe.snapshot))
    else:
        said = golden[golden["labelled_at"] <= as_of].set_index("image_id")[["label", "labelled_at"]]
        labels = pd.concat([labels[~labels.index.isin(frozen)], said])
    photos["split"] = assign(photos, frozen, as_of=as_of, spec=recipe.snapshot, drift_from=drift_from)
    photos = photos.join(labels, on="image_id")
    rows = photos[photos["label"].notna() & (photos["split"] != "")].reset_index(drop=True)
    position = {name: index for index, name in enumerate(recipe.taxonomy.classes)}
    rows["label_index"] = rows["label"].map(position).astype("int64")
    return rows, hashes


def _checked_shard(uri: str, spec_hash: str) -> str:
    manifest = files.need_manifest(uri, "prepare")
    if manifest["spec_hash"] != spec_hash:
        raise ClassyError(
            f"{uri}: made for image spec {manifest['spec_hash']}, the recipe's [image] is {spec_hash}; "
            f"run `classy prepare` again for each day"
        )
    return files.content_hash(manifest)


def _photos(uris: Iterable[str]) -> pd.DataFrame:
    columns = ["image_id", "row", "source_id", "captured_at", "group_id", "pixels", "attributes", *STATS]
    schema = pa.schema([ROWS.field(name) for name in columns])
    tables = []
    for uri in uris:
        index = read_index(uri)
        if missing := [name for name in columns if name not in index.column_names]:
            raise ClassyError(
                f"{uri}: its index has no {', '.join(missing)}: an older Classy made it; run `classy prepare` again "
                "for each day"
            )
        table = index.select(columns).cast(schema)
        tables.append(table.append_column("shard_uri", pa.repeat(pa.scalar(uri), table.num_rows)))
    empty = schema.append(pa.field("shard_uri", pa.string())).empty_table()
    return pa.concat_tables([empty, *tables]).to_pandas()


def _labels(settings: Settings, recipe: Recipe, as_of: datetime) -> pd.DataFrame:
    """label and labelled_at by image_id, of what was said by `as_of`."""
    truth = open_store(settings.database_url).truth(as_of=as_of)
    return truth[truth["label"].isin(list(recipe.taxonomy.classes))].set_index("image_id")[["label", "labelled_at"]]


# ----------------------------------------------------------------------------------------------- golden


def read_golden(uri: str) -> pd.DataFrame | None:
    """The frozen rows (GOLDEN), or None before the first snapshot that was fit to train on."""
    if files.read_manifest(uri) is None:
        return None
    with fsspec.open(files.join(uri, "rows.parquet")) as file:
        return pq.read_table(file).to_pandas()


def _none_lost(frozen: set[str], photos: pd.DataFrame) -> None:
    lost = sorted(frozen - set(photos["image_id"]))
    if lost:
        raise ClassyError(
            f"{len(lost)} golden photos are in no shard any more, such as {lost[0]}; bring their raw days back and run "
            f"`classy prepare`. Without them contenders could not be compared with champions"
        )


def freeze_golden(settings: Settings, uri: str, rows: pd.DataFrame, as_of: datetime) -> bool:
    """Keep the golden rows for ever. False when others were kept first."""
    mine = rows.loc[rows["split"] == "golden", GOLDEN.names]
    settings.home.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.home / "golden.lock"):
        if files.read_manifest(uri) is not None:
            return False
        with files.new_partition(uri) as draft:
            pq.write_table(pa.Table.from_pandas(mine, GOLDEN, preserve_index=False), draft.folder / "rows.parquet")
            draft.meta = {"as_of": as_of.isoformat(), "count": len(mine)}
    return True


# ---------------------------------------------------------------------------------------------- content


def to_table(rows: pd.DataFrame, context: np.ndarray, defaulted: np.ndarray) -> pa.Table:
    """`collect`'s rows with their context (float32 [N, F]) as ROWS."""
    made = {
        "context": pa.ListArray.from_arrays(
            pa.array(np.arange(len(context) + 1) * context.shape[1], pa.int32()),
            pa.array(context.ravel(), pa.float32()),
        ),
        "defaulted": pa.array(defaulted, pa.bool_()),
    }
    given = {name: pa.array(rows[name], ROWS.field(name).type) for name in ROWS.names if name not in made}
    return pa.table([{**given, **made}[name] for name in ROWS.names], schema=ROWS)


def identity(parts: dict[str, object], arrays: Sequence[np.ndarray]) -> str:
    """16 hex digits over the canonical JSON of `parts` and the bytes of `arrays`."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- opening


def newest_as_of(settings: Settings) -> datetime:
    """The end of the newest day that has features: what a person who names no time means. Not for steps.

    Raises:
        ClassyError: no day has.
    """
    days = sorted(path.stem for path in (Path(settings.features_root) / "receipts").glob("*.json"))
    if not days:
        raise ClassyError(f"{settings.features_root}: no day has features yet; run `classy materialize` for one first")
    return datetime.combine(date.fromisoformat(days[-1]), time(), UTC) + timedelta(days=1)


def need_fit(uri: str) -> None:
    """Say why a snapshot must not be trained on.

    Raises:
        ClassyError: it is not there, or `classy snapshot` found it wanting.
    """
    manifest = files.need_manifest(uri, "snapshot")
    if not manifest["ok"]:
        raise ClassyError(f"{uri}: is not fit to train on: {'; '.join(manifest['reasons'])}")


def need_images(recipe: Recipe, data: SnapshotData, uri: str) -> None:
    """A snapshot's images must be what the recipe makes.

    Raises:
        ClassyError: they are others.
    """
    wanted = spec_of(recipe).digest()
    if data.meta["spec_hash"] != wanted:
        raise ClassyError(
            f"{uri}: its images are {data.meta['spec_hash']}, the recipe's [image] makes {wanted}; "
            "run `classy prepare` for each day and `classy snapshot` again"
        )


def read_snapshot(settings: Settings, uri: str) -> SnapshotData:
    """Open a snapshot that may be on another machine. Its shards are fetched, or read as they are wanted.

    Raises:
        ClassyError: it, or a shard it names, is not there, or a shard is of another image spec by now.
    """
    manifest = files.need_manifest(uri, "snapshot")
    cache = cache_of(settings)
    shards = {}
    for shard in manifest["partitions"]:
        shards[shard] = files.need_manifest(shard, "prepare")
        made = shards[shard].get("spec_hash", manifest["spec_hash"])
        if made != manifest["spec_hash"]:
            raise ClassyError(
                f"{shard}: was made again for image spec {made}, the snapshot {uri} is of {manifest['spec_hash']}; "
                "run `classy snapshot` again"
            )
    return open_snapshot(files.local(uri, cache), _images(shards, int(manifest["size"]), cache))


def _images(shards: Mapping[str, Mapping[str, Any]], size: int, cache: Cache) -> Store:
    """Mapped where they are here, or where all fit well into the cache; else read row by row when they are wanted."""
    elsewhere = [uri for uri in shards if not files.is_local(uri)]
    most = cache.limit // 2
    if sum(shards[uri]["files"][IMAGES]["bytes"] for uri in elsewhere) > most:
        return Streamed(list(shards), size, folder=cache.folder, keep=most)
    return Mapped([open_shard(files.local(uri, cache)) for uri in shards], size)
