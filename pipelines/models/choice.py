"""Rows of Parquet files, no more than are wanted: which ones is said by lot, and stays."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

MOST = 20_000
"""Rows of a window, or of a reference, that are held in memory; `monitoring.columns` compares fewer."""
BATCH = 8_192  # rows of one read
KEYS = ("image_id", "captured_at")


def read_choice(
    paths: Sequence[Path],
    *,
    most: int = MOST,
    keep: Callable[[pd.DataFrame], pd.Series] | None = None,
    keys: Sequence[str] = KEYS,
) -> pd.DataFrame:
    """Rows by captured_at and image_id, each photo once, by the last file: at most `most` photos.

    Which photos is said by a hash of their ids: the same each time, and no other than by lot. Only their rows are held
    in memory, however large the files.

    Args:
        paths: files with the same columns, `keys` among them; one may lack some of the others.
        keep: which photos there are to choose from, by their `keys`; None: all.
    """
    if not paths:
        return pd.DataFrame()
    found = pd.concat([pd.read_parquet(path, columns=list(keys)).assign(file=n) for n, path in enumerate(paths)])
    found["position"] = found.groupby("file").cumcount()
    found = found.drop_duplicates("image_id", keep="last")
    if keep is not None:
        found = found[keep(found)]
    if len(found) > most:
        lots = pd.util.hash_array(found["image_id"].to_numpy(object), categorize=False)
        found = found.iloc[np.argpartition(lots, most)[:most]]
    tables = [_rows_at(path, found.loc[found["file"] == n, "position"].to_numpy()) for n, path in enumerate(paths)]
    # A file of an older Classy has fewer columns: its rows have nothing there.
    joined = pa.concat_tables(tables, promote_options="default").to_pandas()
    return joined.sort_values(["captured_at", "image_id"], ignore_index=True)


def _rows_at(path: Path, positions: NDArray[np.int64]) -> pa.Table:
    with pq.ParquetFile(path) as file:
        chosen = np.zeros(file.metadata.num_rows, bool)
        chosen[positions] = True
        tables, start = [file.schema_arrow.empty_table()], 0
        for batch in file.iter_batches(BATCH):
            tables.append(pa.Table.from_batches([batch.filter(chosen[start : start + len(batch)])]))
            start += len(batch)
        return pa.concat_tables(tables)
