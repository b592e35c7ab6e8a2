"""What people say of photos, into `ground_truth`: the last word stays, and saying a thing twice changes nothing."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, select

from monitoring.opinions import verdict
from monitoring.stores import CHUNK, Store, StoreError, open_store
from monitoring.tables import ground_truth, predictions
from pipelines.recipe import Recipe
from pipelines.settings import Settings
from serving.problems import Problem


class SqlTruth:
    """A `serving.seams.TruthSink` on Classy's database. May be asked by several threads."""

    def __init__(
        self, settings: Settings, recipe: Recipe, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._url = settings.database_url
        self._taxonomy = recipe.taxonomy
        self._clock = clock
        self._store: Store | None = None
        self._opening = threading.Lock()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Take labels.

        A photo that nobody has asked about yet is `unknown`, and its label is kept: truth may come before the
        prediction. A label that differs from the one known is `changed`, unless it is older than that one.

        Args:
            rows: image_id or prediction_id, label, said_by, labelled_at (aware; None: now) and row (what it is called
                in the answer; default: its place).

        Returns:
            accepted, new, changed, unchanged (which add up), unknown, and rejected: row and message of each.

        Raises:
            Problem: (503) the database does not answer.
        """
        numbered = [{"row": number, **row} for number, row in enumerate(rows)]
        try:
            return self._write(self._opened(), numbered)
        except StoreError as error:
            raise Problem(
                "unavailable", f"ground truth: {error}; send it again", detail="database", retry_after=5
            ) from error

    def _write(self, store: Store, rows: list[dict[str, Any]]) -> dict[str, Any]:
        rejected: list[dict[str, Any]] = []
        images = _found(store, predictions, "prediction_id", [row.get("prediction_id") for row in rows], "image_id")
        taken = []
        for row in rows:
            try:
                taken.append(self._told(row, images))
            except ValueError as error:
                rejected.append({"row": row["row"], "message": str(error)})
        ids = [row["image_id"] for row in taken]
        known = _known(store, ids)
        news: dict[str, dict[str, Any]] = {}
        counts = {"accepted": len(taken), "new": 0, "changed": 0, "unchanged": 0}
        for row in taken:
            image_id = row["image_id"]
            becomes = verdict(known.get(image_id), row)
            counts[becomes] += 1
            if becomes != "unchanged":
                known[image_id] = news[image_id] = row
        if news:
            store.upsert_truth(news.values())
        asked = _found(store, predictions, "image_id", ids, "image_id")
        unknown = len(set(ids) - asked.keys())
        return {**counts, "unknown": unknown, "rejected": rejected}

    def _told(self, row: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, Any]:
        """A row of `ground_truth`. Raises ValueError with a message for people."""
        label = self._taxonomy.resolve(row["label"])
        if label is None:
            classes = ", ".join(self._taxonomy.classes)
            raise ValueError(f"label {row['label']!r}: is no class; classes are {classes}")
        image_id = row.get("image_id")
        if image_id is None:
            image_id = images.get(row["prediction_id"])
        if image_id is None:
            raise ValueError(
                f"prediction_id {row['prediction_id']!r}: no such answer here; one that was given just now may take a "
                "second to be known: send it again, or say image_id"
            )
        return {
            "image_id": image_id,
            "label": label,
            "labelled_at": row.get("labelled_at") or self._clock(),
            "said_by": row["said_by"],
            "rejected": None,
        }

    def _opened(self) -> Store:
        with self._opening:
            if self._store is None:
                self._store = open_store(self._url)
            return self._store


def _known(store: Store, image_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with store.reading() as connection:
        for chunk in _chunks(image_ids):
            statement = select(ground_truth).where(ground_truth.c.image_id.in_(chunk))
            found |= {row["image_id"]: dict(row) for row in connection.execute(statement).mappings()}
    return found


def _found(store: Store, table: Table, key: str, values: Iterable[str | None], wanted: str) -> dict[str, str]:
    """`wanted` of the rows whose `key` is among the values."""
    found: dict[str, str] = {}
    with store.reading() as connection:
        for chunk in _chunks(value for value in values if value is not None):
            statement = select(table.c[key], table.c[wanted]).where(table.c[key].in_(chunk)).distinct()
            found |= {row[0]: row[1] for row in connection.execute(statement)}
    return found


def _chunks(values: Iterable[str]) -> Iterable[list[str]]:
    once = sorted(set(values))
    return [once[start : start + CHUNK] for start in range(0, len(once), CHUNK)]
