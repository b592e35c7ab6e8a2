"""Who is trained on and who is tested on: the split of a snapshot.

A sender is on one side for ever, drawn by a seeded hash of its name: held out (the test rows), validation
or training. Near duplicates do not carry over: a group with a held-out photo loses its other photos, and
of the rest a group with a validation photo loses its training photos.

Time splits the held-out rows: the golden ones are older than `fresh_days` and were frozen by the first
snapshot, the fresh ones are the newest. No row of any split lies after `as_of`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

import pandas as pd

from monitoring.days import start_of
from pipelines.sections import Snapshot
from training.data import SPLITS

SIDES = ("holdout", "val", "train")
"""In order of precedence: a near-duplicate group stays with the first of its sides."""


def side_of(source_id: str, spec: Snapshot) -> str:
    """The side of a sender. Depends on its name and the spec alone, so more days never move it."""
    digest = hashlib.sha256(f"{spec.seed}:{source_id}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < spec.holdout_share:
        return "holdout"
    return "val" if draw < spec.holdout_share + spec.val_share else "train"


def sides(photos: pd.DataFrame, spec: Snapshot, *, held: Iterable[str] = ()) -> pd.Series:
    """The side of each photo, or "dropped" for one whose near duplicate is on a side that goes before.

    Args:
        photos: source_id and group_id; all that are known in the window, labelled or not, so that a label
            that comes later cannot turn a photo that was trained on into a copy of a test photo.
        held: senders that are held out whatever the spec says: those of the golden rows.
    """
    drawn = {source: side_of(source, spec) for source in photos["source_id"].unique()}
    drawn |= dict.fromkeys(held, "holdout")
    side = photos["source_id"].map(drawn)
    rank = side.map({name: position for position, name in enumerate(SIDES)})
    first = rank.groupby(photos["group_id"]).transform("min")
    return side.where(rank == first, "dropped")


def assign(
    photos: pd.DataFrame, golden: Iterable[str], *, as_of: datetime, spec: Snapshot, drift_from: date | None = None
) -> pd.Series:
    """The split of each photo: train, val, golden, fresh, or "" for one that is left out.

    Args:
        photos: image_id, source_id, group_id, captured_at (aware UTC, all before `as_of`).
        golden: image_ids of the frozen rows; where there are none yet, those that `freeze` would take.
        drift_from: the day that a drift began which asks for these rows: the fresh ones begin then, if not before.
    """
    frozen = photos["image_id"].isin(set(golden))
    side = sides(photos, spec, held=photos.loc[frozen, "source_id"])
    start = as_of - timedelta(days=spec.fresh_days)
    fresh = photos["captured_at"] >= (start if drift_from is None else min(start, start_of(drift_from)))
    split = pd.Series("", index=photos.index, dtype=object)
    split[side == "train"] = "train"
    split[side == "val"] = "val"
    split[(side == "holdout") & fresh] = "fresh"
    split[frozen] = "golden"
    return split


def freeze(photos: pd.DataFrame, *, as_of: datetime, spec: Snapshot) -> list[str]:
    """image_ids of the golden rows, if this is the first snapshot: held out, and older than the fresh ones."""
    old = photos[photos["captured_at"] < as_of - timedelta(days=spec.fresh_days)]
    pairs = zip(old["image_id"], old["source_id"], strict=True)
    return sorted(image for image, source in pairs if side_of(source, spec) == "holdout")


def judge(rows: pd.DataFrame, *, classes: Sequence[str], spec: Snapshot) -> list[str]:
    """Why these rows (label, split) cannot be trained and judged on; empty when they can."""
    reasons = []
    train = rows.loc[rows["split"] == "train", "label"].value_counts()
    short = {name: int(train.get(name, 0)) for name in classes if train.get(name, 0) < spec.min_rows_per_class}
    if short:
        shown = ", ".join(f"{name} has {count}" for name, count in short.items())
        reasons.append(
            f"too few training rows: {shown}; snapshot.min_rows_per_class={spec.min_rows_per_class}. "
            f"Wait for labels, widen the window, or take the class out of taxonomy.classes"
        )
    remedies = {
        "val": "snapshot.val_share gave no sender with labels; raise it or change snapshot.seed",
        "golden": f"no labelled held-out row is older than snapshot.fresh_days={spec.fresh_days}; wait for more days",
        "fresh": f"no labelled held-out row in the last snapshot.fresh_days={spec.fresh_days}; wait for labels",
    }
    present = set(rows["split"])
    return reasons + [f"no {name} rows: {why}" for name, why in remedies.items() if name not in present]


def counts(rows: pd.DataFrame) -> dict[str, int]:
    """Rows a split, in the order of SPLITS."""
    found = rows["split"].value_counts()
    return {name: int(found.get(name, 0)) for name in SPLITS}
