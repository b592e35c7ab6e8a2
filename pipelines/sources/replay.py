"""A seeded calendar for a source without times: each record gets a moment, each label a delay.

Records are shuffled and spread evenly over the days, so every day is a fair sample of the whole: the class
mix is the same throughout, and one day's photos say nothing about the next. Copies of one thing (one
group_id) may come on different days. The same rows and the same recipe give the same calendar; a replayed
source must therefore not grow. Give it a column with times when it does.
"""

import numpy as np
import pandas as pd

from pipelines.sections import Replay
from pipelines.sources.base import seed_of

_DAY_US = 86_400_000_000


def replayed(rows: pd.DataFrame, replay: Replay) -> pd.DataFrame:
    """Rows with `captured_at` and `labelled_at`, by time. A label that never comes has no time.

    Every day of `replay.days` gets the same number of records, or one more.
    """
    ordered = rows.sort_values("image_id", kind="stable", ignore_index=True)  # a listing's order is no one's promise
    count = len(ordered)
    rng = np.random.default_rng(seed_of("replay", replay.seed))
    day = rng.permutation(count).astype(np.int64) * replay.days // max(count, 1)
    captured_us = day * _DAY_US + rng.integers(0, _DAY_US, size=count)
    delay_us = (rng.uniform(*replay.label_delay_days, size=count) * _DAY_US).astype(np.int64)
    told = rng.random(count) < replay.label_share
    start = pd.Timestamp(replay.start, tz="UTC")
    captured = start + pd.to_timedelta(captured_us, unit="us")
    labelled = pd.Series(captured + pd.to_timedelta(delay_us, unit="us"))
    ordered["captured_at"] = pd.Series(captured).astype("datetime64[us, UTC]")
    ordered["labelled_at"] = labelled.where(ordered["label"].notna() & told).astype("datetime64[us, UTC]")
    return ordered.sort_values(["captured_at", "image_id"], ignore_index=True)
