"""The rows that Feast's offline files hold: what a photo looks like, and what was known about its sender."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import files
from serving.pictures import STATS

TIME = pa.timestamp("us", "UTC")

PROFILE_SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("event_timestamp", TIME),
        ("photos", pa.int64()),
        ("labelled", pa.int64()),
        ("label_share", pa.float64()),
        ("class_mix", pa.list_(pa.float32())),
        ("mean_brightness", pa.float64()),
        ("mean_sharpness", pa.float64()),
    ]
)


def shard_days(data_root: str, *, start: datetime, until: datetime) -> list[str]:
    """URIs of the shards with days that touch [start, until), oldest first."""
    root = files.join(data_root, "shards")
    first, last = start.astimezone(UTC).date(), (until - timedelta(microseconds=1)).astimezone(UTC).date()
    days = [name for name in files.list_partitions(root) if name.startswith("date=")]
    return [files.join(root, name) for name in days if first <= date.fromisoformat(name.removeprefix("date=")) <= last]


def read_index(shard_uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The index of one shard, all columns or some."""
    with fsspec.open(files.join(shard_uri, "index.parquet")) as file:
        return pq.read_table(file, columns=None if columns is None else list(columns))


def read_window(data_root: str, *, as_of: datetime, days: int) -> pd.DataFrame:
    """Photos captured in the `days` before `as_of`: image_id, source_id, brightness, sharpness."""
    start = as_of - timedelta(days=days)
    columns = ["image_id", "source_id", "captured_at", "brightness", "sharpness"]
    schema = pa.schema([("image_id", pa.string()), ("source_id", pa.string()), ("captured_at", TIME)])
    schema = schema.append(pa.field("brightness", pa.float64())).append(pa.field("sharpness", pa.float64()))
    tables = [read_index(uri, columns).cast(schema) for uri in shard_days(data_root, start=start, until=as_of)]
    table = pa.concat_tables([schema.empty_table(), *tables])
    inside = pc.and_(
        pc.greater_equal(table["captured_at"], pa.scalar(start, TIME)),
        pc.less(table["captured_at"], pa.scalar(as_of, TIME)),
    )
    return table.filter(inside).drop(["captured_at"]).to_pandas()


def image_stats(shard_uri: str) -> pa.Table:
    """A row a photo: image_id, event_timestamp (when it was taken), STATS."""
    index = read_index(shard_uri, ["image_id", "captured_at", *STATS])
    return index.rename_columns(["image_id", "event_timestamp", *STATS])


def source_profile(photos: pd.DataFrame, truth: pd.DataFrame, *, classes: Sequence[str], as_of: datetime) -> pa.Table:
    """A row a sender, sorted: what was known about it at `as_of`, which is when it is available.

    Args:
        photos: those of the window, from `read_window`.
        truth: accepted labels known at `as_of`, with image_id and label.

    Returns:
        PROFILE_SCHEMA. `class_mix` is (labels of the class + 1) / (labels + C): a sender with no label has
        every class alike, and one label does not make it certain.
    """
    merged = photos.merge(truth[["image_id", "label"]], on="image_id", how="left")
    merged["label"] = merged["label"].where(merged["label"].isin(list(classes)))
    senders = merged.groupby("source_id", sort=True)
    counts = merged.pivot_table(index="source_id", columns="label", values="image_id", aggfunc="count")
    summary = senders.agg(
        photos=("image_id", "count"),
        labelled=("label", "count"),
        mean_brightness=("brightness", "mean"),
        mean_sharpness=("sharpness", "mean"),
    )
    per_class = counts.reindex(index=summary.index, columns=list(classes)).fillna(0).to_numpy(np.float64)
    mix = (per_class + 1) / (per_class.sum(axis=1, keepdims=True) + len(classes))
    return pa.table(
        {
            "source_id": pa.array(summary.index, pa.string()),
            "event_timestamp": pa.array([as_of] * len(summary), TIME),
            "photos": pa.array(summary["photos"], pa.int64()),
            "labelled": pa.array(summary["labelled"], pa.int64()),
            "label_share": pa.array(summary["labelled"] / summary["photos"], pa.float64()),
            "class_mix": pa.array(list(mix.astype(np.float32)), pa.list_(pa.float32())),
            "mean_brightness": pa.array(summary["mean_brightness"], pa.float64()),
            "mean_sharpness": pa.array(summary["mean_sharpness"], pa.float64()),
        },
        schema=PROFILE_SCHEMA,
    )
