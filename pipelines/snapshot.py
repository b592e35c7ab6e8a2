"""Freeze what can be trained and judged on as of a time.

    classy snapshot --as-of 2026-03-07T00:00:00Z

Only labels that were known by then and features that were available by then.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipelines import files
from pipelines.data.features import SERVICE, context_names, context_rows, open_features, service_hash
from pipelines.data.images import spec_of
from pipelines.data.snapshots import collect, freeze_golden, identity, read_golden, to_table
from pipelines.data.split import counts, judge
from pipelines.errors import ClassyError
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.pictures import STATS


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


def run(
    settings: Settings,
    recipe: Recipe,
    *,
    as_of: datetime,
    window_days: int | None = None,
    drift_from: date | None = None,
) -> Snapshotted:
    """Write `snapshots/ID`: photos of the window whose label was known at `as_of`, split, with their context.

    ID is the content's hash: the same content is the same snapshot, and nothing is written twice. The first
    snapshot that is fit to train on freezes the golden rows; every later one has them too, however old.

    Args:
        as_of: labels, photos and features known by then.
        window_days: how far back; None: the recipe's.
        drift_from: the day a drift began that asks for this training. Its held-out rows are fresh rows, however
            long ago it was, and decide the judgement.

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
    golden = read_golden(golden_uri)
    if drift_from is not None and datetime.combine(drift_from, time(), UTC) >= as_of:
        raise ClassyError(f"drift_from={drift_from}: is not before as_of={as_of.isoformat()}")
    rows, hashes = collect(settings, recipe, golden, as_of=as_of, days=days, drift_from=drift_from)
    reasons = judge(rows, classes=recipe.taxonomy.classes, spec=recipe.snapshot)
    if not hashes:
        reasons.insert(0, f"no shards in the {days} days before {as_of.isoformat()}; run `classy prepare` for them")
    if golden is None and not reasons and not freeze_golden(settings, golden_uri, rows, as_of):
        # Another snapshot froze other golden rows meanwhile: they are everybody's.
        return run(settings, recipe, as_of=as_of, window_days=window_days, drift_from=drift_from)
    return _write(settings, recipe, rows, hashes, reasons, as_of=as_of, days=days, drift_from=drift_from)


def _write(
    settings: Settings,
    recipe: Recipe,
    rows: pd.DataFrame,
    hashes: dict[str, str],
    reasons: list[str],
    *,
    as_of: datetime,
    days: int,
    drift_from: date | None,
) -> Snapshotted:
    context, defaulted = _context(settings, recipe, rows)
    partitions = sorted(set(rows["shard_uri"]))
    meta: dict[str, Any] = {
        "as_of": as_of.isoformat(),
        "window_days": days,
        "drift_from": None if drift_from is None else str(drift_from),
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
            table = to_table(rows, context, defaulted)
            pq.write_table(table, draft.folder / "rows.parquet")
            draft.meta = {
                **meta,
                "snapshot_id": snapshot_id,
                "recipe": recipe.digest(),
                "shard_hashes": {uri: hashes[uri] for uri in partitions},
                "created_at": datetime.now(UTC).isoformat(),
            }
    return Snapshotted(
        snapshot_uri=uri,
        snapshot_id=snapshot_id,
        as_of=meta["as_of"],
        counts=meta["counts"],
        ok=meta["ok"],
        reasons=reasons,
    )


def _context(settings: Settings, recipe: Recipe, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    if rows.empty:  # Perhaps nothing was materialized either: the verdict says what is missing.
        return np.empty((0, len(context_names(recipe))), np.float32), np.empty(0, np.bool_)
    return context_rows(open_features(settings, recipe), rows)
