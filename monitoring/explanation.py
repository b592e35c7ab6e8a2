"""What a drift is: only another mix of classes, or another look, and of which photos.

Asked for a window that drifted, and it decides nothing. Pure: frames in, a document's part out.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from monitoring import drift
from monitoring.columns import as_by_picture, of_new_senders
from monitoring.diagnosis import diagnose
from monitoring.label_shift import explain
from monitoring.season import Season, of_the_season


def explained(
    found: drift.Drift,
    reference: pd.DataFrame | None,
    window: pd.DataFrame,
    trained: pd.DataFrame | None,
    *,
    classes: Sequence[str],
    stats: Sequence[str],
    min_rows: int,
    seed: int,
    season: Season = "none",
) -> dict[str, Any]:
    """`label_shift` and `diagnosis` of a window that drifted, as JSON; None each where it did not.

    Both look at photos of senders that the champion was not trained on, as its reference does.
    """
    if found.verdict != "DRIFT" or reference is None:
        return {"label_shift": None, "diagnosis": None}
    reference, _, _ = of_the_season(reference, window, season, min_rows)
    window = of_new_senders(window, trained)
    if found.by_picture:
        reference, window = as_by_picture(reference), as_by_picture(window)

    def differs(remixed: pd.DataFrame) -> list[str]:
        again = drift.detect(
            remixed,
            window,
            stats=stats,
            min_rows=min(min_rows, len(window)),
            alpha=found.alpha,
            min_effect=found.min_effect,
            seed=seed,
        )
        return [column.name for column in again.columns if column.verdict == "DRIFT"]

    shift = explain(reference, window, classes, differs=differs, min_rows=min_rows, seed=seed)
    return {
        "label_shift": asdict(shift),
        "diagnosis": asdict(diagnose(reference, window, stats, seed=seed)),
    }
