"""What the tables hold of answers and decisions: for who asks long after they were made."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from monitoring.stores import Store
from monitoring.tables import decisions, ground_truth, predictions

MOST_DECISIONS = 10_000


def prediction(store: Store, prediction_id: str) -> dict[str, Any] | None:
    """One answer with every column, and `truth`: the label that is known for its photo by now, or None."""
    with store.engine.connect() as connection:
        found = connection.execute(select(predictions).where(predictions.c.prediction_id == prediction_id))
        row = found.mappings().first()
        if row is None:
            return None
        said = connection.execute(select(ground_truth).where(ground_truth.c.image_id == row["image_id"]))
        truth = said.mappings().first()
    return {**row, "truth": None if truth is None else dict(truth)}


def answers_about(store: Store, image_id: str) -> list[dict[str, Any]]:
    """prediction_id and generation of each answer about a photo, oldest generation first."""
    columns = [predictions.c[name] for name in ("prediction_id", "generation")]
    statement = select(*columns).where(predictions.c.image_id == image_id)
    with store.engine.connect() as connection:
        ordered = statement.order_by(predictions.c.generation, predictions.c.prediction_id)
        return [dict(row) for row in connection.execute(ordered).mappings()]


def answers_of(store: Store, generation: int) -> dict[str, Any]:
    """How many photos a generation answered for, and when the first and the last were taken.

    Returns:
        count, first and last captured_at (aware UTC, or None), and count by arm.
    """
    statement = (
        select(
            predictions.c.arm,
            func.count().label("count"),
            func.min(predictions.c.captured_at, type_=predictions.c.captured_at.type).label("first"),
            func.max(predictions.c.captured_at, type_=predictions.c.captured_at.type).label("last"),
        )
        .where(predictions.c.generation == generation)
        .group_by(predictions.c.arm)
        .order_by(predictions.c.arm)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(statement).mappings().all()
    return {
        "count": sum(row["count"] for row in rows),
        "first": min((row["first"] for row in rows), default=None),
        "last": max((row["last"] for row in rows), default=None),
        "arms": {row["arm"]: row["count"] for row in rows},
    }


def decided(store: Store, since: datetime) -> list[dict[str, Any]]:
    """Decisions of every kind about `since` and later, by data time, without the evidence that each keeps; the newest
    MOST_DECISIONS."""
    columns = [decisions.c[name] for name in ("kind", "action", "reason", "run_key", "incident", "as_of")]
    newest = (
        select(*columns)
        .where(decisions.c.as_of >= since)
        .order_by(decisions.c.as_of.desc(), decisions.c.decision_key.desc())
        .limit(MOST_DECISIONS)
    )
    with store.reading() as connection:
        return [dict(row) for row in reversed(connection.execute(newest).mappings().all())]
