"""A snapshot of real digits, written as `classy snapshot` would: for tests of what reads snapshots."""

import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.tracking import MlflowClient
from sklearn.datasets import load_digits

from pipelines import files
from pipelines.data.features import SERVICE, context_names, service_hash
from pipelines.data.images import spec_of
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.pictures import STATS
from training.data import SPLITS
from training.shards import write_shard

AS_OF = datetime(2026, 3, 7, tzinfo=UTC)
COUNTS = {"train": 300, "val": 90, "golden": 80, "fresh": 40}


@cache
def _empty_mlflow() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
        return path.read_bytes()


def put_mlflow(settings: Settings) -> None:
    """An MLflow database with its tables and nothing in them: MLflow takes seconds to make one."""
    (settings.home / "mlflow").mkdir(parents=True)
    (settings.home / "mlflow" / "mlflow.db").write_bytes(_empty_mlflow())


def digit_images(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, 16, 16, 3] and labels, in scikit-learn's order."""
    data = load_digits()
    rows = slice(start, start + count)
    grey = np.kron(data.images[rows], np.ones((1, 2, 2))) * 15.9
    return np.repeat(grey[..., None], 3, axis=3).astype(np.uint8), data.target[rows]


def digits_snapshot(settings: Settings, recipe: Recipe, *, name: str = "digits", **meta: Any) -> str:
    """Write one shard and one snapshot over it; gives the snapshot's URI. `meta` replaces manifest fields."""
    total = sum(COUNTS.values())
    images, labels = digit_images(total)
    rng = np.random.default_rng(7)
    shard = files.join(settings.data_root, "shards", f"date={name}")
    with files.new_partition(shard) as draft:
        write_shard(draft.folder, images, total, 16)
    names = context_names(recipe)
    context = rng.normal(size=(total, len(names))).astype(np.float32)
    split = np.repeat(SPLITS, [COUNTS[part] for part in SPLITS])
    # Rows are a quarter of an hour apart, the newest just before as_of.
    captured = [AS_OF - timedelta(minutes=15 * (total - row)) for row in range(total)]
    classes = recipe.taxonomy.classes
    table = pa.table(
        {
            "image_id": [f"{name}-{row:04d}" for row in range(total)],
            "source_id": [f"sender-{row % 20}" for row in range(total)],
            "captured_at": pa.array(captured, pa.timestamp("us", "UTC")),
            "group_id": [f"{name}-{row:04d}" for row in range(total)],
            "label": [classes[label] for label in labels],
            "label_index": labels.astype(np.int64),
            "split": split.tolist(),
            "shard_uri": [shard] * total,
            "row": np.arange(total),
            "context": pa.array(list(context), pa.list_(pa.float32())),
            **{stat: rng.random(total) for stat in STATS},
        }
    )
    uri = files.join(settings.data_root, "snapshots", name)
    with files.new_partition(uri) as draft:
        pq.write_table(table, draft.folder / "rows.parquet")
        draft.meta = {
            "snapshot_id": name,
            "as_of": AS_OF.isoformat(),
            "window_days": 6,
            "classes": list(classes),
            "counts": COUNTS,
            "partitions": [shard],
            "spec_hash": spec_of(recipe).digest(),
            "size": 16,
            "service": SERVICE,
            "service_hash": service_hash(recipe),
            "context_names": list(names),
            "stats_names": list(STATS),
            "recipe": recipe.digest(),
            "ok": True,
            "reasons": [],
            **meta,
        }
    return uri
