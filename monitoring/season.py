"""Days that repeat: a weekend's photos are compared with weekends'.

Pure: frames in, frames out.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

Season = Literal["none", "week"]
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def of_the_season(
    reference: pd.DataFrame, window: pd.DataFrame, season: Season, min_rows: int
) -> tuple[pd.DataFrame, tuple[int, ...] | None, str]:
    """The rows of the reference that a window is compared with.

    Args:
        reference: with `captured_at`, as the window.
        season: "week": rows of the window's weekdays, where there are `min_rows` of them, else all.

    Returns:
        the rows; the weekdays that they are of (Monday is 0), None for all; and why all, where a season was asked for.
    """
    if season == "none":
        return reference, None, ""
    if "captured_at" not in reference or "captured_at" not in window:
        return reference, None, "compared with all days: no column 'captured_at' says which weekday a photo is of"
    days = tuple(sorted(set(window["captured_at"].dt.dayofweek)))
    same = reference["captured_at"].dt.dayofweek.isin(days)
    if same.sum() >= min_rows:
        return reference[same], days, ""
    names = ", ".join(DAYS[day] for day in days)
    few = f"compared with all days: the reference has {same.sum()} photos of a {names}, fewer than min_rows={min_rows}"
    return reference, None, few


def without_other_days(trained: pd.DataFrame, days: Sequence[int] | None) -> pd.DataFrame:
    """Rows that tell who was trained on, with pictures' statistics of these weekdays alone."""
    if days is None or "captured_at" not in trained:
        return trained
    other = ~trained["captured_at"].dt.dayofweek.isin(days)
    numbers = trained.select_dtypes("number").columns
    return trained.assign(**{name: trained[name].where(~other, np.nan) for name in numbers})
