"""Answers given before, for `serving.recall`: what batch scoring and earlier requests wrote into `predictions`.

A row counts only with the photo's SHA-256 and the context that the model was told: from the context comes the
fingerprint of the features, so an answer is given again only where they are what they were.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, and_, func, or_, select

from monitoring.stores import Store, open_store
from monitoring.tables import deployments, predictions
from pipelines.settings import Settings
from serving.recall import Answer

COLUMNS = ("content_hash", "probabilities", "label", "confidence", "context", "defaulted")


def reader(settings: Settings) -> Callable[[str, int], Iterator[tuple[str, Answer]]]:
    """Reads the newest answers of a run, as `Recall` takes them."""
    return _Reader(settings.database_url).newest


class _Reader:
    def __init__(self, url: str) -> None:
        self._url = url
        self._store: Store | None = None
        self._seen: dict[str, tuple[Any, ...]] = {}

    def newest(self, run_id: str, limit: int) -> Iterator[tuple[str, Answer]]:
        """(content hash, answer), newest first; none where batch scoring has added nothing since the last time.

        Raises:
            StoreError: the database cannot be read.
        """
        if self._store is None:
            self._store = open_store(self._url)
        chosen = self._of(run_id)
        state = self._state(self._store, chosen)
        if self._seen.get(run_id) == state:
            return
        rows = select(*(predictions.c[name] for name in COLUMNS)).where(chosen)
        with self._store.reading() as connection:
            for row in connection.execute(rows.order_by(predictions.c.predicted_at.desc()).limit(limit)).mappings():
                if row["context"] is not None:  # JSON null is no SQL null
                    yield row["content_hash"], _answer(row)
        self._seen[run_id] = state

    def _of(self, run_id: str) -> ColumnElement[bool]:
        """Rows that this model made. The generations find them by an index; the run makes it sure."""
        made = select(deployments.c.generation).where(
            or_(
                deployments.c.champion_run_id == run_id,
                deployments.c.canary_run_id == run_id,
                deployments.c.shadow_run_id == run_id,
            )
        )
        return and_(
            predictions.c.generation.in_(made),
            predictions.c.run_id == run_id,
            predictions.c.content_hash.is_not(None),
            predictions.c.context.is_not(None),
            predictions.c.cached.is_(False),
        )

    def _state(self, store: Store, chosen: ColumnElement[bool]) -> tuple[Any, ...]:
        # Only batch rows: what is answered live is remembered by whoever answers it.
        counted = select(func.count(), func.max(predictions.c.predicted_at)).where(
            chosen, predictions.c.channel == "batch"
        )
        with store.reading() as connection:
            return tuple(connection.execute(counted).one())


def _answer(row: Any) -> Answer:
    return Answer(
        probabilities=np.asarray(row["probabilities"], np.float32),
        label=row["label"],
        confidence=row["confidence"],
        context=np.asarray(row["context"], np.float32),
        defaulted=row["defaulted"],
    )
