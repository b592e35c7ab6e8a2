"""Arriving labels and the ground truth: the last word stays, and saying a thing twice changes nothing."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, select, update

from monitoring.stores import CHUNK, Store
from monitoring.tables import ground_truth


def _known(store: Store, image_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the table says of these images, rejected or not."""
    found: dict[str, dict[str, Any]] = {}
    with store.engine.connect() as connection:
        for start in range(0, len(image_ids), CHUNK):
            ids = image_ids[start : start + CHUNK]
            statement = select(ground_truth).where(ground_truth.c.image_id.in_(ids))
            found |= {row["image_id"]: dict(row) for row in connection.execute(statement).mappings()}
    return found


def save_labels(store: Store, rows: Sequence[Mapping[str, Any]]) -> int:
    """Upsert labels (image_id, label, labelled_at, said_by); returns how many were new or different.

    A label that is there already keeps its verdict, and one that was said later is not overwritten by an
    earlier one: a day that is gathered again must not undo what came after it.
    """
    known = _known(store, [row["image_id"] for row in rows])

    def is_news(row: Mapping[str, Any]) -> bool:
        old = known.get(row["image_id"])
        if old is None:
            return True
        if old["labelled_at"] != row["labelled_at"]:
            return old["labelled_at"] < row["labelled_at"]
        return (old["label"], old["said_by"]) != (row["label"], row["said_by"])

    news = [row for row in rows if is_news(row)]
    if news:
        store.upsert_truth(news)
    return len(news)


def judge_labels(store: Store, verdicts: Mapping[str, tuple[datetime, str | None]]) -> int:
    """Write validation's verdict, image_id → (labelled_at of the label judged, why it is rejected or None).

    A label that has been replaced since is left alone. Returns how many verdicts changed.
    """
    known = _known(store, list(verdicts))
    changed = [
        {"key": image_id, "verdict": reason, "at": labelled_at}
        for image_id, (labelled_at, reason) in verdicts.items()
        if image_id in known and known[image_id]["labelled_at"] == labelled_at and known[image_id]["rejected"] != reason
    ]
    if changed:
        statement = (
            update(ground_truth)
            .where(ground_truth.c.image_id == bindparam("key"), ground_truth.c.labelled_at == bindparam("at"))
            .values(rejected=bindparam("verdict"))
        )
        with store.engine.begin() as connection:
            connection.execute(statement, changed)
    return len(changed)
