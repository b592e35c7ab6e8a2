"""The recipe's word on watching, as the pure functions of `monitoring` take it, and the photos that are compared."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monitoring.watch import Watching
from pipelines.recipe import Recipe
from serving.pictures import STATS

BATCH = 8_192  # rows of one read


def watching_of(recipe: Recipe) -> Watching:
    """How a day of this recipe is watched."""
    asked = recipe.monitoring
    return Watching(
        classes=recipe.taxonomy.classes,
        stats=STATS,
        min_rows=asked.min_rows,
        alpha=asked.alpha,
        min_effect=asked.min_effect,
        window_days=asked.window_days,
        truth_days=asked.truth_days,
    )


def read_choice(paths: Sequence[Path], *, most: int, since: datetime | None = None) -> pd.DataFrame:
    """Rows of Parquet files by captured_at and image_id, each photo once, by the last file: at most `most`.

    Which photos is said by a hash of their ids: the same each time, and no other than by lot. Only their rows are held
    in memory, however large the files.

    Args:
        paths: files with image_id and captured_at, and the same columns.
        since: older photos are left out.
    """
    if not paths:
        return pd.DataFrame()
    keys = pd.concat(
        [pd.read_parquet(path, columns=["image_id", "captured_at"]).assign(file=n) for n, path in enumerate(paths)]
    )
    keys["position"] = keys.groupby("file").cumcount()
    keys = keys.drop_duplicates("image_id", keep="last")
    if since is not None:
        keys = keys[keys["captured_at"] >= since]
    if len(keys) > most:
        lots = pd.util.hash_array(keys["image_id"].to_numpy(object), categorize=False)
        keys = keys.iloc[np.argpartition(lots, most)[:most]]
    tables = [_rows_at(path, keys.loc[keys["file"] == n, "position"].to_numpy()) for n, path in enumerate(paths)]
    return pa.concat_tables(tables).to_pandas().sort_values(["captured_at", "image_id"], ignore_index=True)


def _rows_at(path: Path, positions: NDArray[np.int64]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        chosen = np.zeros(file.metadata.num_rows, bool)
        chosen[positions] = True
        tables, start = [file.schema_arrow.empty_table()], 0
        for batch in file.iter_batches(BATCH):
            tables.append(pa.Table.from_batches([batch.filter(chosen[start : start + len(batch)])]))
            start += len(batch)
        return pa.concat_tables(tables)
