"""Which rows a champion is watched against."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.models.choice import KEYS, read_choice
from pipelines.sections import Monitoring

FITTED = "train"


def reference_rows(
    captured_at: NDArray[np.datetime64], *, as_of: datetime, drift_from: date | None, spec: Monitoring
) -> NDArray[np.bool_]:
    """Which of the rows that a model was not fitted on are its reference, [N].

    Those since the drift that it was trained for: days of the world before it would make the new world look changed
    for ever. Where those are fewer than `min_rows`, or there was no drift, those of the last `reference_days`; where
    those are too few as well, all.

    Args:
        captured_at: [N], UTC.
        as_of: aware; what the model was trained on was known by then.
    """
    moment = np.datetime64(as_of.replace(tzinfo=None), "us")
    lately = captured_at >= moment - np.timedelta64(timedelta(days=spec.reference_days))
    choices = [lately] if drift_from is None else [captured_at >= np.datetime64(drift_from), lately]
    return next((rows for rows in choices if rows.sum() >= spec.min_rows), np.ones(len(captured_at), bool))


def trained_rows(trained: pd.DataFrame, *, since: datetime, stats: Sequence[str]) -> pd.DataFrame:
    """Of the rows that a model was fitted on, those that a window's pictures are compared with.

    Its answers about them prove nothing and are not kept. The newest row of a sender that sent nothing lately stays
    without its statistics, so that the sender is known as one that the model was trained on.

    Args:
        trained: image_id, source_id, captured_at (aware) and `stats`.
        since: the reference's first moment.
    """
    ordered = trained.sort_values(["captured_at", "image_id"], ignore_index=True)
    lately = ordered["captured_at"] >= since
    newest = ~ordered.duplicated("source_id", keep="last")
    kept = ordered[lately | newest].copy()
    kept.loc[~lately, list(stats)] = np.nan
    return kept.reset_index(drop=True)


def read_reference(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """`reference.parquet` as the rows that the model was not fitted on, chosen by lot where they are many, and those
    that it was, without lists. All of these, so that every sender that it was trained on is known for one.

    None: a reference of an older Classy, which does not tell.
    """
    schema = pq.read_schema(path)
    if "split" not in schema.names:
        return read_choice([path]), None
    unseen = read_choice([path], keys=(*KEYS, "split"), keep=lambda rows: rows["split"] != FITTED)
    plain = [field.name for field in schema if not pa.types.is_list(field.type)]
    fitted = pd.read_parquet(path, columns=plain, filters=[("split", "==", FITTED)])
    return unseen, fitted if len(fitted) else None
