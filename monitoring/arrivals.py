"""How labels come: how many, how late, which tell nothing, and accuracy by days whose labels had equal time to come."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from monitoring.performance import delays, judged, share_of

MOST_WINDOWS = 60
"""Cohorts of one day's evidence."""


def labels(counts: pd.DataFrame, classes: Sequence[str], doubts: Mapping[str, int]) -> dict[str, Any]:
    """Coverage and delay of the labels of these photos (rows of a tally), and what was wrong with some.

    Args:
        doubts: labels that came lately and tell nothing, by reason (`monitoring.tallies.doubts`).
    """
    known = judged(counts, classes)
    photos, labelled = int(counts["rows"].sum()), int(known["rows"].sum())
    return {
        "photos": photos,
        "labelled": labelled,
        "coverage": labelled / photos if photos else None,
        "delay_days": _delay(known),
        "notes": _notes(counts, classes, doubts),
    }


def cohorts(counts: pd.DataFrame, classes: Sequence[str], day: date) -> dict[str, Any]:
    """Accuracy by the day of capture, on labels that were at most `age_days` old, of days that are as old.

    Each day's labels had equally long to come, so days can be compared with each other. The age is the least at which
    half of all labels were there.
    """
    known = judged(counts, classes)
    took = np.asarray(delays(known["captured_on"], known["labelled_on"]), int)
    age = int(np.ceil(_quantile(took, known["rows"], 0.5))) if len(known) else 1
    soon, last = known[took <= age], day - timedelta(days=age)
    days = sorted(set(counts.loc[counts["captured_on"] <= last, "captured_on"]))[-MOST_WINDOWS:]
    windows = []
    for taken in days:
        found = asdict(share_of(soon[soon["captured_on"] == taken]))
        windows.append({"from": str(taken), "until": str(taken), **found})
    return {"age_days": age, "windows": windows}


def _delay(known: pd.DataFrame) -> dict[str, float] | None:
    if known.empty:
        return None
    took = np.asarray(delays(known["captured_on"], known["labelled_on"]), int)
    return {name: _quantile(took, known["rows"], q) for name, q in (("median", 0.5), ("p90", 0.9))}


def _quantile(values: np.ndarray, weights: pd.Series, q: float) -> float:
    """The least value that a share q of the weight is at or below."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights.to_numpy(float)[order])
    return float(values[order][np.searchsorted(reached, q * reached[-1])])


def _notes(counts: pd.DataFrame, classes: Sequence[str], doubts: Mapping[str, int]) -> list[str]:
    notes = []
    labelled = counts[counts["label"].notna()]
    early = int(labelled.loc[labelled["early"].astype(bool), "rows"].sum())
    if early:
        notes.append(f"{_labels(early)} from before the photo was taken: a clock is wrong; not counted.")
    strange = labelled[~labelled["label"].isin(list(classes))]
    if len(strange):
        names = strange.groupby("label")["rows"].sum().sort_values(ascending=False)
        told = ", ".join(repr(name) for name in names.index[:3]) + (", ..." if len(names) > 3 else "")
        notes.append(f"{_labels(int(names.sum()))} of classes that the model does not know ({told}): not counted.")
    for reason, rows in doubts.items():
        if reason == "unknown photo":
            notes.append(f"{_labels(rows)} of photos that nobody was asked about.")
        else:
            notes.append(f"{_labels(rows)} not accepted: {reason}.")
    return notes


def _labels(rows: int) -> str:
    return f"{rows} label{'s are' if rows != 1 else ' is'}"
