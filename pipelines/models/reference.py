"""Which rows a champion is watched against."""

from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from pipelines.sections import Monitoring


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
