"""What the tables hold of two arms that answer side by side: minutes, and answers with their truth."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from sqlalchemy import case, func, select

from monitoring.canary import Answers, Minute
from monitoring.stores import Store
from monitoring.tables import arm_minutes, ground_truth, predictions

ONLINE = "online"
NOBODY = ("", "unknown")
"""`source_id` of photos whose sender nobody said: each is a sender of its own."""


def minutes(store: Store, generations: Sequence[int], arm: str) -> list[Minute]:
    """An arm's minutes in some generations, oldest first, all workers together."""
    statement = select(
        *(arm_minutes.c[name] for name in ("minute", "photos", "errors", "latencies"))
    ).where(arm_minutes.c.generation.in_(generations), arm_minutes.c.arm == arm)  # fmt: skip
    photos: Counter[datetime] = Counter()
    errors: Counter[datetime] = Counter()
    latencies: defaultdict[datetime, Counter[float]] = defaultdict(Counter)
    with store.engine.connect() as connection:
        for row in connection.execute(statement).mappings():
            at = row["minute"]
            photos[at] += row["photos"]
            errors[at] += row["errors"]
            for bound, count in row["latencies"].items():
                latencies[at][float(bound)] += count
    return [Minute(at=at, photos=photos[at], errors=errors[at], latencies=dict(latencies[at])) for at in sorted(photos)]


def answers(store: Store, generations: Sequence[int], arm: str, *, as_of: datetime) -> Answers:
    """An arm's live answers in some generations whose photos have an accepted label by `as_of`, counted by sender.

    A photo that was asked about twice counts once, and as wrong if one of its answers was.
    """
    right = case((predictions.c.label == ground_truth.c.label, 1), else_=0)
    # The name of a photo could be another's sender's: a letter before each keeps them apart.
    sender = case(
        (predictions.c.source_id.in_(NOBODY), "p" + predictions.c.image_id), else_="s" + predictions.c.source_id
    )
    once = (
        select(sender.label("sender"), func.min(right).label("right"))
        .join(ground_truth, ground_truth.c.image_id == predictions.c.image_id)
        .where(
            predictions.c.generation.in_(generations),
            predictions.c.arm == arm,
            predictions.c.channel == ONLINE,
            ground_truth.c.labelled_at <= as_of,
            ground_truth.c.rejected.is_(None),
        )
        .group_by(sender, predictions.c.image_id)
        .subquery()
    )
    statement = (
        select(func.sum(once.c.right).label("right"), func.count().label("rows"))
        .group_by(once.c.sender)
        .order_by(once.c.sender)
    )
    with store.engine.connect() as connection:
        found = connection.execute(statement).all()
    return Answers(
        right=np.array([int(row.right) for row in found], np.int64),
        rows=np.array([int(row.rows) for row in found], np.int64),
    )
