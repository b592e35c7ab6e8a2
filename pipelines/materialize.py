"""Make the features of one day and bring them online.

    classy materialize --shard-uri var/data/shards/date=2026-03-01

A day's features are dated by when they are available: a sender's profile at the day's end.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from monitoring.stores import open_store
from pipelines import files
from pipelines.data.features import SERVICE, apply_features, bring_online, offline_file, service_hash
from pipelines.data.profiles import image_stats, read_window, source_profile
from pipelines.recipe import Recipe
from pipelines.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Materialized:
    """A day's features, offline and online."""

    day: str
    as_of: str
    """The end of the day: when its profiles are available."""
    service: str
    service_hash: str
    images: int
    sources: int
    watermark: str
    """Up to when the online store was filled when this day was: never beyond the days that were made."""


def run(settings: Settings, recipe: Recipe, *, shard_uri: str) -> Materialized:
    """Write `image_stats` and `source_profile` of the shard's day, and bring them online.

    Made again from the same photos and labels, nothing is written. An older day that is made again never
    overwrites newer values online.

    Raises:
        ClassyError: there is no shard, or the feature store cannot be used.
    """
    meta = files.need_manifest(shard_uri, "prepare")
    day = date.fromisoformat(meta["day"])
    start = datetime.combine(day, time(), UTC)
    as_of = start + timedelta(days=1)
    window = read_window(settings.data_root, as_of=as_of, days=recipe.features.profile_days)
    truth = open_store(settings.database_url).truth(as_of=as_of)
    tables = {
        "image_stats": image_stats(shard_uri),
        "source_profile": source_profile(window, truth, classes=recipe.taxonomy.classes, as_of=as_of),
    }
    handle = apply_features(settings, recipe)
    written = {view: _bytes(table) for view, table in tables.items()}
    content = hashlib.sha256(b"".join([service_hash(recipe).encode(), *written.values()])).hexdigest()
    receipt = Path(settings.features_root) / "receipts" / f"{day}.json"
    # The receipt is written last: a run that was killed midway is done again.
    known = json.loads(receipt.read_text()) if receipt.exists() else {}
    if known.get("content") != content:
        for view, data in written.items():
            files.write_bytes(offline_file(settings, view, day), data)
        reached = bring_online(handle, start=start, end=as_of)
        known = {"content": content, "watermark": reached.isoformat()}
        files.write_text(str(receipt), json.dumps(known))
    return Materialized(
        day=str(day),
        as_of=as_of.isoformat(),
        service=SERVICE,
        service_hash=service_hash(recipe),
        images=tables["image_stats"].num_rows,
        sources=tables["source_profile"].num_rows,
        watermark=known["watermark"],
    )


def _bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
