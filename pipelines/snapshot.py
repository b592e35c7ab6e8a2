"""Freeze what can be trained and judged on as of a time.

classy snapshot --as-of 2026-03-07T00:00:00Z
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from monitoring.stores import open_store
from pipelines import files
from pipelines.errors import ClassyError
from pipelines.features import SERVICE, context_names, context_rows, open_features, service_hash
from pipelines.images import spec_of
from pipelines.profiles import TIME, read_index, shard_days
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from pipelines.snapshots import assign, counts, freeze, identity, judge
from serving.pictures import STATS

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
        *((name, pa.float64()) for name in STATS),
    ]
)
"""rows.parquet, ordered by captured_at, image_id. `defaulted`: nothing was known about the sender then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshotted:
    """A training set, frozen."""

    snapshot_uri: str
    snapshot_id: str
    as_of: str
    counts: dict[str, int]
    ok: bool
    """Whether it can be trained and judged on; `reasons` says why not."""
    reasons: list[str]


def run(settings: Settings, recipe: Recipe, *, as_of: datetime, window_days: int | None = None) -> Snapshotted:
    """Write `snapshots/ID`: photos of the window whose label was known at `as_of`, split, with their context.

    ID is the content's hash: the same content is the same snapshot, and nothing is written twice. The first
    snapshot that is fit to train on freezes the golden rows; every later one has them too, however old.

    Raises:
        ClassyError: `as_of` has no zone, shards were made for another image, or features are missing.
    """
    if as_of.tzinfo is None:
        raise ClassyError(f"as_of={as_of}: needs a time zone, such as {as_of.isoformat()}+00:00")
    as_of = as_of.astimezone(UTC)
    days = recipe.snapshot.window_days if window_days is None else window_days
    if days < 1:
        raise ClassyError(f"window_days={days}: a window has at least one day")
    golden_uri = files.join(settings.data_root, "golden")
    golden = _read_golden(golden_uri)
    rows, hashes = _rows(settings, recipe, golden, as_of=as_of, days=days)
    reasons = judge(rows, classes=recipe.taxonomy.classes, spec=recipe.snapshot)
    if not hashes:
        reasons.insert(0, f"no shards in the {days} days before {as_of.isoformat()}; run `classy prepare` for them")
    if golden is None and not reasons and not _freeze(settings, golden_uri, rows, as_of):
        # Another snapshot froze other golden rows meanwhile: they are everybody's.
        return run(settings, recipe, as_of=as_of, window_days=window_days)
    return _write(settings, recipe, rows, hashes, reasons, as_of=as_of, days=days)


# ------------------------------------------------------------------------------------------------- rows


def _rows(
    settings: Settings, recipe: Recipe, golden: pd.DataFrame | None, *, as_of: datetime, days: int
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The snapshot's rows but for their context, and the content hash of each shard they lie in."""
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
    photos["split"] = assign(photos, frozen, as_of=as_of, spec=recipe.snapshot)
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
    columns = ["image_id", "row", "source_id", "captured_at", "group_id", *STATS]
    schema = pa.schema([ROWS.field(name) for name in columns])
    tables = []
    for uri in uris:
        table = read_index(uri, columns).cast(schema)
        tables.append(table.append_column("shard_uri", pa.repeat(pa.scalar(uri), table.num_rows)))
    empty = schema.append(pa.field("shard_uri", pa.string())).empty_table()
    return pa.concat_tables([empty, *tables]).to_pandas()


def _labels(settings: Settings, recipe: Recipe, as_of: datetime) -> pd.DataFrame:
    """label and labelled_at by image_id, of what was said by `as_of`."""
    truth = open_store(settings.database_url).truth(as_of=as_of)
    return truth[truth["label"].isin(list(recipe.taxonomy.classes))].set_index("image_id")[["label", "labelled_at"]]


# ----------------------------------------------------------------------------------------------- golden


def _read_golden(uri: str) -> pd.DataFrame | None:
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


def _freeze(settings: Settings, uri: str, rows: pd.DataFrame, as_of: datetime) -> bool:
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


# ------------------------------------------------------------------------------------------------ write


def _write(
    settings: Settings,
    recipe: Recipe,
    rows: pd.DataFrame,
    hashes: dict[str, str],
    reasons: list[str],
    *,
    as_of: datetime,
    days: int,
) -> Snapshotted:
    context, defaulted = _context(settings, recipe, rows)
    partitions = sorted(set(rows["shard_uri"]))
    meta: dict[str, Any] = {
        "as_of": as_of.isoformat(),
        "window_days": days,
        "classes": list(recipe.taxonomy.classes),
        "counts": counts(rows),
        "partitions": partitions,
        "spec_hash": spec_of(recipe).digest(),
        "size": recipe.image.size,
        "service": SERVICE,
        "service_hash": service_hash(recipe),
        "context_names": list(context_names(recipe)),
        "stats_names": list(STATS),
        "ok": not reasons,
        "reasons": reasons,
    }
    listed = {name: rows[name].tolist() for name in ("image_id", "label", "split")}
    snapshot_id = identity({**meta, **listed, "shards": [hashes[uri] for uri in partitions]}, [context])
    uri = files.join(settings.data_root, "snapshots", snapshot_id)
    if files.read_manifest(uri) is None:
        with files.new_partition(uri) as draft:
            table = _table(rows, context, defaulted)
            pq.write_table(table, draft.folder / "rows.parquet")
            draft.meta = {**meta, "snapshot_id": snapshot_id, "recipe": recipe.digest()}
    return Snapshotted(
        snapshot_uri=uri,
        snapshot_id=snapshot_id,
        as_of=meta["as_of"],
        counts=meta["counts"],
        ok=meta["ok"],
        reasons=reasons,
    )


def _table(rows: pd.DataFrame, context: np.ndarray, defaulted: np.ndarray) -> pa.Table:
    made = {
        "context": pa.ListArray.from_arrays(
            pa.array(np.arange(len(context) + 1) * context.shape[1], pa.int32()),
            pa.array(context.ravel(), pa.float32()),
        ),
        "defaulted": pa.array(defaulted, pa.bool_()),
    }
    given = {name: pa.array(rows[name], ROWS.field(name).type) for name in ROWS.names if name not in made}
    return pa.table([{**given, **made}[name] for name in ROWS.names], schema=ROWS)


def _context(settings: Settings, recipe: Recipe, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    if rows.empty:  # Perhaps nothing was materialized either: the verdict says what is missing.
        return np.empty((0, len(context_names(recipe))), np.float32), np.empty(0, np.bool_)
    return context_rows(open_features(settings, recipe), rows)
